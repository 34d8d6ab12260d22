// Faults as data: a plan is a list of plain values that can be generated, printed, shrunk and
// pasted back. Every fault happens once. A storage that fails for good is a list of many.

import { type DeviceCommand, type Operation, WriteBarrierError } from '../model/index.js';
import type { Storage } from './storage.js';
import { isPending, wrap } from './wrappers.js';

/**
 * What goes wrong, and at which command.
 *
 * - `fail`: the command does nothing and fails with `IO_FAILED`.
 * - `hang`: the command does nothing and is never answered.
 * - `short`: the first half of a transfer is carried out, rounded down to whole blocks, and the
 *   answer is the number of its bytes. Half of a single block is nothing.
 */
export type Fault =
  | {
      /** The operation that goes wrong. */
      readonly on: Operation;
      /** Which command of that operation, counted from 0. A `writev` counts as a write. */
      readonly nth: number;
      /** It does nothing and says so. */
      readonly fault: 'fail';
      /** The message of the error. */
      readonly error?: string;
    }
  | {
      /** The operation that goes wrong. */
      readonly on: Operation;
      /** Which command of that operation, counted from 0. */
      readonly nth: number;
      /** It does nothing and says nothing. */
      readonly fault: 'hang';
    }
  | {
      /** Only transfers can come short. */
      readonly on: 'read' | 'write';
      /** Which command of that operation, counted from 0. */
      readonly nth: number;
      /** It does half and says how much. */
      readonly fault: 'short';
    };

const OPERATIONS: readonly string[] = ['read', 'write', 'flush', 'discard', 'writeZeroes'];
const FAULTS: readonly string[] = ['fail', 'hang', 'short'];

/**
 * Makes single commands of a storage go wrong. All others pass.
 *
 * @throws `INVALID_ARGUMENT` at once for a plan with anything in it but faults as described, or
 *   with two for the same command
 */
export function withFaults(storage: Storage, plan: readonly Fault[]): Storage {
  const faults = checked(plan);
  const counts = new Map<Operation, number>();
  return wrap(storage, (command, run) => {
    const nth = counts.get(command.op) ?? 0;
    counts.set(command.op, nth + 1);
    const fault = faults.get(key(command.op, nth));
    switch (fault?.fault) {
      case undefined:
        return run();
      case 'fail':
        throw new WriteBarrierError(
          'IO_FAILED',
          fault.error ?? `planned: ${fault.on} ${nth} fails`,
        );
      case 'hang':
        return new Promise(() => {});
      case 'short':
        return short(command, storage.capabilities.blockSize, run);
    }
  });
}

function short(
  { length }: DeviceCommand,
  blockSize: number,
  run: (length: number) => ReturnType<Storage['read']>,
): number | Promise<number> {
  const half = Math.floor(length / 2 / blockSize) * blockSize;
  if (half === 0) return 0;
  const answer = run(half);
  // The storage below may come short of the half too, and then says so itself.
  return isPending(answer) ? answer.then((moved) => moved ?? half) : (answer ?? half);
}

function checked(plan: readonly Fault[]): ReadonlyMap<string, Fault> {
  if (!Array.isArray(plan)) throw misuse('a fault plan is a list', plan);
  const faults = new Map<string, Fault>();
  for (const entry of plan) {
    if (!OPERATIONS.includes(entry?.on)) throw misuse('no such operation', entry);
    if (!Number.isSafeInteger(entry.nth) || entry.nth < 0) {
      throw misuse('nth counts whole commands from 0', entry);
    }
    if (!FAULTS.includes(entry.fault)) throw misuse('no such fault', entry);
    if (entry.fault === 'short' && entry.on !== 'read' && entry.on !== 'write') {
      throw misuse('only a read or a write comes short', entry);
    }
    if (faults.has(key(entry.on, entry.nth))) throw misuse('two faults for one command', entry);
    faults.set(key(entry.on, entry.nth), Object.freeze({ ...entry }));
  }
  return faults;
}

function key(on: Operation, nth: number): string {
  return `${on} ${nth}`;
}

function misuse(what: string, value: unknown): WriteBarrierError {
  return new WriteBarrierError('INVALID_ARGUMENT', `${what}: ${JSON.stringify(value)}`);
}
