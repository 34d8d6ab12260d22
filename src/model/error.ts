/**
 * The stable codes of this package's errors. Three families, told apart because the caller's next
 * move differs: misuse (nothing was queued), refusal (no medium was touched) and failure (something
 * may be lost, and the error says what).
 */
export type ErrorCode =
  // misuse
  | 'INVALID_ARGUMENT'
  | 'OUT_OF_RANGE'
  | 'UNALIGNED'
  | 'ZERO_LENGTH'
  | 'SYNTAX'
  | 'EINVAL'
  | 'INVALID_STORAGE'
  | 'CLOSED'
  // refusal
  | 'EOPNOTSUPP'
  | 'UNSAFE_MODE'
  | 'QUEUE_FULL'
  | 'FAILED'
  | 'BARRIER_ABORTED'
  | 'STORAGE_LOCKED'
  | 'READ_ONLY'
  // failure
  | 'IO_FAILED'
  | 'SHORT_TRANSFER'
  | 'FLUSH_FAILED'
  | 'CLOSE_TIMEOUT'
  | 'CONNECTION_LOST'
  | 'POWER_CUT';

const BRAND = Symbol.for('write-barrier.error');

/**
 * Every error that this package makes. Branch on `code`, show `message`, look into `cause` for what
 * the storage said.
 */
export class WriteBarrierError extends Error {
  override readonly name: string = 'WriteBarrierError';
  /** Stable across releases; the message is not. */
  readonly code: ErrorCode;

  constructor(code: ErrorCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
    // A brand and not `instanceof`: the ESM and the CJS build may meet in one program.
    Object.defineProperty(this, BRAND, { value: true });
  }

  /** Whether `value` is an error of this package, whichever copy of the package made it. */
  static is(value: unknown): value is WriteBarrierError {
    return typeof value === 'object' && value !== null && BRAND in value;
  }
}

/** Stops the program at a state that only a defect of this package can cause. */
export function invariant(condition: boolean, rule: string): asserts condition {
  if (!condition) throw new Error(`write-barrier is broken: ${rule}`);
}

/** What somebody else threw, in words. */
export function inWords(cause: unknown): string {
  try {
    return String(cause instanceof Error ? cause.message : cause);
  } catch {
    return 'something that has no words';
  }
}
