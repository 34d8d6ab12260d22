import type { Request } from './request.js';

/**
 * The stable codes of this package's errors, in three families. The caller's next move depends on the family: misuse
 * (nothing was queued: correct the call), refusal (no medium was touched), failure (something may be lost, and the error
 * says what).
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
  | 'STORAGE_IN_USE'
  | 'CLOSED'
  // refusal
  | 'EOPNOTSUPP'
  | 'UNSAFE_MODE'
  | 'QUEUE_FULL'
  | 'FAILED'
  | 'READ_AT_RISK'
  | 'BARRIER_ABORTED'
  | 'STORAGE_LOCKED'
  | 'READ_ONLY'
  | 'NO_SPACE'
  // failure
  | 'IO_FAILED'
  | 'SHORT_TRANSFER'
  | 'FLUSH_FAILED'
  | 'CLOSE_TIMEOUT'
  | 'CONNECTION_LOST'
  | 'POWER_CUT';

const BRAND = Symbol.for('write-barrier.error');

/**
 * The base of all errors of this package. Branch on `code`, show `message`, and look into `cause` for what the
 * storage said.
 */
export class WriteBarrierError extends Error {
  override get name(): string {
    return 'WriteBarrierError';
  }

  /** Stable across releases; the message is not. */
  readonly code: ErrorCode;

  constructor(code: ErrorCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
    // A brand, because `instanceof` fails where the ESM and the CJS build meet in one program.
    Object.defineProperty(this, BRAND, { value: true });
    // The stack begins with the printed name, because a console prints the stack, and a structured clone keeps the class
    // and the code only there. Engines without such a first line, and programs with an `Error.prepareStackTrace` that
    // returns no string, are left alone.
    const { name, stack } = this;
    if (typeof stack === 'string' && stack.startsWith(name))
      this.stack = `${name} [${code}]${stack.slice(name.length)}`;
  }

  /** `IoFailedError [IO_FAILED]: the message`. */
  override toString(): string {
    return `${this.name} [${this.code}]: ${this.message}`;
  }

  /** Whether `value` is an error of this package, whichever copy of the package made it. */
  static is(value: unknown): value is WriteBarrierError {
    return typeof value === 'object' && value !== null && BRAND in value;
  }
}

/**
 * A command failed at the storage, or a call of the system failed. What the storage or the system said is the `cause`.
 */
export class IoFailedError extends WriteBarrierError {
  override get name(): 'IoFailedError' {
    return 'IoFailedError';
  }
  /**
   * The request that failed: its bytes may hold the old content, the new, or a mixture. Undefined where the failure is not
   * that of a request, as when a file cannot be opened.
   */
  readonly request: Request | undefined;

  /** For storages of your own as well: they may throw it for any command that fails. */
  constructor(message: string, options: ErrorOptions & { readonly request?: Request } = {}) {
    super('IO_FAILED', message, options);
    this.request = options.request;
  }
}

/** Throws when a condition is false that only a defect of this package can make false. */
export function invariant(condition: boolean, rule: string): asserts condition {
  if (!condition) throw new Error(`write-barrier is broken: ${rule}`);
}

/** The error for a wrong argument: `INVALID_ARGUMENT`. Throw it before anything has changed. */
export function misuse(message: string, options?: ErrorOptions): WriteBarrierError {
  return new WriteBarrierError('INVALID_ARGUMENT', message, options);
}

/** The error for what a storage or a mode cannot do: `EOPNOTSUPP`, with nothing written. */
export function unsupported(what: string): WriteBarrierError {
  return new WriteBarrierError('EOPNOTSUPP', `${what} is not supported here; nothing was written`);
}

/** The text of a thrown value: the message of an error; any other value as a string. */
export function messageOf(cause: unknown): string {
  try {
    return String(cause instanceof Error ? cause.message : cause);
  } catch {
    return 'a value that cannot be shown';
  }
}
