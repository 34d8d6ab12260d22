// The features that need no platform, used as a consumer uses them. The file runs unchanged wherever ECMAScript modules do.

import {
  formatTimeline,
  IoScheduler,
  MemoryStorage,
  TraceRecorder,
  WriteBarrierError,
  withLatency,
} from 'write-barrier';
import { crashTest, formatCrashReport, storageContract, VolatileDisk } from 'write-barrier/testing';
import { same } from './findings.mjs';

const SECTOR = 512;
/** @param {number} byte @param {number} [sectors] */
const filled = (byte, sectors = 1) => new Uint8Array(sectors * SECTOR).fill(byte);

/** The features, by the names that the table of platforms has for them. */
export const CORE = { scheduler, crashKit, contract };

async function scheduler() {
  const recorder = new TraceRecorder();
  // The latency is that of a timer, so that requests meet in the queue.
  const storage = withLatency(new MemoryStorage(1 << 16), 1);
  const disk = new IoScheduler(storage, { observer: recorder.observer });
  await Promise.all([
    disk.write(0, filled(1)),
    disk.write(SECTOR, filled(2), { barrier: true }),
    disk.write(2 * SECTOR, filled(3)),
  ]);
  await disk.barrier();
  await disk.flush();
  const cancelled = disk.write(0, filled(4), { signal: AbortSignal.abort() });
  same(await cancelled.then(() => '', nameOf), 'AbortError', 'a request that was cancelled');
  const unaligned = disk.write(1, filled(4));
  same(await unaligned.then(() => '', codeOf), 'UNALIGNED', 'a request that is not aligned');
  const found = Array.from(await disk.read(SECTOR, SECTOR));
  same(found, Array.from(filled(2)), 'the bytes of the barrier');
  await disk.close();
  const [head] = formatTimeline(recorder.events).split('\n');
  same(head?.split(' ').slice(0, 2), ['0', 'w0'], 'the head of the timeline');
}

/** @param {Error} error */
const nameOf = ({ name }) => name;
/** @param {unknown} error */
const codeOf = (error) => (WriteBarrierError.is(error) ? error.code : error);

/** A log of two records, each with a mark; without the barrier the mark may be there before its record. */
const log = (/** @type {boolean} */ barrier) => ({
  size: 4 * SECTOR,
  /**
   * @param {VolatileDisk} disk
   * @param {import('write-barrier/testing').Journal<number>} journal
   */
  workload: async (disk, journal) => {
    const queue = new IoScheduler(disk, { observer: disk.observer });
    for (const [record, at] of [0, 2].entries()) {
      journal.begin(record);
      const write = queue.write(at * SECTOR, filled(record + 1));
      const mark = queue.write((at + 1) * SECTOR, filled(9), { barrier });
      await Promise.all([write, mark]);
      if (barrier) journal.acknowledge(record);
    }
  },
  /** @param {VolatileDisk} disk */
  recover: (disk) => {
    const bytes = filled(0, 4);
    disk.read(0, bytes);
    return [0, 2].map((at) => [bytes[at * SECTOR], bytes[(at + 1) * SECTOR]]);
  },
  /**
   * @param {(number | undefined)[][]} records
   * @param {import('write-barrier/testing').Expected<number>} expected
   */
  check: (records, { acknowledged }) =>
    records.every(([record, mark], number) => {
      const isThere = record === number + 1;
      return (isThere || mark !== 9) && (isThere || !acknowledged.includes(number));
    }),
});

/** The kit finds the mistake, and proves the log without it. */
async function crashKit() {
  const proved = await crashTest(log(true));
  same([proved.verdict, proved.warnings], ['proved', []], formatCrashReport(proved));
  const report = await crashTest(log(false));
  const text = formatCrashReport(report);
  same(report.verdict, 'failed', text);
  same(text.includes('would have prevented it'), true, text);
  same(/called from .*core|no call sites: /.test(text), true, text);
}

async function contract() {
  const size = 32 * SECTOR;
  const { capabilities } = new MemoryStorage(size);
  await contractOf('MemoryStorage', capabilities, () => {
    const storage = new MemoryStorage(size);
    let now = storage;
    const reopen = () => {
      now = new MemoryStorage(now.bytes); // not those of the first one, because a resize makes others
      return now;
    };
    return { storage, reopen };
  });
  await contractOf('VolatileDisk', new VolatileDisk({ size }).capabilities, () => {
    const storage = new VolatileDisk({ size });
    let now = storage;
    const reopen = () => {
      const initial = now.powerCut();
      now = new VolatileDisk({ size: initial.length, initial }); // the cut decides the size, too
      return now;
    };
    return { storage, reopen };
  });
}

/**
 * The suite in a runner of three lines.
 *
 * @param {string} name
 * @param {import('write-barrier').Capabilities} capabilities
 * @param {import('write-barrier/testing').ContractSubject['open']} open
 */
async function contractOf(name, capabilities, open) {
  const tests = /** @type {(() => unknown)[]} */ ([]);
  const describe = (/** @type {string} */ _, /** @type {() => void} */ body) => body();
  const test = (/** @type {string} */ _, /** @type {() => unknown} */ body) => tests.push(body);
  storageContract({ describe, test }, { name, capabilities, open, seed: 1, runs: 5 });
  if (tests.length < 10) throw new Error(`${name} has ${tests.length} tests only`);
  for (const body of tests) await body();
}
