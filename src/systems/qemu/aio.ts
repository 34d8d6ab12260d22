// The barrier queue of QEMU's posix-aio emulation, as the patch of May 2009 made it: a state machine without threads,
// locks, clocks and I/O. The state is plain data; whoever drives it submits, cancels, lets workers take their steps
// in any order, carries out the calls that they wait for, and reports the ends of these.
//
//   submit ─▶ run list ───────────────▶ worker: pop ─▶ [drain] ─▶ calls ─▶ return ─▶ answered
//        └──▶ post-barrier list ─▶ run list, up to and with the next barrier, when a barrier returns
//
// A step is what a thread does while it holds the lock. A worker is
//
//   top         about to take the lock and look at the run list
//   asleep      without work, until it is signalled, or leaves after ten seconds
//   draining    with a barrier in its hands, until all workers are idle; it counts as idle itself
//   executing   without the lock; its first call is under way
//   returning   about to take the lock and store the result
//
// Signals are sent here before the lock is dropped, in the original right behind it. Nobody can tell: whoever waits
// looks at his condition again, under the lock, before he does anything.
//
// What holds in every state under REPAIRED, and is what the patch meant:
//   P1  The counter of barriers is the number of barriers that are on a list or in the hands of a worker.
//   P2  While it is not zero, nothing submitted later gets onto the run list; when it is, the post-barrier list is empty.
//   P3  The run list holds at most one barrier, as its last entry.
//   P4  When a barrier returns, the run list is empty, and no other worker has anything in its hands.
//   P5  Every block is on one list or in the hands of one worker, and is answered once.
//   P6  A block that was answered as cancelled is never transferred.
//
// A profile says which of the patch's defects are there. They are independent fields, so that each can be seen alone;
// but they were not made to be mixed, and some repairs are worse than none (see docs/systems/qemu-2009.md).
//
// Not here: disks and promises (process.ts), the lists themselves (tailq.ts).
//
// Source: the patch "barriers: block-raw-posix barrier support" (qemu-devel, 5 May 2009), and posix-aio-compat.c as
// it was before it. The numbers of the defects are those of the page.

import { WriteBarrierError } from 'write-barrier';
import { type AioProfile, QEMU_2009 } from './profile.js';
import { insertTail, type Links, type ListName, type TailQueues, unlink } from './tailq.js';

/** What is asked of the queue. `none` moves no data: an empty barrier. */
export interface AioRequest {
  /** What a worker is to transfer. */
  readonly type: 'read' | 'write' | 'ioctl' | 'none';
  /** QEMU_AIO_BARRIER. */
  readonly barrier: boolean;
  /** In bytes; only the message of an abort shows it. */
  readonly bytes?: number;
}

/** What a worker does without the lock. */
export interface AioCall {
  /** `transfer`: the read, the write or the ioctl itself. */
  readonly op: 'fdatasync' | 'transfer';
  /** `plain` for what is no barrier. */
  readonly stage: 'plain' | 'preflush' | 'bar' | 'postflush';
}

/** How a request ended. `aborted`: a barrier that was not carried out, because a request before it failed. */
export type AioOutcome = 'done' | 'transfer failed' | 'sync failed' | 'aborted';

/** The answers of qemu_paio_cancel: taken out; at work, its own end comes; over. */
export type CancelAnswer = 'canceled' | 'not canceled' | 'all done';

/** A request on its way. */
export interface ControlBlock extends Links {
  /** A cancelled barrier that keeps its place has become `none`. */
  type: AioRequest['type'];
  /** As it was submitted. */
  readonly barrier: boolean;
  /** As it was submitted; 0 unless given. */
  readonly bytes: number;
  /** QEMU_AIO_POST_BARRIER: it was put onto the post-barrier list. */
  postBarrier: boolean;
  /** A worker has it, and it cannot be taken back. */
  active: boolean;
  /** Somebody was told of its end. A corrupted list may still hand it to a worker. */
  answered: boolean;
  /** How many failures had been reported when it was submitted. */
  readonly failuresKnown: number;
}

/** A thread; see the head of this file. */
export type AioWorker =
  | {
      /** It has nothing in its hands. */
      readonly at: 'top' | 'asleep';
    }
  | {
      /** It waits on `idle_wait`. */
      readonly at: 'draining';
      /** The barrier that it has popped. */
      readonly block: number;
      /** It was signalled, and may look again whether all are idle. */
      readonly woken: boolean;
    }
  | {
      /** It has dropped the lock. */
      readonly at: 'executing';
      /** The request that it carries out. */
      readonly block: number;
      /** What is left to do; the first one is under way. */
      readonly calls: readonly AioCall[];
      /** So far. */
      readonly outcome: AioOutcome;
    }
  | {
      /** Its calls are over. */
      readonly at: 'returning';
      /** The request that it has carried out. */
      readonly block: number;
      /** What it is going to store. */
      readonly outcome: AioOutcome;
    };

/** Everything there is; JSON. Change it by the functions of this file only. */
export interface AioState extends TailQueues<ControlBlock> {
  /** Which defects are there. */
  readonly profile: AioProfile;
  /** `max_threads`. */
  readonly threadsMax: number;
  /** `cur_threads`. */
  threads: number;
  /** `idle_threads`: those that execute nothing, a draining one included. */
  idleThreads: number;
  /** `barrier_inprogress`: barriers submitted and not finished, whichever list they are on. */
  barriersInProgress: number;
  /** By number. */
  readonly workers: Record<number, AioWorker>;
  /** The number of the next request. */
  nextBlock: number;
  /** The number of the next thread. */
  nextWorker: number;
  /** Writes and barriers that have failed. */
  failures: number;
  /** Why the process is dead; null while it lives. */
  aborted: string | null;
}

/**
 * An empty queue.
 *
 * @param threadsMax workers at the most, 1 or more; 64 in QEMU
 * @throws `INVALID_ARGUMENT` for another number
 */
export function aioState(profile: AioProfile = QEMU_2009, threadsMax = 64): AioState {
  if (!Number.isSafeInteger(threadsMax) || threadsMax < 1) {
    throw new WriteBarrierError('INVALID_ARGUMENT', `there is no pool of ${threadsMax} workers`);
  }
  return {
    profile,
    threadsMax,
    first: { run: null, post: null },
    last: { run: 'run', post: 'post' },
    blocks: {},
    threads: 0,
    idleThreads: 0,
    barriersInProgress: 0,
    workers: {},
    nextBlock: 0,
    nextWorker: 0,
    failures: 0,
    aborted: null,
  };
}

// The emulator's own thread

/** qemu_paio_submit: takes a request; the answer is the number of its block, from 0. */
export function submitAio(state: AioState, request: AioRequest): number {
  const { profile, barriersInProgress } = state;
  const number = state.nextBlock++;
  const held = barriersInProgress !== 0;
  state.blocks[number] = {
    type: request.type,
    barrier: request.barrier,
    bytes: request.bytes ?? 0,
    postBarrier: held,
    active: false,
    answered: false,
    failuresKnown: state.failures,
    next: null,
    prev: 'run',
  };
  const wakes = !held || profile.wakesForHeld;
  if (wakes && state.idleThreads === 0 && state.threads < state.threadsMax) spawn(state);
  insertTail(state, held ? 'post' : 'run', number);
  if (request.barrier) state.barriersInProgress += 1;
  if (wakes) signal(state);
  return number;
}

/** qemu_paio_cancel. A number that was answered before, or canceled, is `all done`. */
export function cancelAio(state: AioState, number: number): CancelAnswer {
  const { profile } = state;
  const block = state.blocks[number];
  if (!block || block.answered) return 'all done';
  // A worker that returns still has to store its result.
  if (block.active) return 'not canceled';
  block.answered = true;
  if (block.barrier && !profile.cancelDropsPlace) {
    block.type = 'none';
    return 'canceled';
  }
  const list = listOf(block);
  unlink(state, list, number);
  giveBack(state, number);
  if (block.barrier && !profile.cancelKeepsCount) {
    state.barriersInProgress -= 1;
    // It was the first one, and those behind it wait for nobody else.
    if (list === 'run') wakeFor(state, requeue(state));
  }
  return 'canceled';
}

// Workers

/** The workers that can take a step, oldest first; none in a process that is dead. */
export function runnableWorkers(state: AioState): number[] {
  if (state.aborted !== null) return [];
  return Object.keys(state.workers)
    .map(Number)
    .filter((number) => {
      const worker = state.workers[number];
      if (worker?.at === 'draining') return worker.woken;
      return worker?.at === 'top' || worker?.at === 'returning';
    });
}

/** What a worker stored. */
export interface AioReturn {
  /** The request. */
  readonly block: number;
  /** How it ended. */
  readonly outcome: AioOutcome;
  /** Nobody waits for this: the request was answered before, as a rule because it was cancelled. */
  readonly answered: boolean;
}

/** Lets a worker take the lock once. The answer is what it stored, if it came to return something. */
export function stepAio(state: AioState, number: number): AioReturn | undefined {
  const worker = state.workers[number];
  switch (worker?.at) {
    case 'top':
      pop(state, number);
      return undefined;
    case 'draining':
      drain(state, number, worker.block);
      return undefined;
    case 'returning':
      return store(state, number, worker);
    default:
      throw new WriteBarrierError('INVALID_ARGUMENT', `worker ${number} cannot take a step`);
  }
}

/** A call that is under way. */
export interface RunningCall {
  /** The request that it is for. */
  readonly block: number;
  /** What is done for it. */
  readonly call: AioCall;
}

/** The call that a worker is in; undefined outside of any. */
export function callOf(state: AioState, number: number): RunningCall | undefined {
  const worker = state.workers[number];
  const call = worker?.at === 'executing' ? worker.calls[0] : undefined;
  return worker?.at === 'executing' && call ? { block: worker.block, call } : undefined;
}

/** The call of a worker has ended. */
export function endCall(state: AioState, number: number, failed: boolean): void {
  const worker = state.workers[number];
  const call = callOf(state, number)?.call;
  if (worker?.at !== 'executing' || !call) {
    throw new WriteBarrierError('INVALID_ARGUMENT', `worker ${number} is in no call`);
  }
  const { ignoresSyncErrors, failuresStopNothing } = state.profile;
  const sync = call.op === 'fdatasync';
  const heard = failed && !(sync && ignoresSyncErrors);
  const outcome =
    heard && worker.outcome === 'done'
      ? sync
        ? 'sync failed'
        : 'transfer failed'
      : worker.outcome;
  const calls = heard && !failuresStopNothing ? [] : worker.calls.slice(1);
  const { block } = worker;
  state.workers[number] =
    calls.length > 0
      ? { at: 'executing', block, calls, outcome }
      : { at: 'returning', block, outcome };
}

/** Ten seconds have passed for a worker that sleeps. It leaves: true; or finds that there is something to do. */
export function expireWorker(state: AioState, number: number): boolean {
  const asleep = state.workers[number]?.at === 'asleep';
  if (!asleep || !state.profile.idleWorkersLeave) return false;
  if (state.first.run !== null) {
    state.workers[number] = { at: 'top' };
    return false;
  }
  delete state.workers[number];
  state.idleThreads -= 1;
  state.threads -= 1;
  return true;
}

// Steps

function pop(state: AioState, number: number): void {
  const first = state.first.run;
  if (first === null) {
    state.workers[number] = { at: 'asleep' };
    return;
  }
  const block = state.blocks[first];
  if (!block) {
    die(state, FREED);
    return;
  }
  unlink(state, 'run', first);
  if (!block.barrier) {
    start(state, number, first, block);
    return;
  }
  if (!state.profile.cancellableWhileDraining) block.active = true;
  drain(state, number, first);
}

function drain(state: AioState, number: number, popped: number): void {
  if (state.idleThreads === state.threads) {
    start(state, number, popped, state.blocks[popped] as ControlBlock);
  } else {
    state.workers[number] = { at: 'draining', block: popped, woken: false };
  }
}

function start(state: AioState, number: number, popped: number, block: ControlBlock): void {
  block.active = true;
  state.idleThreads -= 1;
  const blamed = state.failures > block.failuresKnown && !state.profile.failuresStopNothing;
  const stopped = block.barrier && blamed && !block.answered;
  state.workers[number] = {
    at: 'executing',
    block: popped,
    // What is not carried out keeps its place, as an empty barrier.
    calls: stopped ? callsOf({ ...block, type: 'none' }) : callsOf(block),
    outcome: stopped ? 'aborted' : 'done',
  };
}

const PLAIN: AioCall = Object.freeze({ op: 'transfer', stage: 'plain' });
const PREFLUSH: AioCall = Object.freeze({ op: 'fdatasync', stage: 'preflush' });
const BAR: AioCall = Object.freeze({ op: 'transfer', stage: 'bar' });
const POSTFLUSH: AioCall = Object.freeze({ op: 'fdatasync', stage: 'postflush' });

/** A barrier on an ioctl drains, and syncs nothing. */
function callsOf({ type, barrier }: Pick<ControlBlock, 'type' | 'barrier'>): readonly AioCall[] {
  if (!barrier) return [PLAIN];
  if (type === 'none') return [PREFLUSH];
  return type === 'ioctl' ? [BAR] : [PREFLUSH, BAR, POSTFLUSH];
}

function store(
  state: AioState,
  number: number,
  { block: ended, outcome }: { readonly block: number; readonly outcome: AioOutcome },
): AioReturn | undefined {
  const block = state.blocks[ended] as ControlBlock;
  let released = 0;
  if (block.barrier) {
    state.barriersInProgress -= 1;
    if (state.first.run !== null) {
      const of = state.profile.garblesAbort ? `: Unknown error ${block.bytes}` : '';
      die(state, `request list not empty failed${of}`);
      return undefined;
    }
    released = requeue(state);
    if (state.aborted !== null) return undefined;
  }
  if (outcome !== 'done' && block.type !== 'read') state.failures += 1;
  state.idleThreads += 1;
  state.workers[number] = { at: 'top' };
  const { answered } = block;
  block.answered = true;
  giveBack(state, ended);
  wakeFor(state, released);
  if (state.idleThreads === state.threads && state.barriersInProgress !== 0) wakeDraining(state);
  return { block: ended, outcome, answered };
}

/** requeue_request_list: moves the held requests, up to and with the next barrier. Says how many. */
function requeue(state: AioState): number {
  let moved = 0;
  for (let at = state.first.post; at !== null; ) {
    const block = state.blocks[at];
    if (!block) {
      die(state, FREED);
      return moved;
    }
    const { next } = block;
    unlink(state, 'post', at);
    insertTail(state, 'run', at);
    if (!state.profile.requeueKeepsMark) block.postBarrier = false;
    moved += 1;
    if (block.barrier) break;
    at = next;
  }
  return moved;
}

function listOf({ postBarrier }: ControlBlock): ListName {
  return postBarrier ? 'post' : 'run';
}

/** The emulator frees what was answered. A worker that still has it reads what is left there. */
function giveBack(state: AioState, number: number): void {
  const held = Object.values(state.workers).some(
    (worker) => 'block' in worker && worker.block === number,
  );
  if (!held) delete state.blocks[number];
}

// Threads

function spawn(state: AioState): void {
  state.workers[state.nextWorker++] = { at: 'top' };
  state.threads += 1;
  state.idleThreads += 1;
}

/** pthread_cond_signal of `cond`; workers that sleep are all alike. */
function signal(state: AioState): void {
  for (const [number, { at }] of Object.entries(state.workers)) {
    if (at !== 'asleep') continue;
    state.workers[Number(number)] = { at: 'top' };
    return;
  }
}

/** Wakes workers for so many requests on the run list. */
function wakeFor(state: AioState, requests: number): void {
  if (requests === 0) return;
  if (state.profile.wakesOneForAll) {
    signal(state);
    return;
  }
  while (state.idleThreads < requests && state.threads < state.threadsMax) spawn(state);
  for (let i = 0; i < requests; i++) signal(state);
}

/** pthread_cond_signal of `idle_wait`. */
function wakeDraining(state: AioState): void {
  for (const [number, worker] of Object.entries(state.workers)) {
    if (worker.at !== 'draining' || worker.woken) continue;
    state.workers[Number(number)] = { ...worker, woken: true };
    return;
  }
}

const FREED = 'a worker has read memory that was given back';

function die(state: AioState, reason: string): void {
  state.aborted = reason;
}
