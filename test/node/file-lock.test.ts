// Two writers on one file: in one process, in several, and after one has died. The other processes
// are real, and what they do at once they do without waiting for a clock.

import { spawn } from 'node:child_process';
import * as fs from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { describe, expect, onTestFinished, test } from 'vitest';
import { FileStorage } from 'write-barrier/node';
import {
  isDead,
  lookAt,
  type ProcessIdentity,
  type Sighting,
  thisProcess,
} from '../../src/node/process-identity.js';
import { codeThrown, errorThrown } from '../storage/contract.js';
import { installPackage, startOpener, temporaryDirectory } from './support.js';

const SIZE = 4096;
const newPath = (): string => join(fs.realpathSync(temporaryDirectory()), 'disk.img');
const tickets = (path: string): string[] => fs.readdirSync(`${path}.lock`);

async function open(path: string, lock: 'exclusive' | 'none' = 'exclusive'): Promise<FileStorage> {
  const storage = await FileStorage.open(path, { size: SIZE, lock });
  onTestFinished(() => storage.close());
  return storage;
}

describe('in one process', () => {
  test('a second writer is refused, and told who, what it risks, and the ways out', async () => {
    const path = newPath();
    await open(path);
    const error = await errorThrown(() => open(path));
    expect(error).toMatchObject({ code: 'STORAGE_LOCKED' });
    const { message } = Object(error);
    expect(message).toContain(`process ${process.pid}`);
    expect(message).toContain('overwrite each other');
    expect(message).toContain("lock: 'none'");
    expect(message).toContain(`${path}.lock`);
  });

  test('the refused one leaves the lock of the first as it was', async () => {
    const path = newPath();
    await open(path);
    const before = tickets(path);
    await errorThrown(() => open(path));
    expect(tickets(path)).toEqual(before);
  });

  test('closing leaves nothing behind, and the next writer comes in', async () => {
    const path = newPath();
    for (let times = 0; times < 3; times += 1) {
      await (await open(path)).close();
      expect(fs.readdirSync(join(path, '..'))).toEqual(['disk.img']);
    }
  });

  test.each<[string, (path: string, other: string) => void]>([
    ['a symbolic link', fs.symlinkSync],
    ['a hard link', fs.linkSync],
  ])('a second name of the file, %s, is seen through', async (_, link) => {
    const path = newPath();
    const first = await open(path);
    const other = join(temporaryDirectory(), 'other.img');
    link(path, other);
    expect(await codeThrown(() => open(other))).toBe('STORAGE_LOCKED');
    await first.close();
    await open(other);
  });

  test("lock: 'none' neither takes the lock nor heeds it", async () => {
    const path = newPath();
    await open(path, 'none');
    expect(fs.existsSync(`${path}.lock`)).toBe(false);
    await open(path);
    await open(path, 'none');
  });

  test('of many that open at once, one gets the file', async () => {
    const path = newPath();
    for (let round = 0; round < 10; round += 1) {
      const all = await Promise.allSettled([1, 2, 3, 4, 5].map(() => open(path)));
      const got = all.flatMap((one) => (one.status === 'fulfilled' ? [one.value] : []));
      expect(got.length).toBe(1);
      await got[0]?.close();
    }
  });

  test('a file in the place of the lock is an error, and is left alone', async () => {
    const path = newPath();
    fs.writeFileSync(`${path}.lock`, 'mine');
    expect(await codeThrown(() => open(path))).toBe('IO_FAILED');
    expect(fs.readFileSync(`${path}.lock`, 'utf8')).toBe('mine');
    expect(fs.existsSync(path)).toBe(false);
  });

  test('an empty directory in the place of the lock locks nobody out', async () => {
    const path = newPath();
    fs.mkdirSync(`${path}.lock`);
    await open(path);
  });

  test('what it cannot read as a ticket counts as held', async () => {
    const path = newPath();
    fs.mkdirSync(`${path}.lock`);
    fs.writeFileSync(join(`${path}.lock`, '2.from.the.future'), '');
    expect(await codeThrown(() => open(path))).toBe('STORAGE_LOCKED');
    expect(tickets(path)).toEqual(['2.from.the.future']);
  });

  test('a ticket of another machine counts as held, for nobody can know', async () => {
    const path = newPath();
    fs.mkdirSync(`${path}.lock`);
    const ticket = '1.4242.77.4026531836.0123456789abcdef.ffffffffffff.0011223344556677';
    fs.writeFileSync(join(`${path}.lock`, ticket), 'process 4242 on elsewhere\n');
    const error = await errorThrown(() => open(path));
    expect(error).toMatchObject({ message: expect.stringContaining('process 4242 on elsewhere') });
    expect(tickets(path)).toEqual([ticket]);
  });
});

describe('in several processes', () => {
  const start = async (count: number) => {
    const directory = temporaryDirectory();
    installPackage(directory);
    return {
      path: join(fs.realpathSync(directory), 'disk.img'),
      another: () => startOpener(directory),
      openers: await Promise.all(Array.from({ length: count }, () => startOpener(directory))),
    };
  };

  test('a writer in another process is refused until the first has closed', async () => {
    const { path, openers } = await start(1);
    const [other] = openers;
    expect(await other?.open(path)).toBe('ok');
    const error = await errorThrown(() => open(path));
    expect(error).toMatchObject({ code: 'STORAGE_LOCKED' });
    expect(Object(error).message).toContain(`process ${other?.pid}`);
    expect(await other?.close()).toBe('ok');
    await open(path);
  });

  test('a writer that was killed locks nobody out', async () => {
    const { path, openers } = await start(1);
    expect(await openers[0]?.open(path)).toBe('ok');
    await openers[0]?.kill();
    expect(tickets(path).length).toBe(1);
    await open(path);
    expect(tickets(path).length).toBe(1);
  });

  test('of several that start at once exactly one gets the file', async () => {
    const { path, openers } = await start(4);
    for (let round = 0; round < 10; round += 1) {
      const answers = await Promise.all(openers.map((opener) => opener.open(path)));
      expect([...answers].sort()).toEqual([
        'STORAGE_LOCKED',
        'STORAGE_LOCKED',
        'STORAGE_LOCKED',
        'ok',
      ]);
      expect(await openers[answers.indexOf('ok')]?.close()).toBe('ok');
    }
  });

  test('of several that find the same stale lock exactly one takes it over', async () => {
    const { path, openers, another } = await start(4);
    expect(await openers[0]?.open(path)).toBe('ok');
    for (let round = 0, holder = 0; round < 8; round += 1) {
      // The holder dies, and a fresh process takes its place among those who try next.
      await openers.splice(holder, 1)[0]?.kill();
      const answers = await Promise.all(openers.map((opener) => opener.open(path)));
      expect([...answers].sort()).toEqual(['STORAGE_LOCKED', 'STORAGE_LOCKED', 'ok']);
      holder = answers.indexOf('ok');
      openers.push(await another());
      expect(tickets(path).length).toBe(1);
    }
  });

  // Goal: L1. Method: three processes take and give back the lock as fast as they can, and each
  // makes a file inside that must not exist yet.
  test('given processes that contend without pause, then never two are inside', async () => {
    const { path, openers } = await start(3);
    const witness = `${path}.witness`;
    const seen = await Promise.all(openers.map((opener) => opener.contend(path, witness, 40)));
    expect(seen).toEqual(['ok', 'ok', 'ok']);
    expect(fs.existsSync(`${path}.lock`)).toBe(false);
  });
});

describe('whether a process is dead', () => {
  const us: ProcessIdentity = { pid: 7, started: '70', space: '1', boot: 'b', host: 'h' };
  const alive = (started: string) => (): Sighting => ({ alive: true, started });
  const gone = (): Sighting => ({ alive: false });

  test.each<[string, Partial<ProcessIdentity>, () => Sighting, boolean]>([
    ['alive while its number is in use since then', {}, alive('70'), false],
    ['dead when its number is unused', {}, gone, true],
    ['dead when its number belongs to a later process', {}, alive('71'), true],
    ['alive as far as is known where starts are not told', { started: '' }, alive('71'), false],
    ['alive as far as is known where the start is hidden', {}, alive(''), false],
    ['dead when the machine was started anew', { boot: 'a' }, alive('70'), true],
    ['unknown in another space of process numbers', { space: '2' }, gone, false],
    ['unknown on another machine', { host: 'g', boot: 'a' }, gone, false],
  ])('it is %s', (_, other, look, dead) => {
    expect(isDead({ ...us, ...other }, us, look)).toBe(dead);
  });

  test('this process is alive, and looks the same twice', () => {
    expect(isDead(thisProcess(), thisProcess())).toBe(false);
    expect(thisProcess()).toEqual(thisProcess());
  });

  test.skipIf(process.platform !== 'linux')(
    'a zombie is dead: it holds no file any more',
    async () => {
      // The shell becomes a `tail`, which never asks how the child that it inherits has ended.
      const shell = spawn('sh', ['-c', 'tail -f /dev/null & echo $!; exec tail -f /dev/null']);
      const lines = createInterface({ input: shell.stdout })[Symbol.asyncIterator]();
      const pid = Number((await lines.next()).value);
      onTestFinished(() => void shell.kill('SIGKILL'));
      expect(lookAt(pid)).toMatchObject({ alive: true });
      await until(() => fs.readFileSync(`/proc/${shell.pid}/comm`, 'utf8') === 'tail\n');
      process.kill(pid, 'SIGKILL');
      await until(() => fs.readFileSync(`/proc/${pid}/stat`, 'utf8').includes(') Z '));
      expect(lookAt(pid)).toEqual({ alive: false });
    },
  );
});

async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await new Promise(setImmediate);
}
