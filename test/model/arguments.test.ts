// Goal: an option that is misspelt is never passed over, and no message hides the type of what was given.

import { describe, expect, test } from 'vitest';
import { WriteBarrierError } from 'write-barrier';
import { checkOptions, formatValue } from 'write-barrier/kit';

interface Options {
  readonly barrier?: boolean;
  readonly timeoutMs?: number;
}
const KNOWN = { barrier: true, timeoutMs: true } as const;

function said(options: unknown): string {
  try {
    checkOptions<Options>(options as Options, KNOWN, 'write');
  } catch (error) {
    expect(WriteBarrierError.is(error) && error.code).toBe('INVALID_ARGUMENT');
    return (error as Error).message;
  }
  return 'accepted';
}

describe('an option that is not known is refused with the nearest known name', () => {
  test.each([
    [{}, 'accepted'],
    [{ barrier: true }, 'accepted'],
    [{ barrier: undefined, timeoutMs: 5 }, 'accepted'],
    [{ barier: true }, "write has no option 'barier'; did you mean 'barrier'?"],
    [{ Barrier: true }, "write has no option 'Barrier'; did you mean 'barrier'?"],
    [{ timeout: 5 }, "write has no option 'timeout'; did you mean 'timeoutMs'?"],
    [{ colour: 5 }, "write has no option 'colour'; the options are barrier, timeoutMs"],
    [{ __proto__: { inherited: 1 } }, 'accepted'],
    [
      JSON.parse('{"__proto__": 1}'),
      "write has no option '__proto__'; the options are barrier, timeoutMs",
    ],
    [null, 'the options of write must be an object, not null'],
    [4, 'the options of write must be an object, not 4'],
    ['4', "the options of write must be an object, not '4'"],
  ])('%o', (options, message) => {
    expect(said(options)).toBe(message);
  });
});

describe('a value is shown with its type, in one line, without what stands in it', () => {
  test.each([
    [4, '4'],
    ['4', "'4'"],
    [512n, '512n'],
    [-0, '-0'],
    [Number.NaN, 'NaN'],
    [undefined, 'undefined'],
    [null, 'null'],
    [true, 'true'],
    [Symbol('s'), 'Symbol(s)'],
    [() => 1, 'a function'],
    [{ key: 'secret' }, '[object Object]'],
    [new Uint8Array(4), '[object Uint8Array]'],
    ['a\nb\u001b[2J\u009bc', "'a\\nb\\u001b[2J\\u{9b}c'"],
    ['x'.repeat(1000), `'${'x'.repeat(80)}...'`],
  ])('%o', (value, text) => {
    expect(formatValue(value)).toBe(text);
  });
});

test('a text of 80 characters is shown whole, and of a longer one 80', () => {
  expect(formatValue('x'.repeat(80))).toBe(`'${'x'.repeat(80)}'`);
  expect(formatValue('x'.repeat(81))).toBe(`'${'x'.repeat(80)}...'`);
});

test('a text with separators of lines that JSON lets pass stays one line', () => {
  expect(formatValue('a\u2028b\u2029c')).toBe("'a\\u{2028}b\\u{2029}c'");
});
