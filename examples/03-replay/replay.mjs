// @ts-check
// Replays a trace in one mode, and compares reads and images with the record.
//
// The concurrency is the trace's own: a request is submitted as soon as all requests have completed that had
// completed before it in the trace. Nothing else waits, and no clock is read for it.

import { open, readFile } from 'node:fs/promises';
import { guarantees, IoScheduler, MODES, tracing } from 'write-barrier';
import { FileStorage } from 'write-barrier/node';
import { DISKS } from './trace.mjs';

/**
 * @import { CommandEvent, Guarantees, ModeName } from 'write-barrier'
 * @import { DiskName, Image, Submit, Trace } from './trace.mjs'
 */

/**
 * @typedef {object} Outcome
 * @property {ModeName} mode
 * @property {ModeName | null} host the mode of the scheduler below, null where there is none
 * @property {Guarantees} guarantees
 * @property {Counts} commands what reached the files
 * @property {number} drains of all schedulers together
 * @property {number} coalesced
 * @property {number} elapsedMs
 * @property {string[]} problems empty where every read and every image was right
 *
 * @typedef {{ read: number, write: number, fua: number, flush: number }} Counts
 */

/** Zeroes are not written: the file has them already. */
const CHUNK_BYTES = 64 * 1024;
const ZEROES = Buffer.alloc(CHUNK_BYTES);

/**
 * @param {Trace} trace
 * @param {ModeName} mode
 * @param {object} options
 * @param {Record<DiskName, string>} options.paths of the files; they are overwritten
 * @param {number} options.depth
 * @param {() => void} options.onRequest called for every request that was submitted
 * @returns {Promise<Outcome>}
 */
export async function replay(trace, mode, { paths, depth, onRequest }) {
  /** @type {Counts} */
  const commands = { read: 0, write: 0, fua: 0, flush: 0 };
  const observe = (/** @type {CommandEvent} */ event) => {
    if (event.kind !== 'dispatch') return;
    const { op, fua } = event.what;
    const column = op === 'write' && fua ? 'fua' : op;
    if (isColumn(column)) commands[column] += 1;
  };
  for (const disk of DISKS) await prepare(paths[disk], trace.images[disk].base);
  const disks = {
    d: await Disk.open(paths.d, trace.images.d, mode, depth, observe),
    m: await Disk.open(paths.m, trace.images.m, mode, depth, observe),
  };
  const all = Object.values(disks);

  const startMs = performance.now();
  /** @type {Outcome} */
  let outcome;
  try {
    /** @type {Map<number, Promise<void>>} */
    const running = new Map();
    for await (const event of trace.events()) {
      if (event.kind === 'complete') {
        await running.get(event.n);
        running.delete(event.n);
      } else {
        const answer = disks[event.disk].submit(event);
        answer.catch(() => {}); // awaited when the trace says that it completes
        running.set(event.n, answer);
        onRequest();
      }
    }
    await Promise.all(running.values());
    const { host, guest } = disks.d;
    outcome = {
      mode,
      host: host?.mode ?? null,
      guarantees: guest.guarantees,
      commands: { ...commands }, // before closing: that flushes once more
      drains: sum(all, ({ drains }) => drains),
      coalesced: sum(all, ({ flushesCoalesced }) => flushesCoalesced),
      elapsedMs: performance.now() - startMs,
      problems: all.flatMap((disk) => disk.problems),
    };
  } finally {
    await Promise.all(all.map((disk) => disk.guest.close()));
  }
  for (const disk of DISKS) outcome.problems.push(...(await disks[disk].compare(disk)));
  return outcome;
}

/** One disk of the trace: a file, a scheduler, a host's scheduler between them for the tag modes. */
class Disk {
  #path;
  #final;
  /** What the disk must hold, in the order of submission. */
  #shadow;
  /** @type {string[]} */
  problems = [];

  /**
   * @param {string} path
   * @param {Image} image
   * @param {ModeName} mode
   * @param {number} depth
   * @param {(event: CommandEvent) => void} observe called for every command that reaches the file
   */
  static async open(path, image, mode, depth, observe) {
    const file = tracing(await FileStorage.open(path), observe);
    // A file keeps no tags. Over a scheduler that makes barriers of them a tag mode can work.
    const host = MODES[mode].by === 'tag' ? new IoScheduler(file, { depth }) : undefined;
    const below = host?.asStorage() ?? file;
    const allowUnsafe = guarantees(mode, below.capabilities).verdict === 'unsafe';
    const guest = new IoScheduler(below, { mode, depth, allowUnsafe });
    return new Disk(path, image, guest, host);
  }

  /**
   * @param {string} path
   * @param {Image} image
   * @param {IoScheduler} guest
   * @param {IoScheduler | undefined} host
   */
  constructor(path, { base, final }, guest, host) {
    this.#path = path;
    this.#final = final;
    this.#shadow = Buffer.from(base);
    this.guest = guest;
    this.host = host;
  }

  /**
   * What the recorded guest sends as a flush was a barrier to its file system: nothing went on before it.
   *
   * @param {Submit} request
   * @returns {Promise<void>}
   */
  async submit({ n, op, offset, length, data, fua }) {
    if (op === 'flush') {
      const { by } = MODES[this.guest.mode];
      return by === 'none' ? this.guest.flush() : this.guest.barrier();
    }
    if (op === 'write') {
      this.#shadow.set(data, offset);
      return this.guest.write(offset, data, { fua });
    }
    const expected = Buffer.from(this.#shadow.subarray(offset, offset + length));
    const found = await this.guest.read(offset, length);
    const at = firstDifference(expected, found);
    if (at !== -1) {
      this.problems.push(
        `request ${n}, a read: ${differ(expected, found, at)} at byte ${offset + at}`,
      );
    }
  }

  /**
   * The image must be the recorded one. Where it is not, the shadow knows whose fault that is.
   *
   * @param {DiskName} name
   */
  async compare(name) {
    const image = await readFile(this.#path);
    const at = firstDifference(this.#final, image);
    if (at === -1) return [];
    const blame = image.equals(this.#shadow)
      ? 'the replay did what the trace says, so this final image does not belong to it'
      : 'the replay did not do what the trace says';
    const where = name === 'd' ? 'final.img.gz' : 'the expected marks';
    return [`${where}: ${differ(this.#final, image, at)} at byte ${at}; ${blame}`];
  }
}

/**
 * @param {string} name
 * @returns {name is keyof Counts}
 */
function isColumn(name) {
  return name === 'read' || name === 'write' || name === 'fua' || name === 'flush';
}

/**
 * Over all schedulers of the disks.
 *
 * @param {Disk[]} disks
 * @param {(stats: ReturnType<IoScheduler['stats']>) => number} value
 */
function sum(disks, value) {
  const schedulers = disks.flatMap(({ guest, host }) => (host ? [guest, host] : [guest]));
  return schedulers.reduce((total, scheduler) => total + value(scheduler.stats()), 0);
}

/**
 * Makes the file what the disk was, and durable: the first flush of the replay is not to pay for it.
 *
 * @param {string} path
 * @param {Buffer} base
 */
async function prepare(path, base) {
  const file = await open(path, 'w');
  try {
    await file.truncate(base.length);
    for (let at = 0; at < base.length; at += CHUNK_BYTES) {
      const chunk = base.subarray(at, at + CHUNK_BYTES);
      if (!chunk.equals(ZEROES.subarray(0, chunk.length)))
        await file.write(chunk, 0, chunk.length, at);
    }
    await file.sync();
  } finally {
    await file.close();
  }
}

/**
 * The index of the first byte that differs, -1 where none does.
 *
 * @param {Uint8Array} a
 * @param {Uint8Array} b
 */
function firstDifference(a, b) {
  if (Buffer.compare(a, b) === 0) return -1;
  const at = a.findIndex((byte, i) => byte !== b[i]);
  return at === -1 ? a.length : at;
}

/**
 * @param {Uint8Array} expected
 * @param {Uint8Array} found
 * @param {number} at
 */
function differ(expected, found, at) {
  return `expected ${expected[at] ?? 'the end'}, found ${found[at] ?? 'the end'}`;
}
