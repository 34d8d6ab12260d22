// Writers in several processes and workers: they exclude each other, whichever lock they have, and their end frees the
// file, however they end. The processes are real, and what they do at once they do without waiting for a clock. A process
// that a test has not killed serves the next test as well, because it takes longer to start than a test does.

import * as fs from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest';
import { FileStorage } from 'write-barrier/node';
import { share } from '../kit/amount.js';
import { codeThrown, errorThrown } from '../storage/contract.js';
import {
  installPackage,
  type Opener,
  type OpenerLock,
  startOpener,
  temporaryDirectory,
} from './support.js';

const SIZE = 4096;
/** How often a crowd of openers meets, how often one of them is killed, and how often each has its turn inside. */
const ROUNDS = share(6, 3);
const DEATHS = share(4, 2);
const TURNS = share(20, 5);
const LINUX = process.platform === 'linux';
const tickets = (path: string): string[] => fs.readdirSync(`${path}.lock`);

interface World {
  readonly path: string;
  readonly openers: readonly Opener[];
  another(lock: OpenerLock): Promise<Opener>;
}

const homes: Record<OpenerLock, string> = { platform: '', ticket: '' };
const resting: Record<OpenerLock, Opener[]> = { platform: [], ticket: [] };

beforeAll(() => {
  for (const lock of ['platform', 'ticket'] as const) {
    homes[lock] = fs.realpathSync(fs.mkdtempSync(join(tmpdir(), 'write-barrier-')));
    installPackage(homes[lock], lock);
  }
});

afterAll(async () => {
  await Promise.all(Object.values(resting).flatMap((openers) => openers.map(({ kill }) => kill())));
  for (const home of Object.values(homes)) fs.rmSync(home, { recursive: true, force: true });
});

/** A process with this lock and no file open, for the test that asks. */
async function openerOf(lock: OpenerLock): Promise<Opener> {
  const opener = resting[lock].pop() ?? (await startOpener(homes[lock]));
  let isAlive = true;
  const kill = async (): Promise<void> => {
    isAlive = false;
    await opener.kill();
  };
  onTestFinished(async ({ task }) => {
    // What a test that failed has left in a process must not make another test fail.
    if (!isAlive || task.result?.state === 'fail') return kill();
    expect(await opener.rest()).toBe('ok');
    resting[lock].push(opener);
  });
  return { ...opener, kill };
}

/** Openers with these locks, all of the same file. */
async function world(locks: readonly OpenerLock[]): Promise<World> {
  const path = join(fs.realpathSync(temporaryDirectory()), 'disk.img');
  return { path, another: openerOf, openers: await Promise.all(locks.map(openerOf)) };
}

async function open(path: string): Promise<FileStorage> {
  const storage = await FileStorage.open(path, { size: SIZE });
  onTestFinished(() => storage.close());
  return storage;
}

const PAIRS: readonly [OpenerLock, OpenerLock][] = [
  ['platform', 'platform'],
  ['platform', 'ticket'],
  ['ticket', 'platform'],
  ['ticket', 'ticket'],
];

describe.each(PAIRS)('a writer by %s, and then one by %s', (first, second) => {
  test('the second is refused, and told which process it is, until the first has closed', async () => {
    const { path, openers } = await world([first, second]);
    const [one, other] = openers as [Opener, Opener];
    expect(await one.open(path)).toBe(first);
    expect(await other.open(path)).toBe('STORAGE_LOCKED');
    expect(await other.said()).toContain(`process ${one.pid}`);
    expect(await one.close()).toBe('ok');
    expect(await other.open(path)).toBe(second);
    expect(await one.open(path)).toBe('STORAGE_LOCKED');
    expect(await other.close()).toBe('ok');
    expect(fs.readdirSync(join(path, '..'))).toEqual(['disk.img']);
  });

  test('a first that was killed locks the second out no longer', async () => {
    const { path, openers } = await world([first, second]);
    const [one, other] = openers as [Opener, Opener];
    expect(await one.open(path)).toBe(first);
    await one.kill();
    expect(tickets(path).length).toBe(1);
    expect(await other.open(path)).toBe(second);
    expect(tickets(path).length).toBe(1);
  });

  const frees = LINUX || (first === 'platform' && second === 'platform');
  test.skipIf(!frees).each(['terminate', 'exit', 'throw'] as const)(
    'a first in a worker that ends by %s locks the second out no longer',
    async (how) => {
      const { path, openers } = await world([first, second]);
      const [one, other] = openers as [Opener, Opener];
      expect(await one.openInWorker(path)).toBe(first);
      expect(await other.open(path)).toBe('STORAGE_LOCKED');
      // Its own process is refused as well, and comes in after it.
      expect(await one.open(path)).toBe('STORAGE_LOCKED');
      expect(await one.endWorker(how)).toBe('ok');
      expect(await one.open(path)).toBe(first);
      expect(await one.close()).toBe('ok');
      expect(await one.openInWorker(path)).toBe(first);
      expect(await one.endWorker(how)).toBe('ok');
      expect(await other.open(path)).toBe(second);
    },
  );
});

test('two workers of one process exclude each other', async () => {
  for (const lock of ['platform', 'ticket'] as const) {
    const { path, openers } = await world([lock]);
    const [one] = openers as [Opener];
    expect(await one.openInWorker(path)).toBe(lock);
    expect(await one.openInWorker(path)).toBe('STORAGE_LOCKED');
  }
});

test('the lock of the system sees through a hard link, a new name and a symbolic link', async () => {
  const { path, openers } = await world(['platform', 'platform']);
  const [one, other] = openers as [Opener, Opener];
  expect(await one.open(path)).toBe('platform');
  const elsewhere = temporaryDirectory();
  fs.linkSync(path, join(elsewhere, 'hard'));
  fs.symlinkSync(path, join(elsewhere, 'symbolic'));
  expect(await other.open(join(elsewhere, 'hard'))).toBe('STORAGE_LOCKED');
  expect(await other.open(join(elsewhere, 'symbolic'))).toBe('STORAGE_LOCKED');
  fs.renameSync(path, join(elsewhere, 'renamed'));
  expect(await other.open(join(elsewhere, 'renamed'))).toBe('STORAGE_LOCKED');
  // What has the old name now is another file, which no writer has.
  expect(await other.open(path)).toBe('platform');
  expect([await one.close(), await other.close()]).toEqual(['ok', 'ok']);
  expect(await other.open(join(elsewhere, 'hard'))).toBe('platform');
});

test('a hard link in another process is another name to tickets, as the page says', async () => {
  const { path, openers } = await world(['ticket', 'ticket']);
  const [one, other] = openers as [Opener, Opener];
  expect(await one.open(path)).toBe('ticket');
  fs.linkSync(path, `${path}.other`);
  expect(await other.open(`${path}.other`)).toBe('ticket');
});

test('a ticket that was broken lets the next one in', async () => {
  const { path, openers } = await world(['ticket']);
  expect(await openers[0]?.open(path)).toBe('ticket');
  const error = await errorThrown(() => open(path));
  await FileStorage.breakLock(path, String(Reflect.get(Object(error), 'holder')));
  await open(path);
  // Closing the broken one removes nothing of the other's.
  expect(await openers[0]?.close()).toBe('ok');
  expect(tickets(path).length).toBe(1);
});

// The kinds of openers that start at once: all of one, and mixtures.
const CROWDS: readonly (readonly OpenerLock[])[] = [
  ['platform', 'platform', 'platform', 'platform'],
  ['ticket', 'ticket', 'ticket', 'ticket'],
  ['platform', 'ticket', 'platform', 'ticket'],
];

describe.each(CROWDS)('openers by %s, %s, %s and %s', (...locks) => {
  const isMixed = new Set(locks).size > 1;

  test('of several that start at once one gets the file', async () => {
    const { path, openers } = await world(locks);
    await (await open(path)).close();
    for (let round = 0; round < ROUNDS; round += 1) {
      const answers = await Promise.all(openers.map((opener) => opener.open(path)));
      const winner = answers.findIndex((answer) => answer !== 'STORAGE_LOCKED');
      expect(answers.filter((answer) => answer === 'STORAGE_LOCKED').length).toBe(3);
      expect(answers[winner]).toBe(locks[winner]);
      expect(await openers[winner]?.close()).toBe('ok');
    }
  });

  test('of several that create the file at once no two get it', async () => {
    const { path, openers } = await world(locks);
    for (let round = 0; round < ROUNDS; round += 1) {
      const answers = await Promise.all(openers.map((opener) => opener.open(path)));
      const refused = answers.filter((answer) => answer === 'STORAGE_LOCKED').length;
      // In a mixture a third may be in the way of two that are in each other's way.
      if (isMixed) expect(refused).toBeGreaterThanOrEqual(3);
      else expect(refused).toBe(3);
      const winner = answers.findIndex((answer) => answer !== 'STORAGE_LOCKED');
      if (winner >= 0) expect(await openers[winner]?.close()).toBe('ok');
      fs.rmSync(path, { force: true });
      expect(fs.readdirSync(join(path, '..'))).toEqual([]);
    }
  });

  test('of several that find a lock whose holder was killed exactly one takes it over', async () => {
    const { path, openers, another } = await world(locks);
    const crowd = openers.map((opener, i) => ({ opener, lock: locks[i] ?? 'ticket' }));
    let holder = 0;
    expect(await crowd[0]?.opener.open(path)).toBe(locks[0]);
    for (let round = 0; round < DEATHS; round += 1) {
      const [dead] = crowd.splice(holder, 1);
      await dead?.opener.kill();
      const answers = await Promise.all(crowd.map(({ opener }) => opener.open(path)));
      expect(answers.filter((answer) => answer === 'STORAGE_LOCKED').length).toBe(2);
      holder = answers.findIndex((answer) => answer !== 'STORAGE_LOCKED');
      const lock = dead?.lock ?? 'ticket';
      crowd.push({ opener: await another(lock), lock });
      expect(tickets(path).length).toBe(1);
    }
  });

  // Goal: never two. Method: the processes take and give back the lock as fast as they can, and each makes a file inside
  // that must not exist yet.
  test('given processes that contend without pause, then never two are inside', async () => {
    const { path, openers } = await world(locks);
    const witness = `${path}.witness`;
    const seen = await Promise.all(openers.map((opener) => opener.contend(path, witness, TURNS)));
    expect(seen).toEqual(locks.map(() => 'ok'));
    expect(fs.readdirSync(join(path, '..'))).toEqual(['disk.img']);
  });
});

test('this process is refused as well, and says which one has it', async () => {
  const { path, openers } = await world(['ticket']);
  expect(await openers[0]?.open(path)).toBe('ticket');
  expect(Object(await errorThrown(() => open(path))).message).toContain(
    `process ${openers[0]?.pid}`,
  );
  expect(await openers[0]?.close()).toBe('ok');
  expect(await codeThrown(() => open(path))).toBeUndefined();
});
