// What connections share of a disk: who goes past the group, which flushes the storage has, and what becomes of a client's
// requests when it is gone, fails to be told, or is in the middle of many pieces.

import type { Socket } from 'node:net';
import { describe, expect, onTestFinished, test } from 'vitest';
import { IoScheduler, MemoryStorage, type Storage } from '../../src/index.js';
import { NbdServer } from '../../src/nbd/index.js';
import { Disk } from '../../src/nbd/server/disk.js';
import { COMMAND, COMMAND_FLAG, NBD_ERROR } from '../../src/nbd/wire/index.js';
import { line } from './line.js';
import { FLAGS, go, RawClient } from './support.js';

const { READ, WRITE, FLUSH, TRIM, CACHE, WRITE_ZEROES } = COMMAND;
const KIB = 1024;
const MIB = 1024 * KIB;
const block = (byte: number): Uint8Array => new Uint8Array(4096).fill(byte);
const turns = async (count: number): Promise<void> => {
  for (let i = 0; i < count; i += 1) await new Promise(setImmediate);
};

/** A storage with a volatile cache that counts its flushes, and fails them if it is told to. */
class Cached extends MemoryStorage {
  flushes = 0;
  fails = false;
  /** Writes wait for it. */
  gate: Promise<void> | undefined;
  readonly writes: number[] = [];

  constructor(size = MIB) {
    super(size, { capabilities: { cache: 'volatile', fua: false, writeZeroes: false } });
  }
  override async write(...[offset, data, flags]: Parameters<Storage['write']>): Promise<void> {
    this.writes.push(offset);
    await this.gate;
    super.write(offset, data, flags);
  }
  override async flush(): Promise<void> {
    this.flushes += 1;
    await turns(1);
    if (this.fails) throw new Error('EIO');
  }
}

function serving(storage: Storage | IoScheduler): {
  server: NbdServer;
  client: () => Promise<RawClient>;
} {
  const server = new NbdServer({ exports: { '': storage } });
  onTestFinished(() => server.close().catch(() => {}));
  const client = async (): Promise<RawClient> => {
    const [theirs, ours] = line();
    server.serve(theirs);
    const opened = new RawClient(ours as Socket);
    await opened.negotiate(FLAGS, go());
    return opened;
  };
  return { server, client };
}

describe('a disk', () => {
  test('disk.H1: no request goes past the group while one is in it, or beyond what the storage gets at once', () => {
    const disk = new Disk(new IoScheduler(new MemoryStorage(MIB)), true);
    expect(disk.enter(4 * MIB)).toBe(true);
    expect(disk.enter(1)).toBe(false);
    disk.leave(4 * MIB, true);
    // One is in the group still.
    expect(disk.enter(1)).toBe(false);
    disk.leave(1, false);
    disk.leave(1, false);
    expect(Array.from({ length: 65 }, () => disk.enter(1)).filter(Boolean).length).toBe(64);
  });

  test('disk.H2: a flush has one of the storage where something was written since the last, on any connection', async () => {
    const storage = new Cached();
    const { client } = serving(storage);
    const [one, other] = [await client(), await client()];
    const flushes = async (from: RawClient): Promise<number> => {
      const before = storage.flushes;
      expect((await from.ask(FLUSH)).error).toBe(0);
      return storage.flushes - before;
    };
    // What was written before the server was there is not known.
    expect(await flushes(one)).toBe(1);
    expect([await flushes(one), await flushes(other)]).toEqual([0, 0]);
    for (const [command, fields] of [
      [WRITE, { data: block(1) }],
      [TRIM, { length: 4096 }],
      [WRITE_ZEROES, { length: 4096 }],
    ] as const) {
      await one.ask(command, fields);
      expect([await flushes(other), await flushes(one)]).toEqual([1, 0]);
    }
    await one.ask(READ, { length: 4096 });
    expect(await flushes(other)).toBe(0);
  });

  test('disk.H2: a write that is answered while a flush runs is covered by the next one only', async () => {
    const storage = new Cached();
    const { client } = serving(storage);
    const [one, other] = [await client(), await client()];
    let open = (): void => {};
    storage.gate = new Promise((resolve) => {
      open = resolve;
    });
    const write = one.ask(WRITE, { data: block(1) });
    while (storage.writes.length === 0) await turns(1);
    const flush = other.ask(FLUSH);
    await turns(3);
    open();
    expect([(await write).error, (await flush).error]).toEqual([0, 0]);
    const before = storage.flushes;
    expect((await other.ask(FLUSH)).error).toBe(0);
    expect(storage.flushes).toBe(before + 1);
  });

  test('disk.H2: a scheduler that others submit to has a flush for each, because it covers their writes', async () => {
    const storage = new Cached();
    const scheduler = new IoScheduler(storage, { mode: 'DRAIN_FLUSH' });
    const { client } = serving(scheduler);
    const one = await client();
    await one.ask(FLUSH);
    await scheduler.write(0, block(1));
    const before = storage.flushes;
    expect((await one.ask(FLUSH)).error).toBe(0);
    expect(storage.flushes).toBe(before + 1);
  });

  test('a flush that has failed is told to each connection, those that come later as well, until the bytes are written again', async () => {
    const storage = new Cached();
    const { server, client } = serving(storage);
    const clients = [await client(), await client(), await client()];
    await clients[0]?.ask(WRITE, { data: block(1) });
    storage.fails = true;
    const asked = clients.map((one) => one.ask(FLUSH));
    expect((await Promise.all(asked)).map(({ error }) => error)).toEqual([5, 5, 5]);
    storage.fails = false;
    for (const one of [...clients, await client()])
      expect((await one.ask(FLUSH)).error).toBe(NBD_ERROR.EIO);
    await server.recover('');
    for (const one of clients) expect((await one.ask(FLUSH)).error).toBe(NBD_ERROR.EIO);
    await clients[1]?.ask(WRITE, { data: block(1) });
    for (const one of clients) expect((await one.ask(FLUSH)).error).toBe(0);
  });

  test('disk.H3: requests in pieces leave turns to others, although the storage does each piece at once', async () => {
    const { client } = serving(new MemoryStorage(64 * MIB));
    let ended = 0;
    for (let who = 0; who < 4; who += 1) {
      const busy = await client();
      const zeroes = { length: 64 * MIB, flags: COMMAND_FLAG.NO_HOLE };
      busy.ask(CACHE, { length: 64 * MIB }).then(() => (ended += 1));
      busy.ask(WRITE_ZEROES, zeroes).then(() => (ended += 1));
    }
    const polite = await client();
    for (let i = 0; i < 5; i += 1) {
      expect((await polite.ask(READ, { length: 4096 })).error).toBe(0);
    }
    expect(ended).toBe(0);
  });

  test('disk.H3: of all requests in pieces one piece is at the storage, and small ones share it', async () => {
    const disk = new Disk(new IoScheduler(new MemoryStorage(MIB)), true);
    let moving = 0;
    const ends: (() => void)[] = [];
    const piece = (of: object, bytes: number): void => {
      void disk.piece(of, bytes, async () => {
        moving += bytes;
        await new Promise<void>((end) => ends.push(end));
        moving -= bytes;
      });
    };
    const [one, other] = [{}, {}];
    for (const of of [one, other]) for (const kib of [256, 64, 64, 1024]) piece(of, kib * KIB);
    const seen: number[] = [];
    for (let i = 0; i < 20; i += 1) {
      await turns(2);
      if (moving > 0) seen.push(moving / KIB);
      for (const end of ends.splice(0)) end();
    }
    // In turns: 256 of the one at once, then its 64; the 256 of the other, which has no room beside it; 64 of each together; ...
    expect(seen).toEqual([256, 64, 256, 128, 1024, 64, 1024]);
  });

  test('disk.H4: connections have their pieces in turns, however many requests they have', async () => {
    const disk = new Disk(new IoScheduler(new MemoryStorage(MIB)), true);
    const order: string[] = [];
    const ask = (of: { readonly name: string }): void =>
      void disk.piece(of, MIB, async () => {
        order.push(of.name);
      });
    const [greedy, polite] = [{ name: 'greedy' }, { name: 'polite' }];
    for (let i = 0; i < 6; i += 1) ask(greedy);
    for (let i = 0; i < 2; i += 1) ask(polite);
    await turns(20);
    expect(order.slice(0, 5)).toEqual(['greedy', 'greedy', 'polite', 'greedy', 'polite']);
    expect(order.length).toBe(8);
  });

  test('disk.H4: pieces are small while others use the disk, and large when they have been gone for a while', async () => {
    const disk = new Disk(new IoScheduler(new MemoryStorage(MIB)), true);
    expect(disk.pieceBytes).toBe(MIB);
    disk.leave(4 * KIB, disk.enter(4 * KIB));
    expect(disk.pieceBytes).toBe(256 * KIB);
    let pieces = 0;
    for (; disk.pieceBytes < MIB; pieces += 1) {
      await disk.piece({}, disk.pieceBytes, async () => {});
      await turns(1);
    }
    expect(pieces).toBe(64);
  });

  test('connection.K6: what a client that is gone has in the group is never issued, and its member is given back', async () => {
    const storage = new Cached(64 * MIB);
    let open = (): void => {};
    storage.gate = new Promise((resolve) => {
      open = resolve;
    });
    const { server, client } = serving(storage);
    const [other, gone] = [await client(), await client()];
    // All that the storage gets at once is taken, past the group and by it.
    const asked = Array.from({ length: 128 }, (_, i) =>
      other.ask(WRITE, { offset: (48 + i / 8) * MIB, data: block(2) }),
    );
    while (server.stats().clients[0]?.requestsInFlight !== 128) await turns(1);
    for (let i = 0; i < 100; i += 1)
      gone.ask(WRITE, { offset: i * 8192, data: block(1) }).catch(() => {});
    gone.ask(WRITE_ZEROES, { offset: 32 * MIB, length: 8 * MIB }).catch(() => {});
    while (server.stats().clients[1]?.requestsInFlight !== 101) await turns(1);
    gone.socket.destroy();
    await turns(5);
    open();
    storage.gate = undefined;
    expect((await Promise.all(asked)).every(({ error }) => error === 0)).toBe(true);
    while (server.stats().connections !== 1) await turns(1);
    expect(storage.writes.filter((offset) => offset < 48 * MIB)).toEqual([]);
    expect(storage.writes.length).toBe(128);
    expect(server.stats().heldBytes).toBe(0);
  });
});
