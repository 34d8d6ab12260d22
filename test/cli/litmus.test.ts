// Goal: the command says what the tables of the library say. Method: each row is compared with them, on a device of each kind.

import { describe, expect, test } from 'vitest';
import { LITMUS, LITMUS_COLUMNS, type LitmusTest } from 'write-barrier/testing/lab';
import { runCommand } from './run.js';

/** The rows of a table: the name, and the cell of each column. */
function rowsOf(stdout: string): Record<string, Record<string, string>> {
  const lines = stdout.split('\n').slice(2);
  const [head = '', ...rest] = lines.slice(0, lines.indexOf(''));
  const columns = head.trim().split(/ {2,}/);
  return Object.fromEntries(
    rest.map((line) => {
      const [name = '', ...cells] = line.split(/ {2,}/);
      return [name, Object.fromEntries(columns.map((column, i) => [column, cells[i] ?? '']))];
    }),
  );
}

/** What a table of the library has: `A/F` is for a write-through and for a write-back device. */
const wantedOf = ({ expected }: LitmusTest, cache: 0 | 1): Record<string, boolean> =>
  Object.fromEntries(
    LITMUS_COLUMNS.map((mode) => [mode, (expected[mode] ?? '').split('/')[cache] === 'A']),
  );

test.each([
  ['scsi-tags', 1],
  ['write-through', 0],
] as const)('on %s all tests and modes are those of the table', async (device, cache) => {
  const { code, stdout, stderr } = await runCommand(['litmus', '--device', device]);
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
  const rows = rowsOf(stdout);
  expect(Object.keys(rows)).toEqual(LITMUS.map(({ name }) => name));
  for (const one of LITMUS) {
    const row = rows[one.name] ?? {};
    const shown = LITMUS_COLUMNS.map((mode) => [mode, row[mode] !== 'never']);
    expect([one.name, Object.fromEntries(shown)]).toEqual([one.name, wantedOf(one, cache)]);
  }
});

test('a name picks its tests, in any case, and a mode its column', async () => {
  const { stdout } = await runCommand([
    'litmus',
    'l3',
    'F1',
    '--mode',
    'modern',
    '--mode',
    'drain',
  ]);
  expect(Object.keys(rowsOf(stdout))).toEqual(['L3a', 'L3b', 'F1 kernel', 'F1 abort', 'F1 ok']);
  expect(Object.keys(Object.values(rowsOf(stdout))[0] ?? {})).toEqual([
    'program',
    'outcome',
    'modern',
    'DRAIN',
  ]);
});

describe('one test in one mode', () => {
  test('has a run that shows the outcome, with what the power cut has left', async () => {
    const { stdout } = await runCommand(['litmus', 'L3b', '--mode', 'DRAIN']);
    const run = stdout.slice(stdout.indexOf('one that shows it:'));
    const moments = ['#0 write x', 'ok(y)', 'the power is cut', 'left: x=0'].map((text) =>
      run.indexOf(text),
    );
    expect(moments.every((at) => at >= 0)).toBe(true);
    expect(moments).toEqual([...moments].sort((a, b) => a - b));
  });

  test('says that no run shows it, where none does', async () => {
    const { stdout } = await runCommand(['litmus', 'L3b', '--mode', 'DRAIN_FLUSH']);
    expect(stdout).toMatch(/never\n\n\d+ runs?, and none shows it\n$/);
  });
});

test.each([
  [['L99'], 'L99 is not a litmus test; there are L1, '],
  [['--mode', 'LAZY'], '--mode must be one of NONE'],
  [['--device', 'floppy'], '--device must be one of file'],
  [['--program', 'W x'], '--program and --outcome go together'],
  [['L1', '--program', 'W x', '--outcome', 'x=1'], '--program takes the place of names'],
  [['--program', 'X x', '--outcome', 'x=1'], "no litmus test has 'X x': a program has W x, "],
  [['--program', 'W x', '--outcome', 'rain'], "no litmus test has 'rain': an outcome has x=1, "],
])('%j is answered in one line', async (words, message) => {
  const ended = await runCommand(['litmus', ...words]);
  expect(ended.code).toBe(2);
  expect(ended.stderr).toMatch(/^write-barrier litmus: .*\n$/);
  expect(ended.stderr).toContain(message);
});
