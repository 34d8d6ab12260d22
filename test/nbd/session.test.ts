import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { type Capabilities, MemoryStorage } from '../../src/index.js';
import type { Outcome } from '../../src/nbd/server/commands.js';
import { type ExportInfo, exportsOf, limitsOf } from '../../src/nbd/server/options.js';
import { type ServerEvent, ServerSession } from '../../src/nbd/server/session.js';
import {
  BASE_ALLOCATION,
  CLIENT_FLAGS,
  COMMAND,
  COMMAND_FLAG,
  decodeInfo,
  encodeOption,
  INFO,
  INFO_REQUEST,
  LISTED_EXPORT,
  META_CONTEXT,
  META_CONTEXT_REQUEST,
  NBD_ERROR,
  OPTION,
  OPTION_REPLY as REPLY,
  SERVER_GREETING,
  TRANSMISSION_FLAG,
} from '../../src/nbd/wire/index.js';
import { share } from '../kit/amount.js';
import {
  Answers,
  answered,
  BOTH,
  bytes,
  FLAGS,
  go,
  type OptionAnswer,
  request,
  STRUCTURED,
  setContexts,
} from './support.js';

const SIZE = 64 * 1024;
const REQUEST_MAX = 128 * 1024;
const limits = limitsOf({ requestBytes: REQUEST_MAX });
const { READ, WRITE, DISC, FLUSH, TRIM, CACHE, WRITE_ZEROES, BLOCK_STATUS } = COMMAND;
const { EINVAL, ENOSPC, ENOTSUP, EPERM, EOVERFLOW, ESHUTDOWN } = NBD_ERROR;

const disk = (capabilities: Partial<Capabilities> = {}): MemoryStorage =>
  new MemoryStorage(SIZE, { capabilities });
const EXPORTS = exportsOf(
  { exports: { '': disk(), ro: { storage: disk(), readOnly: true } } },
  limits,
);

interface Conversation {
  readonly session: ServerSession;
  readonly answers: Answers;
  readonly events: ServerEvent[];
  say(...parts: readonly Uint8Array[]): void;
  ended(): string | undefined | false;
}

/** A session that is asked for all it has; requests are answered with success at once, unless `hold`. */
function converse(
  exports: ReadonlyMap<string, ExportInfo> = EXPORTS,
  { tls = false, hold = false }: { tls?: boolean; hold?: boolean } = {},
): Conversation {
  const session = new ServerSession({ exports, tls }, REQUEST_MAX);
  const answers = new Answers();
  const events: ServerEvent[] = [];
  const push = (parts: readonly Uint8Array[]): void => {
    for (const part of parts) answers.reader.push(part);
  };
  const pump = (): void => {
    for (let event = session.dialogue.next(); event; event = session.dialogue.next()) {
      events.push(event);
      if (event.kind === 'send') push(event.parts);
      if (event.kind === 'request' && !hold) push(answered(session, event.request, outcome(event)));
    }
  };
  pump();
  return {
    session,
    answers,
    events,
    say: (...parts) => {
      for (const part of parts) session.dialogue.receive(part);
      pump();
    },
    ended: () => {
      const end = events.find((event) => event.kind === 'end');
      return end ? end.reason?.message : false;
    },
  };
}

function outcome({
  request: { command, length },
}: Extract<ServerEvent, { kind: 'request' }>): Outcome {
  if (command === READ) return { data: new Uint8Array(length) };
  return command === BLOCK_STATUS ? { extents: [{ length, flags: 0 }] } : {};
}

/** In transmission, with the answers of the handshake out of the way. */
function opened(name = '', structured = false, options: { hold?: boolean } = {}): Conversation {
  const talk = converse(EXPORTS, options);
  talk.say(
    FLAGS,
    ...(structured ? [STRUCTURED, setContexts(name, BASE_ALLOCATION)] : []),
    go(name),
  );
  talk.answers.options();
  talk.answers.opened();
  return talk;
}

/** What a request is answered with: its error, 0 for success. */
function errorOf(talk: Conversation, ...parts: readonly Uint8Array[]): number | undefined {
  talk.say(...parts);
  return talk.answers.reply()?.error;
}

describe('the handshake', () => {
  test('greets as fixed newstyle without zeroes', () => {
    expect(SERVER_GREETING.decode(converse().answers.greeting() as Uint8Array)).toEqual(BOTH);
  });

  test('tells size, flags and block sizes, and what else was asked for', () => {
    const talk = converse();
    const wants = [INFO.NAME, INFO.DESCRIPTION];
    talk.say(FLAGS, encodeOption(OPTION.INFO, INFO_REQUEST.encode({ name: '', wants })), go());
    const told = talk.answers.options();
    const infos = told
      .filter(({ reply }) => reply === REPLY.INFO)
      .map(({ data }) => decodeInfo(data));
    const F = TRANSMISSION_FLAG;
    const flags = F.HAS_FLAGS | F.SEND_FLUSH | F.SEND_FUA | F.SEND_TRIM | F.SEND_WRITE_ZEROES;
    expect(infos.slice(0, 3)).toEqual([
      { kind: 'export', size: SIZE, flags: flags | F.CAN_MULTI_CONN | F.SEND_CACHE },
      { kind: 'blockSize', minimum: 512, preferred: 4096, maximum: REQUEST_MAX },
      { kind: 'name', text: '' },
    ]);
    expect(told.filter(({ reply }) => reply === REPLY.ACK)).toHaveLength(2);
    expect(talk.events.at(-1)).toEqual({ kind: 'open', name: '' });
  });

  test('opens an export by its old name, with zeroes for whoever wants them', () => {
    const talk = converse();
    talk.say(CLIENT_FLAGS.encode({ flags: 1 }));
    talk.say(encodeOption(OPTION.EXPORT_NAME, Buffer.from('ro')));
    talk.answers.greeting();
    expect(talk.answers.reader.length).toBe(134);
    expect(talk.session.open).toBe(true);
  });

  test('lists exports and contexts, and refuses what it does not know', () => {
    const talk = converse();
    const contexts = (option: number, ...queries: string[]): Uint8Array =>
      encodeOption(option, META_CONTEXT_REQUEST.encode({ name: '', queries }));
    talk.say(FLAGS, encodeOption(OPTION.LIST), encodeOption(77), go('gone'));
    const [first, second, ack, unknown, gone] = talk.answers.options();
    expect(LISTED_EXPORT.decode(first?.data as Uint8Array).name).toBe('');
    expect(LISTED_EXPORT.decode(second?.data as Uint8Array).name).toBe('ro');
    expect([ack?.reply, unknown?.reply, gone?.reply]).toEqual([
      REPLY.ACK,
      REPLY.ERR_UNSUP,
      REPLY.ERR_UNKNOWN,
    ]);
    talk.say(contexts(OPTION.SET_META_CONTEXT, BASE_ALLOCATION), STRUCTURED);
    expect(talk.answers.options().map(({ reply }) => reply)).toEqual([
      REPLY.ERR_INVALID,
      REPLY.ACK,
    ]);
    talk.say(
      contexts(OPTION.LIST_META_CONTEXT),
      contexts(OPTION.SET_META_CONTEXT, 'x:y', BASE_ALLOCATION),
    );
    const [listed, , set] = talk.answers.options();
    expect(META_CONTEXT.decode(listed?.data as Uint8Array)).toEqual({
      id: 0,
      name: BASE_ALLOCATION,
    });
    expect(META_CONTEXT.decode(set?.data as Uint8Array)).toEqual({ id: 1, name: BASE_ALLOCATION });
  });

  test('answers malformed data with INVALID, and too much of it with TOO_BIG', () => {
    const talk = converse();
    talk.say(FLAGS, encodeOption(OPTION.GO, Uint8Array.of(1, 2, 3)));
    talk.say(
      encodeOption(OPTION.LIST, new Uint8Array(1)),
      encodeOption(OPTION.GO, new Uint8Array(70_000)),
    );
    talk.say(go());
    const replies = talk.answers.options().map(({ reply }) => reply);
    expect(replies.slice(0, 3)).toEqual([REPLY.ERR_INVALID, REPLY.ERR_INVALID, REPLY.ERR_TOO_BIG]);
    expect(replies.at(-1)).toBe(REPLY.ACK);
  });

  test('acknowledges ABORT and ends', () => {
    const talk = converse();
    talk.say(FLAGS, encodeOption(OPTION.ABORT), go());
    expect(talk.answers.options().map(({ reply }) => reply)).toEqual([REPLY.ACK]);
    expect(talk.ended()).toBeUndefined();
  });

  test('nbd-server-session.N4: ends at a wrong magic, at unknown client flags, at an unknown name that cannot be refused', () => {
    for (const said of [
      [Uint8Array.of(0, 0, 0, 7)],
      [FLAGS, new Uint8Array(16)],
      [FLAGS, encodeOption(OPTION.EXPORT_NAME, Buffer.from('gone'))],
      [FLAGS, encodeOption(OPTION.EXPORT_NAME, new Uint8Array(5000))],
      [CLIENT_FLAGS.encode({ flags: 2 }), go()],
      [FLAGS, go(), new Uint8Array(28)],
    ]) {
      const talk = converse();
      talk.say(...said);
      expect(talk.ended()).toEqual(expect.any(String));
      const before = talk.events.length;
      talk.say(FLAGS, go(), new Uint8Array(100));
      expect(talk.events.length).toBe(before);
    }
  });

  test('negotiation.T5: tells a client that has not asked for block sizes to do so, where they are not the usual ones', () => {
    const exports = exportsOf(
      {
        exports: {
          '': disk({ blockSize: 4096 }),
          small: disk({ blockSize: 512 }),
          bytes: disk({ blockSize: 1 }),
        },
      },
      limits,
    );
    const asked = (option: number, name: string, ...wants: number[]): Conversation => {
      const talk = converse(exports);
      talk.say(FLAGS, encodeOption(option, INFO_REQUEST.encode({ name, wants })));
      return talk;
    };
    for (const option of [OPTION.GO, OPTION.INFO]) {
      const talk = asked(option, '', INFO.NAME);
      const [sizes, refusal, ...none] = talk.answers.options();
      expect(decodeInfo(sizes?.data as Uint8Array)).toMatchObject({ minimum: 4096 });
      expect([refusal?.reply, none]).toEqual([REPLY.ERR_BLOCK_SIZE_REQD, []]);
      expect(talk.session.open).toBe(false);
      // It asks, and is let in.
      talk.say(
        encodeOption(OPTION.GO, INFO_REQUEST.encode({ name: '', wants: [INFO.BLOCK_SIZE] })),
      );
      expect(talk.session.open).toBe(true);
      for (const name of ['small', 'bytes']) {
        expect(asked(option, name).answers.options().at(-1)?.reply).toBe(REPLY.ACK);
      }
    }
    const byName = converse(exports);
    byName.say(FLAGS, encodeOption(OPTION.EXPORT_NAME));
    expect(byName.ended()).toMatch(/blocks of 4096 bytes/);
    expect(byName.session.open).toBe(false);
  });

  test('negotiation.T6: answers an option with one buffer', () => {
    const names = Array.from({ length: 50 }, (_, i) => [`e${i}`, disk()] as const);
    const talk = converse(exportsOf({ exports: Object.fromEntries(names) }, limits));
    talk.say(FLAGS, encodeOption(OPTION.LIST), go('e7'));
    const sends = talk.events.filter((event) => event.kind === 'send');
    expect(sends.map(({ parts }) => parts.length)).toEqual([1, 1, 1]);
    expect(talk.answers.options()).toHaveLength(50 + 1 + 2 + 1);
  });

  test('negotiation.T6: does not take thousands of queries for contexts', () => {
    const talk = converse();
    const asked = (count: number): Uint8Array => setContexts('', ...Array(count).fill(''));
    talk.say(FLAGS, STRUCTURED, asked(256), asked(257), asked(16_000));
    const replies = talk.answers.options().map(({ reply }) => reply);
    expect(replies).toEqual([REPLY.ACK, REPLY.ACK, REPLY.ERR_TOO_BIG, REPLY.ERR_TOO_BIG]);
  });

  test('nbd-server-session.N6: lets a client ask about every export before it chooses, and no more', () => {
    const names = Array.from({ length: 50 }, (_, i) => [`e${i}`, disk()] as const);
    const exports = exportsOf({ exports: Object.fromEntries(names) }, limits);
    const talk = converse(exports);
    talk.say(FLAGS, STRUCTURED, encodeOption(OPTION.LIST));
    for (const [name] of names) {
      talk.say(encodeOption(OPTION.INFO, INFO_REQUEST.encode({ name, wants: [3] })));
      talk.say(setContexts(name, BASE_ALLOCATION));
    }
    talk.say(go('e1'));
    expect(talk.session.open).toBe(true);

    const endless = converse(exports);
    endless.say(FLAGS, ...Array.from({ length: 32 + 4 * 50 }, () => STRUCTURED));
    expect(endless.ended()).toBe(false);
    endless.say(STRUCTURED);
    expect(endless.ended()).toMatch(/more than 232 options/);
  });

  test('nbd-server-session.N6: lets a client hear every description, and not for ever', () => {
    const storage = disk();
    const names = Array.from(
      { length: 500 },
      (_, i) => [`e${i}`, { storage, description: 'x'.repeat(4096) }] as const,
    );
    const talk = converse(exportsOf({ exports: Object.fromEntries(names) }, limits));
    talk.say(FLAGS);
    let lists = 0;
    for (; talk.ended() === false && lists < 100; lists += 1) {
      talk.say(encodeOption(OPTION.LIST));
      talk.answers.reader.skip(talk.answers.reader.length);
    }
    expect(lists).toBeGreaterThan(4);
    expect(lists).toBeLessThan(8);
  });

  test('answers with SHUTDOWN once the server is closing', () => {
    const talk = converse();
    talk.session.shutdown();
    talk.say(FLAGS, go());
    expect(talk.answers.options().map(({ reply }) => reply)).toEqual([REPLY.ERR_SHUTDOWN]);
  });
});

describe('what is offered', () => {
  const F = TRANSMISSION_FLAG;
  const flagsOf = (capabilities: Partial<Capabilities>, readOnly = false): number =>
    exportsOf({ exports: { x: { storage: disk(capabilities), readOnly } } }, limits).get('x')
      ?.flags ?? 0;

  test.each<[string, Partial<Capabilities>, number, number]>([
    [
      'no cache, nothing to flush with',
      { cache: 'none', flush: false, fua: false },
      F.SEND_FLUSH | F.SEND_FUA,
      0,
    ],
    ['a cache and a flush', { cache: 'volatile', fua: false }, F.SEND_FLUSH | F.SEND_FUA, 0],
    ['a cache and FUA alone', { cache: 'volatile', flush: false }, F.SEND_FUA, F.SEND_FLUSH],
    [
      'a cache and no way past it',
      { cache: 'volatile', flush: false, fua: false },
      0,
      F.SEND_FLUSH | F.SEND_FUA,
    ],
    ['no discard', { discard: false }, F.SEND_WRITE_ZEROES, F.SEND_TRIM],
    ['no zeroes of its own', { writeZeroes: false }, F.SEND_WRITE_ZEROES, F.SEND_FAST_ZERO],
  ])('follows from the capabilities: %s', (_, capabilities, there, absent) => {
    expect(flagsOf(capabilities) & there).toBe(there);
    expect(flagsOf(capabilities) & absent).toBe(0);
  });

  test('never includes writes where the export is read-only', () => {
    expect(flagsOf({}, true) & F.READ_ONLY).toBe(F.READ_ONLY);
    expect(flagsOf({}, true) & (F.SEND_TRIM | F.SEND_WRITE_ZEROES | F.SEND_FAST_ZERO)).toBe(0);
  });

  test('one storage under two names has one scheduler, and a scheduler is taken as it is', () => {
    const storage = disk();
    const exports = exportsOf({ exports: { a: storage, b: storage } }, limits);
    expect(exports.get('a')?.scheduler).toBe(exports.get('b')?.scheduler);
    const { scheduler } = exports.get('a') ?? {};
    if (!scheduler) throw new Error('no scheduler');
    expect(exportsOf({ exports: { c: scheduler } }, limits).get('c')?.scheduler).toBe(scheduler);
  });

  test('is refused at once where the protocol cannot say it', () => {
    const misuse = expect.objectContaining({ code: 'INVALID_ARGUMENT' });
    const storage = new MemoryStorage(520 * 8, { capabilities: { blockSize: 520 } });
    expect(() => exportsOf({ exports: { x: storage } }, limits)).toThrow(misuse);
    expect(() => exportsOf({ exports: {} }, limits)).toThrow(misuse);
    expect(() => exportsOf({ exports: { ['x'.repeat(4097)]: disk() } }, limits)).toThrow(misuse);
    expect(() =>
      exportsOf({ exports: { x: { storage: disk(), tls: 'required' } } }, limits),
    ).toThrow(misuse);
    expect(() => limitsOf({ requestBytes: 1000 })).toThrow(misuse);
  });
});

describe('TLS', () => {
  const terms = (name: string, tls: ExportInfo['tls']): [string, ExportInfo] => [
    name,
    { ...(EXPORTS.get('') as ExportInfo), name, tls },
  ];
  const STARTTLS = encodeOption(OPTION.STARTTLS);
  const replies = (talk: Conversation): number[] =>
    talk.answers.options().map(({ reply }) => reply);

  test('negotiation.T1: where every export requires it, nothing else is answered before', () => {
    const talk = converse(new Map([terms('a', 'required'), terms('b', 'required')]), { tls: true });
    talk.say(FLAGS, encodeOption(OPTION.LIST), STRUCTURED, go('a'), encodeOption(77));
    expect(replies(talk)).toEqual(Array(4).fill(REPLY.ERR_TLS_REQD));
    talk.say(STARTTLS);
    expect(replies(talk)).toEqual([REPLY.ACK]);
    expect(talk.events.at(-1)).toEqual({ kind: 'startTls' });
    talk.session.dialogue.secured();
    talk.say(go('a'));
    expect(replies(talk).at(-1)).toBe(REPLY.ACK);
  });

  test('negotiation.T2: an export is listed and opened only as its policy has it', () => {
    const exports = new Map([terms('r', 'required'), terms('o', 'optional'), terms('p', 'off')]);
    const plain = converse(exports, { tls: true });
    const names = (talk: Conversation): string[] => {
      talk.say(encodeOption(OPTION.LIST));
      const listed = talk.answers.options().filter(({ reply }) => reply === REPLY.SERVER);
      return listed.map(({ data }) => LISTED_EXPORT.decode(data).name);
    };
    plain.say(FLAGS);
    expect(names(plain)).toEqual(['o', 'p']);
    plain.say(go('r'));
    expect(replies(plain)).toEqual([REPLY.ERR_TLS_REQD]);
    plain.say(STARTTLS);
    expect(replies(plain)).toEqual([REPLY.ACK]);
    plain.session.dialogue.secured();
    expect(names(plain)).toEqual(['r', 'o']);
    plain.say(STARTTLS, go('p'), go('nothing'));
    expect(replies(plain)).toEqual([REPLY.ERR_INVALID, REPLY.ERR_POLICY, REPLY.ERR_UNKNOWN]);
    const byName = converse(exports, { tls: true });
    byName.say(FLAGS, encodeOption(OPTION.EXPORT_NAME, Buffer.from('r')));
    expect(byName.ended()).toEqual(expect.any(String));
  });

  test('negotiation.T2: without TLS nobody can tell an export that requires it from none', () => {
    const exports = new Map([terms('r', 'required'), terms('o', 'optional')]);
    const talk = converse(exports, { tls: true });
    const asked = (name: string): OptionAnswer[] => {
      const info = encodeOption(OPTION.INFO, INFO_REQUEST.encode({ name, wants: [INFO.NAME] }));
      const contexts = META_CONTEXT_REQUEST.encode({ name, queries: [] });
      talk.say(go(name), info, encodeOption(OPTION.LIST_META_CONTEXT, contexts));
      return talk.answers.options();
    };
    talk.say(FLAGS, STRUCTURED);
    talk.answers.options();
    expect(asked('r')).toEqual(asked('nothing'));
  });

  test('negotiation.T3: what was agreed before it is forgotten', () => {
    const talk = converse(new Map([terms('', 'optional')]), { tls: true });
    talk.say(FLAGS, STRUCTURED, setContexts('', BASE_ALLOCATION), STARTTLS);
    talk.session.dialogue.secured();
    talk.say(go());
    talk.answers.options();
    talk.answers.opened().reads.set(1, 512);
    talk.say(request(READ, 1, { length: 512 }));
    // A simple reply: no chunk.
    expect(talk.answers.reply()).toEqual({ cookie: 1, error: 0, data: new Uint8Array(512) });
  });

  test('negotiation.T4: a context counts for its export only', () => {
    const talk = converse();
    talk.say(FLAGS, STRUCTURED, setContexts('ro', BASE_ALLOCATION), go());
    talk.answers.options();
    talk.answers.opened();
    expect(errorOf(talk, request(BLOCK_STATUS, 1, { length: 512 }))).toBe(EINVAL);
  });

  test('negotiation.T4: a choice of contexts that is refused takes the earlier one with it', () => {
    const talk = converse();
    talk.say(FLAGS, STRUCTURED, setContexts('', BASE_ALLOCATION), setContexts('none'), go());
    talk.answers.options();
    talk.answers.opened();
    expect(errorOf(talk, request(BLOCK_STATUS, 1, { length: 512 }))).toBe(EINVAL);
  });

  test('nbd-server-session.N4: bytes that come between STARTTLS and TLS end the session', () => {
    const together = converse(new Map([terms('', 'required')]), { tls: true });
    together.say(bytes(FLAGS, STARTTLS, go()));
    expect(together.ended()).toEqual(expect.any(String));
    expect(together.session.open).toBe(false);
    const after = converse(new Map([terms('', 'required')]), { tls: true });
    after.say(FLAGS, STARTTLS);
    after.say(go());
    expect(after.ended()).toEqual(expect.any(String));
  });

  test('is refused where there are no keys', () => {
    const talk = converse();
    talk.say(FLAGS, STARTTLS);
    expect(replies(talk)).toEqual([REPLY.ERR_POLICY]);
  });
});

describe('a request', () => {
  const { FUA, DF, NO_HOLE, FAST_ZERO, REQ_ONE } = COMMAND_FLAG;
  const length = 512;
  const cases: [string, number, Parameters<typeof request>[2], number][] = [
    ['a read of nothing', READ, { length: 0 }, EINVAL],
    ['a read of half a block', READ, { length: 100 }, EINVAL],
    ['a read between blocks', READ, { offset: 100, length }, EINVAL],
    ['a read beyond the end', READ, { offset: SIZE, length }, EINVAL],
    ['a read far beyond the end', READ, { offset: 2 ** 53 - 1024, length }, EINVAL],
    ['a read of too much', READ, { length: REQUEST_MAX + 512 }, EINVAL],
    ['a read with DF of too much', READ, { length: REQUEST_MAX + 512, flags: DF }, EOVERFLOW],
    ['a read with FUA', READ, { length, flags: FUA }, 0],
    ['a read with a flag of zeroes', READ, { length, flags: NO_HOLE }, EINVAL],
    ['a read with an unknown flag', READ, { length, flags: 0x100 }, EINVAL],
    ['a write', WRITE, { data: new Uint8Array(length) }, 0],
    ['a write beyond the end', WRITE, { offset: SIZE, data: new Uint8Array(length) }, ENOSPC],
    ['a write of half a block', WRITE, { data: new Uint8Array(100) }, EINVAL],
    ['a write of nothing', WRITE, { length: 0 }, EINVAL],
    ['a write of too much', WRITE, { data: new Uint8Array(REQUEST_MAX + 512) }, EINVAL],
    ['a write with DF', WRITE, { data: new Uint8Array(length), flags: DF }, EINVAL],
    ['a flush', FLUSH, {}, 0],
    ['a flush with FUA', FLUSH, { flags: FUA }, 0],
    ['a flush of a range', FLUSH, { length }, EINVAL],
    ['a trim', TRIM, { length, flags: FUA }, 0],
    ['a trim of more than a payload', TRIM, { length: 2 ** 31 }, EINVAL],
    ['a trim beyond the end', TRIM, { offset: SIZE, length }, EINVAL],
    ['zeroes', WRITE_ZEROES, { length: SIZE, flags: FUA | NO_HOLE }, 0],
    ['zeroes that are to be fast', WRITE_ZEROES, { length, flags: FAST_ZERO }, ENOTSUP],
    ['zeroes beyond the end', WRITE_ZEROES, { offset: SIZE, length }, ENOSPC],
    ['a cache hint', CACHE, { length: SIZE }, 0],
    ['a question for extents', BLOCK_STATUS, { length, flags: REQ_ONE }, 0],
    ['an unknown command', 99, { length }, EINVAL],
    ['a resize', COMMAND.RESIZE, { length }, EINVAL],
  ];

  // In the same session, so that nbd-server-session.N3 is asked after each of them.
  test.each(['simple', 'structured'])(
    'nbd-server-session.N2, nbd-server-session.N3: is judged by the protocol, in %s replies',
    (replies) => {
      const talk = opened('', replies === 'structured');
      for (const [i, [what, command, fields, error]] of cases.entries()) {
        const df = ((fields?.flags ?? 0) & DF) !== 0;
        const asks = command === BLOCK_STATUS;
        const expected = replies === 'simple' && (df || asks) ? EINVAL : error;
        if (command === READ) talk.answers.reads.set(i, fields?.length ?? 0);
        expect([what, errorOf(talk, request(command, i, fields))]).toEqual([what, expected]);
      }
      expect(talk.ended()).toBe(false);
    },
  );

  test('that writes is refused where the export is read-only', () => {
    const talk = opened('ro');
    const data = new Uint8Array(512);
    for (const said of [
      request(WRITE, 1, { data }),
      request(TRIM, 1, { length: 512 }),
      request(WRITE_ZEROES, 1, { length: 512 }),
    ]) {
      expect(errorOf(talk, said)).toBe(EPERM);
    }
    expect(errorOf(talk, request(FLUSH, 2))).toBe(0);
  });

  test('takes no block of memory of its own to be refused, because 28 bytes would cost 16 KiB', () => {
    const talk = opened();
    for (let i = 0; i < 500; i += 1) talk.say(request(READ, i, { offset: SIZE, length: 512 }));
    const sent = talk.events.flatMap((event) =>
      event.kind === 'send' && event.refuses === 'request' ? event.parts : [],
    );
    expect(sent.length).toBe(500);
    expect(new Set(sent.map(({ buffer }) => buffer)).size).toBe(1);
  });

  test('that comes late is answered with ESHUTDOWN, and one that was handed out as it ends', () => {
    const talk = opened('', false, { hold: true });
    talk.say(request(FLUSH, 1));
    talk.session.shutdown();
    expect(errorOf(talk, request(WRITE, 2, { data: new Uint8Array(512) }))).toBe(ESHUTDOWN);
    const event = talk.events.find(({ kind }) => kind === 'request');
    if (event?.kind !== 'request') throw new Error('no request');
    expect(answered(talk.session, event.request, {})).toHaveLength(1);
  });

  test('nbd-server-session.N1: is answered once', () => {
    const talk = opened('', false, { hold: true });
    talk.say(request(FLUSH, 1));
    const event = talk.events.at(-1);
    if (event?.kind !== 'request') throw new Error('no request');
    answered(talk.session, event.request, {});
    expect(() => answered(talk.session, event.request, {})).toThrow('N1');
  });

  test('DISC ends the session without an answer, and whatever follows is not heard', () => {
    const talk = opened();
    talk.say(bytes(request(DISC, 1), request(FLUSH, 2)));
    expect(talk.ended()).toBeUndefined();
    expect(talk.answers.reader.length).toBe(0);
  });

  // Goal: nbd-server-session.N1, nbd-server-session.N2, nbd-server-session.N3 and nbd-server-session.N5. Method: any requests, cut
  // anywhere; every one has its answer, in the session's own order for those that are refused, and what is handed out could be carried out.
  test('nbd-server-session.N1, nbd-server-session.N2, nbd-server-session.N3: has one answer whatever it is and wherever the stream is cut', () => {
    const sizes = fc.oneof(
      fc.nat(SIZE / 512).map((blocks) => blocks * 512),
      fc.nat(2 * SIZE),
      fc.constantFrom(0, SIZE, REQUEST_MAX, REQUEST_MAX + 1),
    );
    const asked = fc.record({
      command: fc.oneof(fc.nat(8), fc.nat(0xffff)).filter((command) => command !== DISC),
      flags: fc.oneof(fc.constant(0), fc.nat(63), fc.nat(0xffff)),
      offset: fc.oneof(sizes, fc.maxSafeNat()),
      length: sizes,
    });
    const cuts = fc.array(fc.nat(4 * SIZE), { maxLength: 12 });
    fc.assert(
      fc.property(fc.array(asked, { maxLength: 6 }), cuts, (requests, cutsAt) => {
        const talk = opened('', true);
        const stream = bytes(
          ...requests.map(({ command, length, ...rest }, i) =>
            request(command, i, {
              ...rest,
              length,
              ...(command === WRITE && { data: new Uint8Array(length).fill(i) }),
            }),
          ),
        );
        const edges = [...cutsAt.map((at) => at % (stream.length + 1)), 0, stream.length];
        edges.sort((a, b) => a - b);
        for (let i = 1; i < edges.length; i += 1) talk.say(stream.slice(edges[i - 1], edges[i]));
        const answered = talk.answers.replies().map(({ cookie }) => cookie);
        expect(answered).toEqual(requests.map((_, i) => i));
        for (const event of talk.events) {
          if (event.kind !== 'request') continue;
          const { command, offset, length, data, cookie } = event.request;
          expect(offset + length).toBeLessThanOrEqual(SIZE);
          expect((offset % 512) + (length % 512)).toBe(0);
          if (command !== WRITE) continue;
          expect(bytes(...data)).toEqual(new Uint8Array(length).fill(Number(cookie)));
        }
      }),
      { numRuns: share(300) },
    );
  });
});
