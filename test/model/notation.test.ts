// The notation: parse and format as inverses on everything that can be said, then the examples.

import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  type DeviceStep,
  formatProgram,
  formatRequest,
  formatSteps,
  NOTATION_BLOCK_SIZE,
  parseProgram,
  parseSteps,
  type Request,
  resizeOf,
  type Step,
  transformer,
  WriteBarrierError,
} from '../../src/model/index.js';
import { formatValue } from '../../src/model/show.js';
import { share } from '../kit/amount.js';
import { blockRanges, byteRanges, modeNames, requestsOver } from './arbitraries.js';

const anyRange = fc.oneof(blockRanges, byteRanges);
const anyResize = fc.oneof(
  anyRange.map(({ offset, length }) => resizeOf(offset, offset + length)),
  anyRange.map(({ offset, length }) => resizeOf(offset + length, offset)),
);
const anyRequest = fc.oneof(requestsOver(anyRange).requests, anyResize);
const anyProgram = fc.array(anyRequest, { maxLength: 12 });
const blockSizes = fc.constantFrom(1, 7, 512, NOTATION_BLOCK_SIZE, 65_536);
const spaces = fc.constantFrom(' ', '  ', '\n', '\t', ' \r\n\t ');

/** Everything that the notation can show of a step, more than any mode makes. */
const deviceSteps: fc.Arbitrary<DeviceStep> = fc.oneof(
  fc.constant<DeviceStep>({ kind: 'drain' }),
  anyRequest.map((request): DeviceStep => ({ kind: 'refuse', code: 'EOPNOTSUPP', request })),
  fc.constantFrom('simple', 'ordered').map((tag): DeviceStep => {
    return { kind: 'command', op: 'flush', offset: 0, length: 0, tag, fua: false };
  }),
  fc
    .record({
      op: fc.constantFrom('read', 'write', 'discard', 'writeZeroes'),
      range: fc.oneof(blockRanges, byteRanges),
      tag: fc.constantFrom('simple', 'ordered'),
      fua: fc.boolean(),
    })
    .map(({ op, range, tag, fua }): DeviceStep => ({ kind: 'command', op, ...range, tag, fua })),
  anyResize.map(
    ({ kind: op, ...range }): DeviceStep => ({
      kind: 'command',
      op,
      ...range,
      tag: 'simple',
      fua: false,
    }),
  ),
);

/** A step without its stage and its request: what a device sees. */
function seen(step: Step): DeviceStep {
  if (step.kind !== 'command') return step;
  const { stage: _stage, request: _request, ...command } = step;
  return command;
}

function failure(parse: () => unknown): WriteBarrierError {
  try {
    parse();
  } catch (error) {
    if (WriteBarrierError.is(error)) return error;
    throw error;
  }
  throw new Error('it was parsed');
}

describe('the laws of the notation', () => {
  test('given any program, when it is formatted and parsed, then it is the same program', () => {
    fc.assert(
      fc.property(anyProgram, blockSizes, (program, blockSize) => {
        expect(parseProgram(formatProgram(program, { blockSize }), { blockSize })).toEqual(program);
      }),
    );
  });

  test('given any program as text, when it is parsed and formatted, then it is the same text', () => {
    fc.assert(
      fc.property(anyProgram, blockSizes, (program, blockSize) => {
        const text = formatProgram(program, { blockSize });
        expect(formatProgram(parseProgram(text, { blockSize }), { blockSize })).toBe(text);
      }),
    );
  });

  test('given any steps, when they are formatted and parsed, then they are the same steps', () => {
    fc.assert(
      fc.property(fc.array(deviceSteps), blockSizes, (steps, blockSize) => {
        const text = formatSteps(steps, { blockSize });
        expect(parseSteps(text, { blockSize })).toEqual(steps);
        expect(formatSteps(parseSteps(text, { blockSize }), { blockSize })).toBe(text);
      }),
    );
  });

  test('given the steps of a mode, then parsing their text gives what the device sees of them', () => {
    fc.assert(
      fc.property(modeNames, anyProgram, (mode, program) => {
        const steps = [...transformer(mode)(program)];
        expect(parseSteps(formatSteps(steps))).toEqual(steps.map(seen));
      }),
    );
  });

  test('given any white space between and around the words, then it says nothing', () => {
    fc.assert(
      fc.property(anyProgram, spaces, spaces, (program, between, around) => {
        const text = around + program.map((one) => formatRequest(one)).join(between) + around;
        expect(parseProgram(text)).toEqual(program);
      }),
    );
  });

  test('given any text, then it is parsed or refused with SYNTAX, and nothing else is thrown', () => {
    const letters = [...'wbfrdz0123456789+@!^F=> '];
    const texts = fc.oneof(
      fc.string(),
      fc.array(fc.constantFrom(...letters)).map((chosen) => chosen.join('')),
    );
    fc.assert(
      fc.property(texts, (text) => {
        for (const parse of [parseProgram, parseSteps]) {
          try {
            expect(Array.isArray(parse(text))).toBe(true);
          } catch (error) {
            expect(error).toMatchObject({ name: 'WriteBarrierError', code: 'SYNTAX' });
          }
        }
      }),
      { numRuns: share(1000) },
    );
  });

  test('given a wrong word anywhere, then the error names it and the character it begins at', () => {
    fc.assert(
      fc.property(anyProgram, spaces, fc.constantFrom('x', 'w', 'b!', 'r3!', 'w-1'), (...drawn) => {
        const [program, space, wrong] = drawn;
        const before = program.map((request) => formatRequest(request) + space).join('');
        const { code, message } = failure(() => parseProgram(`${before}${wrong}${space}w1`));
        expect(code).toBe('SYNTAX');
        expect(message).toContain(`'${wrong}' at character ${before.length} `);
      }),
    );
  });
});

const block = (first: number, blocks = 1): { offset: number; length: number } => ({
  offset: first * 4096,
  length: blocks * 4096,
});

describe('programs', () => {
  test.each<[string, Request]>([
    ['w3', { kind: 'write', ...block(3) }],
    ['w3+4', { kind: 'write', ...block(3, 4) }],
    ['w3!', { kind: 'write', ...block(3), fua: true }],
    ['w3+4!', { kind: 'write', ...block(3, 4), fua: true }],
    ['fw3', { kind: 'write', ...block(3), preflush: true }],
    ['fw3!', { kind: 'write', ...block(3), preflush: true, fua: true }],
    ['b3', { kind: 'write', ...block(3), barrier: true }],
    ['fb3+2!', { kind: 'write', ...block(3, 2), barrier: true, preflush: true, fua: true }],
    ['b', { kind: 'barrier' }],
    ['f', { kind: 'flush' }],
    ['r3', { kind: 'read', ...block(3) }],
    ['d3', { kind: 'discard', ...block(3) }],
    ['z3', { kind: 'writeZeroes', ...block(3) }],
    ['w@1000+24', { kind: 'write', offset: 1000, length: 24 }],
    ['fb@1+2!', { kind: 'write', offset: 1, length: 2, barrier: true, preflush: true, fua: true }],
    ['r@0+1', { kind: 'read', offset: 0, length: 1 }],
  ])('%s is one request, and is written like that', (text, request) => {
    expect(parseProgram(text)).toEqual([request]);
    expect(formatRequest(request)).toBe(text);
  });

  test('a flag that is false is not written', () => {
    const flags = { barrier: false, preflush: false, fua: false };
    expect(formatRequest({ kind: 'write', ...block(1), ...flags })).toBe('w1');
  });

  test('bytes that are whole blocks are written as blocks', () => {
    expect(formatProgram(parseProgram('w@4096+8192 w3+1 w007'))).toBe('w1+2 w3 w7');
  });

  test('the block size says how long a block is', () => {
    const blockSize = 512;
    expect(parseProgram('w3+2', { blockSize })).toEqual([
      { kind: 'write', offset: 1536, length: 1024 },
    ]);
    expect(formatProgram([{ kind: 'write', offset: 512, length: 512 }])).toBe('w@512+512');
    expect(formatProgram([{ kind: 'write', offset: 512, length: 512 }], { blockSize })).toBe('w1');
  });

  test('no text is no requests', () => {
    for (const text of ['', ' ', '\n\t']) expect(parseProgram(text)).toEqual([]);
    expect(formatProgram([])).toBe('');
  });

  test('any iterable can be formatted', () => {
    function* two(): Generator<Request> {
      yield { kind: 'flush' };
      yield { kind: 'barrier' };
    }
    expect(formatProgram(two())).toBe('f b');
  });
});

describe('steps', () => {
  const simple = { kind: 'command', tag: 'simple', fua: false } as const;
  const ordered = { ...simple, tag: 'ordered' } as const;
  const nothing = { offset: 0, length: 0 };
  const [b3, b] = parseProgram('b3 b') as [Request, Request];

  test.each<[string, DeviceStep]>([
    ['=>', { kind: 'drain' }],
    ['F', { ...simple, op: 'flush', ...nothing }],
    ['^F', { ...ordered, op: 'flush', ...nothing }],
    ['w3', { ...simple, op: 'write', ...block(3) }],
    ['w3!', { ...simple, op: 'write', ...block(3), fua: true }],
    ['^w3', { ...ordered, op: 'write', ...block(3) }],
    ['^w3+2!', { ...ordered, op: 'write', ...block(3, 2), fua: true }],
    ['^w@1000+24!', { ...ordered, op: 'write', offset: 1000, length: 24, fua: true }],
    ['r3', { ...simple, op: 'read', ...block(3) }],
    ['d3', { ...simple, op: 'discard', ...block(3) }],
    ['z3', { ...simple, op: 'writeZeroes', ...block(3) }],
    ['EOPNOTSUPP(b3)', { kind: 'refuse', code: 'EOPNOTSUPP', request: b3 }],
    ['EOPNOTSUPP(b)', { kind: 'refuse', code: 'EOPNOTSUPP', request: b }],
  ])('%s is one step, and is written like that', (text, step) => {
    expect(parseSteps(text)).toEqual([step]);
    expect(formatSteps([step])).toBe(text);
  });

  test.each([
    'w0 w1 => F => w3 => F => w4',
    'w0 w1 ^F ^w3! w4',
    'w0 => w1 ^w2 w3',
    'w0 EOPNOTSUPP(fb@1+2!) F',
    '',
  ])('[%s] comes back as it was', (text) => {
    expect(formatSteps(parseSteps(text))).toBe(text);
  });
});

describe('what the notation refuses', () => {
  test.each([
    // Unknown words, and letters without their range.
    'x',
    'w',
    'r',
    'fw',
    'W3',
    'F',
    '=>',
    '^w3',
    // Flags where no flag can be.
    'b!',
    'f!',
    'f3',
    'ff',
    'fr3',
    'r3!',
    'w!3',
    'w3!!',
    '!w3',
    // Ranges that are none.
    'w-1',
    'w1.5',
    'w1+',
    'w+1',
    'w1+2+3',
    'w0x10',
    'w1e3',
    'w@5',
    'w@5+',
    'w5@5',
    // Empty, or beyond what a number can count.
    'w1+0',
    'w@0+0',
    'w9007199254740991',
    'w@9007199254740991+1',
    `w${'9'.repeat(400)}`,
    'w1,w2',
  ])('the request %s', (word) => {
    const { code, message } = failure(() => parseProgram(`w0 ${word}`));
    expect(code).toBe('SYNTAX');
    expect(message).toContain(`${formatValue(word)} at character 3 `);
  });

  test.each([
    'f',
    'b',
    'b3',
    '=',
    '>',
    '^',
    '^^w3',
    '^=>',
    'F!',
    'F3',
    'fw3',
    'w3^',
    'EOPNOTSUPP()',
  ])('the step %s', (word) => {
    const { code, message } = failure(() => parseSteps(`=> ${word}`));
    expect(code).toBe('SYNTAX');
    expect(message).toContain(`${formatValue(word)} at character 3 `);
  });

  test('a wrong request inside a refusal, named with its own place', () => {
    const { code, message } = failure(() => parseSteps('w0 EOPNOTSUPP(x3)'));
    expect(code).toBe('SYNTAX');
    expect(message).toContain("'x3' at character 14 ");
  });
});

describe('the options of the notation', () => {
  test.each([
    [{ blocksize: 512 }, "the notation has no option 'blocksize'; did you mean 'blockSize'?"],
    [{ blockSize: 0 }, 'blockSize must be a whole number of at least 1, not 0'],
    [{ blockSize: '512' }, "blockSize must be a whole number of at least 1, not '512'"],
    [null, 'the options of the notation must be an object, not null'],
  ])('%o are refused by every function that takes them', (options, message) => {
    const given = options as never;
    expect(() => parseProgram('w0', given)).toThrow(message);
    expect(() => parseSteps('w0', given)).toThrow(message);
    expect(() => formatProgram([], given)).toThrow(message);
    expect(() => formatSteps([], given)).toThrow(message);
    expect(() => formatRequest({ kind: 'flush' }, given)).toThrow(message);
  });
});
