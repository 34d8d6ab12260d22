import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { invariant, WriteBarrierError } from '../../src/model/error.js';

describe('an error of this package', () => {
  test('has a code, a message and a cause, and is an Error', () => {
    const cause = new Error('EIO');
    const error = new WriteBarrierError('FLUSH_FAILED', 'flush failed', { cause });
    expect(error).toBeInstanceOf(Error);
    expect(error).toMatchObject({ code: 'FLUSH_FAILED', message: 'flush failed', cause });
    expect(String(error)).toBe('WriteBarrierError [FLUSH_FAILED]: flush failed');
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

// A caller may ask for the code or for the class, and gets the same answer. So only the class itself makes an error with its
// code; its constructor calls `super`.
describe('one class for one code', () => {
  const CLASSES = {
    IO_FAILED: 'IoFailedError',
    FLUSH_FAILED: 'FlushFailedError',
    FAILED: 'SchedulerFailedError',
    BARRIER_ABORTED: 'BarrierAbortedError',
    CLOSE_TIMEOUT: 'CloseTimeoutError',
    UNSAFE_MODE: 'UnsafeModeError',
    STORAGE_LOCKED: 'StorageLockedError',
  };
  /** Models of queues that do not know which request is to blame; a `BarrierAbortedError` names it. */
  const BLAME_NO_REQUEST = ['systems/requests.ts'];
  const SOURCES = fileURLToPath(new URL('../../src/', import.meta.url));
  const files = readdirSync(SOURCES, { recursive: true, encoding: 'utf8' })
    .filter((path) => path.endsWith('.ts'))
    .map((path) => path.replaceAll('\\', '/'));

  test.each(Object.entries(CLASSES))('%s is made by %s only', (code, name) => {
    // Also where the code is one of several: `new WriteBarrierError(isFlush ? 'FLUSH_FAILED' : ...`.
    const byHand = new RegExp(`new WriteBarrierError\\([^,;]*'${code}'`);
    const makers = files.filter((path) => byHand.test(readFileSync(join(SOURCES, path), 'utf8')));
    expect(makers).toEqual(code === 'BARRIER_ABORTED' ? BLAME_NO_REQUEST : []);
    const itself = new RegExp(
      `class ${name} extends WriteBarrierError \\{[^}]*[\\s\\S]*?super\\(\\s*'${code}'`,
    );
    expect(
      files.filter((path) => itself.test(readFileSync(join(SOURCES, path), 'utf8'))),
    ).toHaveLength(1);
  });
});

describe('an invariant', () => {
  test('passes what holds, and stops at what does not with the place of the rule', () => {
    expect(() => invariant(true, 'ordering.I1')).not.toThrow();
    expect(() => invariant(false, 'ordering.I1')).toThrow('ordering.I1');
  });

  test('is no error of this package, because no caller can handle it', () => {
    let thrown: unknown;
    try {
      invariant(false, 'ordering.I1');
    } catch (error) {
      thrown = error;
    }
    expect(WriteBarrierError.is(thrown)).toBe(false);
  });
});
