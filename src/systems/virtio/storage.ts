// The driver's side of virtio-blk as a storage: commands become requests to a device (driver.ts).
//
// Opening is a negotiation: reset, take what the driver's era wants of what is offered, read the configuration, set the
// cache mode where asked to, and then believe what the era believes (features.ts). The belief is what the capabilities
// say, so a scheduler above chooses, or is given, the mode of that era.
//
//   - The protocol has no FUA, and the capabilities say so: a scheduler above forces a write by writing and flushing, as
//     Linux does.
//   - Tags exist only as the barrier bit of the legacy interface, and only for an era that believes in it.
//   - A configuration that makes no sense is refused at the opening.
//
// Not here: the ring and the interrupts (the transport has them), and a cache mode that changes later: capabilities
// never do (S11), so whoever writes the byte behind this storage's back must not take it from 0 to 1.
//
// Source: OASIS virtio 1.3, 5.2; drivers/block/virtio_blk.c in Linux.

import {
  type Capabilities,
  checkRange,
  type FlushFlags,
  type Storage,
  WriteBarrierError,
  type WriteFlags,
} from 'write-barrier';
import { bytesOf } from './chain.js';
import {
  decodeVirtioConfig,
  encodeVirtioSegments,
  VIRTIO_ID_BYTES,
  VIRTIO_SECTOR,
  VIRTIO_WRITEBACK_AT,
  type VirtioConfig,
  type VirtioEndian,
} from './codec.js';
import { partsOf, type SendVirtio, senderTo, type VirtioLimits } from './driver.js';
import {
  driverOf,
  hasVirtioFeature,
  type VirtioEra,
  type VirtioFeature,
  type VirtioOrdering,
  virtioFeatureBits,
  virtioOrdering,
} from './features.js';
import { together } from './together.js';
import type { VirtioTransport } from './transport.js';

/** How a driver is to behave. */
export interface VirtioStorageOptions {
  /**
   * Whose belief the capabilities state; `specification` unless given. The others are models: they take a device without
   * FLUSH for one without a volatile cache, which nobody has promised, and then a power cut may lose what they call
   * durable.
   */
  readonly era?: VirtioEra;
  /** Features that are not taken although the era wants them. */
  readonly decline?: readonly VirtioFeature[];
  /** The cache mode to set, where CONFIG_WCE is negotiated; left as the device has it unless given. */
  readonly writeback?: boolean;
  /** The byte order over the legacy interface; `little` unless given. */
  readonly legacyEndian?: VirtioEndian;
  /** Chains at the device at once, 1 or more; 128 unless given. */
  readonly queueSize?: number;
}

/** A virtio-blk device as a storage. */
export interface VirtioStorage extends Storage {
  /** What was negotiated, as bits. */
  readonly features: bigint;
  /** What the era makes of it. */
  readonly ordering: VirtioOrdering;
  /** What the device calls itself; rejects with `EOPNOTSUPP` where it does not say. */
  identify(): Promise<string>;
}

/**
 * Opens a device. The mode that its era runs in is `ordering.mode`; where that is NONE on a volatile cache, a scheduler
 * takes it only with `allowUnsafe`.
 *
 * @throws `EOPNOTSUPP` where the device does not agree to the features
 * @throws `INVALID_STORAGE` for a configuration that no device can mean
 * @throws `INVALID_ARGUMENT` for an option out of range
 */
export async function virtioStorage(
  transport: VirtioTransport,
  options: VirtioStorageOptions = {},
): Promise<VirtioStorage> {
  const { era = 'specification', decline = [], legacyEndian = 'little', queueSize = 128 } = options;
  if (!Number.isSafeInteger(queueSize) || queueSize < 1) {
    throw new WriteBarrierError('INVALID_ARGUMENT', `a queue cannot have ${queueSize} places`);
  }
  await transport.reset();
  const offered = transport.features;
  const wanted = driverOf(era).wants.filter((name) => !decline.includes(name));
  const features = offered & virtioFeatureBits(...wanted);
  if (!(await transport.negotiate(features))) {
    throw new WriteBarrierError('EOPNOTSUPP', 'the device does not agree to the features');
  }
  if (options.writeback !== undefined && hasVirtioFeature(features, 'CONFIG_WCE')) {
    await transport.writeConfig(VIRTIO_WRITEBACK_AT, Uint8Array.of(options.writeback ? 1 : 0));
  }
  const modern = hasVirtioFeature(features, 'VERSION_1');
  const endian = modern ? 'little' : legacyEndian;
  const config = decodeVirtioConfig(await transport.readConfig(), endian);
  if (!config) throw unusable('a configuration without a capacity');
  const limits = { ...limitsOf(config, features), endian, modern };
  const agreement = { offered, negotiated: features, writeback: config.writeback !== 0 };
  const send = senderTo(transport, limits, queueSize);
  return new Disk(send, limits, config, features, virtioOrdering(era, agreement));
}

type Ranged = (offset: number, length: number) => Promise<void>;

class Disk implements VirtioStorage {
  readonly size: number;
  readonly capabilities: Capabilities;
  readonly features: bigint;
  readonly ordering: VirtioOrdering;
  declare readonly discard?: Ranged;
  declare readonly writeZeroes?: Ranged;
  readonly #send: SendVirtio;
  readonly #limits: VirtioLimits;
  #open = true;

  constructor(
    send: SendVirtio,
    limits: VirtioLimits,
    config: VirtioConfig,
    features: bigint,
    ordering: VirtioOrdering,
  ) {
    const { blockSize } = limits;
    this.size = sizeOf(config, blockSize);
    this.features = features;
    this.ordering = ordering;
    this.#send = send;
    this.#limits = limits;
    const { maxDiscardSectors, maxWriteZeroesSectors } = config;
    // Segments that hold no block are of no use: then it is as if the feature were not there.
    const discard = this.#has('DISCARD') && maxDiscardSectors * VIRTIO_SECTOR >= blockSize;
    const zeroes = this.#has('WRITE_ZEROES') && maxWriteZeroesSectors * VIRTIO_SECTOR >= blockSize;
    this.capabilities = Object.freeze({
      ...ordering.device,
      ...{ blockSize, writev: true, discard, writeZeroes: zeroes },
    });
    if (discard) {
      this.discard = (offset, length) =>
        this.#ranges('DISCARD', offset, length, maxDiscardSectors * VIRTIO_SECTOR);
    }
    if (zeroes) {
      this.writeZeroes = (offset, length) =>
        this.#ranges('WRITE_ZEROES', offset, length, maxWriteZeroesSectors * VIRTIO_SECTOR);
    }
  }

  /** @throws `CLOSED`, `OUT_OF_RANGE`, `UNALIGNED`; `IO_FAILED`, `SHORT_TRANSFER` */
  async read(offset: number, into: Uint8Array): Promise<void> {
    this.#check(offset, into.length);
    const parts = partsOf(this.#limits, [into]);
    await together(
      parts.map(({ at, buffers }) =>
        this.#send({ type: 'IN', offset: offset + at, into: buffers }),
      ),
    );
  }

  /** @throws as `read`; `EOPNOTSUPP` for a flag not declared, `READ_ONLY` */
  write(offset: number, data: Uint8Array, flags: WriteFlags): Promise<void> {
    return this.writev(offset, [data], flags);
  }

  /** @throws as `write` */
  async writev(offset: number, data: readonly Uint8Array[], flags: WriteFlags): Promise<void> {
    this.#checkWrite(offset, bytesOf(data));
    this.#checkFlags(flags);
    const barrier = flags.tag === 'ordered';
    const parts = partsOf(this.#limits, data);
    await together(
      parts.map(({ at, buffers }) =>
        this.#send({ type: 'OUT', offset: offset + at, data: buffers, barrier }),
      ),
    );
  }

  /** @throws `CLOSED`, `IO_FAILED`; `EOPNOTSUPP` where it declares no flush, or no ordered tags */
  async flush({ tag }: FlushFlags): Promise<void> {
    this.#checkOpen();
    this.#checkFlags({ tag, fua: false });
    if (!this.capabilities.flush) throw refusal('a flush');
    await this.#send({ type: 'FLUSH' });
  }

  close(): void {
    this.#open = false;
  }

  async identify(): Promise<string> {
    this.#checkOpen();
    const into = new Uint8Array(VIRTIO_ID_BYTES);
    await this.#send({ type: 'GET_ID', into: [into] });
    const end = into.indexOf(0);
    return String.fromCharCode(...into.subarray(0, end < 0 ? into.length : end));
  }

  /** One segment in each request, of whole blocks. */
  async #ranges(
    type: 'DISCARD' | 'WRITE_ZEROES',
    offset: number,
    length: number,
    lengthMax: number,
  ): Promise<void> {
    this.#checkWrite(offset, length);
    const step = lengthMax - (lengthMax % this.#limits.blockSize);
    const calls: Promise<void>[] = [];
    for (let at = 0; at < length; at += step) {
      const sector = BigInt((offset + at) / VIRTIO_SECTOR);
      const numSectors = Math.min(step, length - at) / VIRTIO_SECTOR;
      const data = [encodeVirtioSegments([{ sector, numSectors, flags: 0 }])];
      calls.push(this.#send({ type, data }));
    }
    await together(calls);
  }

  #has(name: VirtioFeature): boolean {
    return hasVirtioFeature(this.features, name);
  }

  #checkOpen(): void {
    if (!this.#open) throw new WriteBarrierError('CLOSED', 'the storage is closed');
  }

  #check(offset: number, length: number): void {
    this.#checkOpen();
    checkRange(this, offset, length);
  }

  #checkWrite(offset: number, length: number): void {
    this.#check(offset, length);
    if (this.#has('RO')) throw new WriteBarrierError('READ_ONLY', 'the disk is read-only');
  }

  #checkFlags({ tag, fua }: WriteFlags): void {
    if (fua) throw refusal('FUA');
    if (tag === 'ordered' && !this.capabilities.orderedTags) throw refusal('an ordered tag');
  }
}

/** @throws `INVALID_STORAGE` */
function limitsOf(
  config: VirtioConfig,
  features: bigint,
): Pick<VirtioLimits, 'blockSize' | 'segMax' | 'sizeMax'> {
  const has = (name: VirtioFeature): boolean => hasVirtioFeature(features, name);
  const blockSize = has('BLK_SIZE') ? config.blkSize : VIRTIO_SECTOR;
  // As Linux: one segment where the device does not say, and where it says none.
  const segMax = has('SEG_MAX') ? Math.max(config.segMax, 1) : 1;
  const sizeMax = has('SIZE_MAX') ? config.sizeMax : Math.max(UNTOLD_SIZE_MAX, blockSize);
  if (blockSize < VIRTIO_SECTOR || blockSize % VIRTIO_SECTOR !== 0) {
    throw unusable(`blocks of ${blockSize} bytes`);
  }
  if (segMax * sizeMax < blockSize) {
    throw unusable(`${segMax} segments of ${sizeMax} bytes for blocks of ${blockSize}`);
  }
  return { blockSize, segMax, sizeMax };
}

/**
 * In bytes, of a segment where the device does not say. One that has a limit and does not tell it answers what is larger
 * with IOERR, however often it is sent; this much `VirtioBackend` takes unless its owner wants less.
 */
const UNTOLD_SIZE_MAX = 65_536;

/** @throws `INVALID_STORAGE` */
function sizeOf({ capacity }: VirtioConfig, blockSize: number): number {
  const bytes = capacity * BigInt(VIRTIO_SECTOR);
  if (bytes > BigInt(Number.MAX_SAFE_INTEGER)) throw unusable(`${capacity} sectors`);
  return Number(bytes - (bytes % BigInt(blockSize)));
}

function unusable(what: string): WriteBarrierError {
  return new WriteBarrierError('INVALID_STORAGE', `no device can mean this: ${what}`);
}

function refusal(what: string): WriteBarrierError {
  return new WriteBarrierError('EOPNOTSUPP', `${what} is not among the storage's capabilities`);
}
