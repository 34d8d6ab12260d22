// What a power cut leaves of a directory: a state that some operation left (directory.D1), with all that was synced (directory.D2).

import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { MemoryStorage } from 'write-barrier';
import { type CrashReport, type CrashTest, crashTest } from 'write-barrier/testing';
import { share } from '../kit/amount.js';
import {
  BLOCK,
  carryOut,
  directoryOn,
  type Files,
  filesOf,
  Model,
  type Op,
  ops,
  SMALL,
  sizeOf,
} from './world.js';

/** A directory without files, on a disk that was full of other bytes. */
async function made(blocks: number): Promise<Uint8Array> {
  const disk = new MemoryStorage(sizeOf(blocks));
  disk.bytes.fill(0xee, 8192);
  await (await directoryOn(disk, SMALL)).close();
  return disk.bytes;
}

/** Carries the operations out, one after the other; in a second life, the second list. The journal counts operations. */
async function testOf(
  blocks: number,
  lists: readonly (readonly Op[])[],
  more: Partial<CrashTest<number, Files>> = {},
): Promise<CrashReport> {
  const initial = await made(blocks);
  return crashTest<number, Files>({
    size: initial.length,
    initial,
    async workload(disk, journal, _, { number }) {
      const files = await directoryOn(disk);
      const list = lists[number - 1] ?? [];
      let acknowledged = 0;
      for (const [n, op] of list.entries()) {
        journal.begin(n);
        await carryOut(files, op);
        if (op.op !== 'sync') continue;
        for (; acknowledged <= n; acknowledged++) journal.acknowledge(acknowledged);
      }
      await files.writeOut();
    },
    recover: async (disk) => filesOf(await directoryOn(disk)),
    check(found, { acknowledged, begun, shown }) {
      const { text } = new Model(found);
      // Which list it was, a life does not say; both are tried.
      return lists.some((list) =>
        statesOf(shown, list).some(
          (state) =>
            state.text === text &&
            state.after >= acknowledged.length &&
            state.after <= begun.length,
        ),
      );
    },
    ...more,
  });
}

/** What the operations leave, each with the number of them; in between stands a file that was made, and is empty yet. */
function statesOf(
  base: Files | undefined,
  list: readonly Op[],
): { readonly text: string; readonly after: number }[] {
  const model = new Model(base);
  const states = [{ text: model.text, after: 0 }];
  for (const [n, op] of list.entries()) {
    if ('name' in op && op.op !== 'remove' && op.op !== 'rename') {
      const before = new Model([...model.files]);
      if (!before.files.has(op.name)) before.apply({ op: 'truncate', name: op.name, size: 0 });
      states.push({ text: before.text, after: n + 0.5 });
    }
    model.apply(op);
    states.push({ text: model.text, after: n + 1 });
  }
  return states;
}

const sync = { op: 'sync' } as const;
const append = (name: string, length: number, fill: number): Op => ({
  op: 'append',
  name,
  length,
  fill,
});

describe('given a power cut', () => {
  test('when a file is made, grows and is removed, and its blocks are used again, then it is proved, also for power cuts during recoveries', async () => {
    const list: Op[] = [
      append('a', BLOCK + 1, 1),
      sync,
      { op: 'remove', name: 'a' },
      { op: 'truncate', name: 'b', size: BLOCK + 1 },
      { op: 'write', name: 'b', at: BLOCK, length: 1, fill: 2 },
      sync,
    ];
    const report = await testOf(3, [list], { nested: true });
    expect(report).toMatchObject({ verdict: 'proved', warnings: [] });
  });

  test('when the log is emptied again and again, then it is proved', async () => {
    const list = Array.from({ length: 5 }, (_, n): Op[] => [append('a', 300, n + 1), sync]).flat();
    const report = await testOf(6, [list], { nested: true });
    expect(report).toMatchObject({ verdict: 'proved', warnings: [] });
  });

  test('when the record of a removal finds the log full, then the file is there until that record counts', async () => {
    for (let before = 0; before < 3; before++) {
      const list: Op[] = [
        ...Array.from({ length: before }, () => [append('b', 1, 1), sync]).flat(),
        ...[append('a', 300, 2), sync, { op: 'remove', name: 'a' } as const, sync],
      ];
      const report = await testOf(6, [list]);
      expect(report).toMatchObject({ verdict: 'proved', warnings: [] });
    }
  });

  test('when records follow each other without a sync, then no file is ahead of another', async () => {
    const out = { op: 'writeOut' } as const;
    const list: Op[] = [
      ...[append('log', 10, 1), out, append('table', 10, 1), out],
      ...[append('log', 10, 2), out, { op: 'rename', name: 'table', to: 'log' } as const, out],
    ];
    const report = await testOf(6, [list], { nested: true });
    expect(report).toMatchObject({ verdict: 'proved', warnings: [] });
  });

  test('when a file replaces another, then one of the two is there, whole', async () => {
    const list: Op[] = [
      ...[append('b', 700, 1), sync, append('a', 700, 2)],
      ...[{ op: 'rename', name: 'a', to: 'b' } as const, sync],
    ];
    const report = await testOf(6, [list], { nested: true });
    expect(report).toMatchObject({ verdict: 'proved', warnings: [] });
  });

  // directory.D3. The next operation would do without the log, and the one before it has filled it.
  test('when ranges are written together, then all of them are there, or none', async () => {
    const writeAll = (fill: number): Op => ({
      op: 'writeAll',
      name: 'a',
      writes: [0, 1, 3].map((block) => ({ at: block * BLOCK + 7, length: 100, fill })),
    });
    const out = { op: 'writeOut' } as const;
    const list: Op[] = [append('a', 4 * BLOCK, 1), writeAll(2), out, writeAll(3), sync];
    const report = await testOf(6, [list], { nested: true });
    expect(report).toMatchObject({ verdict: 'proved', warnings: [] });
  });

  test('when the directory itself is being made, then it is made at the next opening', async () => {
    const report = await crashTest<string, string[]>({
      size: sizeOf(2),
      async workload(disk, journal) {
        const files = await directoryOn(disk, SMALL);
        journal.begin('a');
        await files.open('a');
        await files.sync();
        journal.acknowledge('a');
      },
      recover: async (disk) => (await directoryOn(disk, SMALL)).names,
      check: (names, { acknowledged, begun }) =>
        acknowledged.every((name) => names.includes(name)) &&
        names.every((name) => begun.includes(name)),
      nested: true,
    });
    expect(report).toMatchObject({ verdict: 'proved', warnings: [] });
  });

  // redo-log.R5: in the second life a record takes the place of one that was torn, and behind it is one of the first life.
  test('when the work goes on after it, then records of the first life do not come back', async () => {
    const out = { op: 'writeOut' } as const;
    const first: Op[] = [append('a', 3, 1), out, append('a', 3, 2), out];
    const second: Op[] = [append('a', 3, 3), out];
    const report = await testOf(3, [first, second], { lives: 2 });
    expect(report).toMatchObject({ verdict: 'proved', warnings: [] });
  });

  test('when the disk ignores flushes, then what was synced is lost, and the test says so', async () => {
    const list: Op[] = [append('a', 10, 1), sync, append('a', 10, 2), sync];
    const report = await testOf(4, [list], { profile: { lies: ['ignoreFlush'] } });
    expect(report.verdict).toBe('failed');
  });

  test('when operations are random, then every state is one that some operation left', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(ops, { minLength: 1, maxLength: 8 }),
        fc.constantFrom('file', 'nvme', 'scsi-tags', 'sata'),
        fc.nat({ max: 1000 }),
        async (list, profile, seed) => {
          const { verdict, failure } = await testOf(20, [list], {
            profile,
            seed,
            recoveriesMax: 1000,
          });
          expect(verdict === 'proved' || verdict === 'passed', failure?.text).toBe(true);
        },
      ),
      { numRuns: share(150, 12) },
    );
  });

  test('when operations are random and recoveries are cut short, then the same holds', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(ops, { minLength: 1, maxLength: 5 }),
        fc.nat({ max: 1000 }),
        async (list, seed) => {
          const { verdict, failure } = await testOf(20, [list], {
            seed,
            nested: true,
            recoveriesMax: 1000,
          });
          expect(verdict === 'proved' || verdict === 'passed', failure?.text).toBe(true);
        },
      ),
      { numRuns: share(60, 5) },
    );
  });
});
