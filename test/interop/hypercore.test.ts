// hypercore over the adapter of the example, as a user would test it: in node:test and in Vitest, each as a process; and on the files
// that it makes by itself. hypercore is installed into a temporary folder, because it has a hundred megabytes and nothing else
// here needs it.

import { spawnSync } from 'node:child_process';
import { cpSync, mkdtempSync, realpathSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { blocksOf, ROOT, read } from '../docs/pages.js';

const HYPERCORE = ['hypercore@10.38.2', 'hypercore-crypto@3.7.0', 'random-access-storage@3.0.2'];
const [, SHOWN, REPORT] = blocksOf(read('examples/12-random-access/README.md'));
const HEAD = "import { test } from 'node:test';";

let folder = '';

beforeAll(() => {
  folder = realpathSync(mkdtempSync(join(tmpdir(), 'hypercore-')));
  cpSync(join(ROOT, 'examples/12-random-access'), folder, { recursive: true });
  writeFileSync(join(folder, 'package.json'), '{}');
  const install = ['install', '--no-audit', '--no-fund', '--prefer-offline', ...HYPERCORE];
  const { status, stderr } = spawnSync('npm', install, { cwd: folder, encoding: 'utf8' });
  if (status !== 0) throw new Error(stderr);
  symlinkSync(ROOT, join(folder, 'node_modules/write-barrier'));
  symlinkSync(join(ROOT, 'node_modules/vitest'), join(folder, 'node_modules/vitest'));
}, 600_000);

afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** What a program prints that runs in the folder, without the variables of the runner that runs this test. */
function run(...words: string[]): { status: number | null; text: string } {
  const { PATH, HOME } = process.env;
  const { status, stdout, stderr } = spawnSync(process.execPath, words, {
    cwd: folder,
    env: { PATH, HOME, NO_COLOR: '1' },
    encoding: 'utf8',
    timeout: 300_000,
  });
  return { status, text: stdout + stderr };
}

/** Lines of a report, whatever a runner puts in front of them. */
const trimmed = (text: string): string[] => text.split('\n').map((line) => line.trim());

describe('the test on the page of the example', () => {
  const RUNNERS = {
    'node:test': { head: HEAD, words: ['--test', '--test-reporter=tap', 'hypercore.test.mjs'] },
    Vitest: {
      head: HEAD.replace('node:test', 'vitest'),
      words: [join(ROOT, 'node_modules/vitest/vitest.mjs'), 'run', '--root', '.'],
    },
  } as const;

  test.each(Object.keys(RUNNERS) as (keyof typeof RUNNERS)[])(
    'passes in %s where each write is a barrier, and fails on a cache with the report of the page',
    (name) => {
      const { head, words } = RUNNERS[name];
      const source = (SHOWN?.text ?? '').replace(HEAD, head);
      expect(source).toContain(head);
      writeFileSync(join(folder, 'hypercore.test.mjs'), source);
      const { status, text } = run(...words);
      expect(status, text).toBe(1);
      expect(text).toMatch(/# pass 1\b|1 failed \| 1 passed/);
      for (const line of trimmed(REPORT?.text ?? '').filter(Boolean)) {
        expect(trimmed(text).join('\n')).toContain(line);
      }
    },
  );
});

/** Runs a program, and what it prints last is JSON. */
function answerOf(program: string): unknown {
  writeFileSync(join(folder, 'program.mjs'), program);
  const { status, text } = run('program.mjs');
  expect(status, text).toBe(0);
  return JSON.parse(text.trim().split('\n').at(-1) ?? '');
}

test('it is proved where each write is a barrier, also if the recovery is cut short; on a cache the log may not open any more', () => {
  const found = answerOf(`
    import { crashTest } from 'write-barrier/testing';
    import { coreTest } from './hypercore.mjs';
    const whole = (found, { begun }) => found.every((text, n) => text === begun[n]);
    const ordered = await crashTest({ ...coreTest({ barrier: true }), nested: true });
    const cached = await crashTest({ ...coreTest({}), check: whole });
    console.log(JSON.stringify([ordered.verdict, cached.verdict, cached.failure?.text]));
    process.exit();
  `);
  expect(found).toEqual(['proved', 'failed', expect.stringContaining('OPLOG_CORRUPT')]);
});

test('on the files that it makes, ext4 may leave a log that does not open any more, for want of an fsync', () => {
  const found = answerOf(`
    import Hypercore from 'hypercore';
    import crypto from 'hypercore-crypto';
    import { crashFiles } from 'write-barrier/testing/files';
    const keyPair = crypto.keyPair(Buffer.alloc(32, 1));
    const { verdict, failure } = await crashFiles({
      models: ['ext4'],
      async workload(root) {
        const core = new Hypercore(root + '/core', { keyPair });
        await core.append('one');
        await core.close();
      },
      async recover(root) {
        const core = new Hypercore(root + '/core', { keyPair });
        await core.ready();
        await core.close();
      },
      check: () => true,
    });
    console.log(JSON.stringify([verdict, failure?.text, failure?.advice]));
    process.exit();
  `);
  expect(found).toEqual([
    'failed',
    expect.stringContaining('OPLOG_CORRUPT'),
    expect.arrayContaining([expect.stringContaining('fsync /core/oplog')]),
  ]);
});

test('a random-access-file is a disk with a flush, if it is given an fsync, and keeps the contract of storages', () => {
  const found = answerOf(`
    import { fsync } from 'node:fs';
    import { promisify } from 'node:util';
    import RandomAccessFile from 'random-access-file';
    import { IoScheduler } from 'write-barrier';
    import { storageContract } from 'write-barrier/testing';
    import { diskOf } from './adapters.mjs';

    let files = 0;
    const size = 64 * 512;
    const diskIn = (path) => {
      const file = new RandomAccessFile(path);
      return diskOf(file, { size, flush: () => promisify(fsync)(file.fd) });
    };
    const open = async () => {
      const path = 'file-' + files++;
      return { storage: await diskIn(path), reopen: () => diskIn(path) };
    };
    const disk = (await open()).storage;
    const { verdict } = new IoScheduler(disk).guarantees;
    const bodies = [];
    const runner = { describe: (_, body) => body(), test: (name, body) => bodies.push(body) };
    storageContract(runner, { name: 'file', capabilities: disk.capabilities, open, seed: 1, runs: 5 });
    for (const body of bodies) await body();
    console.log(JSON.stringify([verdict, bodies.length > 15]));
  `);
  expect(found).toEqual(['safe', true]);
});
