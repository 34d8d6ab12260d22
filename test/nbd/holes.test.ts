// Holes over NBD, our client on our server: what a storage knows of its bytes is what the client tells, holes are neither read nor
// sent, and what is on the wire is what was asked for. Other programs are in test/interop.

import { Buffer } from 'node:buffer';
import { connect } from 'node:net';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, onTestFinished, test } from 'vitest';
import { type Extent, MemoryStorage, type Storage } from '../../src/index.js';
import { NbdServer, NbdStorage } from '../../src/nbd/index.js';
import { COMMAND, COMMAND_FLAG } from '../../src/nbd/wire/index.js';
import { share } from '../kit/amount.js';
import { ALL, MemoryServer } from './client-server.js';
import {
  FLAGS,
  go,
  RawClient,
  type Reply,
  STRUCTURED,
  setContexts,
  temporaryFolder,
} from './support.js';

const KIB = 1024;
const MIB = 1024 * KIB;
const BLOCK = 512;
const HOLE = { hole: true, zero: true };
const DATA = { hole: false, zero: false };
const PLAIN = { fua: false, tag: 'simple' } as const;

let folder: Awaited<ReturnType<typeof temporaryFolder>>;
let path = '';
beforeEach(async () => {
  folder = await temporaryFolder();
  path = join(folder.path, 'socket');
});
afterEach(() => folder.remove());

async function serving(storage: Storage): Promise<void> {
  const server = new NbdServer({ exports: { '': storage } });
  await server.listen({ path });
  onTestFinished(() => server.close());
}

async function connected(): Promise<NbdStorage> {
  const storage = await NbdStorage.connect({ path });
  onTestFinished(() => storage.close());
  return storage;
}

/** Ones with holes, which knows its holes, and remembers what was read. */
function holey(size: number, holes: readonly (readonly [start: number, end: number])[]) {
  const medium = new MemoryStorage(size);
  medium.bytes.fill(1);
  for (const [start, end] of holes) medium.bytes.fill(0, start, end);
  const reads: string[] = [];
  const isHole = (at: number): boolean => holes.some(([start, end]) => at >= start && at < end);
  return Object.assign(medium, {
    reads,
    read: (offset: number, into: Uint8Array) => {
      reads.push(`${offset / KIB}+${into.length / KIB}`);
      into.set(medium.bytes.subarray(offset, offset + into.length));
    },
    blockStatus: (offset: number, length: number): Extent[] => {
      const extents: Extent[] = [];
      for (let at = offset; at < offset + length; at += BLOCK) {
        extents.push({ length: BLOCK, ...(isHole(at) ? HOLE : DATA) });
      }
      const merged: { length: number; hole: boolean; zero: boolean }[] = [];
      for (const extent of extents) {
        const last = merged.at(-1);
        if (last?.hole === extent.hole) last.length += extent.length;
        else merged.push({ ...extent });
      }
      return merged;
    },
  });
}

/** A client that has chosen the context. */
async function raw(): Promise<RawClient> {
  const client = new RawClient(connect({ path }));
  await client.negotiate(FLAGS, STRUCTURED, setContexts('', 'base:allocation'), go(''));
  onTestFinished(() => void client.socket.destroy());
  return client;
}

const extentsIn = ({ chunk }: Reply): unknown => (chunk?.kind === 'status' ? chunk.extents : chunk);

describe('the status of an export', () => {
  test('is that of its storage, in the words of the storage', async () => {
    const storage = holey(MIB, [[128 * KIB, 512 * KIB]]);
    await serving(storage);
    const client = await connected();
    expect(client.capabilities.blockStatus).toBe(true);
    expect(await client.blockStatus?.(0, MIB)).toEqual([
      { length: 128 * KIB, ...DATA },
      { length: 384 * KIB, ...HOLE },
      { length: 512 * KIB, ...DATA },
    ]);
    expect(await client.blockStatus?.(256 * KIB, BLOCK)).toEqual([{ length: BLOCK, ...HOLE }]);
  });

  test('keeps a hole that may read as anything, and zeroes that take space, apart', async () => {
    const known: Extent[] = [
      { length: BLOCK, hole: true, zero: false },
      { length: BLOCK, hole: false, zero: true },
      { length: BLOCK, ...HOLE },
      { length: BLOCK, ...DATA },
    ];
    const storage = Object.assign(new MemoryStorage(4 * BLOCK), { blockStatus: () => known });
    await serving(storage);
    expect(await (await connected()).blockStatus?.(0, 4 * BLOCK)).toEqual(known);
    const numbers = extentsIn(await (await raw()).ask(COMMAND.BLOCK_STATUS, { length: 4 * BLOCK }));
    expect(numbers).toEqual([1, 2, 3, 0].map((flags) => ({ length: BLOCK, flags })));
  });

  test('is one extent with REQ_ONE, and extents that are alike are one', async () => {
    const alike = [HOLE, HOLE, DATA, HOLE].map((what) => ({ length: BLOCK, ...what }));
    await serving(Object.assign(new MemoryStorage(4 * BLOCK), { blockStatus: () => alike }));
    const client = await raw();
    const length = 4 * BLOCK;
    expect(extentsIn(await client.ask(COMMAND.BLOCK_STATUS, { length }))).toEqual([
      { length: 2 * BLOCK, flags: 3 },
      { length: BLOCK, flags: 0 },
      { length: BLOCK, flags: 3 },
    ]);
    const one = await client.ask(COMMAND.BLOCK_STATUS, { length, flags: COMMAND_FLAG.REQ_ONE });
    expect(extentsIn(one)).toEqual([{ length: 2 * BLOCK, flags: 3 }]);
  });

  test('of a storage that knows nothing is one extent, of any number of extents a bounded part', async () => {
    const plain = new MemoryStorage(MIB, { capabilities: { blockStatus: false } });
    await serving(plain);
    const length = MIB;
    expect(extentsIn(await (await raw()).ask(COMMAND.BLOCK_STATUS, { length }))).toEqual([
      { length, flags: 0 },
    ]);
    const many = Array.from({ length: 20_000 }, (_, at) => ({
      length: BLOCK,
      ...(at % 2 ? HOLE : DATA),
    }));
    const server = new NbdServer({
      exports: { '': Object.assign(new MemoryStorage(20 * MIB), { blockStatus: () => many }) },
    });
    path = join(folder.path, 'other');
    await server.listen({ path });
    onTestFinished(() => server.close());
    const found = await (await connected()).blockStatus?.(0, 20 * MIB);
    expect(found?.length).toBe(8192);
    expect(found?.slice(0, 2)).toEqual(many.slice(0, 2));
  });

  test('given any writes, trims and zeroes, then what is called zero reads as zero', async () => {
    const change = fc.record({
      op: fc.constantFrom('write', 'discard', 'writeZeroes'),
      at: fc.nat(31),
      blocks: fc.integer({ min: 1, max: 8 }),
    });
    const storage = new MemoryStorage(32 * BLOCK);
    await serving(storage);
    const client = await connected();
    let zeroes = 0;
    await fc.assert(
      fc.asyncProperty(fc.array(change, { maxLength: 12 }), async (changes) => {
        await client.writeZeroes?.(0, 32 * BLOCK);
        for (const { op, at, blocks } of changes) {
          const length = Math.min(blocks, 32 - at) * BLOCK;
          if (op === 'write') await client.write(at * BLOCK, new Uint8Array(length).fill(1), PLAIN);
          else await client[op as 'discard']?.(at * BLOCK, length);
        }
        for (let at = 0; at < client.size; ) {
          for (const { length, zero } of (await client.blockStatus?.(at, client.size - at)) ?? []) {
            if (zero)
              expect(storage.bytes.subarray(at, at + length).every((byte) => byte === 0)).toBe(
                true,
              );
            if (zero) zeroes += 1;
            at += length;
          }
        }
      }),
      { numRuns: share(100, 20) },
    );
    expect(zeroes).toBeGreaterThan(0);
  });
});

describe('commands.C7: a read', () => {
  const SIZE = 512 * KIB;

  test('neither reads nor sends what is known to be zero', async () => {
    const storage = holey(SIZE, [
      [64 * KIB, 192 * KIB],
      [448 * KIB, SIZE],
    ]);
    await serving(storage);
    const client = await connected();
    const into = new Uint8Array(SIZE).fill(9);
    await client.read(0, into);
    expect(Buffer.compare(into, storage.bytes)).toBe(0);
    expect(storage.reads).toEqual(['0+64', '192+256']);
    const all = new Uint8Array(128 * KIB).fill(9);
    await client.read(64 * KIB, all);
    expect(all.every((byte) => byte === 0)).toBe(true);
    expect(storage.reads.length).toBe(2);
  });

  test('is one piece where holes are short, and where it is itself', async () => {
    const storage = holey(SIZE, [
      [KIB, 33 * KIB],
      [100 * KIB, 101 * KIB],
    ]);
    await serving(storage);
    const client = await connected();
    const into = new Uint8Array(SIZE);
    await client.read(0, into);
    await client.read(0, into.subarray(0, 32 * KIB));
    expect(storage.reads).toEqual(['0+512', '0+32']);
  });

  test('comes in one chunk with DF, and as data without structured replies', async () => {
    const storage = holey(SIZE, [[64 * KIB, SIZE]]);
    await serving(storage);
    const expected = { error: 0, data: storage.bytes };
    const structured = await raw();
    const df = await structured.ask(COMMAND.READ, { length: SIZE, flags: COMMAND_FLAG.DF });
    const simple = await RawClient.open(path);
    for (const { error, data } of [df, await simple.ask(COMMAND.READ, { length: SIZE })]) {
      expect(error).toBe(0);
      expect(Buffer.compare(data ?? new Uint8Array(0), expected.data)).toBe(0);
    }
    expect(storage.reads).toEqual(['0+512', '0+512']);
    simple.socket.destroy();
  });

  test('fails as a whole if a piece of it fails', async () => {
    const storage = holey(SIZE, [[64 * KIB, 128 * KIB]]);
    const { read } = storage;
    storage.read = (offset, into) => {
      if (offset > 0) throw Object.assign(new Error('odd'), { code: 'EIO' });
      read(offset, into);
    };
    await serving(storage);
    const client = await connected();
    const failure = { code: 'IO_FAILED', cause: { code: 'EIO' } };
    await expect(client.read(0, new Uint8Array(SIZE))).rejects.toMatchObject(failure);
    await client.read(0, new Uint8Array(4 * KIB));
  });
});

describe('a client of a server', () => {
  const SIZE = 8 * BLOCK;

  test('without structured replies, or without the context, has no status', async () => {
    const server = new MemoryServer({ size: SIZE, structured: false });
    await using storage = await NbdStorage.connect({ dial: server.dial });
    expect([storage.capabilities.blockStatus, storage.blockStatus]).toEqual([false, undefined]);
  });

  test('whose extents are not whole blocks calls a block a hole only if all of it is', async () => {
    const server = new MemoryServer({ size: SIZE });
    await using storage = await NbdStorage.connect({ dial: server.dial });
    // One byte in the third block, so it is data.
    server.cache[2 * BLOCK + 100] = 1;
    expect(await storage.blockStatus?.(0, SIZE)).toEqual([
      { length: 2 * BLOCK, ...HOLE },
      { length: BLOCK, ...DATA },
      { length: 5 * BLOCK, ...HOLE },
    ]);
    expect(await storage.blockStatus?.(2 * BLOCK, BLOCK)).toEqual([{ length: BLOCK, ...DATA }]);
  });

  test('that is lost while it asks asks again, and gets an answer of one connection only', async () => {
    const server = new MemoryServer({ size: SIZE });
    await using storage = await NbdStorage.connect({ dial: server.dial, delayMs: 0 });
    let silent = true;
    server.hangs = ({ command }) => command === COMMAND.BLOCK_STATUS && silent;
    await storage.write(0, new Uint8Array(BLOCK).fill(1), PLAIN);
    const status = storage.blockStatus?.(0, SIZE);
    await new Promise(setImmediate);
    silent = false;
    server.crash();
    // The write was not flushed, so it is sent again before the question.
    expect(await status).toEqual([
      { length: BLOCK, ...DATA },
      { length: 7 * BLOCK, ...HOLE },
    ]);
  });

  test('that comes back without the context is another export', async () => {
    const server = new MemoryServer({ size: SIZE });
    const storage = await NbdStorage.connect({ dial: server.dial, delayMs: 0 });
    server.structured = false;
    server.crash();
    await expect(storage.read(0, new Uint8Array(BLOCK))).rejects.toMatchObject({
      code: 'CONNECTION_LOST',
      message: expect.stringContaining('it no longer supports blockStatus'),
    });
    await storage.close().catch(() => {});
  });

  test('that fails the question has the error of the server, and goes on', async () => {
    const server = new MemoryServer({ size: SIZE, flags: ALL });
    await using storage = await NbdStorage.connect({ dial: server.dial });
    server.fails = ({ command }) => (command === COMMAND.BLOCK_STATUS ? 5 : 0);
    await expect(storage.blockStatus?.(0, SIZE)).rejects.toMatchObject({
      code: 'IO_FAILED',
      cause: { code: 'EIO' },
    });
    await storage.read(0, new Uint8Array(BLOCK));
  });
});
