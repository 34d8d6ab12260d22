// Goal: a program that writes files is tested as it is, and what was not seen, or could not be run, is never called right. Method: small
// programs in Node and in the shell, with and without the fsync that they need.

import { spawnSync } from 'node:child_process';
import { mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { emptyFolder } from '../examples/folder.js';
import type { Finished } from '../examples/run.js';
import { runCommand } from './run.js';

const hasStrace = spawnSync('strace', ['-V']).status === 0;

const PROGRAMS: Readonly<Record<string, string>> = {
  'replace.mjs': `
import { renameSync, writeFileSync } from 'node:fs';
const [, , folder, flush] = process.argv;
writeFileSync(folder + '/a.tmp', 'new', { flush: flush !== undefined });
renameSync(folder + '/a.tmp', folder + '/a');`,
  // It takes its functions before it can be told that they are replaced.
  'replace.cjs': `
const { renameSync, openSync, writeSync, fsyncSync, closeSync } = require('fs');
const fd = openSync(process.env.FOLDER + '/a.tmp', 'w');
writeSync(fd, 'new');
if (process.argv[2]) fsyncSync(fd);
closeSync(fd);
renameSync(process.env.FOLDER + '/a.tmp', process.env.FOLDER + '/a');`,
  'told.mjs': `
import { existsSync, writeFileSync } from 'node:fs';
const [, , folder, early] = process.argv;
const tell = (kind) => existsSync('/write-barrier-mark/' + encodeURIComponent(JSON.stringify({ kind, operation: 'b' })));
tell('begin');
if (early) tell('acknowledge');
writeFileSync(folder + '/b', 'saved', { flush: true });
if (!early) tell('acknowledge');`,
  'exit.mjs': `
import { writeFileSync } from 'node:fs';
writeFileSync(process.argv[2] + '/a', 'new');
process.exit(0);`,
  'child.mjs': `
import { execFileSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
writeFileSync(process.argv[2] + '/a', 'new', { flush: true });
execFileSync('/bin/sh', ['-c', 'printf more > ' + process.argv[2] + '/c']);`,
  'late.mjs': `
import { writeFileSync } from 'node:fs';
writeFileSync(process.argv[2] + '/b', 'new', { flush: true });
process.once('exit', () => writeFileSync(process.argv[2] + '/late', 'x'));`,
  'odd.mjs': `
import { existsSync, writeFileSync } from 'node:fs';
writeFileSync(process.argv[2] + '/b', 'new');
existsSync('/write-barrier-mark/' + encodeURIComponent('{"kind":"acknowledged"}'));`,
  'inside.mjs': `
import { writeFileSync } from 'node:fs';
writeFileSync('a', 'new', { flush: true });`,
};

/** A folder with the programs, and what is there before them. */
async function place(): Promise<string> {
  const folder = await emptyFolder();
  for (const [name, text] of Object.entries(PROGRAMS)) writeFileSync(join(folder, name), text);
  mkdirSync(join(folder, 'before'));
  writeFileSync(join(folder, 'before', 'a'), 'old');
  return folder;
}

const CHECK = ['--from', 'before', '--check', 'case "$(cat {}/a)" in old|new) ;; *) exit 1;; esac'];
const crash = async (words: readonly string[]): Promise<Finished> =>
  runCommand(['crash-files', ...words], await place());

describe.runIf(process.platform === 'linux')('a program in Node', () => {
  test('without its fsync it fails, with the line of what was lost and the fsync that helps', async () => {
    const { code, stdout, stderr } = await crash([...CHECK, '--', 'node', 'replace.mjs', '{}']);
    expect({ code, stderr }).toEqual({ code: 1, stderr: '' });
    expect(stdout).toMatch(
      /^node replace\.mjs \{\}: 3 changes of files, seen by its calls of node:fs\nfailed\n/,
    );
    expect(stdout).toMatch(/LOST {2}#1 write \/a\.tmp 0\.\.3 {3}at replace\.mjs:4/);
    expect(stdout).toContain('this would prevent it: fsync /a.tmp');
    const [, again = ''] = /replay: '(.*)'/.exec(stdout) ?? [];
    const program = ['--', 'node', 'replace.mjs', '{}'];
    const replayed = await crash([...CHECK, '--replay', again, ...program]);
    expect(replayed.code).toBe(1);
    expect(replayed.stdout).toContain(`replay: '${again}'`);
  });

  test('is judged by the same file, whether the quotes of a check are around the {} or not', async () => {
    const check = [
      '--from',
      'before',
      '--check',
      `grep -q 'old\\|new' "{}/a" && grep -q 'old\\|new' {}/a`,
    ];
    const sound = await crash([...check, '--', 'node', 'replace.mjs', '{}', 'flush']);
    expect(sound).toMatchObject({ code: 0, stderr: '' });
    expect(sound.stdout).toContain('proved');
  });

  test.each([
    ['with its fsync', ['node', 'replace.mjs', '{}', 'flush']],
    ['as CommonJS that takes its functions early', ['node', 'replace.cjs', 'flush']],
    ['given by its path', [process.execPath, 'replace.mjs', '{}', 'flush']],
    ['with options of node', ['node', '--no-warnings', 'replace.mjs', '{}', 'flush']],
  ])('%s it is proved on the file systems that are named', async (_, program) => {
    const { code, stdout } = await crash([
      ...CHECK,
      '--model',
      'ext4',
      '--model',
      'XFS',
      '--',
      ...program,
    ]);
    expect(stdout).toMatch(
      /\nproved\n {2}ext4: .* cover all \d+ states\n {2}xfs: .* cover all \d+ states\n$/,
    );
    expect(code).toBe(0);
  });

  test('what it tells its user is held to', async () => {
    const held = ['--check', 'case "$ACKNOWLEDGED" in *b*) grep -q saved {}/b;; esac'];
    const honest = await crash([...held, '--', 'node', 'told.mjs', '{}']);
    expect(honest.stdout).toContain('\nproved\n');
    const early = await crash([...held, '--', 'node', 'told.mjs', '{}', 'early']);
    expect(early.code).toBe(1);
    expect(early.stdout).toContain('acknowledged by then: b');
  });

  test.each([
    ['a child has changed', 'child.mjs', /not shown: \/c: not as the recorded calls have left it/],
    [
      'it has changed after its end',
      'late.mjs',
      /not shown: the folder has changed after the record/,
    ],
  ])('what %s is noticed, and nothing is proved', async (_, program, warning) => {
    const { code, stdout } = await crash([...CHECK, '--', 'node', program, '{}']);
    expect(stdout).not.toContain('\nproved\n');
    expect(stdout).toMatch(warning);
    expect(code).toBeLessThan(2);
  });

  test('with --inside a program that takes no path is tested', async () => {
    const folder = await place();
    const program = ['node', 'inside.mjs'];
    const words = ['--inside', '--from', 'before', '--check', 'test -e a', '--', ...program];
    const { stdout } = await runCommand(['crash-files', ...words], folder);
    expect(stdout).toMatch(/: \d changes of files, seen by its calls of node:fs\nproved\n/);
    expect(readFileSync(join(folder, 'before', 'a'), 'utf8')).toBe('old');
  });

  test('a recovery may write, and what it says is in the report', async () => {
    const recover = [
      '--recover',
      'rm -f {}/a.tmp; cat {}/a',
      '--check',
      'test ! -e {}/a.tmp && test -s {}/a',
    ];
    const { code, stdout } = await crash([
      '--from',
      'before',
      ...recover,
      '--',
      'node',
      'replace.mjs',
      '{}',
      'flush',
    ]);
    expect({ code, proved: stdout.includes('\nproved\n') }).toEqual({ code: 0, proved: true });
  });

  test('nothing of it stays', async () => {
    const folder = await place();
    const before = readdirSync(folder);
    await runCommand(['crash-files', ...CHECK, '--', 'node', 'replace.mjs', '{}'], folder);
    expect(readdirSync(folder)).toEqual(before);
  });
});

describe.runIf(hasStrace)('any program, by strace', () => {
  test('without its fsync it fails, and with it it is proved', async () => {
    const broken = ['sh', '-c', 'printf new > {}/a.tmp; mv {}/a.tmp {}/a'];
    const failing = await crash([...CHECK, '--', ...broken]);
    expect(failing.code).toBe(1);
    expect(failing.stdout).toContain('seen by strace\nfailed\n');
    const sound = ['sh', '-c', 'printf new > {}/a.tmp; sync {}/a.tmp; mv {}/a.tmp {}/a'];
    const proved = await crash([...CHECK, '--', ...sound]);
    expect(proved.stdout).toContain('seen by strace\nproved\n');
  });

  test('a program in Node that ends with process.exit is seen so', async () => {
    const { code, stdout } = await crash([
      '--check',
      'test -d {}',
      '--strace',
      '--',
      'node',
      'exit.mjs',
      '{}',
    ]);
    expect(code).toBe(0);
    expect(stdout).toContain('2 changes of files, seen by strace');
    // The check accepts everything.
    expect(stdout).toContain('\npassed\n');
  });
});

describe.runIf(process.platform === 'linux')(
  'what cannot be run is exit code 2, in one line',
  () => {
    test.each([
      ['-- PROGRAM is missing', CHECK],
      ['--recover or --check is missing', ['--', 'node', 'replace.mjs', '{}']],
      ['--check must have {}', ['--check', 'true', '--', 'node', 'replace.mjs', '{}']],
      ['--model must be one of', [...CHECK, '--model', 'fat', '--', 'node', 'replace.mjs', '{}']],
      ["'operand' is one operand too many", ['operand', ...CHECK, '--', 'node']],
      ['has changed nothing in its folder', [...CHECK, '--', 'node', '--eval', '1']],
      [
        'it called process.exit, or an error ended it; let it end by itself, or use --strace',
        [...CHECK, '--', 'node', 'exit.mjs', '{}'],
      ],
      [
        'ended with 5, so there is nothing to judge',
        [...CHECK, '--', 'node', '--eval', 'process.exitCode = 5'],
      ],
      ['the mark {"kind":"acknowledged"} is not', [...CHECK, '--', 'node', 'odd.mjs', '{}']],
      ['could not be run', ['--check', 'no-such-program {}', '--', 'node', 'replace.mjs', '{}']],
      ['ENOENT', ['--from', 'nowhere', ...CHECK.slice(2), '--', 'node', 'replace.mjs', '{}']],
    ])('%s', async (message, words) => {
      const { code, stdout, stderr } = await crash(words);
      expect({ code, stdout }).toEqual({ code: 2, stdout: '' });
      expect(stderr).toMatch(/^write-barrier crash-files: .*\n$/);
      expect(stderr).toContain(message);
    });

    test.runIf(hasStrace)('a program that is not there, or fails, under strace', async () => {
      for (const program of [['no-such-program'], ['sh', '-c', 'exit 3']]) {
        const { code, stderr } = await crash([...CHECK, '--', ...program]);
        expect(code).toBe(2);
        expect(stderr).toMatch(/^write-barrier crash-files: .*\n$/);
      }
    });

    test('what a program prints is not taken for the answer', async () => {
      const folder = await place();
      symlinkSync('before', join(folder, 'again'));
      const program = ['node', '--eval', 'console.log("proved"); process.exitCode = 1'];
      const { stdout, stderr } = await runCommand(
        ['crash-files', ...CHECK, '--', ...program],
        folder,
      );
      expect(stdout).toBe('');
      expect(stderr).toContain('proved\n');
    });
  },
);
