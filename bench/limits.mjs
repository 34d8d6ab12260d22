// The limits of bench/speed.mjs: the smallest code that does the same work, and so less than a scheduler must do. A row cannot be
// faster than its limit.

import fs from 'node:fs';
import { promisify } from 'node:util';

const write = promisify(fs.write);
const writev = promisify(fs.writev);
const fdatasync = promisify(fs.fdatasync);

let resolveLast;
let rejectLast;
const capture = (resolve, reject) => {
  resolveLast = resolve;
  rejectLast = reject;
};

/** Bytes of a cell, and cells, of the count of what is at the storage. */
const CELL = 4096;
const CELLS = 1024;
const SIMPLE = { fua: false, tag: 'simple' };
const FORCED = { fua: true, tag: 'simple' };

/** One object for each request: the request, its promise, and its place in the queue. */
class Request {
  constructor(kind, offset, length, data, isBarrier, signal) {
    this.promise = new Promise(capture);
    this.resolve = resolveLast;
    this.reject = rejectLast;
    this.kind = kind;
    this.start = offset;
    this.end = offset + length;
    this.data = data;
    this.isBarrier = isBarrier;
    this.signal = signal;
    this.isQueued = true;
    this.next = undefined;
    this.at = 0;
  }
}

/**
 * The smallest scheduler: a bounded queue with checks of its arguments, a promise for each request, a depth, an order for what
 * overlaps, barriers (drain, flush, forced write), cancelling, and errors. All of it in one class and one file.
 *
 * What it has not: modes and devices other than one, flushes and flags of requests, the account of dirty bytes and what follows
 * from failures, reads that bypass a barrier, gathering, traces, counters, `close` and `idle`, storages that answer at once.
 */
export class SmallestScheduler {
  #storage;
  #depth;
  #queuedMax;
  #head;
  #tail;
  #queued = 0;
  #running = [];
  #counts = new Int32Array(CELLS);
  #slots = [];
  #barrier;

  constructor(storage, depth = 32, queuedMax = 65_536) {
    this.#storage = storage;
    this.#depth = depth;
    this.#queuedMax = queuedMax;
  }

  write(offset, data, options) {
    return this.#submit('write', offset, data, options?.barrier === true, options?.signal);
  }

  read(offset, into, options) {
    return this.#submit('read', offset, into, false, options?.signal);
  }

  #submit(kind, offset, data, isBarrier, signal) {
    const length = data.byteLength;
    const { size, capabilities } = this.#storage;
    const { blockSize } = capabilities;
    const isInside = Number.isSafeInteger(offset) && offset >= 0 && offset + length <= size;
    if (!isInside || length === 0 || offset % blockSize !== 0 || length % blockSize !== 0) {
      return Promise.reject(new RangeError('outside'));
    }
    if (this.#queued >= this.#queuedMax) return Promise.reject(new Error('full'));
    if (signal?.aborted) return Promise.reject(signal.reason);
    const request = new Request(kind, offset, length, data, isBarrier, signal);
    signal?.addEventListener('abort', () => this.#cancel(request), { once: true });
    if (this.#tail) this.#tail.next = request;
    else this.#head = request;
    this.#tail = request;
    this.#queued += 1;
    this.#issue();
    return request.promise;
  }

  /** Its place stays in the queue: a barrier still orders, and all else is dropped at the head. */
  #cancel(request) {
    if (!request.isQueued || request.data === undefined) return;
    request.data = undefined;
    request.reject(request.signal.reason);
    this.#issue();
  }

  #issue() {
    while (this.#head && !this.#barrier && this.#running.length < this.#depth) {
      const request = this.#head;
      const { isBarrier, data } = request;
      if (isBarrier ? this.#running.length > 0 : data && this.#overlaps(request)) return;
      this.#head = request.next;
      if (!this.#head) this.#tail = undefined;
      request.next = undefined;
      request.isQueued = false;
      this.#queued -= 1;
      if (!data) continue;
      if (isBarrier) this.#drained(request);
      else this.#send(request, SIMPLE);
    }
  }

  #drained(request) {
    this.#barrier = request;
    this.#storage.flush(SIMPLE).then(
      () => this.#send(request, FORCED),
      (error) => this.#end(request, error),
    );
  }

  #send(request, flags) {
    const { kind, start, data } = request;
    request.at = this.#running.length;
    this.#running.push(request);
    this.#count(request, 1);
    const slot = this.#slots.pop() ?? this.#newSlot();
    slot.request = request;
    const storage = this.#storage;
    const answer = kind === 'write' ? storage.write(start, data, flags) : storage.read(start, data);
    answer.then(slot.done, slot.failed);
  }

  /** Two functions for each place at the storage, and none for each request. */
  #newSlot() {
    const slot = { request: undefined, done: undefined, failed: undefined };
    slot.done = () => this.#left(slot, undefined);
    slot.failed = (error) => this.#left(slot, error);
    return slot;
  }

  #left(slot, error) {
    const { request } = slot;
    this.#slots.push(slot);
    const last = this.#running.pop();
    if (last !== request) {
      this.#running[request.at] = last;
      last.at = request.at;
    }
    this.#count(request, -1);
    this.#end(request, error);
  }

  #end(request, error) {
    if (this.#barrier === request) this.#barrier = undefined;
    if (error !== undefined) request.reject(error);
    else request.resolve(request.kind === 'read' ? request.data : undefined);
    this.#issue();
  }

  #count({ start, end }, by) {
    const last = Math.floor((end - 1) / CELL);
    for (let cell = Math.floor(start / CELL); cell <= last; cell++) {
      this.#counts[cell & (CELLS - 1)] += by;
    }
  }

  /** Where no request at the storage has the same cell there is no overlap. */
  #overlaps({ start, end, kind }) {
    const last = Math.floor((end - 1) / CELL);
    let others = 0;
    for (let cell = Math.floor(start / CELL); cell <= last; cell++) {
      others |= this.#counts[cell & (CELLS - 1)];
    }
    if (others === 0) return false;
    return this.#running.some(
      (other) =>
        other.start < end && start < other.end && (kind === 'write' || other.kind === 'write'),
    );
  }
}

const DONE = Promise.resolve();

/**
 * The smallest scheduler that gathers and shares flushes: a bounded queue with checks of its arguments, and a promise for each
 * request. What one turn submits is a batch: its writes in a row are one `writev`, its flushes one flush after them. One batch is at
 * the storage at a time, so nothing overlaps.
 *
 * What it has not: reads, barriers, flags, cancelling, a depth, and all else that the smallest scheduler above has not.
 */
export class SmallestGatherer {
  #storage;
  #queuedMax;
  #writes = [];
  #flushes = [];
  #isPlugged = false;
  #isBusy = false;

  constructor(storage, queuedMax = 65_536) {
    this.#storage = storage;
    this.#queuedMax = queuedMax;
  }

  write(offset, data) {
    const length = data.byteLength;
    const { size, capabilities } = this.#storage;
    const { blockSize } = capabilities;
    const isInside = Number.isSafeInteger(offset) && offset >= 0 && offset + length <= size;
    if (!isInside || length === 0 || offset % blockSize !== 0 || length % blockSize !== 0) {
      return Promise.reject(new RangeError('outside'));
    }
    return this.#queue(this.#writes, new Request('write', offset, length, data));
  }

  flush() {
    return this.#queue(this.#flushes, new Request('flush', 0, 0));
  }

  #queue(queue, request) {
    if (queue.length >= this.#queuedMax) {
      request.reject(new Error('full'));
      return request.promise;
    }
    queue.push(request);
    if (!this.#isPlugged && !this.#isBusy) void DONE.then(this.#issue);
    this.#isPlugged = true;
    return request.promise;
  }

  #issue = async () => {
    this.#isPlugged = false;
    this.#isBusy = true;
    const [writes, flushes] = [this.#writes, this.#flushes];
    this.#writes = [];
    this.#flushes = [];
    let failed;
    for (let from = 0; from < writes.length; ) {
      let to = from + 1;
      while (to < writes.length && writes[to].start === writes[to - 1].end) to += 1;
      const run = writes.slice(from, to);
      from = to;
      const error = await this.#send(run);
      failed ??= error;
      settle(run, error);
    }
    if (flushes.length > 0) {
      settle(flushes, failed ?? (await this.#storage.flush(SIMPLE).catch((error) => error)));
    }
    this.#isBusy = false;
    if (this.#isPlugged) void DONE.then(this.#issue);
  };

  async #send(run) {
    const list = run.map(({ data }) => data);
    return this.#storage.writev(run[0].start, list, SIMPLE).then(nothing, (error) => error);
  }
}

function nothing() {}

function settle(requests, error) {
  for (const request of requests) {
    if (error !== undefined) request.reject(error);
    else request.resolve();
  }
}

/**
 * The smallest member: it checks the range of a write, counts, knows what is at the storage, and passes the write on. It has no turns,
 * no order for what overlaps, no account of flushes, and no end of its own.
 */
export function smallestMember(storage) {
  const { size, capabilities } = storage;
  const { blockSize } = capabilities;
  const running = new Set();
  let bytes = 0;
  return {
    ...{ size, capabilities },
    write(offset, data, flags) {
      const length = data.byteLength;
      const isInside = Number.isSafeInteger(offset) && offset >= 0 && offset + length <= size;
      if (!isInside || offset % blockSize !== 0 || length % blockSize !== 0) {
        throw new RangeError('outside');
      }
      bytes += length;
      const answer = storage.write(offset, data, flags);
      if (!answer?.then) return answer;
      const command = { offset, length };
      running.add(command);
      // Not by `finally`, which makes two more promises.
      return answer.then(
        () => void running.delete(command),
        (error) => {
          running.delete(command);
          throw error;
        },
      );
    },
    writev: storage.writev?.bind(storage),
    read: (offset, into) => storage.read(offset, into),
    discard: (offset, length) => storage.discard(offset, length),
    writeZeroes: (offset, length) => storage.writeZeroes(offset, length),
    blockStatus: (offset, length) => storage.blockStatus(offset, length),
    flush: (flags) => storage.flush(flags),
    close: () => storage.close(),
    bytes: () => bytes,
  };
}

/**
 * The machine that decides nothing: a request is its command, first in, first out. Under the driver of the kit it shows what the
 * driver costs by itself.
 */
export class FirstInFirstOut {
  #head;
  #tail;
  #settled;

  submit({ kind, offset, length }, client) {
    const what = { kind: 'command', op: kind, offset, length, tag: 'simple', fua: false };
    const command = { what, clients: [client], client, error: undefined, next: undefined };
    if (this.#tail) this.#tail.next = command;
    else this.#head = command;
    this.#tail = command;
  }

  next() {
    const command = this.#head;
    this.#head = command?.next;
    if (!this.#head) this.#tail = undefined;
    return command;
  }

  /** The driver takes what has settled before it reports the next end. */
  complete(command, error) {
    command.error = error;
    this.#settled = command;
  }

  takeSettled() {
    const settled = this.#settled;
    this.#settled = undefined;
    return settled;
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

/** The same through a storage. */
export async function commitsOn(storage, count, together, place, data) {
  const list = Array.from({ length: together }, () => data);
  for (let i = 0; i < count; i += together) {
    await storage.writev(place(i), list, SIMPLE);
    await storage.flush(SIMPLE);
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
