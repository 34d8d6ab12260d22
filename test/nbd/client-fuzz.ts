// Servers out of their mind: legal handshakes and replies with bytes changed, taken out, put in and cut, and a client's
// session that has to bear them. The same stream is borne twice, over buffers that held different bytes before, so that a
// byte of a read that did not come from the server is found.

import fc from 'fast-check';
import { expect } from 'vitest';
import { type ClientEvent, ClientSession } from '../../src/nbd/client/session.js';
import {
  BASE_ALLOCATION,
  COMMAND,
  type Extent,
  encodeInfo,
  encodeOptionReply,
  META_CONTEXT,
  OPTION,
  OPTION_REPLY,
  SERVER_GREETING,
  SIMPLE_REPLY,
} from '../../src/nbd/wire/index.js';
import { encodeChunk } from './support.js';

export const GREETING: Uint8Array = SERVER_GREETING.encode({ flags: 3 });
export const FACTS: { readonly size: number; readonly flags: number } = { size: 1 << 20, flags: 1 };
export const ack = (option: number): Uint8Array => encodeOptionReply(option, OPTION_REPLY.ACK);
export const info = (data: Uint8Array): Uint8Array =>
  encodeOptionReply(OPTION.GO, OPTION_REPLY.INFO, data);
export const EXPORT: Uint8Array = info(encodeInfo({ kind: 'export', ...FACTS }));
/** The number of `base:allocation` at this server. */
export const ALLOCATION = 77;
/** It agrees on the context of block statuses. */
export const CONTEXT: readonly Uint8Array[] = [
  encodeOptionReply(
    OPTION.SET_META_CONTEXT,
    OPTION_REPLY.META_CONTEXT,
    META_CONTEXT.encode({ id: ALLOCATION, name: BASE_ALLOCATION }),
  ),
  ack(OPTION.SET_META_CONTEXT),
];
export const HANDSHAKE: readonly Uint8Array[] = [
  ...[GREETING, ack(OPTION.STRUCTURED_REPLY), ...CONTEXT, EXPORT, ack(OPTION.GO)],
];
export const PLAN = { export: 'disk', tls: false, goal: 'use' } as const;

export function bytesOf(parts: readonly Uint8Array[]): Uint8Array {
  return new Uint8Array(Buffer.concat(parts));
}

/** What comes of bytes. */
export function hear(session: ClientSession, said: Uint8Array): ClientEvent[] {
  session.dialogue.receive(said);
  return [...eventsOf(session)];
}

export function hangUp(session: ClientSession): ClientEvent[] {
  session.dialogue.receiveEnd();
  return [...eventsOf(session)];
}

export function* eventsOf(session: ClientSession): Generator<ClientEvent> {
  for (let event = session.dialogue.next(); event; event = session.dialogue.next()) yield event;
}

/** A session with an export in use, structured replies or not. */
export function ready(structured = true): ClientSession {
  const session = new ClientSession(PLAN);
  const refused = encodeOptionReply(OPTION.STRUCTURED_REPLY, OPTION_REPLY.ERR_UNSUP);
  const agreed = structured ? [ack(OPTION.STRUCTURED_REPLY), ...CONTEXT] : [refused];
  hear(session, bytesOf([GREETING, ...agreed]));
  const events = hear(session, bytesOf([EXPORT, ack(OPTION.GO)]));
  expect(events.map(({ kind }) => kind)).toEqual(['ready']);
  return session;
}

export function read(session: ClientSession, cookie: bigint, into: Uint8Array, offset = 0): void {
  session.request({ command: COMMAND.READ, flags: 0, cookie, offset, length: into.length, into });
}

const chunk = fc.oneof(
  fc.record({
    kind: fc.constant('data' as const),
    offset: fc.nat(600),
    data: fc.uint8Array({ minLength: 1, maxLength: 300 }),
  }),
  fc.record({
    kind: fc.constant('hole' as const),
    offset: fc.nat(600),
    length: fc.integer({ min: 1, max: 600 }),
  }),
  fc.record({ kind: fc.constant('none' as const) }),
  fc.record({
    kind: fc.constant('status' as const),
    context: fc.constantFrom(ALLOCATION, 0),
    extents: fc.array(fc.record({ length: fc.nat(600), flags: fc.nat(3) }), {
      minLength: 1,
      maxLength: 5,
    }),
  }),
  fc.record({
    kind: fc.constant('error' as const),
    error: fc.integer({ min: 1, max: 200 }),
    message: fc.constant('e'),
  }),
);
/** A read that is answered as it should be, in two pieces; or else hardly any would be. */
const whole = fc
  .nat(510)
  .map((cut) =>
    bytesOf(
      [
        { kind: 'data', offset: 64 + cut + 1, data: new Uint8Array(511 - cut).fill(7) } as const,
        { kind: 'hole', offset: 64, length: cut + 1 } as const,
      ].flatMap((one, i) => encodeChunk(1n, i === 1, one)),
    ),
  );
const reply = fc.oneof(
  whole,
  fc
    .record({ cookie: fc.bigInt(0n, 5n), error: fc.constantFrom(0, 5) })
    .map((simple) => SIMPLE_REPLY.encode(simple)),
  fc
    .tuple(fc.bigInt(0n, 5n), fc.boolean(), chunk)
    .map(([cookie, done, one]) => bytesOf(encodeChunk(cookie, done, one))),
);
const edit = fc.record({
  at: fc.nat(),
  kind: fc.constantFrom('set', 'cut', 'insert', 'none'),
  value: fc.nat(255),
});
const trial = fc.record({
  replies: fc.array(reply, { maxLength: 8 }),
  edits: fc.array(edit, { maxLength: 4 }),
  early: fc.boolean(),
  structured: fc.boolean(),
});
type Trial = typeof trial extends fc.Arbitrary<infer T> ? T : never;

/** What is allowed to come of a server that is none. */
const FAILURES = ['SYNTAX', 'IO_FAILED', 'EOPNOTSUPP', 'INVALID_ARGUMENT', 'INVALID_STORAGE'];

/** So many servers. No exception, no answer to what was not asked, no byte outside of a buffer or from nowhere. */
export function bearServers(numRuns: number): void {
  let reads = 0;
  fc.assert(
    fc.property(trial, ({ replies, edits, early, structured }) => {
      const stream = damaged(bytesOf([...(early ? HANDSHAKE : []), ...replies]), edits);
      const [one, other] = [0xee, 0x11].map((fill) => borne(stream, early, structured, fill));
      expect(other?.answers).toEqual(one?.answers);
      if (!one?.answers.some(({ cookie, error }) => cookie === 1n && error === 0)) return;
      reads += 1;
      expect(Buffer.compare(one.into, other?.into ?? one.into)).toBe(0);
    }),
    { numRuns },
  );
  // Otherwise nothing but failures would have been tried.
  expect(reads).toBeGreaterThan(numRuns / 100);
}

function damaged(legal: Uint8Array, edits: Trial['edits']): Uint8Array {
  let stream = legal;
  for (const { at, kind, value } of edits) {
    const place = at % (stream.length + 1);
    const [before, behind] = [stream.subarray(0, place), stream.subarray(place)];
    if (kind === 'set') stream = bytesOf([before, new Uint8Array([value]), behind.subarray(1)]);
    if (kind === 'cut') stream = bytesOf([before, behind.subarray(value)]);
    if (kind === 'insert') stream = bytesOf([before, new Uint8Array(value % 9), behind]);
  }
  return stream;
}

type Answer = Extract<ClientEvent, { kind: 'answer' }>['answer'];

function borne(
  stream: Uint8Array,
  early: boolean,
  structured: boolean,
  fill: number,
): { readonly answers: readonly Answer[]; readonly into: Uint8Array } {
  const session = early ? new ClientSession(PLAN) : ready(structured);
  const around = new Uint8Array(1024).fill(fill);
  const into = around.subarray(256, 768);
  const found: Extent[] = [];
  if (!early) {
    read(session, 1n, into, 64);
    for (const [cookie, command] of [
      [2n, COMMAND.WRITE],
      [3n, COMMAND.FLUSH],
    ] as const) {
      session.request({ command, flags: 0, cookie, offset: 0, length: 0 });
    }
    const status = { command: COMMAND.BLOCK_STATUS, flags: 0, cookie: 4n, offset: 0, length: 512 };
    session.request({ ...status, found });
  }
  const events = [...hear(session, stream.slice()), ...hangUp(session)];
  const answers = events.flatMap((event) => (event.kind === 'answer' ? [event.answer] : []));
  expect(new Set(answers.map(({ cookie }) => cookie)).size).toBe(answers.length);
  if (answers.some(({ cookie, error }) => cookie === 4n && error === 0)) {
    expect(found.length).toBeGreaterThan(0);
    expect(found.every(({ length }) => length > 0)).toBe(true);
  }
  for (const { cookie } of answers) expect(early ? [] : [1n, 2n, 3n, 4n]).toContain(cookie);
  const untouched = (from: number, to?: number): boolean =>
    around.subarray(from, to).every((byte) => byte === fill);
  expect(untouched(0, 256) && untouched(768)).toBe(true);
  const last = events.at(-1);
  expect(last?.kind).toBe('end');
  if (last?.kind === 'end') expect(FAILURES).toContain(last.reason?.code);
  return { answers, into };
}
