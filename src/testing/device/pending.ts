import { WriteBarrierError } from '../../model/index.js';
import type { WriteFlags } from '../../storage/index.js';
import type { Due } from './collections.js';
import type { DiskFault } from './disk-faults.js';
import type { DiskRequest } from './disk-trace.js';

/** A command that is not answered. */
export interface Pending extends Due<Pending> {
  readonly number: number;
  readonly request: DiskRequest;
  /** In virtual microseconds. */
  readonly dueUs: number;
  /** Its answer is an error. */
  failed: boolean;
  /** It is not carried out, or only in part. */
  spoilt: boolean;
  readonly into: Uint8Array | undefined;
  readonly fault: DiskFault | undefined;
  /** How many commands the disk had answered when this one came. */
  readonly since: number;
  readonly resolve: () => void;
  readonly reject: (error: Error) => void;
}

/** How the host hears of the end. */
export type Answers = Pick<Pending, 'resolve' | 'reject'>;

/** For a host that has its answer before the call returns. */
export const UNHEARD: Answers = { resolve: () => {}, reject: () => {} };

/** A host that waits in virtual time. */
export interface Sleeper extends Answers, Due<Sleeper> {}

/** What a call returns: nothing at once, or later. */
export type Answer = void | Promise<void>;

/** A write of several buffers. */
export type Vectored = (at: number, list: readonly Uint8Array[], flags: WriteFlags) => Answer;

/** The flags of commands that have none. */
export const PLAIN = { tag: 'simple', fua: false } as const;

/** The answer to a command that a power cut ends. */
export function powerCut(): WriteBarrierError {
  return new WriteBarrierError('POWER_CUT', 'the power was cut');
}
