import { readdir } from 'node:fs/promises';
import { describe, expect, test } from 'vitest';
import { blocksOf, read } from '../docs/pages.js';
import { emptyFolder } from './folder.js';
import { runExample } from './run.js';

describe('the runner', () => {
  test('without a name it lists every example with one line about it', async () => {
    const { code, stdout } = await runExample([]);
    const folders = await readdir(new URL('../../examples', import.meta.url));
    const names = folders.filter((name) => /^\d/.test(name));
    const listed = stdout.split('\n').filter((line) => line.startsWith('  '));
    expect(code).toBe(0);
    expect(listed.map((line) => line.trim().split(/\s+/)[0])).toEqual(names.sort());
    for (const line of listed) expect(line).toMatch(/^ {2}\S+ {2,}\S.*\.$/);
  });

  test.each(['01-quickstart', '01', 'quickstart', 'quick', 'start'])(
    '%s names an example',
    async (name) => {
      expect((await runExample([name])).stdout).toContain('is safe here');
    },
  );

  test.each([
    ['nothing', "'nothing' names no example"],
    ['0', "'0' names more than one example: 01-quickstart, 02-write-ahead-log"],
  ])('%s names none, and the answer says which there are', async (name, message) => {
    const { code, stdout, stderr } = await runExample([name]);
    expect(code).toBe(1);
    expect(stdout).toBe('');
    expect(stderr).toContain(message);
    expect(stderr).toContain('04-stacked');
  });
});

test('the quickstart reads what it wrote, says what was promised, and leaves no file', async () => {
  const folder = await emptyFolder();
  const { code, stdout, stderr } = await runExample(['01'], folder);
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
  expect(stdout).toMatch(
    /^DRAIN_F(UA|LUSH) is safe here\. The queue drains.*\nThe record starts with 1\.\n$/,
  );
  expect(await readdir(folder)).toEqual([]);
});

test('the crash is found, the lost record and its call are named, and a barrier is proved to be enough', async () => {
  const { code, stdout, stderr } = await runExample(['find-a-crash']);
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
  expect(stdout).toMatch(/^failed: found by recovery/m);
  expect(stdout).toMatch(/lost: the record, written by #0, called from .*main\.mjs:\d+/);
  expect(stdout).toMatch(/^proved: \d+ recoveries cover all \d+ images/m);
});

test.runIf(process.platform === 'linux')(
  'the program that replaces a file fails, with the fsync that helps, and is proved with it',
  async () => {
    const { code, stdout, stderr } = await runExample(['crash-files']);
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
    const [before = '', after = ''] = stdout.split('The same, with an fsync:');
    expect(before).toMatch(/\nfailed\n[\s\S]*LOST {2}#1 write \/settings\.tmp .* at save\.mjs:7/);
    expect(before).toContain('this would prevent it: fsync /settings.tmp');
    expect(after).toContain('\nproved\n');
    // Words of a user take the place of its own.
    const own = await runExample(['crash-files', '--check', 'true']);
    expect(own).toMatchObject({ code: 2, stdout: '' });
  },
);

test('the log shares flushes, is replayed, finds its torn tail, and leaves no file', async () => {
  const folder = await emptyFolder();
  const { code, stdout, stderr } = await runExample(['02'], folder);
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
  const shared = /400 appends by 16 clients shared (\d+) device flushes\./.exec(stdout);
  // All 16 wait for the same batch, so no batch but the last has fewer; 25 each make 25 batches.
  expect(Number(shared?.[1])).toBe(25);
  expect(stdout).toContain('Opened again: 400 records, torn: false.');
  expect(stdout).toContain('After a torn write: 399 records, torn: true.');
  expect(await readdir(folder)).toEqual([]);
});

test('the stack shows the flush that TAG never sends for an empty barrier', async () => {
  const folder = await emptyFolder();
  const { code, stdout, stderr } = await runExample(['04'], folder);
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
  const runs = stdout
    .trim()
    .split('\n\n')
    .map((run) =>
      run
        .split('\n')
        .slice(0, 4)
        .map((line) => line.trim()),
    );
  expect(runs).toEqual([
    [
      'TAG over DRAIN_FLUSH: unsafe',
      'the guest asked       w0 w1 b w2',
      'crossed the boundary  w0 w1 => w2',
      'reached the file      w0+2 => w2',
    ],
    [
      'TAG_FLUSH over DRAIN_FLUSH: safe-without-errors',
      'the guest asked       w0 w1 b w2',
      'crossed the boundary  w0 w1 ^F w2',
      'reached the file      w0+2 => F => w2',
    ],
    [
      'TAG over DRAIN_FLUSH: unsafe',
      'the guest asked       w0 w1 b2 w3',
      'crossed the boundary  w0 w1 ^w2 w3',
      'reached the file      w0+2 => F => w2 => F => w3',
    ],
    [
      'TAG_FLUSH over DRAIN_FLUSH: safe-without-errors',
      'the guest asked       w0 w1 b2 w3',
      'crossed the boundary  w0 w1 ^F ^w2 ^F w3',
      'reached the file      w0+2 => F => F => w2 => F => F => w3',
    ],
  ]);
  expect(await readdir(folder)).toEqual([]);
});

test('the store of several files prints what its page says, and leaves no file', async () => {
  const folder = await emptyFolder();
  const { code, stdout, stderr } = await runExample(['14'], folder);
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
  const [shown] = blocksOf(read('examples/14-store/README.md'));
  expect(stdout).toBe(shown?.text);
  expect(await readdir(folder)).toEqual([]);
});
