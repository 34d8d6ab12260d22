// Traces as bytes, in a form of our own that keeps everything and can be written as the run goes.
//
// The first line names the form. Then come events in the order of time, each a line of JSON, with its payload right
// behind it where it has one: the disk as it was, a command, its answer, or a mark. So a run that is killed leaves a
// trace of all that it did until then: an event that is cut off at the end has not happened. A whole event that is
// wrong is an error.
//
// Not here: other people's formats (log-writes.ts).

import { WriteBarrierError } from '../../model/index.js';
import { copyOf, joined } from '../../storage/bytes.js';
import type { DiskCommand, DiskRecorder, DiskTrace, Mark } from './disk-trace.js';

const FORM = 'write-barrier-trace 2\n';

/** The disk before the first command. */
interface Head {
  readonly size: number;
  readonly unreadable?: readonly number[];
  /** Of the payload behind the line, in bytes. */
  readonly payload?: number;
}

/** A command that is dispatched, as far as that is known by then. */
type Dispatched = Omit<DiskCommand, 'data' | 'completed'> & { readonly payload?: number };

/** The answer to a command. */
interface Completed {
  readonly command: number;
  readonly completed: number;
  /** Absent where the command said so already. */
  readonly failed?: boolean;
}

type Event = Dispatched | Completed | Mark;

/** Writes a trace down as it happens: the same as `DiskRecorder`, and keeps nothing in memory. */
export class TraceWriter implements Pick<DiskRecorder, 'dispatch' | 'complete' | 'mark'> {
  readonly #append: (bytes: Uint8Array) => void;
  readonly #open = new Set<number>();
  #commands = 0;
  #now = 0;

  /**
   * @param append is called at once, with the next bytes of the trace. Appending them to a file, before it returns,
   *   makes a file that tells all that the device was asked, and all that the host knew, when the process was killed
   * @param initial zeroes unless given
   */
  constructor(size: number, append: (bytes: Uint8Array) => void, initial?: Uint8Array) {
    this.#append = append;
    append(opening({ size }, initial));
  }

  /** The device gets a command; the answer is its number, from 0. */
  dispatch(what: Parameters<DiskRecorder['dispatch']>[0], data?: Uint8Array): number {
    const { op, offset, length, tag, fua } = what;
    const command = { op, offset, length, tag, fua, dispatched: this.#now++, failed: false };
    this.#append(event(command, data));
    this.#open.add(this.#commands);
    return this.#commands++;
  }

  /** The host has the answer to a command: an error, if it `failed`. */
  complete(command: number, failed = false): void {
    if (!this.#open.delete(command)) {
      throw new WriteBarrierError('INVALID_ARGUMENT', `command ${command} waits for no answer`);
    }
    this.#append(event({ command, completed: this.#now++, ...(failed && { failed }) }));
  }

  /** The host knows something now. It must be a value that JSON can tell. */
  mark(value: unknown): void {
    this.#append(event({ time: this.#now++, value }));
  }
}

/** The compact form of a trace. Marks must be values that JSON can tell. */
export function encodeTrace({ initial, commands, marks, ...head }: DiskTrace): Uint8Array {
  const answered = [...commands.entries()].filter(
    ([, { completed }]) => completed !== Number.POSITIVE_INFINITY,
  );
  const events = [
    ...commands.map(({ data, completed: _, ...command }) => ({
      time: command.dispatched,
      bytes: event(command, data),
    })),
    ...answered.map(([command, { completed }]) => ({
      time: completed,
      bytes: event({ command, completed }),
    })),
    ...marks.map((mark) => ({ time: mark.time, bytes: event(mark) })),
  ];
  events.sort((a, b) => a.time - b.time);
  return joined([opening(head, initial), ...events.map(({ bytes }) => bytes)]);
}

function opening(head: Head, initial: Uint8Array | undefined): Uint8Array {
  return joined([TEXT.encode(FORM), event(head, initial)]);
}

function event(what: Event | Head, payload?: Uint8Array): Uint8Array {
  const told = { ...what, ...(payload && { payload: payload.length }) };
  return joined([TEXT.encode(`${JSON.stringify(told)}\n`), ...(payload ? [payload] : [])]);
}

const TEXT = new TextEncoder();
const NEWLINE = 10;

/**
 * Reads the compact form, as far as there are whole events.
 *
 * @throws `SYNTAX` for bytes that neither `encodeTrace` nor a `TraceWriter` made
 */
export function decodeTrace(bytes: Uint8Array): DiskTrace {
  const form = new TextDecoder().decode(bytes.subarray(0, FORM.length));
  if (form !== FORM) throw syntax(`it does not begin with ${FORM.trim()}`);
  const pieces = piecesOf(bytes, FORM.length);
  const first = pieces.next().value;
  if (!first || !isCount(first.told.size)) throw syntax('it does not tell the size of the disk');
  const { payload: _, ...head } = first.told as unknown as Head;
  const commands: { -readonly [K in keyof DiskCommand]: DiskCommand[K] }[] = [];
  const marks: Mark[] = [];
  for (const { told, payload } of pieces) {
    if (told.dispatched !== undefined) {
      if (!isDispatched(told))
        throw syntax(`a command is none: ${JSON.stringify(told).slice(0, 80)}`);
      const { payload: _, ...command } = told as unknown as Dispatched;
      const open = { ...command, completed: Number.POSITIVE_INFINITY };
      commands.push(payload ? { ...open, data: payload } : open);
    } else if (isCount(told.completed)) {
      const { command, completed, failed } = told as unknown as Completed;
      const answered = commands[command];
      if (!answered) throw syntax(`command ${command} is answered and was not dispatched`);
      Object.assign(answered, { completed, ...(failed !== undefined && { failed }) });
    } else if (typeof told.time === 'number') {
      marks.push({ time: told.time, value: told.value });
    } else {
      throw syntax(`an event is none: ${JSON.stringify(told).slice(0, 80)}`);
    }
  }
  return { ...head, ...(first.payload && { initial: first.payload }), commands, marks };
}

/** A line, of which nothing is known but the names. */
type Told = { readonly [Name in keyof (Head & Dispatched & Completed & Mark)]?: unknown };

interface Piece {
  readonly told: Told;
  readonly payload: Uint8Array | undefined;
}

/** Events as they stand there, without the last one if it is not whole. */
function* piecesOf(bytes: Uint8Array, start: number): Generator<Piece, undefined> {
  for (let at = start; at < bytes.length; ) {
    const end = bytes.indexOf(NEWLINE, at);
    if (end < 0) return;
    const told = parsed(new TextDecoder().decode(bytes.subarray(at, end)));
    const { payload: length } = told;
    if (length !== undefined && !isCount(length)) throw syntax('a payload without a length');
    at = end + 1 + (length ?? 0);
    if (at > bytes.length) return;
    yield { told, payload: length === undefined ? undefined : copyOf(bytes, end + 1, at) };
  }
}

function parsed(line: string): Told {
  let told: unknown;
  try {
    told = JSON.parse(line);
  } catch (cause) {
    throw syntax('an event is no JSON', cause);
  }
  if (typeof told === 'object' && told !== null) return told;
  throw syntax('an event is no object');
}

const OPERATIONS: readonly unknown[] = ['read', 'write', 'flush', 'discard', 'writeZeroes'];

function isDispatched({ op, offset, length, tag, fua, failed, dispatched }: Told): boolean {
  return (
    OPERATIONS.includes(op) &&
    [offset, length, dispatched].every(isCount) &&
    (tag === 'simple' || tag === 'ordered') &&
    [fua, failed].every((flag) => typeof flag === 'boolean')
  );
}

function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}

function syntax(what: string, cause?: unknown): WriteBarrierError {
  return new WriteBarrierError('SYNTAX', `this is no trace: ${what}`, { cause });
}
