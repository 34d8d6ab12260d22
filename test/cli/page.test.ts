// Goal: what the page of the command shows is what the command prints. Method: the blocks of the page, one after the other, in one
// folder: JavaScript is run by node, and `console` by a shell in which `npx write-barrier` is the command as it is built. The `text`
// block behind one must be what it prints.
//
// Not compared: times, the names of disks and trees, and what the doctor finds on this machine; of that only what is said about.

import { execFileSync, spawnSync } from 'node:child_process';
import { chmodSync, existsSync, mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { expect, test } from 'vitest';
import { blocksOf, ROOT, read } from '../docs/pages.js';
import { emptyFolder } from '../examples/folder.js';
import { CLI, runCommand } from './run.js';

const PAGE = read('docs/command.md');

/** A shell that has the command as npx would find it. */
function shellIn(folder: string): (text: string) => string {
  const bin = join(folder, 'bin');
  mkdirSync(bin);
  writeFileSync(join(bin, 'npx'), `#!/bin/sh\nshift\nexec "${process.execPath}" "${CLI}" "$@"\n`);
  chmodSync(join(bin, 'npx'), 0o755);
  const { PATH = '' } = process.env;
  const env = { ...process.env, PATH: `${bin}${delimiter}${PATH}` };
  return (text) => {
    const { stdout, stderr, error } = spawnSync('/bin/sh', ['-c', text], {
      cwd: folder,
      env,
      encoding: 'utf8',
    });
    expect(error).toBeUndefined();
    // A replay tells on the other stream how far it is.
    expect(stderr.replaceAll(/^replayed \w+: images identical\n/gm, '')).toBe('');
    return stdout;
  };
}

const compared = (text: string): string =>
  text
    .replaceAll(/ +\d+(?= {2}identical)/g, ' ..')
    .replaceAll(/(?<=\b(?:disk|tree)) [\da-f]{12}$/gm, '')
    .replaceAll(/ {2,}/g, '  ');

/** What a report of the doctor is about: the beginnings of its lines, and each mode with its verdict. */
function topicsOf(report: string): string[] {
  return report.split('\n').flatMap((line) => {
    const [, mode] = /^([A-Z_]+ +(?:un)?safe)\b/.exec(line) ?? [];
    const [, cost] = /^([a-z][a-z ,]*?) {2,}\d/.exec(line) ?? [];
    const [, topic] = /^([\w .]+):/.exec(line) ?? [];
    const found = mode ?? cost ?? topic;
    return found === undefined ? [] : [found];
  });
}

test.runIf(process.platform === 'linux')(
  'every command of the page prints what the page says',
  async () => {
    const folder = await emptyFolder();
    const shell = shellIn(folder);
    mkdirSync(join(folder, 'node_modules'));
    symlinkSync(ROOT, join(folder, 'node_modules/write-barrier'));
    const blocks = blocksOf(PAGE);
    let compares = 0;
    for (const [at, { language, text, line }] of blocks.entries()) {
      if (language === 'js') {
        const program = ['--input-type=module', '--eval', text];
        execFileSync(process.execPath, program, { cwd: folder });
      }
      if (language !== 'console') continue;
      const said = shell(text);
      const next = blocks[at + 1];
      const wanted = next?.language === 'text' ? next.text : '';
      if (text.includes(' doctor ')) {
        const topics = topicsOf(wanted);
        for (const topic of topicsOf(said)) expect(topics, `line ${line}`).toContain(topic);
      } else {
        expect(compared(said), `line ${line}`).toBe(compared(wanted));
      }
      compares += 1;
    }
    expect(compares).toBeGreaterThan(7);
    expect(existsSync(join(folder, 'log.svg'))).toBe(true);
  },
);

test('every option has a line in the help, and every subcommand a section', async () => {
  const { stdout, code } = await runCommand(['--help']);
  expect(code).toBe(0);
  const names = Array.from(stdout.matchAll(/^ {2}([a-z-]+) {2}/gm), ([, name]) => name as string);
  expect(names).toEqual(['serve', 'doctor', 'crash', 'replay', 'litmus', 'crash-files']);
  for (const name of names) {
    expect(PAGE).toContain(`\n## ${name}\n`);
    const help = await runCommand([name, '--help']);
    expect(help).toMatchObject({ code: 0, stderr: '' });
    expect(help.stdout).toContain(`Usage: write-barrier ${name} `);
    for (const line of help.stdout.split('\n')) expect(line.length).toBeLessThanOrEqual(140);
  }
});

test('every unsafe option has a paragraph of its own', async () => {
  const { stdout } = await runCommand(['serve', '--help']);
  const unsafe = stdout.slice(stdout.indexOf('UNSAFE:'));
  const options = Array.from(unsafe.matchAll(/^ {2}(--[a-z-]+) {2}/gm), ([, name]) => name);
  const known = options.filter((name) => name !== '--help');
  expect(known.length).toBeGreaterThan(3);
  for (const option of known) expect(PAGE).toContain(`\n\n**\`${option}\`.** `);
});

test('it has the version of the package', async () => {
  const { version } = JSON.parse(read('package.json'));
  expect(await runCommand(['--version'])).toMatchObject({ code: 0, stdout: `${version}\n` });
});

test.each([
  [[], 2, ''],
  [['nothing'], 2, "write-barrier: there is no subcommand 'nothing'; there are serve, "],
  [['toString'], 2, "write-barrier: there is no subcommand 'toString'"],
])('%j: exit code %i', async (words, code, message) => {
  const ended = await runCommand(words);
  expect(ended.code).toBe(code);
  expect(ended.stderr).toContain(message);
  expect(ended.stderr.split('\n').length).toBeLessThanOrEqual(2);
});
