// Buffers that a caller hands on (postMessage, structuredClone) or shrinks while a request is under way. The request of
// that buffer fails, or is carried out with what it was given; nothing else hears of it. The rules are replies.R3 of replies.ts and
// the head of in-flight.ts.

import fc from 'fast-check';
import { describe, expect, onTestFinished, test } from 'vitest';
import type { ClientEvent } from '../../src/nbd/client/session.js';
import { type NbdEvent, NbdStorage, type NbdStorageOptions } from '../../src/nbd/index.js';
import { COMMAND, SIMPLE_REPLY } from '../../src/nbd/wire/index.js';
import { share } from '../kit/amount.js';
import { errorThrown } from '../storage/contract.js';
import { bytesOf, hear, read, ready } from './client-fuzz.js';
import { MemoryServer } from './client-server.js';
import { encodeChunk } from './support.js';

const PLAIN = { fua: false, tag: 'simple' } as const;
const SIMPLE = { tag: 'simple' } as const;
const SIZE = 8192;

/** A buffer that can be made shorter and longer; the types of this project's `lib` are older. */
interface Resizable extends ArrayBuffer {
  resize(length: number): void;
}

/** What is done to a buffer of `SIZE` bytes, or less. */
const WAYS = {
  transferred: (buffer) => void structuredClone(buffer, { transfer: [buffer] }),
  shrunk: (buffer: Resizable) => buffer.resize(512),
  emptied: (buffer: Resizable) => buffer.resize(0),
  'shrunk by a byte': (buffer: Resizable) => buffer.resize(buffer.byteLength - 1),
} satisfies Readonly<Record<string, (buffer: Resizable) => void>>;

/** Each kind of view that a caller may give. */
const VIEWS = {
  'of a fixed length': (buffer) => new Uint8Array(buffer, 0, buffer.byteLength),
  'that follows the length': (buffer) => new Uint8Array(buffer),
  'of a Buffer': (buffer) => Buffer.from(buffer),
} satisfies Readonly<Record<string, (buffer: ArrayBuffer) => Uint8Array>>;

const resizable = (length = SIZE): Resizable =>
  new (ArrayBuffer as unknown as new (length: number, options: object) => Resizable)(length, {
    maxByteLength: SIZE,
  });

const cases = Object.keys(WAYS).flatMap((way) =>
  Object.keys(VIEWS).map((view) => [way, view] as [keyof typeof WAYS, keyof typeof VIEWS]),
);

async function connected(
  server: MemoryServer,
  options: Partial<NbdStorageOptions> = {},
): Promise<{ storage: NbdStorage; events: NbdEvent[] }> {
  const events: NbdEvent[] = [];
  const observer = (event: NbdEvent): unknown => events.push(event);
  const given = { dial: server.dial, delayMs: 0, observer, ...options } as NbdStorageOptions;
  const storage = await NbdStorage.connect(given);
  onTestFinished(() => void storage.destroy());
  return { storage, events };
}

describe.each(cases)('a buffer that is %s, with a view %s', (way, viewOf) => {
  const happens = WAYS[way];
  const view = VIEWS[viewOf];

  for (const structured of [true, false]) {
    test(`has its read fail, and no other, structured replies ${structured}`, async () => {
      const server = new MemoryServer({ size: SIZE, structured });
      server.cache.fill(7, 0, 4096);
      const { storage, events } = await connected(server);
      const buffer = resizable();
      const others = [0, 4096].map(() => new Uint8Array(4096));
      const [before, behind] = others as [Uint8Array, Uint8Array];
      const ends = [
        storage.read(0, before),
        errorThrown(() => storage.read(0, view(buffer))),
        storage.read(4096, behind),
      ];
      happens(buffer);
      const [, error] = await Promise.all(ends);
      expect(error).toMatchObject({
        code: 'INVALID_ARGUMENT',
        message: expect.stringContaining('transferred or resized'),
      });
      expect(before.every((byte) => byte === 7)).toBe(true);
      expect(behind.every((byte) => byte === 0)).toBe(true);
      await storage.read(0, behind);
      expect([behind[0], events, storage.state]).toEqual([7, [], 'connected']);
    });
  }

  test('has its read fail also when the request is sent again, or sent only then', async () => {
    const server = new MemoryServer({ size: SIZE });
    const { storage, events } = await connected(server);
    server.hangs = () => true;
    const [sent, waiting] = [resizable(), resizable()];
    const first = errorThrown(() => storage.read(0, view(sent)));
    server.down = true;
    server.crash();
    const second = errorThrown(() => storage.read(0, view(waiting)));
    happens(sent);
    happens(waiting);
    server.hangs = () => false;
    server.down = false;
    for (const end of [first, second]) {
      expect(await end).toMatchObject({ code: 'INVALID_ARGUMENT' });
    }
    await storage.read(0, new Uint8Array(SIZE));
    expect(events.filter(({ kind }) => kind === 'lost').length).toBe(1);
  });

  test('has been written as it was, alone and in a list, and is sent again so', async () => {
    const server = new MemoryServer({ size: SIZE });
    const { storage, events } = await connected(server);
    const [one, other] = [resizable(4096), resizable(4096)];
    const [data, list] = [view(one).fill(5), view(other).fill(6)];
    const writes = [
      storage.write(0, data, PLAIN),
      storage.writev(4096, [list.subarray(0, 512), list.subarray(512)], PLAIN),
    ];
    happens(one);
    happens(other);
    await Promise.all(writes);
    const expected = new Uint8Array(SIZE).fill(5).fill(6, 4096);
    expect(Buffer.compare(server.cache, expected)).toBe(0);
    server.crash();
    await storage.flush(SIMPLE);
    expect(Buffer.compare(server.medium, expected)).toBe(0);
    expect(events.map(({ kind }) => kind)).toEqual(['lost', 'reconnected']);
  });

  test('has been written as it was, when the server was away', async () => {
    const server = new MemoryServer({ size: SIZE });
    const { storage } = await connected(server);
    server.down = true;
    server.crash();
    const buffer = resizable();
    const write = storage.write(0, view(buffer).fill(9), PLAIN);
    happens(buffer);
    server.down = false;
    await write;
    expect(Buffer.compare(server.cache, new Uint8Array(SIZE).fill(9))).toBe(0);
  });
});

test('a buffer that grows is read into as far as it went', async () => {
  const server = new MemoryServer({ size: SIZE });
  server.cache.fill(7);
  const { storage } = await connected(server);
  const buffer = resizable(4096);
  const reading = storage.read(0, new Uint8Array(buffer));
  buffer.resize(SIZE);
  await reading;
  const bytes = new Uint8Array(buffer);
  expect([bytes[4095], bytes[4096]]).toEqual([7, 0]);
});

test('what a caller writes over after the call is not what is written', async () => {
  const server = new MemoryServer({ size: SIZE });
  const { storage } = await connected(server);
  const data = new Uint8Array(SIZE).fill(1);
  const write = storage.write(0, data, PLAIN);
  data.fill(2);
  await write;
  data.fill(3);
  server.crash();
  await storage.flush(SIMPLE);
  expect(Buffer.compare(server.medium, new Uint8Array(SIZE).fill(1))).toBe(0);
});

// Goal: replies.R3 at every moment. Method: a stream of replies, cut anywhere, and the buffer of one read taken away at one cut, and
// perhaps given its length back at a later one.
test('replies.R3: whenever the buffer of a read is gone, its answer says so, and all other replies are as ever', () => {
  const LENGTH = 600;
  const chunks = (cookie: bigint): Uint8Array =>
    bytesOf([
      ...encodeChunk(cookie, false, {
        kind: 'data',
        offset: 300,
        data: new Uint8Array(300).fill(8),
      }),
      ...encodeChunk(cookie, false, { kind: 'hole', offset: 200, length: 100 }),
      ...encodeChunk(cookie, true, { kind: 'data', offset: 0, data: new Uint8Array(200).fill(8) }),
    ]);
  const simple = (cookie: bigint): Uint8Array =>
    bytesOf([SIMPLE_REPLY.encode({ cookie, error: 0 }), new Uint8Array(LENGTH).fill(8)]);
  fc.assert(
    fc.property(
      fc.record({
        structured: fc.boolean(),
        cuts: fc.array(fc.nat(2200), { minLength: 1, maxLength: 8 }),
        goes: fc.nat(8),
        comesBack: fc.boolean(),
        way: fc.constantFrom('transferred', 'shrunk', 'emptied'),
      }),
      ({ structured, cuts, goes, comesBack, way }) => {
        const session = ready(structured);
        const buffer = resizable(LENGTH);
        const [before, behind] = [new Uint8Array(LENGTH), new Uint8Array(LENGTH)];
        const reply = structured ? chunks : simple;
        read(session, 1n, before);
        read(session, 2n, new Uint8Array(buffer, 0, LENGTH));
        read(session, 3n, behind);
        session.request({ command: COMMAND.FLUSH, flags: 0, cookie: 4n, offset: 0, length: 0 });
        const stream = bytesOf([
          ...[reply(1n), reply(2n), reply(3n)],
          SIMPLE_REPLY.encode({ cookie: 4n, error: 0 }),
        ]);
        const marks = [...cuts, stream.length].sort((one, other) => one - other);
        const events: ClientEvent[] = [];
        let [at, missed] = [0, false];
        const place = reply(1n).length;
        for (const [i, mark] of marks.entries()) {
          if (i === goes) WAYS[way](buffer);
          if (i === goes + 1 && comesBack && way !== 'transferred') buffer.resize(LENGTH);
          const gone = i >= goes && buffer.byteLength < LENGTH;
          // Something of its data has come while it was gone.
          const [from, to] = [Math.max(at, place + 40), Math.min(mark, 2 * place)];
          const inSimple = [Math.max(at, place + 16), Math.min(mark, 2 * place)] as const;
          if (gone && !structured && inSimple[0] < inSimple[1]) missed = true;
          if (gone && structured && from + 60 < to) missed = true;
          events.push(...hear(session, new Uint8Array(stream.subarray(at, mark))));
          at = Math.max(at, mark);
        }
        const answers = events.flatMap((event) => (event.kind === 'answer' ? [event.answer] : []));
        expect(answers.map(({ cookie, error }) => [cookie, error])).toEqual(
          [1n, 2n, 3n, 4n].map((cookie) => [cookie, 0]),
        );
        for (const into of [before, behind]) {
          expect(
            into.every((byte, i) => byte === (structured && i >= 200 && i < 300 ? 0 : 8)),
          ).toBe(true);
        }
        const dropped = answers.map((answer) => answer.dropped);
        expect([dropped[0], dropped[2], dropped[3]]).toEqual([false, false, false]);
        if (missed) expect(dropped[1]).toBe(true);
        if (goes >= marks.length) expect(dropped[1]).toBe(false);
      },
    ),
    { numRuns: share(3000) },
  );
});
