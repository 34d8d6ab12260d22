// What a mode really promises on a device: the matrix, as data, with a reason a person can read.
//
// Fourteen rows, seven modes times two kinds of device: where completion means "on the medium" (no cache,
// or a protected one: `stable`) and where it does not (`volatile`). The columns ask about a barrier B, what
// was submitted before it (pre) and after it (post).
//
// True in no mode, so in no column: an order among the plain requests between two barriers; atomicity of
// a barrier that spans several sectors; a promise about later requests.
//
// Not here: devices that lie, which no capability tells. They are named in unsafe-pairs.ts.
//
// Source: the truth table was computed by exhaustive search of a model of the device; the litmus names
// (L1, F3, ...) are those of the litmus tables in the documentation.

import { type DeviceTraits, type ModeName, modeOf } from './mode.js';
import { CACHE_NOT_FLUSHED, NO_FLUSH, NO_ORDERED_TAGS, type UnsafePair } from './unsafe-pairs.js';

/**
 * `yes` and `no`; `host-waits`: only because the host itself waited for completion; `refused`: the
 * question does not arise, the barrier is refused.
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
 * About power cuts. `safe`: order and durability hold. `safe-without-errors`: they hold as long as no
 * command fails, because with tags the device already has the barrier when the write before it fails.
 * `host-ordered`: nothing but the host's own waiting orders anything. `unsafe`: it loses data.
 */
export type Verdict = 'safe' | 'safe-without-errors' | 'host-ordered' | 'unsafe';

/** What a mode promises on a device. */
export interface Guarantees extends GuaranteeAnswers {
  /** The mode that was asked about. */
  readonly mode: ModeName;
  /** The row in one word. `unsafe` is what a scheduler refuses unless `allowUnsafe`. */
  readonly verdict: Verdict;
  /** One sentence for a person. */
  readonly reason: string;
  /** The device forces a FUA write by writing and then flushing. */
  readonly fuaEmulated: boolean;
  /**
   * With the error policy `abort` a failed write stops the barrier that covers it. Only drain modes can:
   * with tags the barrier has already been handed to the device.
   */
  readonly failureStopsBarrier: boolean;
  /** Why the pair is unsafe; empty where it is not. */
  readonly unsafe: readonly UnsafePair[];
}

/** One cell of the matrix: a mode on a kind of device. */
export interface GuaranteeRow {
  /** The columns of the matrix. */
  readonly answers: GuaranteeAnswers;
  /** What they come to. */
  readonly verdict: Verdict;
  /** One sentence for a person. */
  readonly reason: string;
}

const answers = (
  completionOrder: Answer,
  preBeforeBarrier: Answer,
  barrierBeforePost: Answer,
  barrierDurable: Answer,
  coveredDurable: Answer,
  emptyBarrierFlushes: Answer,
  plainDurable: Answer,
): GuaranteeAnswers => ({
  completionOrder,
  preBeforeBarrier,
  barrierBeforePost,
  barrierDurable,
  coveredDurable,
  emptyBarrierFlushes,
  plainDurable,
});

const DRAIN_STABLE = answers('yes', 'yes', 'yes', 'yes', 'yes', 'yes', 'yes');
const DRAIN_VOLATILE = answers('yes', 'yes', 'yes', 'yes', 'yes', 'yes', 'no');
const TAG_STABLE = answers('no', 'yes', 'yes', 'yes', 'yes', 'yes', 'yes');
const TAG_VOLATILE = answers('no', 'yes', 'yes', 'yes', 'yes', 'yes', 'no');

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
> = Object.freeze({
  NONE: {
    stable: {
      answers: answers('no', 'host-waits', 'host-waits', 'refused', 'no', 'no', 'yes'),
      verdict: 'host-ordered',
      reason:
        'Barriers are refused; a completed write is on the medium, so whoever waits has order.',
    },
    volatile: {
      answers: answers('no', 'no', 'no', 'refused', 'no', 'no', 'no'),
      verdict: 'unsafe',
      reason:
        'Barriers are refused, and a completed write may be lost until a flush has completed.',
    },
  },
  DRAIN: {
    stable: {
      answers: DRAIN_STABLE,
      verdict: 'safe',
      reason: 'The queue empties around each barrier, and what completed is on the medium.',
    },
    volatile: {
      answers: answers('yes', 'no', 'no', 'no', 'no', 'no', 'no'),
      verdict: 'unsafe',
      reason:
        'Only completions are in order: the cache keeps what completed and destages it in any order.',
    },
  },
  DRAIN_FLUSH: {
    stable: {
      answers: DRAIN_STABLE,
      verdict: 'safe',
      reason: 'As DRAIN: without a volatile cache there is nothing to flush.',
    },
    volatile: {
      answers: DRAIN_VOLATILE,
      verdict: 'safe',
      reason:
        'The queue empties and the cache is flushed before and after each barrier, so both sides keep to it.',
    },
  },
  DRAIN_FUA: {
    stable: {
      answers: DRAIN_STABLE,
      verdict: 'safe',
      reason: 'As DRAIN: without a volatile cache there is nothing to flush or to force.',
    },
    volatile: {
      answers: DRAIN_VOLATILE,
      verdict: 'safe',
      reason:
        'The queue empties, the cache is flushed, and the barrier is forced to the medium before anything follows.',
    },
  },
  TAG: {
    stable: {
      answers: TAG_STABLE,
      verdict: 'safe',
      reason:
        'The device runs the barrier between its neighbours, and what it ran is on the medium.',
    },
    volatile: {
      answers: answers('no', 'no', 'no', 'no', 'no', 'no', 'no'),
      verdict: 'unsafe',
      reason:
        'Tags order execution and not the cache: the classic trap, nothing is in order on the medium.',
    },
  },
  TAG_FLUSH: {
    stable: {
      answers: TAG_STABLE,
      verdict: 'safe',
      reason: 'As TAG: without a volatile cache there is nothing to flush.',
    },
    volatile: {
      answers: TAG_VOLATILE,
      verdict: 'safe-without-errors',
      reason:
        'Tagged flushes before and after the barrier keep both sides to it, as long as nothing fails.',
    },
  },
  TAG_FUA: {
    stable: {
      answers: TAG_STABLE,
      verdict: 'safe',
      reason: 'As TAG: without a volatile cache there is nothing to flush or to force.',
    },
    volatile: {
      answers: TAG_VOLATILE,
      verdict: 'safe-without-errors',
      reason:
        'A tagged flush and a forced tagged write keep both sides to the barrier, as long as nothing fails.',
    },
  },
});

/**
 * What the mode promises on a device with these capabilities, under the assumption that the device does
 * what it says.
 *
 * @throws `EINVAL` for a name that is not one of the seven
 */
export function guarantees(name: ModeName, device: DeviceTraits): Guarantees {
  const mode = modeOf(name);
  const cached = device.cache === 'volatile';
  const flushes = mode.by !== 'none' && mode.cache !== 'through';
  const side = cached ? 'volatile' : 'stable';
  const noFlush = cached && flushes && !device.flush;
  const noTags = mode.by === 'tag' && !device.orderedTags;

  const unsafe: UnsafePair[] = [];
  if (cached && !flushes) unsafe.push(CACHE_NOT_FLUSHED);
  if (noFlush) unsafe.push(NO_FLUSH);
  if (noTags) unsafe.push(NO_ORDERED_TAGS);

  // Without a flush command a mode keeps what its plain sibling keeps on a cache.
  const row = GUARANTEES[noFlush ? (mode.by === 'tag' ? 'TAG' : 'DRAIN') : name][side];
  const broken = noTags ? NO_ORDERED_TAGS : noFlush ? NO_FLUSH : undefined;
  return {
    mode: name,
    ...row.answers,
    ...(noTags && UNORDERED),
    ...(noTags && cached && { barrierDurable: 'no', emptyBarrierFlushes: 'no' }),
    verdict: broken ? 'unsafe' : row.verdict,
    reason: broken ? `This is ${broken.combination}; it breaks ${broken.breaks}.` : row.reason,
    fuaEmulated: cached && device.flush && !device.fua,
    failureStopsBarrier: mode.by === 'drain',
    unsafe,
  };
}

/** What is left of a tag mode where nobody keeps the tags: an empty barrier drains where nothing is volatile. */
const UNORDERED = {
  completionOrder: 'no',
  preBeforeBarrier: 'no',
  barrierBeforePost: 'no',
  coveredDurable: 'no',
} as const;
