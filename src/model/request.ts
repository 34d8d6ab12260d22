// The requests: what a client asks for, as plain values that `structuredClone` and JSON preserve. The data of a write and the
// buffer of a read travel beside the request, so that a mode, a plan or a trace never touches them.
//
// Not here: what a mode makes of a request (transform.ts), and whether its range fits a storage (storage/checks.ts).

/** Bytes from `start` up to, not including, `end`. */
export interface ByteRange {
  /** The first byte, counted from the start of the storage. */
  readonly start: number;
  /** One more than the last byte. */
  readonly end: number;
}

/** What requests with a range have in common. */
interface Ranged {
  /** In bytes from the start of the storage. */
  readonly offset: number;
  /** In bytes, at least 1. */
  readonly length: number;
}

/** Reads bytes. */
export interface ReadRequest extends Ranged {
  readonly kind: 'read';
  /** Reads no bytes, but what the storage knows of them: holes and zeroes. It has the place of a read in every order. */
  readonly status?: boolean;
}

/**
 * Writes bytes. Three independent flags:
 *
 * - `barrier`: everything submitted earlier is ordered before this write, everything later after it
 *   (Linux 2.6.16 to 2.6.36, `REQ_HARDBARRIER`);
 * - `preflush`: a flush before the data (Linux since 2.6.37, `REQ_PREFLUSH`);
 * - `fua`: complete only when the data is on the medium (`REQ_FUA`).
 */
export interface WriteRequest extends Ranged {
  readonly kind: 'write';
  /** Everything submitted earlier is ordered before this write, everything later after it. */
  readonly barrier?: boolean;
  /** What was submitted earlier is durable before the data is issued. */
  readonly preflush?: boolean;
  /** The data is durable at completion. It orders nothing. */
  readonly fua?: boolean;
}

/** Makes durable what was submitted before it; orders nothing. */
export interface FlushRequest {
  readonly kind: 'flush';
}

/** An empty barrier: an ordering point without a payload. */
export interface BarrierRequest {
  readonly kind: 'barrier';
}

/** Tells the storage that the bytes are not needed. Until they are written again a read may return anything. */
export interface DiscardRequest extends Ranged {
  readonly kind: 'discard';
  /** The new size of the storage, in bytes: the request makes it, and cuts the bytes off, which are those from `size` to the end. */
  readonly size?: number;
}

/** Makes the bytes read as zero. Zeroes are sent only where the storage has no command for it. */
export interface WriteZeroesRequest extends Ranged {
  readonly kind: 'writeZeroes';
  /** The new size of the storage, in bytes: the request makes it, and adds the bytes, which are those from the old end to `size`. */
  readonly size?: number;
}

/** What a client asks for. A plain value: the payload of a write travels beside it. */
export type Request =
  | ReadRequest
  | WriteRequest
  | DiscardRequest
  | WriteZeroesRequest
  | FlushRequest
  | BarrierRequest;

/**
 * The request that changes a size, in bytes, to another one. It has no kind of its own, because its place in every order is that of
 * a write to what it adds or cuts off.
 */
export function resizeOf(from: number, size: number): DiscardRequest | WriteZeroesRequest {
  const kind = size > from ? 'writeZeroes' : 'discard';
  return { kind, offset: Math.min(from, size), length: Math.abs(size - from), size };
}

/** Whether the request is a barrier, with data or empty. */
export function isBarrier(request: Request): boolean {
  return request.kind === 'barrier' || (request.kind === 'write' && request.barrier === true);
}

/** Whether the request changes what the medium holds. */
export function isMutation(
  request: Request,
): request is WriteRequest | DiscardRequest | WriteZeroesRequest {
  return request.kind === 'write' || request.kind === 'discard' || request.kind === 'writeZeroes';
}

/** For messages: `write of 512 bytes at 1536 with barrier`, `flush`. */
export function inWords(
  name: Request['kind'],
  range: object & { readonly offset?: number; readonly length?: number },
): string {
  const { offset, length } = range;
  const flags = ['barrier', 'preflush', 'fua'].filter((flag) => range[flag as never]);
  return [length ? `${name} of ${length} bytes at ${offset}` : name, ...flags].join(' with ');
}
