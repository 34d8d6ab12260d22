// The device by hand: what it answers to what, in which order it works, and what becomes of requests when it goes.

import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  type Capabilities,
  IoScheduler,
  MemoryStorage,
  type SchedulerOptions,
  type Storage,
  type TraceEvent,
  withFaults,
} from 'write-barrier';
import { checkTrace, VolatileDisk } from 'write-barrier/testing';
import { VirtioBackend, type VirtioBackendOptions } from '../../../src/systems/virtio/backend.js';
import {
  decodeVirtioConfig,
  VIRTIO_STATUS,
  VIRTIO_WRITEBACK_AT,
} from '../../../src/systems/virtio/codec.js';
import {
  hasVirtioFeature,
  type VirtioFeature,
  virtioFeatureBits,
} from '../../../src/systems/virtio/features.js';
import type { VirtioChain } from '../../../src/systems/virtio/request.js';
import { share } from '../../kit/amount.js';
import { ManualStorage, settled } from '../../scheduler/world.js';
import {
  type Asked,
  ask,
  chainOf,
  SECTOR,
  sectors,
  segments,
  statusOf,
  virtioFeatureNames,
} from './support.js';

const DISK_SECTORS = 16;
const LIMITS: VirtioBackendOptions = {
  segMax: 4,
  sizeMax: 2048,
  discard: { sectorsMax: 4, segmentsMax: 2 },
  writeZeroes: { sectorsMax: 3, segmentsMax: 2 },
};

/** A device over memory in which each sector is filled with its number. */
function overMemory(
  options: VirtioBackendOptions = LIMITS,
  capabilities: Partial<Capabilities> = { cache: 'volatile' },
) {
  const memory = new MemoryStorage(DISK_SECTORS * SECTOR, { capabilities });
  for (let at = 0; at < memory.size; at += 1) memory.bytes[at] = Math.floor(at / SECTOR);
  const scheduler = new IoScheduler(memory);
  return { memory, scheduler, device: new VirtioBackend(scheduler, options) };
}

/** A device over a storage that answers when it is told to, with the features taken. */
function overManual(
  features: readonly VirtioFeature[],
  options: VirtioBackendOptions = {},
  scheduling: SchedulerOptions & { readonly device?: Partial<Capabilities> } = {},
) {
  const { device: capabilities = { blockSize: SECTOR }, ...rest } = scheduling;
  const storage = new ManualStorage({ blockSize: SECTOR, ...capabilities });
  const events: TraceEvent[] = [];
  const scheduler = new IoScheduler(storage, {
    mode: 'DRAIN_FUA',
    readsPassBarriers: false,
    observer: (event) => void events.push(event),
    ...rest,
  });
  const device = new VirtioBackend(scheduler, options);
  device.negotiate(virtioFeatureBits(...features));
  return { storage, scheduler, device, events };
}

/** Hands in a request and tells, at any time, what its status says. */
function hand(device: VirtioBackend, asked: Asked): { readonly status: string } {
  const chain = chainOf(asked);
  void device.submit(chain);
  return {
    get status() {
      return statusOf(chain);
    },
  };
}

/** Sectors of the manual device are blocks of the notation: `write(2)` is told as `w` of sector 2. */
const write = (sector: number, barrier = false): Asked => ({
  type: 'OUT',
  sector,
  barrier,
  data: sectors(1, 1),
});

/** The commands so far, as operation and sector. */
const commands = (events: readonly TraceEvent[]): string =>
  events
    .flatMap((event) => (event.kind === 'dispatch' ? [event.what] : []))
    .map(({ op, offset, fua }) =>
      op === 'flush' ? 'F' : `${op[0]}${offset / SECTOR}${fua ? '!' : ''}`,
    )
    .join(' ');

const set = (device: VirtioBackend, writeback: 0 | 1): void =>
  device.writeConfig(VIRTIO_WRITEBACK_AT, Uint8Array.of(writeback));

describe('a request that adds up', () => {
  test('reads, writes, flushes and is answered with the bytes that were written for it', async () => {
    const { device, memory } = overMemory();
    const into = sectors(2, 0xff);
    expect(await device.submit(chainOf({ type: 'IN', sector: 3, into }))).toBe(2 * SECTOR + 1);
    expect([into[0], into[SECTOR]]).toEqual([3, 4]);
    expect(await device.submit(chainOf({ type: 'OUT', sector: 5, data: sectors(1, 9) }))).toBe(1);
    expect(memory.bytes[5 * SECTOR]).toBe(9);
    expect(await ask(device, { type: 'FLUSH' })).toBe('OK');
    expect(await ask(device, { type: 'FLUSH_OUT' })).toBe('OK');
  });

  test('discards and zeroes several ranges at once, and only those', async () => {
    const { device, memory } = overMemory();
    expect(await ask(device, { type: 'DISCARD', data: segments([1, 2], [14, 2]) })).toBe('OK');
    expect(await ask(device, { type: 'WRITE_ZEROES', data: segments([4, 3], [8, 1, 1]) })).toBe(
      'OK',
    );
    const firsts = Array.from({ length: DISK_SECTORS }, (_, n) => memory.bytes[n * SECTOR]);
    const gone = MemoryStorage.DISCARDED;
    expect(firsts).toEqual([0, gone, gone, 3, 0, 0, 0, 7, 0, 9, 10, 11, 12, 13, gone, gone]);
  });

  test('gets the name of the device, filled up with zeroes', async () => {
    const { device } = overMemory({ id: 'disk-7' });
    const into = new Uint8Array(20).fill(0xff);
    expect(await device.submit(chainOf({ type: 'GET_ID', into }))).toBe(21);
    expect(Buffer.from(into).toString()).toBe(`disk-7${'\0'.repeat(14)}`);
  });

  test('of no bytes is done at once where it lies inside of the disk', async () => {
    const { device } = overMemory();
    expect(await ask(device, { type: 'OUT', sector: DISK_SECTORS })).toBe('OK');
    expect(await ask(device, { type: 'IN', sector: 0 })).toBe('OK');
    expect(await ask(device, { type: 'OUT', sector: DISK_SECTORS + 1 })).toBe('IOERR');
    expect(await ask(device, { type: 'WRITE_ZEROES', data: segments([3, 0]) })).toBe('OK');
  });

  test('of a legacy guest that is big-endian is understood, as is the configuration', async () => {
    const { device, memory } = overMemory({ legacyEndian: 'big' });
    const asked: Asked = { type: 'OUT', sector: 2, data: sectors(1, 7), endian: 'big' };
    expect(await ask(device, asked)).toBe('OK');
    expect(memory.bytes[2 * SECTOR]).toBe(7);
    expect(decodeVirtioConfig(device.readConfig(), 'big')?.capacity).toBe(BigInt(DISK_SECTORS));
    device.negotiate(virtioFeatureBits('VERSION_1'));
    expect(await ask(device, { ...asked, endian: 'little' })).toBe('OK');
    expect(decodeVirtioConfig(device.readConfig())?.capacity).toBe(BigInt(DISK_SECTORS));
  });
});

describe('the framing', () => {
  const cutsOf = (list: readonly Uint8Array[], places: readonly number[]): Uint8Array[] => {
    const bytes = new Uint8Array(Buffer.concat(list));
    const at = [0, ...[...places].map((place) => place % (bytes.length + 1)).sort((a, b) => a - b)];
    return at.map((start, index) => bytes.subarray(start, at[index + 1] ?? bytes.length));
  };
  const places = fc.array(fc.nat({ max: 5000 }), { maxLength: 12 });

  // Goal: the layout means nothing. Method: the same bytes, cut anywhere, sometimes into buffers that are neighbours in
  // memory and sometimes into copies that are not.
  test('given any cuts through header, data and status, nothing changes', async () => {
    const any: VirtioBackendOptions = { segMax: 100 };
    await fc.assert(
      fc.asyncProperty(
        fc.constantFrom<Asked>(
          { type: 'IN', sector: 3, into: sectors(3, 0xee) },
          { type: 'OUT', sector: 4, data: Uint8Array.from(sectors(3, 0), (_, at) => at * 7) },
          { type: 'FLUSH' },
          { type: 'GET_ID', into: new Uint8Array(20) },
          { type: 'DISCARD', data: segments([2, 2], [7, 1]) },
          { type: 'WRITE_ZEROES', data: segments([5, 1], [9, 2]) },
        ),
        places,
        places,
        fc.boolean(),
        async (asked, readableCuts, writableCuts, apart) => {
          const [whole, cut] = [overMemory(any), overMemory(any)];
          const plain = chainOf(asked);
          const copies = (list: Uint8Array[]): Uint8Array[] =>
            apart ? list.map((part) => Uint8Array.from(part)) : list;
          const chain: VirtioChain = {
            readable: copies(cutsOf(plain.readable, readableCuts)),
            writable: copies(cutsOf(plain.writable, writableCuts)),
          };
          expect(await cut.device.submit(chain)).toBe(await whole.device.submit(plain));
          const [got, expected] = [chain, plain].map(({ writable }) => Buffer.concat(writable));
          expect(got?.equals(expected as Buffer)).toBe(true);
          expect(Buffer.compare(cut.memory.bytes, whole.memory.bytes)).toBe(0);
        },
      ),
      { numRuns: share(500) },
    );
  });

  test('given buffers that are neighbours in memory, the data is neither gathered nor copied', async () => {
    const writes: Uint8Array[] = [];
    const reads: Uint8Array[] = [];
    const memory = new MemoryStorage(DISK_SECTORS * SECTOR);
    const watching: Storage = {
      size: memory.size,
      capabilities: {
        blockSize: SECTOR,
        cache: 'none',
        flush: true,
        fua: false,
        orderedTags: false,
      },
      flush: () => {},
      close: () => {},
      read: (offset: number, into: Uint8Array) => {
        reads.push(into);
        memory.read(offset, into);
      },
      write: (offset: number, data: Uint8Array, flags: { fua: boolean; tag: 'simple' }) => {
        writes.push(data);
        memory.write(offset, data, flags);
      },
    };
    const device = new VirtioBackend(new IoScheduler(watching));
    const guest = sectors(4, 1);
    const [first, second] = [guest.subarray(0, 700), guest.subarray(700, 2 * SECTOR)];
    const header = chainOf({ type: 'OUT' }).readable;
    await device.submit({ readable: [...header, first, second], writable: [new Uint8Array(1)] });
    await device.submit({
      readable: chainOf({ type: 'IN' }).readable,
      writable: [first, second, new Uint8Array(1)],
    });
    for (const seen of [writes[0], reads[0]]) {
      expect(seen?.buffer).toBe(guest.buffer);
      expect(seen?.length).toBe(2 * SECTOR);
    }
  });
});

test('given buffers of two memories that only seem to be neighbours, each gets its own data', async () => {
  const { device } = overMemory();
  const [one, other] = [sectors(2, 0xee), sectors(2, 0xee)];
  const writable = [one.subarray(0, 100), other.subarray(100, SECTOR), new Uint8Array(1)];
  await device.submit({ readable: chainOf({ type: 'IN', sector: 7 }).readable, writable });
  expect([one[99], one[100], other[99], other[100]]).toEqual([7, 0xee, 0xee, 7]);
});

describe('a request that does not add up', () => {
  const huge = 2n ** 64n - 1n;
  const cases: readonly (readonly [string, Asked, string])[] = [
    ['a read behind the end', { type: 'IN', sector: 16, into: sectors(1, 0) }, 'IOERR'],
    ['a read across the end', { type: 'IN', sector: 15, into: sectors(2, 0) }, 'IOERR'],
    [
      'the last sector that has a number',
      { type: 'IN', sector: huge, into: sectors(1, 0) },
      'IOERR',
    ],
    [
      'a sector whose bytes wrap around',
      { type: 'OUT', sector: 2n ** 55n, data: sectors(1, 0) },
      'IOERR',
    ],
    ['a write of half a sector', { type: 'OUT', data: new Uint8Array(256) }, 'IOERR'],
    ['a read of a sector and a byte', { type: 'IN', into: new Uint8Array(513) }, 'IOERR'],
    [
      'a read with data to write',
      { type: 'IN', data: sectors(1, 0), into: sectors(1, 0) },
      'IOERR',
    ],
    [
      'a write with data to read',
      { type: 'OUT', data: sectors(1, 0), into: sectors(1, 0) },
      'IOERR',
    ],
    ['a flush with data', { type: 'FLUSH', data: sectors(1, 0) }, 'IOERR'],
    ['a flush with room for data', { type: 'FLUSH', into: sectors(1, 0) }, 'IOERR'],
    ['a flush with a sector', { type: 'FLUSH', sector: 1 }, 'IOERR'],
    ['a name of another length', { type: 'GET_ID', into: new Uint8Array(19) }, 'IOERR'],
    ['a segment larger than allowed', { type: 'OUT', data: new Uint8Array(2560) }, 'IOERR'],
    ['a type that nobody knows', { type: 6 }, 'UNSUPP'],
    ['a SCSI command', { type: 2 }, 'UNSUPP'],
    ['a secure erase', { type: 14, data: segments([0, 1]) }, 'UNSUPP'],
    ['a lifetime', { type: 10, into: new Uint8Array(6) }, 'UNSUPP'],
    ['a zone report', { type: 16, into: sectors(1, 0) }, 'UNSUPP'],
    ['the barrier bit on what nobody knows', { type: 6, barrier: true }, 'UNSUPP'],
    ['a discard of nothing', { type: 'DISCARD' }, 'IOERR'],
    ['a discard of half a segment', { type: 'DISCARD', data: new Uint8Array(24) }, 'IOERR'],
    ['too many segments', { type: 'DISCARD', data: segments([0, 1], [1, 1], [2, 1]) }, 'IOERR'],
    ['a discard of too many sectors', { type: 'DISCARD', data: segments([0, 5]) }, 'IOERR'],
    ['zeroes of too many sectors', { type: 'WRITE_ZEROES', data: segments([0, 4]) }, 'IOERR'],
    ['a discard across the end', { type: 'DISCARD', data: segments([0, 1], [15, 2]) }, 'IOERR'],
    ['zeroes far outside', { type: 'WRITE_ZEROES', data: segments([huge, 1]) }, 'IOERR'],
    ['a discard that asks for zeroes', { type: 'DISCARD', data: segments([0, 1, 1]) }, 'UNSUPP'],
    ['an unknown flag', { type: 'WRITE_ZEROES', data: segments([0, 1], [1, 1, 2]) }, 'UNSUPP'],
  ];

  test.each(cases)('%s is refused, and nothing is touched', async (_, asked, status) => {
    const { device, memory, scheduler } = overMemory();
    device.negotiate(device.features);
    const before = Uint8Array.from(memory.bytes);
    const { into } = asked;
    into?.fill(0xee);
    const chain = chainOf(asked);
    const used = await device.submit(chain);
    expect(statusOf(chain)).toBe(status);
    expect(memory.bytes).toEqual(before);
    expect(scheduler.stats().submitted).toBe(0);
    // What nobody filled reads as zero, so that the status behind it may be told.
    expect(used).toBe((into?.length ?? 0) + 1);
    expect(into?.every((byte) => byte === 0) ?? true).toBe(true);
  });

  test('given a driver that has not taken SIZE_MAX, one buffer may be as large as the request', async () => {
    const { device } = overMemory({ segMax: 2, sizeMax: 1024 });
    const reading = (count: number): Asked => ({ type: 'IN', into: sectors(count, 0) });
    expect([await ask(device, reading(4)), await ask(device, reading(5))]).toEqual(['OK', 'IOERR']);
    const writing = (count: number): Asked => ({ type: 'OUT', data: sectors(count, 0) });
    expect([await ask(device, writing(4)), await ask(device, writing(5))]).toEqual(['OK', 'IOERR']);
    device.negotiate(virtioFeatureBits('SIZE_MAX', 'VERSION_1'));
    expect([await ask(device, reading(2)), await ask(device, reading(3))]).toEqual(['OK', 'IOERR']);
  });

  test('given more buffers of data than allowed, it is refused, however small they are', async () => {
    const { device } = overMemory();
    const pieces = (count: number): Uint8Array[] =>
      Array.from({ length: count }, () => new Uint8Array(SECTOR / count));
    for (const [count, expected] of [
      [4, VIRTIO_STATUS.OK],
      [8, VIRTIO_STATUS.IOERR],
    ] as const) {
      const { readable, writable } = chainOf({ type: 'OUT' });
      await device.submit({ readable: [...readable, ...pieces(count)], writable });
      expect(writable[0]?.[0]).toBe(expected);
      const reading = chainOf({ type: 'IN' });
      const status = new Uint8Array(1).fill(9);
      await device.submit({ readable: reading.readable, writable: [...pieces(count), status] });
      expect(status[0]).toBe(expected);
    }
  });

  test('given a header that is too short, it is refused', async () => {
    const { device } = overMemory();
    for (let length = 0; length < 16; length += 1) {
      const { readable, writable, status } = chainOf({ type: 'FLUSH' });
      const [header] = readable;
      await device.submit({ readable: [header?.subarray(0, length) as Uint8Array], writable });
      expect(status[0]).toBe(VIRTIO_STATUS.IOERR);
    }
  });

  test('given no byte for the status, nothing is done and nothing is used', async () => {
    const { device, memory } = overMemory();
    const before = Uint8Array.from(memory.bytes);
    const { readable } = chainOf({ type: 'OUT', data: sectors(1, 99) });
    expect(await device.submit({ readable, writable: [] })).toBe(0);
    expect(await device.submit({ readable, writable: [new Uint8Array(0)] })).toBe(0);
    expect(memory.bytes).toEqual(before);
  });

  test('given an answer beyond the limits, it is not filled, and not told as used', async () => {
    const { device } = overMemory();
    const into = sectors(17, 0xee);
    const chain = chainOf({ type: 'IN', into });
    expect(await device.submit(chain)).toBe(0);
    expect(statusOf(chain)).toBe('IOERR');
    expect(into[0]).toBe(0xee);
  });

  test('given what is no chain at all, the program is told', async () => {
    const { device } = overMemory();
    for (const wrong of [undefined, {}, { readable: [1], writable: [] }]) {
      await expect(device.submit(wrong as unknown as VirtioChain)).rejects.toMatchObject({
        code: 'INVALID_ARGUMENT',
      });
    }
    expect(device.inFlight).toBe(0);
  });

  test('given blocks of 4096 bytes, ranges that are not whole blocks are refused', async () => {
    const memory = new MemoryStorage(4 * 4096, { capabilities: { blockSize: 4096 } });
    const device = new VirtioBackend(new IoScheduler(memory));
    expect(decodeVirtioConfig(device.readConfig())?.blkSize).toBe(4096);
    expect(await ask(device, { type: 'OUT', sector: 8, data: sectors(8, 1) })).toBe('OK');
    expect(await ask(device, { type: 'OUT', sector: 1, data: sectors(8, 1) })).toBe('IOERR');
    expect(await ask(device, { type: 'OUT', sector: 8, data: sectors(4, 1) })).toBe('IOERR');
    expect(await ask(device, { type: 'WRITE_ZEROES', data: segments([8, 4]) })).toBe('IOERR');
  });
});

describe('a disk that is read-only', () => {
  test('says so, reads, flushes, and writes nothing', async () => {
    const { device, memory } = overMemory({ readOnly: true });
    expect(hasVirtioFeature(device.features, 'RO')).toBe(true);
    const before = Uint8Array.from(memory.bytes);
    expect(await ask(device, { type: 'IN', into: sectors(1, 0) })).toBe('OK');
    expect(await ask(device, { type: 'FLUSH' })).toBe('OK');
    expect(await ask(device, { type: 'OUT', data: sectors(1, 9) })).toBe('IOERR');
    expect(await ask(device, { type: 'OUT' })).toBe('IOERR');
    expect(await ask(device, { type: 'WRITE_ZEROES', data: segments([0, 1]) })).toBe('UNSUPP');
    expect(await ask(device, { type: 'DISCARD', data: segments([0, 1]) })).toBe('UNSUPP');
    expect(memory.bytes).toEqual(before);
  });
});

describe('the cache mode', () => {
  const WCE: VirtioFeature[] = ['FLUSH', 'CONFIG_WCE'];

  test('given write-back, a write is answered when the storage has taken it', async () => {
    const { device, storage, events } = overManual(WCE, { writeback: true });
    const first = hand(device, write(2));
    await storage.drain();
    expect([first.status, commands(events)]).toEqual(['OK', 'w2']);
  });

  test('given write-through, a write is forced, and without FUA it is flushed before the answer', async () => {
    const forced = overManual(WCE, { writeback: false });
    const first = hand(forced.device, write(2));
    await forced.storage.drain();
    expect([first.status, commands(forced.events)]).toEqual(['OK', 'w2!']);

    const flushed = overManual(
      WCE,
      { writeback: false },
      { device: { fua: false }, mode: 'DRAIN_FLUSH' },
    );
    const second = hand(flushed.device, write(2));
    await flushed.storage.answer();
    expect([second.status, commands(flushed.events)]).toEqual(['none', 'w2 F']);
    await flushed.storage.answer();
    expect(second.status).toBe('OK');
  });

  test('given write-through, zeroes are flushed before the answer', async () => {
    const { device, storage, events } = overManual(WCE, { writeback: false });
    const zeroes = hand(device, { type: 'WRITE_ZEROES', data: segments([1, 1]) });
    await storage.answer();
    expect(zeroes.status).toBe('none');
    await storage.drain();
    expect([zeroes.status, commands(events)]).toEqual(['OK', 'w1 F']);
  });

  test('case 64: given a change from 1 to 0, nothing is committed, and the next write is forced', async () => {
    const { device, storage, events } = overManual(WCE, { writeback: true });
    hand(device, write(2));
    await storage.drain();
    set(device, 0);
    await settled();
    expect(commands(events)).toBe('w2');
    hand(device, write(3));
    await storage.drain();
    expect(commands(events)).toBe('w2 w3!');
  });

  test('given a change during a write, the mode at its submission holds', async () => {
    const { device, storage, events } = overManual(WCE, { writeback: true });
    hand(device, write(2));
    set(device, 0);
    hand(device, write(3));
    set(device, 1);
    hand(device, write(4));
    await storage.drain();
    expect(commands(events)).toBe('w2 w3! w4');
  });

  test('given only FLUSH, it is write-back; given neither, whatever completes is durable', async () => {
    const cached = overManual(['FLUSH']);
    hand(cached.device, write(2));
    await cached.storage.drain();
    expect(commands(cached.events)).toBe('w2');

    const unaware = overManual([]);
    hand(unaware.device, write(2));
    await unaware.storage.drain();
    expect(commands(unaware.events)).toBe('w2!');

    const legacy = overManual([], { host: 'legacy' });
    hand(legacy.device, write(2));
    await legacy.storage.drain();
    expect(commands(legacy.events)).toBe('w2');
  });

  test('given CONFIG_WCE without FLUSH, it begins with write-through', () => {
    const { device } = overManual(['CONFIG_WCE'], { writeback: true });
    expect(device.readConfig()[VIRTIO_WRITEBACK_AT]).toBe(0);
    expect(overManual(WCE, { writeback: true }).device.readConfig()[VIRTIO_WRITEBACK_AT]).toBe(1);
  });

  test('only the byte can be written, only where it was negotiated, and anything but 0 is 1', () => {
    const { device } = overManual(WCE, { writeback: true });
    const before = device.readConfig();
    device.writeConfig(0, new Uint8Array(VIRTIO_WRITEBACK_AT).fill(0xee));
    device.writeConfig(VIRTIO_WRITEBACK_AT + 1, new Uint8Array(100).fill(0xee));
    device.writeConfig(-5, new Uint8Array(3));
    device.writeConfig(1e9, new Uint8Array(3));
    expect(device.readConfig()).toEqual(before);
    device.writeConfig(30, Uint8Array.of(7, 7, 0));
    expect(device.readConfig()[VIRTIO_WRITEBACK_AT]).toBe(0);
    device.writeConfig(VIRTIO_WRITEBACK_AT, Uint8Array.of(0x80));
    expect(device.readConfig()).toEqual(before);

    const unaware = overManual(['FLUSH'], { writeback: true }).device;
    set(unaware, 0);
    expect(unaware.readConfig()[VIRTIO_WRITEBACK_AT]).toBe(1);
  });

  test('given a volatile cache that cannot be flushed, FLUSH is not offered and writes still work', async () => {
    const memory = new MemoryStorage(DISK_SECTORS * SECTOR, {
      capabilities: { cache: 'volatile', flush: false, fua: false, orderedTags: false },
    });
    const device = new VirtioBackend(new IoScheduler(memory, { allowUnsafe: true }));
    expect(hasVirtioFeature(device.features, 'FLUSH')).toBe(false);
    expect(await ask(device, write(1))).toBe('OK');
    expect(await ask(device, { type: 'FLUSH' })).toBe('UNSUPP');
  });
});

describe('the barrier bit', () => {
  test('given writes before and behind it, they are on their own side, reads as well', async () => {
    const { device, storage, events } = overManual(['FLUSH']);
    hand(device, write(1));
    const barrier = hand(device, write(2, true));
    hand(device, write(3));
    hand(device, { type: 'IN', sector: 9, into: sectors(1, 0) });
    expect(commands(events)).toBe('w1');
    await storage.answer();
    expect(commands(events)).toBe('w1 F');
    await storage.answer();
    expect([commands(events), barrier.status]).toEqual(['w1 F w2!', 'none']);
    await storage.answer();
    expect([commands(events), barrier.status]).toEqual(['w1 F w2! w3 r9', 'OK']);
    await storage.drain();
    expect(checkTrace(events, { mode: 'DRAIN_FUA', readsPass: false })).toEqual([]);
  });

  test.each<[string, Asked]>([
    ['a read', { type: 'IN', sector: 9, into: sectors(1, 0), barrier: true }],
    ['an empty write', { type: 'OUT', barrier: true }],
    ['a flush', { type: 'FLUSH', barrier: true }],
    ['zeroes', { type: 'WRITE_ZEROES', data: segments([9, 1]), barrier: true }],
    ['a discard', { type: 'DISCARD', data: segments([9, 1]), barrier: true }],
  ])(
    'given it on %s, what came before completes first, and what comes later is not begun',
    async (_, asked) => {
      const { device, storage, events } = overManual(['FLUSH']);
      const before = hand(device, write(1));
      const barrier = hand(device, asked);
      hand(device, write(3));
      let late = false;
      for (let turn = 0; turn < 20; turn += 1) {
        late ||= commands(events).includes('w3');
        expect(late && barrier.status !== 'OK').toBe(false);
        if (before.status !== 'OK') expect(commands(events)).toBe('w1');
        await storage.answer();
      }
      expect([barrier.status, late]).toEqual(['OK', true]);
      expect(checkTrace(events, { mode: 'DRAIN_FUA', readsPass: false })).toEqual([]);
    },
  );

  test('given a scheduler that orders nothing, it is refused, and nothing is done', async () => {
    const capabilities = { cache: 'none' } as const;
    const memory = new MemoryStorage(sectors(DISK_SECTORS, 0xee), { capabilities });
    const device = new VirtioBackend(new IoScheduler(memory, { mode: 'NONE' }));
    expect(await ask(device, write(1, true))).toBe('UNSUPP');
    const zeroes: Asked = { type: 'WRITE_ZEROES', data: segments([0, 1]), barrier: true };
    expect(await ask(device, zeroes)).toBe('UNSUPP');
    expect(memory.bytes).toEqual(sectors(DISK_SECTORS, 0xee));
    expect(await ask(device, write(1))).toBe('OK');
  });

  test('given it on a write that waits when the scheduler stops to order, it is refused, too', async () => {
    const { device, storage, scheduler, events } = overManual(['FLUSH'], {}, { allowUnsafe: true });
    const first = hand(device, write(1, true));
    const second = hand(device, write(2, true));
    scheduler.setMode('NONE');
    await storage.drain();
    expect([first.status, second.status]).toEqual(['OK', 'UNSUPP']);
    expect(commands(events)).toBe('F w1!');
  });
});

describe('limits', () => {
  test('given more chains than the queue has places, the one too many is refused at once', async () => {
    const { device, storage } = overManual(['FLUSH'], { queueSize: 3 });
    const handed = [1, 2, 3, 4].map((sector) => hand(device, write(sector)));
    await settled();
    expect(handed.map(({ status }) => status)).toEqual(['none', 'none', 'none', 'IOERR']);
    expect(device.inFlight).toBe(3);
    await storage.drain();
    expect(handed.map(({ status }) => status)).toEqual(['OK', 'OK', 'OK', 'IOERR']);
    expect(device.inFlight).toBe(0);
  });

  test('given more data than may be in flight, requests wait in line and keep their order', async () => {
    const { device, storage, events } = overManual(['FLUSH'], { inFlightBytesMax: 2 * SECTOR });
    const large: Asked = { type: 'OUT', sector: 4, data: sectors(4, 1) };
    const handed = [write(1), write(2), large, { type: 'FLUSH' } as const, write(3)].map((asked) =>
      hand(device, asked),
    );
    expect(commands(events)).toBe('w1 w2');
    await storage.answer();
    // A single request may be larger than the limit; nobody goes past it.
    expect(commands(events)).toBe('w1 w2 w4');
    await storage.drain();
    expect(commands(events)).toBe('w1 w2 w4 F w3');
    expect(handed.every(({ status }) => status === 'OK')).toBe(true);
  });

  test.each<[string, VirtioBackendOptions]>([
    ['a queue without places', { queueSize: 0 }],
    ['too many queues', { numQueues: 65_536 }],
    ['segments that hold no block', { segMax: 1, sizeMax: 100 }],
    ['a limit that is no number', { inFlightBytesMax: Number.NaN }],
    ['a discard without segments', { discard: { sectorsMax: 1, segmentsMax: 0 } }],
    ['a long name', { id: 'x'.repeat(21) }],
    ['a host that is none', { host: 'old' as 'legacy' }],
    ['a name with an umlaut', { id: 'Öl' }],
    ['CONFIG_WCE without FLUSH', { features: ['CONFIG_WCE'] }],
    ['several queues with one', { features: ['MQ'] }],
    ['a read-only disk that does not say so', { readOnly: true, features: ['FLUSH'] }],
    ['RO for a disk that is not', { features: ['RO'] }],
  ])('given %s, the options are refused', (_, options) => {
    expect(() => overMemory(options)).toThrowError(
      expect.objectContaining({ code: 'INVALID_ARGUMENT' }),
    );
  });

  test('given what the scheduler cannot back, the feature is not offered, and refused where asked for', () => {
    const storage = new MemoryStorage(8192, {
      capabilities: {
        cache: 'volatile',
        flush: false,
        fua: false,
        orderedTags: false,
        discard: false,
      },
    });
    const scheduler = new IoScheduler(storage, { allowUnsafe: true });
    const names = virtioFeatureNames(new VirtioBackend(scheduler).features);
    expect(names).toEqual(['SIZE_MAX', 'SEG_MAX', 'BLK_SIZE', 'WRITE_ZEROES', 'VERSION_1']);
    for (const feature of ['FLUSH', 'DISCARD', 'BARRIER'] as const) {
      expect(() => new VirtioBackend(scheduler, { features: [feature] })).toThrowError(feature);
    }
    const odd = new IoScheduler(new MemoryStorage(520 * 2, { capabilities: { blockSize: 520 } }));
    expect(() => new VirtioBackend(odd)).toThrowError(/520/);
  });

  test('given small blocks, sectors that are not whole are left out', () => {
    const memory = new MemoryStorage(3 * SECTOR + 1, { capabilities: { blockSize: 1 } });
    const device = new VirtioBackend(new IoScheduler(memory));
    expect(decodeVirtioConfig(device.readConfig())).toMatchObject({ capacity: 3n, blkSize: 512 });
  });
});

describe('negotiation', () => {
  test('given a feature that was not offered, the device does not agree, and may be asked again', () => {
    const { device } = overMemory({ features: ['FLUSH', 'VERSION_1'] });
    expect(device.negotiate(virtioFeatureBits('FLUSH', 'MQ'))).toBe(false);
    expect(device.negotiate(virtioFeatureBits('FLUSH'))).toBe(true);
    expect(device.negotiate(virtioFeatureBits('VERSION_1'))).toBe(false);
  });

  test('given a reset, features and cache mode are as at the start', async () => {
    const { device } = overMemory({ writeback: true });
    const wce = virtioFeatureBits('FLUSH', 'CONFIG_WCE');
    device.negotiate(wce);
    set(device, 0);
    await device.reset();
    expect(device.readConfig()[VIRTIO_WRITEBACK_AT]).toBe(1);
    expect(device.negotiate(wce)).toBe(true);
  });
});

describe('failures', () => {
  const failing = (plan: Parameters<typeof withFaults>[1]) => {
    const memory = new MemoryStorage(DISK_SECTORS * SECTOR, {
      capabilities: { cache: 'volatile' },
    });
    const scheduler = new IoScheduler(withFaults(memory, plan));
    const device = new VirtioBackend(scheduler);
    device.negotiate(virtioFeatureBits('FLUSH'));
    return { device, scheduler };
  };

  test('given a read that fails, its buffer holds nothing of the disk, and it is told', async () => {
    const { device } = failing([{ on: 'read', nth: 0, fault: 'short' }]);
    const into = sectors(2, 0xee);
    const chain = chainOf({ type: 'IN', sector: 1, into });
    expect(await device.submit(chain)).toBe(2 * SECTOR + 1);
    expect(statusOf(chain)).toBe('IOERR');
    expect(into.every((byte) => byte === 0)).toBe(true);
  });

  test('given one of several ranges that fails, the request fails', async () => {
    const { device } = failing([{ on: 'discard', nth: 1, fault: 'fail' }]);
    expect(await ask(device, { type: 'DISCARD', data: segments([0, 1], [4, 1]) })).toBe('IOERR');
  });

  test('given a flush that fails, all fails but reads of other sectors, until the owner of the scheduler recovers', async () => {
    const { device, scheduler } = failing([{ on: 'flush', nth: 0, fault: 'fail' }]);
    expect(await ask(device, write(1))).toBe('OK');
    expect(await ask(device, { type: 'FLUSH' })).toBe('IOERR');
    expect(await ask(device, { type: 'FLUSH' })).toBe('IOERR');
    expect(await ask(device, write(2))).toBe('IOERR');
    const read = (sector: number): Asked => ({ type: 'IN', sector, into: sectors(1, 0) });
    expect(await ask(device, read(1))).toBe('IOERR');
    expect(await ask(device, read(0))).toBe('OK');
    await scheduler.recover();
    expect(await ask(device, read(1))).toBe('OK');
    expect(await ask(device, write(2))).toBe('OK');
  });

  test('given a scheduler that is closed, every request fails', async () => {
    const { device, scheduler } = failing([]);
    await scheduler.close();
    expect(await ask(device, write(1))).toBe('IOERR');
    expect(await ask(device, { type: 'FLUSH' })).toBe('IOERR');
    expect(await ask(device, { type: 'DISCARD', data: segments([0, 1]) })).toBe('IOERR');
  });

  test('given a memory that is taken away while a request waits, the device goes on', async () => {
    const { device, storage } = overManual(['FLUSH'], { inFlightBytesMax: SECTOR });
    const chains = [
      chainOf({ type: 'OUT', sector: 1, data: sectors(2, 1) }),
      chainOf({ type: 'OUT', sector: 4, data: sectors(2, 1) }),
      chainOf({ type: 'IN', sector: 4, into: sectors(1, 1) }),
      chainOf({ type: 'IN', sector: 6, into: sectors(1, 1) }),
      chainOf({ type: 'GET_ID', into: new Uint8Array(20) }),
    ];
    // Two buffers that are not neighbours, so that the read goes through one of its own.
    chains[3] = { ...(chains[3] as (typeof chains)[3]), status: new Uint8Array(1) };
    const split = [new Uint8Array(256), new Uint8Array(256), chains[3].status];
    const handed = [
      ...chains.slice(0, 3).map((chain) => device.submit(chain)),
      device.submit({ readable: chains[3].readable, writable: split }),
      device.submit(chains[4] as (typeof chains)[4]),
    ];
    const gone = [
      ...chains.flatMap(({ readable, writable }) => [...readable, ...writable]),
      ...split,
    ];
    const buffers = [...new Set(gone.map(({ buffer }) => buffer as ArrayBuffer))];
    structuredClone(null, { transfer: buffers });
    for (let turn = 0; turn < 8; turn += 1) await storage.drain();
    expect(await Promise.all(handed)).toEqual([0, 0, 0, 0, 0]);
    expect(device.inFlight).toBe(0);
    // What had not been issued when the memory went is not issued without it.
    expect(storage.issued.filter((text) => text.startsWith('w'))).toHaveLength(1);
  });
});

describe('the end', () => {
  test.each(['close', 'reset'] as const)(
    'given %s, requests in flight end as they would have, newer ones are refused, and then nothing is touched',
    async (how) => {
      const { device, storage } = overManual(['FLUSH'], { inFlightBytesMax: SECTOR });
      const [first, waiting] = [hand(device, write(1)), hand(device, write(2))];
      let ended = false;
      const end = device[how]().then(() => {
        ended = true;
      });
      const late = hand(device, write(3));
      await settled();
      expect([first.status, waiting.status, late.status, ended]).toEqual([
        'none',
        'none',
        'IOERR',
        false,
      ]);
      await storage.drain();
      await end;
      expect([first.status, waiting.status]).toEqual(['OK', 'OK']);
      const again = hand(device, write(4));
      await settled();
      await storage.drain();
      expect(again.status).toBe(how === 'close' ? 'IOERR' : 'OK');
    },
  );

  test('given close during a reset, it stays closed', async () => {
    const { device, storage } = overManual(['FLUSH']);
    hand(device, write(1));
    const ends = [device.reset(), device.close()];
    await storage.drain();
    await Promise.all(ends);
    expect(await ask(device, write(2))).toBe('IOERR');
    await device.reset();
    expect(await ask(device, write(2))).toBe('IOERR');
  });

  test('given a storage that never answers, whoever gives up on the scheduler frees the device, once', async () => {
    const { device, storage, scheduler } = overManual(['FLUSH']);
    const chain = chainOf(write(1));
    let answers = 0;
    const answered = device.submit(chain).then((used) => {
      answers += 1;
      return used;
    });
    const closed = device.close();
    await expect(scheduler.close({ timeoutMs: 1 })).rejects.toMatchObject({
      code: 'CLOSE_TIMEOUT',
    });
    await closed;
    expect(await answered).toBe(1);
    expect(statusOf(chain)).toBe('IOERR');
    chain.status[0] = 0x77;
    await storage.drain();
    expect([answers, chain.status[0], device.inFlight]).toEqual([1, 0x77, 0]);
  });
});

test('given many requests of every kind at once, the scheduler below keeps to its mode', async () => {
  const one = fc.oneof(
    fc.record({
      kind: fc.constant('OUT' as const),
      sector: fc.nat({ max: 15 }),
      barrier: fc.boolean(),
    }),
    fc.record({
      kind: fc.constant('IN' as const),
      sector: fc.nat({ max: 15 }),
      barrier: fc.boolean(),
    }),
    fc.record({
      kind: fc.constantFrom('FLUSH' as const, 'WRITE_ZEROES' as const, 'DISCARD' as const),
      sector: fc.nat({ max: 15 }),
      barrier: fc.boolean(),
    }),
  );
  await fc.assert(
    fc.asyncProperty(fc.array(one, { maxLength: 20 }), fc.nat(), async (list, seed) => {
      const events: TraceEvent[] = [];
      const disk = new VolatileDisk({ size: DISK_SECTORS * SECTOR, profile: 'scsi', seed });
      const scheduler = new IoScheduler(disk, {
        mode: 'DRAIN_FLUSH',
        observer: (event) => void events.push(event),
      });
      const device = new VirtioBackend(scheduler, { writeback: seed % 2 === 0 });
      device.negotiate(device.features);
      const statuses = await Promise.all(
        list.map(({ kind, sector, barrier }) => {
          const asked: Asked = { type: kind, barrier };
          if (kind === 'IN') return ask(device, { ...asked, sector, into: sectors(1, 0) });
          if (kind === 'OUT') return ask(device, { ...asked, sector, data: sectors(1, 5) });
          if (kind === 'FLUSH') return ask(device, asked);
          return ask(device, { ...asked, data: segments([sector, 1]) });
        }),
      );
      expect(statuses.every((status) => status === 'OK')).toBe(true);
      expect(checkTrace(events, 'DRAIN_FLUSH')).toEqual([]);
    }),
    { numRuns: share(300) },
  );
});
