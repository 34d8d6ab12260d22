// Requests of a driver as chains, and what the device makes of them.
//
//   - The framing is the legacy one, which every device must take: a buffer with the header, the data, one byte of
//     status. The status is preset to a value that no device answers.
//   - What is too large for one request becomes several, cut at whole blocks.
//   - No more chains at once than the queue has places; the others wait, in order.
//   - The device may be hostile: an unknown status is a failure. Over the modern interface so is a used length that does
//     not cover the status, for what lies behind it must not be believed; in the legacy interface it meant nothing.
//
// Source: OASIS virtio 1.3, 5.2.6 and 2.7.8.3, and the legacy interfaces there.

import { WriteBarrierError } from 'write-barrier';
import { gathered } from '../pieces.js';
import { bytesOf, partOf } from './chain.js';
import {
  encodeVirtioHeader,
  VIRTIO_BARRIER,
  VIRTIO_SECTOR,
  VIRTIO_TYPES,
  type VirtioEndian,
  type VirtioStatus,
  type VirtioType,
  virtioStatusOf,
} from './codec.js';
import type { VirtioTransport } from './transport.js';

/** What requests have to know of the device. */
export interface VirtioLimits {
  /** In bytes, whole sectors. */
  readonly blockSize: number;
  /** Buffers of data in a request, at the most. */
  readonly segMax: number;
  /** In bytes, of one of them. */
  readonly sizeMax: number;
  /** The byte order of the header. */
  readonly endian: VirtioEndian;
  /** Used lengths mean what they say. */
  readonly modern: boolean;
}

/** One request. */
export interface VirtioCommand {
  readonly type: VirtioType;
  /** In bytes; 0 unless given. */
  readonly offset?: number;
  /** What the device reads. */
  readonly data?: readonly Uint8Array[];
  /** What the device fills. */
  readonly into?: readonly Uint8Array[];
  /** Sets the barrier bit. */
  readonly barrier?: boolean;
}

/** Sends a request and settles when the device has answered. */
export type SendVirtio = (command: VirtioCommand) => Promise<void>;

/**
 * A way to send requests.
 *
 * It rejects with `EOPNOTSUPP` for what the device does not support, with `IO_FAILED` for what it could not do and for an
 * answer that is none, with `SHORT_TRANSFER` where it has written less than it should.
 */
export function senderTo(
  transport: VirtioTransport,
  { endian, modern }: VirtioLimits,
  queueSize: number,
): SendVirtio {
  const enter = turnstile(queueSize);
  return async ({ type, offset = 0, data = [], into = [], barrier = false }) => {
    const header = encodeVirtioHeader(
      {
        type: VIRTIO_TYPES[type] + (barrier ? VIRTIO_BARRIER : 0),
        ioprio: 0,
        sector: BigInt(offset / VIRTIO_SECTOR),
      },
      endian,
    );
    const status = Uint8Array.of(NO_STATUS);
    const chain = { readable: [header, ...data], writable: [...into, status] };
    const used = await enter(() => transport.submit(chain));
    const told = virtioStatusOf(status[0] ?? NO_STATUS);
    if (told !== 'OK') throw failure(type, told);
    const bytes = bytesOf(into) + 1;
    if (modern && used !== bytes) {
      throw new WriteBarrierError(
        'SHORT_TRANSFER',
        `the device says that it has written ${String(used)} of ${bytes} bytes of ${type}`,
      );
    }
  };
}

const NO_STATUS = 0xff;

function failure(type: VirtioType, told: VirtioStatus | undefined): WriteBarrierError {
  if (told === 'UNSUPP') {
    return new WriteBarrierError('EOPNOTSUPP', `the device does not support ${type}`);
  }
  const what = told === 'IOERR' ? 'failed' : 'gave no status for';
  return new WriteBarrierError('IO_FAILED', `the device ${what} ${type}`);
}

/** A part of a transfer that fits into one request. */
export interface VirtioPart {
  /** In bytes, from the start of the transfer. */
  readonly at: number;
  readonly buffers: readonly Uint8Array[];
}

/** Cuts a transfer into requests. Buffers are views of the given ones, unless there are too many: then of a copy. */
export function partsOf(
  { segMax, sizeMax, blockSize }: VirtioLimits,
  list: readonly Uint8Array[],
): VirtioPart[] {
  const total = bytesOf(list);
  const most = Math.min(segMax * sizeMax, Number.MAX_SAFE_INTEGER);
  const step = most - (most % blockSize);
  const parts: VirtioPart[] = [];
  for (let at = 0; at < total; at += step) {
    const views = partOf(list, at, at + step);
    const buffers = cut(views, sizeMax);
    parts.push({
      at,
      buffers: buffers.length <= segMax ? buffers : cut([gathered(views, bytesOf(views))], sizeMax),
    });
  }
  return parts;
}

function cut(list: readonly Uint8Array[], sizeMax: number): Uint8Array[] {
  return list.flatMap((buffer) =>
    Array.from({ length: Math.ceil(buffer.length / sizeMax) }, (_, index) =>
      buffer.subarray(index * sizeMax, (index + 1) * sizeMax),
    ),
  );
}

/** Lets so many through at once; the others wait in line. */
function turnstile(places: number): <T>(run: () => T | Promise<T>) => Promise<T> {
  let free = places;
  const line: (() => void)[] = [];
  const leave = (): void => {
    const next = line.shift();
    // The next one goes in here and now: were it only woken, somebody who comes meanwhile could be faster.
    if (next) next();
    else free += 1;
  };
  return <T>(run: () => T | Promise<T>) =>
    new Promise<T>((resolve, reject) => {
      const enter = (): void => {
        new Promise<T>((ran) => ran(run())).finally(leave).then(resolve, reject);
      };
      if (free === 0) line.push(enter);
      else {
        free -= 1;
        enter();
      }
    });
}
