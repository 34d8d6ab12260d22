// The driver's side of virtio-blk as a storage: commands become requests to a device (request.ts).
//
// Opening is a negotiation: reset, accept those of the offered features that the driver's era wants, read the
// configuration, and set the cache mode if the option asks for it. From the result the drivers of that era concluded what
// the device keeps (features.ts). The capabilities state this conclusion, so a scheduler above chooses, or is given, the
// mode of that era.
//
//   - The protocol has no FUA, and the capabilities say so: a scheduler above forces a write by writing and flushing, as
//     Linux does.
//   - Tags exist only as the barrier bit of the legacy interface, and only for an era that believes in it.
//   - A configuration that makes no sense is refused at the opening.
//   - A device may allow only a sector in one request, and a command may be for an exbibyte, so requests are made one
//     after the other, as the queue has places for them, and other commands take turns with a long one (line.ts).
//
// Not here: the ring and the interrupts (the transport has them), and a cache mode that changes later: capabilities never
// change (S11), so other code must not set the byte from 0 to 1.
//
// Source: OASIS virtio 1.3, 5.2; drivers/block/virtio_blk.c in Linux.

import {
  type Capabilities,
  type FlushFlags,
  type Storage,
  WriteBarrierError,
  type WriteFlags,
} from 'write-barrier';
import {
  BOOLEAN,
  checkArgument,
  checkOptions,
  checkRange,
  oneOf,
  totalLength,
  unsupported,
  wholeNumber,
  withText,
} from 'write-barrier/kit';
import type { Endian } from '../fields.js';
import { objectWith } from '../requests.js';
import {
  decodeVirtioConfig,
  encodeVirtioSegments,
  VIRTIO_ID_BYTES,
  VIRTIO_SECTOR,
  VIRTIO_WRITEBACK_AT,
  type VirtioConfig,
} from './codec.js';
import {
  driverOf,
  FEATURE_NAME,
  hasVirtioFeature,
  type VirtioEra,
  type VirtioFeature,
  type VirtioOrdering,
  virtioFeatureBits,
  virtioOrdering,
} from './features.js';
import { RequestLine } from './line.js';
import {
  partsAtOnce,
  partsOf,
  senderTo,
  type VirtioCommand,
  type VirtioLimits,
  type VirtioTransport,
} from './request.js';

/** How a driver is to behave. */
export interface VirtioStorageOptions {
  /**
   * Whose belief the capabilities state. Those other than `specification` are models: they take a device without FLUSH for
   * one without a volatile cache, which the standard does not promise, and then a power cut may lose what they call durable.
   *
   * @defaultValue `'specification'`
   */
  readonly era?: VirtioEra;
  /** Features that are not taken although the era wants them. */
  readonly decline?: readonly VirtioFeature[];
  /** The cache mode to set, where CONFIG_WCE is negotiated. @defaultValue the cache mode of the device */
  readonly writeback?: boolean;
  /** The byte order over the legacy interface. @defaultValue `'little'` */
  readonly legacyEndian?: Endian;
  /** Chains at the device at once, 1 or more. @defaultValue 128 */
  readonly queueSize?: number;
}

const TRANSPORT = objectWith('reset', 'negotiate', 'readConfig', 'writeConfig', 'submit');
const OPTIONS = {
  era: 1,
  decline: 1,
  writeback: BOOLEAN,
  legacyEndian: oneOf(['little', 'big']),
  queueSize: wholeNumber(1),
} as const;

/** A virtio-blk device as a storage. */
export interface VirtioStorage extends Storage {
  /** What was negotiated, as bits. */
  readonly features: bigint;
  /** What the era concludes from it: the mode, and the assumption about the cache. */
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
 * @throws `INVALID_ARGUMENT` for what is no transport, and for an option out of range
 */
export async function virtioStorage(
  transport: VirtioTransport,
  options: VirtioStorageOptions = {},
): Promise<VirtioStorage> {
  checkArgument('transport', transport, TRANSPORT);
  checkOptions(options, OPTIONS, 'virtioStorage');
  const { era = 'specification', decline = [], legacyEndian = 'little', queueSize = 128 } = options;
  for (const name of decline) checkArgument('a declined feature', name, FEATURE_NAME);
  const { wants } = driverOf(era);
  await transport.reset();
  const offered = transport.features;
  const wanted = wants.filter((name) => !decline.includes(name));
  const features = offered & virtioFeatureBits(...wanted);
  if (!(await transport.negotiate(features))) {
    throw new WriteBarrierError(
      'EOPNOTSUPP',
      'the device did not accept the features that the driver chose',
    );
  }
  if (options.writeback !== undefined && hasVirtioFeature(features, 'CONFIG_WCE')) {
    await transport.writeConfig(VIRTIO_WRITEBACK_AT, Uint8Array.of(options.writeback ? 1 : 0));
  }
  const modern = hasVirtioFeature(features, 'VERSION_1');
  const endian = modern ? 'little' : legacyEndian;
  const config = decodeVirtioConfig(await transport.readConfig(), endian);
  if (!config) throw unusable('it has no capacity');
  const limits = { ...limitsOf(config, features), endian, modern };
  const agreement = { offered, negotiated: features, writeback: config.writeback !== 0 };
  const line = new RequestLine(senderTo(transport, limits), queueSize);
  return new Disk(line, limits, config, features, virtioOrdering(era, agreement));
}

type Ranged = (offset: number, length: number) => Promise<void>;

class Disk implements VirtioStorage {
  readonly size: number;
  readonly capabilities: Capabilities;
  readonly features: bigint;
  readonly ordering: VirtioOrdering;
  declare readonly discard?: Ranged;
  declare readonly writeZeroes?: Ranged;
  readonly #line: RequestLine<VirtioCommand>;
  readonly #limits: VirtioLimits;
  #open = true;

  constructor(
    line: RequestLine<VirtioCommand>,
    limits: VirtioLimits,
    config: VirtioConfig,
    features: bigint,
    ordering: VirtioOrdering,
  ) {
    const { blockSize } = limits;
    this.size = sizeOf(config, blockSize);
    this.features = features;
    this.ordering = ordering;
    this.#line = line;
    this.#limits = limits;
    const { maxDiscardSectors, maxWriteZeroesSectors } = config;
    // Segments that hold no block are of no use: then it is as if the feature were not there.
    const discard = this.#has('DISCARD') && maxDiscardSectors * VIRTIO_SECTOR >= blockSize;
    const zeroes = this.#has('WRITE_ZEROES') && maxWriteZeroesSectors * VIRTIO_SECTOR >= blockSize;
    this.capabilities = Object.freeze({
      ...ordering.device,
      ...{ blockSize, writev: true, discard, writeZeroes: zeroes },
    });
    if (discard) this.discard = this.#ranged('DISCARD', maxDiscardSectors);
    if (zeroes) this.writeZeroes = this.#ranged('WRITE_ZEROES', maxWriteZeroesSectors);
    withText(this, () => `VirtioStorage { ${this.size} bytes in blocks of ${blockSize} }`);
  }

  /** @throws `CLOSED`, `OUT_OF_RANGE`, `UNALIGNED`; `IO_FAILED`, `SHORT_TRANSFER` */
  async read(offset: number, into: Uint8Array): Promise<void> {
    this.#check(offset, into.length);
    await this.#transfer('IN', offset, [into], false);
  }

  /** @throws as `read`; `EOPNOTSUPP` for a flag not declared, `READ_ONLY` */
  write(offset: number, data: Uint8Array, flags: WriteFlags): Promise<void> {
    return this.writev(offset, [data], flags);
  }

  /** @throws as `write` */
  async writev(offset: number, data: readonly Uint8Array[], flags: WriteFlags): Promise<void> {
    this.#checkWrite(offset, totalLength(data));
    this.#checkFlags(flags);
    await this.#transfer('OUT', offset, data, flags.tag === 'ordered');
  }

  /** @throws `CLOSED`, `IO_FAILED`; `EOPNOTSUPP` where it declares no flush, or no ordered tags */
  async flush({ tag }: FlushFlags): Promise<void> {
    this.#check(0, 0);
    this.#checkFlags({ tag, fua: false });
    if (!this.capabilities.flush) throw unsupported('a flush');
    await this.#single({ type: 'FLUSH' }, tag === 'ordered');
  }

  /** What has not been sent is given up with `CLOSED`. */
  close(): void {
    this.#open = false;
    this.#line.close(closed());
  }

  async identify(): Promise<string> {
    this.#check(0, 0);
    const into = new Uint8Array(VIRTIO_ID_BYTES);
    await this.#single({ type: 'GET_ID', into: [into] }, false);
    const end = into.indexOf(0);
    return String.fromCharCode(...into.subarray(0, end < 0 ? into.length : end));
  }

  /** One segment in each request, of whole blocks. */
  #ranged(type: 'DISCARD' | 'WRITE_ZEROES', sectorsMax: number): Ranged {
    const { blockSize } = this.#limits;
    const lengthMax = sectorsMax * VIRTIO_SECTOR;
    const step = lengthMax - (lengthMax % blockSize);
    function* requests(offset: number, length: number): Generator<VirtioCommand, void> {
      for (let at = 0; at < length; at += step) {
        const sector = BigInt((offset + at) / VIRTIO_SECTOR);
        const numSectors = Math.min(step, length - at) / VIRTIO_SECTOR;
        yield { type, data: [encodeVirtioSegments([{ sector, numSectors, flags: 0 }])] };
      }
    }
    return async (offset, length) => {
      this.#checkWrite(offset, length);
      const outMax = Number.MAX_SAFE_INTEGER;
      await this.#line.add({ requests: requests(offset, length), ordered: false, outMax });
    };
  }

  /** Buffers that one request cannot carry go in several. */
  #transfer(
    type: 'IN' | 'OUT',
    offset: number,
    list: readonly Uint8Array[],
    barrier: boolean,
  ): Promise<void> {
    const limits = this.#limits;
    function* requests(): Generator<VirtioCommand, void> {
      for (const { at, buffers } of partsOf(limits, list)) {
        const moved = type === 'IN' ? { into: buffers } : { data: buffers, barrier };
        yield { type, offset: offset + at, ...moved };
      }
    }
    const outMax = partsAtOnce(limits);
    return this.#line.add({ requests: requests(), ordered: barrier, outMax });
  }

  #single(request: VirtioCommand, ordered: boolean): Promise<void> {
    return this.#line.add({ requests: [request].values(), ordered, outMax: 1 });
  }

  #has(name: VirtioFeature): boolean {
    return hasVirtioFeature(this.features, name);
  }

  #check(offset: number, length: number): void {
    if (!this.#open) throw closed();
    checkRange(this, offset, length);
  }

  #checkWrite(offset: number, length: number): void {
    this.#check(offset, length);
    if (this.#has('RO')) throw new WriteBarrierError('READ_ONLY', 'the disk is read-only');
  }

  #checkFlags({ tag, fua }: WriteFlags): void {
    if (fua) throw unsupported('FUA');
    if (tag === 'ordered' && !this.capabilities.orderedTags) throw unsupported('an ordered tag');
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
    throw unusable(
      `blk_size must be a multiple of ${VIRTIO_SECTOR}, from ${VIRTIO_SECTOR}, not ${blockSize}`,
    );
  }
  if (segMax * sizeMax < blockSize) {
    throw unusable(`${segMax} segments of ${sizeMax} bytes are less than a block of ${blockSize}`);
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
  if (bytes > BigInt(Number.MAX_SAFE_INTEGER))
    throw unusable(`its capacity is ${capacity} sectors; at most 2^53 - 1 bytes are supported`);
  return Number(bytes - (bytes % BigInt(blockSize)));
}

function unusable(what: string): WriteBarrierError {
  return new WriteBarrierError(
    'INVALID_STORAGE',
    `the configuration of the device is unusable: ${what}`,
  );
}

function closed(): WriteBarrierError {
  return new WriteBarrierError('CLOSED', 'the storage is closed');
}
