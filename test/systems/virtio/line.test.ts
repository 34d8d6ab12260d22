// Commands that a device cuts into more requests than a program could ever hold: they are made one by one, as there are
// places for them, and everything else goes on.

import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { IoScheduler } from 'write-barrier';
import {
  encodeVirtioConfig,
  VIRTIO_BARRIER,
  VIRTIO_STATUS,
  VIRTIO_TYPES,
  type VirtioConfig,
} from '../../../src/systems/virtio/codec.js';
import { type VirtioFeature, virtioFeatureBits } from '../../../src/systems/virtio/features.js';
import { RequestLine } from '../../../src/systems/virtio/line.js';
import type { VirtioChain, VirtioTransport } from '../../../src/systems/virtio/request.js';
import { virtioStorage } from '../../../src/systems/virtio/storage.js';
import { share } from '../../kit/amount.js';
import { SECTOR } from './support.js';

const PIB = 2 ** 50;
const PLAIN = { fua: false, tag: 'simple' } as const;
const ORDERED = { fua: false, tag: 'ordered' } as const;
const CLOSED = { code: 'CLOSED' };
const timer = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, 1));

/** A disk of 8 PiB whose ranges are one sector at the most, and whose answers come as `answer` likes. */
function tiny(
  answer: (used: number) => number | Promise<number>,
  config: Partial<VirtioConfig> = {},
  extra: readonly VirtioFeature[] = [],
) {
  const types: number[] = [];
  let running = 0;
  let most = 0;
  const transport: VirtioTransport = {
    features: virtioFeatureBits(
      ...(['SIZE_MAX', 'SEG_MAX', 'DISCARD', 'WRITE_ZEROES', 'VERSION_1', ...extra] as const),
    ),
    reset: () => {},
    negotiate: () => true,
    readConfig: () =>
      encodeVirtioConfig({
        capacity: BigInt((8 * PIB) / SECTOR) - 1n,
        sizeMax: SECTOR,
        segMax: 1,
        blkSize: SECTOR,
        writeback: 1,
        numQueues: 1,
        maxDiscardSectors: 1,
        maxDiscardSeg: 1,
        discardSectorAlignment: 1,
        maxWriteZeroesSectors: 1,
        maxWriteZeroesSeg: 1,
        writeZeroesMayUnmap: 0,
        ...config,
      }),
    writeConfig: () => {},
    submit: ({ readable, writable }: VirtioChain) => {
      types.push(new DataView((readable[0] as Uint8Array).buffer).getUint32(0, true));
      running += 1;
      most = Math.max(most, running);
      (writable.at(-1) as Uint8Array)[0] = VIRTIO_STATUS.OK;
      const used = answer(writable.reduce((sum, { length }) => sum + length, 0));
      if (typeof used === 'number') running -= 1;
      else void used.finally(() => (running -= 1)).catch(() => {});
      return used;
    },
  };
  return { transport, types, most: () => most };
}

const ANSWERS: Readonly<Record<string, (used: number) => number | Promise<number>>> = {
  'at once': (used) => used,
  'in a microtask': (used) => Promise.resolve(used),
  'in a turn of its own': (used) => new Promise((resolve) => setImmediate(() => resolve(used))),
};
const RANGES = ['discard', 'writeZeroes'] as const;

describe.each(Object.entries(ANSWERS))('a device that answers %s', (_, answer) => {
  test.each(RANGES)(
    'and takes one sector of a %s at a time: one of 4 PiB is under way, others are served, and a close ends it',
    async (kind) => {
      const { transport, types, most } = tiny(answer);
      const storage = await virtioStorage(transport, { queueSize: 4 });
      const long = Promise.resolve(storage[kind]?.(0, 4 * PIB));
      long.catch(() => {});
      await timer();
      await storage.read(5 * PIB, new Uint8Array(SECTOR));
      await storage.write(5 * PIB, new Uint8Array(SECTOR), PLAIN);
      await timer();
      expect(types.filter((type) => type === VIRTIO_TYPES.IN)).toHaveLength(1);
      expect(types.length).toBeGreaterThan(4);
      expect(most()).toBeLessThanOrEqual(4);
      storage.close();
      await expect(long).rejects.toMatchObject(CLOSED);
      const sent = types.length;
      await timer();
      expect(types).toHaveLength(sent);
    },
  );

  test.each(RANGES)('and takes one sector of a %s at a time: all of it is done', async (kind) => {
    const { transport, types } = tiny(answer);
    const storage = await virtioStorage(transport, { queueSize: 4 });
    await storage[kind]?.(SECTOR, 3000 * SECTOR);
    expect(types).toHaveLength(3000);
  });
});

test('given a scheduler over such a device, a read of other bytes is served while 4 PiB are discarded', async () => {
  const { transport } = tiny(ANSWERS['in a microtask'] as (used: number) => Promise<number>);
  const storage = await virtioStorage(transport);
  const disk = new IoScheduler(storage, { allowUnsafe: true });
  const long = disk.discard(0, 4 * PIB);
  await disk.read(5 * PIB, SECTOR);
  storage.close();
  await expect(long).rejects.toMatchObject({ code: 'IO_FAILED' });
});

test('given a request that fails, nothing more is sent of its command', async () => {
  const { transport, types } = tiny(() => Promise.reject(new Error('gone')));
  const storage = await virtioStorage(transport, { queueSize: 4 });
  await expect(storage.discard?.(0, 4 * PIB)).rejects.toThrow('gone');
  expect(types).toHaveLength(4);
});

test('given segments of one byte, no more than 65,536 views of one transfer are at the device', async () => {
  let views = 0;
  let most = 0;
  const { transport } = tiny((used) => used, { sizeMax: 1, segMax: 4096 });
  const submit = async (chain: VirtioChain): Promise<number> => {
    views += chain.readable.length - 1;
    most = Math.max(most, views);
    await timer();
    views -= chain.readable.length - 1;
    return transport.submit(chain);
  };
  const storage = await virtioStorage({ ...transport, submit });
  await storage.write(0, new Uint8Array(64 * 4096), PLAIN);
  expect(most).toBe(65_536);
});

test('given a buffer that is transferred under way, the transfer fails and is not told as done', async () => {
  const { transport, types } = tiny(ANSWERS['in a turn of its own'] as (used: number) => number);
  const storage = await virtioStorage(transport, { queueSize: 1 });
  const data = new Uint8Array(8 * SECTOR);
  const write = storage.write(0, data, PLAIN);
  structuredClone(data.buffer, { transfer: [data.buffer] });
  await expect(write).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
  expect(types.length).toBeLessThan(4);
});

test('given tags, an ordered write is sent behind all of a long one, and what is younger behind the write', async () => {
  const { transport, types } = tiny((used) => Promise.resolve(used), {}, ['BARRIER']);
  const storage = await virtioStorage(transport, { era: 'beforePatch', queueSize: 2 });
  const data = new Uint8Array(3 * SECTOR);
  await Promise.all([
    storage.write(0, new Uint8Array(40 * SECTOR), PLAIN),
    storage.write(PIB, data, ORDERED),
    storage.read(2 * PIB, new Uint8Array(SECTOR)),
  ]);
  const { OUT, IN } = VIRTIO_TYPES;
  const times = (count: number, type: number): number[] => new Array(count).fill(type);
  expect(types).toEqual([...times(40, OUT), ...times(3, OUT + VIRTIO_BARRIER), IN]);
});

// line.L1 to line.L3 for any commands, and any order of answers.

interface Command {
  readonly length: number;
  readonly ordered: boolean;
  readonly outMax: number;
}

const commands = fc.array(
  fc.record({
    length: fc.nat({ max: 6 }),
    ordered: fc.boolean(),
    outMax: fc.integer({ min: 1, max: 3 }),
  }),
  { maxLength: 7 },
);

async function play(list: readonly Command[], places: number, order: (of: number) => number) {
  const sent: number[] = [];
  const held: { readonly command: number; readonly answer: () => void }[] = [];
  const line = new RequestLine<number>(
    (command) =>
      new Promise((answer) => {
        sent.push(command);
        held.push({ command, answer });
      }),
    places,
  );
  const ended: number[] = [];
  for (const [n, { length, ordered, outMax }] of list.entries()) {
    const requests = Array.from({ length }, () => n).values();
    void line.add({ requests, ordered, outMax }).then(() => ended.push(n));
  }
  while (held.length > 0) {
    expect(held.length).toBeLessThanOrEqual(places);
    for (const [n, { outMax }] of list.entries()) {
      expect(held.filter(({ command }) => command === n).length).toBeLessThanOrEqual(outMax);
    }
    held.splice(order(held.length), 1)[0]?.answer();
    for (let turn = 0; turn < 4; turn += 1) await undefined;
  }
  return { sent, ended };
}

test('given any commands and any order of answers, each is sent whole, and nothing passes an ordered one', async () => {
  await fc.assert(
    fc.asyncProperty(
      commands,
      fc.integer({ min: 1, max: 4 }),
      fc.infiniteStream(fc.nat({ max: 99 })),
      async (list, places, stream) => {
        const order = (of: number): number => (stream.next().value as number) % of;
        const { sent, ended } = await play(list, places, order);
        for (const [n, { length, ordered }] of list.entries()) {
          expect(sent.filter((command) => command === n)).toHaveLength(length);
          if (!ordered || length === 0) continue;
          expect(sent.slice(0, sent.indexOf(n)).every((command) => command < n)).toBe(true);
          expect(sent.slice(sent.lastIndexOf(n) + 1).every((command) => command > n)).toBe(true);
        }
        expect([...ended].sort((a, b) => a - b)).toEqual(list.map((_, n) => n));
      },
    ),
    { numRuns: share(500) },
  );
});

test('given two long commands, they take turns', async () => {
  const plain = { length: 4, ordered: false, outMax: 9 };
  const { sent } = await play([plain, plain], 1, () => 0);
  expect(sent.slice(0, 5)).toContain(1);
});
