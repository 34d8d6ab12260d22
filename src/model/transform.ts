// What a mode makes of a request stream: the one description of the seven modes. The scheduler
// executes these steps, and every proof about a mode reads the same ones.
//
// Laws, tested under these numbers:
//   T1  A request without flags becomes exactly one plain command with a simple tag.
//   T2  A barrier becomes its mode's stages in the order preflush, bar, postflush. An empty barrier has
//       no bar, hence no postflush: its preflush is all the flush it needs.
//   T3  By drain: a drain stands before each stage and after the last. A drain is left out where nothing was issued since
//       the one before it, because it would wait for nothing.
//   T4  By tag: every stage carries the ordered tag, and nothing waits. An empty barrier in plain TAG has no stage that could
//       carry the tag, so it drains instead. Kernels before that rule dropped such a barrier silently.
//   T5  NONE refuses a barrier; no command comes of it.
//   T6  A flush request is one plain flush. It waits for the writes before it, and no request waits for it.
//   T7  The flag preflush puts a flush before the data, the flag fua forces the data, in every mode. A
//       command of a request is issued when the request's earlier commands have completed, unless both
//       carry the ordered tag.
//   T8  Steps come in the order of the requests, lazily; the state is one bit beside the mode.
//
// Not here: what the device makes of a flush or a FUA bit (flush-policy.ts), overlaps, errors.
//
// Source: start_ordered() and blk_do_ordered() in Linux 2.6.36 block/blk-barrier.c.

import { type ModeName, modeOf, type OrderedMode } from './mode.js';
import { isBarrier, type Request } from './request.js';

/** Where a command stands in the sequence of its request. */
export type Stage = 'plain' | 'preflush' | 'bar' | 'postflush';

/** `ordered`: the device runs it after everything older and before everything younger. */
export type Tag = 'simple' | 'ordered';

/** What a command does at the device. */
export type Operation = 'read' | 'write' | 'flush' | 'discard' | 'writeZeroes';

/** A command as the device receives it, and as the text notation shows it. */
export interface DeviceCommand {
  readonly kind: 'command';
  /** Devices know no barrier: a barrier becomes flushes and writes. */
  readonly op: Operation;
  /** Bytes from the start of the storage; 0 for a flush. */
  readonly offset: number;
  /** In bytes; 0 for a flush. */
  readonly length: number;
  /** Whether the device may reorder the command with others. */
  readonly tag: Tag;
  /** Complete only when the data is on the medium. */
  readonly fua: boolean;
  /** The new size of the storage, in bytes, if a writeZeroes adds the range to it, or a discard cuts the range off. */
  readonly size?: number;
}

/** A command with its place in the sequence of its request. */
export interface StagedCommand extends DeviceCommand {
  /** `plain` for a command that is not part of a sequence. */
  readonly stage: Stage;
}

/** A command for the device, on behalf of `request`. */
export interface CommandStep<R extends Request = Request> extends StagedCommand {
  /** The same object that was passed in, so that its other properties can be found again. */
  readonly request: R;
}

/** Everything issued so far must complete before anything further is issued. */
export interface DrainStep {
  readonly kind: 'drain';
}

/** The mode cannot honour the request; nothing of it may reach the device. */
export interface RefuseStep<R extends Request = Request> {
  readonly kind: 'refuse';
  /** The code that Linux answered. The payload was not written; send it again without the barrier. */
  readonly code: 'EOPNOTSUPP';
  /** What was refused. */
  readonly request: R;
}

/** What a mode turns a request stream into. */
export type Step<R extends Request = Request> = DrainStep | CommandStep<R> | RefuseStep<R>;

/** The whole state of a transform. To change the mode, replace `mode` between two requests. */
export interface TransformState {
  /** The mode of the next request. Steps that were returned before do not change. */
  readonly mode: OrderedMode;
  /** Nothing was issued since the last drain, so another one would wait for nothing. */
  readonly drained: boolean;
}

/** A request stream in, its step stream out; lazy, and in constant memory. */
export interface Transformer {
  <R extends Request>(requests: Iterable<R>): Iterable<Step<R>>;
  <R extends Request>(requests: AsyncIterable<R>): AsyncIterable<Step<R>>;
}

const DRAIN: DrainStep = Object.freeze({ kind: 'drain' });

/** The state before the first request. */
export function initialState(mode: ModeName | OrderedMode): TransformState {
  return { mode: typeof mode === 'string' ? modeOf(mode) : mode, drained: true };
}

/**
 * The primitive below every transformer: one request, one pure step. Keep the state to go on, or keep
 * an old one to fork the run.
 */
export function transition<R extends Request>(
  state: TransformState,
  request: R,
): {
  /** The state for the next request. */
  readonly state: TransformState;
  /** What this request has become, in order; empty where there is nothing to do. */
  readonly steps: readonly Step<R>[];
} {
  const steps = stepsOf(state, request);
  const last = steps.at(-1);
  // A refusal issues nothing, and a drain that was left out (T3) leaves nothing behind.
  if (!last || last.kind === 'refuse') return { state, steps };
  return { state: after(state, last.kind === 'drain'), steps };
}

/**
 * The transformer of a mode, for Iterable and AsyncIterable alike. It reads one request at a time and
 * never looks ahead.
 *
 * @throws `EINVAL` for a name that is not one of the seven
 * @see Linux 2.6.36 block/blk-barrier.c
 */
export function transformer(mode: ModeName | OrderedMode): Transformer {
  const start = initialState(mode);
  function transform<R extends Request>(
    requests: Iterable<R> | AsyncIterable<R>,
  ): Iterable<Step<R>> | AsyncIterable<Step<R>> {
    return Symbol.asyncIterator in requests
      ? stepsAsync(start, requests)
      : new Steps(start, requests);
  }
  return transform as Transformer;
}

/**
 * The same as a web stream, for pipelines.
 *
 * @throws `EINVAL` for a name that is not one of the seven
 */
export function transformStream<R extends Request = Request>(
  mode: ModeName | OrderedMode,
): TransformStream<R, Step<R>> {
  let state = initialState(mode);
  return new TransformStream({
    transform(request, controller) {
      const next = transition(state, request);
      state = next.state;
      for (const step of next.steps) controller.enqueue(step);
    },
  });
}

/** T1: what a request without flags becomes, in every mode. */
export function plainCommand<R extends Request>(request: R): CommandStep<R> {
  return command(request, 'plain', 'simple', false);
}

/** T1 concerns it: a request without flags that is no barrier, so its mode plays no part. */
function isPlain(request: Request): boolean {
  if (request.kind !== 'write') return request.kind !== 'barrier';
  return !(request.barrier || request.preflush || request.fua);
}

/** The next state: the same object where nothing changes, because of most requests nothing does. */
function after(state: TransformState, drained: boolean): TransformState {
  return drained === state.drained ? state : { mode: state.mode, drained };
}

/**
 * What a generator over `transition` would do, by hand: three to four times as fast, because V8 inlines `next` and makes no result
 * objects, and because a plain request needs no list of steps. As in a generator, the source is opened by the first `next`, and
 * closed by `return` or when a transition throws.
 */
class Steps<R extends Request> implements IterableIterator<Step<R>, void> {
  readonly #requests: Iterable<R>;
  #source: Iterator<R> | undefined;
  #isOver = false;
  #state: TransformState;
  /** The steps of the last request, and which of them is next. */
  #steps: readonly Step<R>[] = [];
  #at = 0;

  constructor(start: TransformState, requests: Iterable<R>) {
    this.#state = start;
    this.#requests = requests;
  }

  [Symbol.iterator](): this {
    return this;
  }

  next(): IteratorResult<Step<R>, void> {
    while (this.#at === this.#steps.length) {
      if (this.#isOver) return { done: true, value: undefined };
      // A source that throws or ends is over by itself, and is not closed.
      this.#isOver = true;
      this.#source ??= this.#requests[Symbol.iterator]();
      const { done, value } = this.#source.next();
      if (done) return { done: true, value: undefined };
      this.#isOver = false;
      try {
        if (isPlain(value)) {
          this.#state = after(this.#state, false);
          return { done: false, value: plainCommand(value) };
        }
        const { state, steps } = transition(this.#state, value);
        this.#state = state;
        this.#steps = steps;
        this.#at = 0;
      } catch (error) {
        this.#fail(error);
      }
    }
    const value = this.#steps[this.#at] as Step<R>;
    this.#at += 1;
    return { done: false, value };
  }

  return(): IteratorResult<Step<R>, void> {
    this.#at = this.#steps.length;
    const source = this.#isOver ? undefined : this.#source;
    this.#isOver = true;
    source?.return?.();
    return { done: true, value: undefined };
  }

  /** Closes the source. An error of closing it would hide the one that matters. */
  #fail(error: unknown): never {
    try {
      this.return();
    } catch {}
    throw error;
  }
}

async function* stepsAsync<R extends Request>(
  start: TransformState,
  requests: AsyncIterable<R>,
): AsyncGenerator<Step<R>, void> {
  let state = start;
  for await (const request of requests) {
    const next = transition(state, request);
    state = next.state;
    yield* next.steps;
  }
}

/** What a request becomes in this state, for those that keep no state (scheduler/plan.ts). */
export function stepsOf<R extends Request>(
  { mode, drained }: TransformState,
  request: R,
): Step<R>[] {
  const { preflush, fua } = flagsOf(request);
  if (!isBarrier(request)) {
    // T1, T6, T7.
    const data = command(request, 'plain', 'simple', fua);
    return preflush ? [command(request, 'preflush', 'simple', false), data] : [data];
  }
  // T2 to T5 and T7: the ordered sequence of a barrier.
  if (mode.by === 'none') return [{ kind: 'refuse', code: 'EOPNOTSUPP', request }];
  const hasPayload = request.kind === 'write';
  const flushes = mode.cache !== 'through' || preflush;
  const byDrain = mode.by === 'drain' || !(flushes || hasPayload);
  const forced = mode.cache === 'fua' || fua;
  // A drain stands after each stage, so only the first one can wait for nothing (T3).
  const steps: Step<R>[] = byDrain && !drained ? [DRAIN] : [];
  const add = (stage: Stage): void => {
    steps.push(command(request, stage, byDrain ? 'simple' : 'ordered', forced && stage === 'bar'));
    if (byDrain) steps.push(DRAIN);
  };
  if (flushes) add('preflush');
  if (hasPayload) add('bar');
  if (hasPayload && mode.cache === 'flush') add('postflush');
  return steps;
}

function flagsOf(request: Request): { readonly preflush: boolean; readonly fua: boolean } {
  if (request.kind !== 'write') return { preflush: false, fua: false };
  return { preflush: request.preflush === true, fua: request.fua === true };
}

function command<R extends Request>(
  request: R,
  stage: Stage,
  tag: Tag,
  fua: boolean,
): CommandStep<R> {
  const { kind } = request;
  if (stage === 'preflush' || stage === 'postflush' || kind === 'flush' || kind === 'barrier') {
    return { kind: 'command', op: 'flush', offset: 0, length: 0, tag, fua: false, stage, request };
  }
  const { offset, length } = request;
  const step = { kind: 'command', op: kind, offset, length, tag, fua, stage, request } as const;
  return 'size' in request ? { ...step, size: request.size } : step;
}
