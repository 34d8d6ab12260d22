// What a device was asked and what it answered, with the bytes: the input of the crash space.
//
// Time is a count of events: every dispatch, answer and mark has a moment of its own, so of any two it is known
// which came first, and nothing depends on a clock. A power cut falls between two moments.
//
// A trace is plain data. It says what the device was told and what it told; where a fault made something else of
// it, `fault` says what really happened, so that what the crash space makes of the trace is true.

import { type Operation, type Tag, WriteBarrierError } from '../../model/index.js';
import { copyOf } from '../../storage/bytes.js';

/** A command as the device saw it. */
export interface DiskCommand {
  /** What the device was to do. */
  readonly op: Operation;
  /** In bytes; 0 for a flush. */
  readonly offset: number;
  /** In bytes; 0 for a flush. */
  readonly length: number;
  /** `ordered`: after everything dispatched before, before everything dispatched after. */
  readonly tag: Tag;
  /** The answer means that the data is on the medium. */
  readonly fua: boolean;
  /** The payload of a write. */
  readonly data?: Uint8Array;
  /** When the device got it. */
  readonly dispatched: number;
  /** When the host had the answer; Infinity where none came. */
  readonly completed: number;
  /** The answer was an error: nothing is certain but that no other bytes were touched. */
  readonly failed: boolean;
  /** What really happened, where a fault made that something else than the answer says. */
  readonly fault?: TracedFault;
}

/** What a device is asked. */
export type DiskRequest = Pick<DiskCommand, 'op' | 'offset' | 'length' | 'tag' | 'fua' | 'data'>;

/**
 * Of writes:
 * - `lost`: it never reaches the medium, whatever was answered.
 * - `misdirected`: it lands at `at`, in bytes, instead.
 * - `stray`: it failed, and lands whenever it likes, also above what was written later.
 * - `unserializable`: it may be missing, whatever was answered, flushed or ordered behind it.
 * - `rot`: its first sector has one bit changed.
 * - `latent`: its first sector cannot be read.
 *
 * Of flushes:
 * - `hollow`: it covers nothing, whatever it answers.
 * - `drop`: it gives up what it should have covered, for good.
 */
export type TracedFault =
  | {
      /** See above. */
      readonly kind: 'lost' | 'stray' | 'unserializable' | 'rot' | 'latent' | 'hollow' | 'drop';
    }
  | {
      /** See above. */
      readonly kind: 'misdirected';
      /** In bytes from the start of the disk. */
      readonly at: number;
    };

/** Something that the host knew at a moment: an acknowledgement to its own user, as a rule. */
export interface Mark<T = unknown> {
  /** After everything with a smaller time. */
  readonly time: number;
  /** Whatever the host wants to find again. */
  readonly value: T;
}

/** A run of a device. */
export interface DiskTrace {
  /** In bytes. */
  readonly size: number;
  /** The medium before the first command; zeroes unless given. */
  readonly initial?: Uint8Array;
  /** Offsets of sectors that could not be read before the first command, in bytes; none unless given. */
  readonly unreadable?: readonly number[];
  /** In the order of their dispatch. */
  readonly commands: readonly DiskCommand[];
  /** In the order of time. */
  readonly marks: readonly Mark[];
}

/** Writes down what a device is asked, as it happens. */
export class DiskRecorder {
  readonly #size: number;
  readonly #initial: Uint8Array | undefined;
  readonly #commands: { -readonly [K in keyof DiskCommand]: DiskCommand[K] }[] = [];
  readonly #marks: Mark[] = [];
  #now = 0;

  /** @param initial copied; zeroes unless given */
  constructor(size: number, initial?: Uint8Array) {
    this.#size = size;
    this.#initial = initial && copyOf(initial);
  }

  /** The moment that comes next. */
  get now(): number {
    return this.#now;
  }

  /** The run so far. What follows does not change it. */
  get trace(): DiskTrace {
    return {
      size: this.#size,
      ...(this.#initial && { initial: this.#initial }),
      commands: this.#commands.map((command) => ({ ...command })),
      marks: [...this.#marks],
    };
  }

  /**
   * The device gets a command; the answer is its number, from 0. `data` is copied. `fate`: what a simulated device
   * knows already, whether or not the host will hear of it.
   */
  dispatch(
    what: Omit<DiskRequest, 'data'>,
    data?: Uint8Array,
    fate: Partial<Pick<DiskCommand, 'failed' | 'fault'>> = {},
  ): number {
    const { op, offset, length, tag, fua } = what;
    const command = { op, offset, length, tag, fua, dispatched: this.#now++ };
    const open = { completed: Number.POSITIVE_INFINITY, failed: false, ...fate };
    return this.#commands.push({ ...command, ...(data && { data: copyOf(data) }), ...open }) - 1;
  }

  /** A simulated device knows by now what becomes of a command, whether or not the host will hear of it. */
  fail(number: number, fault: TracedFault): void {
    const command = this.#commands[number];
    if (command) Object.assign(command, { failed: true, fault });
  }

  /** The host has the answer to a command: an error, if it `failed`. */
  complete(number: number, failed?: boolean, fault?: TracedFault): void {
    const command = this.#commands[number];
    if (!command || command.completed !== Number.POSITIVE_INFINITY) {
      throw new WriteBarrierError(
        'INVALID_ARGUMENT',
        `command ${number} does not wait for an answer`,
      );
    }
    command.completed = this.#now++;
    if (failed !== undefined) command.failed = failed;
    if (fault) command.fault = fault;
  }

  /** The host knows something now. */
  mark(value: unknown): void {
    this.#marks.push({ time: this.#now++, value });
  }
}
