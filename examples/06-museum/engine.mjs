// @ts-check
// Runs an exhibit: a program in the text notation, through a system of some year, on a simulated disk, once for every
// order in which the disk may answer. It knows no system, and judges nothing: label.mjs does.
//
// A program has one barrier, plain writes on both sides of it, and ends with an explicit flush. A system is asked for it
// in one of three ways:
//
//   at once   everything, without waiting: the barrier does that
//   no wait   the same where there are no barriers any more: a preflush and FUA stand in its place
//   waits     so, and the client waits before them and after them, as file systems do since 2.6.37

import { isBarrier, WriteBarrierError } from 'write-barrier';
import { everyOrder, LateDisk } from './disk.mjs';

/** @import { ModeName, Observer, Request, TraceEvent } from 'write-barrier' */
/** @import { System } from 'write-barrier/systems' */
/** @import { DeviceProfile, DiskTrace } from 'write-barrier/testing' */
/** @import { Failure } from './disk.mjs' */

/**
 * @typedef {object} Exhibit
 * @property {string} name
 * @property {(disk: LateDisk, observer: Observer) => Pick<System, 'submit' | 'cancel'> | Promise<Pick<System, 'submit' | 'cancel'>>} open
 * @property {'at once' | 'no wait' | 'waits'} [client] `at once` by default
 * @property {ModeName} [mode] what its observer's trace is held to
 * @property {Partial<DeviceProfile>} [disk] how the disk differs from an honest one with a volatile cache
 * @property {string} [program] in place of the one for all
 * @property {boolean} [cancels] the barrier is asked back at once
 * @property {readonly Failure[]} [failures] what fails in any case
 * @property {boolean} [ours] it is this library's
 */

/**
 * @typedef {object} Run
 * @property {DiskTrace} trace its marks say which request was asked or answered
 * @property {readonly TraceEvent[]} events
 * @property {readonly string[]} outcomes of the requests: `done`, `cancelled`, `hangs`, `not asked`, or an error's code
 * @property {number} start how many commands the disk had got before the program
 */

export const PROGRAM = 'w0 w1 b2 w3 f';
export const BLOCK = 4096;

/**
 * A block is written as a whole or not at all, so that it is a thing that can be lost. The disk keeps ordered tags, which
 * some of the systems used.
 *
 * @param {Exhibit} exhibit
 */
export const profileOf = ({ disk }) => ({
  ...{ sectorSize: BLOCK, atomicWriteUnit: BLOCK, orderedTags: true },
  ...disk,
});

/**
 * @param {Exhibit} exhibit
 * @param {readonly Request[]} program
 * @param {readonly Failure[]} failures
 */
export function runsOf(exhibit, program, failures) {
  const profile = profileOf(exhibit);
  return everyOrder((choose) =>
    run(exhibit, program, new LateDisk(8 * BLOCK, profile, failures, choose)),
  );
}

/**
 * @param {Exhibit} exhibit
 * @param {readonly Request[]} program
 * @param {LateDisk} disk
 * @returns {Promise<Run>}
 */
async function run({ open, client = 'at once', cancels }, program, disk) {
  /** @type {TraceEvent[]} */
  const events = [];
  const system = await open(disk, (event) => events.push(event));
  const start = disk.trace.commands.length;
  /** @type {string[]} */
  const outcomes = program.map(() => 'not asked');
  const ask = async (/** @type {Request} */ request, /** @type {number} */ n) => {
    const length = 'length' in request ? request.length : 0;
    disk.mark({ asked: n });
    outcomes[n] = 'hangs';
    try {
      await system.submit(request, new Uint8Array(length).fill(n + 1));
      outcomes[n] = 'done';
      disk.mark({ answered: n });
    } catch (error) {
      const cancelled = error instanceof Error && error.name === 'AbortError';
      if (!cancelled && !WriteBarrierError.is(error)) throw error;
      outcomes[n] = cancelled ? 'cancelled' : /** @type {WriteBarrierError} */ (error).code;
    }
  };
  const requests = client === 'at once' ? program : program.map(unordered);
  if (client === 'waits') void inTurn(requests, ask, outcomes);
  else requests.forEach(ask);
  if (cancels) system.cancel?.(program.findIndex(isBarrier));
  // Nothing here waits for a clock: once the disk has been idle for some turns, nothing more comes.
  for (let idle = 0; idle < 3; idle = disk.busy ? 0 : idle + 1) {
    await new Promise((resolve) => setImmediate(resolve));
  }
  return { trace: disk.trace, events, outcomes, start };
}

/**
 * A barrier since 2.6.37: a flush in front, the data forced, and no order among requests.
 *
 * @param {Request} request
 * @returns {Request}
 */
function unordered(request) {
  if (request.kind !== 'write' || !request.barrier) return request;
  const { kind, offset, length } = request;
  return { kind, offset, length, preflush: true, fua: true };
}

/**
 * Waits around whatever is special, and stops when something has failed.
 *
 * @param {readonly Request[]} requests
 * @param {(request: Request, n: number) => Promise<void>} ask
 * @param {readonly string[]} outcomes
 */
async function inTurn(requests, ask, outcomes) {
  /** @type {Promise<void>[]} */
  const plain = [];
  for (const [n, request] of requests.entries()) {
    const special = request.kind === 'flush' || (request.kind === 'write' && request.fua);
    if (special) await Promise.all(plain.splice(0));
    if (outcomes.slice(0, n).some((outcome) => outcome !== 'done' && outcome !== 'hangs')) return;
    const answer = ask(request, n);
    if (special) await answer;
    else plain.push(answer);
  }
}
