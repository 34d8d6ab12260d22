// Traces of disks in files, in the forms that the library reads: its own, which `write-barrier serve --trace` writes, and that of Linux'
// dm-log-writes, which QEMU's blklogwrites driver writes as well.

import { readFileSync } from 'node:fs';
import type { DiskTrace } from 'write-barrier/testing';
import { decodeTrace, readLogWrites } from 'write-barrier/testing/lab';
import { bytesOf, UsageError } from './command.js';

const OWN = Buffer.from('write-barrier-trace ');
/** The number that such a log begins with: drivers/md/dm-log-writes.c. */
const LOG_WRITES = Buffer.from('7268737766736a00', 'hex');

/** What a log of dm-log-writes does not say. */
export const TRACE_OPTIONS: { readonly size: { readonly value: string; readonly text: string } } = {
  size: {
    value: 'BYTES',
    text: 'of the disk, for a log of dm-log-writes, which does not say it',
  },
};

/** Whether a mark is an entry of a journal: what a program has begun, or told its user that it is safe. */
export function isTold(value: unknown): boolean {
  if (typeof value !== 'object' || value === null) return false;
  const { kind, operation } = value as { readonly kind?: unknown; readonly operation?: unknown };
  return (kind === 'begin' || kind === 'acknowledge') && operation !== undefined;
}

/** @throws `UsageError` for a file that is no trace, `SYNTAX` for a trace that is malformed */
export function traceIn(path: string, size: string | undefined): DiskTrace {
  const bytes = readFileSync(path);
  if (bytes.subarray(0, OWN.length).equals(OWN)) return decodeTrace(bytes);
  if (!bytes.subarray(0, LOG_WRITES.length).equals(LOG_WRITES)) {
    throw new UsageError(`${path} is neither a trace of write-barrier nor a log of dm-log-writes`);
  }
  if (size === undefined) {
    throw new UsageError(
      `${path} is a log of dm-log-writes: say how large the disk is, with --size`,
    );
  }
  return readLogWrites(bytes, bytesOf('--size', size));
}
