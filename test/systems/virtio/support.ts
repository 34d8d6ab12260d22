// Requests by hand: chains from words, as a guest lays them out, and the answers to them.

import type { Endian } from '../../../src/systems/fields.js';
import {
  encodeVirtioHeader,
  encodeVirtioSegments,
  VIRTIO_BARRIER,
  VIRTIO_TYPES,
  type VirtioType,
  virtioStatusOf,
} from '../../../src/systems/virtio/codec.js';
import {
  hasVirtioFeature,
  VIRTIO_FEATURES,
  type VirtioFeature,
} from '../../../src/systems/virtio/features.js';
import type { VirtioChain } from '../../../src/systems/virtio/request.js';

export const SECTOR = 512;

/** What a request is made of; sectors are units of 512 bytes. */
export interface Asked {
  readonly type: VirtioType | number;
  readonly sector?: number | bigint;
  readonly barrier?: boolean;
  readonly data?: Uint8Array;
  readonly into?: Uint8Array;
  readonly endian?: Endian;
}

/** A chain in the legacy framing, and where its status is. */
export interface Framed extends VirtioChain {
  readonly status: Uint8Array;
}

export function chainOf({ type, sector = 0, barrier, data, into, endian }: Asked): Framed {
  const number = typeof type === 'number' ? type : VIRTIO_TYPES[type];
  const header = encodeVirtioHeader(
    { type: number + (barrier ? VIRTIO_BARRIER : 0), ioprio: 0, sector: BigInt(sector) },
    endian,
  );
  const status = Uint8Array.of(0xff);
  return {
    readable: data ? [header, data] : [header],
    writable: into ? [into, status] : [status],
    status,
  };
}

/** One segment of a discard or of zeroes: where, how many sectors, and the flags. */
export type Segment = readonly [sector: number | bigint, numSectors: number, flags?: number];

export function segments(...list: readonly Segment[]): Uint8Array {
  return encodeVirtioSegments(
    list.map(([sector, numSectors, flags = 0]) => ({ sector: BigInt(sector), numSectors, flags })),
  );
}

export function sectors(count: number, fill: number): Uint8Array {
  return new Uint8Array(count * SECTOR).fill(fill);
}

/** Hands in a request and answers with what its status says; `none` where the status byte is untouched. */
export async function ask(
  device: { submit(chain: VirtioChain): number | Promise<number> },
  asked: Asked,
): Promise<string> {
  const chain = chainOf(asked);
  await device.submit(chain);
  return statusOf(chain);
}

export function statusOf({ status }: Framed): string {
  return virtioStatusOf(status[0] as number) ?? 'none';
}

/** The names of the bits; bits that have no name are left out. */
export function virtioFeatureNames(bits: bigint): readonly VirtioFeature[] {
  const names = Object.keys(VIRTIO_FEATURES) as VirtioFeature[];
  return names.filter((name) => hasVirtioFeature(bits, name));
}
