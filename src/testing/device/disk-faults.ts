// The faults of a simulated disk, as data: a list of faults can be generated, printed, shrunk and pasted back.
//
// A fault has three sides, and EFFECTS is the table of them: what the device does with the command, what it answers, and what the
// trace records so that the crash space knows what really happened.
//
// Not here: when a fault happens (volatile-disk.ts), and faults of a real storage under test (storage/faults.ts).

import { checkOptions, formatValue, invalid, misuse, wholeNumber } from '../../model/index.js';
import type { TracedFault } from './disk-trace.js';

/**
 * A fault of a simulated disk: what goes wrong, and at which command of its kind.
 *
 * Writes: `fail` answers with an error and writes nothing; `partial` answers with an error and writes some sectors; `ghost`
 * answers with an error and writes everything; `stray` is a `ghost` that lands at any later moment, also over later writes;
 * `lost` succeeds and writes nothing; `unserializable` succeeds and may stay in the cache, whatever is flushed or ordered
 * after it; `rot` flips one bit of the first sector; `latent` leaves the first sector unreadable; `misdirected` succeeds and
 * writes at `at` instead, and a resize is `lost` then.
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
      /** The kind of command; discards, zeroes and resizes count as writes. */
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

/** What a fault does, where one word says it; what else the disk does is in volatile-disk.ts. */
interface Effect {
  /** The answer is an error. */
  readonly fails?: boolean;
  /** The command is not carried out, or only in part. */
  readonly spoils?: boolean;
  /** It gives up the cache. */
  readonly drops?: boolean;
  /** What the trace records in addition to the answer, and what the device knows. */
  readonly traced?: TracedFault;
}

const EFFECTS: Readonly<Record<DiskFault['on'], Readonly<Record<string, Effect>>>> = {
  write: {
    fail: { fails: true, spoils: true, traced: { kind: 'lost' } },
    partial: { fails: true, spoils: true },
    ghost: { fails: true },
    stray: { fails: true, traced: { kind: 'stray' } },
    lost: { spoils: true, traced: { kind: 'lost' } },
    unserializable: { traced: { kind: 'unserializable' } },
    rot: { traced: { kind: 'rot' } },
    latent: { traced: { kind: 'latent' } },
    misdirected: {},
  },
  flush: {
    keep: { fails: true, spoils: true },
    drop: { fails: true, spoils: true, drops: true, traced: { kind: 'drop' } },
    'drop-readback': { fails: true, spoils: true, drops: true, traced: { kind: 'drop' } },
    late: { spoils: true, traced: { kind: 'hollow' } },
    elsewhere: { spoils: true, drops: true, traced: { kind: 'drop' } },
    sticky: { fails: true, spoils: true },
  },
  read: { fail: { fails: true, spoils: true }, rot: {} },
};

/** What the fault of a command does; nothing without a fault. A size has no other place where it could land. */
export function effectOf(fault: DiskFault | undefined, isResize: boolean): Effect {
  if (fault?.fault === 'misdirected') {
    return isResize
      ? effectOf({ ...fault, fault: 'lost' }, isResize)
      : { traced: { kind: 'misdirected', at: fault.at } };
  }
  return (fault && EFFECTS[fault.on][fault.fault]) ?? {};
}

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
  if (!Object.hasOwn(EFFECTS, on)) throw invalid('faults: on', "'write', 'flush' or 'read'", on);
  const kinds = Object.keys(EFFECTS[on]);
  if (!kinds.includes(kind)) {
    throw invalid(`faults: the fault of a ${on}`, `one of ${kinds.join(', ')}`, kind);
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
