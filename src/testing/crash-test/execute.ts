// One run of a workload on a simulated disk: its trace, and what limits the value of the run.
//
// When the workload returns, all of its commands must have been answered: open and later commands are a mistake of the
// workload. The disk is then abandoned and answers nothing more, because a workload that hangs may retry for ever.
//
// A host that waits for more than the disk and timers, such as sockets or workers, may be working when it seems to rest.
// If that shows after the disk has answered (host-rest.ts), the workload runs again on a disk with more patience. If that
// would take too long, or does not help, the run has a doubt, and nothing is proved by it.

import type { CallSites } from '../device/call-site.js';
import type { DiskFault } from '../device/disk-faults.js';
import type { VolatileDiskOptions } from '../device/disk-options.js';
import type { Content, DiskCommand, DiskTrace } from '../device/disk-trace.js';
import { delay, hold, nextTurn, release } from '../device/event-loop.js';
import type { HostRest } from '../device/host-rest.js';
import { VolatileDisk } from '../device/volatile-disk.js';
import { shortCommand, shortList } from './in-short.js';
import type { CrashTest } from './types.js';
import { HangError, NO_DISK, type Watch } from './watch.js';

/** An entry of the journal, as a mark of the trace; `shown` is what a recovery returned at the beginning of a later life. */
export interface Told<A> {
  readonly kind: 'begin' | 'acknowledge' | 'shown';
  readonly operation: A;
}

/** Works in a life, with the steps of the program that are to run and a journal that writes into the trace. */
export function work<A, R, P>(
  test: Pick<CrashTest<A, R, P>, 'workload' | 'program'>,
  steps: readonly number[],
  disk: VolatileDisk,
  life: { readonly number: number; readonly shown?: R },
): void | Promise<void> {
  const { program = [] } = test;
  const tell = (kind: Told<A>['kind']) => (operation: A) => disk.mark({ kind, operation });
  const journal = { begin: tell('begin'), acknowledge: tell('acknowledge') };
  const taken = steps.map((step) => program[step] as P);
  return test.workload(disk, journal, taken, life);
}

/** A run of a workload. */
export interface Executed {
  readonly trace: DiskTrace;
  /** The faults that did not happen in this run. */
  readonly faultsToCome: readonly DiskFault[];
  /** Says that the workload went on after it had returned. */
  readonly unfinished?: string;
  /** Says that the disk may have answered too early to find every mistake. */
  readonly doubt?: string | undefined;
  /** The calls that the commands came from, where that is known. */
  readonly sites?: CallSites;
}

/**
 * @param before what is on the medium, where that is decided when it is read
 * @throws `HangError` if the workload does not end; what the workload throws
 */
export async function execute(
  options: VolatileDiskOptions,
  workload: (disk: VolatileDisk) => void | Promise<void>,
  watch: Watch,
  before?: Content,
): Promise<Executed> {
  let run = await attempt(options, workload, watch, before);
  for (let tries = 0; tries < TRIES_MAX && run.wantsMs > 0 && !run.restless; tries++) {
    const least = PATIENCE_MS * 5 ** tries;
    const patient = Math.min(Math.max(run.wantsMs, least), PATIENCE_MAX_MS);
    // Twice, because the disk waits for timers as well.
    const isBearable = 2 * run.rests * patient <= watch.hangMs / 2;
    if (!isBearable && tries > 0) break;
    const again = { ...options, patient: isBearable ? patient : PATIENCE_MS };
    run = await attempt(again, workload, watch, before);
  }
  return { ...run, doubt: doubtOf('workload', run) };
}

/** Why a disk may have answered too early to find every mistake of its host, by when the host rested. */
export function doubtOf(
  host: 'workload' | 'recovery',
  { restless, wantsMs }: Pick<HostRest, 'restless' | 'wantsMs'>,
): string | undefined {
  const why = restless
    ? 'something calls the disk all the time (an interval, for example)'
    : `the ${host} waits a long time for something other than the disk (a timer, a worker, another process)`;
  if (!restless && wantsMs === 0) return undefined;
  return `${why}, so the disk may have answered too early to find every mistake`;
}

/** The maximum number of repeated runs. */
const TRIES_MAX = 3;
/** In real milliseconds, before each answer: the least, and the most. */
const PATIENCE_MS = 20;
const PATIENCE_MAX_MS = 1000;

async function attempt(
  options: VolatileDiskOptions,
  workload: (disk: VolatileDisk) => void | Promise<void>,
  watch: Watch,
  before: Content | undefined,
): Promise<Executed & Pick<HostRest, 'wantsMs' | 'restless' | 'rests'>> {
  const disk = new VolatileDisk(options, before);
  try {
    const start = (): void | Promise<void> => workload(disk);
    // The patience of the disk is not the fault of the workload.
    const delayedMs = (): number => disk.rest.delayedMs;
    await watch.run('workload', start, () => waitsFor(disk), delayedMs);
    const { trace } = disk;
    const open = disk.unanswered.length;
    await settled(disk);
    const late = disk.commandCount - trace.commands.length;
    const unfinished =
      open + late > 0 &&
      `the workload returned before its commands were done: ${open} were not answered, ${late} came later; await all of them`;
    const { wantsMs, restless, rests } = disk.rest;
    return {
      ...{ trace, wantsMs, restless, rests },
      ...{ faultsToCome: disk.faultsToCome, sites: disk.sites },
      ...(unfinished && { unfinished }),
    };
  } catch (error) {
    if (error instanceof HangError) error.trace = disk.trace;
    throw error;
  } finally {
    disk.abandon();
  }
}

/** The maximum number of turns of the event loop for a workload that continues after it has returned. */
const TURNS_MAX = 500;
/** So many of them take no time. */
const TURNS_AT_ONCE = 50;

/** Gives work that the workload did not wait for the time to show, and to end. */
async function settled(disk: VolatileDisk): Promise<void> {
  hold();
  let quiet = 0;
  for (let turn = 0; turn < TURNS_MAX && quiet < 3; turn++) {
    const count = disk.commandCount;
    await new Promise<void>((resolve) => {
      // A timer of no time takes a millisecond.
      if (quiet === 1 || turn > TURNS_AT_ONCE) delay(1, () => nextTurn(resolve));
      else nextTurn(resolve);
    });
    const isQuiet = disk.unanswered.length === 0 && disk.commandCount === count;
    quiet = isQuiet ? quiet + 1 : 0;
  }
  release();
}

/** What a workload that hangs waits for, in words. */
async function waitsFor(disk: VolatileDisk): Promise<string> {
  const { trace, unanswered } = disk;
  const { length } = trace.commands;
  for (let turn = 0; turn < 8; turn++) await new Promise<void>(nextTurn);
  const isBusy = disk.commandCount > length;
  const open = unanswered.map((number) => `#${number} ${named(trace.commands[number])}`);
  const [last] = trace.commands
    .filter(({ completed }) => completed < Number.POSITIVE_INFINITY)
    .sort((a, b) => b.completed - a.completed);
  const waits = isBusy
    ? `it keeps calling the disk: ${length} commands so far`
    : open.length > 0
      ? `the disk has not answered ${shortList(open, false)}`
      : NO_DISK;
  const answered =
    last === undefined
      ? 'the disk has answered nothing'
      : `the last answer was to #${trace.commands.indexOf(last)} ${named(last)}${last.failed ? ', which failed' : ''}`;
  const told = begunOnly(trace);
  const begun = told.length > 0 ? `; begun and not acknowledged: ${shortList(told, false)}` : '';
  return `${waits}; ${answered}${begun}`;
}

function named(command: DiskCommand | undefined): string {
  if (!command) return 'a command';
  return shortCommand(command, `${command.offset}`);
}

function begunOnly({ marks }: DiskTrace): unknown[] {
  const begun = new Set<unknown>();
  for (const { value } of marks) {
    const { kind, operation } = value as Told<unknown>;
    if (kind === 'begin') begun.add(operation);
    else if (kind === 'acknowledge') begun.delete(operation);
  }
  return [...begun];
}
