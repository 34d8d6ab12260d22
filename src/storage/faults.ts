// Faults as data: a plan is a list of plain values that can be generated, printed, shrunk and pasted into a test. Every fault
// happens once; for a storage that keeps failing, list many.
//
// Commands are counted by operation, from 0, in the order of their calls; a `writev` is a write.
// The whole plan is checked before anything is wrapped, because an entry with a misspelt key would be a fault that never
// happens.

import {
  checkArgument,
  checkOptions,
  type DeviceCommand,
  IoFailedError,
  misuse,
  type Operation,
  oneOf,
  rule,
  wholeNumber,
} from '../model/index.js';
import { withText } from '../model/show.js';
import { type Storage, textOf } from './storage.js';
import { isPending, wrap } from './wrappers.js';

/**
 * What goes wrong, and at which command.
 *
 * - `fail`: the command does nothing and fails with `IO_FAILED`.
 * - `hang`: the command does nothing and is never answered.
 * - `short`: the first half of a transfer is carried out, rounded down to whole blocks, and its number of bytes is the answer.
 *   Of a single block nothing is carried out.
 */
export type Fault =
  | {
      /** The operation that goes wrong. */
      readonly on: Operation;
      /** Which command of that operation, counted from 0. A `writev` counts as a write. */
      readonly nth: number;
      /** The command does nothing and fails. */
      readonly fault: 'fail';
      /** The message of the error. */
      readonly error?: string;
    }
  | {
      /** The operation that goes wrong. */
      readonly on: Operation;
      /** Which command of that operation, counted from 0. */
      readonly nth: number;
      /** The command does nothing and never ends. */
      readonly fault: 'hang';
    }
  | {
      /** Only transfers can be short. */
      readonly on: 'read' | 'write';
      /** Which command of that operation, counted from 0. */
      readonly nth: number;
      /** Half of the command is done, and the answer says how much. */
      readonly fault: 'short';
    };

const FAULT_KEYS = { on: true, nth: true, fault: true, error: true };
const LIST = /* @__PURE__ */ rule(Array.isArray, 'a list of faults');
const OPERATION = /* @__PURE__ */ oneOf(['read', 'write', 'flush', 'discard', 'writeZeroes']);
const TRANSFER = /* @__PURE__ */ rule(
  (on) => on === 'read' || on === 'write',
  "'read' or 'write' where fault is 'short'",
);
const NTH = /* @__PURE__ */ wholeNumber();
const FAULT = /* @__PURE__ */ oneOf(['fail', 'hang', 'short']);
const TEXT = /* @__PURE__ */ rule((error) => typeof error === 'string', 'a string');
const NO_TEXT = /* @__PURE__ */ rule(() => false, "absent unless fault is 'fail'");

/**
 * Makes single commands of a storage fail, hang or come short. All others pass.
 *
 * @throws `INVALID_ARGUMENT` at once for a plan that has anything but such faults, or two for the same command; `INVALID_STORAGE`
 *   for what is no storage
 */
export function withFaults(storage: Storage, plan: readonly Fault[]): Storage {
  const faults = checked(plan);
  const counts = new Map<Operation, number>();
  const faulty = wrap(storage, (command, run) => {
    const nth = counts.get(command.op) ?? 0;
    counts.set(command.op, nth + 1);
    const fault = faults.get(key(command.op, nth));
    switch (fault?.fault) {
      case undefined:
        return run();
      case 'fail':
        throw new IoFailedError(fault.error ?? `planned: ${fault.on} ${nth} fails`);
      case 'hang':
        return new Promise(() => {});
      case 'short':
        return short(command, storage.capabilities.blockSize, run);
    }
  });
  return withText(faulty, () => `withFaults(${textOf(storage)}, ${faults.size} planned)`);
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
  checkArgument('the fault plan', plan, LIST);
  const faults = new Map<string, Fault>();
  for (const given of plan as readonly (Fault & { error?: string })[]) {
    checkOptions(given, FAULT_KEYS, 'a planned fault');
    // Each value is read once: a getter may answer differently the second time.
    const entry = Object.freeze({ ...given });
    const { on, nth, fault, error } = entry;
    checkArgument('on', on, fault === 'short' ? TRANSFER : OPERATION);
    checkArgument('nth', nth, NTH);
    checkArgument('fault', fault, FAULT);
    if (error !== undefined) checkArgument('error', error, fault === 'fail' ? TEXT : NO_TEXT);
    const name = key(on, nth);
    if (faults.has(name)) throw misuse(`the fault plan has two faults for one command, ${name}`);
    faults.set(name, entry);
  }
  return faults;
}

function key(on: Operation, nth: number): string {
  return `${on} ${nth}`;
}
