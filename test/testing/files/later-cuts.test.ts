// Crash tests of files beyond one power cut: cuts during recoveries, later lives, replays, programs that are shrunk, orders of calls,
// devices that lie, syncs that are left out.

import * as fs from 'node:fs';
import * as fsp from 'node:fs/promises';
import { describe, expect, test } from 'vitest';
import { crashFiles, fsyncMutation, survives } from '../../../src/testing/files/crash-files.js';
import type { CrashFilesTest } from '../../../src/testing/files/files-test.js';

function sync(path: string): void {
  const descriptor = fs.openSync(path, 'r');
  fs.fsyncSync(descriptor);
  fs.closeSync(descriptor);
}

function replace(path: string, text: string, ...without: string[]): void {
  const flush = !without.includes('fsync of the file');
  fs.writeFileSync(`${path}.tmp`, Buffer.from(text), { flush });
  fs.renameSync(`${path}.tmp`, path);
  if (!without.includes('fsync of the folder')) sync(path.slice(0, path.lastIndexOf('/')));
}

const textOf = (path: string): string | undefined =>
  fs.existsSync(path) ? fs.readFileSync(path, 'utf8') : undefined;

/** The calls around a recovery are those of the test, which differ. */
const withoutSites = (text: string | undefined): string | undefined =>
  text?.replace(/ {3}at .*/g, '');

/**
 * Two files that must agree, with a journal of what is to be done. The recovery does it again; a bad one removes the journal
 * before what it has repaired is durable.
 */
const twoFiles = (isGood: boolean): CrashFilesTest<string, string> => ({
  before(root) {
    for (const name of ['a', 'b']) fs.writeFileSync(`${root}/${name}`, 'old');
  },
  workload(root, journal) {
    journal.begin('new');
    replace(`${root}/journal`, 'new');
    for (const name of ['a', 'b']) replace(`${root}/${name}`, 'new');
    fs.unlinkSync(`${root}/journal`);
    sync(root);
    journal.acknowledge('new');
  },
  recover(root) {
    const text = textOf(`${root}/journal`);
    if (text !== undefined) {
      const without = isGood ? [] : ['fsync of the file', 'fsync of the folder'];
      for (const name of ['a', 'b']) replace(`${root}/${name}`, text, ...without);
      fs.unlinkSync(`${root}/journal`);
      sync(root);
    }
    return `${textOf(`${root}/a`)} ${textOf(`${root}/b`)}`;
  },
  check: (text, { acknowledged }) =>
    text === 'new new' || (text === 'old old' && acknowledged.length === 0),
});

describe('power cuts during a recovery', () => {
  test('find that it cannot be repeated, and without them nothing is found', async () => {
    expect((await crashFiles(twoFiles(false))).verdict).toBe('proved');
    const report = await crashFiles({ ...twoFiles(false), nested: true });
    expect(report.verdict).toBe('failed');
    const { failure } = report;
    expect(failure?.cuts.map(({ during }) => during)).toEqual(['workload', 'recovery']);
    expect(failure?.text).toMatch(/then the recovery, cut short as well:\n(?:.*\n)*.*LOST .*write/);
    expect(failure?.replay).toMatch(/^ext4 seed 0 cut \S+.* then cut /);
    expect(failure?.advice[0]).toMatch(/^fsync \/[ab](?:\.tmp)? after #\d .*, in the recovery$/);
  });

  test('prove one that can, with two of them as well', async () => {
    for (const nested of [true, 2]) {
      const models = nested === 2 ? (['btrfs'] as const) : undefined;
      const { verdict, warnings } = await crashFiles({
        ...{ ...twoFiles(true), nested, ...(models && { models }) },
      });
      expect([verdict, warnings]).toEqual(['proved', []]);
    }
  });

  test('are told by a replay, which fails in the same way, and only there', async () => {
    const failing = { ...twoFiles(false), nested: true };
    const { failure } = await crashFiles(failing);
    const again = await crashFiles({ ...failing, replay: failure?.replay as string });
    expect(again.verdict).toBe('failed');
    expect(withoutSites(again.failure?.text)).toBe(withoutSites(failure?.text));
    const repaired = await crashFiles({ ...twoFiles(true), replay: 'ext4 seed 0 cut 3' });
    expect(repaired.verdict).toBe('passed');
  });

  test('that a native recovery does not show are no proof', async () => {
    const { execFileSync } = await import('node:child_process');
    const { verdict, warnings } = await crashFiles({
      ...twoFiles(true),
      nested: true,
      wholeTree: true,
      recover(root) {
        execFileSync('sh', ['-c', 'echo more > c'], { cwd: root });
        return twoFiles(true).recover(root);
      },
    });
    expect(verdict).toBe('passed');
    expect(warnings.join()).toMatch(/\/c: not as the recorded calls have left it/);
  });
});

/** A counter. A bad one is not durable when it shows its number. */
const counter = (without: string): CrashFilesTest<number, number> => ({
  workload(root, journal, _, { shown = 0 }) {
    journal.begin(shown + 1);
    replace(`${root}/count`, `${shown + 1}`);
    journal.acknowledge(shown + 1);
  },
  recover(root) {
    const count = Number(textOf(`${root}/count`) ?? 0);
    // It repairs what it has found, and forgets that this must be durable.
    if (without !== '') replace(`${root}/count`, `${count}`, without);
    return count;
  },
  check: (count, { acknowledged, begun, shown = 0 }) =>
    count >= Math.max(shown, ...acknowledged) && count <= Math.max(shown, ...begun),
});

describe('a later life', () => {
  test('goes on with what the one before has shown', async () => {
    const { verdict, warnings } = await crashFiles({ ...counter(''), lives: 3 });
    expect([verdict, warnings]).toEqual(['proved', []]);
  });

  test('may lose what was shown', async () => {
    expect((await crashFiles(counter('fsync of the file'))).verdict).toBe('proved');
    const { verdict, failure } = await crashFiles({ ...counter('fsync of the file'), lives: 2 });
    expect(verdict).toBe('failed');
    expect(failure?.replay).toMatch(/ life /);
    const replay = failure?.replay as string;
    const again = await crashFiles({ ...counter('fsync of the file'), lives: 2, replay });
    expect(withoutSites(again.failure?.text)).toBe(withoutSites(failure?.text));
  });

  test('in which the workload throws is a failure', async () => {
    const once: CrashFilesTest<string, boolean> = {
      workload(root, journal) {
        journal.begin('made');
        fs.writeFileSync(`${root}/a`, 'x', { flag: 'wx' });
      },
      recover: (root) => fs.existsSync(`${root}/a`),
      check: () => true,
    };
    const { verdict, failure } = await crashFiles({ ...once, lives: 2 });
    expect(verdict).toBe('failed');
    expect(failure?.message).toMatch(/EEXIST/);
    expect(failure?.text).toMatch(/then the recovery and more work, which fails/);
  });
});

test('a failure is made small: steps that it does not need, and what need not be lost', async () => {
  const { verdict, failure } = await crashFiles<string, string[], string>({
    program: ['a', 'b', 'bad', 'c', 'd'],
    workload(root, journal, program) {
      for (const name of program) {
        journal.begin(name);
        replace(`${root}/${name}`, name, ...(name === 'bad' ? ['fsync of the file'] : []));
        journal.acknowledge(name);
      }
    },
    recover: (root) => fs.readdirSync(root).filter((name) => textOf(`${root}/${name}`) === name),
    check: (names, { acknowledged }) => acknowledged.every((name) => names.includes(name)),
  });
  expect(verdict).toBe('failed');
  expect(failure?.program).toEqual(['bad']);
  expect(failure?.replay).toMatch(/^ext4 seed 0 steps 2 cut /);
  const [cut] = failure?.cuts ?? [];
  expect(cut?.lost.map((n) => cut.trace.operations[n]?.op)).toEqual(['write']);
  expect(cut?.trace.operations.map(({ op }) => op)).toEqual(['create', 'write', 'rename', 'fsync']);
});

test('with other seeds calls that wait at the same time come in other orders, each time the same', async () => {
  const orders = new Set<string>();
  const sizes = [0, 1, 2, 3, 4, 5, 6, 7];
  const run = async (seed: number) => {
    const { trace, verdict } = await crashFiles<number, number>({
      ...{ seed, models: ['strict'] },
      before: (root) => fs.writeFileSync(`${root}/log`, ''),
      async workload(root) {
        await Promise.all(sizes.map((n) => fsp.appendFile(`${root}/log`, `${n}`)));
        const handle = await fsp.open(`${root}/own`, 'w');
        await Promise.all([handle.write('x'), handle.write('y'), handle.close()]);
      },
      recover: (root) =>
        (textOf(`${root}/log`) ?? '').length + (textOf(`${root}/own`) ?? '').length,
      check: (length) => length <= 10,
    });
    expect(['proved', 'passed']).toContain(verdict);
    const written = trace.operations.flatMap((one) =>
      one.op === 'write' ? [Buffer.from(one.data).toString()] : [],
    );
    expect(written.slice(-2)).toEqual(['x', 'y']);
    return written.join('');
  };
  for (const seed of sizes) {
    const order = await run(seed);
    expect(await run(seed)).toBe(order);
    orders.add(order);
  }
  expect([...orders][0]).toBe('01234567xy');
  expect(orders.size).toBeGreaterThan(4);
});

test('an order of calls that loses something is found with some seed', async () => {
  const racing: CrashFilesTest<string, string> = {
    before: (root) => fs.writeFileSync(`${root}/a`, 'old'),
    async workload(root) {
      await fsp.writeFile(`${root}/a.tmp`, 'new', { flush: true });
      // They should follow each other.
      await Promise.all([
        fsp.rename(`${root}/a.tmp`, `${root}/a`),
        fsp.copyFile(`${root}/a`, `${root}/b`),
      ]);
    },
    recover: (root) => textOf(`${root}/b`) ?? 'new',
    check: (text) => text !== 'old',
  };
  const { verdict, failure, seed, seeds } = await crashFiles({
    ...racing,
    models: ['strict'],
    seeds: 20,
  });
  expect([verdict, seeds]).toEqual(['failed', 1]);
  expect(failure?.replay).toContain(`seed ${seed} `);
});

test('a device that lies loses what was synced, in words that name it', async () => {
  const test = { ...counter(''), lies: ['ignoreFlush'] as const };
  expect((await crashFiles(counter(''))).verdict).toBe('proved');
  expect((await crashFiles(test)).verdict).toBe('failed');
});

test('a recovery that asks for times, processes or the boot is told', async () => {
  const { verdict, warnings } = await crashFiles({
    ...counter(''),
    recover(root) {
      if (fs.existsSync(`${root}/count`)) fs.statSync(`${root}/count`).mtimeMs;
      process.kill(process.pid, 0);
      fs.readFileSync('/proc/sys/kernel/random/boot_id');
      return counter('').recover(root);
    },
  });
  expect(verdict).toBe('passed');
  expect(warnings.map((text) => /times|process\.kill|boot_id/.exec(text)?.[0]).sort()).toEqual([
    'boot_id',
    'process.kill',
    'times',
  ]);
  const { kill } = process;
  await crashFiles({ ...counter(''), recover: (root) => fs.statSync(root).size * 0 });
  expect(process.kill).toBe(kill);
});

describe('a sync that is left out', () => {
  const without = (text: string): CrashFilesTest<number, number> => ({
    ...counter(''),
    workload(root, journal) {
      journal.begin(1);
      replace(`${root}/count`, '1');
      if (text === 'once more') sync(`${root}/count`);
      journal.acknowledge(1);
    },
  });

  test('is needed, or redundant', async () => {
    const needs = async (text: string) =>
      (await fsyncMutation(without(text))).map(({ needed }) => needed);
    expect(await needs('')).toEqual([true, true]);
    // Each of the last two is enough.
    expect(await needs('once more')).toEqual([true, false, false]);
  });

  test('has words with its call', async () => {
    const [first] = await fsyncMutation(without(''));
    expect(first?.text).toMatch(/^fsync \/count\.tmp {3}at .*later-cuts\.test\.ts:\d+/);
  });

  test('says nothing of a test that fails anyway', async () => {
    const failing = fsyncMutation({ ...counter(''), check: () => false });
    await expect(failing).rejects.toThrow(/must pass with all of its syncs, but it failed/);
  });
});

describe('the body of a test', () => {
  test('resolves when the code survives', async () => {
    await survives(counter(''))();
  });

  test('rejects with the report, where it was called', async () => {
    const body = survives(twoFiles(false), { full: true });
    await body();
    const failing = survives({ ...twoFiles(false), nested: true });
    const error = await failing().then(
      () => undefined,
      (reason: Error) => reason,
    );
    expect(error?.message).toMatch(/^failed\n {2}ext4: /);
    expect(error?.stack).toMatch(/later-cuts\.test\.ts/);
  });
});

test.each<[string, object]>([
  ['nested', { nested: -1 }],
  ['lives', { lives: 0 }],
  ['seeds', { seeds: 1.5 }],
  ['lies', { lies: ['ignoreFua'] }],
  ['ext5', { models: ['ext5'] }],
  ['workload', { workload: undefined }],
  ['replay', { replay: 'seed 0 cut 1' }],
  ['replay', { replay: 'ext4 seed 0 cut 1 9999:1' }],
])('a wrong option %s is refused before anything runs', async (name, wrong) => {
  const refused = crashFiles({ ...counter(''), ...wrong });
  await expect(refused).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
  await expect(refused).rejects.toThrow(new RegExp(name === 'replay' ? 'replay|ext4' : name));
});
