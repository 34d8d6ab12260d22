// Traces as bytes, there and back: in a form of our own, and in that of Linux' dm-log-writes target.
//
// The form of our own keeps everything, and can be written as the run goes. The first line names the format. Then come events
// in the order of time: the initial disk, a command, its answer, or a mark. An event is a line of JSON, followed by its payload
// if it has one. So a process that is killed leaves a trace of all that it did before: an event that is cut off at the end has
// not happened. A complete event that is malformed is an error.
//
// The log of dm-log-writes, which QEMU's blklogwrites driver writes as well, keeps less. It is written in the order of
// completion: an entry is a write, a discard, a flush or a mark, or a flush and a write in one. What was in flight together
// cannot be told any more, so reading it makes a trace in which every command completes before the next one starts. What is
// asked of such a trace is what a missing flush costs, and that is what the log is for. Reads are not in it, and neither are
// failures.
//
// The bytes may come from any source. So only known and own properties of an event are read, every number is checked before
// it is used, and nothing is allocated because a line or an entry claims a length.
//
// Source: drivers/md/dm-log-writes.c and Documentation/admin-guide/device-mapper/log-writes.rst of Linux.

import {
  checkArgument,
  FUNCTION,
  formatValue,
  misuse,
  tagOf,
  WriteBarrierError,
} from '../../model/index.js';
import { concatBuffers, copyOf } from '../../storage/buffers.js';
import { isCount, isOneOf, isSized, OPERATIONS, TAGS } from '../checker/trace-shape.js';
import {
  bare,
  checkDisk,
  checkDiskTrace,
  type DiskCommand,
  DiskRecorder,
  type DiskTrace,
  type Mark,
  type TracedFault,
} from '../device/disk-trace.js';

// The form of our own

const FORM = 'write-barrier-trace 2\n';

/** The disk before the first command. */
type Head = Pick<DiskTrace, 'size' | 'initial' | 'unreadable'>;

/** A command that may have its answer yet to come. */
type Unanswered = { -readonly [K in keyof DiskCommand]: DiskCommand[K] };

/** Writes a trace as bytes while it happens. It records like `DiskRecorder`, but keeps nothing in memory. */
export class TraceWriter implements Pick<DiskRecorder, 'dispatch' | 'complete' | 'mark'> {
  readonly #append: (bytes: Uint8Array) => void;
  readonly #open = new Set<number>();
  #commands = 0;
  #now = 0;

  /**
   * @param append called at once with the next bytes of the trace. If it appends them to a file before it returns, the file
   *   has all commands, answers and marks up to the moment when the process is killed
   * @param initial the initial content of the disk; zeroes by default
   * @throws `INVALID_ARGUMENT` for a size that no disk has, an `append` that is not a function, and an `initial` that is no
   *   `Uint8Array`
   */
  constructor(size: number, append: (bytes: Uint8Array) => void, initial?: Uint8Array) {
    checkDisk(size, initial);
    checkArgument('append', append, FUNCTION);
    this.#append = append;
    append(opening({ size, ...(initial && { initial }) }));
  }

  /** Records that the device gets a command, and returns the number of the command, from 0. */
  dispatch(
    what: Pick<DiskCommand, 'op' | 'offset' | 'length' | 'tag' | 'fua' | 'size'>,
    data?: Uint8Array,
  ): number {
    const command = { ...bare(what), dispatched: this.#now++, failed: false };
    this.#append(event(command, data));
    this.#open.add(this.#commands);
    return this.#commands++;
  }

  /** Records that the host gets the answer to a command: an error, if it `failed`. */
  complete(command: number, failed = false): void {
    if (!this.#open.delete(command)) {
      throw misuse(`command ${command} is not in flight: a command is completed once`);
    }
    // Without `failed` the answer is what the command itself said.
    this.#append(event({ command, completed: this.#now++, ...(failed && { failed }) }));
  }

  /** Records something that the host knows at this moment: a value that JSON can represent. */
  mark(value: unknown): void {
    this.#append(event({ time: this.#now++, value }));
  }
}

/**
 * The bytes of a trace. Marks must be values that JSON can represent.
 *
 * @throws `INVALID_ARGUMENT` for what is no trace
 */
export function encodeTrace(trace: DiskTrace): Uint8Array {
  checkDiskTrace(trace);
  const { commands, marks, ...head } = trace;
  const events = [
    ...commands.flatMap(({ data, completed, ...what }, command) => [
      { time: what.dispatched, bytes: event(what, data) },
      { time: completed, bytes: event({ command, completed }) },
    ]),
    ...marks.map((mark) => ({ time: mark.time, bytes: event(mark) })),
  ].filter(({ time }) => time < Number.POSITIVE_INFINITY);
  events.sort((a, b) => a.time - b.time);
  return concatBuffers([opening(head), ...events.map(({ bytes }) => bytes)]);
}

function opening({ initial, ...head }: Head): Uint8Array {
  return concatBuffers([TEXT.encode(FORM), event(head, initial)]);
}

/** The line of an event, with the length of its payload in bytes, and the payload. */
function event(what: object, payload?: Uint8Array): Uint8Array {
  const told = { ...what, ...(payload && { payload: payload.length }) };
  return concatBuffers([TEXT.encode(`${JSON.stringify(told)}\n`), ...(payload ? [payload] : [])]);
}

const TEXT = new TextEncoder();
/** Bytes that are no UTF-8 are no text, and a byte order mark is a character like any other. */
const UTF8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });
const FORM_BYTES = TEXT.encode(FORM);
const NEWLINE = 10;

/**
 * Decodes the bytes of `encodeTrace` or a `TraceWriter`, up to the last complete event. Takes time and memory in proportion to
 * the number of bytes, whatever they contain. Unknown properties of an event are ignored and never copied.
 *
 * @throws `SYNTAX` for malformed bytes; the message names the event (the initial disk is number 0) and the byte where it
 *   begins. `INVALID_ARGUMENT` for a value that is not a `Uint8Array`
 */
export function decodeTrace(bytes: Uint8Array): DiskTrace {
  checkBytes(bytes, 'decodeTrace');
  if (!FORM_BYTES.every((byte, i) => bytes[i] === byte)) {
    throw syntax(`it does not begin with '${FORM.trim()}'`);
  }
  let head: Head | undefined;
  const commands: Unanswered[] = [];
  const marks: Mark[] = [];
  let now = 0;
  for (const told of eventsOf(bytes, FORM_BYTES.length)) {
    if (!head) {
      head = headOf(told);
      continue;
    }
    const name = MOMENTS.find((one) => told.own[one] !== undefined);
    need(told, name !== undefined, 'is neither a command nor an answer nor a mark');
    const { [name]: time, value } = told.own;
    need(told, isCount(time), `has no whole number from 0 as its ${name}`);
    need(told, time >= now, 'is earlier than the event before it');
    now = time;
    if (name === 'time') marks.push({ time, value });
    else if (name === 'completed') takeAnswer(told, commands, time);
    else {
      need(told, time > (commands.at(-1)?.dispatched ?? -1), SAME_MOMENT);
      commands.push({ ...commandOf(told), dispatched: time });
    }
  }
  if (!head) throw syntax('the description of the disk is missing or cut off');
  return { ...head, commands, marks };
}

/** What an event calls its moment says what it is. Events come in the order of time. */
const MOMENTS = ['dispatched', 'completed', 'time'] as const;
const SAME_MOMENT =
  'has the same moment as the command before it, but each dispatch needs a moment of its own';

/** Values of which nothing is known. */
type Own = Readonly<Record<string, unknown>>;

/** A line of JSON with its payload. */
interface Told {
  readonly line: string;
  /** The event is the nth, from 0. */
  readonly number: number;
  /** In bytes from the start of the trace. */
  readonly at: number;
  /** What the line itself has, and nothing else. */
  readonly own: Own;
  readonly payload: Uint8Array | undefined;
}

/** Events as they stand there, without the last one if it is not whole. */
function* eventsOf(bytes: Uint8Array, start: number): Generator<Told, void> {
  for (let at = start, number = 0; at < bytes.length; number++) {
    const end = bytes.indexOf(NEWLINE, at);
    if (end < 0) return;
    const told = toldIn(bytes.subarray(at, end), number, at);
    const { payload: length } = told.own;
    const isLength = length === undefined || isCount(length);
    need(told, isLength, 'has a `payload` that is not a whole number of bytes');
    // Before it is known whether all of it is there: a length that is wrong is no payload that is cut off.
    const due = length === undefined ? undefined : payloadOf(told);
    if (length !== due) {
      const claim = `has a payload of ${length} bytes, where its length or size calls for`;
      throw wrong(told, `${claim} ${formatValue(due)}`);
    }
    const next = end + 1 + (length ?? 0);
    if (next > bytes.length) return;
    yield length === undefined ? told : { ...told, payload: copyOf(bytes, end + 1, next) };
    at = next;
  }
}

/** How long a payload must be: the disk, or what a command says; undefined where there can be none. */
function payloadOf(told: Told): unknown {
  const { size, dispatched, length } = told.own;
  if (told.number === 0) return size;
  return dispatched === undefined ? undefined : length;
}

function toldIn(bytes: Uint8Array, number: number, at: number): Told {
  let line = '';
  let values: unknown;
  try {
    line = UTF8.decode(bytes);
    values = JSON.parse(line);
  } catch (cause) {
    throw wrong({ line, number, at }, 'is not JSON', cause);
  }
  if (typeof values !== 'object' || values === null || Array.isArray(values)) {
    throw wrong({ line, number, at }, 'is not an object');
  }
  return { line, number, at, own: ownOf(values), payload: undefined };
}

function headOf(told: Told): Head {
  const { payload } = told;
  const { size, unreadable } = told.own;
  need(told, isCount(size), 'does not give the size of the disk');
  const isList =
    unreadable === undefined || (Array.isArray(unreadable) && unreadable.every(isCount));
  need(told, isList, 'has an `unreadable` that is not a list of offsets');
  return { size, ...(unreadable && { unreadable }), ...(payload && { initial: payload }) };
}

/** A command that has no answer yet. */
function commandOf(told: Told): Omit<DiskCommand, 'dispatched'> {
  const { op, offset, length, tag, fua, failed, size } = told.own;
  const { payload } = told;
  const fault = faultOf(told);
  need(told, isOneOf(OPERATIONS, op), 'is a command without an operation');
  const isRange = isCount(offset) && isCount(length) && isCount(offset + length);
  need(told, isRange, 'is a command without a range of bytes below 2^53');
  need(told, isSized(op, told.own), 'has a size that its range does not make');
  need(told, isOneOf(TAGS, tag), 'is a command without a tag');
  const areSaid = typeof fua === 'boolean' && typeof failed === 'boolean';
  need(told, areSaid, 'is a command whose fua and failed are not true or false');
  return {
    ...{ op, offset, length, tag, fua, failed, completed: Number.POSITIVE_INFINITY },
    ...(payload && { data: payload }),
    ...(isCount(size) && { size }),
    ...(fault && { fault }),
  };
}

function takeAnswer(told: Told, commands: readonly Unanswered[], completed: number): void {
  const { command: number, failed } = told.own;
  const command = isCount(number) ? commands[number] : undefined;
  need(told, command, 'answers a command that was not dispatched');
  const isOpen = command.completed === Number.POSITIVE_INFINITY;
  need(told, isOpen, 'answers a command that is already answered');
  const isAnswer = failed === undefined || typeof failed === 'boolean';
  need(told, isAnswer, 'has a `failed` that is not true or false');
  const isLater = completed > command.dispatched;
  need(told, isLater, 'answers a command not later than its dispatch');
  command.completed = completed;
  if (failed !== undefined) command.failed = failed;
}

function faultOf(told: Told): TracedFault | undefined {
  const { fault } = told.own;
  if (fault === undefined) return undefined;
  const { kind, at } = ownOf(fault);
  if (isOneOf(KINDS, kind)) return { kind };
  if (kind === 'misdirected' && isCount(at)) return { kind, at };
  throw wrong(told, 'has a fault that a trace cannot contain');
}

/** The faults that have nothing but their kind. */
const KINDS = ['lost', 'stray', 'unserializable', 'rot', 'latent', 'hollow', 'drop'] as const;

/** The own properties of an object; nothing of another value. */
function ownOf(values: unknown): Own {
  return Object.assign(Object.create(null), typeof values === 'object' ? values : undefined);
}

/** Refuses an event that lacks something. */
function need(told: Told, holds: unknown, what: string): asserts holds {
  if (!holds) throw wrong(told, what);
}

/** Shows the beginning of the line; all of it may be long, and deeper than `JSON.stringify` can go. */
function wrong(
  { line, number, at }: Pick<Told, 'line' | 'number' | 'at'>,
  what: string,
  cause?: unknown,
): WriteBarrierError {
  return syntax(`event ${number}, at byte ${at}, ${what}: ${formatValue(line)}`, cause);
}

// The log of dm-log-writes

const MAGIC = 0x006a_7366_7773_6872n;
const VERSION = 1n;
const HEAD_BYTES = 28;
const ENTRY_BYTES = 32;
/** In bytes: the least that a log has, and what is written here. */
const SECTOR = 512;
const FLUSH = 1n;
const FUA = 2n;
const DISCARD = 4n;
const MARK = 8n;

/**
 * Reads a log of dm-log-writes. Takes time and memory in proportion to the number of bytes, whatever they contain.
 *
 * @param size of the disk that was logged, in bytes; the log does not tell
 * @throws `SYNTAX` for bytes that are no such log, end early, or name what is not on a disk of that size; the message names
 *   the entry, from 0. `INVALID_ARGUMENT` for a size that no disk has, and for what is no `Uint8Array`
 */
export function readLogWrites(bytes: Uint8Array, size: number): DiskTrace {
  checkBytes(bytes, 'readLogWrites');
  if (!Number.isSafeInteger(size) || size < 0)
    throw misuse(`size must be a whole number of bytes, not ${formatValue(size)}`);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (bytes.length < HEAD_BYTES || view.getBigUint64(0, true) !== MAGIC)
    throw syntax('it is not a dm-log-writes log');
  if (view.getBigUint64(8, true) !== VERSION) throw syntax('not version 1 of dm-log-writes');
  const entries = view.getBigUint64(16, true);
  const sector = view.getUint32(24, true);
  if (sector < SECTOR || sector % SECTOR !== 0) throw syntax(`sectors of ${sector} bytes`);
  const recorder = new DiskRecorder(size);
  const run = (op: DiskCommand['op'], offset: number, data: Uint8Array | number, fua: boolean) => {
    const length = typeof data === 'number' ? data : data.length;
    const what = { op, offset, length, tag: 'simple', fua } as const;
    recorder.complete(recorder.dispatch(what, typeof data === 'number' ? undefined : data));
  };

  let at = sector;
  // Each entry takes a sector of the log at least, so a count that is too large ends with the bytes.
  for (let entry = 0; entry < entries; entry++) {
    if (at + sector > bytes.length) throw syntax(`entry ${entry} of ${entries} is missing`);
    const [first, sectors, flags, told] = [0, 8, 16, 24].map((word) =>
      view.getBigUint64(at + word, true),
    ) as [bigint, bigint, bigint, bigint];
    const inline = at + ENTRY_BYTES;
    at += sector;
    if (flags & MARK) {
      if (told > sector - ENTRY_BYTES) {
        throw syntax(`the mark of entry ${entry} has ${told} bytes, more than its sector`);
      }
      recorder.mark(textOf(bytes.subarray(inline, inline + Number(told))));
      continue;
    }
    if (flags & FLUSH) run('flush', 0, 0, false);
    if (sectors === 0n && !(flags & DISCARD)) continue;
    if ((first + sectors) * BigInt(sector) > size) {
      throw syntax(`entry ${entry} is outside of a disk of ${size} bytes`);
    }
    const offset = Number(first) * sector;
    const length = Number(sectors) * sector;
    if (flags & DISCARD) {
      run('discard', offset, length, false);
      continue;
    }
    if (at + length > bytes.length) throw syntax(`the data of entry ${entry} is missing`);
    run('write', offset, bytes.subarray(at, at + length), (flags & FUA) !== 0n);
    at += length;
  }
  return recorder.trace;
}

/** A mark without the zeroes that fill it up. */
function textOf(bytes: Uint8Array): string {
  let end = bytes.length;
  while (end > 0 && bytes[end - 1] === 0) end--;
  return LENIENT.decode(bytes.subarray(0, end));
}

/** What is no text in a mark shows as replacement characters: programs of other people wrote it. */
const LENIENT = new TextDecoder('utf-8', { ignoreBOM: true });

/**
 * Writes a log of dm-log-writes, for its tools (replay-log) and for others that read it. Commands come in the order of
 * their completion; what failed, or was not answered, is left out, and reads are.
 *
 * @throws `INVALID_ARGUMENT` for what is no trace, a command that is not whole sectors of 512 bytes, a mark that does not fit one,
 *   and a resize, because such a log is one of a device
 */
export function writeLogWrites(trace: DiskTrace): Uint8Array {
  checkDiskTrace(trace);
  const { commands, marks } = trace;
  const done = commands
    .filter(
      ({ op, failed, completed }) =>
        op !== 'read' && !failed && completed < Number.POSITIVE_INFINITY,
    )
    .map((command) => ({ time: command.completed, entry: entryOf(command) }));
  const told = marks.map(({ time, value }) => ({ time, entry: markOf(value) }));
  const entries = [...done, ...told].sort((a, b) => a.time - b.time).map(({ entry }) => entry);
  const head = sectorOf(MAGIC, VERSION, BigInt(entries.length), BigInt(SECTOR));
  return concatBuffers([head, ...entries]);
}

function entryOf({ op, offset, length, fua, data, size }: DiskCommand): Uint8Array {
  if (size !== undefined) {
    throw misuse(`a resize to ${size} bytes has no place in a log of dm-log-writes`);
  }
  if (offset % SECTOR !== 0 || length % SECTOR !== 0) {
    throw misuse(`a ${op} of ${length} bytes at ${offset} is not whole sectors`);
  }
  const flags = op === 'flush' ? FLUSH : op === 'discard' ? DISCARD : fua ? FUA : 0n;
  const header = sectorOf(BigInt(offset / SECTOR), BigInt(length / SECTOR), flags, 0n);
  if (op === 'flush' || op === 'discard') return header;
  return concatBuffers([header, data ?? new Uint8Array(length)]);
}

function markOf(value: unknown): Uint8Array {
  const text = TEXT.encode(typeof value === 'string' ? value : JSON.stringify(value));
  if (text.length > SECTOR - ENTRY_BYTES) throw misuse('a mark does not fit into a sector');
  const header = sectorOf(0n, 0n, MARK, BigInt(text.length));
  header.set(text, ENTRY_BYTES);
  return header;
}

/** A sector that begins with these words. */
function sectorOf(...words: readonly bigint[]): Uint8Array {
  const sector = new DataView(new ArrayBuffer(SECTOR));
  for (const [i, word] of words.entries()) sector.setBigUint64(8 * i, word, true);
  return new Uint8Array(sector.buffer);
}

// Both

/** Refuses a value that is not a Uint8Array (of any realm) with `INVALID_ARGUMENT`, before anything of it is read. */
function checkBytes(bytes: Uint8Array, of: string): void {
  if (tagOf(bytes) === '[object Uint8Array]') return;
  throw misuse(`${of} takes a Uint8Array, not ${formatValue(bytes)}`);
}

function syntax(what: string, cause?: unknown): WriteBarrierError {
  return new WriteBarrierError(
    'SYNTAX',
    `this is not a trace: ${what}`,
    cause === undefined ? {} : { cause },
  );
}
