// What an export is to a Storage: data, from the server's flags and sizes.
//
//   flush, fua, discard, writeZeroes   the server's SEND_FLUSH, SEND_FUA, SEND_TRIM, SEND_WRITE_ZEROES
//   cache        `volatile`, unless nothing can be written. The protocol calls a write durable when a flush has covered
//                it, or when it was forced. A server without SEND_FLUSH has not promised that its writes are durable: it
//                has no way to say so, and most of those that do not flush cannot. Who knows better says so (`cache`).
//   blockSize    the server's minimum, but no less than a sector where the size allows: a server that takes less reads,
//                changes and writes back what it has in sectors, and a power cut tears that.

import { type Capabilities, WriteBarrierError } from 'write-barrier';
import { TRANSMISSION_FLAG } from '../wire/index.js';
import type { NbdExport } from './handshake.js';

/** An export, as a storage sees it. */
export interface ExportTraits {
  /** In bytes. */
  readonly size: number;
  readonly capabilities: Required<Capabilities>;
  readonly readOnly: boolean;
  /** Several connections are one to it. */
  readonly multiConn: boolean;
  /** The most that a read or a write carries, in bytes. */
  readonly payloadMax: number;
}

const SECTOR = 512;
/** What every server takes unless it says otherwise. */
const PAYLOAD_MAX = 32 * 1024 * 1024;

/**
 * @param wanted block size, in bytes, and `cache: 'none'` for a server that is known to answer when data is durable
 * @throws `INVALID_STORAGE` for a size that is not whole blocks; `INVALID_ARGUMENT` for a block size that cannot be
 */
export function traitsOf(
  { size, flags, blockSizes }: NbdExport,
  wanted: { readonly blockSize?: number | undefined; readonly cache?: 'none' | undefined },
): ExportTraits {
  const has = (flag: keyof typeof TRANSMISSION_FLAG): boolean =>
    (flags & TRANSMISSION_FLAG.HAS_FLAGS) !== 0 && (flags & TRANSMISSION_FLAG[flag]) !== 0;
  const readOnly = has('READ_ONLY');
  // Who has said nothing takes any, and likes sectors: section "Block size constraints".
  const minimum = blockSizes?.minimum ?? 1;
  const usual = size % Math.max(minimum, SECTOR) === 0 ? Math.max(minimum, SECTOR) : minimum;
  const blockSize = wanted.blockSize ?? usual;
  if (!Number.isSafeInteger(blockSize) || blockSize < 1 || blockSize % minimum !== 0) {
    throw new WriteBarrierError(
      'INVALID_ARGUMENT',
      `blocks of ${blockSize} bytes, and the export wants multiples of ${minimum}`,
    );
  }
  if (size % blockSize !== 0) {
    const what = `an export of ${size} bytes is not whole blocks of ${blockSize}`;
    throw new WriteBarrierError('INVALID_STORAGE', what);
  }
  const most = Math.min(blockSizes?.maximum ?? PAYLOAD_MAX, PAYLOAD_MAX);
  const capabilities = Object.freeze({
    blockSize,
    cache: readOnly ? ('none' as const) : (wanted.cache ?? ('volatile' as const)),
    flush: has('SEND_FLUSH'),
    fua: !readOnly && has('SEND_FUA'),
    orderedTags: false,
    writev: true,
    discard: !readOnly && has('SEND_TRIM'),
    writeZeroes: !readOnly && has('SEND_WRITE_ZEROES'),
  });
  const payloadMax = most - (most % minimum);
  return { size, capabilities, readOnly, multiConn: has('CAN_MULTI_CONN'), payloadMax };
}

/** What an export that came back does not keep of what it was; undefined where it is as good as before. */
export function brokenPromise(before: ExportTraits, now: ExportTraits): string | undefined {
  if (now.size !== before.size) return `it had ${before.size} bytes, and now has ${now.size}`;
  if (now.readOnly && !before.readOnly) return 'it is read-only now';
  for (const name of ['flush', 'fua', 'discard', 'writeZeroes'] as const) {
    if (before.capabilities[name] && !now.capabilities[name]) return `it has no ${name} any more`;
  }
  return undefined;
}
