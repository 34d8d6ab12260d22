// Crash tests in a test runner, here Vitest. What node:test and Jest make of `survives` is in interop/test-runners.test.ts.

import { describe, expect, test } from 'vitest';
import { type CrashTest, survives } from '../../src/testing/index.js';
import { FLUSH, PLAIN, SECTOR } from './sectors.js';

const BYTES = new Uint8Array(SECTOR).fill(1);

/** One write that is acknowledged, after a flush or without one. */
function store(flushes: boolean): CrashTest<string, boolean> {
  return {
    size: SECTOR,
    workload: async (disk, journal) => {
      journal.begin('write');
      await disk.write(0, BYTES, PLAIN);
      if (flushes) await disk.flush(FLUSH);
      journal.acknowledge('write');
    },
    recover: (disk) => {
      const found = new Uint8Array(SECTOR);
      disk.read(0, found);
      return found[0] === 1;
    },
    check: (isThere, { acknowledged }) => {
      if (acknowledged.length > 0 && !isThere) throw new Error('the write is lost');
      return true;
    },
  };
}

/** The error that the test fails with. */
async function failureOf(body: () => Promise<void>): Promise<Error> {
  const error = await body().then(
    () => undefined,
    (cause: unknown) => cause,
  );
  expect(error).toBeInstanceOf(Error);
  return error as Error;
}

test('given code that survives, then the test passes', survives(store(true)));

describe('given code that does not survive', () => {
  test('then the test fails with the report as its message, and the cause is what the check threw', async () => {
    const error = await failureOf(survives(store(false)));
    expect(error.message).toMatch(/^failed: found by recovery \d+/);
    expect(error.message).toContain('a flush after #0 would have kept it');
    expect((error.cause as Error).message).toBe('the write is lost');
  });

  test('then the stack begins with the message and goes on where survives was called', async () => {
    const body = survives(store(false));
    const { message, stack = '' } = await failureOf(body);
    expect(stack.startsWith(`Error: ${message}\n`)).toBe(true);
    const [frame] = stack.slice(`Error: ${message}\n`.length).split('\n');
    expect(frame).toContain('survives.test.ts');
  });

  test('when it is called twice, then it fails twice', async () => {
    const body = survives(store(false));
    expect((await failureOf(body)).message).toBe((await failureOf(body)).message);
  });
});

describe('given a report with warnings', () => {
  const partly = { ...store(true), recoveriesMax: 1 };

  test('then the test fails and its message has them', async () => {
    const { message, cause } = await failureOf(survives(partly));
    expect(message).toMatch(/^passed: /);
    expect(message).toContain('warning: 1 of ');
    expect(cause).toBeUndefined();
  });

  test('when warnings are allowed, then it passes', survives(partly, { allowWarnings: true }));

  test('when warnings are allowed, then what does not survive fails nonetheless', async () => {
    const error = await failureOf(survives(store(false), { allowWarnings: true }));
    expect(error.message).toMatch(/^failed: /);
  });
});

test('given code that hangs, then the test fails and says what it waits for', async () => {
  const hanging = { ...store(true), workload: () => new Promise<void>(() => {}), hangMs: 50 };
  const { message } = await failureOf(survives(hanging));
  expect(message).toMatch(/^hung: /);
});

test('given full, then nothing of the message is cut short', async () => {
  const long = 'x'.repeat(1000);
  const test = { ...store(false), check: () => Promise.reject(new Error(long)) };
  expect((await failureOf(survives(test))).message).not.toContain(long);
  expect((await failureOf(survives(test, { full: true }))).message).toContain(long);
});

test('given options that crashTest refuses, then the test fails with INVALID_ARGUMENT', async () => {
  const error = await failureOf(survives({ ...store(true), seeds: 0 }));
  expect(error).toMatchObject({ code: 'INVALID_ARGUMENT' });
});
