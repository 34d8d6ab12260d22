// Goal: a flood on some connections leaves a polite client its fair share of the disk, and the server within its memory. Method: a
// disk that takes virtual time, one command after the other, under the real server, with clients on lines without a
// system. The time stands still while anything moves, so a run is the same on every machine, and only the disk's time
// counts.
//
// The fair share of a request: what is at the disk when it comes, which is `depthBytes` of the group and one command, and for each
// of the others as much as it asks for itself (docs/many-on-one-disk.md).

import type { Socket } from 'node:net';
import { describe, expect, onTestFinished, test } from 'vitest';
import { MemoryStorage, type Storage } from '../../src/index.js';
import { NbdServer } from '../../src/nbd/index.js';
import { TURN_MAX } from '../../src/nbd/server/turns.js';
import { COMMAND, COMMAND_FLAG } from '../../src/nbd/wire/index.js';
import { line } from './line.js';
import { FLAGS, go, RawClient, request } from './support.js';

const { READ, WRITE, FLUSH, CACHE, WRITE_ZEROES } = COMMAND;
const KIB = 1024;
const MIB = 1024 * KIB;
const SIZE = 1024 * MIB;

/** In microseconds: 100 for each command, and 1 for each KiB. */
const costOf = (bytes: number): number => 100 + bytes / KIB;
const FLUSH_US = 500;
/** What the group lets to the disk at once, in bytes, and what it counts for a command in addition. */
const [DEPTH_BYTES, DEPTH, COMMAND_BYTES] = [4 * MIB, 64, 16 * KIB];
const POLITE = 4 * KIB;

/** For so many turns of the event loop the disk waits for work; some floods never rest. */
const TURNS = 30;

/** A disk that serves one command after the other. */
class SlowDisk implements Storage {
  readonly size = SIZE;
  readonly capabilities: Storage['capabilities'] = {
    ...{ blockSize: 512, cache: 'volatile', flush: true, fua: false, orderedTags: false },
  };
  now = 0;
  /** Whether anything has moved since it was last looked at. */
  moved = false;
  flushes = 0;
  longest = 0;
  readonly #queue: { readonly us: number; readonly end: () => void }[] = [];

  #serve(us: number): Promise<void> {
    this.moved = true;
    return new Promise((end) => this.#queue.push({ us, end }));
  }
  #move(bytes: number): Promise<void> {
    this.longest = Math.max(this.longest, bytes);
    return this.#serve(costOf(bytes));
  }
  read(_: number, into: Uint8Array): Promise<void> {
    return this.#move(into.byteLength);
  }
  write(_: number, data: Uint8Array): Promise<void> {
    return this.#move(data.byteLength);
  }
  flush(): Promise<void> {
    this.flushes += 1;
    return this.#serve(FLUSH_US);
  }
  close(): void {}

  /** Runs the time until `work` is done. */
  async run<T>(work: Promise<T>): Promise<T> {
    let done = false;
    work.then(
      () => (done = true),
      () => (done = true),
    );
    for (;;) {
      for (let quiet = 0, turns = 0; quiet < 4 && turns < TURNS && !done; turns += 1) {
        quiet = this.moved ? 0 : quiet + 1;
        this.moved = false;
        await new Promise(setImmediate);
      }
      const next = done ? undefined : this.#queue.shift();
      if (done) return work;
      if (!next) throw new Error('it is not done, and nothing is at the disk');
      this.now += next.us;
      next.end();
    }
  }

  /** Lets everything go. */
  release(): void {
    for (const { end } of this.#queue.splice(0)) end();
    this.#queue.push = ({ end }) => {
      end();
      return 0;
    };
  }
}

interface World {
  readonly disk: SlowDisk;
  readonly server: NbdServer;
  client(): Promise<RawClient>;
  /** A client that says this, and reads nothing. */
  deaf(...said: readonly Uint8Array[]): void;
  /** Asks without pause, so many at once. */
  floods(depth: number, ask: (client: RawClient, n: number) => Promise<unknown>): Promise<void>;
}

function world(): World {
  const disk = new SlowDisk();
  const server = new NbdServer({ exports: { '': disk } });
  const moved = (): void => {
    disk.moved = true;
  };
  let over = false;
  onTestFinished(async () => {
    over = true;
    disk.release();
    await server.close();
  });
  const connect = (): Socket => {
    const [theirs, ours] = line(moved);
    server.serve(theirs);
    return ours as Socket;
  };
  const client = async (): Promise<RawClient> => {
    const opened = new RawClient(connect());
    await opened.negotiate(FLAGS, go());
    return opened;
  };
  return {
    disk,
    server,
    client,
    deaf: (...said) => {
      const ours = connect();
      for (const part of [FLAGS, go(), ...said]) ours.write(part);
    },
    floods: async (depth, ask) => {
      const flooding = await client();
      for (let i = 0; i < depth; i += 1) {
        let n = i;
        const again = (): void => {
          if (over) return;
          n += depth;
          ask(flooding, n).then(again, () => {});
        };
        again();
      }
    },
  };
}

/** The time that 99 of a hundred do not exceed, of the times that reads of a polite client take, in microseconds. */
async function p99({ disk, client }: World, times = 50): Promise<number> {
  return disk.run(
    client().then(async (polite) => {
      const took: number[] = [];
      for (let i = 0; i < times; i += 1) {
        const start = disk.now;
        expect((await polite.ask(READ, { offset: SIZE - POLITE, length: POLITE })).error).toBe(0);
        took.push(disk.now - start);
      }
      return took.sort((a, b) => a - b)[Math.ceil(times * 0.99) - 1] as number;
    }),
  );
}

/** The fair share of a polite read, in microseconds, among so many that move so many bytes with a command. */
function fairUs(others: number, bytes: number): number {
  const atDisk = Math.min(DEPTH, Math.floor(DEPTH_BYTES / bytes)) + 1;
  const each = (POLITE + COMMAND_BYTES) / (bytes + COMMAND_BYTES);
  return (atDisk + others * each) * costOf(bytes) + costOf(POLITE);
}

const offsetOf = (who: number, n: number, length: number): number =>
  ((who * 8 + (n % 8)) * length) % (SIZE / 2);

describe('a polite client has its fair share of the disk', () => {
  test('beside 30 readers of 128 x 512 KiB who do not read, which hold their shares of the memory only', async () => {
    const arena = world();
    const { disk, server, deaf } = arena;
    const length = 512 * KIB;
    for (let who = 0; who < 30; who += 1) {
      const said = Array.from({ length: 128 }, (_, n) =>
        request(READ, n, { offset: offsetOf(who, n, length), length }),
      );
      deaf(...said);
    }
    expect(await p99(arena)).toBeLessThanOrEqual(2 * fairUs(30, length));
    const { heldBytes, clients } = server.stats();
    expect(heldBytes).toBeGreaterThan(30 * length);
    expect(heldBytes).toBeLessThanOrEqual(128 * MIB);
    expect(clients.length).toBe(31);
    for (const { heldBytes } of clients) expect(heldBytes).toBeLessThanOrEqual(32 * MIB);
    expect(clients.reduce((sum, one) => sum + one.heldBytes, 0)).toBe(heldBytes);
    expect(disk.flushes).toBe(0);
  });

  test.each([
    ['WRITE_ZEROES', WRITE_ZEROES, COMMAND_FLAG.NO_HOLE],
    ['CACHE', CACHE, 0],
  ])('beside %s of 64 MiB from 8 connections, which goes in pieces', async (_, command, flags) => {
    const arena = world();
    const { disk, floods } = arena;
    for (let who = 0; who < 8; who += 1) {
      await disk.run(
        floods(4, (client) =>
          client.ask(command, { offset: who * 64 * MIB, length: 64 * MIB, flags }),
        ),
      );
    }
    // The first read may find a large piece at the disk, and each later one a small piece, and nothing else.
    expect(await p99(arena)).toBeLessThanOrEqual(costOf(MIB) + costOf(POLITE));
    expect(await p99(arena)).toBeLessThanOrEqual(costOf(256 * KIB) + costOf(POLITE));
    expect(disk.longest).toBe(MIB);
  });

  test('beside 60 writers of 512 KiB', async () => {
    const arena = world();
    const { disk, server, floods } = arena;
    const data = new Uint8Array(512 * KIB);
    for (let who = 0; who < 60; who += 1) {
      await disk.run(
        floods(4, (client, n) =>
          client.ask(WRITE, { offset: offsetOf(who, n, data.length), data }),
        ),
      );
    }
    expect(await p99(arena)).toBeLessThanOrEqual(2 * fairUs(60, data.length));
    expect(server.stats().heldBytes).toBeLessThanOrEqual(128 * MIB);
  });

  test('beside flushes without pause from 20, of which the disk has none that it does not need', async () => {
    const arena = world();
    const { disk, floods } = arena;
    for (let who = 0; who < 20; who += 1) {
      await disk.run(floods(4, (client) => client.ask(FLUSH)));
    }
    expect(await p99(arena)).toBeLessThanOrEqual(2 * (FLUSH_US + costOf(POLITE)));
    // The first of all, and one for those that came while it ran.
    expect(disk.flushes).toBeLessThanOrEqual(2);
  });

  test('beside refused and empty requests from 20', async () => {
    const arena = world();
    const { disk, server, floods } = arena;
    for (let who = 0; who < 20; who += 1) {
      await disk.run(
        floods(16, (client, n) => client.ask(n % 2 === 0 ? READ : 99, { offset: 0, length: 0 })),
      );
    }
    expect(await p99(arena)).toBe(costOf(POLITE));
    expect(server.stats().refusedRequests).toBeGreaterThan(100);
  });

  test('beside 64 requests of 4 KiB from each of 62, and each of them is served', async () => {
    const arena = world();
    const { disk, floods } = arena;
    const data = new Uint8Array(4 * KIB);
    const served = Array.from({ length: 62 }, () => 0);
    for (let who = 0; who < served.length; who += 1) {
      await disk.run(
        floods(16, async (client, n) => {
          await client.ask(WRITE, { offset: offsetOf(who, n, data.length), data });
          served[who] = (served[who] as number) + 1;
        }),
      );
    }
    expect(await p99(arena)).toBeLessThanOrEqual(2 * fairUs(62, data.length));
    // The last of them came when the others had been served for a while, so the shares are those from then on.
    const before = [...served];
    await p99(arena);
    const shares = served.map((all, who) => all - (before[who] as number));
    expect(Math.max(...shares) - Math.min(...shares)).toBeLessThanOrEqual(16);
  });
});

describe('a polite client has its turn of the event loop', () => {
  // The storage answers at once, so what is counted is what the server does between a request and its reply.
  test('connection.K7: beside 16 requests of each of 62, of which a few turns come before, and not all', async () => {
    const server = new NbdServer({ exports: { '': new MemoryStorage(MIB) } });
    let over = false;
    onTestFinished(() => {
      over = true;
      return server.close();
    });
    const client = async (): Promise<RawClient> => {
      const [theirs, ours] = line();
      server.serve(theirs);
      const opened = new RawClient(ours as Socket);
      await opened.negotiate(FLAGS, go());
      return opened;
    };
    for (let who = 0; who < 62; who += 1) {
      const flooding = await client();
      const again = (): void => {
        if (!over) flooding.ask(READ, { length: 512 }).then(again, () => {});
      };
      for (let i = 0; i < 16; i += 1) again();
    }
    const polite = await client();
    const waits: number[] = [];
    for (let i = 0; i < 30; i += 1) {
      const before = server.stats().requests;
      expect((await polite.ask(READ, { length: 512 })).error).toBe(0);
      waits.push(server.stats().requests - before);
    }
    expect(Math.min(...waits)).toBeGreaterThan(0);
    expect(waits.sort((a, b) => a - b)[15]).toBeLessThanOrEqual(4 * TURN_MAX);
  });
});
