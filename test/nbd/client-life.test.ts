// How long things of the client live: requests, storages that are given up or closed, and what an observer or a dialer may
// do to them. The rules are at the heads of src/nbd/client/nbd-storage.ts (N), in-flight.ts (E) and options.ts.

import { Duplex } from 'node:stream';
import fc from 'fast-check';
import { describe, expect, onTestFinished, test, vi } from 'vitest';
import { reconnectDelayMs } from '../../src/nbd/client/connection.js';
import {
  type NbdCloseOptions,
  type NbdEvent,
  NbdLostError,
  NbdStorage,
  type NbdStorageOptions,
} from '../../src/nbd/index.js';
import { COMMAND } from '../../src/nbd/wire/index.js';
import { codeThrown, errorThrown } from '../storage/contract.js';
import { MemoryServer } from './client-server.js';

const PLAIN = { fua: false, tag: 'simple' } as const;
const FORCED = { fua: true, tag: 'simple' } as const;
const SIMPLE = { tag: 'simple' } as const;
const block = (value: number): Uint8Array => new Uint8Array(512).fill(value);
const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));
const turns = async (): Promise<void> => {
  for (let left = 20; left > 0; left -= 1) await new Promise(setImmediate);
};

async function connected(
  server: MemoryServer,
  options: Partial<NbdStorageOptions> = {},
): Promise<NbdStorage> {
  const given = { dial: server.dial, delayMs: 0, ...options } as NbdStorageOptions;
  const storage = await NbdStorage.connect(given);
  onTestFinished(() => void storage.destroy());
  return storage;
}

/** From now on nothing but a test ends a wait. */
function stoppedTime(): void {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
  onTestFinished(() => void vi.useRealTimers());
}

describe('nbd-client-in-flight.E7: a server that answers, and dies of one kind of request', () => {
  const kinds: readonly (readonly [string, number, (storage: NbdStorage) => Promise<void>])[] = [
    ['read', COMMAND.READ, (storage) => storage.read(1024, block(0))],
    ['write', COMMAND.WRITE, (storage) => storage.write(1024, block(2), PLAIN)],
    ['forced write', COMMAND.WRITE, (storage) => storage.write(1024, block(2), FORCED)],
    ['discard', COMMAND.TRIM, (storage) => storage.discard?.(1024, 512) as Promise<void>],
    [
      'zeroes',
      COMMAND.WRITE_ZEROES,
      (storage) => storage.writeZeroes?.(1024, 512) as Promise<void>,
    ],
    ['flush', COMMAND.FLUSH, (storage) => storage.flush(SIMPLE)],
  ];

  test.each(kinds)(
    '%s: has it fail in the end, whatever else is answered, and goes on',
    async (_, command, ask) => {
      const server = new MemoryServer({ size: 4096 });
      const storage = await connected(server, { triesMax: 5, delayMsMax: 1 });
      await storage.write(0, block(1), PLAIN);
      server.hangs = (request) => {
        const deadly =
          request.command === command && (request.length === 0 || request.offset === 1024);
        if (deadly) setImmediate(() => server.crash());
        return deadly;
      };
      let settled = false;
      const asked = errorThrown(() => ask(storage)).finally(() => {
        settled = true;
      });
      while (!settled) {
        await storage.read(0, block(0));
        await storage.write(512, block(3), PLAIN);
        // The server in memory answers before anything else has its turn.
        await pause(0);
      }
      const error = await asked;
      expect(error).toBeInstanceOf(NbdLostError);
      expect(error).toMatchObject({ code: 'CONNECTION_LOST', cause: { code: 'IO_FAILED' } });
      expect(server.crashes).toBe(6);
      expect(storage.state).not.toBe('failed');
      // What was answered is still kept, and a server that does better gets it.
      server.hangs = () => false;
      await storage.flush(SIMPLE);
      expect([server.medium[0], server.medium[511], server.medium[512]]).toEqual([1, 1, 3]);
    },
  );

  test('a flush that fails so says what it has not covered', async () => {
    const server = new MemoryServer({ size: 4096 });
    const storage = await connected(server, { triesMax: 1, delayMsMax: 1 });
    await storage.write(512, block(1), PLAIN);
    server.hangs = ({ command }) => {
      if (command === COMMAND.FLUSH) setImmediate(() => server.crash());
      return command === COMMAND.FLUSH;
    };
    const reads = setInterval(() => storage.read(0, block(0)).catch(() => {}), 1);
    onTestFinished(() => clearInterval(reads));
    const error = await errorThrown(() => storage.flush(SIMPLE));
    expect(error).toMatchObject({ code: 'CONNECTION_LOST', atRisk: [{ start: 512, end: 1024 }] });
  });

  // They are answered only with a flush, which is sent for them, so no flush of the caller's is there to fail.
  test('writes that wait for a flush because the log is full fail, too', async () => {
    const server = new MemoryServer({ size: 4096 });
    const storage = await connected(server, { triesMax: 3, delayMsMax: 1, resendBytesMax: 1 });
    server.hangs = ({ command }) => {
      if (command === COMMAND.FLUSH) setImmediate(() => server.crash());
      return command === COMMAND.FLUSH;
    };
    const reads = setInterval(() => storage.read(0, block(0)).catch(() => {}), 1);
    onTestFinished(() => clearInterval(reads));
    expect(await codeThrown(() => storage.write(512, block(1), PLAIN))).toBe('CONNECTION_LOST');
  });
});

describe('giving up', () => {
  const states: readonly (readonly [string, (server: MemoryServer) => Promise<void>])[] = [
    ['is there', async () => {}],
    [
      'hangs',
      async (server) => {
        server.hangs = () => true;
      },
    ],
    [
      'is away',
      async (server) => {
        server.down = true;
        server.crash();
      },
    ],
    [
      'is away for a while',
      async (server) => {
        server.down = true;
        server.crash();
        await pause(20);
      },
    ],
  ];

  test.each(states)(
    'nbd-storage.N5: destroy() answers with what is at risk when the server %s',
    async (_, happens) => {
      const server = new MemoryServer({ size: 4096 });
      const events: NbdEvent[] = [];
      const observer = (event: NbdEvent): unknown => events.push(event);
      const storage = await connected(server, { triesMax: Number.POSITIVE_INFINITY, observer });
      await storage.write(512, block(1), PLAIN);
      await happens(server);
      const writing = errorThrown(() => storage.write(1024, block(2), PLAIN));
      const closing = errorThrown(() => storage.close({ timeoutMs: Number.POSITIVE_INFINITY }));
      expect(storage.destroy()).toEqual([{ start: 512, end: 1024 }]);
      expect(await writing).toMatchObject({
        code: 'CONNECTION_LOST',
        message: expect.stringMatching(/destroyed/),
      });
      expect(await closing).toMatchObject({
        code: 'CONNECTION_LOST',
        atRisk: [{ start: 512, end: 1024 }],
      });
      expect(storage.state).toBe('closed');
      expect(await codeThrown(() => storage.read(0, block(0)))).toBe('CLOSED');
      expect(storage.destroy()).toEqual([{ start: 512, end: 1024 }]);
      const heard = events.length;
      server.down = false;
      await pause(10);
      expect(server.connections).toBe(0);
      expect(events.length).toBe(heard);
      expect(events.filter(({ kind }) => kind === 'failed').length).toBe(1);
    },
  );

  test('nbd-storage.N5: destroy() also ends a dial that does not end', async () => {
    const server = new MemoryServer({ size: 4096 });
    let late = (_: Duplex): void => {};
    let dials = 0;
    const dial = (): Duplex | Promise<Duplex> => {
      dials += 1;
      return dials === 1
        ? server.dial()
        : new Promise((resolve) => {
            late = resolve;
          });
    };
    const storage = await connected(server, { dial } as Partial<NbdStorageOptions>);
    server.crash();
    while (dials < 2) await pause(1);
    storage.destroy();
    const socket = server.dial();
    late(socket);
    while (!socket.destroyed) await pause(1);
  });

  test('nbd-storage.N5: without anything at risk destroy() answers with nothing, and close() is well', async () => {
    const server = new MemoryServer({ size: 4096 });
    const storage = await connected(server);
    await storage.close();
    expect(storage.destroy()).toEqual([]);
    await storage.close();
    const other = await connected(server);
    expect(other.destroy()).toEqual([]);
    expect(await codeThrown(() => other.close())).toBe('CONNECTION_LOST');
  });

  test('nbd-storage.N5: a destroyed storage does not wait for a server that does not hang up', async () => {
    const server = new MemoryServer({ size: 4096 });
    const open: Duplex[] = [];
    const dial = (): Duplex => {
      const socket = server.dial();
      // It never ends: a goodbye is not heard.
      socket._final = () => {};
      open.push(socket);
      return socket;
    };
    const storage = await connected(server, { dial } as Partial<NbdStorageOptions>);
    stoppedTime();
    const closing = storage.close();
    await turns();
    storage.destroy();
    await closing;
    expect(open.every(({ destroyed }) => destroyed)).toBe(true);
    expect(vi.getTimerCount()).toBe(0);
  });
});

describe('closing', () => {
  /** Closes while the server is away; what that comes to, and when. */
  async function closed(
    options: NbdCloseOptions,
    until: (server: MemoryServer) => Promise<void>,
    unflushed = true,
  ): Promise<{ end: unknown; storage: NbdStorage; server: MemoryServer }> {
    const server = new MemoryServer({ size: 4096 });
    const storage = await connected(server, { triesMax: Number.POSITIVE_INFINITY });
    if (unflushed) await storage.write(512, block(1), PLAIN);
    stoppedTime();
    server.down = true;
    server.crash();
    await turns();
    const closing = storage.close(options).then(
      () => 'closed',
      (error) => error,
    );
    await until(server);
    return { end: await closing, storage, server };
  }
  const passes = async (ms: number): Promise<void> => {
    for (let left = ms; left > 0; left -= 50) {
      await vi.advanceTimersByTimeAsync(50);
      await turns();
    }
  };
  const LOST = { code: 'CONNECTION_LOST', atRisk: [{ start: 512, end: 1024 }] };

  test('nbd-storage.N5: gives a server that is away up after a while, with what is at risk', async () => {
    const { end } = await closed({}, () => passes(2050));
    expect(end).toMatchObject({ ...LOST, cause: { message: expect.stringContaining('away') } });
    expect(vi.getTimerCount()).toBe(0);
  });

  test('nbd-storage.N5: does not let go of a server that comes back before it has all that was answered', async () => {
    const { end, server } = await closed({}, async (one) => {
      await passes(1500);
      one.down = false;
      await passes(500);
    });
    expect(end).toBe('closed');
    expect(server.cache.subarray(512, 1024)).toEqual(block(1));
    expect(vi.getTimerCount()).toBe(0);
  });

  test('nbd-storage.N5: waits as long as it is told to', async () => {
    const { end, server } = await closed({ timeoutMs: 5000 }, async (one) => {
      await passes(4000);
      one.down = false;
      await passes(500);
    });
    expect(end).toBe('closed');
    expect(server.cache.subarray(512, 1024)).toEqual(block(1));
    const late = await closed({ timeoutMs: 5000 }, () => passes(5050));
    expect(late.end).toMatchObject({ ...LOST, cause: { code: 'CLOSE_TIMEOUT' } });
    const soon = await closed({ timeoutMs: 0 }, () => passes(50));
    expect(soon.end).toMatchObject(LOST);
  });

  test('nbd-storage.N5: is ended by a signal, before and meanwhile', async () => {
    const stop = new AbortController();
    const reason = new Error('enough');
    const { end } = await closed({ signal: stop.signal }, async () => stop.abort(reason));
    expect(end).toMatchObject({ ...LOST, cause: reason });
    const before = await closed({ signal: stop.signal }, async () => {});
    expect(before.end).toMatchObject({ ...LOST, cause: reason });
    expect(vi.getTimerCount()).toBe(0);
  });

  test('nbd-storage.N5: is ended by a second call that has less patience', async () => {
    const server = new MemoryServer({ size: 4096 });
    const storage = await connected(server);
    server.hangs = () => true;
    const reading = errorThrown(() => storage.read(0, block(0)));
    const closing = errorThrown(() => storage.close());
    const again = errorThrown(() => storage.close({ timeoutMs: 10 }));
    for (const end of [reading, closing, again]) {
      expect(await end).toMatchObject({ code: 'CONNECTION_LOST' });
    }
  });

  test('nbd-storage.N5: does not wait for a server that is away where there is nothing for it', async () => {
    const { end } = await closed({}, async () => {}, false);
    expect(end).toBe('closed');
  });

  test('nbd-storage.N5: gives up a server that is back each time, and lost before it has answered', async () => {
    const server = new MemoryServer({ size: 4096 });
    const storage = await connected(server, { triesMax: Number.POSITIVE_INFINITY, delayMsMax: 0 });
    server.hangs = () => {
      setImmediate(() => server.crash());
      return true;
    };
    const reading = errorThrown(() => storage.read(0, block(0)));
    expect(await errorThrown(() => storage.close())).toMatchObject({
      code: 'CONNECTION_LOST',
      cause: { message: expect.stringContaining('11 times') },
    });
    expect(await reading).toMatchObject({ code: 'CONNECTION_LOST' });
  });

  test('says what is lost where nothing else has said so, and once', async () => {
    const server = new MemoryServer({ size: 4096 });
    const storage = await connected(server, { triesMax: 1, delayMsMax: 0 });
    await storage.write(512, block(1), PLAIN);
    server.down = true;
    server.crash();
    while (storage.state !== 'failed') await pause(1);
    expect(await errorThrown(() => storage.close())).toMatchObject({ ...LOST, code: 'FAILED' });
  });

  test.each<readonly [unknown, string]>([
    [{ timeoutMs: -1 }, '-1'],
    [{ timeoutMs: '4' }, "'4'"],
    [{ timeoutMs: 5n }, '5n'],
    [{ timeoutMs: 2 ** 31 }, '2147483648'],
    [{ signal: 'stop' }, "'stop'"],
    [{ timeout: 5 }, 'timeoutMs'],
    [null, 'null'],
  ])(
    'is refused with options that make no sense, and the storage stays open: %o',
    async (options, shown) => {
      const storage = await connected(new MemoryServer({ size: 4096 }));
      const error = await errorThrown(() => storage.close(options as NbdCloseOptions));
      expect(error).toMatchObject({
        code: 'INVALID_ARGUMENT',
        message: expect.stringContaining(shown),
      });
      await storage.read(0, block(0));
    },
  );
});

describe('an observer', () => {
  test('that throws what has no words stops nothing either', async () => {
    const server = new MemoryServer({ size: 4096 });
    const storage = await connected(server, {
      observer: () => {
        throw Object.create(null);
      },
    });
    await storage.write(0, block(1), PLAIN);
    server.crash();
    await storage.flush(SIMPLE);
    storage.destroy();
    // Warnings come later, and the next test counts its own.
    await pause(5);
  });

  test('that throws is reported, and stops nothing', async () => {
    const said = vi.spyOn(console, 'error').mockImplementation(() => {});
    onTestFinished(() => said.mockRestore());
    const server = new MemoryServer({ size: 4096 });
    const kinds: string[] = [];
    const storage = await connected(server, {
      triesMax: 3,
      observer: ({ kind }) => {
        kinds.push(kind);
        if (kind === 'retry') server.down = false;
        throw new Error('no good\u001b[2J');
      },
    });
    await storage.write(0, block(1), PLAIN);
    server.down = true;
    server.crash();
    await storage.flush(SIMPLE);
    expect(server.medium.subarray(0, 512)).toEqual(block(1));
    storage.destroy();
    expect(kinds).toEqual(['lost', 'retry', 'reconnected', 'failed']);
    await pause(5);
    // Once, because a broken observer throws at every event.
    expect(said.mock.calls).toEqual([
      [
        'write-barrier: the observer of an NbdStorage threw; what it observes goes on: no good\\u001b[2J',
      ],
    ]);
  });

  test.each(['lost', 'retry', 'reconnected'])(
    'may destroy the storage when it hears %s',
    async (what) => {
      const server = new MemoryServer({ size: 4096 });
      const kinds: string[] = [];
      const storage = await connected(server, {
        observer: ({ kind }) => {
          kinds.push(kind);
          if (kind === 'retry') server.down = false;
          if (kind === what) storage.destroy();
        },
      });
      await storage.write(0, block(1), PLAIN);
      server.down = true;
      server.crash();
      const error = await errorThrown(() => storage.flush(SIMPLE));
      expect(['CONNECTION_LOST', 'CLOSED']).toContain((error as NbdLostError).code);
      await pause(10);
      expect(kinds.at(-1)).toBe('failed');
      expect(kinds.filter((kind) => kind === 'failed').length).toBe(1);
      expect(server.connections).toBe(0);
    },
  );
});

describe('a dialer, when the server was lost', () => {
  const void_ = (): Duplex =>
    new Duplex({ read: () => {}, write: (_bytes, _encoding, done) => done() });
  const dialers: readonly (readonly [string, () => unknown])[] = [
    [
      'throws',
      () => {
        throw new Error('no');
      },
    ],
    ['rejects', () => Promise.reject(new Error('no'))],
    ['rejects with what has no words', () => Promise.reject(Object.create(null))],
    ['never answers', () => new Promise(() => {})],
    ['answers with nothing', () => undefined],
    ['answers with what is no stream', () => ({ on: () => {} })],
    ['answers with a stream that is closed', () => void_().destroy()],
    ['answers with a stream that fails', () => void_().destroy(new Error('no'))],
    ['answers with a stream that says nothing', void_],
    [
      'answers with a stream that ends',
      () => {
        const one = void_();
        one.push(null);
        return one;
      },
    ],
    [
      'answers with a stream of strings',
      () => {
        const one = void_();
        one.setEncoding('utf8').push('NBDMAGIC');
        return one;
      },
    ],
    [
      'answers with a stream of objects',
      () => {
        const one = new Duplex({
          objectMode: true,
          read: () => {},
          write: (_b, _e, done) => done(),
        });
        one.push({});
        return one;
      },
    ],
  ];

  test.each(dialers)('that %s costs a try, and no request waits for ever', async (_, bad) => {
    const server = new MemoryServer({ size: 4096 });
    let dials = 0;
    const dial = (): Duplex => {
      dials += 1;
      return dials === 1 ? server.dial() : (bad() as Duplex);
    };
    const options = { dial, triesMax: 2, delayMsMax: 0, timeoutMs: 30 };
    const storage = await connected(server, options as Partial<NbdStorageOptions>);
    await storage.write(0, block(1), PLAIN);
    server.crash();
    const error = await errorThrown(() => storage.flush(SIMPLE));
    expect(error).toMatchObject({ code: 'CONNECTION_LOST', atRisk: [{ start: 0, end: 512 }] });
    expect(dials).toBe(3);
  });
});

describe('the wait before a try to reconnect', () => {
  const settings = fc.record({ delayMs: fc.nat(10_000), delayMsMax: fc.nat(100_000) });
  const random = fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true });

  test('doubles up to its bound, less a random part of at most a half', () => {
    fc.assert(
      fc.property(settings, fc.nat(2000), random, (given, tries, dice) => {
        const whole = given.delayMs && Math.min(given.delayMs * 2 ** tries, given.delayMsMax);
        const delay = reconnectDelayMs(tries, given, dice);
        expect(delay).toBeLessThanOrEqual(whole);
        expect(delay).toBeGreaterThanOrEqual(whole / 2);
      }),
    );
  });

  test('differs among clients that were lost together', () => {
    const given = { delayMs: 50, delayMsMax: 5000 };
    const delays = [0, 0.25, 0.5, 0.75].map((dice) => reconnectDelayMs(3, given, dice));
    expect(delays).toEqual([400, 350, 300, 250]);
  });
});
