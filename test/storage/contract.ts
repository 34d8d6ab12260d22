// The clauses of the Storage contract, S1 to S11, for any implementation of it. Every test opens a
// storage of its own and closes it. What the subject does not declare is not tested.

import fc from 'fast-check';
import { describe, expect, onTestFinished, test } from 'vitest';
import { type Storage, WriteBarrierError, type WriteFlags } from '../../src/index.js';

/** A storage of at least `BLOCKS_MIN` blocks, fresh, and how to get at its medium again. */
export interface Subject {
  readonly storage: Storage;
  /** Opens the same medium again, after `close`. Absent where nothing outlives `close`. */
  readonly reopen?: () => Storage | Promise<Storage>;
  /** Clears away what the test leaves behind; the storage is closed by then. */
  readonly cleanUp?: () => void | Promise<void>;
}

/** What a subject must have, for the tests to have room. */
export const BLOCKS_MIN = 16;

const PLAIN: WriteFlags = { fua: false, tag: 'simple' };
const FORCED: WriteFlags = { fua: true, tag: 'simple' };
const ORDERED: WriteFlags = { fua: false, tag: 'ordered' };

/** Runs the clauses against what `open` opens; `declares` is what it is known to declare. */
export function storageContract(
  name: string,
  declares: Storage['capabilities'],
  open: () => Subject | Promise<Subject>,
): void {
  const block = declares.blockSize;
  const filled = (value: number, blocks = 1): Uint8Array =>
    new Uint8Array(blocks * block).fill(value);
  const fresh = async (): Promise<Subject> => {
    const subject = await open();
    onTestFinished(async () => {
      await quietly(() => subject.storage.close());
      await subject.cleanUp?.();
    });
    return subject;
  };
  const opened = async (): Promise<Storage> => (await fresh()).storage;
  const where = (declared: boolean | undefined) =>
    declared === true ? test : (_title: string, _run: () => Promise<void>) => {};

  describe(`${name} keeps the storage contract`, () => {
    test('S1: a read answers with what the latest writes put there', async () => {
      const storage = await opened();
      await storage.write(block, filled(1, 3), PLAIN);
      await storage.write(2 * block, filled(2), PLAIN);
      expect(await contents(storage, block, 3 * block)).toEqual(
        joined([filled(1), filled(2), filled(1)]),
      );
    });

    test('S1: a read fills its buffer, and nothing beside it', async () => {
      const storage = await opened();
      await storage.write(0, filled(7, 3), PLAIN);
      const around = filled(9, 3);
      await storage.read(0, around.subarray(block, 2 * block));
      expect(around).toEqual(joined([filled(9), filled(7), filled(9)]));
    });

    test('S1: the first and the last block are as good as any other', async () => {
      const storage = await opened();
      const last = storage.size - block;
      await storage.write(0, filled(3), PLAIN);
      await storage.write(last, filled(4), PLAIN);
      expect(await contents(storage, 0, block)).toEqual(filled(3));
      expect(await contents(storage, last, block)).toEqual(filled(4));
    });

    test('S2: a buffer that changes after the answer changes nothing that is stored', async () => {
      const storage = await opened();
      const data = filled(5);
      await storage.write(0, data, PLAIN);
      data.fill(6);
      expect(await contents(storage, 0, block)).toEqual(filled(5));
    });

    test('S2: a buffer that was read into stays as it is when the storage changes', async () => {
      const storage = await opened();
      await storage.write(0, filled(5), PLAIN);
      const before = await contents(storage, 0, block);
      await storage.write(0, filled(6), PLAIN);
      expect(before).toEqual(filled(5));
    });

    test('S3: a transfer answers with nothing or with its full length', async () => {
      const storage = await opened();
      const length = 2 * block;
      const answers = [
        await storage.write(0, filled(1, 2), PLAIN),
        await storage.read(0, new Uint8Array(length)),
        storage.writev ? await storage.writev(0, [filled(1), filled(2)], PLAIN) : undefined,
      ];
      for (const answer of answers) expect([undefined, length]).toContain(answer);
    });

    test('S4: many commands at once, on different bytes, all take effect', async () => {
      const storage = await opened();
      await Promise.all(
        Array.from({ length: BLOCKS_MIN }, (_, index) =>
          storage.write(index * block, filled(index + 1), PLAIN),
        ),
      );
      const read = await Promise.all(
        Array.from({ length: BLOCKS_MIN }, (_, index) => contents(storage, index * block, block)),
      );
      for (const [index, bytes] of read.entries()) expect(bytes).toEqual(filled(index + 1));
    });

    where(declares.flush)('S5: a flush is answered after a write, and without one', async () => {
      const storage = await opened();
      await storage.flush({ tag: 'simple' });
      await storage.write(0, filled(1), PLAIN);
      await Promise.all([storage.flush({ tag: 'simple' }), storage.flush({ tag: 'simple' })]);
      expect(await contents(storage, 0, block)).toEqual(filled(1));
    });

    test('S5: what was written and flushed is there when the medium is opened again', async () => {
      const { storage, reopen, cleanUp } = await open();
      await storage.write(3 * block, filled(8), PLAIN);
      if (declares.flush) await storage.flush({ tag: 'simple' });
      await storage.close();
      if (reopen) {
        const again = await reopen();
        expect(again.size).toBe(storage.size);
        expect(await contents(again, 3 * block, block)).toEqual(filled(8));
        await again.close();
      }
      await cleanUp?.();
    });

    where(declares.fua)('S6: writes with FUA take effect, alone and many at once', async () => {
      const storage = await opened();
      await storage.write(0, filled(1), FORCED);
      await Promise.all(
        [1, 2, 3, 4].map((index) => storage.write(index * block, filled(index), FORCED)),
      );
      expect(await contents(storage, 0, 5 * block)).toEqual(
        joined([1, 1, 2, 3, 4].map((value) => filled(value))),
      );
    });

    where(declares.orderedTags)(
      'S7: with ordered tags, the command that was called last has the last word',
      async () => {
        const storage = await opened();
        const into = new Uint8Array(block);
        const calls = [1, 2, 3, 4].map((value) => storage.write(0, filled(value), ORDERED));
        calls.push(storage.write(block, filled(9), PLAIN));
        await Promise.all(calls);
        await storage.read(0, into);
        expect(into).toEqual(filled(4));
      },
    );

    where(declares.writeZeroes)('S8: zeroed bytes read as zero', async () => {
      const storage = await opened();
      await storage.write(0, filled(1, 3), PLAIN);
      await storage.writeZeroes?.(block, block);
      expect(await contents(storage, 0, 3 * block)).toEqual(
        joined([filled(1), filled(0), filled(1)]),
      );
    });

    where(declares.discard)(
      'S8: a discard touches no other bytes, and what is written after it is there',
      async () => {
        const storage = await opened();
        await storage.write(0, filled(1, 3), PLAIN);
        await storage.discard?.(block, block);
        expect(await contents(storage, 0, block)).toEqual(filled(1));
        expect(await contents(storage, 2 * block, block)).toEqual(filled(1));
        await storage.write(block, filled(2), PLAIN);
        expect(await contents(storage, block, block)).toEqual(filled(2));
      },
    );

    where(declares.writev)('a writev writes its buffers in a row, of any number', async () => {
      const storage = await opened();
      await storage.writev?.(block, [filled(1), filled(2, 2), filled(3)], PLAIN);
      await storage.writev?.(6 * block, [filled(4)], PLAIN);
      await storage.writev?.(8 * block, [], PLAIN);
      expect(await contents(storage, block, 4 * block)).toEqual(
        joined([filled(1), filled(2, 2), filled(3)]),
      );
      expect(await contents(storage, 6 * block, block)).toEqual(filled(4));
    });

    test('S9: a command outside of the storage fails and leaves the rest as it was', async () => {
      const storage = await opened();
      const { size } = storage;
      await storage.write(size - 2 * block, filled(1, 2), PLAIN);
      const calls: (() => unknown)[] = [
        () => storage.write(size - block, filled(2, 2), PLAIN),
        () => storage.write(size, filled(2), PLAIN),
        () => storage.write(-block, filled(2), PLAIN),
        () => storage.write(Number.NaN, filled(2), PLAIN),
        () => storage.read(size, filled(2)),
      ];
      if (storage.writev) {
        calls.push(() => storage.writev?.(size - block, [filled(2), filled(2)], PLAIN));
      }
      if (storage.discard) calls.push(() => storage.discard?.(size - block, 2 * block));
      if (storage.writeZeroes) calls.push(() => storage.writeZeroes?.(0, -block));
      for (const call of calls) expect(await codeThrown(call)).toBe('OUT_OF_RANGE');
      expect(await contents(storage, size - 2 * block, 2 * block)).toEqual(filled(1, 2));
    });

    if (block > 1) {
      test('S9: a command that is not whole blocks is refused', async () => {
        const storage = await opened();
        const odd = new Uint8Array(block - 1);
        expect(await codeThrown(() => storage.write(0, odd, PLAIN))).toBe('UNALIGNED');
        expect(await codeThrown(() => storage.write(1, filled(1), PLAIN))).toBe('UNALIGNED');
        expect(await codeThrown(() => storage.read(1, filled(1)))).toBe('UNALIGNED');
      });
    }

    test('S10: after close every call fails as closed, and another close is harmless', async () => {
      const storage = await opened();
      await storage.close();
      await storage.close();
      const calls: (() => unknown)[] = [
        () => storage.read(0, filled(0)),
        () => storage.write(0, filled(1), PLAIN),
        () => storage.flush({ tag: 'simple' }),
      ];
      if (storage.writev) calls.push(() => storage.writev?.(0, [filled(1)], PLAIN));
      if (storage.discard) calls.push(() => storage.discard?.(0, block));
      if (storage.writeZeroes) calls.push(() => storage.writeZeroes?.(0, block));
      for (const call of calls) expect(await codeThrown(call)).toBe('CLOSED');
    });

    test('S11: size and capabilities are as declared, from the first to the last', async () => {
      const storage = await opened();
      const { size } = storage;
      expect(size % block).toBe(0);
      expect(size).toBeGreaterThanOrEqual(BLOCKS_MIN * block);
      expect(storage.capabilities).toMatchObject(declares);
      await storage.write(0, filled(1), PLAIN);
      await storage.close();
      expect(storage.size).toBe(size);
      expect(storage.capabilities).toMatchObject(declares);
    });

    test('optional methods are there exactly where they are declared', async () => {
      const storage = await opened();
      const { writev, discard, writeZeroes } = storage.capabilities;
      expect(methods(storage)).toEqual([writev === true, discard === true, writeZeroes === true]);
    });

    // Goal: no sequence of commands, flags and sizes makes the storage differ from plain memory.
    // Method: run both, one command after the other; a discarded block may read as anything.
    test('given any commands one by one, then it reads as plain memory would', async () => {
      await fc.assert(
        fc.asyncProperty(fc.array(actions, { maxLength: 25 }), async (list) => {
          const { storage, cleanUp } = await open();
          try {
            await compare(storage, list);
          } finally {
            await storage.close();
            await cleanUp?.();
          }
        }),
        { numRuns: 25 },
      );
    });
  });
}

/** What a call throws or rejects with; undefined if it does neither. */
export async function errorThrown(call: () => unknown): Promise<unknown> {
  try {
    await call();
    return undefined;
  } catch (error) {
    return error;
  }
}

/** The code of this package's error that a call ends with; undefined if it ends otherwise. */
export async function codeThrown(call: () => unknown): Promise<string | undefined> {
  const error = await errorThrown(call);
  return WriteBarrierError.is(error) ? error.code : undefined;
}

interface Action {
  readonly op: 'read' | 'write' | 'writev' | 'discard' | 'writeZeroes' | 'flush';
  readonly start: number;
  readonly blocks: number;
  readonly value: number;
  readonly fua: boolean;
}

const actions: fc.Arbitrary<Action> = fc.record({
  op: fc.constantFrom('read', 'write', 'writev', 'discard', 'writeZeroes', 'flush'),
  start: fc.nat({ max: BLOCKS_MIN - 4 }),
  blocks: fc.integer({ min: 1, max: 4 }),
  value: fc.integer({ min: 1, max: 255 }),
  fua: fc.boolean(),
});

async function compare(storage: Storage, list: readonly Action[]): Promise<void> {
  const { blockSize, fua, flush } = storage.capabilities;
  const known = new Map<number, number>();
  for (const { op, start, blocks, value, ...wanted } of list) {
    const offset = start * blockSize;
    const length = blocks * blockSize;
    const data = new Uint8Array(length).fill(value);
    const flags: WriteFlags = { fua: wanted.fua && fua, tag: 'simple' };
    if (op === 'flush') {
      if (flush) await storage.flush({ tag: 'simple' });
      continue;
    }
    if (op === 'read') {
      const bytes = await contents(storage, offset, length);
      for (let index = 0; index < blocks; index += 1) {
        const expected = known.get(start + index);
        if (expected === undefined) continue;
        const part = bytes.subarray(index * blockSize, (index + 1) * blockSize);
        expect(part).toEqual(new Uint8Array(blockSize).fill(expected));
      }
      continue;
    }
    if (op !== 'write' && !storage[op]) continue;
    if (op === 'write') await storage.write(offset, data, flags);
    if (op === 'writev') {
      await storage.writev?.(offset, [data.subarray(0, 1), data.subarray(1)], flags);
    }
    if (op === 'discard') await storage.discard?.(offset, length);
    if (op === 'writeZeroes') await storage.writeZeroes?.(offset, length);
    for (let index = start; index < start + blocks; index += 1) {
      if (op === 'discard') known.delete(index);
      else known.set(index, op === 'writeZeroes' ? 0 : value);
    }
  }
}

function methods(storage: Storage): readonly boolean[] {
  return [storage.writev, storage.discard, storage.writeZeroes].map(
    (method) => typeof method === 'function',
  );
}

async function contents(storage: Storage, offset: number, length: number): Promise<Uint8Array> {
  const into = new Uint8Array(length);
  await storage.read(offset, into);
  return into;
}

function joined(parts: readonly Uint8Array[]): Uint8Array {
  return Uint8Array.from(parts.flatMap((part) => [...part]));
}

async function quietly(run: () => unknown): Promise<void> {
  try {
    await run();
  } catch {
    // The test itself has said what it thinks of this storage.
  }
}
