// Decoders take bytes and texts that anybody may have written: names that are the prototype's, numbers that no disk
// has, lengths that claim more than there is, and a million of everything. Each either makes a value that it could have
// written itself, or refuses with SYNTAX (INVALID_ARGUMENT for an argument), in time and memory that the length of the
// input bounds. That nothing is quadratic is tried with inputs that would then take hours.

import fc from 'fast-check';
import { afterEach, describe, expect, test } from 'vitest';
import { parseProgram, parseSteps } from '../../src/model/index.js';
import { crashTest } from '../../src/testing/crash-test/crash-test.js';
import { parseReplay } from '../../src/testing/crash-test/replay.js';
import { DiskRecorder, type DiskTrace } from '../../src/testing/device/disk-trace.js';
import {
  decodeTrace,
  encodeTrace,
  readLogWrites,
  writeLogWrites,
} from '../../src/testing/lab/formats.js';
import { outcomeOf, programOf } from '../../src/testing/lab/litmus.js';
import { share } from '../kit/amount.js';

const SECTOR = 512;
const SIZE = 8 * SECTOR;
const SYNTAX = expect.objectContaining({ code: 'SYNTAX' });

const told = (...lines: readonly string[]): Uint8Array =>
  new TextEncoder().encode(`write-barrier-trace 2\n${lines.map((line) => `${line}\n`).join('')}`);
const HEAD = '{"size":4096}';
const COMMAND = {
  ...{ op: 'discard', offset: 0, length: 512, tag: 'simple', fua: false },
  ...{ dispatched: 0, failed: false },
};
const command = (fields: object = {}): string => JSON.stringify({ ...COMMAND, ...fields });

/** What a refusal says: a line that a terminal shows, however long and strange the input. */
function refusal(run: () => unknown): string {
  try {
    run();
  } catch (error) {
    const { code, message } = error as Error & { code?: unknown };
    expect(['SYNTAX', 'INVALID_ARGUMENT', 'OUT_OF_RANGE']).toContain(code);
    expect(message.length).toBeLessThan(400);
    expect(message).toMatch(/^\P{Cc}*$/u);
    return message;
  }
  throw new Error('it was taken');
}

afterEach(() => {
  // Nothing that was decoded has reached what everybody shares.
  for (const shared of [Object.prototype, Array.prototype, Function.prototype]) {
    const names: string[] = [];
    for (const name in shared) names.push(name);
    expect(names).toEqual([]);
  }
});

describe('a trace whose names are those of prototypes', () => {
  test.each([
    '__proto__',
    'constructor',
    'length',
    'push',
    '0',
    -1,
    0.5,
    1,
    2 ** 53,
    null,
    [0],
    {},
  ])('has no command %j to answer', (number) => {
    const answer = JSON.stringify({ command: number, completed: 1, failed: true });
    expect(() => decodeTrace(told(HEAD, command(), answer))).toThrow(SYNTAX);
  });

  test('gives none of them to what is made of it', () => {
    const strange = `"__proto__":{"x":1,"failed":true,"payload":3},"constructor":1,"data":"text","initial":[1]`;
    const { commands, marks, ...head } = decodeTrace(
      told(
        `{"size":4096,${strange},"commands":7,"marks":7}`,
        `{${strange},${command().slice(1)}`,
        `{"command":0,"completed":1,${strange}}`,
        `{"time":2,"value":{"__proto__":{"x":1}},${strange}}`,
      ),
    );
    expect(Object.keys(head)).toEqual(['size']);
    expect(commands).toEqual([{ ...COMMAND, completed: 1 }]);
    expect(Object.keys(commands[0] ?? {}).sort()).toEqual(
      Object.keys({ ...COMMAND, completed: 1 }).sort(),
    );
    expect(Object.keys(marks[0] ?? {})).toEqual(['time', 'value']);
    expect(({} as { x?: number }).x).toBeUndefined();
    for (const made of [commands[0], marks[0], head]) {
      expect(Object.getPrototypeOf(made)).toBe(Object.prototype);
    }
  });

  test.each(['__proto__', 'constructor', 'toString'])('has no fault %s', (kind) => {
    expect(() => decodeTrace(told(HEAD, command({ fault: { kind } })))).toThrow(SYNTAX);
  });

  test('has what it inherits from nowhere: an event without names of its own is none', () => {
    expect(() => decodeTrace(told(HEAD, '{"__proto__":{"time":1}}'))).toThrow(SYNTAX);
    expect(() => decodeTrace(told('{"__proto__":{"size":512}}'))).toThrow(SYNTAX);
  });
});

describe('a trace that cannot have happened is refused:', () => {
  test.each([
    ['an answer that comes twice', command(), answer(1), answer(2)],
    ['an answer before its command', '{"time":4}', command({ dispatched: 5 }), answer(5)],
    ['two commands at one moment', command(), command()],
    ['time that goes backwards', command({ dispatched: 7 }), answer(8), '{"time":3}'],
    ['a moment that is none', '{"time":1e999}'],
    ['a moment beyond 2^53', '{"time":9007199254740992}'],
    ['an answer that has half failed', command(), '{"command":0,"completed":1,"failed":1}'],
    ['a range that ends beyond 2^53', command({ offset: 2 ** 53 - 512 })],
    ['a payload that is not the length', command({ op: 'write', payload: 2 ** 52 })],
    ['a payload of an answer', command(), '{"command":0,"completed":1,"payload":0}'],
    ['a payload of a mark', '{"time":1,"payload":0}'],
    ['a fault that lands nowhere', command({ fault: { kind: 'misdirected', at: -1 } })],
    ['a fault that is a text', command({ fault: 'lost' })],
    ['an event that is a list', '[]'],
    ['a byte order mark', `\ufeff${command()}`],
  ])('%s', (_, ...lines) => {
    expect(refusal(() => decodeTrace(told(HEAD, ...lines)))).toMatch(
      new RegExp(`this is not a trace: event ${lines.length}, at byte \\d+, `),
    );
  });

  test.each([
    '{"size":-1}',
    '{"size":1e300}',
    '{"size":"512"}',
    '{"size":4096,"unreadable":{"length":1e9}}',
    '{"size":4096,"unreadable":[-512]}',
    '{"size":4096,"payload":9007199254740991}',
  ])('the disk %s', (head) => {
    expect(refusal(() => decodeTrace(told(head)))).toMatch(/not a trace/);
  });

  test('bytes that are no UTF-8', () => {
    const bytes = told(HEAD, '{"time":1,"value":"x"}');
    bytes[bytes.indexOf(120, 40)] = 0xff;
    expect(refusal(() => decodeTrace(bytes))).toMatch(/event 1, at byte 36, is not JSON/);
  });

  test('what is no bytes at all', () => {
    const values = ['write-barrier-trace 2\n', undefined, null, 7, [], new ArrayBuffer(8)];
    for (const bytes of values as unknown as Uint8Array[]) {
      expect(refusal(() => decodeTrace(bytes))).toMatch(/takes a Uint8Array, not /);
      expect(refusal(() => readLogWrites(bytes, 512))).toMatch(/takes a Uint8Array/);
    }
  });
});

function answer(completed: number): string {
  return JSON.stringify({ command: 0, completed });
}

describe('a trace that is large where small would do', () => {
  test('has marks as deep as they are, and a refusal that is a line', () => {
    const deep = `${'['.repeat(200_000)}${']'.repeat(200_000)}`;
    expect(decodeTrace(told(HEAD, `{"time":1,"value":${deep}}`)).marks).toHaveLength(1);
    refusal(() => decodeTrace(told(HEAD, `{"nothing":${deep}}`)));
    refusal(() => decodeTrace(told(HEAD, deep)));
    refusal(() => decodeTrace(told(HEAD, '['.repeat(200_000))));
    refusal(() => decodeTrace(told(HEAD, `{"nothing":"${'\u001b[2J'.repeat(100_000)}"}`)));
  });

  test('takes no memory for a length that is only claimed: what is not there is cut off', () => {
    const length = 2 ** 52;
    const claims = command({ op: 'write', length, payload: length });
    expect(decodeTrace(told('{"size":9007199254740991}', claims)).commands).toEqual([]);
  });

  test('takes time as its length', () => {
    const lines = Array.from({ length: 100_000 }, (_, time) => `{"time":${time},"value":0}`);
    expect(decodeTrace(told(HEAD, ...lines)).marks).toHaveLength(100_000);
  });
});

/** Bytes of a valid input with some of them changed, doubled or taken out. */
const damaged = (valid: Uint8Array): fc.Arbitrary<Uint8Array> =>
  fc
    .array(
      fc.record({
        at: fc.nat({ max: valid.length - 1 }),
        kind: fc.constantFrom('set' as const, 'cut' as const, 'twice' as const),
        length: fc.integer({ min: 1, max: 40 }),
        byte: fc.oneof(fc.constantFrom(0, 10, 34, 45, 57, 91, 123, 255), fc.nat({ max: 255 })),
      }),
      { minLength: 1, maxLength: 6 },
    )
    .map((edits) => {
      let bytes = Array.from(valid);
      for (const { at, kind, length, byte } of edits) {
        const [head, tail] = [bytes.slice(0, at), bytes.slice(at)];
        if (kind === 'set') bytes = [...head, byte, ...tail.slice(1)];
        else if (kind === 'cut') bytes = [...head, ...tail.slice(length)];
        else bytes = [...head, ...tail.slice(0, length), ...tail];
      }
      return Uint8Array.from(bytes);
    });

function recorded(): DiskTrace {
  const recorder = new DiskRecorder(SIZE, new Uint8Array(SIZE).fill(7));
  const simple = { tag: 'simple', fua: false } as const;
  const data = new Uint8Array(SECTOR).fill(1);
  const write = recorder.dispatch({ op: 'write', offset: 0, length: SECTOR, ...simple }, data);
  recorder.mark({ operation: 1 });
  recorder.complete(write);
  const flush = recorder.dispatch({ op: 'flush', offset: 0, length: 0, ...simple });
  recorder.complete(flush, true, { kind: 'drop' });
  recorder.complete(
    recorder.dispatch({ op: 'discard', offset: SECTOR, length: SECTOR, ...simple }),
  );
  recorder.mark('the end');
  return recorder.trace;
}

const FUZZ = { seed: 1987, numRuns: share(3000) } as const;

describe(`given damaged bytes (seed ${FUZZ.seed})`, () => {
  test('a trace is refused with SYNTAX, or is one that can be written and read again', () => {
    const valid = encodeTrace({ ...recorded(), unreadable: [SECTOR] });
    fc.assert(
      fc.property(damaged(valid), (bytes) => {
        let trace: DiskTrace;
        try {
          trace = decodeTrace(bytes);
        } catch (error) {
          expect(error).toMatchObject({ code: 'SYNTAX' });
          return;
        }
        expect(decodeTrace(encodeTrace(trace))).toEqual(trace);
        const kept = trace.commands.reduce((sum, { data }) => sum + (data?.length ?? 0), 0);
        expect(kept + (trace.initial?.length ?? 0)).toBeLessThanOrEqual(bytes.length);
      }),
      FUZZ,
    );
  });

  test('a log of dm-log-writes is refused with SYNTAX, or is one that can be written and read again', () => {
    const valid = writeLogWrites(recorded());
    fc.assert(
      fc.property(damaged(valid), (bytes) => {
        let trace: DiskTrace;
        try {
          trace = readLogWrites(bytes, SIZE);
        } catch (error) {
          expect(error).toMatchObject({ code: 'SYNTAX' });
          return;
        }
        for (const { offset, length } of trace.commands) {
          expect(offset + length).toBeLessThanOrEqual(SIZE);
        }
        const kept = trace.commands.reduce((sum, { data }) => sum + (data?.length ?? 0), 0);
        expect(kept).toBeLessThanOrEqual(bytes.length);
        const marks = trace.marks.reduce((sum, { value }) => sum + String(value).length, 0);
        expect(marks).toBeLessThanOrEqual(bytes.length);
      }),
      FUZZ,
    );
  });

  test('a program, steps or a litmus test is refused with SYNTAX in a line, or is one', () => {
    const word = fc.oneof(
      fc.string({ unit: fc.constantFrom(...'wbfrdz!+@0129^F=>()EOPNTSU;xyz| \n\u001b'.split('')) }),
      fc.string({ maxLength: 200 }),
    );
    const readers = [
      parseProgram,
      parseSteps,
      (text: string) => programOf(text, 'TAG'),
      (text: string) => outcomeOf(text),
    ];
    fc.assert(
      fc.property(word, fc.constantFrom(...readers), (text, read) => {
        try {
          read(text);
        } catch {
          refusal(() => read(text));
        }
      }),
      FUZZ,
    );
  });
});

/** A log of entries: sector, sectors, flags and length, each with what follows its header in the same sector. */
function log(
  entries: readonly (readonly [bigint, bigint, bigint, bigint])[],
  { count = BigInt(entries.length), sector = SECTOR, fill = 0 } = {},
): Uint8Array {
  const bytes = new Uint8Array(sector * (1 + entries.length)).fill(fill, sector);
  const view = new DataView(bytes.buffer);
  for (const [i, word] of [0x6a736677736872n, 1n, count].entries()) {
    view.setBigUint64(8 * i, word, true);
  }
  view.setUint32(24, sector, true);
  for (const [i, words] of entries.entries()) {
    for (const [j, word] of words.entries()) {
      view.setBigUint64(sector * (i + 1) + 8 * j, word, true);
    }
  }
  return bytes;
}

describe('a log of dm-log-writes', () => {
  const MARK = 8n;
  const most = 2n ** 64n - 1n;

  test.each([
    ['a mark that is longer than its sector', log([[0n, 0n, MARK, 481n]]), /entry 0 .* 481 bytes/],
    ['a mark that is longer than the log', log([[0n, 0n, MARK, most]]), /entry 0/],
    ['more entries than there can be', log([], { count: most }), /entry 0 of 18446744073709551615/],
    ['a write behind all disks', log([[most, 1n, 0n, 0n]]), /entry 0 is outside/],
    ['a write of more than there is', log([[0n, most, 0n, 0n]]), /entry 0 is outside/],
    ['a discard of more than there is', log([[0n, most, 4n, 0n]]), /entry 0 is outside/],
    ['a discard behind the disk', log([[8n, 1n, 4n, 0n]]), /entry 0 is outside/],
    ['sectors that are larger than the log', log([], { count: 1n, sector: 1024 }).subarray(0, 900)],
  ])('with %s is refused, and the entry named', (_, bytes, message = /entry 0/) => {
    expect(refusal(() => readLogWrites(bytes, SIZE))).toMatch(message);
  });

  test('keeps of a mark no more than stands in it', () => {
    const marks = Array.from({ length: 200 }, () => [0n, 0n, MARK, 480n] as const);
    const bytes = log(marks, { fill: 109 });
    const total = readLogWrites(bytes, SIZE).marks.reduce(
      (sum, { value }) => sum + String(value).length,
      0,
    );
    expect(total).toBe(200 * 480);
  });

  test('with a mark of a million zeroes and a letter is read in one pass', () => {
    const sector = 2 ** 20;
    const bytes = log([[0n, 0n, MARK, BigInt(sector - 32)]], { sector });
    bytes[bytes.length - 1] = 120;
    const [mark] = readLogWrites(bytes, sector).marks;
    expect(String(mark?.value).length).toBe(sector - 32);
  });

  test.each([-1, 0.5, Number.NaN, 2 ** 53, '4096', undefined])(
    'is not read for a disk of %s bytes',
    (size) => {
      const message = refusal(() => readLogWrites(writeLogWrites(recorded()), size as number));
      expect(message).toMatch(/size must be a whole number of bytes/);
    },
  );
});

describe('a replay', () => {
  const zeroes = '0'.repeat(2_000_000);

  test.each([
    `seed 0 cut ${zeroes}`,
    `seed 0 cut ${zeroes.slice(0, 900_000)}x`,
    `seed 0 cut 0${' then cut 1'.repeat(80_000)} then`,
    `seed 0 cut 0${' 512:1'.repeat(100_000)} 512`,
    `seed 0 steps ${'1,'.repeat(100_000)} cut 0`,
    `seed 0 steps ${'1'.repeat(500)} cut 0`,
    `seed ${'9'.repeat(500)} cut 0`,
    'seed 4294967296 cut 0',
    'seed 0 steps 1,0 cut 0',
    'seed 0 steps 1,1 cut 0',
    'seed 0 steps , cut 0',
    'seed 0 cut 0\n',
    'seed 0 cut 0 then -1',
    'seed 0 cut 0 cut 1',
    'seed 0 then cut 0',
    'seed 0 life',
    'seed 0 cut 0 then',
    'seed 0 cut 0 life life',
    'seed 0',
    '\u001b[2J',
    7,
  ])('that no report wrote is refused in one line (%#)', (text) => {
    refusal(() => parseReplay(text as string, 3));
  });

  test('reads back what reports write', () => {
    const [cut] = [{ during: 'workload', time: 12, versions: new Map() }];
    const replay = { seed: 3, steps: [0, 1], cuts: [cut], goesOn: false };
    expect(parseReplay('seed 3 cut 12', 2)).toEqual(replay);
    expect(parseReplay('seed 3 cut 12 life', 2)).toEqual({ ...replay, goesOn: true });
    for (const time of [1e-7, -2.5, 1e21, -1e300]) {
      expect(parseReplay(`seed 3 cut ${time}`, 2).cuts).toEqual([{ ...cut, time }]);
    }
    expect(
      parseReplay('seed 0 steps 0,2 cut 5 512:0 then cut -1 life cut 0.5 0:2 1024:1', 3),
    ).toEqual({
      ...{ seed: 0, steps: [0, 2], goesOn: false },
      cuts: [
        { during: 'workload', time: 5, versions: new Map([[512, 0]]) },
        { during: 'recovery', time: -1, versions: new Map() },
        {
          ...{ during: 'life', time: 0.5 },
          versions: new Map([
            [0, 2],
            [1024, 1],
          ]),
        },
      ],
    });
    expect(parseReplay('seed 0 steps  cut 5', 3).steps).toEqual([]);
  });

  test.each(['seed 0 cut 0 0:1', 'seed 0 cut 5 512:3', 'seed 0 cut 5 7:0'])(
    'of a state that no power cut leaves says so in one line: %s',
    async (replay) => {
      const error = await crashTest({
        size: SIZE,
        workload: () => {},
        recover: () => 0,
        check: () => true,
        replay,
      }).catch((reason: unknown) => reason);
      expect(refusal(() => raise(error))).toMatch(/no power cut leaves what it names/);
    },
  );
});

function raise(error: unknown): never {
  throw error;
}
