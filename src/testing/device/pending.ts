import type { Storage, WriteFlags } from '../../storage/index.js';
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

/** A host that waits in virtual time. */
export interface Sleeper extends Answers, Due<Sleeper> {}

/** A storage whose transfers return nothing, or a promise of nothing. */
export interface Opened extends Storage {
  read(offset: number, into: Uint8Array): void | Promise<void>;
  write(offset: number, data: Uint8Array, flags: WriteFlags): void | Promise<void>;
  writev?(offset: number, list: readonly Uint8Array[], flags: WriteFlags): void | Promise<void>;
}
