// Goal: a check of any program finds the power cut that a recorded disk does not survive, and a command that cannot be run is never
// taken for an answer. Method: traces of a log with and without a barrier; the checks are lines of the shell.

import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { IoScheduler, MemoryStorage } from 'write-barrier';
import { DiskRecorder, encodeTrace, recording, writeLogWrites } from 'write-barrier/testing/lab';
import { emptyFolder } from '../examples/folder.js';
import { runCommand } from './run.js';

const SECTOR = 512;
const block = (letter: string): Uint8Array => new Uint8Array(SECTOR).fill(letter.charCodeAt(0));
/** The mark is there only with the record. */
const RIGHT = '! grep -q m {} || grep -q r {}';

/** A log of a record and its mark on a disk that was full of dots. */
async function logTrace(barrier: boolean, journal = false): Promise<DiskRecorder> {
  const initial = new Uint8Array(3 * SECTOR).fill('.'.charCodeAt(0));
  const recorder = new DiskRecorder(initial.length, initial);
  const medium = new MemoryStorage(initial.slice(), { capabilities: { cache: 'volatile' } });
  // What a journal does not say is for other readers.
  recorder.mark(null);
  recorder.mark('begin');
  const disk = new IoScheduler(recording(medium, recorder), { mode: 'DRAIN_FLUSH' });
  if (journal) recorder.mark({ kind: 'begin', operation: 'saved' });
  await disk.write(0, block('r'));
  await disk.write(SECTOR, block('m'), { barrier });
  await disk.flush();
  if (journal) recorder.mark({ kind: 'acknowledge', operation: 'saved' });
  return recorder;
}

describe.runIf(process.platform !== 'win32')('a check on each disk', () => {
  const crash = async (barrier: boolean, ...words: readonly string[]) => {
    const own = await emptyFolder();
    writeFileSync(join(own, 'trace'), encodeTrace((await logTrace(barrier)).trace));
    return { ...(await runCommand(['crash', 'trace', ...words], own)), own };
  };

  test('finds the missing barrier, and draws and keeps what it has found', async () => {
    const files = ['--picture', 'a.svg', '--page', 'a.html', '--image', 'a.img'];
    const { code, stdout, own } = await crash(false, '--check', RIGHT, ...files);
    expect(code).toBe(1);
    expect(stdout).toMatch(/^failed: /);
    expect(stdout).toContain('a barrier between #0 and #1 would have prevented it');
    expect(readFileSync(join(own, 'a.svg'), 'utf8')).toMatch(/^<svg /);
    expect(readFileSync(join(own, 'a.html'), 'utf8')).toContain('<svg ');
    expect(readFileSync(join(own, 'a.img'), 'latin1')).toMatch(/^\.{512}m{512}\.{512}$/);
    const [, again] = /replay: '(.*)'/.exec(stdout) ?? [];
    const replayed = await runCommand(
      ['crash', 'trace', '--check', RIGHT, '--replay', again ?? ''],
      own,
    );
    expect(replayed.code).toBe(1);
    expect(replayed.stdout).toContain(`replay: '${again}'`);
  });

  test('with the barrier it is proved, as long as all disks are tried', async () => {
    const proved = await crash(true, '--check', RIGHT);
    expect(proved).toMatchObject({ code: 0, stderr: '' });
    expect(proved.stdout).toMatch(/^proved: \d+ recoveries cover all \d+ images/);
    const passed = await crash(true, '--check', RIGHT, '--recoveries', '2');
    expect(passed.code).toBe(0);
    expect(passed.stdout).toMatch(/^passed: /);
  });

  test('a lie of the disk makes the barrier useless', async () => {
    const { code } = await crash(true, '--check', RIGHT, '--lie', 'ignoreFlush');
    expect(code).toBe(1);
  });

  test('the journal of the trace is in the environment, and is held to', async () => {
    const held = `case "$ACKNOWLEDGED" in *saved*) grep -q m {};; *) test "$BEGUN" = '["saved"]' -o "$BEGUN" = '[]';; esac`;
    const own = await emptyFolder();
    writeFileSync(join(own, 'trace'), encodeTrace((await logTrace(true, true)).trace));
    const kept = await runCommand(['crash', 'trace', '--check', held], own);
    expect(kept.stdout).toMatch(/^proved: /);
    const lies = ['--lie', 'ignoreFlush'];
    const lying = await runCommand(['crash', 'trace', '--check', held, ...lies], own);
    expect(lying.code).toBe(1);
    expect(lying.stdout).toContain('acknowledged by then: saved');
  });

  test('a recovery may write, and the next disk is whole again', async () => {
    const { code, stdout } = await crash(
      false,
      ...['--recover', 'printf gone > {}'],
      ...['--check', 'test "$(cat {})" = gone'],
    );
    expect(code).toBe(0);
    // It accepts everything, and the report says so.
    expect(stdout).toMatch(/^passed: /);
    expect(stdout).toContain('the check accepts every disk');
    const failing = await crash(false, '--recover', 'grep -q m {}');
    expect(failing.code).toBe(1);
    expect(failing.stdout).toContain('--recover ended with 1');
  });

  test('a check that accepts every disk proves nothing', async () => {
    const { code, stdout } = await crash(true, '--check', 'test -f {}');
    expect(code).toBe(0);
    expect(stdout).toMatch(/^passed: /);
  });

  test('what a check says is in the report, and the line of an error before others', async () => {
    const said = await crash(
      false,
      '--check',
      `${RIGHT} || { echo "Error: no record"; echo bye; exit 3; }`,
    );
    expect(said.stdout).toContain('--check ended with 3: Error: no record');
  });

  test('one that does not end is ended, and fails', async () => {
    const { code, stdout } = await crash(true, '--check', 'sleep 100 # {}', '--timeout', '0.2');
    expect(code).toBe(1);
    expect(stdout).toContain('has not ended within 0.2 s');
  });

  test.each([
    ['could not be run: ', ['--check', 'no-such-program {}']],
    ['could not be run: ', ['--recover', '/dev/null {}']],
    ['--check must have {}', ['--check', 'true']],
    ['--device must be one of file', ['--device', 'floppy']],
    ['--lie must be one of ignoreFlush', ['--lie', 'white']],
    ['--recoveries takes a whole number from 1', ['--check', RIGHT, '--recoveries', '0']],
    ['--timeout takes seconds', ['--check', RIGHT, '--timeout', '0']],
    ['--images goes with --out', ['--images', '3']],
    ['not a multiple of the sector size 1000', ['--sector-size', '1000']],
    ['replay', ['--check', RIGHT, '--replay', 'nonsense']],
  ])('%s: exit code 2', async (message, words) => {
    const { code, stderr } = await crash(false, ...words);
    expect({ code, stderr }).toEqual({ code: 2, stderr: expect.stringContaining(message) });
    expect(stderr).toMatch(/^write-barrier crash: .*\n$/);
  });

  test('nothing that is there is written over', async () => {
    const own = await emptyFolder();
    writeFileSync(join(own, 'trace'), encodeTrace((await logTrace(false)).trace));
    const words = ['crash', 'trace', '--check', RIGHT, '--picture', 'trace'];
    expect(await runCommand(words, own)).toMatchObject({
      code: 2,
      stderr: expect.stringContaining('EEXIST'),
    });
    expect(readFileSync(join(own, 'trace'), 'latin1')).toMatch(/^write-barrier-trace /);
  });
});

test('disks are drawn for a program that takes many, each as long as the disk', async () => {
  const folder = await emptyFolder();
  writeFileSync(join(folder, 'trace'), encodeTrace((await logTrace(false)).trace));
  const { code, stdout } = await runCommand(
    ['crash', 'trace', '--images', '11', '--out', 'disks'],
    folder,
  );
  expect(code).toBe(0);
  expect(stdout).toContain('11 of them are in disks.');
  const names = readdirSync(join(folder, 'disks'));
  expect(names.sort()).toEqual(
    Array.from({ length: 11 }, (_, n) => `disk-${String(n).padStart(2, '0')}.img`),
  );
  for (const name of names)
    expect(readFileSync(join(folder, 'disks', name)).length).toBe(3 * SECTOR);
});

describe('what is a trace', () => {
  test('a log of dm-log-writes is one, with the size of its disk', async () => {
    const folder = await emptyFolder();
    const { trace } = await logTrace(true);
    writeFileSync(join(folder, 'log'), writeLogWrites({ ...trace, marks: [] }));
    expect(await runCommand(['crash', 'log'], folder)).toMatchObject({ code: 2 });
    const { code, stdout } = await runCommand(
      ['crash', 'log', '--size', String(trace.size)],
      folder,
    );
    expect(code).toBe(0);
    expect(stdout).toMatch(
      /^A disk of 1536 bytes, 2 writes, \d flushes: a power cut may leave \d+ different disks\.\n$/,
    );
  });

  test.each([
    ['nowhere', 'ENOENT'],
    ['.', 'EISDIR'],
    ['text', 'is neither a trace of write-barrier nor a log of dm-log-writes'],
    ['cut', 'the header'],
  ])('%s is none', async (name, message) => {
    const folder = await emptyFolder();
    writeFileSync(join(folder, 'text'), 'some text');
    writeFileSync(join(folder, 'cut'), 'write-barrier-trace 1\n');
    const ended = await runCommand(['crash', name], folder);
    expect(ended).toMatchObject({ code: 2, stdout: '' });
    if (name !== 'cut') expect(ended.stderr).toContain(message);
    expect(ended.stderr).toMatch(/^write-barrier crash: .*\n$/);
    expect(existsSync(join(folder, 'disk.img'))).toBe(false);
  });
});
