// Goal: what the server's replies promise survives a power cut, across connections. Method: a log of records, each with
// a commit mark, is written by two clients through real sockets onto a simulated disk with a volatile cache; the crash
// kit cuts the power everywhere. One client writes the record, the other one flushes and writes the mark with FUA. The
// same log without its flush, or without FUA, or on a disk that lies, must be found out.

import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { NbdServer } from '../../src/nbd/index.js';
import { COMMAND, COMMAND_FLAG } from '../../src/nbd/wire/index.js';
import { type CrashTest, crashTest } from '../../src/testing/index.js';
import { RawClient, temporaryFolder } from './support.js';

const BLOCK = 512;
const RECORDS = 3;
const recordAt = (n: number): number => n * 4 * BLOCK;
const markAt = (n: number): number => recordAt(n) + 3 * BLOCK;
const filled = (n: number, blocks: number): Uint8Array =>
  new Uint8Array(blocks * BLOCK).fill(n + 1);

let folder: Awaited<ReturnType<typeof temporaryFolder>>;
let sockets = 0;
beforeAll(async () => {
  folder = await temporaryFolder();
});
afterAll(() => folder.remove());

interface Client {
  readonly flushes: boolean;
  readonly forces: boolean;
}

function logOver({ flushes, forces }: Client): CrashTest<number, number[]> {
  return {
    size: RECORDS * 4 * BLOCK,
    workload: async (disk, journal) => {
      const server = new NbdServer({ exports: { '': disk } });
      const path = join(folder.path, `s${sockets++}`);
      await server.listen({ path });
      const [writer, committer] = [await RawClient.open(path), await RawClient.open(path)];
      for (let n = 0; n < RECORDS; n += 1) {
        journal.begin(n);
        await writer.ask(COMMAND.WRITE, { offset: recordAt(n), data: filled(n, 3) });
        if (flushes) await committer.ask(COMMAND.FLUSH);
        const flags = forces ? COMMAND_FLAG.FUA : 0;
        await committer.ask(COMMAND.WRITE, { offset: markAt(n), data: filled(n, 1), flags });
        journal.acknowledge(n);
      }
      await server.close();
    },
    recover: (disk) => {
      const found: number[] = [];
      for (let n = 0; n < RECORDS; n += 1) {
        const mark = new Uint8Array(BLOCK);
        disk.read(markAt(n), mark);
        if (mark[0] !== n + 1) break;
        const record = new Uint8Array(3 * BLOCK);
        disk.read(recordAt(n), record);
        if (record.some((byte) => byte !== n + 1)) throw new Error(`record ${n} is damaged`);
        found.push(n);
      }
      return found;
    },
    check: (found, { acknowledged, begun }) =>
      acknowledged.every((n) => found.includes(n)) && found.every((n) => begun.includes(n)),
  };
}

const careful = logOver({ flushes: true, forces: true });

test('a log that flushes on one connection what it wrote on another survives every power cut', async () => {
  expect(await crashTest(careful)).toMatchObject({ verdict: 'proved', warnings: [] });
  expect(await crashTest({ ...careful, profile: { fua: false } })).toMatchObject({
    verdict: 'proved',
  });
});

test.each([
  ['without a flush', logOver({ flushes: false, forces: true })],
  ['without FUA', logOver({ flushes: true, forces: false })],
  ['on a disk that ignores flushes', { ...careful, profile: { lies: ['ignoreFlush'] } } as const],
])('the same log %s does not', async (_, broken) => {
  expect(await crashTest(broken)).toMatchObject({ verdict: 'failed' });
});
