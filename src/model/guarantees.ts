// What a mode promises on a device: a matrix, with the reason for each cell in words.
//
// Fourteen rows, seven modes times two kinds of device: where completion means "on the medium" (no cache,
// or a protected one: `stable`) and where it does not (`volatile`). The columns ask about a barrier B, what
// was submitted before it (pre) and after it (post).
//
// No mode promises any of these, so there is no column for them: an order among the plain requests between two barriers;
// atomicity of a barrier that spans several sectors; anything about later requests.
//
// Not here: devices that do less than they state, which no capability shows. UNSAFE_PAIRS names them.
//
// Source: the truth table was computed by exhaustive search of a model of the device; the litmus names
// (L1, F3, ...) are those of the litmus tables in the documentation.

import { type DeviceTraits, MODE_NAMES, type ModeName, modeOf, type OrderedMode } from './mode.js';

/**
 * `yes` and `no`; `host-waits`: only if the host itself waits for completions; `refused`: the question does not arise,
 * because the barrier is refused.
 */
export type Answer = 'yes' | 'no' | 'host-waits' | 'refused';

/** The columns of the matrix. */
export interface GuaranteeAnswers {
  /** Completions are reported in the order pre, B, post. */
  readonly completionOrder: Answer;
  /** Nothing of B is on the medium unless all of pre is. */
  readonly preBeforeBarrier: Answer;
  /** Nothing of post is on the medium unless all of B is. */
  readonly barrierBeforePost: Answer;
  /** B is on the medium when it completes. */
  readonly barrierDurable: Answer;
  /** All of pre is on the medium when B completes. */
  readonly coveredDurable: Answer;
  /** An empty barrier makes durable what was submitted before it. */
  readonly emptyBarrierFlushes: Answer;
  /** A plain write is on the medium when it completes. */
  readonly plainDurable: Answer;
}

/**
 * What a power cut may do, with the error policy `abort`. `safe`: order and durability hold, and a command that
 * fails stops the barrier that covers it. `safe-without-errors`: they hold as long as no command fails,
 * because with tags the device already has the barrier when the write before it fails. `host-ordered`:
 * nothing but the host's own waiting orders anything. `unsafe`: it loses data.
 */
export type Verdict = 'safe' | 'safe-without-errors' | 'host-ordered' | 'unsafe';

/** What a mode promises on a device. */
export interface Guarantees extends GuaranteeAnswers {
  /** The mode. */
  readonly mode: ModeName;
  /** The answers in one word. A scheduler refuses an `unsafe` mode, except with `allowUnsafe`. */
  readonly verdict: Verdict;
  /** Why, in one sentence. */
  readonly reason: string;
  /**
   * A forced write is carried out as a write and then a flush, because the device has no FUA, or a slow one (`slowFua`). Where it is
   * slow, a barrier's own write is forced by the device nevertheless.
   */
  readonly fuaEmulated: boolean;
  /**
   * With the error policy `abort` a failed write stops the barrier that covers it. Only drain modes can:
   * with tags the barrier has already been handed to the device.
   */
  readonly failureStopsBarrier: boolean;
  /** Why mode and device are unsafe together; empty if they are not. */
  readonly unsafe: readonly UnsafePair[];
}

/** One cell of the matrix: a mode on a kind of device. */
export interface GuaranteeRow {
  /** The columns of the matrix. */
  readonly answers: GuaranteeAnswers;
  /** The answers in one word. */
  readonly verdict: Verdict;
  /** Why, in one sentence. */
  readonly reason: string;
}

const PAST_THE_CACHE: Readonly<Record<'through' | 'flush' | 'fua', string>> = {
  through: 'and a completed write is on the medium',
  flush: 'and the cache is flushed before and after it',
  fua: 'the cache is flushed before it, and its data is forced to the medium',
};

/**
 * What the mode promises on a device with these capabilities, if the device does what it states. Whether completions are in order
 * depends on how the mode orders; everything else depends on whether a barrier gets past the cache, and on whether the device
 * keeps it in its place.
 *
 * @throws `EINVAL` for a name that is not one of the seven
 */
export function guarantees(name: ModeName, device: DeviceTraits): Guarantees {
  const mode = modeOf(name);
  const cached = device.cache === 'volatile';
  const refuses = mode.by === 'none';
  const flushes = !refuses && mode.cache !== 'through';
  const noFlush = cached && flushes && !device.flush;
  const noTags = mode.by === 'tag' && !device.orderedTags;

  const unsafe: UnsafePair[] = [];
  if (cached && !flushes) unsafe.push(CACHE_NOT_FLUSHED);
  if (noFlush) unsafe.push(NO_FLUSH);
  if (noTags) unsafe.push(NO_ORDERED_TAGS);

  // A barrier without its tag is on the medium when it completes only where nothing is volatile.
  const kept = !cached || (flushes && !noFlush && !noTags) ? 'yes' : 'no';
  const ordered = noTags ? 'no' : refuses && !cached ? 'host-waits' : kept;
  const byDrain = mode.by === 'drain';
  const broken = noTags ? NO_ORDERED_TAGS : noFlush ? NO_FLUSH : undefined;
  return {
    mode: name,
    completionOrder: byDrain ? 'yes' : 'no',
    preBeforeBarrier: ordered,
    barrierBeforePost: ordered,
    barrierDurable: refuses ? 'refused' : kept,
    coveredDurable: refuses ? 'no' : ordered,
    emptyBarrierFlushes: refuses ? 'no' : kept,
    plainDurable: cached ? 'no' : 'yes',
    verdict: verdictOf(ordered, byDrain),
    reason: broken
      ? `This is ${broken.combination}; it breaks ${broken.breaks}.`
      : reasonOf(mode, cached),
    fuaEmulated: cached && device.flush && !(device.fua && !device.slowFua),
    failureStopsBarrier: byDrain,
    unsafe,
  };
}

/** @param ordered nothing of the barrier is on the medium unless all before it is, and nothing after it unless it is */
function verdictOf(ordered: Answer, byDrain: boolean): Verdict {
  if (ordered === 'host-waits') return 'host-ordered';
  if (ordered === 'no') return 'unsafe';
  // The host that waits for all of pre before it sends B knows that a command has failed, and sends no B.
  return byDrain ? 'safe' : 'safe-without-errors';
}

function reasonOf(mode: OrderedMode, cached: boolean): string {
  if (mode.by === 'none') {
    return cached
      ? 'Barriers are refused; a completed write may be lost until a flush has completed.'
      : 'Barriers are refused; a completed write is on the medium, so waiting gives order.';
  }
  const byDrain = mode.by === 'drain';
  if (mode.cache === 'through' && cached) {
    return `Only ${byDrain ? 'completions are' : 'execution is'} in order: the cache writes back in any order.`;
  }
  if (mode.cache !== 'through' && !cached) {
    return `As ${byDrain ? 'DRAIN' : 'TAG'}: there is no volatile cache to flush.`;
  }
  const order = byDrain
    ? 'The queue drains around each barrier'
    : 'The device keeps each barrier in its place';
  return `${order}, ${PAST_THE_CACHE[mode.cache]}${byDrain ? '' : ', as long as no command fails'}.`;
}

/** A combination of mode and device that breaks a promise that it seems to make. */
export interface UnsafePair {
  /** A stable name. */
  readonly name:
    | 'CACHE_NOT_FLUSHED'
    | 'NO_FLUSH'
    | 'NO_ORDERED_TAGS'
    | 'TAG_ERRORS'
    | 'FLUSH_IGNORED'
    | 'FUA_IGNORED'
    | 'FUA_AS_FENCE'
    | 'TORN_BARRIER'
    | 'OVERLAP_IN_FLIGHT'
    | 'SPLIT_PREFLUSH';
  /** The combination, in words. */
  readonly combination: string;
  /** What goes wrong, in words. */
  readonly breaks: string;
}

export const CACHE_NOT_FLUSHED: UnsafePair = {
  name: 'CACHE_NOT_FLUSHED',
  combination: 'NONE, DRAIN or TAG on a volatile cache',
  breaks: 'order on the medium and durability: the cache writes back in any order',
};

export const NO_FLUSH: UnsafePair = {
  name: 'NO_FLUSH',
  combination: 'a flush mode on a volatile cache that has no flush command',
  breaks: 'order and durability: nothing leaves the cache',
};

export const NO_ORDERED_TAGS: UnsafePair = {
  name: 'NO_ORDERED_TAGS',
  combination: 'a tag mode on a device that does not keep ordered tags',
  breaks: 'order, even without a cache: neither side keeps it',
};

const TAG_ERRORS: UnsafePair = {
  name: 'TAG_ERRORS',
  combination: 'a tag mode on a device that goes on with its queue after an error',
  breaks: 'the barrier lands although a write or a flush that it certifies failed',
};

const FLUSH_IGNORED: UnsafePair = {
  name: 'FLUSH_IGNORED',
  combination: 'a flush mode on a device that answers flushes without doing them',
  breaks: 'order and durability; with FUA the barrier survives, what it covers does not',
};

const FUA_IGNORED: UnsafePair = {
  name: 'FUA_IGNORED',
  combination: 'a FUA mode on a cached device that ignores FUA',
  breaks: 'durability of the barrier at its completion, and its order before what follows',
};

const FUA_AS_FENCE: UnsafePair = {
  name: 'FUA_AS_FENCE',
  combination: 'a plain FUA write used as a fence on a volatile cache',
  breaks: 'it is durable itself and orders nothing before it',
};

const TORN_BARRIER: UnsafePair = {
  name: 'TORN_BARRIER',
  combination: "a barrier larger than the device's atomic unit, without a checksum",
  breaks: 'a power cut may leave a part of the barrier',
};

const OVERLAP_IN_FLIGHT: UnsafePair = {
  name: 'OVERLAP_IN_FLIGHT',
  combination: 'overlapping writes in flight together',
  breaks: 'either may win; the scheduler never issues such a pair with simple tags',
};

const SPLIT_PREFLUSH: UnsafePair = {
  name: 'SPLIT_PREFLUSH',
  combination: "a request's preflush and data sent as two concurrent commands",
  breaks: 'the data may land before what the flush covers (an NVMe driver had this bug)',
};

/** The matrix: what each mode gives on a device whose completed writes are stable, or volatile. */
export const GUARANTEES: Readonly<
  Record<
    ModeName,
    {
      /** Completion means on the medium: no cache, or a protected one. */
      readonly stable: GuaranteeRow;
      /** Completion means in a cache that a power cut empties. */
      readonly volatile: GuaranteeRow;
    }
  >
> = /* @__PURE__ */ matrix();

/** In a function of its own, so that a bundle that does not use the matrix does not hold it. */
function matrix(): typeof GUARANTEES {
  const rows = MODE_NAMES.map((name) => {
    const rowOn = (cache: DeviceTraits['cache']): GuaranteeRow => {
      const device = { cache, flush: true, fua: true, orderedTags: true };
      const { mode, verdict, reason, fuaEmulated, failureStopsBarrier, unsafe, ...answers } =
        guarantees(name, device);
      return { answers, verdict, reason };
    };
    return [name, { stable: rowOn('none'), volatile: rowOn('volatile') }] as const;
  });
  return Object.freeze(Object.fromEntries(rows)) as typeof GUARANTEES;
}

/**
 * The unsafe combinations, with the litmus tests that show them. The first three follow from capabilities; the others
 * cannot be seen in them.
 */
export const UNSAFE_PAIRS: Readonly<
  Record<
    UnsafePair['name'],
    UnsafePair & {
      /** The litmus tests that show it. */
      readonly litmus: readonly string[];
    }
  >
> = /* @__PURE__ */ allPairs();

/** In a function of its own, so that a bundle that does not use the table does not hold it. */
function allPairs(): typeof UNSAFE_PAIRS {
  return Object.freeze({
    CACHE_NOT_FLUSHED: { ...CACHE_NOT_FLUSHED, litmus: ['L1', 'L2', 'L3', 'L6', 'L9', 'L10'] },
    NO_FLUSH: { ...NO_FLUSH, litmus: ['L1', 'L3', 'L6'] },
    NO_ORDERED_TAGS: { ...NO_ORDERED_TAGS, litmus: ['L1', 'L2', 'L3b', 'L6'] },
    TAG_ERRORS: { ...TAG_ERRORS, litmus: ['F1', 'F3'] },
    FLUSH_IGNORED: { ...FLUSH_IGNORED, litmus: ['L1', 'L3', 'L6'] },
    FUA_IGNORED: { ...FUA_IGNORED, litmus: ['L2', 'L3a'] },
    FUA_AS_FENCE: { ...FUA_AS_FENCE, litmus: ['L12'] },
    TORN_BARRIER: { ...TORN_BARRIER, litmus: ['L8'] },
    OVERLAP_IN_FLIGHT: { ...OVERLAP_IN_FLIGHT, litmus: [] },
    SPLIT_PREFLUSH: { ...SPLIT_PREFLUSH, litmus: ['L1'] },
  });
}
