// Crash spaces of logs as large as people have them, each in a process of its own, for a test (real-logs.test.ts) and for
// `npm run bench -- logs`. Prints what it has found as a line of JSON.
//
// What the space says is compared with a sector's history alone. In a log every command completes before the next one starts,
// so flushes cut it into epochs, and a power cut in an epoch leaves each sector by itself: as the epochs before have left it,
// or as a command of this epoch has. Hence a state is possible if there is an epoch that allows all of its sectors, and the
// number of states is one, and for each epoch the product of the choices of all sectors, less one.

import { readFileSync } from 'node:fs';
import process from 'node:process';
import { seededRandom } from 'write-barrier/testing';
import { crashSpace, readLogWrites } from 'write-barrier/testing/lab';

/** @import { DeviceProfile, DiskTrace } from 'write-barrier/testing' */

const SECTOR = 512;
const MIB = 1 << 20;
const DISK_BYTES = 320 * MIB;
const STATES = 1_000;
const SECTORS_READ = 16;

/** An entry of a log: `data` makes it a write, a length without data a discard, and neither a flush. */
/** @typedef {{ readonly offset: number, readonly length: number, readonly data?: Uint8Array }} Entry */

/** @type {Record<string, () => { readonly trace: DiskTrace, readonly payload: number }>} */
const LOGS = {
  discard: () => logged(wholeDiscards(1)),
  discards: () => logged(wholeDiscards(64)),
  mixed: () => logged(mixed(seededRandom(7))),
  gibibyte: () => ({ trace: plainWrites(1 << 30, 4096), payload: 0 }),
};

/**
 * Logs past the limits of a crash space, each with the device for which it is.
 *
 * @type {Record<string, () => readonly [trace: DiskTrace, profile: Partial<DeviceProfile>]>}
 */
const REFUSED = {
  nested: () => [nested(2_900), { discard: 'zero' }],
  entangled: () => [staggered(24, 8 * SECTOR), { atomicWriteUnit: 64 * SECTOR }],
};

/** Discards of which each begins a sector later and ends a sector earlier than the one before. */
function nested(/** @type {number} */ count) {
  const entries = Array.from({ length: count }, (_, n) => {
    return { offset: n * SECTOR, length: 2 * (count - n) * SECTOR };
  });
  return logged(entries).trace;
}

/** Writes of which each begins a sector later than the one before. */
function staggered(/** @type {number} */ count, /** @type {number} */ length) {
  const entries = Array.from({ length: count }, (_, n) => {
    return { offset: n * SECTOR, length, data: filled(n + 1, length) };
  });
  return logged(entries).trace;
}

/** What `mkfs -E discard` does, so many times, and one sector after it. @returns {Entry[]} */
function wholeDiscards(/** @type {number} */ count) {
  const discard = { offset: 0, length: DISK_BYTES };
  return [
    ...new Array(count).fill(discard),
    { offset: 0, length: SECTOR, data: filled(1, SECTOR) },
  ];
}

/** Writes of 512 bytes to 512 KiB and discards that cut across them. */
function mixed(/** @type {() => number} */ random) {
  const [writes, discards, flushes] = [180, 458, 12];
  const sectors = DISK_BYTES / SECTOR;
  const sizes = Array.from({ length: writes }, () => Math.floor(2 ** (10 * random())));
  const kinds = [
    ...sizes.map((length) => ({ length, isWrite: true })),
    ...Array.from({ length: discards }, () => ({ length: 16 + Math.floor(3_150 * random()) })),
    ...Array.from({ length: flushes }, () => ({ length: 0 })),
  ].map((kind) => ({ ...kind, by: random() }));
  kinds.sort((a, b) => a.by - b.by);
  // Most of it is in a part of the disk, as with a file system that is not full.
  return kinds.map(({ length, isWrite }, n) => {
    const span = random() < 0.7 ? sectors >> 3 : sectors;
    const offset = Math.floor(random() * (span - length)) * SECTOR;
    const bytes = length * SECTOR;
    return { offset, length: bytes, ...(isWrite && { data: filled(n + 1, bytes) }) };
  });
}

/** Says in each of its sectors which command it is of. */
function filled(/** @type {number} */ command, /** @type {number} */ length) {
  return new Uint8Array(new Uint32Array(length / 4).fill(command).buffer);
}

/** The bytes of a log of dm-log-writes with these entries, read by the library. */
function logged(/** @type {readonly Entry[]} */ entries) {
  const bytes = entries.reduce((sum, { data }) => sum + SECTOR + (data?.length ?? 0), SECTOR);
  const log = new Uint8Array(bytes);
  const view = new DataView(log.buffer);
  const [magic, flush, discard] = [0x6a736677736872n, 1n, 4n];
  view.setBigUint64(0, magic, true);
  view.setBigUint64(8, 1n, true);
  view.setBigUint64(16, BigInt(entries.length), true);
  view.setUint32(24, SECTOR, true);
  let at = SECTOR;
  for (const { offset, length, data } of entries) {
    const flags = data ? 0n : length > 0 ? discard : flush;
    const sectors = [length > 0 ? offset / SECTOR : 0, length / SECTOR].map(BigInt);
    for (const [i, word] of [...sectors, flags].entries())
      view.setBigUint64(at + 8 * i, word, true);
    if (data) log.set(data, at + SECTOR);
    at += SECTOR + (data?.length ?? 0);
  }
  return { trace: readLogWrites(log, DISK_BYTES), payload: bytes };
}

/**
 * Writes that fill a disk, with a flush after each quarter of them. All payloads are slices of one array, so that what is
 * measured is not their size.
 *
 * @returns {DiskTrace}
 */
function plainWrites(/** @type {number} */ size, /** @type {number} */ length) {
  /** @type {DiskTrace['commands'][number][]} */
  const commands = [];
  const bytes = filled(1, MIB);
  const done = { tag: /** @type {const} */ ('simple'), fua: false, failed: false };
  for (let offset = 0, now = 0; offset < size; offset += length, now += 2) {
    const data = bytes.subarray(offset % MIB, (offset % MIB) + length);
    commands.push({
      op: 'write',
      offset,
      length,
      data,
      ...done,
      dispatched: now,
      completed: now + 1,
    });
    if ((offset + length) % (size / 4) !== 0) continue;
    now += 2;
    const flush = { op: /** @type {const} */ ('flush'), offset: 0, length: 0 };
    commands.push({ ...flush, ...done, dispatched: now, completed: now + 1 });
  }
  return { size, commands, marks: [] };
}

/** What the flushes cut the log into: writes and discards with the number of their epoch. */
function epochsOf(/** @type {DiskTrace} */ { commands }) {
  /** @type {(DiskTrace['commands'][number])[][]} */
  const epochs = [[]];
  for (const command of commands) {
    if (command.op === 'flush') epochs.push([]);
    else epochs.at(-1)?.push(command);
  }
  return epochs;
}

/** The number of states, by a counter for each sector. */
function countOf(/** @type {DiskTrace} */ trace) {
  let count = 1n;
  const hits = new Uint16Array(trace.size / SECTOR);
  for (const epoch of epochsOf(trace)) {
    hits.fill(0);
    for (const { offset, length } of epoch) {
      for (let at = offset / SECTOR; at < (offset + length) / SECTOR; at++) hits[at] += 1;
    }
    const sectors = new Map();
    for (const of of hits) if (of > 0) sectors.set(of, (sectors.get(of) ?? 0n) + 1n);
    count += [...sectors].reduce((all, [of, many]) => all * BigInt(of + 1) ** many, 1n) - 1n;
  }
  return count;
}

/** Whether some epoch allows what is read at these offsets, each 4 bytes. */
function judge(/** @type {DiskTrace} */ trace, /** @type {readonly number[]} */ offsets) {
  const allowed = offsets.map((offset) => {
    let left = new Set([0]);
    return epochsOf(trace).map((epoch) => {
      const all = new Set(left);
      for (const { offset: start, length, data } of epoch) {
        if (offset < start || start + length <= offset) continue;
        const at = offset - start;
        const content = data
          ? new DataView(data.buffer, data.byteOffset + at).getUint32(0, true)
          : 0;
        all.add(content);
        left = new Set([content]);
      }
      return all;
    });
  });
  const epochs = epochsOf(trace).map((_, epoch) => epoch);
  return (/** @type {readonly number[]} */ contents) =>
    epochs.some((epoch) => contents.every((content, i) => allowed[i]?.[epoch]?.has(content)));
}

/** @typedef {{ read(offset: number, into: Uint8Array): unknown }} Disk */

/** What a disk has at these offsets. */
function readAt(/** @type {Disk} */ disk, /** @type {readonly number[]} */ offsets) {
  const into = new Uint8Array(SECTOR);
  return offsets.map((offset) => {
    disk.read(offset, into);
    return new DataView(into.buffer).getUint32(0, true);
  });
}

const past = REFUSED[process.argv[2] ?? '']?.();
if (past) {
  try {
    console.log(JSON.stringify({ count: String(crashSpace(...past).count) }));
  } catch (error) {
    const { code, message } = /** @type {Error & { code: string }} */ (error);
    console.log(JSON.stringify({ code, message }));
  }
  process.exit();
}

const { trace, payload } = LOGS[process.argv[2] ?? '']?.() ?? process.exit(2);
const random = seededRandom(3);
const written = trace.commands.filter(({ op }) => op !== 'flush');
const offsets = Array.from({ length: SECTORS_READ }, () => {
  const { offset, length } = /** @type {Entry} */ (written[Math.floor(random() * written.length)]);
  return offset + Math.floor((random() * length) / SECTOR) * SECTOR;
});
const isPossible = judge(trace, offsets);

const start = performance.now();
const space = crashSpace(trace, { sectorSize: SECTOR, discard: 'zero' });
const made = performance.now();
const { count } = space;
const counted = performance.now();
let impossible = 0;
for (let i = 0; i < STATES; i++) {
  if (!isPossible(readAt(space.sample(random).disk(), offsets))) impossible += 1;
}
const sampled = performance.now();
const outcomes = new Set();
let recoveries = 0;
let covered = 0n;
for (const crash of space.explore({ recoveriesMax: STATES })) {
  const contents = readAt(crash.disk, offsets.slice(0, 4));
  if (!isPossible(contents)) impossible += 1;
  outcomes.add(contents.join());
  recoveries += 1;
  covered += crash.images;
}
const explored = performance.now();
const rss = peakRss();

const ms = [made - start, counted - made, sampled - counted, explored - sampled].map(Math.round);
console.log(
  JSON.stringify({
    ...{ ms: Math.round(explored - start), steps: ms, mib: Math.round((rss - payload) / MIB) },
    ...{ entries: trace.commands.length, isCounted: count === countOf(trace), impossible },
    ...{
      recoveries,
      outcomes: outcomes.size,
      isCovered: recoveries < STATES ? covered === count : covered <= count,
    },
  }),
);

/**
 * The most memory that this process has had, in bytes. On Linux the peak of `resourceUsage` begins with that of the parent, which
 * the child had before it began to run node.
 */
function peakRss() {
  try {
    const [, kib] = /^VmHWM:\s*(\d+) kB$/m.exec(readFileSync('/proc/self/status', 'utf8')) ?? [];
    if (kib !== undefined) return Number(kib) * 1024;
  } catch {
    // Another system.
  }
  return process.resourceUsage().maxRSS * 1024;
}
