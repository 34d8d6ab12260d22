// The adapters of the example: the contract of storages in both directions, a plain array as the model of a
// random-access-storage, and power cuts.

import { createRequire } from 'node:module';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { IoScheduler, MemoryStorage, type Storage } from 'write-barrier';
import { crashTest, storageContract, VolatileDisk } from 'write-barrier/testing';
import { diskOf, promised, randomAccess } from '../../examples/12-random-access/adapters.mjs';
import { notesTest } from '../../examples/12-random-access/notes.mjs';
import { blocksOf, read } from '../docs/pages.js';
import { runExample } from './run.js';

type File = ReturnType<typeof randomAccess>;

const RandomAccessMemory: new () => File = createRequire(import.meta.url)('random-access-memory');
const SIZE = 64 * 512;

const reads = (file: File, offset: number, size: number): Promise<Buffer> =>
  promised((done) => file.read(offset, size, done));
const writes = (file: File, offset: number, data: Uint8Array): Promise<void> =>
  promised((done) => file.write(offset, Buffer.from(data), done));
const truncates = (file: File, offset: number): Promise<void> =>
  promised((done) => file.truncate(offset, done));
const deletes = (file: File, offset: number, size: number): Promise<void> =>
  promised((done) => file.del(offset, size, done));
const lengthOf = async (file: File): Promise<number> =>
  (await promised((done) => file.stat(done))).size;

test('the example prints what its page shows', async () => {
  const [shown] = blocksOf(read('examples/12-random-access/README.md'));
  expect(await runExample(['random-access'])).toEqual({ code: 0, stdout: shown?.text, stderr: '' });
});

describe('a random-access-storage in memory as a disk', () => {
  const capabilities = {
    blockSize: 512,
    cache: 'volatile',
    flush: false,
    fua: false,
    orderedTags: false,
  } as const;
  const open = async (): Promise<{ storage: Storage }> => ({
    storage: await diskOf(new RandomAccessMemory(), { size: SIZE }),
  });
  storageContract({ describe, test }, { name: 'diskOf', capabilities, open, seed: 1, runs: 10 });
});

// Bytes at odd offsets share blocks with bytes that were flushed long ago, and a power cut comes between them.
describe('a region of a disk as a random-access-storage, and that as a disk of single bytes', () => {
  const size = 60 * 512;
  const capabilities = {
    blockSize: 1,
    cache: 'volatile',
    flush: true,
    fua: false,
    orderedTags: false,
  } as const;
  const diskOn = (device: Storage): Promise<Storage> => {
    const disk = new IoScheduler(device);
    const file = randomAccess(disk, { start: 512, size: size + 512 });
    return diskOf(file, { size, blockSize: 1, flush: () => disk.flush() });
  };
  const open = async () => {
    let device = new VolatileDisk({ size: SIZE });
    const reopen = (): Promise<Storage> => {
      device = new VolatileDisk({ size: SIZE, initial: device.powerCut() });
      return diskOn(device);
    };
    return { storage: await diskOn(device), reopen };
  };
  const name = 'diskOf(randomAccess)';
  storageContract({ describe, test }, { name, capabilities, open, seed: 1, runs: 10 });
});

describe('a region', () => {
  const region = (): File =>
    randomAccess(new IoScheduler(new MemoryStorage(SIZE)), { start: 512, size: 32 * 512 });

  // Goal: no way of cutting and growing shows old bytes, and none loses any. Method: a plain array does the same, and the
  // file is opened again on the disk at any time.
  test('given any operations, then it reads as a plain array would', async () => {
    const place = fc.nat(2000);
    const operation = fc.oneof(
      fc.record({ op: fc.constant('write' as const), at: place, size: fc.nat(700) }),
      fc.record({ op: fc.constant('del' as const), at: place, size: fc.nat(1200) }),
      fc.record({ op: fc.constant('truncate' as const), at: place, size: fc.constant(0) }),
      fc.record({ op: fc.constant('open' as const), at: place, size: fc.constant(0) }),
    );
    const property = fc.asyncProperty(fc.array(operation, { maxLength: 12 }), async (program) => {
      const disk = new IoScheduler(new MemoryStorage(SIZE));
      let file = randomAccess(disk);
      let model: Uint8Array = new Uint8Array();
      const resized = (length: number): Uint8Array => {
        const next = new Uint8Array(length);
        next.set(model.subarray(0, length));
        return next;
      };
      for (const [n, { op, at, size }] of program.entries()) {
        const end = at + size;
        if (op === 'write') {
          const data = new Uint8Array(size).fill(n + 1);
          model = resized(Math.max(model.length, end));
          model.set(data, at);
          await writes(file, at, data);
        } else if (op === 'del') {
          if (end < model.length) model.fill(0, at, end);
          else model = resized(Math.min(at, model.length));
          await deletes(file, at, size);
        } else if (op === 'truncate') {
          model = resized(at);
          await truncates(file, at);
        } else {
          await promised((done) => file.close(done));
          file = randomAccess(disk);
        }
        expect(await lengthOf(file)).toBe(model.length);
        expect(new Uint8Array(await reads(file, 0, model.length))).toEqual(model);
      }
    });
    await fc.assert(property);
  });

  test('takes many at once, and two that share a block lose nothing of each other', async () => {
    const file = region();
    const pieces = Array.from({ length: 50 }, (_, n) => new Uint8Array(7).fill(n));
    await Promise.all(pieces.map((piece, n) => writes(file, 7 * n, piece)));
    expect(await reads(file, 0, 350)).toEqual(Buffer.concat(pieces));
  });

  test('refuses what is behind its end, and what is larger than itself, and goes on', async () => {
    const file = region();
    await writes(file, 0, new Uint8Array([1, 2, 3]));
    await expect(reads(file, 2, 2)).rejects.toThrow('Could not satisfy length');
    await expect(writes(file, 31 * 512, new Uint8Array(1))).rejects.toThrow('full');
    await writes(file, 31 * 512 - 1, new Uint8Array([9]));
    expect(await reads(file, 0, 3)).toEqual(Buffer.from([1, 2, 3]));
    expect(await lengthOf(file)).toBe(31 * 512);
  });
});

test('a scheduler on a storage without a flush refuses to promise anything', async () => {
  const disk = await diskOf(new RandomAccessMemory(), { size: SIZE });
  expect(() => new IoScheduler(disk)).toThrow(expect.objectContaining({ code: 'UNSAFE_MODE' }));
});

// Also in the lives that follow: what a recovery has opened goes on.
test('two regions of one disk have one order, and without it the index may point to nothing', async () => {
  const ordered = await crashTest({ ...notesTest({ barrier: true }), nested: true });
  expect([ordered.verdict, ordered.warnings]).toEqual(['proved', []]);
  const weaker = { ...notesTest({}), check: notesAreWhole };
  expect((await crashTest(weaker)).verdict).toBe('failed');
});

const notesAreWhole = (notes: string[], { begun }: { begun: readonly string[] }): boolean =>
  notes.every((note, n) => note === begun[n]);
