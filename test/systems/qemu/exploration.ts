// Every run of a small program through the queue of QEMU 2009: requests come at any time, workers take their steps
// and end their calls in any order, calls fail, requests are cancelled and idle workers leave at any point. States
// that were seen before are not looked at again, so the search ends; it is breadth first, so what it finds is
// shortest.
//
// The rules are those of the head of aio.ts, and are told here in other words: from what was submitted, carried
// out and answered, and from a walk along the lists.

import { isBarrier, parseProgram } from 'write-barrier';
import type { AioProfile, ListName } from '../../../src/systems/qemu/aio.js';
import {
  type AioState,
  aioState,
  type ControlBlock,
  callOf,
  cancelAio,
  endCall,
  expireWorker,
  runnableWorkers,
  stepAio,
  submitAio,
} from '../../../src/systems/qemu/aio.js';

/** How large a world is. */
export interface World {
  readonly profile: AioProfile;
  readonly threadsMax: number;
  readonly cancels: number;
  readonly failures: number;
  /** Looks only at what clients see: the order of what is carried out, and their answers. */
  readonly blind?: boolean;
}

/** What a search came to. */
export interface Search {
  readonly states: number;
  /** The rule that is broken, and the shortest way there; undefined where none is. */
  readonly broken?: string;
  readonly story: readonly string[];
}

/** All of it JSON: the text is the state. */
interface Node {
  readonly aio: AioState;
  cancels: number;
  failures: number;
  /** By request: what the client was told, and what was carried out. */
  readonly told: (string | null)[];
  readonly transferred: boolean[];
  /** Nothing more will be done for it. */
  readonly over: boolean[];
}

class Broken extends Error {}

function rule(holds: boolean, text: string): void {
  if (!holds) throw new Broken(text);
}

/** Searches all runs of the program. */
export function explore(program: string, world: World): Search {
  const requests = parseProgram(program);
  const start: Node = {
    aio: aioState(world.profile, world.threadsMax),
    cancels: world.cancels,
    failures: world.failures,
    told: [],
    transferred: [],
    over: [],
  };
  const { profile: _, ...bare } = start.aio;
  const first = JSON.stringify({ ...start, aio: bare });
  const from = new Map<string, { readonly parent: string; readonly event: string } | undefined>();
  from.set(first, undefined);
  const queue = [first];
  const revive = (text: string): Node => {
    const node = JSON.parse(text) as Node;
    return { ...node, aio: { ...node.aio, profile: world.profile } };
  };
  const storyOf = (text: string, ...last: string[]): string[] => {
    const story = [...last];
    for (let step = from.get(text); step; step = from.get(step.parent)) story.unshift(step.event);
    return story;
  };

  for (let text = queue.shift(); text !== undefined; text = queue.shift()) {
    const moves = movesOf(revive(text), requests.length);
    const forced = moves.filter(([event]) => !/^(cancel|expire)/.test(event));
    try {
      if (forced.length === 0) checkEnd(revive(text), requests.length);
    } catch (error) {
      return { states: from.size, broken: (error as Error).message, story: storyOf(text) };
    }
    for (const [event, move] of moves) {
      const next = revive(text);
      try {
        move(next);
        if (!world.blind) checkState(next);
        rule(next.aio.aborted === null, `the process dies: ${next.aio.aborted}`);
      } catch (error) {
        if (!(error instanceof Broken)) throw error;
        return { states: from.size, broken: error.message, story: storyOf(text, event) };
      }
      const { profile: _, ...aio } = next.aio;
      const key = JSON.stringify({ ...next, aio });
      if (from.has(key)) continue;
      from.set(key, { parent: text, event });
      queue.push(key);
    }
  }
  return { states: from.size, story: [] };

  function movesOf(node: Node, length: number): [event: string, move: (node: Node) => void][] {
    const { aio } = node;
    const moves: [string, (node: Node) => void][] = [];
    if (aio.aborted !== null) return moves;
    const submitted = node.told.length;
    if (submitted < length) moves.push([`submit ${submitted}`, (next) => submit(next, submitted)]);
    for (const worker of runnableWorkers(aio)) {
      moves.push([`step ${worker}`, (next) => step(next, worker)]);
    }
    for (const worker of Object.keys(aio.workers).map(Number)) {
      if (callOf(aio, worker)) {
        moves.push([`end ${worker}`, (next) => end(next, worker, false)]);
        if (node.failures > 0) moves.push([`fail ${worker}`, (next) => end(next, worker, true)]);
      } else if (aio.workers[worker]?.at === 'asleep' && world.profile.idleWorkersLeave) {
        moves.push([`expire ${worker}`, (next) => void expireWorker(next.aio, worker)]);
      }
    }
    if (node.cancels === 0) return moves;
    for (const [n, told] of node.told.entries()) {
      if (told === null) moves.push([`cancel ${n}`, (next) => cancel(next, n)]);
    }
    return moves;
  }

  function submit({ aio, told, transferred, over }: Node, n: number): void {
    const request = requests[n] as (typeof requests)[number];
    const type = request.kind === 'barrier' ? 'none' : (request.kind as 'read' | 'write');
    rule(submitAio(aio, { type, barrier: isBarrier(request) }) === n, 'aio.P5: blocks count up');
    told.push(null);
    transferred.push(false);
    over.push(false);
  }

  function step(node: Node, worker: number): void {
    const { aio, told, over } = node;
    const before = aio.workers[worker];
    const returning = before?.at === 'returning' ? aio.blocks[before.block] : undefined;
    if (returning?.barrier && !world.blind) {
      const busy = Object.entries(aio.workers).filter(
        ([other, { at }]) => Number(other) !== worker && at !== 'top' && at !== 'asleep',
      );
      rule(busy.length === 0, 'aio.P4: a barrier returns, and somebody else is at work');
      rule(aio.first.run === null, 'aio.P4: a barrier returns, and the run list is not empty');
    }
    const stored = stepAio(aio, worker);
    if (stored) {
      const { block, outcome, answered } = stored;
      rule(!over[block], `aio.P5: request ${block} returns twice`);
      over[block] = true;
      rule(answered === (told[block] === 'canceled'), `aio.P5: request ${block} is answered twice`);
      if (!answered) told[block] = outcome;
    }
    calls(node, worker);
  }

  function end(node: Node, worker: number, failed: boolean): void {
    if (failed) node.failures -= 1;
    endCall(node.aio, worker, failed);
    calls(node, worker);
  }

  /** A worker may just have entered a call. */
  function calls(node: Node, worker: number): void {
    const { aio, told, transferred, over } = node;
    const called = callOf(aio, worker);
    if (!called) return;
    const { block, call } = called;
    const older = over.slice(0, block);
    const barrier = isBarrier(requests[block] as (typeof requests)[number]);
    const early = older.findIndex(
      (done, n) => !done && (barrier || isBarrier(requests[n] as (typeof requests)[number])),
    );
    rule(early < 0, `order: ${block} does not wait for ${early}`);
    if (call.op !== 'transfer') return;
    rule(told[block] !== 'canceled', `aio.P6: ${block} is carried out after it was canceled`);
    rule(!transferred[block], `aio.P5: ${block} is carried out twice`);
    transferred[block] = true;
  }

  function cancel(node: Node, n: number): void {
    node.cancels -= 1;
    const { aio, told, over } = node;
    const answer = cancelAio(aio, n);
    rule(answer !== 'all done', `aio.P5: ${n} was never answered and is all done`);
    if (answer === 'not canceled') return;
    told[n] = 'canceled';
    if (!(n in aio.blocks)) over[n] = true;
  }

  function checkState({ aio, over }: Node): void {
    const hands = Object.values(aio.workers).flatMap((worker) =>
      'block' in worker ? [worker.block] : [],
    );
    const [run, post] = [walk(aio, 'run'), walk(aio, 'post')];
    const places = [...run, ...post, ...hands];
    rule(new Set(places).size === places.length, 'aio.P5: a request is in two places');
    const live = Object.keys(aio.blocks).map(Number);
    const lost = live.find((block) => !places.includes(block) && !over[block]);
    rule(lost === undefined, `aio.P5: request ${lost} is lost`);
    const isBarrierBlock = (n: number): boolean => (aio.blocks[n] as ControlBlock).barrier;
    rule(
      aio.barriersInProgress === live.filter(isBarrierBlock).length,
      'aio.P1: the count is wrong',
    );
    rule(aio.barriersInProgress > 0 || post.length === 0, 'aio.P2: held by no barrier');
    rule(!run.slice(0, -1).some(isBarrierBlock), 'aio.P3: a barrier in the midst of the run list');
    const executing = Object.values(aio.workers).filter(
      ({ at }) => at === 'executing' || at === 'returning',
    );
    rule(aio.threads === Object.keys(aio.workers).length, 'the threads are counted');
    rule(aio.idleThreads === aio.threads - executing.length, 'the idle threads are counted');
  }

  function checkEnd({ aio, told }: Node, length: number): void {
    rule(told.length === length, 'nothing can happen before all is submitted');
    const stuck = told.indexOf(null);
    rule(stuck < 0, `stuck: request ${stuck} is not answered`);
    rule(world.blind || Object.keys(aio.blocks).length === 0, 'stuck: something is left over');
  }
}

/** The blocks on a list, with its links checked. */
function walk({ first, last, blocks }: AioState, list: ListName): number[] {
  const found: number[] = [];
  let cell: ListName | number = list;
  for (let at = first[list]; at !== null; ) {
    const block = blocks[at];
    rule(block !== undefined, `aio.P5: ${at} is on the ${list} list, and its memory is not`);
    rule(!found.includes(at), `aio.P5: the ${list} list is a ring`);
    rule(block?.prev === cell, `aio.P5: the ${list} list is torn at ${at}`);
    found.push(at);
    cell = at;
    at = (block as ControlBlock).next;
  }
  rule(last[list] === cell, `aio.P5: the tail of the ${list} list points elsewhere`);
  return found;
}
