// The commands of the protocol: which requests are legal, in the errors of the protocol, and what they do, as calls of a
// scheduler, or of the connection's member of the group above it (disk.ts). A request that is refused here never reaches a storage.
//
// The checks run in the order in which clients expect the errors: the command, its flags, whether the export is writable,
// whether the range lies inside the export, whether it consists of whole blocks, whether the request is within the server's
// limits. FUA is allowed on every command, as the protocol demands, and matters only for commands that change data.
//
//   C1  A flush is the scheduler's flush. It covers everything that was submitted before, on every connection, and so
//       every answered write. It does not cover what an earlier flush lost: flushes fail until those bytes are written
//       again.
//   C2  A request with FUA ends when its own bytes are durable: a write by the scheduler's FUA; a trim and zeroes by a flush
//       after them. If nothing can be flushed, zeroes are written as data with FUA, and a trim, which is advice, is
//       skipped.
//   C3  With NO_HOLE zeroes are written as data.
//   C4  A full queue of the scheduler loses nothing: the request waits for room. It has no reply yet, so no order is broken.
//   C5  The client gets the number and the stable code of an error, and not its message, which may tell of the server.
//   C6  A request without payload that costs as much as one is executed piece by piece. When the server closes, no further
//       piece is begun and the client gets ESHUTDOWN, because gigabytes would delay `close`.
//   C7  A read of SPARSE_MIN bytes or more whose reply may come in chunks asks the storage first: zeroes of that length that it
//       knows of are neither read nor sent, but named as holes.
//
// Source: NetworkBlockDevice/nbd doc/proto.md, sections "Request types", "Command flags", "Ordering of messages and writes",
// "Error values"; for FUA on reads NetworkBlockDevice/nbd issue 45.

import {
  FlushFailedError,
  type IoScheduler,
  type Storage,
  type Transfer,
  WriteBarrierError,
  type WriteOptions,
} from 'write-barrier';
import { invariant, type Payload, perform } from 'write-barrier/kit';
import {
  COMMAND,
  COMMAND_FLAG,
  type Extent,
  NBD_ERROR,
  type NbdRequest,
  TRANSMISSION_FLAG,
} from '../wire/index.js';
import { IN_PIECES, PIECE_MAX } from './disk.js';
import { SPARSE_MIN, sparsePieces, wireExtents } from './extents.js';
import { type Agreement, allowsAllocation } from './negotiation.js';
import { canFlush, type Export, type ExportInfo } from './options.js';

/** A request to execute. */
export interface SessionRequest extends NbdRequest {
  /** The payload of a WRITE; empty for others. */
  readonly data: readonly Uint8Array[];
  /** A read whose reply may come in several chunks, with holes among them. */
  readonly sparse: boolean;
  /** The session has taken its outcome (nbd-server-session.N1). */
  answered: boolean;
}

/** A refusal: one of `NBD_ERROR`, and a message for people. */
export interface Refusal {
  readonly error: number;
  readonly message: string;
}

/** The result of a request. */
export type Outcome =
  | Refusal
  | {
      readonly data?: Uint8Array | undefined;
      readonly pieces?: readonly ReadPiece[];
      readonly extents?: readonly Extent[];
    };

/** A part of what a read answers with; without `data` a hole. */
export interface ReadPiece {
  readonly offset: number;
  readonly length: number;
  readonly data?: Uint8Array;
}

/** The export that a request is for, and the state of its connection. */
export interface Work extends Export {
  /** The connection's own member of the group of the disk: its commands take turns with those of other connections. */
  readonly member: Storage;
  /** The client is gone: nothing more is submitted for it (connection.K6). */
  abandoned(): boolean;
  /** The server is closing: a request in several pieces ends (C6). */
  closing(): boolean;
  /** A request has ended. Called once for each. */
  ended(request: SessionRequest, outcome: Outcome): void;
}

/** What a command answers with when it succeeds: a read with its bytes, BLOCK_STATUS with extents, others with nothing. */
type Result = Uint8Array | Exclude<Outcome, Refusal> | void;

interface CommandRule {
  /** May reject with QUEUE_FULL if it has done nothing yet. `isDirect`: past the group (disk.H1). */
  readonly run: (request: SessionRequest, target: Work, isDirect: boolean) => Promise<Result>;
  /** Flags that it allows in addition to FUA. */
  readonly flags: number;
  /** The transmission flag that offers it; 0 if it is always offered. */
  readonly needs: number;
  readonly writes: boolean;
  readonly ranged: boolean;
  /** Its length is that of a payload, and limited by `blockSizes.maximum`. */
  readonly payload: boolean;
}

const rule = (
  run: CommandRule['run'],
  kind: 'read' | 'look' | 'write' | 'change' | 'none',
  needs = 0,
  flags = 0,
): CommandRule => ({
  run,
  flags,
  needs,
  writes: kind === 'write' || kind === 'change',
  ranged: kind !== 'none',
  payload: kind === 'read' || kind === 'write',
});

const { DF, NO_HOLE, FAST_ZERO, REQ_ONE } = COMMAND_FLAG;
const FLAG = TRANSMISSION_FLAG;

const RULES: ReadonlyMap<number, CommandRule> = new Map([
  [COMMAND.READ, rule(read, 'read', 0, DF)],
  [COMMAND.WRITE, rule(write, 'write')],
  [COMMAND.FLUSH, rule(flush, 'none', FLAG.SEND_FLUSH)],
  [COMMAND.TRIM, rule(trim, 'change', FLAG.SEND_TRIM)],
  [COMMAND.CACHE, rule(fill, 'look', FLAG.SEND_CACHE)],
  [COMMAND.WRITE_ZEROES, rule(writeZeroes, 'change', FLAG.SEND_WRITE_ZEROES, NO_HOLE | FAST_ZERO)],
  [COMMAND.BLOCK_STATUS, rule(status, 'look', 0, REQ_ONE)],
]);

/** The answer to a request that comes while the server closes. */
export const CLOSING: Refusal = {
  error: NBD_ERROR.ESHUTDOWN,
  message: 'the server is closing',
};
/** How long the pieces are in which Node reads a socket, in bytes. */
const KEPT_MAX = 64 * 1024;
/** The most extents of one answer, because a client may ask again from where they end. */
const EXTENTS_MAX = 8192;
const FORCED: WriteOptions = Object.freeze({ fua: true });
const DONE: Outcome = Object.freeze({});

// Which requests are legal

/** What is wrong with a request, which is not DISC; undefined if nothing is. */
export function refusalOf(
  request: NbdRequest,
  info: ExportInfo,
  agreement: Agreement,
): Refusal | undefined {
  const rule = RULES.get(request.command);
  if (!rule) return refuse(NBD_ERROR.EINVAL, `unknown command ${request.command}`);
  const unknown = request.flags & ~flagsFor(rule, info, agreement);
  if (unknown)
    return refuse(NBD_ERROR.EINVAL, `the command does not allow flags 0x${unknown.toString(16)}`);
  if (rule.writes && info.readOnly) return refuse(NBD_ERROR.EPERM, 'the export is read-only');
  if (rule.needs && (info.flags & rule.needs) === 0) {
    return refuse(NBD_ERROR.EINVAL, 'the command was not offered');
  }
  if (request.command === COMMAND.BLOCK_STATUS && !allowsAllocation(agreement, info)) {
    return refuse(NBD_ERROR.EINVAL, 'use SET_META_CONTEXT first');
  }
  return rule.ranged ? rangeRefusal(request, rule, info) : emptyRefusal(request);
}

function flagsFor(rule: CommandRule, { flags }: ExportInfo, { structured }: Agreement): number {
  const fua = flags & FLAG.SEND_FUA ? COMMAND_FLAG.FUA : 0;
  const df = structured ? DF : 0;
  // FAST_ZERO is understood even if it was not offered, because ENOTSUP is the answer that the client wants.
  return fua | (rule.flags & (df | FAST_ZERO | NO_HOLE | REQ_ONE));
}

function rangeRefusal(
  { command, offset, length, flags }: NbdRequest,
  rule: CommandRule,
  info: ExportInfo,
): Refusal | undefined {
  const { size, workBytes, blockSizes } = info;
  const { minimum, maximum } = blockSizes;
  if (rule.payload && length > maximum) {
    const error = flags & DF ? NBD_ERROR.EOVERFLOW : NBD_ERROR.EINVAL;
    return refuse(error, `the length is ${length} bytes; at most ${maximum} are allowed`);
  }
  // An offset from 2^53 on was rounded, and is still larger than every size.
  if (offset + length > size) {
    return refuse(beyondEnd(command), `the range ends after the end of the export at ${size}`);
  }
  if (length === 0) return refuse(NBD_ERROR.EINVAL, 'the length is 0');
  if (offset % minimum !== 0 || length % minimum !== 0) {
    return refuse(NBD_ERROR.EINVAL, `offset and length must be multiples of ${minimum}`);
  }
  if (!isWork(command, flags, info)) return undefined;
  if (flags & FAST_ZERO)
    return refuse(NBD_ERROR.ENOTSUP, 'writing zeroes is not faster than writing data');
  if (length <= workBytes) return undefined;
  return refuse(
    NBD_ERROR.EOVERFLOW,
    `the length is ${length} bytes; at most ${workBytes} are allowed`,
  );
}

/** Whether a request costs as much as one with a payload and has none: its 28 bytes may ask for 4 GiB. */
function isWork(command: number, flags: number, info: ExportInfo): boolean {
  if (command !== COMMAND.WRITE_ZEROES) return command === COMMAND.CACHE;
  return (
    isForced(flags, info) || (flags & NO_HOLE) !== 0 || (info.flags & FLAG.SEND_FAST_ZERO) === 0
  );
}

/** C2: FUA where nothing can be flushed afterwards. */
function isForced(flags: number, info: ExportInfo): boolean {
  return isFua(flags) && !canFlush(info);
}

function isFua(flags: number): boolean {
  return (flags & COMMAND_FLAG.FUA) !== 0;
}

function emptyRefusal({ offset, length }: NbdRequest): Refusal | undefined {
  if (offset === 0 && length === 0) return undefined;
  return refuse(NBD_ERROR.EINVAL, 'offset and length are reserved and must be 0');
}

function refuse(error: number, message: string): Refusal {
  return { error, message };
}

// What they do

/** The buffers that a request holds while it is in flight, in bytes. */
export function costOf({ command, length }: SessionRequest): number {
  if (RULES.get(command)?.payload) return length;
  const pieces = command === COMMAND.CACHE || command === COMMAND.WRITE_ZEROES;
  return pieces ? Math.min(length, PIECE_MAX) : 0;
}

/**
 * What a request keeps from being freed beyond its own buffers, in bytes: a payload may be a small part of the piece in which it
 * came, and the rest of the piece lives as long.
 */
export function keptBy({ data: [first], length }: SessionRequest): number {
  if (first === undefined) return 0;
  return Math.max(0, Math.min(first.buffer.byteLength, KEPT_MAX) - length);
}

/**
 * Executes a legal request, and passes its outcome to `target.ended`.
 *
 * An object for a request in flight, which is used again for a later one: its two functions, and the frame of an async
 * function instead of them, would be a third of the memory that a request takes between the socket and the scheduler.
 */
export class Execution {
  readonly #target: Work;
  readonly #free: Execution[];
  #request: SessionRequest | undefined;
  #rule: CommandRule | undefined;
  #isDirect = false;

  /** @param free where it waits for its next request */
  constructor(target: Work, free: Execution[]) {
    this.#target = target;
    this.#free = free;
  }

  begin(request: SessionRequest): void {
    const rule = RULES.get(request.command);
    invariant(rule !== undefined, 'nbd-server-session.N2: an unknown command was handed out');
    const { disk } = this.#target;
    this.#request = request;
    this.#rule = rule;
    if (rule.writes) disk.changes();
    if (rule.ranged) this.#isDirect = disk.enter(rule.payload ? request.length : IN_PIECES);
    this.#run();
  }

  #run(): void {
    const result = this.#target.abandoned()
      ? Promise.reject(clientGone())
      : (this.#rule as CommandRule).run(
          this.#request as SessionRequest,
          this.#target,
          this.#isDirect,
        );
    result.then(this.#done, this.#failed);
  }

  readonly #done = (result: Result): void => this.#end(outcomeOf(result));

  readonly #failed = (error: unknown): void => {
    if (isFull(error)) this.#target.scheduler.ready().then(this.#again, this.#failed);
    else this.#end(refusalFor(error, (this.#request as SessionRequest).command));
  };

  /** C4 */
  readonly #again = (): void => this.#run();

  #end(outcome: Outcome): void {
    const request = this.#request as SessionRequest;
    const rule = this.#rule as CommandRule;
    const { disk } = this.#target;
    this.#request = undefined;
    if (rule.writes) disk.changes();
    if (rule.ranged) disk.leave(rule.payload ? request.length : IN_PIECES, this.#isDirect);
    this.#free.push(this);
    this.#target.ended(request, outcome);
  }
}

function serverCloses(): WriteBarrierError {
  return new WriteBarrierError('CLOSED', 'the server is closing');
}

function clientGone(): WriteBarrierError {
  return new WriteBarrierError('CLOSED', 'the client is gone');
}

function outcomeOf(result: Result): Outcome {
  if (result === undefined) return DONE;
  return result instanceof Uint8Array ? { data: result } : result;
}

/** C4 */
function isFull(error: unknown): boolean {
  return WriteBarrierError.is(error) && error.code === 'QUEUE_FULL';
}

/** Rejects while bytes that a flush has lost are not written again (C1). */
function checkAtRisk({ atRisk, state }: IoScheduler): void {
  if (atRisk.length === 0 || state !== 'running') return;
  const cause = new Error(
    'an earlier flush failed, and these bytes have not been written again since then',
  );
  throw new FlushFailedError(atRisk, cause);
}

/** Settles when everything that was written before is durable (C1). @throws `FLUSH_FAILED`, `FAILED` */
export async function flushed(scheduler: IoScheduler): Promise<void> {
  checkAtRisk(scheduler);
  await scheduler.flush();
}

/** The reply to a request that failed (C5). */
export function refusalFor(error: unknown, command: number): Refusal {
  const message = WriteBarrierError.is(error) ? error.code : 'IO_FAILED';
  const number = errorNumber(error);
  return { error: number === BEYOND ? beyondEnd(command) : number, message };
}

/** A range that ends after the end of the export: of one that became smaller since it was opened, a client cannot know. */
function beyondEnd(command: number): number {
  const grows = command === COMMAND.WRITE || command === COMMAND.WRITE_ZEROES;
  return grows ? NBD_ERROR.ENOSPC : NBD_ERROR.EINVAL;
}

function read(request: SessionRequest, target: Work, isDirect: boolean): Promise<Result> {
  const { offset, length, sparse } = request;
  const asks = sparse && length >= SPARSE_MIN && target.scheduler.capabilities.blockStatus;
  return asks ? readSparse(request, target, isDirect) : readBytes(target, offset, length, isDirect);
}

function readBytes(
  { scheduler, member }: Work,
  offset: number,
  length: number,
  isDirect: boolean,
): Promise<Uint8Array> {
  return isDirect ? scheduler.read(offset, length) : readBy(member, offset, length);
}

/** C7 */
async function readSparse(
  { offset, length }: SessionRequest,
  target: Work,
  isDirect: boolean,
): Promise<Result> {
  const cut = sparsePieces(offset, length, await target.scheduler.blockStatus(offset, length));
  // Data alone is read as by a client that takes no chunks, because the status alone costs little.
  if (cut.length === 1 && !cut[0]?.isHole) return readBytes(target, offset, length, isDirect);
  const pieces = cut.map(async ({ isHole, ...piece }): Promise<ReadPiece> => {
    if (isHole) return piece;
    const readPiece = (): Promise<Uint8Array> =>
      readBytes(target, piece.offset, piece.length, isDirect);
    return { ...piece, data: await submit(target, readPiece) };
  });
  return { pieces: await Promise.all(pieces) };
}

async function readBy(member: Storage, offset: number, length: number): Promise<Uint8Array> {
  const into = new Uint8Array(length);
  await member.read(offset, into);
  return into;
}

function write(
  { offset, length, data, flags }: SessionRequest,
  { scheduler, member }: Work,
  isDirect: boolean,
): Promise<void> {
  const [only] = data;
  const payload = only && data.length === 1 ? only : data;
  const fua = isFua(flags);
  if (isDirect) return scheduler.write(offset, payload, fua ? FORCED : undefined);
  return put(member, 'write', offset, length, payload, fua);
}

/** By what a member has for it: a list of buffers, or one. */
async function put(
  member: Storage,
  op: 'write' | 'discard' | 'writeZeroes',
  offset: number,
  length: number,
  data?: Payload,
  fua = false,
): Promise<void> {
  await perform(member, { kind: 'command', op, offset, length, tag: 'simple', fua }, data);
}

async function flush(_: SessionRequest, { scheduler, disk }: Work): Promise<void> {
  checkAtRisk(scheduler);
  await disk.flush();
}

async function trim({ offset, length, flags }: SessionRequest, target: Work): Promise<void> {
  const { member, scheduler } = target;
  if (isForced(flags, target)) return;
  await submit(target, () => put(member, 'discard', offset, length));
  if (isFua(flags)) await submit(target, () => scheduler.flush());
}

async function writeZeroes(request: SessionRequest, target: Work): Promise<void> {
  const { offset, length, flags } = request;
  const { member, scheduler } = target;
  const { writeZeroes: writes, fastZeroes: isFast } = scheduler.capabilities;
  const forced = isForced(flags, target);
  if (forced || (flags & NO_HOLE) !== 0 || !writes) {
    const zeroes = new Uint8Array(Math.min(length, PIECE_MAX));
    await inPieces(target, length, (at, size) =>
      put(member, 'write', offset + at, size, zeroes.subarray(0, size), forced),
    );
  } else if (isFast) {
    await submit(target, () => put(member, 'writeZeroes', offset, length));
  } else {
    await inPieces(target, length, (at, size) => put(member, 'writeZeroes', offset + at, size));
  }
  if (isFua(flags) && !forced) await submit(target, () => scheduler.flush());
}

async function fill({ offset, length }: SessionRequest, target: Work): Promise<void> {
  const into = new Uint8Array(Math.min(length, PIECE_MAX));
  await inPieces(target, length, (at, size) =>
    target.member.read(offset + at, into.subarray(0, size)),
  );
}

async function status({ offset, length, flags }: SessionRequest, target: Work): Promise<Result> {
  const extents = await target.scheduler.blockStatus(offset, length);
  return { extents: wireExtents(extents, flags & REQ_ONE ? 1 : EXTENTS_MAX) };
}

/** C6 */
async function inPieces(
  target: Work,
  length: number,
  call: (at: number, size: number) => Transfer,
): Promise<void> {
  for (let at = 0, size = 0; at < length; at += size) {
    size = Math.min(target.disk.pieceBytes, length - at);
    await target.disk.piece(target, size, () => {
      if (at > 0 && target.closing()) throw serverCloses();
      return submit(target, () => call(at, size));
    });
  }
}

/** C4, for a command of several requests: an `Execution` would begin it again. */
async function submit<T>(target: Work, call: () => T): Promise<Awaited<T>> {
  for (;;) {
    if (target.abandoned()) throw clientGone();
    try {
      return await call();
    } catch (error) {
      if (!isFull(error)) throw error;
    }
    await target.scheduler.ready();
  }
}

/** No number of the protocol. */
const BEYOND = -1;

const NUMBERS: ReadonlyMap<string, number> = new Map([
  ['ENOSPC', NBD_ERROR.ENOSPC],
  ['EDQUOT', NBD_ERROR.ENOSPC],
  ['EFBIG', NBD_ERROR.ENOSPC],
  ['EPERM', NBD_ERROR.EPERM],
  ['EACCES', NBD_ERROR.EPERM],
  ['EROFS', NBD_ERROR.EPERM],
  ['READ_ONLY', NBD_ERROR.EPERM],
  ['ENOMEM', NBD_ERROR.ENOMEM],
  ['EOPNOTSUPP', NBD_ERROR.ENOTSUP],
  ['CLOSED', NBD_ERROR.ESHUTDOWN],
  ['OUT_OF_RANGE', BEYOND],
]);

/** The first code of the error and its causes that NBD has a number for. */
function errorNumber(error: unknown): number {
  let cause = error;
  for (let depth = 0; depth < 8 && cause instanceof Error; depth += 1) {
    const number = 'code' in cause ? NUMBERS.get(String(cause.code)) : undefined;
    if (number !== undefined) return number;
    ({ cause } = cause);
  }
  return NBD_ERROR.EIO;
}
