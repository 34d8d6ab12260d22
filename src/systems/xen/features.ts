// What the two ends tell each other in xenstore, as values and as the text of its nodes.
//
// A node with the value 1 says that the backend takes the operation. Most readers take a missing node as 0; some take it as "a
// very old backend, which writes synchronously" (old-frontend.ts). Even after a 1 the backend may answer such a request with
// EOPNOTSUPP, at any time.
//
// The protocol has no word for a volatile cache that cannot be flushed: without feature-flush-cache and feature-barrier
// Linux takes the disk for a write-through one. So a backend here announces a flush wherever it can answer one, even if
// nothing is volatile and the flush does nothing. If the backend announces no flush, the creator of the frontend must say
// whether the disk counts as write-through.
//
// Source: the node documentation in xen/include/public/io/blkif.h; connect() in Linux drivers/block/xen-blkback/xenbus.c
// and xen-blkfront.c.

import type { IoScheduler } from 'write-barrier';
import { formatValue, misuse } from 'write-barrier/kit';
import { INDIRECT_PAGES_MAX, SECTOR_BYTES, SEGMENTS_PER_PAGE } from './wire.js';

/** Nodes of xenstore, below the directory of one end. */
export type XenNodes = Readonly<Record<string, string>>;

/** What a backend takes. */
export interface BlkFeatures {
  /** WRITE_BARRIER: a full barrier, whose payload is durable when it is answered. */
  readonly barrier: boolean;
  /** FLUSH_DISKCACHE. */
  readonly flush: boolean;
  /** DISCARD. */
  readonly discard: boolean;
  /** Segments in an INDIRECT request at the most; 0 where it takes none. */
  readonly indirectSegments: number;
}

/** What the protocol allows in an INDIRECT request. */
export const INDIRECT_SEGMENTS_MAX: number = INDIRECT_PAGES_MAX * SEGMENTS_PER_PAGE;

/** The part of a scheduler that decides what a backend over it can promise. */
export type ServedDisk = Pick<IoScheduler, 'size' | 'capabilities' | 'guarantees'>;

/**
 * What a backend over this scheduler can keep its word on. Barriers only where the mode, on this device, keeps both sides
 * to the barrier and makes it durable: guests take the answer to mean that.
 */
export function blkFeaturesOf({ capabilities, guarantees }: ServedDisk): BlkFeatures {
  const { cache, flush, discard } = capabilities;
  const { verdict } = guarantees;
  return {
    barrier: verdict === 'safe' || verdict === 'safe-without-errors',
    flush: cache !== 'volatile' || flush,
    discard: discard === true,
    indirectSegments: 256,
  };
}

/** In bytes: what a guest may address, a multiple of 512. */
export function sectorSizeOf(blockSize: number): number {
  const size = Math.max(blockSize, SECTOR_BYTES);
  if (size % blockSize === 0 && size % SECTOR_BYTES === 0) return size;
  throw misuse(`blockSize must divide ${SECTOR_BYTES} or be a multiple of it, not ${blockSize}`);
}

/** The nodes that the backend writes. `sectors` counts in 512 bytes, whatever `sector-size` says. */
export function xenNodes(
  disk: Pick<ServedDisk, 'size' | 'capabilities'>,
  features: BlkFeatures,
): XenNodes {
  const bit = (on: boolean): string => (on ? '1' : '0');
  const sectorSize = sectorSizeOf(disk.capabilities.blockSize);
  const size = disk.size - (disk.size % sectorSize);
  return Object.freeze({
    sectors: String(size / SECTOR_BYTES),
    'sector-size': String(sectorSize),
    'feature-barrier': bit(features.barrier),
    'feature-flush-cache': bit(features.flush),
    'feature-discard': bit(features.discard),
    ...(features.indirectSegments > 0 && {
      'feature-max-indirect-segments': String(features.indirectSegments),
    }),
  });
}

/** What a frontend has read. */
export interface ReadXenNodes {
  /** In bytes. */
  readonly size: number;
  /** In bytes. */
  readonly sectorSize: number;
  /** feature-barrier; undefined where the node is not there. */
  readonly barrier: boolean | undefined;
  /** feature-flush-cache, as above. */
  readonly flush: boolean | undefined;
  /** feature-discard, as above. */
  readonly discard: boolean | undefined;
  /** feature-max-indirect-segments, 0 where the node is not there, at most what the protocol allows. */
  readonly indirectSegments: number;
}

/**
 * What the nodes of a backend say. A feature whose text is not a number counts as absent.
 *
 * @throws `INVALID_ARGUMENT` where the disk itself makes no sense: no size, a sector that is no number or no multiple of
 *   512 bytes, or a size that is not whole sectors
 */
export function readXenNodes(nodes: XenNodes): ReadXenNodes {
  const sectors = numberIn(nodes, 'sectors') ?? 0;
  // A backend without the node has sectors of 512 bytes. One with another text cannot be served.
  const { 'sector-size': sectorText = String(SECTOR_BYTES) } = nodes;
  const sectorSize = numberOf(sectorText) ?? 0;
  const size = sectors * SECTOR_BYTES;
  const sound = sectorSize >= SECTOR_BYTES && sectorSize % SECTOR_BYTES === 0;
  if (!sound || size === 0 || !Number.isSafeInteger(size) || size % sectorSize !== 0) {
    const told = `${sectors} sectors, sector-size ${formatValue(sectorText)}`;
    throw misuse(`the nodes of the backend do not describe a disk: ${told}`);
  }
  const bit = (name: string): boolean | undefined => {
    const value = numberIn(nodes, name);
    return value === undefined ? undefined : value > 0;
  };
  const indirect = numberIn(nodes, 'feature-max-indirect-segments') ?? 0;
  return {
    size,
    sectorSize,
    barrier: bit('feature-barrier'),
    flush: bit('feature-flush-cache'),
    discard: bit('feature-discard'),
    indirectSegments: Math.min(indirect, INDIRECT_SEGMENTS_MAX),
  };
}

function numberIn(nodes: XenNodes, name: string): number | undefined {
  return Object.hasOwn(nodes, name) ? numberOf(nodes[name]) : undefined;
}

function numberOf(text: string | undefined): number | undefined {
  if (text === undefined || !/^\d{1,15}$/.test(text)) return undefined;
  return Number(text);
}
