// Combinations of mode and device that do not keep what they seem to promise. The first three follow from
// capabilities, and `guarantees` names them; no device admits to the others. Each stands alone, so that a bundle
// holds the ones it uses.

/** The names of the unsafe combinations. */
export type UnsafePairName =
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

/** A combination of mode and device that does not keep what it seems to promise. */
export interface UnsafePair {
  /** Stable name, for messages and for tests. */
  readonly name: UnsafePairName;
  /** The combination, in words. */
  readonly combination: string;
  /** What goes wrong, in words. */
  readonly breaks: string;
  /** The litmus tests that show it. */
  readonly litmus: readonly string[];
}

export const CACHE_NOT_FLUSHED: UnsafePair = {
  name: 'CACHE_NOT_FLUSHED',
  combination: 'NONE, DRAIN or TAG on a volatile cache',
  breaks: 'everything but the order of completions: the cache destages in any order it likes',
  litmus: ['L1', 'L2', 'L3', 'L6', 'L9', 'L10'],
};

export const NO_FLUSH: UnsafePair = {
  name: 'NO_FLUSH',
  combination: 'a flush mode on a volatile cache that has no flush command',
  breaks: 'order and durability: there is no way past the cache',
  litmus: ['L1', 'L3', 'L6'],
};

export const NO_ORDERED_TAGS: UnsafePair = {
  name: 'NO_ORDERED_TAGS',
  combination: 'a tag mode on a device or transport that does not keep ordered tags',
  breaks: 'order, even without a cache: the scheduler does not wait and nobody else does',
  litmus: ['L1', 'L2', 'L3b', 'L6'],
};

const TAG_ERRORS: UnsafePair = {
  name: 'TAG_ERRORS',
  combination: 'a tag mode on a device that goes on with its queue after an error',
  breaks: 'the barrier lands although a write or a flush that it certifies failed',
  litmus: ['F1', 'F3'],
};

const FLUSH_IGNORED: UnsafePair = {
  name: 'FLUSH_IGNORED',
  combination: 'a flush mode on a device that answers flushes without doing them',
  breaks: 'order and durability; with FUA the barrier survives, what it covers does not',
  litmus: ['L1', 'L3', 'L6'],
};

const FUA_IGNORED: UnsafePair = {
  name: 'FUA_IGNORED',
  combination: 'a FUA mode on a cached device that ignores FUA',
  breaks: 'durability of the barrier at its completion, and its order before what follows',
  litmus: ['L2', 'L3a'],
};

const FUA_AS_FENCE: UnsafePair = {
  name: 'FUA_AS_FENCE',
  combination: 'a plain FUA write used as a fence on a volatile cache',
  breaks: 'it is durable itself and orders nothing before it',
  litmus: ['L12'],
};

const TORN_BARRIER: UnsafePair = {
  name: 'TORN_BARRIER',
  combination: "a barrier larger than the device's atomic unit, without a checksum",
  breaks: 'a power cut leaves part of the barrier',
  litmus: ['L8'],
};

const OVERLAP_IN_FLIGHT: UnsafePair = {
  name: 'OVERLAP_IN_FLIGHT',
  combination: 'overlapping writes in flight together',
  breaks: 'either may win; the scheduler never issues such a pair with simple tags',
  litmus: [],
};

const SPLIT_PREFLUSH: UnsafePair = {
  name: 'SPLIT_PREFLUSH',
  combination: "a request's preflush and data sent as two concurrent commands",
  breaks: 'the data may land before what the flush covers (an NVMe driver had this bug)',
  litmus: ['L1'],
};

/** The unsafe combinations. The first three follow from capabilities; no device admits to the others. */
export const UNSAFE_PAIRS: Readonly<Record<UnsafePairName, UnsafePair>> =
  /* @__PURE__ */ Object.freeze({
    CACHE_NOT_FLUSHED,
    NO_FLUSH,
    NO_ORDERED_TAGS,
    TAG_ERRORS,
    FLUSH_IGNORED,
    FUA_IGNORED,
    FUA_AS_FENCE,
    TORN_BARRIER,
    OVERLAP_IN_FLIGHT,
    SPLIT_PREFLUSH,
  });
