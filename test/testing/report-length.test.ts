// A report is for a person. Goal: however large what a workload writes, tells or recovers, the text has the length of
// a screen, says how much it leaves out, and has the whole on request; what is missing is named.

import { inspect } from 'node:util';
import { describe, expect, test } from 'vitest';
import type { Storage } from 'write-barrier';
import {
  formatCount,
  formatShare,
  shortList,
  shown,
} from '../../src/testing/crash-test/in-short.js';
import {
  type CrashReport,
  type CrashTest,
  crashTest,
  formatCrashReport,
  VolatileDisk,
} from '../../src/testing/index.js';
import { crashSpace } from '../../src/testing/lab/index.js';

const SECTOR = 512;
const PLAIN = { fua: false, tag: 'simple' } as const;
const full = (): Uint8Array => new Uint8Array(SECTOR).fill(1);
const isThere = (disk: Storage, sector: number): boolean => {
  const into = new Uint8Array(SECTOR);
  disk.read(sector * SECTOR, into);
  return into[0] === 1;
};

const LINES_MAX = 80;
const LINE_MAX = 400;
function expectReadable(report: CrashReport): void {
  const lines = formatCrashReport(report).split('\n');
  expect(lines.length).toBeLessThan(LINES_MAX);
  // The number of an image has all of its digits, or it would be another image.
  for (const line of lines.slice(0, -1)) expect(line.length).toBeLessThan(LINE_MAX);
}

/** Acknowledges everything and flushes nothing. */
const losing = (operations: readonly unknown[]): CrashTest<unknown, unknown> => ({
  size: 4 * SECTOR,
  workload: async (disk, journal) => {
    for (const operation of operations) journal.begin(operation);
    await disk.write(0, full(), PLAIN);
    for (const operation of operations) journal.acknowledge(operation);
  },
  recover: (disk) => (isThere(disk, 0) ? operations : []),
  check: (found, { acknowledged }) =>
    acknowledged.length === 0 || (found as unknown[]).length === operations.length,
});

const LARGE: Readonly<Record<string, readonly unknown[]>> = {
  'an array of a megabyte': [new Uint8Array(1 << 20).fill(7)],
  'ten thousand numbers': Array.from({ length: 10_000 }, (_, n) => n),
  'a long string': ['x'.repeat(100_000)],
  'a string of many lines': ['line\n'.repeat(5000)],
  'a deep object': [
    Array.from({ length: 1000 }).reduce<object>((inner, _, n) => ({ n, inner }), {}),
  ],
  'an object of many keys': [
    Object.fromEntries(Array.from({ length: 5000 }, (_, n) => [`key ${n}`, n])),
  ],
  'a map of arrays': [new Map([['a', new Uint8Array(100_000)]])],
  'an object that contains itself': [
    (() => {
      const ring = { name: 'ring', self: undefined as unknown };
      ring.self = ring;
      return ring;
    })(),
  ],
  'values that JSON has not': [1n, undefined, Number.NaN, -0, Symbol('s'), () => 1, new Date(0)],
  'a getter that throws': [
    {
      get value(): never {
        throw new Error('no');
      },
    },
  ],
};

describe.each(Object.entries(LARGE))('given operations that are %s', (_, operations) => {
  test('when they are lost, then the report is readable, and the whole of it is there on request', async () => {
    const report = await crashTest({ ...losing(operations), program: operations.slice(0, 50) });
    expect(report.verdict).toBe('failed');
    expectReadable(report);
    const whole = formatCrashReport(report, { full: true });
    expect(whole.length).toBeGreaterThanOrEqual(formatCrashReport(report).length - 4);
    expect(whole).not.toMatch(/ and [\d.e]+ more/);
  });
});

test('given acknowledged operations, when some are gone, then those that are missing are named', async () => {
  for (const named of [
    (found: string[]) => found,
    (found: string[]) => new Set(found),
    (found: string[]) => new Map(found.map((key) => [key, 1])),
    (found: string[]) => Object.fromEntries(found.map((key) => [key, 1])),
  ]) {
    const { failure } = await crashTest<string, unknown>({
      size: 4 * SECTOR,
      workload: async (disk, journal) => {
        for (const [sector, key] of ['a', 'b', 'c'].entries()) {
          journal.begin(key);
          await disk.write(sector * SECTOR, full(), PLAIN);
          if (key !== 'b') await disk.flush({ tag: 'simple' });
          journal.acknowledge(key);
        }
      },
      recover: (disk) => named(['a', 'b', 'c'].filter((_, sector) => isThere(disk, sector))),
      check: (found, { acknowledged }) =>
        acknowledged.every((key) => shown(found, true).includes(key)),
    });
    expect(failure?.text).toMatch(/^ {2}missing: b$/m);
    expect(failure?.text).toMatch(/^ {2}acknowledged by then: a, b$/m);
  }
});

test('given a recovery whose items are no operations, then nothing is said to be missing', async () => {
  const { failure } = await crashTest({ ...losing([1, 2]), recover: () => ['page 0'] });
  expect(failure?.text).not.toContain('missing');
  expect(failure?.text).toContain('recovered: ["page 0"]');
});

test('given a message of many lines, then its first ones are told', async () => {
  const report = await crashTest({
    ...losing([1]),
    check: () => {
      throw new Error(`${'difference\n'.repeat(3000)}end`);
    },
  });
  expectReadable(report);
  expect(report.failure?.text).toMatch(/\.\.\. \d+ more lines/);
  expect(report.failure?.message).toContain('end');
  expect(formatCrashReport(report, { full: true })).toContain('\nend');
});

test('given thousands of commands and sectors that are lost, then the report is readable', async () => {
  const many = await crashTest<number, boolean>({
    size: 4096 * SECTOR,
    workload: async (disk, journal) => {
      await disk.write(0, new Uint8Array(1000 * SECTOR).fill(1), PLAIN);
      for (let n = 1000; n < 1300; n++) await disk.write(n * SECTOR, full(), PLAIN);
      journal.acknowledge(1);
    },
    recover: (disk) => isThere(disk, 0),
    check: (found, { acknowledged }) => found || acknowledged.length === 0,
    recoveriesMax: 50,
  });
  expect(many.verdict).toBe('failed');
  expectReadable(many);
  expect(formatCrashReport(many)).toMatch(/among \d(\.\d+)?e\d+ images/);
});

test('given ranges of one command, then no range is told', async () => {
  const report = await crashTest({
    ...losing([1]),
    workload: async (disk, journal) => {
      for (let n = 0; n < 8; n++) await disk.flush({ tag: 'simple' });
      await disk.write(0, full(), PLAIN);
      journal.acknowledge(1);
    },
  });
  expect(formatCrashReport(report)).not.toMatch(/#(\d+) to #\1\b/);
});

test('given counts and lists, then they are short, and never say what is not so', () => {
  expect([0n, 999_999n, 1_000_000n, 10n ** 45n + 5n, 123_456_789n].map(formatCount)).toEqual([
    '0',
    '999999',
    '1e6',
    '1e45',
    '1.23e8',
  ]);
  expect(formatShare(5n, 5n)).toBe('all 5');
  expect(formatShare(3n, 5n)).toBe('3 of 5');
  expect(formatShare(10n ** 20n - 1n, 10n ** 20n)).toBe('9.99e19 of 1e20');
  expect(formatShare(10n ** 20n + 1n, 10n ** 20n + 3n)).toBe('all but 2 of 1e20');
  expect(shortList([1, 2, 3, 4, 5, 6, 7], false)).toBe('1, 2, 3, 4, 5 and 2 more');
  expect(shortList([1, 2, 3, 4, 5, 6, 7], true)).toBe('1, 2, 3, 4, 5, 6, 7');
});

describe('given what console.log shows in Node', () => {
  test('when it is a report, then it is its verdict, why, and how to see more', async () => {
    const failed = inspect(await crashTest(losing([1])));
    expect(failed).toMatch(
      /^CrashReport failed: .*\n {2}the check returned false; replay: 'seed 0/,
    );
    const report = await crashTest({ ...losing([1]), check: () => true });
    expect(inspect(report)).toMatch(/^CrashReport passed: .*\n {2}warning: /);
    expect(inspect(report).split('\n').length).toBeLessThanOrEqual(3);
    expect({ ...report }).toEqual(report);
    expect(Object.keys(structuredClone({ ...report, failure: undefined }))).toContain('verdict');
  });

  test('when it is a disk, a space or a state, then it is a line', async () => {
    const disk = new VolatileDisk({ size: 4 * SECTOR });
    const write = disk.write(0, full(), PLAIN);
    expect(inspect(disk)).toBe(
      'VolatileDisk { 2048 bytes, cache volatile, on; 1 commands, 1 of them not answered }',
    );
    await write;
    const space = crashSpace(disk.trace);
    expect(inspect(space)).toBe('CrashSpace { 2 images of 2048 bytes; 1 regions were written }');
    expect(inspect(space.at(0n))).toMatch(
      /^CrashState \{ 2048 bytes: 1 of .* have their old content \}$/,
    );
  });
});

describe('given values that do harm to a report', () => {
  // An escape sequence that clears a screen, a mark that turns the line around, and an end of line that is none.
  const harmful = 'a\u001b[2J\u202e\u2028b';
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are looked for
  const obeyed = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u2028\u2029\u202e]/;

  test('when they hold what a terminal obeys, then it is escaped wherever it is told', async () => {
    const check = (): never => {
      throw new Error(harmful);
    };
    for (const one of [losing([harmful]), losing([{ [harmful]: harmful }])]) {
      for (const test of [one, { ...one, check }, { ...one, label: () => harmful }]) {
        const report = await crashTest(test);
        expect(report.verdict).toBe('failed');
        for (const text of [
          formatCrashReport(report),
          formatCrashReport(report, { full: true }),
          inspect(report),
        ]) {
          expect(text).not.toMatch(obeyed);
        }
      }
    }
  });

  test('when a label throws, is long, or is no text, then the failure is told all the same', async () => {
    const label = (): never => {
      throw new Error('no name');
    };
    const nameless = await crashTest({ ...losing([1]), label });
    expect(nameless.failure?.text).toContain('offset 0');
    const long = await crashTest({ ...losing([1]), label: () => 'x'.repeat(1e6) });
    expect(long.failure?.text.length).toBeLessThan(5000);
    const number = await crashTest({ ...losing([1]), label: () => 5 as unknown as string });
    expect(number.verdict).toBe('failed');
  });

  test('when they throw however they are looked at, then the failure is told all the same', async () => {
    const { proxy, revoke } = Proxy.revocable({}, {});
    revoke();
    const tagged = {
      get [Symbol.toStringTag](): string {
        throw new Error('no tag');
      },
      get field(): string {
        throw new Error('no field');
      },
    };
    for (const value of [proxy, tagged]) {
      const report = await crashTest(losing([value]));
      expect(report.failure?.text).toContain('acknowledged by then: [object Object]');
    }
  });
});
