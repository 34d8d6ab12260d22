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

describe.each(Object.keys(RUNNERS) as (keyof typeof RUNNERS)[])('in %s', (name) => {
  test('a store that survives passes, and one that does not fails with the report and the line of its test', () => {
    const { file, head, command } = RUNNERS[name];
    const source = head + STORE;
    writeFileSync(join(folder, file), source);
    const [program, ...words] = command;
    // Without the variables of the runner that runs this test.
    const { PATH, HOME } = process.env;
    const env = { PATH, HOME, NO_COLOR: '1' };
    const { status, stdout, stderr } = spawnSync(program, words, {
      cwd: folder,
      env,
      encoding: 'utf8',
    });
    const text = stdout + stderr;
    expect(status, text).toBe(1);
    expect(text).toContain('failed: found by recovery');
    expect(text).toContain('a flush after #0 would have kept it');
    expect(text).toContain(`${file}:${LAST_LINE(source)}`);
    expect(text).not.toContain('a store that flushes survives\n\n');
    expect(text).toMatch(/# pass 1\b|1 failed, 1 passed|1 failed \| 1 passed/);
  });
});
