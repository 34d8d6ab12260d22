// The faults of a simulated disk, as data: a list of faults can be generated, printed, shrunk and pasted back.
//
// A fault has three sides, each defined here once: what the device does with the command (FATES, SPOILS, DROPS), what it
// answers (FAILS), and what the trace records so that the crash space knows what really happened (tracedOf).
//
// Not here: when a fault happens (volatile-disk.ts), and faults of a real storage under test (storage/faults.ts).

import { checkOptions, formatValue, invalid, misuse, wholeNumber } from '../../model/index.js';
import type { Fate } from './device.js';
import type { TracedFault } from './disk-trace.js';

/**
 * A fault of a simulated disk: what goes wrong, and at which command of its kind.
 *
 * Writes: `fail` answers with an error and writes nothing; `partial` answers with an error and writes some sectors; `ghost`
 * answers with an error and writes everything; `stray` is a `ghost` that lands at any later moment, also over later writes;
 * `lost` succeeds and writes nothing; `unserializable` succeeds and may stay in the cache, whatever is flushed or ordered
 * after it; `rot` flips one bit of the first sector; `latent` leaves the first sector unreadable; `misdirected` succeeds and
 * writes at `at` instead.
 *
 * Flushes: `keep` fails and can be repeated; `drop` fails and gives up the cache, so the next flush succeeds;
 * `drop-readback` is a `drop` after which the host still reads what is gone; `late` succeeds without effect, and the next
 * flush fails; `elsewhere` gives up the cache and succeeds, and the next flush of another opener fails; `sticky` fails, and
 * so do all later commands.
 *
 * Reads: `fail` answers with an error; `rot` flips one bit of what is read.
 */
export type DiskFault =
  | {
      /** The kind of command; discards and zeroes count as writes. */
      readonly on: 'write';
      /** Which command of its kind, from 0. */
      readonly nth: number;
      /** What goes wrong. */
      readonly fault:
        | 'fail'
        | 'partial'
        | 'ghost'
        | 'stray'
        | 'lost'
        | 'unserializable'
        | 'rot'
        | 'latent';
    }
  | {
      /** A write that lands elsewhere. */
      readonly on: 'write';
      /** Which write, from 0. */
      readonly nth: number;
      /** What goes wrong. */
      readonly fault: 'misdirected';
      /** Where it lands instead, in bytes from the start of the disk. */
      readonly at: number;
    }
  | {
      /** A flush of the device. */
      readonly on: 'flush';
      /** Which flush, from 0. */
      readonly nth: number;
      /** What goes wrong. */
      readonly fault: 'keep' | 'drop' | 'drop-readback' | 'late' | 'elsewhere' | 'sticky';
    }
  | {
      /** A read. */
      readonly on: 'read';
      /** Which read, from 0. */
      readonly nth: number;
      /** What goes wrong. */
      readonly fault: 'fail' | 'rot';
    };

/** Faults of writes that the device itself carries out. */
export const FATES: readonly Fate[] = ['stray', 'unserializable', 'rot', 'latent'];

/** These faults give up the cache. */
export const DROPS: ReadonlySet<string> = new Set(['drop', 'drop-readback', 'elsewhere']);

/** Commands with these faults are not carried out, or only in part. */
export const SPOILS: ReadonlySet<string> = new Set([
  'fail',
  'lost',
  'partial',
  'keep',
  'late',
  'sticky',
  ...DROPS,
]);

/** Commands with these faults answer with an error. */
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

/** What the trace records about a fault, in addition to the answer. */
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

/** @throws `INVALID_ARGUMENT` for unknown faults, for faults that can never happen, and for two at one command */
export function checkFaults(faults: readonly DiskFault[], size: number, sectorSize: number): void {
  if (!Array.isArray(faults)) throw invalid('faults', 'a list', faults);
  const places = new Set<string>();
  for (const fault of faults) {
    checkFault(fault, size, sectorSize);
    const place = `${fault.on} ${fault.nth}`;
    if (places.has(place)) throw misuse(`faults: there are two faults at ${place}; leave one out`);
    places.add(place);
  }
}

function checkFault(fault: DiskFault, size: number, sectorSize: number): void {
  checkOptions(fault, FIELDS, 'a fault');
  const { on, nth, fault: kind } = fault;
  if (!Object.hasOwn(KINDS, on)) throw invalid('faults: on', "'write', 'flush' or 'read'", on);
  if (!KINDS[on].includes(kind)) {
    throw invalid(`faults: the fault of a ${on}`, `one of ${KINDS[on].join(', ')}`, kind);
  }
  if (!WHOLE.holds(nth)) {
    throw invalid('faults: nth', 'the number of a command of its kind, from 0', nth);
  }
  if (kind !== 'misdirected') {
    if ('at' in fault) throw misuse(`faults: only 'misdirected' takes 'at', '${kind}' does not`);
    return;
  }
  const { at } = fault as { readonly at?: number };
  if (!WHOLE.holds(at) || Number(at) >= size || Number(at) % sectorSize) {
    throw misuse(
      `faults: 'misdirected' needs 'at', the offset of a sector of the disk in bytes, not ${formatValue(at)}`,
    );
  }
}

const FIELDS = { on: 0, nth: 0, fault: 0, at: 0 };
const WHOLE = wholeNumber();
