// The limits of bench/speed.mjs: the smallest code that does the same work, and so less than a scheduler must do. A row cannot be
// faster than its limit.

import fs from 'node:fs';
import { promisify } from 'node:util';

const write = promisify(fs.write);
const writev = promisify(fs.writev);
const fdatasync = promisify(fs.fdatasync);

let resolveLast;
const capture = (resolve) => {
  resolveLast = resolve;
};

/**
 * A queue of writes for a storage, with a depth, tickets, and a check of the range; no overlaps, barriers, errors, signals or
 * traces. One object for each request, and two functions for each place at the storage.
 */
export class SmallestQueue {
  #storage;
  #depth;
  #slots = [];
  #waiting = [];
  #first = 0;
  #running = 0;
  #tickets = 0;

  constructor(storage, depth) {
    this.#storage = storage;
    this.#depth = depth;
  }

  write(offset, data) {
    const length = data.byteLength;
    const { size, capabilities } = this.#storage;
    if (offset < 0 || offset + length > size || offset % capabilities.blockSize !== 0) {
      return Promise.reject(new RangeError('outside'));
    }
    const promise = new Promise(capture);
    this.#waiting.push({ ticket: this.#tickets++, offset, length, data, resolve: resolveLast });
    this.#issue();
    return promise;
  }

  #issue() {
    while (this.#running < this.#depth && this.#first < this.#waiting.length) {
      const request = this.#waiting[this.#first++];
      if (this.#first === this.#waiting.length) {
        this.#waiting.length = 0;
        this.#first = 0;
      }
      this.#running += 1;
      const slot = this.#slots.pop() ?? this.#newSlot();
      slot.request = request;
      this.#storage.write(request.offset, request.data).then(slot.done);
    }
  }

  #newSlot() {
    const slot = { request: undefined, done: undefined };
    slot.done = () => {
      this.#running -= 1;
      this.#slots.push(slot);
      slot.request.resolve();
      this.#issue();
    };
    return slot;
  }
}

/** By hand: the writes of an epoch together, then a flush, then the barrier's own write, forced. */
export async function handDrain(storage, count, every, place, data) {
  for (let i = 0; i < count; i += every) {
    const writes = [];
    for (let k = i; k < i + every - 1; k++) writes.push(storage.write(place(k), data));
    await Promise.all(writes);
    await storage.flush();
    await storage.write(place(i + every - 1), data);
  }
}

/** Each committer by itself. */
export async function writeAndSync(fd, offset, data) {
  await write(fd, data, 0, data.length, offset);
  await fdatasync(fd);
}

/** All commits that come together: one `writev` and one `fdatasync`. */
export async function commitsTogether(fd, count, together, place, data) {
  const list = Array.from({ length: together }, () => data);
  for (let i = 0; i < count; i += together) {
    await writev(fd, list, place(i));
    await fdatasync(fd);
  }
}

/** An epoch with one `writev` and one `fdatasync`, and the barrier with the same. */
export async function epochsTogether(fd, count, every, place, data) {
  const list = Array.from({ length: every - 1 }, () => data);
  for (let i = 0; i < count; i += every) {
    await writev(fd, list, place(i));
    await fdatasync(fd);
    await writeAndSync(fd, place(i + every - 1), data);
  }
}
