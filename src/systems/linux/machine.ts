// What the two state machines of this folder have in common: the queue of the hard barriers (ordered-queue.ts) and the
// flush machine that took its place (flush-machine.ts). A driver reports what was submitted and what the device
// answered, asks for commands until there is none, and answers whom there is an answer for.
//
// `C` is whatever the driver wants to find again in a request. No machine looks into it.

import {
  type DeviceCommand,
  type Operation,
  type Stage,
  type Tag,
  WriteBarrierError,
} from 'write-barrier';

/** What a driver is to do, once. The same value is handed back when it is done. */
export interface BlockCommand<C> {
  /** What the device is to do, and where that stands in the sequence of its request. */
  readonly what: DeviceCommand & {
    /** `plain` for whatever is not part of a sequence. */
    readonly stage: Stage;
  };
  /** Whom it serves: several where requests were merged, in the order of their bytes, or share a flush. */
  readonly clients: readonly C[];
}

/** Who is answered, and how. */
export interface BlockAnswer<C> {
  /** Whoever submitted the request. */
  readonly client: C;
  /** What went wrong; absent for success. */
  readonly error?: unknown;
}

/** A queue as a driver sees it. Times are in milliseconds, never go back, and matter only to some. */
export interface BlockMachine<C> {
  /** The next command, or undefined while one must complete first, or none is left. */
  next(nowMs: number): BlockCommand<C> | undefined;
  /**
   * The device has answered a command, with `error` where it failed.
   *
   * @throws `INVALID_ARGUMENT` for a command that is not with the driver
   */
  complete(command: BlockCommand<C>, nowMs: number, error?: unknown): void;
  /** The next answer, in the order in which they came about. */
  takeAnswered(): BlockAnswer<C> | undefined;
}

/** A command for a driver, frozen. */
export function commandOf<C>(
  op: Operation,
  range: { readonly offset: number; readonly length: number },
  { tag, fua, stage }: { readonly tag: Tag; readonly fua: boolean; readonly stage: Stage },
  clients: readonly C[],
): BlockCommand<C> {
  const { offset, length } = range;
  const what = Object.freeze({ kind: 'command', op, offset, length, tag, fua, stage } as const);
  return Object.freeze({ what, clients: Object.freeze([...clients]) });
}

/** The bytes of a flush. */
export const NO_BYTES: { readonly offset: number; readonly length: number } = Object.freeze({
  offset: 0,
  length: 0,
});

/** What the kernel stops at: a state that only a defect of this module can cause. */
export function bugOn(condition: boolean, rule: string): void {
  if (condition) throw new Error(`kernel BUG: ${rule}`);
}

/** -EOPNOTSUPP: the payload was not written, send it again without the barrier. */
export function unsupported(): WriteBarrierError {
  return new WriteBarrierError('EOPNOTSUPP', 'the queue does not support it; nothing was written');
}

/** Misuse: a driver answers for a command that it does not have, or not any more. */
export function noSuchCommand(): WriteBarrierError {
  return new WriteBarrierError('INVALID_ARGUMENT', 'no such command is with the driver');
}
