import { describe, expect, test } from 'vitest';
import { invariant, WriteBarrierError } from '../../src/model/error.js';

describe('an error of this package', () => {
  test('has a code, a message and a cause, and is an Error', () => {
    const cause = new Error('EIO');
    const error = new WriteBarrierError('FLUSH_FAILED', 'flush failed', { cause });
    expect(error).toBeInstanceOf(Error);
    expect(error).toMatchObject({ code: 'FLUSH_FAILED', message: 'flush failed', cause });
    expect(String(error)).toBe('WriteBarrierError: flush failed');
  });

  test('has no cause where none was given', () => {
    expect('cause' in new WriteBarrierError('CLOSED', 'closed')).toBe(false);
  });

  test('is told from others by its brand, also when a second copy of the package made it', () => {
    const brand = Symbol.for('write-barrier.error');
    expect(WriteBarrierError.is(new WriteBarrierError('CLOSED', 'closed'))).toBe(true);
    expect(WriteBarrierError.is(Object.assign(new Error('other copy'), { [brand]: true }))).toBe(
      true,
    );
    for (const other of [new Error('closed'), { code: 'CLOSED' }, null, undefined, 'CLOSED', 7]) {
      expect(WriteBarrierError.is(other)).toBe(false);
    }
  });

  test('shows its code and not its brand to whoever lists its fields', () => {
    const error = new WriteBarrierError('CLOSED', 'closed');
    expect(JSON.parse(JSON.stringify(error))).toMatchObject({ code: 'CLOSED' });
    expect(
      Object.getOwnPropertySymbols(error).map(
        (key) => Object.getOwnPropertyDescriptor(error, key)?.enumerable,
      ),
    ).toEqual([false]);
  });
});

describe('an invariant', () => {
  test('passes what holds, and stops at what does not with the rule in words', () => {
    expect(() => invariant(true, 'I1: settles once')).not.toThrow();
    expect(() => invariant(false, 'I1: settles once')).toThrow('I1: settles once');
  });

  test('is no error of this package, because no caller can handle it', () => {
    let thrown: unknown;
    try {
      invariant(false, 'I1: settles once');
    } catch (error) {
      thrown = error;
    }
    expect(WriteBarrierError.is(thrown)).toBe(false);
  });
});
