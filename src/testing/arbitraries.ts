/**
 * Arbitraries for fast-check: programs, devices, faults, orders of answers and crash states. Each shrinks to what is
 * easiest to understand: a program to a shorter and plainer one, a device to the honest disk, a crash state to an
 * earlier cut that loses less. Programs stay within a few blocks, so that requests overlap.
 *
 * fast-check is an argument and is never imported, because this package does not depend on it. Only this entry point
 * has its types in the declarations.
 *
 * @module write-barrier/testing/arbitraries
 */
import type { Arbitrary, default as FastCheck } from 'fast-check';
import {
  checkArgument,
  checkOptions,
  type KnownOptions,
  MODE_NAMES,
  type ModeName,
  type Request,
  rule,
} from '../model/index.js';
import type { DiskFault } from './device/disk-faults.js';
import { type DeviceProfile, deviceProfile } from './device/profile.js';
import type { CrashSpace } from './space/crash-space.js';
import type { CrashState } from './space/crash-state.js';

/** The form of generated programs. */
export interface ProgramOptions {
  /** The maximum number of requests. @defaultValue 20 */
  readonly requestsMax?: number;
  /** All requests are within so many blocks. @defaultValue 8 */
  readonly blocks?: number;
  /** In bytes. @defaultValue 512 */
  readonly blockSize?: number;
}

const REQUEST_OPTIONS = { blocks: 0, blockSize: 0 };
const PROGRAM_OPTIONS: KnownOptions<ProgramOptions> = { ...REQUEST_OPTIONS, requestsMax: 0 };

/** The arbitraries that `arbitraries(fc)` makes. */
export interface Arbitraries {
  /** Any request with any flags, for model-based commands. */
  request(options?: Omit<ProgramOptions, 'requestsMax'>): Arbitrary<Request>;
  /** A list of requests. */
  program(options?: ProgramOptions): Arbitrary<readonly Request[]>;
  /** One of the seven modes; shrinks to NONE. */
  readonly mode: Arbitrary<ModeName>;
  /** A device, honest or not. */
  readonly profile: Arbitrary<DeviceProfile>;
  /** Up to `faultsMax` faults, by default 3, each at another command. */
  faultPlan(faultsMax?: number): Arbitrary<readonly DiskFault[]>;
  /** The seed of a `VolatileDisk`, which selects its order of answers. */
  readonly completionOrder: Arbitrary<number>;
  /** A crash state of the space. */
  crashState(space: CrashSpace): Arbitrary<CrashState>;
}

const FAST_CHECK = /* @__PURE__ */ rule(
  (value) => typeof Object(value).constantFrom === 'function',
  'fast-check',
);

/**
 * The arbitraries, made with your fast-check: `arbitraries(fc)`.
 *
 * @throws `INVALID_ARGUMENT` for what is not fast-check
 */
export function arbitraries(fc: typeof FastCheck): Arbitraries {
  checkArgument('fc', fc, FAST_CHECK);
  return {
    request: (options = {}) => {
      checkOptions(options, REQUEST_OPTIONS, 'request');
      return requests(fc, options);
    },
    program: (options = {}) => {
      checkOptions(options, PROGRAM_OPTIONS, 'program');
      const { requestsMax = 20, ...rest } = options;
      return fc.array(requests(fc, rest), { maxLength: requestsMax });
    },
    mode: fc.constantFrom(...MODE_NAMES),
    profile: profiles(fc),
    faultPlan: (faultsMax = 3) =>
      fc.uniqueArray(faults(fc), {
        maxLength: faultsMax,
        selector: ({ on, nth }) => `${on} ${nth}`,
      }),
    completionOrder: fc.nat(),
    crashState: (space) => crashStates(fc, space),
  };
}

function requests(
  fc: typeof FastCheck,
  { blocks = 8, blockSize = 512 }: ProgramOptions,
): Arbitrary<Request> {
  const range = fc
    .tuple(fc.nat({ max: blocks - 1 }), fc.integer({ min: 1, max: 3 }))
    .map(([first, length]) => ({
      offset: first * blockSize,
      length: Math.min(length, blocks - first) * blockSize,
    }));
  const flags = fc.subarray(['barrier', 'preflush', 'fua'] as const);
  const write = fc.tuple(range, flags).map(
    ([where, chosen]): Request => ({
      kind: 'write',
      ...where,
      ...Object.fromEntries(chosen.map((flag) => [flag, true])),
    }),
  );
  const other = (kind: 'read' | 'discard' | 'writeZeroes') =>
    range.map((where): Request => ({ kind, ...where }));
  const bare = fc.constantFrom<Request>({ kind: 'flush' }, { kind: 'barrier' });
  return fc.oneof(
    { weight: 6, arbitrary: write },
    { weight: 2, arbitrary: bare },
    { weight: 1, arbitrary: other('read') },
    { weight: 1, arbitrary: fc.oneof(other('writeZeroes'), other('discard')) },
  );
}

/** First an earlier cut, then a smaller loss. */
function crashStates(fc: typeof FastCheck, space: CrashSpace): Arbitrary<CrashState> {
  const lasts = [...space.lasts()];
  return fc.nat({ max: lasts.length }).chain((visible) => {
    const last = lasts[visible - 1];
    if (!last) return fc.constant(space.at(0n));
    const choices = [...space.choicesUnder(last)].map(([, list]) => list);
    return fc.tuple(...choices.map(({ length }) => fc.nat({ max: length - 1 }))).map((lost) => {
      const versions = choices.map((list, place) => list[list.length - 1 - (lost[place] ?? 0)]);
      return space.stateWith(Int32Array.from(versions as number[]));
    });
  });
}

function profiles(fc: typeof FastCheck): Arbitrary<DeviceProfile> {
  return fc
    .record({
      cache: fc.constantFrom('volatile' as const, 'none' as const, 'protected' as const),
      fua: fc.constantFrom(true, false),
      orderedTags: fc.constantFrom(true, false),
      writeZeroes: fc.constantFrom(true, false),
      discard: fc.constantFrom<DeviceProfile['discard']>(
        'none',
        'zero',
        'old-or-zero',
        'arbitrary',
      ),
      tear: fc.constantFrom('sector' as const, 'shorn' as const, 'garbage' as const),
      sameLba: fc.constantFrom('fifo' as const, 'racy' as const),
      onTagError: fc.constantFrom('continue' as const, 'abort-queue' as const),
      units: fc.constantFrom(1, 8),
      lies: fc.subarray(['ignoreFlush', 'ignoreFua', 'ignoreTags', 'claimWriteThrough'] as const),
    })
    .map(({ units, lies, ...fields }) => {
      const { cache } = fields;
      return deviceProfile({
        ...fields,
        // A device that reports its cache does not claim to write through.
        atomicWriteUnit: 512 * units,
        lies: lies.filter((lie) => cache !== 'volatile' || lie !== 'claimWriteThrough'),
      });
    });
}

function faults(fc: typeof FastCheck): Arbitrary<DiskFault> {
  const at = <On extends DiskFault['on']>(on: On, kinds: readonly string[]) =>
    fc.record({ on: fc.constant(on), nth: fc.nat({ max: 9 }), fault: fc.constantFrom(...kinds) });
  const misdirected = fc.record({
    on: fc.constant('write'),
    nth: fc.nat({ max: 9 }),
    fault: fc.constant('misdirected'),
    at: fc.nat({ max: 7 }).map((sector) => sector * 512),
  });
  return fc.oneof(
    at('write', ['fail', 'partial', 'ghost', 'stray', 'lost', 'unserializable', 'rot', 'latent']),
    misdirected,
    at('flush', ['keep', 'drop', 'drop-readback', 'late', 'elsewhere', 'sticky']),
    at('read', ['fail', 'rot']),
  ) as Arbitrary<DiskFault>;
}
