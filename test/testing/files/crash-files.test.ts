// Crash tests of files: little programs of which it is known what a power cut does to them, each broken and repaired.

import { execFileSync } from 'node:child_process';
import * as fs from 'node:fs';
import * as fsp from 'node:fs/promises';
import { createRequire } from 'node:module';
import { describe, expect, test } from 'vitest';
import { crashFiles } from '../../../src/testing/files/crash-files.js';
import { formatFilesReport } from '../../../src/testing/files/files-report.js';
import type { CrashFilesTest } from '../../../src/testing/files/files-test.js';
import { replacing, rowOf, type Store } from './stores.js';

/** A function that was taken out of the module before anything was replaced. */
const { readFileSync: takenEarlier } = createRequire(import.meta.url)('node:fs') as typeof fs;

type Write = (path: string, text: string) => void | Promise<void>;

/** A file with a number, which is replaced by such a write. */
const fileBy = (write: Write): Store => ({
  set: (root, value) => write(`${root}/a`, `{"value":${value}}`),
  get: (root) => JSON.parse(fs.readFileSync(`${root}/a`, 'utf8')).value,
});

function sync(path: string): void {
  const descriptor = fs.openSync(path, 'r');
  fs.fsyncSync(descriptor);
  fs.closeSync(descriptor);
}

const folderOf = (path: string): string => path.slice(0, path.lastIndexOf('/'));

/** Ways to replace a file. */
const WAYS: Readonly<Record<string, Write>> = {
  'write over it': (path, text) => fs.writeFileSync(path, text),
  'rename, no fsync': (path, text) => {
    fs.writeFileSync(`${path}.tmp`, text);
    fs.renameSync(`${path}.tmp`, path);
  },
  'fsync, rename': async (path, text) => {
    await fsp.writeFile(`${path}.tmp`, text, { flush: true });
    await fsp.rename(`${path}.tmp`, path);
  },
  'fsync, rename, fsync of the folder': async (path, text) => {
    await fsp.writeFile(`${path}.tmp`, text, { flush: true });
    await fsp.rename(`${path}.tmp`, path);
    sync(folderOf(path));
  },
};

// The table of what such ways are worth: some value that was begun is there; what was acknowledged is there.
describe('a file that is replaced by', () => {
  test.each<[string, string]>([
    ['write over it', 'FF FF FF FF FF'],
    ['rename, no fsync', 'PP FF FF FF FF'],
    ['fsync, rename', 'PP PF PF PF PF'],
    ['fsync, rename, fsync of the folder', 'PP PP PP PP PP'],
  ])('%s: old or new, and durable, on strict, ext4, xfs, btrfs, posix: %s', async (way, row) => {
    expect(await rowOf(fileBy(WAYS[way] as Write))).toBe(row);
  });
});

test('a failure names the file system, the operations that are lost, and their lines', async () => {
  const report = await crashFiles(replacing(fileBy(WAYS['rename, no fsync'] as Write), false));
  expect(report.verdict).toBe('failed');
  expect(report.failure?.model).toBe('ext4');
  const text = formatFilesReport(report);
  expect(text).toMatch(/after this power cut, on ext4: Unexpected/);
  expect(text).toMatch(/LOST {2}#\d write \/a\.tmp 0\.\.11 {3}at .*crash-files\.test\.ts:\d+/);
  expect(text).toMatch(/kept {2}#\d rename \/a\.tmp -> \/a/);
});

test.each<[string, boolean, string[]]>([
  ['rename, no fsync', false, ['fsync /a.tmp after #1 write /a.tmp 0..11, each time']],
  [
    'rename, no fsync',
    true,
    [
      'fsync /a.tmp after #1 write /a.tmp 0..11, each time, and fsync /a after #2 rename /a.tmp -> /a, each time',
      'fsync /a.tmp after #1 write /a.tmp 0..11, each time, and fsync / after #2 rename /a.tmp -> /a, each time',
    ],
  ],
  ['write over it', false, []],
])(
  'a failure names the syncs that would have prevented it: %s, durable: %s',
  async (way, isDurable, advice) => {
    const report = await crashFiles(replacing(fileBy(WAYS[way] as Write), isDurable));
    expect(report.verdict).toBe('failed');
    expect(report.failure?.advice).toEqual(advice);
  },
);

test('a proof names the file systems that it is about, and covers every state', async () => {
  const report = await crashFiles(
    replacing(fileBy(WAYS['fsync, rename, fsync of the folder'] as Write), true),
  );
  expect(report.verdict).toBe('proved');
  expect(report.models.map(({ model }) => model)).toEqual(['ext4', 'xfs', 'btrfs']);
  for (const { states, covered } of report.models) expect(covered).toBe(states);
  expect(report.warnings).toEqual([]);
});

const durable = replacing(fileBy(WAYS['fsync, rename, fsync of the folder'] as Write), true);

describe('nothing is proved', () => {
  const warningsOf = async (test: Partial<CrashFilesTest<number, number>>) => {
    const { verdict, warnings } = await crashFiles({ ...durable, ...test });
    expect(verdict).toBe('passed');
    return warnings;
  };

  test('when another process has written', async () => {
    const warnings = await warningsOf({
      async workload(root, journal) {
        await durable.workload(root, journal, [], { number: 1 });
        execFileSync('sh', ['-c', 'echo x > b'], { cwd: root });
      },
    });
    expect(warnings[0]).toMatch(/^\/b: not as the recorded calls/);
  });

  test('when the recovery looks past node:fs', async () => {
    const readPast = (root: string): number => {
      const { openSync } = originals;
      try {
        const descriptor = openSync(`${root}/a`, 'r');
        return JSON.parse(takenEarlier(descriptor, 'utf8')).value;
      } catch {
        return 2;
      }
    };
    const warnings = await warningsOf({ recover: readPast });
    expect(warnings[0]).toMatch(/never looked/);
    const looking = (root: string): number => (fs.existsSync(`${root}/a`) ? readPast(root) : 0);
    const others = await warningsOf({ recover: looking, check: () => true });
    expect(others).toEqual([
      expect.stringMatching(/reads past node:fs/),
      expect.stringMatching(/accepts every tree/),
    ]);
  });

  test('when the check accepts everything, or says nothing', async () => {
    expect(await warningsOf({ check: () => true })).toEqual([
      expect.stringMatching(/accepts the tree before the workload/),
    ]);
    const silent = await warningsOf({
      check: () => undefined,
      workload: (root) => WAYS['write over it']?.(`${root}/a`, '{"value":1}'),
      recover: (root) => fs.readFileSync(`${root}/a`, 'utf8').length,
    });
    expect(silent).toEqual([expect.stringMatching(/returned nothing and never threw/)]);
  });

  test('when recoveriesMax is too few', async () => {
    const [warning] = await warningsOf({ recoveriesMax: 2 });
    expect(warning).toMatch(/^ext4: .* states are covered$/);
  });
});

const originals = { ...fs };

test('native readers have the whole tree', async () => {
  const report = await crashFiles({
    ...durable,
    wholeTree: true,
    recover: (root) => JSON.parse(execFileSync('cat', [`${root}/a`], { encoding: 'utf8' })).value,
  });
  expect(report.verdict).toBe('proved');
});

test('a recovery that is not deterministic is refused', async () => {
  let number = 0;
  const failing = crashFiles({
    ...durable,
    recover: (root) => {
      number += 1;
      fs.existsSync(`${root}/${number % 2 === 0 ? 'a' : 'a.tmp'}`);
      return durable.recover(root);
    },
  });
  await expect(failing).rejects.toThrow(/not deterministic/);
});

test('a workload, a recovery or a check that hangs is told, and everything is put back', async () => {
  const originals = { ...fs };
  const report = await crashFiles({
    ...durable,
    hangMs: 50,
    recover: () => new Promise<number>(() => undefined),
  });
  expect(report.verdict).toBe('hung');
  const hanging = () => new Promise<void>(() => undefined);
  const { verdict, failure } = await crashFiles({ ...durable, hangMs: 50, workload: hanging });
  expect(verdict).toBe('hung');
  expect(failure?.message).toMatch(
    /^the workload has not ended within 50 ms; it waits for a timer/,
  );
  expect({ ...fs }).toEqual(originals);
});

test('an unknown option is refused', async () => {
  await expect(crashFiles({ ...durable, model: 'ext4' } as never)).rejects.toThrow(/model/);
});
