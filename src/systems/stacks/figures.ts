// What an arrangement of schedulers costs, and who pays: the commands, flushes and drains of a fixed piece of work,
// and how long each guest waited for it.
//
// Time is virtual (virtual-clock.ts), so the figures are exact and the same in every run. The disk works on several
// commands at once, first come first served, but on one flush at a time; every command takes its time, whatever else
// goes on. What the figures say of a real disk is as much as its times are those of STACK_TIMES; they are a
// parameter.
//
// The work: two journals, which commit by three records and a mark and wait until the mark is safe; a bulk writer,
// which needs no order and keeps eight writes going; and a reader, who waits for each read. Only the journals ask for
// barriers, so whatever makes the other two wait longer is somebody else's barrier.
//
// Source: "xen/blkfront: use tagged queuing for barriers" (lkml, August 2010), for the question.

import {
  type IoScheduler,
  MemoryStorage,
  modeOf,
  type Storage,
  type Transfer,
  withLatency,
} from 'write-barrier';
import { ARRANGEMENTS, type Arrangement, type Stack, stackOf } from './arrangements.js';
import { VirtualClock } from './virtual-clock.js';

/** How long things take, in microseconds. */
export interface DiskTimes {
  /** For a read. */
  readonly readUs: number;
  /** For a write, into the cache. */
  readonly writeUs: number;
  /** For a flush; one at a time. */
  readonly flushUs: number;
  /** What the transport adds to an answer. */
  readonly transportUs: number;
  /** Commands that the disk works on at once. */
  readonly commandsMax: number;
}

/** Two worlds: a slow disk in the same machine, and a fast one behind a slow wire. */
export const STACK_TIMES: Readonly<Record<'near' | 'far', DiskTimes>> = Object.freeze({
  near: Object.freeze({
    readUs: 200,
    writeUs: 100,
    flushUs: 2000,
    transportUs: 20,
    commandsMax: 4,
  }),
  far: Object.freeze({
    readUs: 200,
    writeUs: 100,
    flushUs: 500,
    transportUs: 1000,
    commandsMax: 4,
  }),
});

/** The disk: see the head of this file. */
function timed(storage: Storage, clock: VirtualClock, times: DiskTimes, count: Count): Storage {
  const { blockSize, cache, flush } = storage.capabilities;
  const all = lane(times.commandsMax);
  const flushes = lane(1);
  const serve = (us: number, work: () => Transfer): Promise<void> => {
    count.commands += 1;
    return all(async () => {
      await clock.sleep(us);
      await work();
    });
  };
  return {
    size: storage.size,
    capabilities: { blockSize, cache, flush, fua: false, orderedTags: false },
    read: (at, into) => serve(times.readUs, () => storage.read(at, into)),
    write: (at, data, flags) => serve(times.writeUs, () => storage.write(at, data, flags)),
    flush: (flags) => {
      count.flushes += 1;
      return flushes(() => serve(times.flushUs, () => storage.flush(flags)));
    },
    close: () => storage.close(),
  };
}

/** Lets so many in at once; the others wait in line. */
function lane(most: number): (work: () => Promise<void>) => Promise<void> {
  const waiting: (() => void)[] = [];
  let busy = 0;
  return async (work) => {
    if (busy < most) busy += 1;
    else await new Promise<void>((resolve) => waiting.push(resolve));
    try {
      await work();
    } finally {
      // Whoever waits takes the place over.
      const next = waiting.shift();
      if (next) next();
      else busy -= 1;
    }
  };
}

interface Count {
  commands: number;
  flushes: number;
}

// Measuring

/** How long a guest waited for its requests, in microseconds. */
export interface StackWaiting {
  /** Its name. */
  readonly guest: string;
  /** How often it waited: for a commit, a write, a read. */
  readonly requests: number;
  /** For one of them, at the most. */
  readonly worstUs: number;
  /** For one of them on average, rounded. */
  readonly meanUs: number;
}

/** What an arrangement came to. */
export interface StackRow extends Arrangement {
  /** Commands of the disk, flushes included. */
  readonly commands: number;
  /** Flushes of the disk. */
  readonly flushes: number;
  /** Times that the scheduler of a guest had to wait for everything before it went on. */
  readonly guestDrains: number;
  /** The same for the schedulers of the backend. */
  readonly backendDrains: number;
  /** Flushes of the disk for a single empty barrier behind a single write. */
  readonly flushesForEmptyBarrier: number;
  /** Until all guests were done. */
  readonly elapsedUs: number;
  /** One for each guest. */
  readonly waiting: readonly StackWaiting[];
}

const BLOCK = 512;
const COMMITS = 20;
const RECORDS = 3;
const BULK_WRITES = 240;
const BULK_AT_ONCE = 8;
const READS = 40;
const SLICE = 64 * BLOCK;

interface Guest {
  readonly name: string;
  readonly work: (disk: IoScheduler, measured: Measured) => Promise<void>;
}

/** Runs what a guest waits for, and takes down for how long. */
type Measured = <T>(wait: () => Promise<T>) => Promise<T>;

const block = (): Uint8Array => new Uint8Array(BLOCK);

/** Where nobody orders, whoever needs order waits. */
const waitsItself = ({ mode }: IoScheduler): boolean => modeOf(mode).by === 'none';

/** Records, and a commit mark that must not be there without them. The next commit begins when the mark is safe. */
async function journal(disk: IoScheduler, measured: Measured): Promise<void> {
  const mark = RECORDS * BLOCK;
  for (let n = 0; n < COMMITS; n++) {
    await measured(async () => {
      const writes = Array.from({ length: RECORDS }, (_, i) => disk.write(i * BLOCK, block()));
      if (!waitsItself(disk)) writes.push(disk.write(mark, block(), { barrier: true }));
      await Promise.all(writes);
      if (waitsItself(disk)) await disk.write(mark, block(), { preflush: true, fua: true });
    });
  }
}

/** Writes that need no order, a few at a time. */
async function bulk(disk: IoScheduler, measured: Measured): Promise<void> {
  let next = 0;
  const writer = async (): Promise<void> => {
    for (let n = next++; n < BULK_WRITES; n = next++) {
      await measured(() => disk.write((n * BLOCK) % SLICE, block()));
    }
  };
  await Promise.all(Array.from({ length: BULK_AT_ONCE }, writer));
}

/** Somebody who reads and waits. */
async function reader(disk: IoScheduler, measured: Measured): Promise<void> {
  for (let n = 0; n < READS; n++) await measured(() => disk.read(n * BLOCK, BLOCK));
}

/** Two journals, a bulk writer and a reader on one disk. */
const GUESTS: readonly Guest[] = [
  { name: 'journal A', work: journal },
  { name: 'journal B', work: journal },
  { name: 'bulk', work: bulk },
  { name: 'reader', work: reader },
];

/**
 * Runs every arrangement on a disk of its own. The rows come in the order of the arrangements, the same in every run.
 *
 * @throws `INVALID_ARGUMENT` for times that are none
 */
export async function compareStacks(
  arrangements: readonly Arrangement[] = ARRANGEMENTS,
  times: DiskTimes = STACK_TIMES.near,
): Promise<readonly StackRow[]> {
  const rows: StackRow[] = [];
  for (const arrangement of arrangements) rows.push(await measure(arrangement, times));
  return rows;
}

async function measure(arrangement: Arrangement, times: DiskTimes): Promise<StackRow> {
  const { clock, count, guests, backends } = simulated(arrangement, times, GUESTS.length);
  const waits = GUESTS.map((): number[] => []);
  await clock.run(
    Promise.all(
      GUESTS.map(({ work }, n) =>
        work(guests[n] as IoScheduler, async (wait) => {
          const from = clock.now;
          const answer = await wait();
          (waits[n] as number[]).push(clock.now - from);
          return answer;
        }),
      ),
    ),
  );
  const drains = (of: readonly IoScheduler[]): number =>
    of.reduce((sum, scheduler) => sum + scheduler.stats().drains, 0);
  return Object.freeze({
    ...arrangement,
    ...count,
    guestDrains: drains(guests),
    backendDrains: drains(backends),
    flushesForEmptyBarrier: await emptyBarrier(arrangement, times),
    elapsedUs: clock.now,
    waiting: Object.freeze(GUESTS.map(({ name }, n) => waitingOf(name, waits[n] as number[]))),
  });
}

/** What becomes of an explicit flush: `w0 b` from one guest, on a disk that nobody else uses. */
async function emptyBarrier(arrangement: Arrangement, times: DiskTimes): Promise<number> {
  const { clock, count, guests } = simulated(arrangement, times, 1);
  const [guest] = guests as [IoScheduler];
  const written = guest.write(0, block());
  const told = waitsItself(guest) ? guest.flush() : guest.barrier();
  await clock.run(Promise.all([written, told]));
  return count.flushes;
}

function simulated(
  arrangement: Arrangement,
  times: DiskTimes,
  guests: number,
): Stack & { readonly clock: VirtualClock; readonly count: Count } {
  const clock = new VirtualClock();
  const count: Count = { commands: 0, flushes: 0 };
  const memory = new MemoryStorage(guests * SLICE, { capabilities: { cache: 'volatile' } });
  const across = (storage: Storage): Storage =>
    withLatency(storage, times.transportUs, { sleep: (us) => clock.sleep(us) });
  const stack = stackOf(arrangement, timed(memory, clock, times, count), guests, across);
  return { ...stack, clock, count };
}

function waitingOf(guest: string, waits: readonly number[]): StackWaiting {
  const sum = waits.reduce((total, us) => total + us, 0);
  const meanUs = Math.round(sum / waits.length);
  return Object.freeze({ guest, requests: waits.length, worstUs: Math.max(...waits), meanUs });
}
