// The driver's side: the storage contract through the whole stack, what a driver sends, and devices that are hostile.

import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { IoScheduler, MemoryStorage } from 'write-barrier';
import {
  DEVICE_PROFILES,
  type DeviceProfile,
  type Opened,
  storageContract,
  VolatileDisk,
} from 'write-barrier/testing';
import { VirtioBackend, type VirtioBackendOptions } from '../../../src/systems/virtio/backend.js';
import {
  decodeVirtioConfig,
  decodeVirtioHeader,
  decodeVirtioSegments,
  encodeVirtioConfig,
  VIRTIO_BARRIER,
  VIRTIO_STATUS,
  VIRTIO_TYPES,
  type VirtioConfig,
} from '../../../src/systems/virtio/codec.js';
import { type VirtioFeature, virtioFeatureBits } from '../../../src/systems/virtio/features.js';
import type { VirtioChain, VirtioTransport } from '../../../src/systems/virtio/request.js';
import {
  type VirtioStorage,
  type VirtioStorageOptions,
  virtioStorage,
} from '../../../src/systems/virtio/storage.js';
import { share } from '../../kit/amount.js';
import { SECTOR } from './support.js';

const SIZE = 24 * 4096;
const PLAIN = { fua: false, tag: 'simple' } as const;

interface Stack {
  readonly driver?: VirtioStorageOptions;
  readonly device?: VirtioBackendOptions;
  readonly disk?: Partial<DeviceProfile>;
}

/** Driver, device, scheduler and a disk with a volatile cache. */
async function stackOf({ driver, device, disk: profile }: Stack, initial?: Uint8Array, seed = 0) {
  const disk = new VolatileDisk({
    size: SIZE,
    seed,
    profile: { ...DEVICE_PROFILES['scsi-tags'], ...profile },
    ...(initial && { initial }),
  });
  const backend = new VirtioBackend(new IoScheduler(disk), device);
  return { disk, backend, storage: await virtioStorage(backend, driver) };
}

// The contract

const LEGACY: VirtioFeature[] = ['BARRIER', 'SEG_MAX', 'SIZE_MAX', 'BLK_SIZE'];
const STACKS: Readonly<Record<string, Stack>> = {
  'in write-back': {},
  'in write-back over a disk without FUA': { disk: { fua: false, orderedTags: false } },
  'in write-through': { driver: { writeback: false } },
  'in write-through over a disk without FUA': {
    driver: { writeback: false },
    disk: { fua: false, orderedTags: false },
  },
  'whose driver cannot flush': { driver: { decline: ['FLUSH', 'CONFIG_WCE'] } },
  'that orders by the barrier bit': { driver: { era: 'afterPatch' }, device: { features: LEGACY } },
  'of a legacy guest that is big-endian': {
    driver: { era: 'beforePatch', legacyEndian: 'big' },
    device: { features: ['FLUSH'], legacyEndian: 'big' },
  },
  'with segments smaller than a block': { device: { segMax: 3, sizeMax: 200 } },
  'with one segment, and short ranges': {
    device: {
      segMax: 1,
      sizeMax: 1024,
      discard: { sectorsMax: 3, segmentsMax: 1 },
      writeZeroes: { sectorsMax: 1, segmentsMax: 1 },
    },
  },
  'with a queue of two places': { driver: { queueSize: 2 }, device: { queueSize: 2 } },
  'with blocks of 4096 bytes': {
    disk: { atomicWriteUnit: 4096 },
    device: { writeZeroes: { sectorsMax: 9, segmentsMax: 1 } },
  },
  'that believes what Linux does today': { driver: { era: 'linuxToday' } },
};

for (const [name, stack] of Object.entries(STACKS)) {
  const { capabilities } = (await stackOf(stack)).storage;
  let seed = 0;
  storageContract(
    { describe, test },
    {
      name: `A virtio disk ${name}`,
      capabilities,
      runs: 10,
      open: async (): Promise<Opened> => {
        let now = await stackOf(stack, undefined, seed++);
        return {
          storage: now.storage,
          // The host loses its power: what is not on the medium is gone.
          reopen: async () => {
            now = await stackOf(stack, now.disk.powerCut(), seed++);
            return now.storage;
          },
        };
      },
    },
  );
}

// Opening

describe('opening', () => {
  test('takes what the era wants of what is offered, and states what it believes', async () => {
    const { storage } = await stackOf({});
    expect(storage.ordering.mode).toBe('DRAIN_FLUSH');
    expect(storage.capabilities).toEqual({
      blockSize: 512,
      cache: 'volatile',
      flush: true,
      fua: false,
      orderedTags: false,
      writev: true,
      discard: true,
      writeZeroes: true,
    });
    expect(storage.features & virtioFeatureBits('BARRIER')).toBe(0n);
    expect(storage.size).toBe(SIZE);
    await expect(storage.identify()).resolves.toBe('write-barrier');
  });

  test('sets the cache mode where it may, and believes the byte', async () => {
    const through = await stackOf({ driver: { writeback: false } });
    expect(through.storage.capabilities).toMatchObject({ cache: 'none', flush: true });
    expect(through.storage.ordering.mode).toBe('DRAIN');
    const kept = await stackOf({ driver: { writeback: false, decline: ['CONFIG_WCE'] } });
    expect(kept.storage.capabilities.cache).toBe('volatile');
  });

  test('given an id of 20 characters, it is told whole', async () => {
    const { storage } = await stackOf({ device: { id: '01234567890123456789' } });
    await expect(storage.identify()).resolves.toBe('01234567890123456789');
  });

  test('given a device that does not offer FLUSH, a scheduler above refuses it unless told otherwise', async () => {
    const { storage } = await stackOf({ device: { features: ['BARRIER'] } });
    expect(() => new IoScheduler(storage)).toThrowError(
      expect.objectContaining({ code: 'UNSAFE_MODE' }),
    );
  });

  test('given a queue without places, or an era that is none, the option is refused', async () => {
    for (const driver of [{ queueSize: 0 }, { era: 'toString' as 'linuxToday' }]) {
      await expect(stackOf({ driver })).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
    }
  });
});

// What is sent

/** A device that writes down what it is asked and answers OK. */
function recorder(features: readonly VirtioFeature[], config: Partial<VirtioConfig> = {}) {
  const asked: { type: number; sector: bigint; readable: number[]; writable: number[] }[] = [];
  const segments: string[] = [];
  let running = 0;
  let most = 0;
  const transport: VirtioTransport = {
    features: virtioFeatureBits(...features),
    reset: () => {},
    negotiate: () => true,
    readConfig: () => encodeVirtioConfig({ ...CONFIG, ...config }),
    writeConfig: () => {},
    submit: async ({ readable, writable }) => {
      running += 1;
      most = Math.max(most, running);
      const header = decodeVirtioHeader(readable[0] as Uint8Array);
      asked.push({
        type: header?.type ?? -1,
        sector: header?.sector ?? -1n,
        readable: readable.slice(1).map(({ length }) => length),
        writable: writable.map(({ length }) => length),
      });
      const { type } = asked.at(-1) as (typeof asked)[0];
      if (type === VIRTIO_TYPES.DISCARD || type === VIRTIO_TYPES.WRITE_ZEROES) {
        const list = decodeVirtioSegments(readable[1] as Uint8Array) ?? [];
        segments.push(list.map(({ sector, numSectors }) => `${sector}+${numSectors}`).join(' '));
      }
      await null;
      running -= 1;
      (writable.at(-1) as Uint8Array)[0] = VIRTIO_STATUS.OK;
      return writable.reduce((sum, { length }) => sum + length, 0);
    },
  };
  return { transport, asked, segments, most: () => most };
}

const CONFIG: VirtioConfig = {
  capacity: 64n,
  sizeMax: 1024,
  segMax: 2,
  blkSize: 512,
  writeback: 1,
  numQueues: 1,
  maxDiscardSectors: 4,
  maxDiscardSeg: 1,
  discardSectorAlignment: 1,
  maxWriteZeroesSectors: 8,
  maxWriteZeroesSeg: 1,
  writeZeroesMayUnmap: 0,
};

describe('what is sent', () => {
  test('has the legacy framing, and is cut at what the device allows', async () => {
    const { transport, asked } = recorder(['SIZE_MAX', 'SEG_MAX', 'FLUSH', 'VERSION_1']);
    const storage = await virtioStorage(transport);
    await storage.write(SECTOR, new Uint8Array(5 * SECTOR), PLAIN);
    await storage.read(0, new Uint8Array(5 * SECTOR));
    await storage.flush({ tag: 'simple' });
    expect(asked).toEqual([
      { type: VIRTIO_TYPES.OUT, sector: 1n, readable: [1024, 1024], writable: [1] },
      { type: VIRTIO_TYPES.OUT, sector: 5n, readable: [512], writable: [1] },
      { type: VIRTIO_TYPES.IN, sector: 0n, readable: [], writable: [1024, 1024, 1] },
      { type: VIRTIO_TYPES.IN, sector: 4n, readable: [], writable: [512, 1] },
      { type: VIRTIO_TYPES.FLUSH, sector: 0n, readable: [], writable: [1] },
    ]);
  });

  test('given a device that names no limits, one segment of a moderate size is sent', async () => {
    const { transport, asked } = recorder(['FLUSH']);
    const storage = await virtioStorage(transport);
    const list = [new Uint8Array(100), new Uint8Array(412), new Uint8Array(10 * SECTOR)];
    await storage.writev?.(0, list, PLAIN);
    expect(asked.map(({ readable }) => readable)).toEqual([[11 * SECTOR]]);
  });

  test.each<[readonly VirtioFeature[]]>([[[]], [['FLUSH']], [['SEG_MAX']], [['SIZE_MAX']]])(
    'given our own device that offers no more than %j, and its limits untold, a transfer beyond them is sent in parts',
    async (features) => {
      const memory = new MemoryStorage(32 << 20, { capabilities: { cache: 'none' } });
      const device = new VirtioBackend(new IoScheduler(memory), { features });
      const storage = await virtioStorage(device);
      const data = new Uint8Array(16 << 20).fill(7);
      await storage.write(1 << 20, data, PLAIN);
      const into = new Uint8Array(data.length);
      await storage.read(1 << 20, into);
      expect(Buffer.compare(into, data)).toBe(0);
      expect(Buffer.compare(memory.bytes.subarray(1 << 20, 17 << 20), data)).toBe(0);
    },
  );

  test('given discards and zeroes, each is cut into segments of whole blocks', async () => {
    const { transport, segments } = recorder(['DISCARD', 'WRITE_ZEROES', 'BLK_SIZE'], {
      blkSize: 1024,
      maxDiscardSectors: 5,
    });
    const storage = await virtioStorage(transport);
    await storage.discard?.(1024, 10 * SECTOR);
    await storage.writeZeroes?.(0, 4 * SECTOR);
    expect(segments).toEqual(['2+4', '6+4', '10+2', '0+4']);
  });

  test('given an ordered tag, the barrier bit is set on every part', async () => {
    const { transport, asked } = recorder(['BARRIER', 'SIZE_MAX', 'SEG_MAX']);
    const storage = await virtioStorage(transport, { era: 'beforePatch' });
    await storage.write(0, new Uint8Array(5 * SECTOR), { fua: false, tag: 'ordered' });
    await storage.write(0, new Uint8Array(SECTOR), PLAIN);
    const barrier = VIRTIO_TYPES.OUT + VIRTIO_BARRIER;
    expect(asked.map(({ type }) => type)).toEqual([barrier, barrier, VIRTIO_TYPES.OUT]);
  });

  test('given FUA, a scheduler above makes a write and a flush of it', async () => {
    const { transport, asked } = recorder(['FLUSH', 'VERSION_1']);
    const disk = new IoScheduler(await virtioStorage(transport));
    await disk.write(0, new Uint8Array(SECTOR), { fua: true });
    expect(asked.map(({ type }) => type)).toEqual([VIRTIO_TYPES.OUT, VIRTIO_TYPES.FLUSH]);
    const storage = await virtioStorage(transport);
    await expect(
      storage.write(0, new Uint8Array(SECTOR), { fua: true, tag: 'simple' }),
    ).rejects.toMatchObject({ code: 'EOPNOTSUPP' });
    await expect(
      storage.write(0, new Uint8Array(SECTOR), { fua: false, tag: 'ordered' }),
    ).rejects.toMatchObject({ code: 'EOPNOTSUPP' });
  });

  test('given a read-only disk, a write is refused before it is sent', async () => {
    const { transport, asked } = recorder(['RO', 'DISCARD']);
    const storage = await virtioStorage(transport);
    const refused = { code: 'READ_ONLY' };
    await expect(storage.write(0, new Uint8Array(SECTOR), PLAIN)).rejects.toMatchObject(refused);
    await expect(storage.discard?.(0, SECTOR)).rejects.toMatchObject(refused);
    expect(asked).toEqual([]);
  });

  test('given more requests than places, no more are at the device, and all are sent in order', async () => {
    const { transport, asked, most } = recorder(['FLUSH']);
    const storage = await virtioStorage(transport, { queueSize: 3 });
    const data = new Uint8Array(SECTOR);
    const list = Array.from({ length: 10 }, (_, sector) => sector);
    await Promise.all(list.map((sector) => storage.write(sector * SECTOR, data, PLAIN)));
    expect(most()).toBe(3);
    expect(asked.map(({ sector }) => Number(sector))).toEqual(list);
  });

  test('given any list of buffers and any limits, the device gets the same bytes, in whole blocks', async () => {
    const lengths = fc.array(fc.nat({ max: 700 }), { maxLength: 8 });
    await fc.assert(
      fc.asyncProperty(
        lengths,
        fc.integer({ min: 1, max: 6 }),
        fc.integer({ min: 100, max: 2000 }),
        async (sizes, segMax, sizeMax) => {
          fc.pre(segMax * sizeMax >= SECTOR);
          const memory = new MemoryStorage(16 * SECTOR);
          const device = new VirtioBackend(new IoScheduler(memory), { segMax, sizeMax });
          const storage = await virtioStorage(device);
          const used = sizes.reduce((sum, length) => sum + length, 0);
          const all = [...sizes, (SECTOR - (used % SECTOR)) % SECTOR];
          const list = all.map((length, index) => new Uint8Array(length).fill(index + 1));
          await storage.writev?.(SECTOR, list, PLAIN);
          const written = Buffer.concat(list);
          expect(
            Buffer.compare(memory.bytes.subarray(SECTOR, SECTOR + written.length), written),
          ).toBe(0);
          const into = new Uint8Array(written.length);
          await storage.read(SECTOR, into);
          expect(Buffer.compare(into, written)).toBe(0);
        },
      ),
    );
  });
});

// Hostile devices

describe('a hostile device', () => {
  const good = (): Promise<VirtioStorage> =>
    virtioStorage(recorder(['FLUSH', 'VERSION_1']).transport);
  const answering = async (
    submit: (chain: VirtioChain) => number | Promise<number>,
    features: VirtioFeature[] = ['FLUSH', 'VERSION_1'],
  ): Promise<VirtioStorage> => virtioStorage({ ...recorder(features).transport, submit });
  const told = ({ writable }: VirtioChain, byte: number, used: number): number => {
    (writable.at(-1) as Uint8Array)[0] = byte;
    return used;
  };

  test.each<[string, string, (chain: VirtioChain) => number | Promise<number>]>([
    ['says nothing', 'IO_FAILED', () => SECTOR + 1],
    ['gives a status of zones', 'IO_FAILED', (chain) => told(chain, 3, SECTOR + 1)],
    ['fails', 'IO_FAILED', (chain) => told(chain, 1, SECTOR + 1)],
    ['does not support a read', 'EOPNOTSUPP', (chain) => told(chain, 2, SECTOR + 1)],
    ['has written less', 'SHORT_TRANSFER', (chain) => told(chain, 0, SECTOR)],
    ['has written nothing', 'SHORT_TRANSFER', (chain) => told(chain, 0, 0)],
    ['has written more than there is', 'SHORT_TRANSFER', (chain) => told(chain, 0, 1e9)],
    ['has written less than nothing', 'SHORT_TRANSFER', (chain) => told(chain, 0, -1)],
    ['has no number', 'SHORT_TRANSFER', (chain) => told(chain, 0, Number.NaN)],
    ['breaks down', 'CLOSED', () => Promise.reject(Object.assign(new Error(), { code: 'CLOSED' }))],
  ])('that %s makes a read fail with %s', async (_, code, submit) => {
    const storage = await answering(submit);
    await expect(storage.read(0, new Uint8Array(SECTOR))).rejects.toMatchObject({ code });
  });

  test('given the legacy interface, a used length means nothing', async () => {
    const storage = await answering((chain) => told(chain, 0, 77), ['FLUSH']);
    await expect(storage.read(0, new Uint8Array(SECTOR))).resolves.toBeUndefined();
  });

  test('given one part that fails, the transfer fails when all parts have ended', async () => {
    const held: (() => void)[] = [];
    const { transport } = recorder(['SIZE_MAX', 'SEG_MAX', 'VERSION_1']);
    const storage = await virtioStorage({
      ...transport,
      submit: (chain) => {
        const used = told(chain, held.length === 0 ? 1 : 0, 1);
        return new Promise((resolve) => held.push(() => resolve(used)));
      },
    });
    let ended = 'no';
    const data = new Uint8Array(8 * SECTOR);
    const write = Promise.resolve(storage.write(0, data, PLAIN)).catch((error) => {
      ended = error.code;
    });
    held[0]?.();
    await new Promise((resolve) => setImmediate(resolve));
    expect([held.length, ended]).toEqual([2, 'no']);
    held[1]?.();
    await write;
    expect(ended).toBe('IO_FAILED');
  });

  test.each<[string, Partial<VirtioConfig>, VirtioFeature[]]>([
    ['more sectors than a number can count', { capacity: 2n ** 64n - 1n }, []],
    ['blocks of no bytes', { blkSize: 0 }, ['BLK_SIZE']],
    ['blocks of 520 bytes', { blkSize: 520 }, ['BLK_SIZE']],
    ['segments of no bytes', { sizeMax: 0 }, ['SIZE_MAX']],
    ['segments that hold no block together', { sizeMax: 100, segMax: 5 }, ['SIZE_MAX', 'SEG_MAX']],
  ])('that has %s is refused', async (_, config, features) => {
    await expect(virtioStorage(recorder(features, config).transport)).rejects.toMatchObject({
      code: 'INVALID_STORAGE',
    });
  });

  test('that has no configuration is refused, and so is one that does not agree', async () => {
    const { transport } = recorder(['FLUSH']);
    const mute = { ...transport, readConfig: () => new Uint8Array(7) };
    await expect(virtioStorage(mute)).rejects.toMatchObject({ code: 'INVALID_STORAGE' });
    const stubborn = { ...transport, negotiate: () => false };
    await expect(virtioStorage(stubborn)).rejects.toMatchObject({ code: 'EOPNOTSUPP' });
  });

  test('given limits that mean nothing where their feature was not taken, they are not looked at', async () => {
    const nonsense = { blkSize: 1, sizeMax: 0, segMax: 0, maxDiscardSectors: 0 };
    const { transport } = recorder(['DISCARD'], nonsense);
    const { capabilities } = await virtioStorage(transport);
    expect(capabilities).toMatchObject({ blockSize: 512, discard: false });
    const { transport: taken } = recorder(['SEG_MAX'], { segMax: 0 });
    await expect(virtioStorage(taken)).resolves.toMatchObject({ size: 64 * SECTOR });
  });

  test('given a capacity that is no whole number of blocks, the rest is left out', async () => {
    const { transport } = recorder(['BLK_SIZE'], { capacity: 17n, blkSize: 4096 });
    expect((await virtioStorage(transport)).size).toBe(2 * 4096);
  });

  test('given a close, nothing more is sent', async () => {
    const storage = await good();
    storage.close();
    const closed = { code: 'CLOSED' };
    await expect(storage.read(0, new Uint8Array(SECTOR))).rejects.toMatchObject(closed);
    await expect(storage.flush({ tag: 'simple' })).rejects.toMatchObject(closed);
    await expect(storage.identify()).rejects.toMatchObject(closed);
  });

  test('given any configuration at all, opening ends well or with a reason, and the result is consistent', async () => {
    const features = fc.subarray<VirtioFeature>([
      'SIZE_MAX',
      'SEG_MAX',
      'BLK_SIZE',
      'FLUSH',
      'CONFIG_WCE',
      'DISCARD',
      'WRITE_ZEROES',
      'VERSION_1',
    ]);
    await fc.assert(
      fc.asyncProperty(fc.uint8Array({ maxLength: 70 }), features, async (space, offers) => {
        const transport = { ...recorder(offers).transport, readConfig: () => space };
        const storage = await virtioStorage(transport).catch((error) => {
          expect(error.code).toBe('INVALID_STORAGE');
        });
        if (!storage) return;
        expect(Number.isSafeInteger(storage.size)).toBe(true);
        expect(storage.size % storage.capabilities.blockSize).toBe(0);
        new IoScheduler(storage, { allowUnsafe: true });
        const config = decodeVirtioConfig(space);
        expect(storage.size).toBeLessThanOrEqual(Number(config?.capacity) * SECTOR);
      }),
      { numRuns: share(500) },
    );
  });
});

test('given more commands than places, when two end together and another one comes a moment later, then they go in the order of their coming', async () => {
  for (let moment = 0; moment < 8; moment++) {
    const backend = new VirtioBackend(new IoScheduler(new MemoryStorage(SIZE)));
    const sent: number[] = [];
    const held: (() => void)[] = [];
    const transport: VirtioTransport = {
      features: backend.features,
      negotiate: (bits) => backend.negotiate(bits),
      readConfig: () => backend.readConfig(),
      writeConfig: (offset, bytes) => backend.writeConfig(offset, bytes),
      reset: () => backend.reset(),
      submit: async (chain) => {
        sent.push(Number(decodeVirtioHeader(chain.readable[0] as Uint8Array, 'little')?.sector));
        const used = await backend.submit(chain);
        await new Promise<void>((resolve) => held.push(resolve));
        return used;
      },
    };
    const storage = await virtioStorage(transport, { queueSize: 2 });
    const write = (sector: number) => storage.write(sector * 512, new Uint8Array(512), PLAIN);
    const all = [write(0), write(1), write(2)];
    await new Promise((resolve) => setTimeout(resolve, 1));
    for (const answer of held.splice(0)) answer();
    for (let turn = 0; turn < moment; turn++) await undefined;
    all.push(write(3));
    const done = Promise.all(all);
    const answering = setInterval(() => {
      for (const answer of held.splice(0)) answer();
    }, 1);
    await done;
    clearInterval(answering);
    expect(sent).toEqual([0, 1, 2, 3]);
  }
});
