// Goal: no request, however malformed, makes the device throw, hang, or touch what it must not. Method: good requests,
// mutated (lengths, header bytes, cuts, missing status, huge sectors), on small disks of several kinds. After each one a
// reading of its own says which bytes of the disk and of the guest's memory may have changed and what an OK must mean.
//
// One byte value, the canary, is in no request and on no disk: where the used length says that something was written,
// no canary may be left.

import { describe, expect, test } from 'vitest';
import { IoScheduler, MemoryStorage } from 'write-barrier';
import { seededRandom } from 'write-barrier/testing';
import { VirtioBackend, type VirtioBackendOptions } from '../../../src/systems/virtio/backend.js';
import {
  encodeVirtioHeader,
  encodeVirtioSegments,
  VIRTIO_BARRIER,
  VIRTIO_TYPES,
  VIRTIO_WRITEBACK_AT,
} from '../../../src/systems/virtio/codec.js';
import { share } from '../../kit/amount.js';
import { SECTOR } from './support.js';

const DISK = 16 * SECTOR;
const MEMORY = 12 * 1024;
const WRITABLE_AT = 5000;
const CANARY = 0xa5;
const SEEDS = 14;
const REQUESTS = 10_000;
/** The quick run tries one request in five. */
const TRIED = share(REQUESTS);

const LIMITS: VirtioBackendOptions = {
  segMax: 6,
  sizeMax: 2048,
  queueSize: 16,
  inFlightBytesMax: 4096,
  discard: { sectorsMax: 4, segmentsMax: 3 },
  writeZeroes: { sectorsMax: 4, segmentsMax: 3 },
};

/** Which device, by the number of the seed. */
const DEVICES: readonly { readonly options: VirtioBackendOptions; readonly blockSize: number }[] = [
  { options: LIMITS, blockSize: 512 },
  { options: { ...LIMITS, writeback: false }, blockSize: 512 },
  { options: { ...LIMITS, readOnly: true }, blockSize: 512 },
  { options: { ...LIMITS, segMax: 200, sizeMax: 65_536 }, blockSize: 1024 },
];

type Range = readonly [start: number, end: number];

/** A request in the guest's memory: two lists of ranges of it. */
interface Layout {
  readonly readable: readonly Range[];
  readonly writable: readonly Range[];
  /** Nothing was mutated. */
  readonly good: boolean;
}

class Guest {
  readonly memory = new Uint8Array(MEMORY);
  readonly #random: () => number;

  constructor(random: () => number) {
    this.#random = random;
    for (let at = 0; at < MEMORY; at += 1) this.memory[at] = this.#byte();
  }

  below(limit: number): number {
    return Math.floor(this.#random() * limit);
  }

  one<T>(list: readonly T[]): T {
    return list[this.below(list.length)] as T;
  }

  #byte(): number {
    const byte = this.below(256);
    return byte === CANARY ? 0 : byte;
  }

  #put(at: number, bytes: Uint8Array): void {
    this.memory.set(
      bytes.map((byte) => (byte === CANARY ? 0 : byte)),
      at,
    );
  }

  /** A request that is good in all but the limits of the device, and then mutated so many times. */
  request(mutations = this.one([0, 1, 1, 2, 3])): Layout {
    const { type, sector, readable, writable } = this.#plan();
    const barrier = this.below(8) === 0 ? VIRTIO_BARRIER : 0;
    const header = encodeVirtioHeader({ type: type + barrier, ioprio: 0, sector: BigInt(sector) });
    this.#put(0, header);
    this.#put(16, readable);
    for (let change = 0; change < mutations; change += 1) this.#mutateBytes(readable.length);
    let layout: Layout = {
      readable: this.#cut([0, 16 + readable.length]),
      writable: this.#cut([WRITABLE_AT, WRITABLE_AT + writable + 1]),
      good: mutations === 0,
    };
    for (let change = 0; change < mutations; change += 1) layout = this.#mutateLayout(layout);
    return layout;
  }

  #plan(): { type: number; sector: number; readable: Uint8Array; writable: number } {
    const nothing = new Uint8Array(0);
    const sector = this.below(16);
    const count = 1 + this.below(Math.min(4, 16 - sector));
    switch (this.below(6)) {
      case 0:
        return { type: VIRTIO_TYPES.IN, sector, readable: nothing, writable: count * SECTOR };
      case 1:
      case 2: {
        const readable = new Uint8Array(count * SECTOR).map(() => this.#byte());
        return { type: VIRTIO_TYPES.OUT, sector, readable, writable: 0 };
      }
      case 3:
        return { type: this.one([4, 5]), sector: 0, readable: nothing, writable: 0 };
      case 4:
        return { type: VIRTIO_TYPES.GET_ID, sector: 0, readable: nothing, writable: 20 };
      default: {
        const type = this.one([VIRTIO_TYPES.DISCARD, VIRTIO_TYPES.WRITE_ZEROES]);
        const list = Array.from({ length: 1 + this.below(3) }, () => ({
          sector: BigInt(this.below(14)),
          numSectors: 1 + this.below(2),
          flags: 0,
        }));
        return { type, sector: 0, readable: encodeVirtioSegments(list), writable: 0 };
      }
    }
  }

  /** Into up to four pieces, some of them empty. */
  #cut([start, end]: Range): Range[] {
    const cuts = Array.from({ length: this.below(4) }, () => start + this.below(end - start + 1));
    const places = [start, ...cuts.sort((a, b) => a - b), end];
    return places.slice(1).map((place, index) => [places[index] as number, place]);
  }

  #mutateBytes(data: number): void {
    const number = encodeVirtioHeader({
      type: this.one([16, 17, 2 ** 32 - 1]),
      ioprio: this.one([0, 0, 2 ** 31]),
      sector: 0n,
    });
    switch (this.below(5)) {
      case 0:
        this.memory[this.below(16 + Math.min(data, 48))] = this.#byte();
        return;
      case 1:
        this.memory[this.below(4)] = this.one([0, 1, 2, 0x80, 0xff]);
        return;
      case 2:
        // A sector that is huge, or just behind the end.
        this.#put(8, number.subarray(0, 8));
        return;
      case 3:
        // A number in a segment.
        if (data > 0) this.memory[16 + this.below(data)] = this.one([0, 1, 15, 16, 0xff]);
        return;
    }
  }

  #mutateLayout(layout: Layout): Layout {
    const side = this.one(['readable', 'writable'] as const);
    const list = [...layout[side]];
    const which = this.below(Math.max(list.length, 1));
    const [start, end] = list[which] ?? [0, 0];
    switch (this.below(8)) {
      case 0:
        list.splice(which, 1);
        break;
      case 1:
        list[which] = [start, Math.max(start, end - this.one([1, 2, 16, 512]))];
        break;
      case 2:
        list[which] = [start, Math.min(MEMORY, end + this.one([1, 16, 512, 2048]))];
        break;
      case 3:
        list.splice(which, 0, [0, this.one([0, 1, 16, 512])]);
        break;
      case 4:
        list.length = 0;
        break;
      case 5:
        list.push([start, end]);
        break;
      case 6:
        list.reverse();
        break;
    }
    return { ...layout, [side]: list };
  }

  views(list: readonly Range[]): Uint8Array[] {
    return list.map(([start, end]) => this.memory.subarray(start, end));
  }

  /** The bytes of the ranges, one behind the other, as they are now. */
  bytes(list: readonly Range[]): Buffer {
    return Buffer.concat(this.views(list));
  }
}

/** The bytes of the disk that a request may change, read from its bytes and by nobody's code but this. */
function changeable(readable: Buffer): Range[] {
  if (readable.length < 16) return [];
  const type = readable.readUInt32LE(0) & 0x7fff_ffff;
  const sector = Number(readable.readBigUInt64LE(8));
  const data = readable.subarray(16);
  if (type === VIRTIO_TYPES.OUT) return [[sector * SECTOR, sector * SECTOR + data.length]];
  if (type !== VIRTIO_TYPES.DISCARD && type !== VIRTIO_TYPES.WRITE_ZEROES) return [];
  return Array.from({ length: Math.floor(data.length / 16) }, (_, index): Range => {
    const first = Number(data.readBigUInt64LE(index * 16)) * SECTOR;
    return [first, first + data.readUInt32LE(index * 16 + 8) * SECTOR];
  });
}

/** The same bytes with these ranges taken from others. */
function overlaid(bytes: Uint8Array, ranges: readonly Range[], from: Uint8Array): Uint8Array {
  const copy = Uint8Array.from(bytes);
  for (const [start, end] of ranges) {
    if (start < copy.length) copy.set(from.subarray(start, end), start);
  }
  return copy;
}

const same = (a: Uint8Array, b: Uint8Array): boolean => Buffer.compare(a, b) === 0;

function machine(seed: number) {
  const { options, blockSize } = DEVICES[seed % DEVICES.length] as (typeof DEVICES)[0];
  const capabilities = { blockSize, cache: 'volatile', fua: seed % 3 === 0 } as const;
  const memory = new MemoryStorage(DISK, { capabilities });
  const scheduler = new IoScheduler(memory);
  const device = new VirtioBackend(scheduler, options);
  // Some drivers know nothing.
  device.negotiate(seed % 5 === 0 ? 0n : device.features);
  const atRest = (): void => {
    expect(device.inFlight).toBe(0);
    expect(scheduler.stats()).toMatchObject({ inFlight: 0, queued: 0 });
    expect(scheduler.state).toBe('running');
  };
  return { memory, device, atRest };
}

/** Hands in one request after the other and checks each; tells `count` the status of each, and whether it was good. */
async function fuzzOneByOne(
  seed: number,
  count: (status: number | undefined, good: boolean) => void,
): Promise<void> {
  const { memory, device, atRest } = machine(seed);
  const guest = new Guest(seededRandom(seed));
  for (let request = 0; request < TRIED; request += 1) {
    if (request % 50 === 0) {
      device.writeConfig(VIRTIO_WRITEBACK_AT, Uint8Array.of(guest.below(2)));
    }
    const { readable, writable, good } = guest.request();
    const views = { readable: guest.views(readable), writable: guest.views(writable) };
    const asked = guest.bytes(readable);
    if (good) for (const view of views.writable) view.fill(CANARY);
    const guestBefore = Uint8Array.from(guest.memory);
    const diskBefore = Uint8Array.from(memory.bytes);

    const used = await device.submit(views);

    const must = (holds: boolean, otherwise: string): void => {
      if (holds) return;
      const where = `seed ${seed}, request ${request}, ${JSON.stringify({ readable, writable })}`;
      throw new Error(`${otherwise}: ${where}, header ${asked.subarray(0, 16).toString('hex')}`);
    };
    const answered = guest.bytes(writable);
    const status = answered.at(-1);
    count(status, good);
    must(status === undefined || status <= 2, `status ${status}`);
    must(used >= 0 && used <= answered.length, `${used} of ${answered.length} bytes are used`);
    must(!good || !answered.subarray(0, used).includes(CANARY), 'used, and not written');
    must(
      same(overlaid(guestBefore, writable, guest.memory), guest.memory),
      'the guest was written to where it is not writable',
    );
    const named = changeable(asked);
    // The storage below never fails, so what is refused has done nothing.
    const allowed = status === 0 ? named : [];
    must(
      same(overlaid(diskBefore, allowed, memory.bytes), memory.bytes),
      'the disk was changed where the request does not say',
    );
    if (status === 0 && !meet(writable)) checkDone(asked, named, answered, memory.bytes, must);
  }
  atRest();
}

/** What an OK must mean. */
function checkDone(
  asked: Buffer,
  named: readonly Range[],
  answered: Buffer,
  disk: Uint8Array,
  must: (holds: boolean, otherwise: string) => void,
): void {
  const type = asked.readUInt32LE(0) & 0x7fff_ffff;
  for (const [start, end] of named) must(start <= DISK && end <= DISK, 'done outside of the disk');
  if (type === VIRTIO_TYPES.OUT) {
    const [start, end] = named[0] as Range;
    must(same(disk.subarray(start, end), asked.subarray(16)), 'written, and it is not there');
  }
  if (type === VIRTIO_TYPES.IN) {
    const start = Number(asked.readBigUInt64LE(8)) * SECTOR;
    const data = answered.subarray(0, -1);
    must(same(disk.subarray(start, start + data.length), data), 'read, and it is not that');
  }
  if (type === VIRTIO_TYPES.WRITE_ZEROES) {
    const zero = named.every(([start, end]) =>
      disk.subarray(start, end).every((byte) => byte === 0),
    );
    must(zero, 'zeroed, and it is not zero');
  }
}

/** Whether two of the ranges share a byte: then what is in them is the guest's own fault. */
function meet(list: readonly Range[]): boolean {
  const sorted = list.filter(([start, end]) => end > start).sort(([a], [b]) => a - b);
  return sorted.some(([start], index) => start < (sorted[index - 1]?.[1] ?? 0));
}

describe('mutated requests', () => {
  test(`given ${SEEDS * TRIED} requests one by one, most of them mutated, none does harm, and each gets a status`, async () => {
    const counts = new Map<number | undefined, number>();
    let mutated = 0;
    for (let seed = 0; seed < SEEDS; seed += 1) {
      await fuzzOneByOne(seed, (status, good) => {
        counts.set(status, (counts.get(status) ?? 0) + 1);
        if (!good) mutated += 1;
      });
    }
    expect(mutated).toBeGreaterThan((SEEDS * TRIED * 5) / 7);
    // Every kind of answer was seen often, so the mutations are neither too wild nor too tame.
    for (const status of [0, 1, 2, undefined])
      expect(counts.get(status)).toBeGreaterThan((SEEDS * TRIED) / 70);
  });

  test('given many at once, more than the queue holds, each is answered and nothing is left', async () => {
    for (const [seed] of DEVICES.entries()) {
      const { memory, device, atRest } = machine(seed);
      const random = seededRandom(seed);
      const guests = Array.from({ length: 20 }, () => new Guest(random));
      for (let round = 0; round < share(250, 25); round += 1) {
        const diskBefore = Uint8Array.from(memory.bytes);
        const handed = guests.map((guest) => {
          const { readable, writable } = guest.request();
          const named = changeable(guest.bytes(readable));
          const views = { readable: guest.views(readable), writable: guest.views(writable) };
          return { named, status: () => guest.bytes(writable).at(-1), used: device.submit(views) };
        });
        await Promise.all(handed.map(({ used }) => used));
        for (const { status } of handed) expect(status() ?? 0).toBeLessThanOrEqual(2);
        const named = handed.flatMap((one) => (one.status() === 0 ? one.named : []));
        expect(same(overlaid(diskBefore, named, memory.bytes), memory.bytes)).toBe(true);
        expect(device.inFlight).toBe(0);
      }
      atRest();
    }
  });
});

test('given good requests and wide limits, each is done', async () => {
  const device = new VirtioBackend(new IoScheduler(new MemoryStorage(DISK)), { segMax: 200 });
  const guest = new Guest(seededRandom(1));
  for (let request = 0; request < 2000; request += 1) {
    const { readable, writable } = guest.request(0);
    await device.submit({ readable: guest.views(readable), writable: guest.views(writable) });
    expect(guest.bytes(writable).at(-1)).toBe(0);
  }
});
