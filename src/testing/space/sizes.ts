// The sizes of a disk that a trace changes: which resizes make sense, and what a forced write says about the size.
//
// A resize is a write to the size, so its interval is that of any write (intervals.ts). One thing more is known of it: a write with
// FUA answers when its data is on the medium, and that is no use behind the end of the disk. So such a write takes the size to
// the medium that it needs (storage.S13).
//
//   Z1  From the moment at which a forced write is durable no size is smaller than its end, unless a later resize has made it so.
//   Z2  A resize begins at the size that the one before it made; one that failed may have made it or not.
//
// Z1 is not claimed where an earlier resize failed or was given up, because the device may have no size then that it could take.

import { misuse } from '../../model/index.js';
import { type DiskCommand, sizeBefore } from '../device/disk-trace.js';
import type { Write } from './breaks.js';
import type { Version } from './versions.js';

/** The sizes that a disk may have while its commands come. */
export class Sizes {
  #now: ReadonlySet<number>;
  /** The largest one so far, in bytes. */
  most: number;

  constructor(size: number) {
    this.#now = new Set([size]);
    this.most = size;
  }

  /** @throws `INVALID_ARGUMENT` for a resize that breaks Z2, or has another range than the bytes between the two sizes */
  change(command: DiskCommand, number: number): void {
    const { op, offset, length, size = 0, failed, fault } = command;
    const end = op === 'writeZeroes' ? offset + length : op === 'discard' ? offset : undefined;
    const before = sizeBefore(command);
    if (size !== end || !this.#now.has(before)) {
      const now = [...this.#now].join(' or ');
      throw misuse(
        `command ${number} is no resize of a disk of ${now} bytes: a ${op} of ${length} bytes at ${offset} to the size ${size}`,
      );
    }
    this.#now = failed || fault ? new Set([...this.#now, size]) : new Set([size]);
    this.most = Math.max(this.most, size);
  }
}

/** The versions of the size, where forced writes take it to the medium (Z1). `before` is the size before the trace, in bytes. */
export function withForced(
  versions: readonly Version[],
  resizes: readonly Write[],
  writes: readonly Write[],
  before: number,
): Version[] {
  // From here on an earlier resize may come to nothing.
  const since = resizes.map(({ interval, spareFrom, strays }) =>
    Math.max(interval.dispatched, strays ? Number.NEGATIVE_INFINITY : spareFrom),
  );
  const doubtful = Math.min(...since);
  const forced = writes.filter(
    (write) => write.size === undefined && write.forced && write.interval.dispatched < doubtful,
  );
  return versions.map((version) => {
    const size = sizeOf(version, resizes, before);
    let { ordered, durable } = version;
    for (const { offset, length, interval } of forced) {
      if (offset + length <= size || interval.dispatched <= version.after) continue;
      ordered = Math.min(ordered, interval.ordered);
      durable = Math.min(durable, interval.durable);
    }
    return { ...version, ordered, durable };
  });
}

/** The size that a version of it is, in bytes; `before` is that before the trace. */
export function sizeOf(
  { sources: [source] }: Version,
  resizes: readonly Write[],
  before: number,
): number {
  return resizes[(source as number) >> 1]?.size ?? before;
}
