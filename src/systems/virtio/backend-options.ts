// What a device offers and to which limits it holds its driver: options checked against what the scheduler can do, and
// made into features and a configuration space. Nothing here changes later.
//
//   - A feature is offered only if the scheduler can back it: FLUSH where there is nothing volatile or it can be flushed,
//     BARRIER where there is an order, DISCARD where the storage has it, nothing that writes on a read-only disk.
//   - What is offered unless the caller says otherwise is all of that but BARRIER, which only an old driver believes in.
//   - Every limit is held against the driver (request.ts), so the memory of a device is bounded. A driver is told of those
//     whose features are offered: without SIZE_MAX and SEG_MAX it must guess.
//
// The old defect is data: VIRTIO_HOSTS.

import { type IoScheduler, WriteBarrierError } from 'write-barrier';
import { VIRTIO_ID_BYTES, VIRTIO_SECTOR, type VirtioConfig, type VirtioEndian } from './codec.js';
import { VIRTIO_FEATURES, type VirtioFeature, virtioFeatureBits } from './features.js';

/** How a device treats a driver that cannot flush, as data. */
export interface VirtioHost {
  /**
   * A driver that has negotiated neither FLUSH nor CONFIG_WCE gets its writes answered when they are durable. False is
   * the defect: what completes may still be volatile, and this driver has no means to change that.
   */
  readonly commitsUnflushed: boolean;
  /** Where that can be read. */
  readonly witness: string;
}

/** The names of the two. */
export type VirtioHostName = 'standard' | 'legacy';

/** How devices treat a driver that cannot flush. */
export const VIRTIO_HOSTS: Readonly<Record<VirtioHostName, VirtioHost>> = Object.freeze({
  standard: Object.freeze({
    commitsUnflushed: true,
    witness: 'virtio 1.3, 5.2.6.2, case 1; virtio_blk_set_status() in QEMU, hw/block/virtio-blk.c',
  }),
  legacy: Object.freeze({
    commitsUnflushed: false,
    witness: 'virtio 1.3, 5.2.6.3, on older devices; the hosts that the patch of 2010 speaks of',
  }),
});

/** The limits of discards or zeroes. */
export interface VirtioRangeLimits {
  /** In units of 512 bytes, of one segment; 1 to 2^32 - 1. */
  readonly sectorsMax: number;
  /** Segments of one request; 1 to 65,535. */
  readonly segmentsMax: number;
}

/** How a device is to behave. */
export interface VirtioBackendOptions {
  /**
   * Exactly what is offered; whatever the scheduler can back unless given, BARRIER excepted. Without FLUSH on a volatile
   * cache a driver has no way to make anything durable, and must trust that the device does.
   */
  readonly features?: readonly VirtioFeature[];
  /** Writes are refused, and RO is offered. */
  readonly readOnly?: boolean;
  /** What GET_ID answers: 20 characters of ASCII at the most; `write-barrier` unless given. */
  readonly id?: string;
  /** The cache mode at the start and after a reset; write-back where the storage has a volatile cache unless given. */
  readonly writeback?: boolean;
  /** The byte order of a guest that does not negotiate VERSION_1; `little` unless given. */
  readonly legacyEndian?: VirtioEndian;
  /** Chains of one queue at the most, 1 to 32,768; 128 unless given. One more is refused. */
  readonly queueSize?: number;
  /** Queues, 1 to 65,535; 1 unless given. They all end in the same scheduler. */
  readonly numQueues?: number;
  /** Buffers of one request that hold data, 1 or more; 126 unless given. */
  readonly segMax?: number;
  /**
   * In bytes, of one such buffer, 1 or more; 65,536 unless given. `segMax` of them must hold a block, and are the most
   * that a request may have, however it is cut.
   */
  readonly sizeMax?: number;
  /** Data of the requests at the scheduler, in bytes, but for a single larger one; 64 MiB unless given. */
  readonly inFlightBytesMax?: number;
  /** The limits of discards; the whole disk and 16 segments unless given. */
  readonly discard?: VirtioRangeLimits;
  /** The limits of zeroes; 32 MiB and 16 segments unless given. */
  readonly writeZeroes?: VirtioRangeLimits;
  /**
   * `legacy` is a model of a defect: a driver without FLUSH and CONFIG_WCE loses acknowledged writes in a power cut.
   * `standard` unless given.
   */
  readonly host?: VirtioHostName;
}

const U16_MAX = 2 ** 16 - 1;
const U32_MAX = 2 ** 32 - 1;

/** @throws `INVALID_ARGUMENT` for a feature that the scheduler cannot back, or that needs another */
export function offeredBy(scheduler: IoScheduler, options: VirtioBackendOptions): bigint {
  const { readOnly = false, numQueues = 1 } = options;
  const { cache, flush, discard } = scheduler.capabilities;
  const flushes = cache !== 'volatile' || flush;
  const able: Readonly<Record<VirtioFeature, boolean>> = {
    BARRIER: scheduler.mode !== 'NONE',
    SIZE_MAX: true,
    SEG_MAX: true,
    RO: readOnly,
    BLK_SIZE: true,
    FLUSH: flushes,
    CONFIG_WCE: flushes,
    MQ: numQueues > 1,
    DISCARD: discard === true && !readOnly,
    WRITE_ZEROES: !readOnly,
    VERSION_1: true,
  };
  const names = Object.keys(VIRTIO_FEATURES) as VirtioFeature[];
  const chosen = options.features ?? names.filter((name) => name !== 'BARRIER' && able[name]);
  for (const name of chosen) need(able[name] === true, `${name} cannot be offered here`);
  const offers = (name: VirtioFeature): boolean => chosen.includes(name);
  need(!offers('CONFIG_WCE') || offers('FLUSH'), 'CONFIG_WCE is not offered without FLUSH');
  need(!readOnly || offers('RO'), 'a disk that is read-only offers RO');
  return virtioFeatureBits(...new Set(chosen));
}

/** @throws `INVALID_ARGUMENT` for an option out of range */
export function configOf(scheduler: IoScheduler, options: VirtioBackendOptions): VirtioConfig {
  const { blockSize, cache, flush } = scheduler.capabilities;
  need(
    blockSize % VIRTIO_SECTOR === 0 || VIRTIO_SECTOR % blockSize === 0,
    `blocks of ${blockSize} bytes do not go with sectors of ${VIRTIO_SECTOR}`,
  );
  const blkSize = Math.max(blockSize, VIRTIO_SECTOR);
  const capacity = Math.floor(scheduler.size / VIRTIO_SECTOR);
  const { queueSize = 128, numQueues = 1, segMax = 126, sizeMax = 65_536 } = options;
  const { inFlightBytesMax = 1 } = options;
  const {
    discard = { sectorsMax: Math.min(Math.max(capacity, 1), U32_MAX), segmentsMax: 16 },
    writeZeroes = { sectorsMax: 65_536, segmentsMax: 16 },
  } = options;
  whole({ queueSize }, 32_768);
  whole({ numQueues }, U16_MAX);
  whole({ segMax }, U16_MAX);
  whole({ sizeMax }, U32_MAX);
  whole({ inFlightBytesMax }, Number.MAX_SAFE_INTEGER);
  for (const { sectorsMax, segmentsMax } of [discard, writeZeroes]) {
    whole({ sectorsMax }, U32_MAX);
    whole({ segmentsMax }, U16_MAX);
  }
  need(segMax * sizeMax >= blkSize, `${segMax} segments of ${sizeMax} bytes hold no block`);
  return Object.freeze({
    capacity: BigInt(capacity),
    sizeMax,
    segMax,
    blkSize,
    writeback: (options.writeback ?? (cache === 'volatile' && flush)) ? 1 : 0,
    numQueues,
    maxDiscardSectors: discard.sectorsMax,
    maxDiscardSeg: discard.segmentsMax,
    discardSectorAlignment: blkSize / VIRTIO_SECTOR,
    maxWriteZeroesSectors: writeZeroes.sectorsMax,
    maxWriteZeroesSeg: writeZeroes.segmentsMax,
    writeZeroesMayUnmap: 0,
  });
}

/**
 * The answer to GET_ID.
 *
 * @throws `INVALID_ARGUMENT` for what is not ASCII or too long
 */
export function idOf(text: string): Uint8Array {
  need(/^[ -~]*$/.test(text) && text.length <= VIRTIO_ID_BYTES, `'${text}' is not an id`);
  const bytes = new Uint8Array(VIRTIO_ID_BYTES);
  for (let at = 0; at < text.length; at += 1) bytes[at] = text.charCodeAt(at);
  return bytes;
}

/** @throws `INVALID_ARGUMENT` for a host that is none */
export function hostOf({ host = 'standard' }: VirtioBackendOptions): VirtioHost {
  need(Object.hasOwn(VIRTIO_HOSTS, host), `${host} is neither 'standard' nor 'legacy'`);
  return VIRTIO_HOSTS[host];
}

function whole(named: Readonly<Record<string, number>>, max: number): void {
  for (const [name, value] of Object.entries(named)) {
    need(
      Number.isSafeInteger(value) && value >= 1 && value <= max,
      `${name} must be a whole number from 1 to ${max}, not ${value}`,
    );
  }
}

function need(holds: boolean, otherwise: string): void {
  if (!holds) throw new WriteBarrierError('INVALID_ARGUMENT', otherwise);
}
