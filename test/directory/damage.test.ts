// Disks, names and options that no program of ours would choose: each is refused with a code, or holds what was put into it.

import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { IoScheduler, MemoryStorage, WriteBarrierError, withFaults } from 'write-barrier';
import { Directory } from 'write-barrier/directory';
import { share } from '../kit/amount.js';
import { codeThrown } from '../storage/contract.js';
import { BLOCK, contentsOf, directoryOn, SMALL, sizeOf } from './world.js';

const LOG = 16 * BLOCK;
const TABLE = 26 * BLOCK;
const SUPERBLOCKS = [0, 4096];

/** A disk with two files, of which one was synced and is in the log only. */
async function filled(): Promise<{ readonly disk: MemoryStorage; readonly text: string }> {
  const disk = new MemoryStorage(sizeOf(20));
  const files = await directoryOn(disk, SMALL);
  await (await files.open('a')).append(new Uint8Array(3 * BLOCK).fill(1));
  await files.close();
  const again = await directoryOn(disk);
  await (await again.open('b')).append(new Uint8Array(BLOCK).fill(2));
  await again.sync();
  return { disk, text: await contentsOf(again) };
}

const copyOf = ({ bytes }: MemoryStorage): MemoryStorage => new MemoryStorage(bytes.slice());

describe('given a name', () => {
  // Half of a surrogate pair is written as another character, and a mark of byte order was taken away when it was read.
  test('when it is any string, then it is refused, or found again as it was, beside all others', async () => {
    const strings = fc.oneof(
      fc
        .array(fc.nat({ max: 0xffff }), { maxLength: 40 })
        .map((codes) => String.fromCharCode(...codes)),
      fc
        .array(fc.constantFrom('\ud800', '\udc00', '\ufeff', '\ufffd', '\0', 'é', 'e\u0301', '/'), {
          maxLength: 6,
        })
        .map((parts) => parts.join('')),
    );
    await fc.assert(
      fc.asyncProperty(fc.uniqueArray(strings, { maxLength: 8 }), async (names) => {
        const disk = new MemoryStorage(1 << 16);
        const files = await directoryOn(disk, { create: true, blockSize: BLOCK, filesMax: 8 });
        const made = new Map<string, string>();
        for (const [n, name] of names.entries()) {
          const code = await codeThrown(async () => {
            await (await files.open(name)).append(new Uint8Array(n + 1).fill(n + 1));
          });
          expect([undefined, 'INVALID_ARGUMENT']).toContain(code);
          if (code === undefined) made.set(name, `${n + 1}`);
        }
        await files.close();
        const again = await directoryOn(disk);
        const sizes = await Promise.all(again.names.map(async (n) => (await again.open(n)).size));
        expect(new Map(again.names.map((name, i) => [name, `${sizes[i]}`]))).toEqual(made);
      }),
      { numRuns: share(400, 25) },
    );
  });

  test('when it has half of a surrogate pair, then it is refused, because UTF-8 has none', async () => {
    const files = await directoryOn(new MemoryStorage(sizeOf(10)), SMALL);
    for (const name of ['\ud800', 'a\udc00', '\udc00\ud800']) {
      expect(await codeThrown(() => files.open(name))).toBe('INVALID_ARGUMENT');
      expect(await codeThrown(() => files.rename('a', name))).toBe('INVALID_ARGUMENT');
    }
    expect(files.names).toEqual([]);
  });
});

describe('given options', () => {
  test('when blocks would cut a slot of the table, then they are refused', async () => {
    const disk = new MemoryStorage(1 << 18, { capabilities: { blockSize: 1 } });
    for (const blockSize of [129, 200, 4097]) {
      const open = (): Promise<Directory> => directoryOn(disk, { create: true, blockSize });
      expect(await codeThrown(open)).toBe('INVALID_ARGUMENT');
    }
    const files = await directoryOn(disk, { create: true, blockSize: 384 });
    for (let n = 0; n < 20; n++) await (await files.open(`${n}`)).append(new Uint8Array(n));
    const text = await contentsOf(files);
    await files.close();
    expect(await contentsOf(await directoryOn(disk))).toBe(text);
  });

  test('when a number is as large as can be, then it is refused at once', async () => {
    for (const name of ['logSize', 'blockSize']) {
      for (const value of [2 ** 40, Number.MAX_SAFE_INTEGER]) {
        const open = (): Promise<Directory> =>
          directoryOn(new MemoryStorage(sizeOf(10)), { ...SMALL, [name]: value });
        expect([name, value, await codeThrown(open)]).toEqual([name, value, 'INVALID_ARGUMENT']);
      }
    }
  });

  test('when the disk is of any size, then a directory is refused, or holds what fits', async () => {
    for (let blocks = 0; blocks < 45; blocks++) {
      const disk = new MemoryStorage(Math.max(1, blocks) * BLOCK);
      let files: Directory | undefined;
      const code = await codeThrown(async () => {
        files = await directoryOn(disk, SMALL);
      });
      expect(code).toBe(blocks < 29 ? 'INVALID_ARGUMENT' : undefined);
      if (!files) continue;
      const data = new Uint8Array(files.free).fill(3);
      await (await files.open('all')).append(data);
      expect(files.free).toBe(0);
      expect(await codeThrown(async () => (await files?.open('all'))?.append(data))).toBe(
        'NO_SPACE',
      );
      await files.close();
      const all = await (await directoryOn(disk)).open('all');
      expect(Buffer.compare(await all.read(0, 1e6), data)).toBe(0);
    }
  });
});

describe('given a disk of larger blocks', () => {
  const large = { capabilities: { blockSize: 8192 } };
  const made = { create: true, blockSize: 8192, logSize: 1 << 17, filesMax: 4 };

  test('when it was made there, then it is opened there', async () => {
    const disk = new MemoryStorage(1 << 19, large);
    const files = await directoryOn(disk, made);
    await (await files.open('a')).append(new Uint8Array(9000).fill(1));
    await files.close();
    expect(await contentsOf(await directoryOn(disk))).toBe('a: 9000x1');
  });

  // The second superblock is behind the first block, wherever that ends.
  test('when it was made on a disk of small blocks, or the other way, then it is refused', async () => {
    for (const [first, second] of [
      [{}, large],
      [large, {}],
    ]) {
      const disk = new MemoryStorage(1 << 19, first);
      await (await directoryOn(disk, made)).close();
      const other = new MemoryStorage(disk.bytes, second);
      expect(await codeThrown(() => directoryOn(other))).toBe('INVALID_ARGUMENT');
    }
  });
});

describe('given a damaged disk', () => {
  // The other superblock is older, and the log that counts is not its own.
  test('when the newest superblock is damaged, then what was synced is not silently lost', async () => {
    const { disk } = await filled();
    const epochs = SUPERBLOCKS.map((at) =>
      new DataView(disk.bytes.buffer).getFloat64(at + 8, true),
    );
    const at = SUPERBLOCKS[epochs[0] === Math.max(...epochs) ? 0 : 1] as number;
    for (const offset of [0, 5, 8, 40, 500]) {
      const damaged = copyOf(disk);
      (damaged.bytes[at + offset] as number) ^= 1;
      damaged.bytes[at + offset] = (disk.bytes[at + offset] as number) ^ 1;
      expect(await codeThrown(() => directoryOn(damaged))).toBe('IO_FAILED');
    }
  });

  test('when the older superblock is damaged, then all is there', async () => {
    const { disk, text } = await filled();
    const epochs = SUPERBLOCKS.map((at) =>
      new DataView(disk.bytes.buffer).getFloat64(at + 8, true),
    );
    const at = SUPERBLOCKS[epochs[0] === Math.max(...epochs) ? 1 : 0] as number;
    disk.bytes.fill(0xff, at, at + 512);
    expect(await contentsOf(await directoryOn(disk))).toBe(text);
  });

  test('when any bytes of it are others, then it is opened, or refused with a code; and a table that is opened can be used', async () => {
    const { disk } = await filled();
    const places = fc.oneof(
      fc.nat({ max: LOG - 1 }),
      fc.integer({ min: LOG, max: TABLE - 1 }),
      // Slots of two files, and what follows each block.
      { weight: 4, arbitrary: fc.integer({ min: TABLE, max: TABLE + 2 * BLOCK - 1 }) },
      { weight: 2, arbitrary: fc.integer({ min: TABLE, max: TABLE + 40 }) },
    );
    const changes = fc.array(fc.tuple(places, fc.nat({ max: 255 })), {
      minLength: 1,
      maxLength: 12,
    });
    await fc.assert(
      fc.asyncProperty(changes, async (list) => {
        // Closed, because what is in the log hides what is in the table.
        const damaged = copyOf(disk);
        await (await directoryOn(damaged)).close();
        for (const [at, byte] of list) damaged.bytes[at] = byte;
        let files: Directory | undefined;
        try {
          files = await directoryOn(damaged);
        } catch (error) {
          expect(WriteBarrierError.is(error), String(error)).toBe(true);
          return;
        }
        for (const name of files.names) {
          const file = await files.open(name);
          expect(Number.isSafeInteger(file.size)).toBe(true);
          expect(await file.read(0, file.size)).toHaveLength(file.size);
          expect(await file.append(new Uint8Array(1))).toBe(file.size - 1);
          await files.remove(name);
        }
        await files.close();
        expect((await directoryOn(damaged)).names).toEqual([]);
      }),
      { numRuns: share(3000, 150) },
    );
  });

  test('when a table says what cannot be, then it is refused as damaged', async () => {
    const { disk } = await filled();
    await (await directoryOn(disk)).close();
    const damages: Readonly<Record<string, (view: DataView) => void>> = {
      'a size below 0': (view) => view.setFloat64(TABLE, -0.5, true),
      'a size that is no number of bytes': (view) => view.setFloat64(TABLE, 3 * BLOCK - 0.5, true),
      'a size of NaN': (view) => view.setFloat64(TABLE, Number.NaN, true),
      'a size beyond its blocks': (view) => view.setFloat64(TABLE, 2 ** 60, true),
      'a first block that is none': (view) => view.setUint32(TABLE + 8, 0, true),
      'a first block of another file': (view) =>
        view.setUint32(TABLE + 8, view.getUint32(TABLE + 128 + 8, true), true),
      'a name that is too long': (view) => view.setUint32(TABLE + 12, 113, true),
      'a name that is not UTF-8': (view) => view.setUint8(TABLE + 16, 0xff),
      'one name for two files': (view) => view.setUint8(TABLE + 16, 'b'.charCodeAt(0)),
      'a block that follows itself': (view) =>
        view.setUint32(TABLE + BLOCK, view.getUint32(TABLE + 8, true), true),
      'a block of no file': (view) => view.setUint32(TABLE + BLOCK + 4 * 19, 1, true),
    };
    for (const [what, damage] of Object.entries(damages)) {
      const damaged = copyOf(disk);
      damage(new DataView(damaged.bytes.buffer));
      const code = await codeThrown(() => directoryOn(damaged));
      expect([what, code]).toEqual([what, 'IO_FAILED']);
    }
  });
});

describe('given calls at once', () => {
  test('when it is closed twice, then both calls wait for what was called before', async () => {
    const disk = new MemoryStorage(sizeOf(20));
    const files = await directoryOn(disk, SMALL);
    const file = await files.open('a');
    const written = file.append(new Uint8Array(5).fill(1));
    const first = files.close();
    await files.close();
    expect(await contentsOf(await directoryOn(copyOf(disk)))).toBe('a: 5x1');
    await Promise.all([written, first]);
    expect(await codeThrown(() => file.append(new Uint8Array(1)))).toBe('CLOSED');
  });

  test('when it is closed while it is busy, then what was called before is there, and what is called after is refused', async () => {
    const disk = new MemoryStorage(sizeOf(40));
    const files = await directoryOn(disk, SMALL);
    const file = await files.open('a');
    const before = Array.from({ length: 20 }, (_, n) => file.append(new Uint8Array(700).fill(n)));
    const read = file.read(0, 700);
    const closed = files.close();
    const codes = await Promise.all(
      [
        () => file.read(0, 1),
        () => files.sync(),
        () => files.open('b'),
        () => file.truncate(0),
      ].map(codeThrown),
    );
    expect(new Set(codes)).toEqual(new Set(['CLOSED']));
    await Promise.all([...before, read, closed]);
    expect((await (await directoryOn(disk)).open('a')).size).toBe(14_000);
  });

  test('when the disk has failed, then closing says so, each time', async () => {
    // The first flushes are those of the opening.
    const later = Array.from(
      { length: 9 },
      (_, n) => ({ on: 'flush', nth: n + 3, fault: 'fail' }) as const,
    );
    const storage = withFaults(new MemoryStorage(sizeOf(20)), later);
    const files = await Directory.open(new IoScheduler(storage), SMALL);
    const codes: (string | undefined)[] = [];
    while (codes.at(-1) === undefined)
      codes.push(
        await codeThrown(async () => {
          await (await files.open(`${codes.length}`)).append(new Uint8Array(1));
          await files.sync();
        }),
      );
    codes.splice(0);
    for (let n = 0; n < 3; n++) codes.push(await codeThrown(() => files.close()));
    expect(codes[0]).toBe('FAILED');
    expect(new Set(codes)).toEqual(new Set([codes[0]]));
  });
});
