// Goal: a write on the calling thread says and does what one by the thread pool does, and does not hold the program
// up for long. Method: the functions of node:fs are counted, made slow, or made to fail one by one. On a busy machine
// any write may be a slow one, so only the first of a storage is certain to be tried inline.

import * as fs from 'node:fs';
import { join } from 'node:path';
import { expect, onTestFinished, test, vi } from 'vitest';
import { WriteBarrierError, type WriteFlags } from 'write-barrier';
import { type FileCalls, FileStorage } from 'write-barrier/node';
import { errorThrown } from '../storage/contract.js';
import { temporaryDirectory } from './support.js';

const PLAIN: WriteFlags = { fua: false, tag: 'simple' };
const FORCED: WriteFlags = { fua: true, tag: 'simple' };
const BLOCK = 512;
const SIZE = 16 * BLOCK;
const MAX = 2 * BLOCK;
const filled = (value: number, blocks = 1): Uint8Array =>
  new Uint8Array(blocks * BLOCK).fill(value);

interface World {
  readonly storage: FileStorage;
  /** Who made the writes since it was last asked. */
  who(): string[];
  /** What the file holds, a number for each block, or undefined where its bytes differ. */
  blocks(): (number | undefined)[];
}

async function world(
  inlineWriteMax: number | undefined,
  calls: Partial<FileCalls> = {},
): Promise<World> {
  let said: string[] = [];
  const heard = <T extends (...parameters: never[]) => unknown>(name: string, call: T): T =>
    ((...parameters: Parameters<T>) => {
      said.push(name);
      return call(...parameters);
    }) as T;
  const path = join(temporaryDirectory(), 'disk.img');
  const storage = await FileStorage.open(path, {
    size: SIZE,
    ...(inlineWriteMax !== undefined && { inlineWriteMax }),
    fs: {
      write: heard('pool', calls.write ?? fs.write),
      writev: heard('pool list', calls.writev ?? fs.writev),
      writeSync: heard('inline', calls.writeSync ?? fs.writeSync),
      writevSync: heard('inline list', calls.writevSync ?? fs.writevSync),
    },
  });
  onTestFinished(() => storage.close());
  const who = (): string[] => {
    const now = said;
    said = [];
    return now;
  };
  const blocks = (): (number | undefined)[] => {
    const bytes = fs.readFileSync(path);
    return Array.from({ length: SIZE / BLOCK }, (_, i) => {
      const block = bytes.subarray(i * BLOCK, (i + 1) * BLOCK);
      return block.every((byte) => byte === block[0]) ? block[0] : undefined;
    });
  };
  return { storage, who, blocks };
}

/** A call that takes `ms` before it does what it is for. */
function slow<T extends (...parameters: never[]) => unknown>(ms: () => number, call: T): T {
  return ((...parameters: Parameters<T>) => {
    const end = performance.now() + ms();
    while (performance.now() < end);
    return call(...parameters);
  }) as T;
}

test('there is none unless it is asked for', async () => {
  const { storage, who } = await world(undefined);
  await storage.write(0, filled(1), PLAIN);
  await storage.writev(0, [filled(1), filled(2)], PLAIN);
  expect(who()).toEqual(['pool', 'pool list']);
});

test('it is made before the call returns, up to the length that is given', async () => {
  const one = await world(MAX);
  const writing = one.storage.write(BLOCK, filled(1, 2), PLAIN);
  expect(one.blocks().slice(0, 4)).toEqual([0, 1, 1, 0]);
  await writing;
  expect(one.who()).toEqual(['inline']);
  const list = await world(MAX);
  const writingList = list.storage.writev(BLOCK, [filled(2), filled(3)], PLAIN);
  expect(list.blocks().slice(0, 4)).toEqual([0, 2, 3, 0]);
  await writingList;
  expect(list.who()).toEqual(['inline list']);
});

test('longer ones are left to the pool', async () => {
  const { storage, who, blocks } = await world(MAX);
  await storage.write(0, filled(4, 3), PLAIN);
  await storage.writev(4 * BLOCK, [filled(5), filled(6, 2)], PLAIN);
  expect(who()).toEqual(['pool', 'pool list']);
  expect(blocks().slice(0, 8)).toEqual([4, 4, 4, 0, 5, 6, 6, 0]);
});

test('FUA waits for the medium, and so is never one', async () => {
  const { storage, who } = await world(MAX);
  if (!storage.capabilities.fua) return;
  await storage.write(0, filled(1), FORCED);
  await storage.writev(0, [filled(1), filled(2)], FORCED);
  expect(who()).toEqual(['pool', 'pool list']);
});

test('what is refused is not tried', async () => {
  const { storage, who } = await world(MAX);
  const refused = await errorThrown(() => storage.write(SIZE, filled(1), PLAIN));
  expect(refused).toMatchObject({ code: 'OUT_OF_RANGE' });
  await storage.close();
  const late = await errorThrown(() => storage.write(0, filled(1), PLAIN));
  expect(late).toMatchObject({ code: 'CLOSED' });
  expect(who()).toEqual([]);
});

test('file-storage.F5: one that the system takes in part is made again as a whole', async () => {
  const one = await world(MAX, {
    writeSync: (fd, buffer, offset, length, position) =>
      fs.writeSync(fd, buffer, offset, length - BLOCK, position),
  });
  await one.storage.write(0, filled(1, 2), PLAIN);
  expect(one.who()).toEqual(['inline', 'pool']);
  expect(one.blocks().slice(0, 3)).toEqual([1, 1, 0]);
  const list = await world(MAX, {
    writevSync: (fd, buffers, position) => fs.writevSync(fd, buffers.slice(0, 1), position),
  });
  await list.storage.writev(0, [filled(2), filled(3)], PLAIN);
  expect(list.who()).toEqual(['inline list', 'pool list']);
  expect(list.blocks().slice(0, 3)).toEqual([2, 3, 0]);
});

test('file-storage.F5: one that fails is made again, and what the system says then is told', async () => {
  const full = Object.assign(new Error('ENOSPC: as the test wants it'), { code: 'ENOSPC' });
  const failing = (): never => {
    throw full;
  };
  const mended = await world(MAX, { writeSync: failing });
  await mended.storage.write(0, filled(1), PLAIN);
  expect(mended.blocks()[0]).toBe(1);
  const { storage, who } = await world(MAX, {
    writeSync: failing,
    write: (_fd, _buffer, _offset, _length, _position, done) => done(full, 0),
  });
  const error = await errorThrown(() => storage.write(0, filled(1), PLAIN));
  expect(error).toMatchObject({ code: 'IO_FAILED' });
  expect(WriteBarrierError.is(error) && error.cause).toBe(full);
  expect(who()).toEqual(['inline', 'pool']);
});

/** Who makes the writes for 250 ms, after `slowMs` in a row were held up; then it waits until one is made inline again. */
async function whoAfter(slowMs: readonly number[]): Promise<readonly Set<string>[]> {
  let takesMs = 0;
  const { storage, who } = await world(MAX, { writeSync: slow(() => takesMs, fs.writeSync) });
  const start = performance.now();
  for (const ms of slowMs) {
    takesMs = ms;
    await storage.write(0, filled(1), PLAIN);
  }
  takesMs = 0;
  const first = new Set(who());
  while (performance.now() - start < 250) {
    await storage.write(0, filled(2), PLAIN);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  const then = new Set(who());
  await vi.waitUntil(
    async () => {
      await storage.write(0, filled(3), PLAIN);
      return who()[0] === 'inline';
    },
    { timeout: 20_000, interval: 10 },
  );
  return [first, then];
}

const INLINE = new Set(['inline']);
const POOL = new Set(['pool']);

test('after two slow ones in a row the pool makes the writes, for ten times as long as the last took', async () => {
  expect(await whoAfter([2, 30])).toEqual([INLINE, POOL]);
});

test('after one that stalled the pool makes the writes, for ten times as long as it took', async () => {
  expect(await whoAfter([60])).toEqual([INLINE, POOL]);
});

// The writes that follow it may be held up by other programs, so only the first is certain to be quick here.
test('after a single slow one the next is made inline, because it was another program that ran', async () => {
  let takesMs = 2;
  const { storage, who } = await world(MAX, { writeSync: slow(() => takesMs, fs.writeSync) });
  await storage.write(0, filled(1), PLAIN);
  takesMs = 0;
  await storage.write(0, filled(2), PLAIN);
  expect(who()).toEqual(['inline', 'inline']);
});
