// Traces: the commands of a device and its answers, with the data. A trace is the input of the crash space.
//
// Time is a count of events: every dispatch, answer and mark has a moment of its own. So of any two it is known which came
// first, and nothing depends on a clock. A power cut falls between two moments.
//
// A trace is plain data. It says what the host sent and what it was answered. If a fault made something else happen, `fault`
// says what really happened, so that the crash space of the trace is right.
//
// A command with a `size` is a resize: it writes zeroes from the old size to the new one, or discards from the new size to the
// old one, and it writes one more place, the size itself. That place is a sector in front of the first one (`sizeAt`), so whatever
// is true of a sector is true of the size: it may be lost, it is covered by flushes, and a recovery decides it by reading it.
//
//   R1  A command is dispatched before it is completed, and completed once.
//   R2  Of a resize the range is all bytes between the two sizes, so the one that is not `size` was the size before.

import {
  checkArgument,
  isBytes,
  misuse,
  type Operation,
  type Rule,
  rule,
  type Tag,
  wholeNumber,
} from '../../model/index.js';
import { copyOf } from '../../storage/buffers.js';
import type { Storage } from '../../storage/index.js';
import { overheard, wrap } from '../../storage/wrappers.js';

/** A command as the device saw it. */
export interface DiskCommand {
  /** The operation. */
  readonly op: Operation;
  /** In bytes; 0 for a flush. */
  readonly offset: number;
  /** In bytes; 0 for a flush. */
  readonly length: number;
  /** `ordered`: after everything dispatched before, before everything dispatched after. */
  readonly tag: Tag;
  /** Force unit access: the answer means that the data is on the medium. */
  readonly fua: boolean;
  /** The payload of a write. */
  readonly data?: Uint8Array;
  /** Of a resize the new size of the disk, in bytes: `writeZeroes` of all that is added, or `discard` of all that is cut off. */
  readonly size?: number;
  /** The moment when the device got the command. */
  readonly dispatched: number;
  /** The moment when the host got the answer; Infinity if it got none. */
  readonly completed: number;
  /** The answer was an error. Then it is only certain that no other bytes were touched. */
  readonly failed: boolean;
  /**
   * What really happened, where that is not what the answer says.
   *
   * Of writes:
   * - `lost`: it never reaches the medium, whatever was answered.
   * - `misdirected`: it lands at `at` instead, in bytes from the start of the disk. No resize is.
   * - `stray`: it failed, and lands at any later moment, also above what was written later.
   * - `unserializable`: it may be missing, whatever was answered, flushed or ordered after it.
   * - `rot`: one bit of its first sector is changed.
   * - `latent`: its first sector cannot be read.
   *
   * Of flushes:
   * - `hollow`: it covers nothing, whatever it answers.
   * - `drop`: it gives up for good what it should have covered.
   */
  readonly fault?:
    | {
        /** Which of the above. */
        readonly kind: 'lost' | 'stray' | 'unserializable' | 'rot' | 'latent' | 'hollow' | 'drop';
      }
    | {
        /** The write lands elsewhere. */
        readonly kind: 'misdirected';
        /** Where it lands, in bytes from the start of the disk. */
        readonly at: number;
      };
}

/** A command before it has moments and an answer. */
export type DiskRequest = Pick<
  DiskCommand,
  'op' | 'offset' | 'length' | 'tag' | 'fua' | 'data' | 'size'
>;

/** What really happened to a command. */
export type TracedFault = NonNullable<DiskCommand['fault']>;

/** A mark of a trace. */
export type Mark = DiskTrace['marks'][number];

/** A run of a device: its commands, their answers, and the marks of the host. */
export interface DiskTrace {
  /** The size of the disk before the first command, in bytes. */
  readonly size: number;
  /** The medium before the first command. @defaultValue zeroes */
  readonly initial?: Uint8Array;
  /** Offsets of sectors that could not be read before the first command, in bytes. @defaultValue none */
  readonly unreadable?: readonly number[];
  /** In the order of their dispatch. */
  readonly commands: readonly DiskCommand[];
  /** What the host knew at a moment, an acknowledgement to its own user as a rule. In the order of time. */
  readonly marks: readonly {
    /** After everything with a smaller time. */
    readonly time: number;
    /** What the host wants to find again. */
    readonly value: unknown;
  }[];
}

/**
 * The content of a sector, by its offset, decided when it is read; undefined if the sector cannot be read. Behind the size all
 * sectors are zero, and at `sizeAt` is the size.
 */
export type Content = (offset: number) => Uint8Array | undefined;

/** What was on a medium before the first command. */
export function contentBefore(
  { size, initial, unreadable = [] }: Pick<DiskTrace, 'size' | 'initial' | 'unreadable'>,
  sectorSize: number,
): Content {
  const bad = new Set(unreadable);
  const zeroes = new Uint8Array(sectorSize);
  return (offset) => {
    if (offset < 0) return sizeBytes(size);
    if (bad.has(offset)) return undefined;
    return initial && offset < size ? initial.subarray(offset, offset + sectorSize) : zeroes;
  };
}

/** The offset of the size, in bytes: it has a sector of its own in front of the first one. */
export function sizeAt(sectorSize: number): number {
  return -sectorSize;
}

/** A size as the content of its place, whatever the sector size. */
export function sizeBytes(size: number): Uint8Array {
  return new Uint8Array(Float64Array.of(size).buffer);
}

/** The size that a medium has, in bytes. */
export function sizeIn(content: Content, sectorSize: number): number {
  const bytes = content(sizeAt(sectorSize)) as Uint8Array;
  return new Float64Array(bytes.buffer, bytes.byteOffset, 1)[0] as number;
}

/** The size before a resize, in bytes (R2). */
export function sizeBefore({
  offset,
  length,
  size,
}: Pick<DiskRequest, 'offset' | 'length' | 'size'>): number {
  return size === offset ? offset + length : offset;
}

const TRACE: Rule = /* @__PURE__ */ rule((value) => {
  const { commands, marks } = Object(value);
  return Array.isArray(commands) && Array.isArray(marks);
}, 'a trace of a disk, with lists of commands and marks');

/** Refuses what is no trace with `INVALID_ARGUMENT`, before anything of it is used. */
export function checkDiskTrace(trace: DiskTrace): void {
  checkArgument('trace', trace, TRACE);
}

const SIZE: Rule = /* @__PURE__ */ wholeNumber();
const INITIAL: Rule = /* @__PURE__ */ rule(
  (value) => value === undefined || isBytes(value),
  'a Uint8Array',
);

/** Refuses what no recording can begin with, with `INVALID_ARGUMENT`: the size of a disk, and its first content. */
export function checkDisk(size: number, initial: Uint8Array | undefined): void {
  checkArgument('size', size, SIZE);
  checkArgument('initial', initial, INITIAL);
}

/** Records the commands of a device in memory, as a `DiskTrace`. */
export class DiskRecorder {
  readonly #size: number;
  readonly #initial: Uint8Array | undefined;
  readonly #commands: { -readonly [K in keyof DiskCommand]: DiskCommand[K] }[] = [];
  readonly #marks: Mark[] = [];
  #now = 0;

  /**
   * @param size of the disk, in bytes
   * @param initial the medium before the first command, which is copied; zeroes by default
   * @throws `INVALID_ARGUMENT` for a size that no disk has, and for an `initial` that is no `Uint8Array`
   */
  constructor(size: number, initial?: Uint8Array) {
    checkDisk(size, initial);
    this.#size = size;
    this.#initial = initial && copyOf(initial);
  }

  /** The next moment. */
  get now(): number {
    return this.#now;
  }

  /** The trace so far. Later events do not change it. */
  get trace(): DiskTrace {
    return {
      size: this.#size,
      ...(this.#initial && { initial: this.#initial }),
      commands: this.#commands.map((command) => ({ ...command })),
      marks: [...this.#marks],
    };
  }

  /**
   * Records that the device gets a command, and returns the number of the command, from 0.
   *
   * @param data the payload of a write, which is copied
   * @param fate what a simulated device already knows about the command, whether or not the host will get an answer
   */
  dispatch(
    what: Pick<DiskCommand, 'op' | 'offset' | 'length' | 'tag' | 'fua' | 'size'>,
    data?: Uint8Array,
    fate: Partial<Pick<DiskCommand, 'failed' | 'fault'>> = {},
  ): number {
    const command = { ...bare(what), dispatched: this.#now++ };
    const open = { completed: Number.POSITIVE_INFINITY, failed: false, ...fate };
    return this.#commands.push({ ...command, ...(data && { data: copyOf(data) }), ...open }) - 1;
  }

  /** Records that a command of a simulated device fails, whether or not the host will get an answer. */
  fail(number: number, fault: DiskCommand['fault']): void {
    const command = this.#commands[number];
    if (command) Object.assign(command, { failed: true, fault });
  }

  /** Records that the host gets the answer to a command: an error, if it `failed`. */
  complete(number: number, failed?: boolean, fault?: DiskCommand['fault']): void {
    const command = this.#commands[number];
    if (!command || command.completed !== Number.POSITIVE_INFINITY) {
      throw misuse(`command ${number} is not in flight: a command is completed once`);
    }
    command.completed = this.#now++;
    if (failed !== undefined) command.failed = failed;
    if (fault) command.fault = fault;
  }

  /** Records something that the host knows at this moment. */
  mark(value: unknown): void {
    this.#marks.push({ time: this.#now++, value });
  }
}

/**
 * Wraps a storage, and records its commands and answers with a `DiskRecorder` or a `TraceWriter`, so that the crash kit can
 * judge a run on a real disk. A command is recorded before the storage gets it, and an answer before the caller does.
 *
 * @throws `INVALID_ARGUMENT` for what is no recorder; `INVALID_STORAGE` for what is no storage
 */
export function recording(
  storage: Storage,
  recorder: Pick<DiskRecorder, 'dispatch' | 'complete'>,
): Storage {
  checkArgument('recorder', recorder, RECORDER);
  return wrap(storage, (what, run, data) => {
    const command = recorder.dispatch(bare(what), data?.());
    return overheard(what, run, (error) => recorder.complete(command, error !== undefined));
  });
}

const RECORDER: Rule = /* @__PURE__ */ rule((value) => {
  const { dispatch, complete } = Object(value);
  return typeof dispatch === 'function' && typeof complete === 'function';
}, 'a DiskRecorder or a TraceWriter');

/** A command without what a trace does not keep. */
export function bare({
  op,
  offset,
  length,
  tag,
  fua,
  size,
}: Omit<DiskRequest, 'data'>): Omit<DiskRequest, 'data'> {
  return { op, offset, length, tag, fua, ...(size !== undefined && { size }) };
}
