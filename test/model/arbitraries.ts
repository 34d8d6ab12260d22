// Arbitraries of the model's values, for every property test. Programs stay within a few blocks, so
// that requests meet; flags are present or absent and never false, as the notation reads them.

import fc from 'fast-check';
import {
  type BarrierRequest,
  type DeviceTraits,
  type DiscardRequest,
  type FlushRequest,
  isBarrier,
  MODE_NAMES,
  MODES,
  type ModeName,
  NOTATION_BLOCK_SIZE,
  type ReadRequest,
  type Request,
  type WriteRequest,
  type WriteZeroesRequest,
} from '../../src/model/index.js';

/** How many blocks the ranges of a program lie in. */
export const PROGRAM_BLOCKS = 8;

/** Some bytes of a storage. */
export interface Range {
  readonly offset: number;
  readonly length: number;
}

/** One to three whole blocks among the first `PROGRAM_BLOCKS`. */
export const blockRanges: fc.Arbitrary<Range> = fc
  .record({
    start: fc.nat({ max: PROGRAM_BLOCKS - 1 }),
    blocks: fc.integer({ min: 1, max: 3 }),
  })
  .map(({ start, blocks }) => ({
    offset: start * NOTATION_BLOCK_SIZE,
    length: Math.min(blocks, PROGRAM_BLOCKS - start) * NOTATION_BLOCK_SIZE,
  }));

/** Any bytes that a number can name. */
export const byteRanges: fc.Arbitrary<Range> = fc
  .record({
    offset: fc.maxSafeNat(),
    length: fc.oneof(fc.integer({ min: 1, max: 1 << 20 }), fc.maxSafeNat()),
  })
  .map(({ offset, length }) => ({
    offset: Math.min(offset, Number.MAX_SAFE_INTEGER - 1),
    length: Math.max(1, Math.min(length, Number.MAX_SAFE_INTEGER - offset)),
  }));

/** A subset of the flags, each of them true. */
function flags<K extends string>(...names: readonly K[]): fc.Arbitrary<{ [name in K]?: true }> {
  return fc
    .subarray([...names])
    .map(
      (chosen) => Object.fromEntries(chosen.map((name) => [name, true])) as { [name in K]?: true },
    );
}

/** The arbitraries of requests whose ranges are drawn from `ranges`. */
export interface RequestArbitraries {
  readonly reads: fc.Arbitrary<ReadRequest>;
  /** Writes that are no barriers, with any of the other flags. */
  readonly writes: fc.Arbitrary<WriteRequest>;
  /** Writes that are barriers, with any of the other flags. */
  readonly barrierWrites: fc.Arbitrary<WriteRequest>;
  readonly discards: fc.Arbitrary<DiscardRequest>;
  readonly zeroings: fc.Arbitrary<WriteZeroesRequest>;
  /** All kinds with all flags. */
  readonly requests: fc.Arbitrary<Request>;
}

export function requestsOver(ranges: fc.Arbitrary<Range>): RequestArbitraries {
  const written = flags('preflush', 'fua');
  const reads = ranges.map((range): ReadRequest => ({ kind: 'read', ...range }));
  const writes = fc
    .tuple(ranges, written)
    .map(([range, chosen]): WriteRequest => ({ kind: 'write', ...range, ...chosen }));
  const barrierWrites = writes.map((write): WriteRequest => ({ ...write, barrier: true }));
  const discards = ranges.map((range): DiscardRequest => ({ kind: 'discard', ...range }));
  const zeroings = ranges.map((range): WriteZeroesRequest => ({ kind: 'writeZeroes', ...range }));
  const requests = fc.oneof(
    { arbitrary: writes, weight: 4 },
    { arbitrary: barrierWrites, weight: 2 },
    { arbitrary: emptyBarriers, weight: 1 },
    { arbitrary: flushes, weight: 1 },
    { arbitrary: reads, weight: 1 },
    { arbitrary: discards, weight: 1 },
    { arbitrary: zeroings, weight: 1 },
  );
  return { reads, writes, barrierWrites, discards, zeroings, requests };
}

export const flushes: fc.Arbitrary<FlushRequest> = fc.constant({ kind: 'flush' });
export const emptyBarriers: fc.Arbitrary<BarrierRequest> = fc.constant({ kind: 'barrier' });

const few = requestsOver(blockRanges);

export const writes: fc.Arbitrary<WriteRequest> = few.writes;
export const barrierWrites: fc.Arbitrary<WriteRequest> = few.barrierWrites;
/** With data or empty. */
export const barriers: fc.Arbitrary<Request> = fc.oneof(barrierWrites, emptyBarriers);
export const requests: fc.Arbitrary<Request> = few.requests;
/** Neither a barrier nor flagged. */
export const plainRequests: fc.Arbitrary<Request> = requests.map((request): Request => {
  if (request.kind === 'barrier') return { kind: 'flush' };
  if (request.kind !== 'write') return request;
  return { kind: 'write', offset: request.offset, length: request.length };
});
/** Anything but barriers. */
export const unorderedRequests: fc.Arbitrary<Request> = requests.filter(
  (request) => !isBarrier(request),
);

/** A dozen requests over a few blocks. */
export const programs: fc.Arbitrary<Request[]> = fc.array(requests, { maxLength: 12 });

export const modeNames: fc.Arbitrary<ModeName> = fc.constantFrom(...MODE_NAMES);
/** The modes that take barriers. */
export const barrierModes: fc.Arbitrary<ModeName> = modesThat((name) => MODES[name].by !== 'none');
export const drainModes: fc.Arbitrary<ModeName> = modesThat((name) => MODES[name].by === 'drain');
export const tagModes: fc.Arbitrary<ModeName> = modesThat((name) => MODES[name].by === 'tag');

function modesThat(accept: (name: ModeName) => boolean): fc.Arbitrary<ModeName> {
  return fc.constantFrom(...MODE_NAMES.filter(accept));
}

const CACHES = ['none', 'volatile', 'protected'] as const;
const BOTH = [false, true] as const;

/** Every device that can be described: few enough to walk them all. */
export const ALL_DEVICES: readonly DeviceTraits[] = CACHES.flatMap((cache) =>
  BOTH.flatMap((flush) =>
    BOTH.flatMap((fua) => BOTH.map((orderedTags) => ({ cache, flush, fua, orderedTags }))),
  ),
);

export const devices: fc.Arbitrary<DeviceTraits> = fc.constantFrom(...ALL_DEVICES);
