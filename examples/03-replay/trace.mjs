// @ts-check
// Reads a recorded trace: the images before and after, the payloads, and the events line by line. Whatever is
// wrong with it becomes a TraceError that names the file and the line.

import { constants, createReadStream } from 'node:fs';
import { access, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { promisify } from 'node:util';
import { gunzip } from 'node:zlib';

/**
 * @typedef {'d' | 'm'} DiskName the disk with the file system, and the disk of marks
 *
 * @typedef {object} Submit
 * @property {'submit'} kind
 * @property {number} n the number of the request
 * @property {DiskName} disk
 * @property {'read' | 'write' | 'flush'} op
 * @property {number} offset bytes from the start of the disk; 0 for a flush
 * @property {number} length in bytes; 0 for a flush
 * @property {Buffer} data what a write writes; empty for others
 * @property {boolean} fua
 *
 * @typedef {{ kind: 'complete', n: number }} Complete
 *
 * @typedef {object} Image
 * @property {Buffer} base before the first request
 * @property {Buffer} final after the last one
 *
 * @typedef {object} Trace
 * @property {Readonly<Record<DiskName, Image>>} images
 * @property {() => AsyncGenerator<Submit | Complete, void>} events
 * @property {Readonly<Record<Submit['op'], number>>} requests how many there are
 * @property {number} together the most requests that were in flight at once
 */

export const SECTOR_BYTES = 512;
/** The disk of marks is not recorded as an image: it begins with zeroes. */
const MARKS_BYTES = 1 << 20;
/** @type {readonly DiskName[]} */
export const DISKS = ['d', 'm'];

/** Something is wrong with the trace, or with the wish to replay it. */
export class TraceError extends Error {}

/**
 * Loads and checks the whole trace, so that no replay stops half way.
 *
 * @param {string} folder with base.img.gz, final.img.gz, trace.jsonl and data.bin.gz
 * @returns {Promise<Trace>}
 */
export async function loadTrace(folder) {
  const path = join(folder, 'trace.jsonl');
  await access(path, constants.R_OK).catch(() => missing(path));
  const base = await unzipped(join(folder, 'base.img.gz'));
  const final = await unzipped(join(folder, 'final.img.gz'));
  const data = await unzipped(join(folder, 'data.bin.gz'));
  if (base.length === 0 || base.length % SECTOR_BYTES !== 0) {
    throw new TraceError(`base.img.gz holds ${base.length} bytes, which are not whole sectors`);
  }
  if (base.length !== final.length) {
    throw new TraceError(`base.img.gz holds ${base.length} bytes, final.img.gz ${final.length}`);
  }
  const marks = Buffer.alloc(MARKS_BYTES);
  const finalMarks = Buffer.alloc(MARKS_BYTES);
  const sizes = { d: base.length, m: marks.length };
  const events = () => readEvents(path, data, sizes);

  const requests = { read: 0, write: 0, flush: 0 };
  let inFlight = 0;
  let together = 0;
  for await (const event of events()) {
    inFlight += event.kind === 'submit' ? 1 : -1;
    together = Math.max(together, inFlight);
    if (event.kind !== 'submit') continue;
    requests[event.op] += 1;
    if (event.disk === 'm' && event.op === 'write') finalMarks.set(event.data, event.offset);
  }
  const images = { d: { base, final }, m: { base: marks, final: finalMarks } };
  return { images, events, requests, together };
}

/**
 * @param {string} path
 * @param {Buffer} data
 * @param {Record<DiskName, number>} sizes in bytes
 * @returns {AsyncGenerator<Submit | Complete, void>}
 */
async function* readEvents(path, data, sizes) {
  const lines = createInterface({ input: createReadStream(path), crlfDelay: Infinity });
  /** @type {Set<number>} */
  const open = new Set();
  let line = 0;
  for await (const text of lines) {
    line += 1;
    if (text.trim() === '') continue;
    try {
      const event = parseEvent(text, data, sizes);
      const isSubmit = event.kind === 'submit';
      if (open.has(event.n) === isSubmit) {
        throw new TraceError(
          isSubmit
            ? `request ${event.n} is submitted again before it has completed`
            : `request ${event.n} completes, but it was not submitted`,
        );
      }
      if (isSubmit) open.add(event.n);
      else open.delete(event.n);
      yield event;
    } catch (error) {
      if (!(error instanceof TraceError)) throw error;
      throw new TraceError(`trace.jsonl, line ${line}: ${error.message}`);
    }
  }
}

/**
 * @param {string} text
 * @param {Buffer} data
 * @param {Record<DiskName, number>} sizes
 * @returns {Submit | Complete}
 */
function parseEvent(text, data, sizes) {
  const fields = parseObject(text);
  const { e, n, x, op, d, fua } = fields;
  if (e !== 'submit' && e !== 'complete') throw new TraceError(`no such event: ${show(e)}`);
  if (!isCount(n)) throw new TraceError(`no request number: ${show(n)}`);
  if (e === 'complete') return { kind: 'complete', n };
  if (x !== 'd' && x !== 'm') throw new TraceError(`no such disk: ${show(x)}`);
  if (op !== 'read' && op !== 'write' && op !== 'flush') {
    throw new TraceError(`no such op: ${show(op)}`);
  }
  /** @type {Submit} */
  const flush = { kind: 'submit', n, disk: x, op, offset: 0, length: 0, data: NONE, fua: false };
  if (op === 'flush') return flush;
  const { offset, length } = parseRange(fields, x, sizes[x]);
  const request = { ...flush, offset, length };
  return op === 'read' ? request : { ...request, data: payload(d, length, data), fua: fua === 1 };
}

const NONE = Buffer.alloc(0);

/**
 * @param {string} text
 * @returns {Record<string, unknown>}
 */
function parseObject(text) {
  let value;
  try {
    value = JSON.parse(text);
  } catch {
    throw new TraceError('not a line of JSON');
  }
  if (typeof value !== 'object' || value === null) throw new TraceError('not a JSON object');
  return value;
}

/**
 * @param {Record<string, unknown>} fields
 * @param {DiskName} disk
 * @param {number} size in bytes
 */
function parseRange({ off: offset, len: length }, disk, size) {
  if (!isCount(offset) || !isCount(length) || length === 0) {
    throw new TraceError(`no range of bytes: offset ${show(offset)}, length ${show(length)}`);
  }
  if (offset + length > size) {
    throw new TraceError(
      `${length} bytes at ${offset} are outside disk ${disk}, which has ${size} bytes`,
    );
  }
  if (offset % SECTOR_BYTES !== 0 || length % SECTOR_BYTES !== 0) {
    throw new TraceError(`${length} bytes at ${offset} are not whole sectors of ${SECTOR_BYTES}`);
  }
  return { offset, length };
}

/**
 * @param {unknown} start
 * @param {number} length in bytes
 * @param {Buffer} data
 */
function payload(start, length, data) {
  if (!isCount(start)) throw new TraceError(`no place of the payload in data.bin: ${show(start)}`);
  if (start + length > data.length) {
    throw new TraceError(
      `a payload of ${length} bytes at ${start} is outside data.bin, which has ${data.length} bytes`,
    );
  }
  return data.subarray(start, start + length);
}

/** @param {string} path */
async function unzipped(path) {
  const packed = await readFile(path).catch(() => missing(path));
  try {
    return await promisify(gunzip)(packed);
  } catch {
    throw new TraceError(`${path} is not a gzip file`);
  }
}

/**
 * @param {string} path
 * @returns {never}
 */
function missing(path) {
  throw new TraceError(`a trace needs ${path}, which cannot be read`);
}

/**
 * @param {unknown} value
 * @returns {value is number}
 */
function isCount(value) {
  return Number.isSafeInteger(value) && Number(value) >= 0;
}

/** @param {unknown} value */
function show(value) {
  return value === undefined ? 'nothing' : JSON.stringify(value);
}
