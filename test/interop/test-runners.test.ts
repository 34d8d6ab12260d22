// `survives` in the test runners that it names, each as a process: a store that survives passes, one that does not fails
// with the report as its message, and the stack names the line of the test. Vitest is also tested in testing/survives.test.ts.
// Jest is installed into a temporary folder, because nothing else here needs it.

import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, realpathSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';

const REPOSITORY = fileURLToPath(new URL('../../', import.meta.url));
const JEST = 'jest@30.5.2';

/** The three lines that a user writes stand at the end; the one that fails is the last line of all. */
const STORE = `
const plain = { fua: false, tag: 'simple' };
const store = (flushes) => ({
  size: 512,
  workload: async (disk, journal) => {
    journal.begin('write');
    await disk.write(0, new Uint8Array(512).fill(1), plain);
    if (flushes) await disk.flush({ tag: 'simple' });
    journal.acknowledge('write');
  },
  recover: (disk) => {
    const found = new Uint8Array(512);
    disk.read(0, found);
    return found[0] === 1;
  },
  check: (isThere, { acknowledged }) => isThere || acknowledged.length === 0,
});

test('a store that flushes survives', survives(store(true)));
test('a store that forgets its flush survives', survives(store(false)));`;
/** The same for a program that writes files: a CommonJS runner has functions of node:fs by their module alone. */
const FILES = `
const replacing = (flush) => ({
  before: (root) => fs.promises.writeFile(root + '/a', 'old'),
  workload: async (root) => {
    await fs.promises.writeFile(root + '/t', Buffer.from('new'), { flush });
    fs.renameSync(root + '/t', root + '/a');
  },
  recover: (root) => fs.readFileSync(root + '/a', 'utf8'),
  check: (text) => text === 'old' || text === 'new',
});

test('a file that is synced first survives', survives(replacing(true)));
test('a file that is not may be empty', survives(replacing(false)));`;
const LAST_LINE = (source: string): number => source.split('\n').length;

const RUNNERS = {
  'node:test': {
    file: 'node.test.mjs',
    head: "import { test } from 'node:test';\nimport { survives } from 'write-barrier/testing';\n",
    command: [process.execPath, '--test', '--test-reporter=tap', 'node.test.mjs'],
  },
  Jest: {
    file: 'jest.test.js',
    head: "const { survives } = require('write-barrier/testing');\n",
    command: [process.execPath, 'node_modules/jest/bin/jest.js', '--ci', 'jest.test.js'],
  },
  Vitest: {
    file: 'vitest.test.mjs',
    head: "import { test } from 'vitest';\nimport { survives } from 'write-barrier/testing';\n",
    command: [
      process.execPath,
      join(REPOSITORY, 'node_modules/vitest/vitest.mjs'),
      ...['run', '--root', '.', 'vitest.test.mjs'],
    ],
  },
} as const;

let folder = '';

beforeAll(() => {
  folder = realpathSync(mkdtempSync(join(tmpdir(), 'test-runners-')));
  writeFileSync(join(folder, 'package.json'), '{}');
  const install = ['install', '--no-audit', '--no-fund', '--prefer-offline', JEST];
  const { status, stderr } = spawnSync('npm', install, { cwd: folder, encoding: 'utf8' });
  if (status !== 0) throw new Error(stderr);
  mkdirSync(join(folder, 'node_modules'), { recursive: true });
  for (const name of ['write-barrier', 'vitest']) {
    const target = name === 'vitest' ? join(REPOSITORY, 'node_modules/vitest') : REPOSITORY;
    symlinkSync(target, join(folder, 'node_modules', name));
  }
}, 600_000);

afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** Runs a file of tests in a runner. */
function ran(
  name: keyof typeof RUNNERS,
  file: string,
  source: string,
): { readonly status: number | null; readonly text: string } {
  writeFileSync(join(folder, file), source);
  const [program, ...words] = RUNNERS[name].command.map((word) =>
    word === RUNNERS[name].file ? file : word,
  );
  // Without the variables of the runner that runs this test.
  const { PATH, HOME } = process.env;
  const env = { PATH, HOME, NO_COLOR: '1' };
  const { status, stdout, stderr } = spawnSync(program as string, words, {
    cwd: folder,
    env,
    encoding: 'utf8',
  });
  return { status, text: stdout + stderr };
}

describe.each(Object.keys(RUNNERS) as (keyof typeof RUNNERS)[])('in %s', (name) => {
  test('a store that survives passes, and one that does not fails with the report and the line of its test', () => {
    const { file, head } = RUNNERS[name];
    const source = head + STORE;
    const { status, text } = ran(name, file, source);
    expect(status, text).toBe(1);
    expect(text).toContain('failed: found by recovery');
    expect(text).toContain('a flush after #0 would have kept it');
    expect(text).toContain(`${file}:${LAST_LINE(source)}`);
    expect(text).not.toContain('a store that flushes survives\n\n');
    expect(text).toMatch(/# pass 1\b|1 failed, 1 passed|1 failed \| 1 passed/);
  });

  test('a program that writes files is recorded, and one that loses them fails with the operation and its line', () => {
    const { file, head } = RUNNERS[name];
    const files = file.replace('.test', '.files.test');
    const fs = file.endsWith('.mjs')
      ? "import * as fs from 'node:fs';\n"
      : "const fs = require('node:fs');\n";
    const source =
      head.replaceAll('write-barrier/testing', 'write-barrier/testing/files') + fs + FILES;
    const { status, text } = ran(name, files, source);
    expect(status, text).toBe(1);
    expect(text).toContain('LOST  #1 write /t 0..3');
    expect(text).toMatch(/this would prevent it: fsync \/t after #1/);
    expect(text).toContain(`${files}:${LAST_LINE(source)}`);
    expect(text).toMatch(/# pass 1\b|1 failed, 1 passed|1 failed \| 1 passed/);
  });
});
