// @ts-check
// A disk that answers as late as it may: one command in a turn of the event loop, when nothing more is asked.
// So a wait in what it was asked is one of the system above it, never luck. Which command it answers is not drawn:
// `everyOrder` runs again and again until it has answered in every order that tags allow.
//
// What its cache may keep or lose is not its affair. It writes down what it is asked, and the crash kit knows.

import { checkRange } from 'write-barrier/kit';
import { deviceProfile } from 'write-barrier/testing';
import { DiskRecorder } from 'write-barrier/testing/lab';

/** @import { FlushFlags, Storage, WriteFlags } from 'write-barrier' */
/** @import { DeviceProfile } from 'write-barrier/testing' */
/** @import { DiskCommand } from 'write-barrier/testing/lab' */

/** @typedef {{ on: 'write' | 'flush', nth: number }} Failure a write then does nothing, and a flush gives up the cache */
/** @typedef {(of: number) => number} Choose */
/** @typedef {{ number: number, ordered: boolean, failed: boolean, end: (error?: Error) => void }} Pending */

const SIMPLE = /** @type {const} */ ({ tag: 'simple', fua: false });

/** @implements {Storage} */
export class LateDisk {
  size;
  capabilities;
  #recorder;
  #bytes;
  #failures;
  #choose;
  /** @type {Pending[]} in the order of their dispatch */
  #pending = [];
  #counts = { read: 0, write: 0, flush: 0 };
  #turning = false;

  /**
   * @param {number} size in bytes
   * @param {Partial<DeviceProfile>} profile
   * @param {readonly Failure[]} failures
   * @param {Choose} choose which of so many commands is answered next
   */
  constructor(size, profile, failures, choose) {
    const { sectorSize: blockSize, cache, flush, fua, orderedTags } = deviceProfile(profile);
    this.size = size;
    this.capabilities = { blockSize, cache, flush, fua, orderedTags };
    this.#recorder = new DiskRecorder(size);
    this.#bytes = new Uint8Array(size);
    this.#failures = failures;
    this.#choose = choose;
  }

  get trace() {
    return this.#recorder.trace;
  }

  get busy() {
    return this.#pending.length > 0;
  }

  /** @param {unknown} value what the host knows now */
  mark(value) {
    this.#recorder.mark(value);
  }

  /**
   * @param {number} offset
   * @param {Uint8Array} into
   */
  async read(offset, into) {
    checkRange(this, offset, into.length);
    await this.#command({ op: 'read', offset, length: into.length, ...SIMPLE });
    into.set(this.#bytes.subarray(offset, offset + into.length));
  }

  /**
   * @param {number} offset
   * @param {Uint8Array} data
   * @param {WriteFlags} flags
   */
  async write(offset, data, { tag, fua }) {
    checkRange(this, offset, data.length);
    this.#bytes.set(data, offset);
    await this.#command({ op: 'write', offset, length: data.length, tag, fua, data });
  }

  /** @param {FlushFlags} flags */
  async flush({ tag }) {
    await this.#command({ op: 'flush', offset: 0, length: 0, tag, fua: false });
  }

  close() {}

  /**
   * @param {Pick<DiskCommand, 'offset' | 'length' | 'tag' | 'fua' | 'data'> & { op: 'read' | 'write' | 'flush' }} request
   * @returns {Promise<void>}
   */
  #command(request) {
    const nth = this.#counts[request.op]++;
    const failed = this.#failures.some((one) => one.on === request.op && one.nth === nth);
    /** @type {DiskCommand['fault']} */
    const fault = { kind: request.op === 'flush' ? 'drop' : 'lost' };
    const number = this.#recorder.dispatch(request, request.data, failed ? { failed, fault } : {});
    return new Promise((resolve, reject) => {
      const end = (/** @type {Error | undefined} */ error) => (error ? reject(error) : resolve());
      this.#pending.push({ number, ordered: request.tag === 'ordered', failed, end });
      this.#turnSoon();
    });
  }

  #turnSoon() {
    if (this.#turning) return;
    this.#turning = true;
    setImmediate(() => {
      this.#turning = false;
      this.#answer();
      if (this.busy) this.#turnSoon();
    });
  }

  #answer() {
    // Nothing before an older ordered command, and no ordered one before anything older.
    const fence = this.#pending.findIndex(({ ordered }) => ordered);
    const free = fence < 0 ? this.#pending.length : Math.max(fence, 1);
    const [answered] = this.#pending.splice(this.#choose(free), 1);
    if (!answered) return;
    const { number, failed, end } = answered;
    this.#recorder.complete(number, failed);
    end(failed ? new Error('the disk has failed') : undefined);
  }
}

/**
 * Calls `run` once for every way to choose.
 *
 * @template T
 * @param {(choose: Choose) => Promise<T>} run
 * @returns {Promise<T[]>}
 */
export async function everyOrder(run) {
  /** @type {T[]} */
  const all = [];
  /** @type {{ taken: number, of: number }[]} */
  const path = [];
  do {
    let depth = 0;
    const choose = (/** @type {number} */ of) => {
      const choice = path[depth] ?? { taken: 0, of };
      path[depth] = choice;
      depth += 1;
      return choice.taken;
    };
    all.push(await run(choose));
    // The last choice that has another way takes it; those behind it begin anew.
    let last = path.pop();
    while (last && last.taken + 1 >= last.of) last = path.pop();
    if (last) path.push({ ...last, taken: last.taken + 1 });
  } while (path.length > 0);
  return all;
}
