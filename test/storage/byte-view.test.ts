// A view of bytes over blocks: it keeps the contract with blocks of one byte, loses no neighbour of a write, whatever runs at once,
// and is as honest about a power cut as the blocks below.

import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { IoScheduler, MemoryStorage, type Storage, withFaults } from '../../src/index.js';
import { byteView, wrap } from '../../src/kit.js';
import { crashTest, seededRandom } from '../../src/testing/index.js';
import { share } from '../kit/amount.js';
import { codeThrown, storageContract } from './contract.js';

const BLOCK = 16;
const SIZE = 8 * BLOCK;
const PLAIN = { fua: false, tag: 'simple' } as const;
const bytes = (length: number, fill: number): Uint8Array => new Uint8Array(length).fill(fill);

for (const can of [true, false]) {
  const optional = { writev: can, discard: can, writeZeroes: can, fastZeroes: can, gathers: can };
  const declares = { cache: 'volatile', flush: true, fua: true, ...optional } as const;
  const capabilities = { ...declares, blockSize: BLOCK, orderedTags: true };
  for (const late of [false, true]) {
    const over = `that can do ${can ? 'all' : 'little'} and answers ${late ? 'later' : 'at once'}`;
    const viewOf = (medium: number | Uint8Array) => {
      const memory = new MemoryStorage(medium, { capabilities });
      return { memory, view: byteView(late ? answeringLater(memory) : memory) };
    };
    storageContract(
      `a byte view over a storage ${over},`,
      { ...declares, blockSize: 1, orderedTags: false },
      () => {
        const { memory, view } = viewOf(SIZE);
        return { storage: view, reopen: () => viewOf(memory.bytes).view };
      },
    );
  }
}

// Where the blocks below are single bytes, it has every size that a resize may name.
const BYTEWISE = { ...new MemoryStorage(0).capabilities, blockSize: 1 };
storageContract('a byte view over single bytes', BYTEWISE, () => {
  let memory = new MemoryStorage(64, { capabilities: BYTEWISE });
  const reopen = (): Storage => {
    memory = new MemoryStorage(memory.bytes, { capabilities: BYTEWISE });
    return byteView(memory);
  };
  return { storage: byteView(memory), reopen };
});

test('given a size within a block, then a byte view refuses it, because the storage could not keep it', async () => {
  const memory = new MemoryStorage(SIZE, { capabilities: { blockSize: BLOCK } });
  const view = byteView(memory);
  await view.write(SIZE - 1, bytes(1, 9), PLAIN);
  expect(await codeThrown(() => view.resize?.(SIZE + 1))).toBe('UNALIGNED');
  expect(view.size).toBe(SIZE);
  await view.resize?.(SIZE + BLOCK);
  expect([view.size, memory.size]).toEqual([SIZE + BLOCK, SIZE + BLOCK]);
  await view.write(SIZE + 3, bytes(1, 7), PLAIN);
  await view.resize?.(SIZE);
  await view.resize?.(SIZE + BLOCK);
  expect([...memory.bytes.subarray(SIZE - 1)]).toEqual([9, ...new Array(BLOCK).fill(0)]);
});

/** Answers in a random order, and fails a command that overlaps one that is running: storage.S4. */
function answeringLater(storage: Storage, random: () => number = seededRandom(1)): Storage {
  const running = new Set<{ offset: number; length: number; op: string }>();
  return wrap(storage, async (command, run) => {
    const { offset, length, op } = command;
    for (const other of running) {
      const overlap = offset < other.offset + other.length && other.offset < offset + length;
      const writes = op !== 'read' || other.op !== 'read';
      if (overlap && writes) throw new Error(`a ${op} overlaps a ${other.op} that is running`);
    }
    running.add(command);
    for (let turns = Math.floor(random() * 6); turns > 0; turns--) await null;
    try {
      return await run();
    } finally {
      running.delete(command);
    }
  });
}

describe('a byte view', () => {
  const ops = fc.record({
    op: fc.constantFrom('write', 'write', 'writev', 'read', 'writeZeroes', 'discard'),
    at: fc.nat({ max: SIZE - 1 }),
    length: fc.integer({ min: 1, max: 3 * BLOCK }),
    fill: fc.integer({ min: 1, max: 255 }),
  });

  // Goal: no byte is lost, and none is changed that was not named. Method: commands that share no byte but share blocks run at
  // once, and their result is compared with a plain array. A command that would overlap a byte waits for all before it.
  test('given any commands at once on different bytes, when they share blocks, then it reads as a plain array', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(ops, { maxLength: 30 }),
        fc.infiniteStream(fc.double({ min: 0, max: 0.999, noNaN: true })),
        async (program, chances) => {
          const memory = new MemoryStorage(SIZE, { capabilities: { blockSize: BLOCK } });
          const view = byteView(answeringLater(memory, () => chances.next().value as number));
          const model = new Uint8Array(SIZE);
          const isArbitrary = new Set<number>();
          let running: { start: number; end: number; ended: unknown }[] = [];
          for (const { op, at, length, fill } of program) {
            const end = Math.min(at + length, SIZE);
            if (running.some((other) => at < other.end && other.start < end)) {
              await Promise.all(running.map(({ ended }) => ended));
              running = [];
            }
            const data = bytes(end - at, op === 'writeZeroes' ? 0 : fill);
            if (op !== 'read') {
              for (let i = at; i < end; i++) {
                if (op === 'discard') isArbitrary.add(i);
                else isArbitrary.delete(i);
              }
            }
            if (op !== 'read' && op !== 'discard') model.set(data, at);
            const ended = {
              write: () => view.write(at, data, PLAIN),
              writev: () => view.writev?.(at, [data.subarray(0, 1), data.subarray(1)], PLAIN),
              writeZeroes: () => view.writeZeroes?.(at, end - at),
              discard: () => view.discard?.(at, end - at),
              read: async () => {
                const into = new Uint8Array(end - at);
                await view.read(at, into);
                for (let i = at; i < end; i++) {
                  if (!isArbitrary.has(i)) expect(into[i - at]).toBe(model[i]);
                }
              },
            }[op]?.();
            running.push({ start: at, end, ended });
          }
          await Promise.all(running.map(({ ended }) => ended));
          for (let i = 0; i < SIZE; i++) {
            if (!isArbitrary.has(i)) expect([i, memory.bytes[i]]).toEqual([i, model[i]]);
          }
        },
      ),
      { numRuns: share(1000, 200) },
    );
  });

  test('given a storage that answers at once, then it answers at once as well', () => {
    const view = byteView(new MemoryStorage(SIZE, { capabilities: { blockSize: BLOCK } }));
    expect(view.write(3, bytes(20, 7), PLAIN)).toBeUndefined();
    expect(view.read(0, new Uint8Array(5))).toBeUndefined();
    expect(view.writeZeroes?.(5, 2)).toBeUndefined();
  });

  test('given a write within a block, when it is forced, then one forced write of the block follows one read', () => {
    const calls: string[] = [];
    const memory = new MemoryStorage(SIZE, { capabilities: { blockSize: BLOCK } });
    const seen = wrap(memory, ({ op, offset, length, fua }, run) => {
      calls.push(`${op} ${offset}+${length}${fua ? ' fua' : ''}`);
      return run();
    });
    byteView(seen).write(18, bytes(4, 1), { fua: true, tag: 'simple' });
    byteView(seen).write(16, bytes(16, 1), PLAIN);
    byteView(seen).write(30, bytes(20, 1), PLAIN);
    expect(calls).toEqual([
      'read 16+16',
      'write 16+16 fua',
      'write 16+16',
      ...['read 16+16', 'read 48+16', 'write 16+48'],
    ]);
  });

  test('given a write that fails, when another waits for its block, then that one is carried out', async () => {
    const memory = new MemoryStorage(SIZE, { capabilities: { blockSize: BLOCK } });
    const faulty = withFaults(memory, [{ on: 'write', nth: 0, fault: 'fail' }]);
    const view = byteView(answeringLater(faulty));
    const [first, second] = await Promise.allSettled([
      view.write(0, bytes(3, 1), PLAIN),
      view.write(3, bytes(3, 2), PLAIN),
    ]);
    expect([first?.status, second?.status]).toEqual(['rejected', 'fulfilled']);
    expect([...memory.bytes.subarray(0, 7)]).toEqual([0, 0, 0, 2, 2, 2, 0]);
  });

  test('given a read of a storage that moves too few bytes, then nothing is written', async () => {
    const memory = new MemoryStorage(bytes(SIZE, 9), { capabilities: { blockSize: BLOCK } });
    const short = wrap(memory, ({ op }, run) => (op === 'read' ? 4 : run()));
    const written = async (): Promise<unknown> => byteView(short).write(1, bytes(2, 1), PLAIN);
    await expect(written()).rejects.toMatchObject({ code: 'SHORT_TRANSFER' });
    expect(memory.bytes.every((byte) => byte === 9)).toBe(true);
  });
});

// Records of odd lengths that share sectors, written at once over a scheduler and made durable together.
describe('given a power cut while records of odd lengths share sectors', () => {
  const RECORDS = [100, 7, 613, 300];
  const startOf = (record: number): number =>
    RECORDS.slice(0, record).reduce((sum, length) => sum + length, 0);

  const testOf = (tear: 'sector' | 'garbage') =>
    crashTest<number, number[][]>({
      size: 4 * 512,
      initial: bytes(4 * 512, 0xee),
      profile: { tear },
      seeds: 4,
      async workload(disk, journal) {
        const scheduler = new IoScheduler(disk);
        const view = byteView(scheduler.asStorage());
        for (const pair of [
          [0, 1],
          [2, 3],
        ]) {
          await Promise.all(
            pair.map(async (record) => {
              journal.begin(record);
              await view.write(
                startOf(record),
                bytes(RECORDS[record] as number, record + 1),
                PLAIN,
              );
            }),
          );
          await view.flush({ tag: 'simple' });
          for (const record of pair) journal.acknowledge(record);
        }
      },
      recover(disk) {
        const view = byteView(disk);
        return RECORDS.map((length, record) => {
          const into = new Uint8Array(length);
          view.read(startOf(record), into);
          return [...new Set(into)];
        });
      },
      check(found, { acknowledged, begun }) {
        for (const [record, values] of found.entries()) {
          if (acknowledged.includes(record) && String(values) !== String(record + 1)) return false;
          const may = begun.includes(record) ? [0xee, record + 1] : [0xee];
          if (!values.every((value) => may.includes(value))) return false;
        }
        return true;
      },
    });

  test('when sectors are written as a whole, then what was acknowledged is there, and no neighbour is damaged', async () => {
    expect(await testOf('sector')).toMatchObject({ verdict: 'proved', warnings: [] });
  });

  test('when sectors tear, then a neighbour that was durable is damaged, as the view says', async () => {
    const { verdict, failure } = await testOf('garbage');
    expect(verdict).toBe('failed');
    expect(failure?.lost).toHaveLength(1);
  });
});

test.each([
  ['a text', 'abc'],
  ['numbers of eight bytes', new Float64Array(2)],
  ['a DataView', new DataView(new ArrayBuffer(4))],
  ['nothing', undefined],
])(
  'given %s in the place of bytes, when it is written or read into, then it is refused and nothing changes',
  async (_, data) => {
    const memory = new MemoryStorage(1024);
    const view = byteView(memory);
    const refused = expect.objectContaining({ code: 'INVALID_ARGUMENT' });
    expect(() => view.write(1, data as never, PLAIN)).toThrow(refused);
    expect(() => view.writev?.(1, [data as never], PLAIN)).toThrow(refused);
    expect(() => view.read(1, data as never)).toThrow(refused);
    const found = new Uint8Array(1024).fill(1);
    memory.read(0, found);
    expect(found.every((byte) => byte === 0)).toBe(true);
  },
);
