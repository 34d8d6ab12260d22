// The barrier queue of QEMU's posix-aio emulation, as the patch of May 2009 made it: a state machine without threads,
// locks, clocks and I/O. The state is plain data; its driver submits, cancels, lets workers take their steps in any order,
// carries out the calls that the workers wait for, and reports when a call ends.
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
// Signals are sent here before the lock is dropped, in the original right after it. There is no difference, because a
// worker that waits looks at its condition again, under the lock, before it does anything.
//
// What the patch intended, and what holds in every state under REPAIRED:
//   P1  The counter of barriers is the number of barriers that are on a list or in the hands of a worker.
//   P2  While it is not zero, nothing submitted later gets onto the run list; when it is, the post-barrier list is empty.
//   P3  The run list holds at most one barrier, as its last entry.
//   P4  When a barrier returns, the run list is empty, and no other worker has anything in its hands.
//   P5  Every block is on one list or in the hands of one worker, and is answered once.
//   P6  A block that was answered as cancelled is never transferred.
//
// A profile says which of the patch's defects are present. They are independent fields, so that each can be seen alone;
// but they were not made to be mixed, and some repairs are worse than none (see docs/systems/qemu-2009.md). The numbers Q1 to
// Q13 are those of the page. Two of them have no field, because they are consequences of the design and not mistakes: during a
// barrier at most one worker does anything (half of qemu-2009.Q7), and reads and ioctls wait for a barrier like everything
// else (qemu-2009.Q9). The repaired queue has both.
//
// The lists are the tail queues of <sys/queue.h>, as plain data: a list is a pointer to its first block and the address of the
// pointer to write the next one into; a block has the number of its successor and the address of the pointer that names it. An
// address is a `Cell`. Blocks are numbers, so a corrupted list is a wrong number and nothing worse. Both operations do exactly
// the four assignments of the macros. They believe what they are told, as the macros do: unlinking a block from a list that it
// is not on, or twice, changes whatever its addresses point to. Memory that was given back is a block that is not in `blocks`
// any more. What is written there is lost; the memory is not used for anything else.
//
// Not here: disks and promises (process.ts).
//
// Source: the patch "barriers: block-raw-posix barrier support" (qemu-devel, 5 May 2009), and posix-aio-compat.c as
// it was before it; TAILQ_INSERT_TAIL and TAILQ_REMOVE in QEMU's sys-queue.h.

import { checkArgument, misuse, wholeNumber } from 'write-barrier/kit';
import { BAR, type CallOutcome, type FileCall, PLAIN, POSTFLUSH, PREFLUSH } from '../requests.js';

// The defects

/**
 * What the patch got wrong, or left for later. True is the patch. Where nothing else is said the witness is
 * posix-aio-compat.c with the patch of 5 May 2009.
 */
export interface AioProfile {
  /** Q1: a cancelled barrier stays in the counter (qemu_paio_cancel), so all later requests wait for ever. */
  readonly cancelKeepsCount: boolean;
  /** With a cancelled barrier its place in the order goes, too. Otherwise an empty barrier stays in its place. */
  readonly cancelDropsPlace: boolean;
  /** Q2: a request keeps its mark of the post-barrier list on the run list, and is unlinked from the wrong one. */
  readonly requeueKeepsMark: boolean;
  /** Q3: a barrier that waits for idle workers looks as if no worker had it, and can be unlinked a second time. */
  readonly cancellableWhileDraining: boolean;
  /** Q4: the result of fdatasync is ignored. */
  readonly ignoresSyncErrors: boolean;
  /** Q5: no failure stops a barrier: neither of a write before it, nor of a call of its own. */
  readonly failuresStopNothing: boolean;
  /** Q6: one worker is woken for all requests that a barrier releases, and none is started. */
  readonly wakesOneForAll: boolean;
  /** Q7: a worker leaves when it had no work for ten seconds. */
  readonly idleWorkersLeave: boolean;
  /** Q8: all disks of the process share one queue, and a barrier on one holds up all. */
  readonly oneQueueForAllDisks: boolean;
  /** Q10: no barriers on a file opened with O_DIRECT or O_DSYNC (raw_open in block-raw-posix.c). */
  readonly noBarriersOnDirect: boolean;
  /** Q11: the message of the abort takes a number of bytes for an error number. */
  readonly garblesAbort: boolean;
  /** Q12: there is no barrier without data, and so no way to ask for a flush. */
  readonly refusesEmptyBarriers: boolean;
  /** Q13: a request that can only wait for a barrier starts or wakes a worker all the same. */
  readonly wakesForHeld: boolean;
}

/** The patch, as it was sent. */
export const QEMU_2009: AioProfile = Object.freeze({
  cancelKeepsCount: true,
  cancelDropsPlace: true,
  requeueKeepsMark: true,
  cancellableWhileDraining: true,
  ignoresSyncErrors: true,
  failuresStopNothing: true,
  wakesOneForAll: true,
  idleWorkersLeave: true,
  oneQueueForAllDisks: true,
  noBarriersOnDirect: true,
  garblesAbort: true,
  refusesEmptyBarriers: true,
  wakesForHeld: true,
});

/** What the patch meant: the same queue with none of the defects. */
export const QEMU_REPAIRED: AioProfile = Object.freeze(
  Object.fromEntries(
    Object.keys(QEMU_2009).map((defect) => [defect, false]),
  ) as unknown as AioProfile,
);

// The state

/** What is asked of the queue. `none` moves no data: an empty barrier. */
export interface AioRequest {
  /** What a worker is to transfer. */
  readonly type: 'read' | 'write' | 'ioctl' | 'none';
  /** QEMU_AIO_BARRIER. */
  readonly barrier: boolean;
  /** In bytes; only the message of an abort shows it. */
  readonly bytes?: number;
}

/** The answers of qemu_paio_cancel: taken out; at work, its own end comes; over. */
export type CancelAnswer = 'canceled' | 'not canceled' | 'all done';

/** The two lists of the patch: what waits for a worker, and what waits for a barrier. */
export type ListName = 'run' | 'post';

/** Where a pointer to a block is: at the head of a list, or in the block of that number. */
export type Cell = ListName | number;

/** What a block has to be on a list. */
export interface Links {
  /** The block behind it; null for the last one. */
  next: number | null;
  /** The pointer that names this block. */
  prev: Cell;
}

/** Both lists, and the blocks that may be on them. */
export interface TailQueues<B extends Links = Links> {
  /** Null for an empty list. */
  readonly first: Record<ListName, number | null>;
  /** The pointer that the next block goes into: the `next` of the last block, or the head. */
  readonly last: Record<ListName, Cell>;
  /** By number. */
  readonly blocks: Record<number, B>;
}

/** A request on its way. */
export interface ControlBlock extends Links {
  /** A cancelled barrier that keeps its place has become `none`. */
  type: AioRequest['type'];
  /** As it was submitted. */
  readonly barrier: boolean;
  /** As it was submitted. @defaultValue 0 */
  readonly bytes: number;
  /** QEMU_AIO_POST_BARRIER: it was put onto the post-barrier list. */
  postBarrier: boolean;
  /** A worker has it, and it cannot be taken back. */
  active: boolean;
  /** Its end was reported. A corrupted list may still hand it to a worker. */
  answered: boolean;
  /** How many failures had been reported when it was submitted. */
  readonly failuresKnown: number;
}

/** A thread of the pool. */
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
      /** It has dropped the lock; `returning`: its calls are over. */
      readonly at: 'executing' | 'returning';
      /** The request that it carries out. */
      readonly block: number;
      /** What is left to do; the first one is under way. */
      readonly calls: readonly FileCall[];
      /** So far; in the end what it is going to store. */
      readonly outcome: CallOutcome;
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
  checkArgument('threadsMax', threadsMax, wholeNumber(1));
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
    // It was the first one, and those after it wait for no other.
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
  readonly outcome: CallOutcome;
  /** It is not reported: the request was answered before, as a rule because it was cancelled. */
  readonly answered: boolean;
}

/** Lets a worker take the lock once. Returns what the worker stored, if it was about to return a result. */
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
      throw misuse(`worker ${number} cannot take a step`);
  }
}

/** A call that is under way. */
export interface RunningCall {
  /** The request that it is for. */
  readonly block: number;
  /** What is done for it. */
  readonly call: FileCall;
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
    throw misuse(`worker ${number} is in no call`);
  }
  const { ignoresSyncErrors, failuresStopNothing } = state.profile;
  const sync = call.op === 'fdatasync';
  const heard = failed && !(sync && ignoresSyncErrors);
  const failure = sync ? 'sync failed' : 'transfer failed';
  const outcome = heard && worker.outcome === 'done' ? failure : worker.outcome;
  const calls = heard && !failuresStopNothing ? [] : worker.calls.slice(1);
  const at = calls.length > 0 ? 'executing' : 'returning';
  state.workers[number] = { ...worker, at, calls, outcome };
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

/** A barrier on an ioctl drains, and syncs nothing. */
function callsOf({ type, barrier }: Pick<ControlBlock, 'type' | 'barrier'>): readonly FileCall[] {
  if (!barrier) return [PLAIN];
  if (type === 'none') return [PREFLUSH];
  return type === 'ioctl' ? [BAR] : [PREFLUSH, BAR, POSTFLUSH];
}

function store(
  state: AioState,
  number: number,
  { block: ended, outcome }: { readonly block: number; readonly outcome: CallOutcome },
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

// The lists

/** TAILQ_INSERT_TAIL. */
export function insertTail(queues: TailQueues, list: ListName, number: number): void {
  const block = queues.blocks[number] as Links;
  block.next = null;
  block.prev = queues.last[list];
  write(queues, block.prev, number);
  queues.last[list] = number;
}

/** TAILQ_REMOVE; `list` is what the caller believes. */
export function unlink(queues: TailQueues, list: ListName, number: number): void {
  const { next, prev } = queues.blocks[number] as Links;
  const successor = next === null ? undefined : queues.blocks[next];
  if (next === null) queues.last[list] = prev;
  else if (successor) successor.prev = prev;
  write(queues, prev, next);
}

function write(queues: TailQueues, cell: Cell, number: number | null): void {
  if (typeof cell !== 'number') queues.first[cell] = number;
  else {
    const block = queues.blocks[cell];
    if (block) block.next = number;
  }
}
