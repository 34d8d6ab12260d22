// One connection without its socket, against servers that are cut up, broken, or hostile. The rules are at the heads of
// src/nbd/client/session.ts (C, H) and replies.ts (R).

import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { type ClientEvent, ClientSession } from '../../src/nbd/client/session.js';
import {
  type Chunk,
  COMMAND,
  encodeExportNameReply,
  encodeInfo,
  encodeOptionReply,
  LISTED_EXPORT,
  OPTION,
  OPTION_REPLY,
  SERVER_GREETING,
  SIMPLE_REPLY,
} from '../../src/nbd/wire/index.js';
import { share } from '../kit/amount.js';
import {
  ALLOCATION,
  ack,
  bearServers,
  bytesOf,
  EXPORT,
  eventsOf,
  FACTS,
  GREETING,
  HANDSHAKE,
  hangUp,
  hear,
  info,
  PLAN,
  read,
  ready,
} from './client-fuzz.js';
import { encodeChunk } from './support.js';

const NO_CONTEXT = encodeOptionReply(OPTION.SET_META_CONTEXT, OPTION_REPLY.ERR_UNSUP);

function kindsOf(events: readonly ClientEvent[]): string[] {
  return events.map((event) => (event.kind === 'end' ? (event.reason?.code ?? 'end') : event.kind));
}

function chunked(cookie: bigint, ...chunks: readonly Chunk[]): Uint8Array {
  return bytesOf(chunks.flatMap((chunk, i) => encodeChunk(cookie, i === chunks.length - 1, chunk)));
}

describe('nbd-client-session.C2: given a stream, cut up anyhow', () => {
  test('then the events are the same', () => {
    const data = new Uint8Array(100).map((_, at) => at + 1);
    const replies = [
      chunked(
        1n,
        { kind: 'data', offset: 60, data: data.subarray(60) },
        { kind: 'hole', offset: 0, length: 60 },
      ),
      SIMPLE_REPLY.encode({ cookie: 2n, error: 0 }),
      chunked(3n, { kind: 'error', error: 5, message: 'no' }),
    ];
    const stream = bytesOf([...HANDSHAKE, ...replies]);
    const played = (cuts: readonly number[]): { events: ClientEvent[]; into: Uint8Array } => {
      const session = new ClientSession(PLAN);
      const into = new Uint8Array(100).fill(0xee);
      const events: ClientEvent[] = [];
      const marks = [...cuts, stream.length].sort((one, other) => one - other);
      let at = 0;
      for (const mark of marks) {
        session.dialogue.receive(new Uint8Array(stream.subarray(at, mark)));
        for (const event of eventsOf(session)) {
          events.push(event);
          if (event.kind !== 'ready') continue;
          read(session, 1n, into);
          for (const [cookie, command] of [
            [2n, COMMAND.WRITE],
            [3n, COMMAND.FLUSH],
          ] as const) {
            session.request({ command, flags: 0, cookie, offset: 0, length: 0 });
          }
        }
        at = mark;
      }
      return { events, into };
    };
    // Requests are made when the handshake is over, so one cut is there.
    const border = bytesOf(HANDSHAKE).length;
    const whole = played([border]);
    expect(kindsOf(whole.events).slice(-4)).toEqual(['ready', 'answer', 'answer', 'answer']);
    expect(whole.into).toEqual(new Uint8Array(100).fill(0).map((_, at) => (at < 60 ? 0 : at + 1)));
    fc.assert(
      fc.property(fc.array(fc.nat(stream.length), { maxLength: 30 }), (cuts) => {
        expect(played([border, ...cuts])).toEqual(whole);
      }),
    );
    expect(played(Array.from({ length: stream.length }, (_, at) => at))).toEqual(whole);
  });
});

describe('a handshake', () => {
  const heard = (...parts: readonly Uint8Array[]): string[] =>
    kindsOf(hear(new ClientSession(PLAN), bytesOf(parts)));

  test('falls back to EXPORT_NAME where GO is unknown, and where options are', () => {
    const old = encodeExportNameReply(FACTS, { flags: 3 });
    const unknown = encodeOptionReply(OPTION.GO, OPTION_REPLY.ERR_UNSUP);
    const asked = heard(GREETING, ack(OPTION.STRUCTURED_REPLY), NO_CONTEXT, unknown, old);
    expect(asked).toEqual(['send', 'send', 'send', 'send', 'send', 'ready']);
    const plain = SERVER_GREETING.encode({ flags: 0 });
    const zeroes = encodeExportNameReply(FACTS, { flags: 0 });
    expect(heard(plain, zeroes)).toEqual(['send', 'send', 'ready']);
  });

  test('nbd-client-session.H1: asks for nothing before TLS, and takes nothing that came before it', () => {
    const plan = { ...PLAN, tls: true };
    const session = new ClientSession(plan);
    expect(kindsOf(hear(session, GREETING))).toEqual(['send', 'send']);
    expect(kindsOf(hear(session, ack(OPTION.STARTTLS)))).toEqual(['startTls']);
    session.dialogue.secured();
    expect(kindsOf([...eventsOf(session)])).toEqual(['send']);
    const injected = bytesOf([GREETING, ack(OPTION.STARTTLS), ack(OPTION.STRUCTURED_REPLY)]);
    expect(kindsOf(hear(new ClientSession(plan), injected)).at(-1)).toBe('SYNTAX');
  });

  test.each([
    ['no magic', [new Uint8Array(18)]],
    ['an answer to another option', [GREETING, ack(OPTION.LIST)]],
    ['an answer of the wrong kind', [GREETING, encodeOptionReply(8, OPTION_REPLY.SERVER)]],
    ['GO without an export', [GREETING, ack(8), NO_CONTEXT, ack(OPTION.GO)]],
    ['half an info', [GREETING, ack(8), NO_CONTEXT, info(new Uint8Array(3))]],
    [
      'odd blocks',
      [
        GREETING,
        ack(8),
        NO_CONTEXT,
        info(encodeInfo({ kind: 'blockSize', minimum: 3, preferred: 3, maximum: 9 })),
      ],
    ],
    ['an endless answer', [GREETING, encodeOptionReply(8, 1, new Uint8Array(1 << 20))]],
    ['endless information', [GREETING, ack(8), NO_CONTEXT, ...Array(100).fill(EXPORT)]],
  ])('nbd-client-session.H2, nbd-client-session.H3: with %s fails with SYNTAX', (_what, parts) => {
    expect(heard(...parts).at(-1)).toBe('SYNTAX');
  });

  test.each([2n ** 53n, 2n ** 63n, 2n ** 64n - 1n])(
    'with an export of 2^53 bytes or more fails with words that are true: %s',
    (size) => {
      const facts = encodeInfo({ kind: 'export', size: 0, flags: 1 });
      new DataView(facts.buffer, facts.byteOffset).setBigUint64(2, size);
      const stream = bytesOf([GREETING, ack(8), NO_CONTEXT, info(facts), ack(OPTION.GO)]);
      const failed = hear(new ClientSession(PLAN), stream).at(-1);
      expect(failed).toMatchObject({
        kind: 'end',
        reason: { code: 'INVALID_STORAGE', message: expect.stringContaining('2^53') },
      });
      // No rounded number of bytes, and no word of a protocol that was broken.
      expect(JSON.stringify(failed)).not.toMatch(/not the NBD|\d{16}/);
    },
  );

  test('nbd-client-session.H4: with a server that takes less than a block, or less than 512 bytes, in one request fails', () => {
    const limits = (size: number, minimum: number, maximum: number, first: boolean): string => {
      const facts = info(encodeInfo({ kind: 'export', size, flags: 1 }));
      const sizes = { kind: 'blockSize', minimum, preferred: 4096, maximum } as const;
      const blocks = info(encodeInfo(sizes));
      const infos = first ? [blocks, facts] : [facts, blocks];
      return heard(GREETING, ack(8), NO_CONTEXT, ...infos, ack(OPTION.GO)).at(-1) ?? '';
    };
    for (const first of [true, false]) {
      for (const [size, minimum, maximum] of [
        [1 << 20, 1, 1],
        [1 << 20, 1, 511],
        [1 << 20, 512, 511],
        [1 << 20, 4096, 512],
        [1 << 20, 512, 0],
        [100, 1, 99],
      ] as const) {
        expect(limits(size, minimum, maximum, first)).toBe('SYNTAX');
      }
      for (const [size, minimum, maximum] of [
        [1 << 20, 1, 512],
        [1 << 20, 4096, 4096],
        [1 << 20, 1, 2 ** 32 - 1],
        [100, 1, 100],
        [0, 1, 1],
      ] as const) {
        expect(limits(size, minimum, maximum, first)).toBe('ready');
      }
    }
  });

  test('nbd-client-session.H5: what a server says is escaped, in a list and in a refusal', () => {
    const evil = '\u001b[2Jok\r\n\u0007\u202egpj\u009b1m\u2028';
    const escaped = '\\u001b[2Jok\\u000d\\u000a\\u0007\\u202egpj\\u009b1m\\u2028';
    const session = new ClientSession({ ...PLAN, goal: 'list' });
    hear(session, GREETING);
    const entry = LISTED_EXPORT.encode({ name: evil, description: evil });
    hear(session, encodeOptionReply(OPTION.LIST, OPTION_REPLY.SERVER, entry));
    const [, listed, end] = hear(session, ack(OPTION.LIST));
    expect(end).toEqual({ kind: 'end', reason: undefined });
    expect(listed).toEqual({
      kind: 'listed',
      exports: [{ name: escaped, description: escaped }],
    });
    for (const reply of [OPTION_REPLY.ERR_UNKNOWN, OPTION_REPLY.ERR_POLICY]) {
      const said = encodeOptionReply(OPTION.GO, reply, new TextEncoder().encode(evil));
      const [last] = hear(
        new ClientSession(PLAN),
        bytesOf([GREETING, ack(8), NO_CONTEXT, said]),
      ).slice(-1);
      expect(last).toMatchObject({ reason: { message: expect.stringContaining(escaped) } });
    }
  });

  test('nbd-client-session.H3: a list without an end fails', () => {
    const session = new ClientSession({ ...PLAN, goal: 'list' });
    hear(session, GREETING);
    const name = 'x'.repeat(4096);
    const entry = LISTED_EXPORT.encode({ name, description: '' });
    const reply = encodeOptionReply(OPTION.LIST, OPTION_REPLY.SERVER, entry);
    let kinds: string[] = [];
    for (let i = 0; i < 2000 && kinds.length === 0; i += 1) kinds = kindsOf(hear(session, reply));
    expect(kinds).toEqual(['SYNTAX']);
  });

  test('says what the server refuses', () => {
    const refusals = [
      [OPTION_REPLY.ERR_UNKNOWN, 'INVALID_ARGUMENT'],
      [OPTION_REPLY.ERR_TLS_REQD, 'EOPNOTSUPP'],
      [OPTION_REPLY.ERR_POLICY, 'EOPNOTSUPP'],
    ] as const;
    for (const [reply, code] of refusals) {
      const answer = encodeOptionReply(OPTION.GO, reply, new TextEncoder().encode('why'));
      expect(heard(GREETING, ack(8), NO_CONTEXT, answer).at(-1)).toBe(code);
    }
  });
});

describe('a reply', () => {
  const data = (offset: number, length: number): Chunk => ({
    ...{ kind: 'data', offset, data: new Uint8Array(length).fill(7) },
  });
  const none: Chunk = { kind: 'none' };

  test.each([
    ['replies.R1: to a request that was never made', [chunked(9n, none)]],
    ['replies.R1: for the second time', [chunked(1n, data(0, 512)), chunked(1n, data(0, 512))]],
    ['replies.R2: with less than was asked', [chunked(1n, data(0, 511))]],
    ['replies.R2: with nothing of it', [chunked(1n, none)]],
    ['replies.R2: with a byte twice', [chunked(1n, data(0, 300), data(299, 213))]],
    [
      'replies.R2: with a hole over data',
      [chunked(1n, data(0, 512), { kind: 'hole', offset: 5, length: 1 })],
    ],
    ['replies.R2: with more than was asked', [chunked(1n, data(0, 513))]],
    ['replies.R2: from another place', [chunked(1n, data(512, 512))]],
    [
      'with extents',
      [chunked(1n, { kind: 'status', context: 1, extents: [{ length: 1, flags: 0 }] })],
    ],
    ['to a read, simple, against the agreement', [SIMPLE_REPLY.encode({ cookie: 1n, error: 0 })]],
    ['without a magic', [new Uint8Array(20)]],
  ])('%s fails with SYNTAX', (_what, parts) => {
    const session = ready();
    read(session, 1n, new Uint8Array(512));
    const kinds = kindsOf(hear(session, bytesOf(parts)));
    expect(kinds.at(-1)).toBe('SYNTAX');
    expect(hear(session, bytesOf(HANDSHAKE))).toEqual([]);
  });

  const extent = { length: 512, flags: 0 };
  const status = (context: number, extents: readonly (typeof extent)[]): Chunk => ({
    ...{ kind: 'status', context, extents },
  });
  test.each([
    ['of another context', [chunked(1n, status(ALLOCATION + 1, [extent]))]],
    ['with an empty extent', [chunked(1n, status(ALLOCATION, [{ length: 0, flags: 0 }]))]],
    ['twice', [chunked(1n, status(ALLOCATION, [extent]), status(ALLOCATION, [extent]))]],
    ['without extents', [chunked(1n, none)]],
    ['as a simple reply', [SIMPLE_REPLY.encode({ cookie: 1n, error: 0 })]],
    ['with data', [chunked(1n, data(0, 512))]],
    ['with a hole', [chunked(1n, { kind: 'hole', offset: 0, length: 512 })]],
    ['of 2 MiB', [chunked(1n, status(ALLOCATION, Array(2 ** 18).fill(extent)))]],
  ])('replies.R5: to a block status, %s, fails with SYNTAX', (_what, parts) => {
    const session = ready();
    const what = { command: COMMAND.BLOCK_STATUS, flags: 0, cookie: 1n, offset: 0, length: 512 };
    session.request({ ...what, found: [] });
    expect(kindsOf(hear(session, bytesOf(parts))).at(-1)).toBe('SYNTAX');
  });

  test('replies.R5: to a block status may have a mebibyte of extents', () => {
    const session = ready();
    const found: { length: number; flags: number }[] = [];
    const what = { command: COMMAND.BLOCK_STATUS, flags: 0, cookie: 1n, offset: 0, length: 512 };
    session.request({ ...what, found });
    const reply = chunked(1n, status(ALLOCATION, Array(2 ** 17).fill(extent)));
    expect(kindsOf(hear(session, reply))).toEqual(['answer']);
    expect(found.length).toBe(2 ** 17);
  });

  test('structured, where that was not agreed on, fails with SYNTAX', () => {
    const session = ready(false);
    read(session, 1n, new Uint8Array(512));
    expect(kindsOf(hear(session, chunked(1n, data(0, 512))))).toEqual(['SYNTAX']);
  });

  test('replies.R2: in any pieces, in any order, mixed with others, fills just its buffer', () => {
    const cuts = fc.uniqueArray(fc.integer({ min: 1, max: 63 }), { maxLength: 12 });
    fc.assert(
      fc.property(cuts, cuts, fc.infiniteStream(fc.nat()), (one, other, order) => {
        const session = ready();
        const around = new Uint8Array(192).fill(0xee);
        const want = (base: number): Uint8Array => new Uint8Array(64).map((_, at) => base + at);
        read(session, 1n, around.subarray(0, 64), 4096);
        read(session, 2n, around.subarray(128), 8192);
        const pieces = (list: readonly number[], base: number, offset: number): Chunk[] => {
          const marks = [0, ...[...list].sort((a, b) => a - b), 64];
          return marks.slice(1).map((end, i) => ({
            kind: 'data',
            offset: offset + (marks[i] as number),
            data: want(base).subarray(marks[i], end),
          }));
        };
        const queues = [pieces(one, 10, 4096), pieces(other, 100, 8192)];
        let answers = 0;
        while (queues.some(({ length }) => length > 0)) {
          const open = queues.flatMap(({ length }, i) => (length > 0 ? [i] : []));
          const i = open[(order.next().value as number) % open.length] as number;
          const queue = queues[i] as Chunk[];
          const [chunk] = queue.splice((order.next().value as number) % queue.length, 1);
          const bytes = bytesOf(encodeChunk(BigInt(i + 1), queue.length === 0, chunk as Chunk));
          answers += kindsOf(hear(session, bytes)).filter((kind) => kind === 'answer').length;
        }
        expect(answers).toBe(2);
        expect(around).toEqual(
          new Uint8Array([...want(10), ...Array(64).fill(0xee), ...want(100)]),
        );
      }),
      { numRuns: share(500) },
    );
  });

  test('an end in the middle of it is a lost connection', () => {
    const session = ready();
    read(session, 1n, new Uint8Array(512));
    hear(session, chunked(1n, data(0, 512)).subarray(0, 100));
    expect(kindsOf(hangUp(session))).toEqual(['IO_FAILED']);
    expect(hangUp(session)).toEqual([]);
  });
});

// A share of what the interop project does with 50,000.
test('given any server, then a session fails with SYNTAX or goes on, and answers only what was asked', () => {
  bearServers(share(5_000));
});
