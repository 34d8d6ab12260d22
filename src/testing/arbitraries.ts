// Arbitraries for fast-check: programs, devices, faults, orders of answers and crash states, each shrinking to what is
// easiest to understand.
//
// fast-check is given as an argument and never imported, so this entry point works without it. Programs stay within
// a few blocks, so that requests meet. A shrunk program is shorter and plainer; a shrunk device is the honest disk; a
// shrunk crash state is an earlier cut that loses less.

import type { Arbitrary, default as FastCheck } from 'fast-check';
import { MODE_NAMES, type ModeName, type Request } from '../model/index.js';
import type { CrashSpace, CrashState } from './crash-space.js';
import type { DiskFault } from './disk-faults.js';
import { type DeviceProfile, deviceProfile } from './profile.js';

/** What programs are made of. */
export interface ProgramOptions {
  /** Requests at the most; 20 unless given. */
  readonly requestsMax?: number;
  /** Requests stay within so many blocks; 8 unless given. */
  readonly blocks?: number;
  /** In bytes; 512 unless given. */
  readonly blockSize?: number;
}

/** What `arbitraries` makes. */
export interface Arbitraries {
  /** Any requests, any flags. */
  program(options?: ProgramOptions): Arbitrary<readonly Request[]>;
  /** One of the seven modes; shrinks to NONE. */
  readonly mode: Arbitrary<ModeName>;
  /** A device, honest or not. */
  readonly profile: Arbitrary<DeviceProfile>;
  /** Up to `faultsMax` faults, 3 unless given, each at another command. */
  faultPlan(faultsMax?: number): Arbitrary<readonly DiskFault[]>;
  /** The seed of a `VolatileDisk`: which order of answers it picks. */
  readonly completionOrder: Arbitrary<number>;
  /** A state of the space. */
  crashState(space: CrashSpace): Arbitrary<CrashState>;
}

/** The arbitraries, made with your fast-check: `arbitraries(fc)`. */
export function arbitraries(fc: typeof FastCheck): Arbitraries {
  return {
    program: (options = {}) => programs(fc, options),
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

function programs(
  fc: typeof FastCheck,
  { requestsMax = 20, blocks = 8, blockSize = 512 }: ProgramOptions,
): Arbitrary<readonly Request[]> {
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
  const request = fc.oneof(
    { weight: 6, arbitrary: write },
    { weight: 2, arbitrary: bare },
    { weight: 1, arbitrary: other('read') },
    { weight: 1, arbitrary: fc.oneof(other('writeZeroes'), other('discard')) },
  );
  return fc.array(request, { maxLength: requestsMax });
}

/** First an earlier cut, then a smaller loss. */
function crashStates(fc: typeof FastCheck, space: CrashSpace): Arbitrary<CrashState> {
  return fc.nat({ max: space.versionCount }).chain((visible) => {
    if (visible === 0) return fc.constant(space.at(0n));
    const { choices, state } = space.under(visible - 1);
    return fc.tuple(...choices.map((of) => fc.nat({ max: of - 1 }))).map(state);
  });
}

function profiles(fc: typeof FastCheck): Arbitrary<DeviceProfile> {
  return fc
    .record({
      cache: fc.constantFrom('volatile' as const, 'none' as const, 'protected' as const),
      fua: fc.constantFrom(true, false),
      orderedTags: fc.constantFrom(true, false),
      discard: fc.constantFrom('zero' as const, 'old-or-zero' as const),
      tear: fc.constantFrom('sector' as const, 'shorn' as const, 'garbage' as const),
      lies: fc.subarray(['ignoreFlush', 'ignoreFua', 'ignoreTags'] as const),
    })
    .map((fields) => deviceProfile(fields));
}

function faults(fc: typeof FastCheck): Arbitrary<DiskFault> {
  const at = <On extends DiskFault['on']>(on: On, kinds: readonly string[]) =>
    fc.record({ on: fc.constant(on), nth: fc.nat({ max: 9 }), fault: fc.constantFrom(...kinds) });
  return fc.oneof(
    at('write', ['fail', 'partial', 'ghost', 'lost']),
    at('flush', ['keep', 'drop', 'drop-readback', 'late', 'sticky']),
    at('read', ['fail', 'rot']),
  ) as Arbitrary<DiskFault>;
}
