// What can go wrong with a simulated disk, as data: a plan of faults can be generated, printed, shrunk and pasted back.
//
// A fault has three sides, and each is told here once: what the device makes of the command (FATES, SPOILS, DROPS), what
// the host hears (FAILS), and what the trace has to say so that the crash space knows what really happened (tracedOf).
// Without a fault the answer says what happened, so most are empty on two of the three sides.
//
// Not here: when a fault happens (volatile-disk.ts), and faults of a real storage under test (storage/faults.ts).

import { WriteBarrierError } from '../../model/index.js';
import type { Fate } from './device.js';
import type { TracedFault } from './disk-trace.js';

/**
 * What goes wrong, and at which command of its kind, counted from 0.
 *
 * Writes: `fail` writes nothing and says so; `partial` writes some sectors and says that it failed; `ghost` says
 * that it failed and writes all the same; `stray` does, too, and writes whenever it likes, also over what came later;
 * `lost` says that it wrote; `unserializable` wrote it to the cache and may leave it there, whatever is flushed or
 * ordered behind it; `rot` changes one bit of the first sector; `latent` leaves the first sector unreadable;
 * `misdirected` writes at `at` instead, and says nothing.
 *
 * Flushes: `keep` fails and can be repeated; `drop` fails and gives the cache up, so the next one succeeds;
 * `drop-readback` does, too, and the host still reads what is gone; `late` succeeds, and the next one fails;
 * `elsewhere` gives the cache up and succeeds, and the next flush of another opener fails; `sticky` fails, and so does
 * everything after it.
 *
 * Reads: `fail`; `rot` flips one bit of what is read.
 */
export type DiskFault =
  | FaultAt<
      'write',
      'fail' | 'partial' | 'ghost' | 'stray' | 'lost' | 'unserializable' | 'rot' | 'latent'
    >
  | (FaultAt<'write', 'misdirected'> & {
      /** Where it lands instead, in bytes from the start of the disk. */
      readonly at: number;
    })
  | FaultAt<'flush', 'keep' | 'drop' | 'drop-readback' | 'late' | 'elsewhere' | 'sticky'>
  | FaultAt<'read', 'fail' | 'rot'>;

/** A fault at one command. */
export interface FaultAt<On, What> {
  /** The kind of command; discards and zeroes count as writes. */
  readonly on: On;
  /** Which of them, from 0. */
  readonly nth: number;
  /** What goes wrong. */
  readonly fault: What;
}

/** What the device has to know of a write. */
export const FATES: readonly Fate[] = ['stray', 'unserializable', 'rot', 'latent'];

/** These give up what is cached. */
export const DROPS: ReadonlySet<string> = new Set(['drop', 'drop-readback', 'elsewhere']);

/** These do not do what they are to do, or not all of it. */
export const SPOILS: ReadonlySet<string> = new Set([
  'fail',
  'lost',
  'partial',
  'keep',
  'late',
  'sticky',
  ...DROPS,
]);

/** These are told. */
export const FAILS: ReadonlySet<string> = new Set([
  'fail',
  'partial',
  'ghost',
  'stray',
  'keep',
  'drop',
  'drop-readback',
  'sticky',
]);

/** What the crash space has to know of a fault besides that the command failed. */
export function tracedOf(fault: DiskFault | undefined): TracedFault | undefined {
  if (fault?.on === 'read') return undefined;
  switch (fault?.fault) {
    case 'fail':
    case 'lost':
      return { kind: 'lost' };
    case 'misdirected':
      return { kind: 'misdirected', at: fault.at };
    case 'stray':
    case 'unserializable':
    case 'rot':
    case 'latent':
      return { kind: fault.fault };
    case 'late':
      return { kind: 'hollow' };
    case 'drop':
    case 'drop-readback':
    case 'elsewhere':
      return { kind: 'drop' };
    default:
      return undefined;
  }
}

const KINDS: Readonly<Record<DiskFault['on'], readonly string[]>> = {
  write: [
    'fail',
    'partial',
    'ghost',
    'stray',
    'lost',
    'unserializable',
    'rot',
    'latent',
    'misdirected',
  ],
  flush: ['keep', 'drop', 'drop-readback', 'late', 'elsewhere', 'sticky'],
  read: ['fail', 'rot'],
};

/** @throws `INVALID_ARGUMENT` for a fault that there is not, or that can never happen */
export function checkFault(fault: DiskFault, size: number, sectorSize: number): void {
  const { on, nth, fault: kind } = fault;
  const isKnown = Object.hasOwn(KINDS, on) && KINDS[on].includes(kind);
  const isSomewhere =
    kind !== 'misdirected' ||
    (Number.isSafeInteger(fault.at) &&
      fault.at >= 0 &&
      fault.at < size &&
      fault.at % sectorSize === 0);
  if (isKnown && isSomewhere && Number.isSafeInteger(nth) && nth >= 0) return;
  throw new WriteBarrierError('INVALID_ARGUMENT', `there is no fault ${JSON.stringify(fault)}`);
}
