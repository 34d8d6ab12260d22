// Who counts as dead. A wrong "alive" costs a lock that a person has to break; a wrong "dead" costs a second writer.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import * as fs from 'node:fs';
import { createInterface } from 'node:readline';
import { Worker } from 'node:worker_threads';
import { describe, expect, onTestFinished, test } from 'vitest';
import {
  isDead,
  lookAt,
  type Sighting,
  type ThreadIdentity,
  thisThread,
} from '../../src/node/platform.js';

const LINUX = process.platform === 'linux';

describe('whether a holder is dead', () => {
  const us: ThreadIdentity = {
    ...{ pid: 7, started: '70', thread: '8', threadStarted: '80' },
    ...{ space: '1', boot: 'b', host: 'h' },
  };
  const alive = (started: string, threadStarted: string | undefined) => (): Sighting => ({
    alive: true,
    started,
    threadStarted,
  });
  const gone = (): Sighting => ({ alive: false });

  test.each<[string, Partial<ThreadIdentity>, () => Sighting, boolean]>([
    ['alive while its numbers are in use since then', {}, alive('70', '80'), false],
    ['dead when its number is unused', {}, gone, true],
    ['dead when its number belongs to a later process', {}, alive('71', '80'), true],
    ['dead when its process has no such thread', {}, alive('70', undefined), true],
    ['dead when the number of its thread belongs to a later one', {}, alive('70', '81'), true],
    [
      'alive as far as is known where its thread is not told',
      { thread: '' },
      alive('70', undefined),
      false,
    ],
    [
      'alive as far as is known where the start of its thread is hidden',
      {},
      alive('70', ''),
      false,
    ],
    ['alive as far as is known where starts are not told', { started: '' }, alive('71', ''), false],
    ['alive as far as is known where the start is hidden', {}, alive('', undefined), false],
    [
      'unknown in another run of the machine: it may be another host with the same name',
      { boot: 'a' },
      gone,
      false,
    ],
    ['unknown in another space of process numbers', { space: '2' }, gone, false],
    ['unknown on another machine', { host: 'g' }, gone, false],
    ['unknown on another machine that was started anew', { host: 'g', boot: 'a' }, gone, false],
  ])('it is %s', (_, other, look, dead) => {
    expect(isDead({ ...us, ...other }, us, look)).toBe(dead);
  });

  test.each<[string, Partial<ThreadIdentity>]>([
    ['the run of the machine', { boot: '' }],
    ['the space of process numbers', { space: '' }],
  ])('nothing is known where %s is not told to either', (_, hidden) => {
    expect(isDead({ ...us, ...hidden }, { ...us, ...hidden }, gone)).toBe(false);
  });

  test('this thread is alive, and looks the same twice', () => {
    expect(isDead(thisThread(), thisThread())).toBe(false);
    expect(thisThread()).toEqual(thisThread());
  });

  test.skipIf(!LINUX)('on Linux a thread tells all there is to tell', () => {
    for (const text of Object.values(thisThread())) expect(String(text)).toMatch(/^\w+$/);
  });

  test.skipIf(!LINUX)('a worker is another thread, and dead once it was terminated', async () => {
    // A file of its own, and nothing imported: what it is told it reads from /proc as thisThread does.
    const code = `
      const { parentPort } = require('node:worker_threads');
      const fs = require('node:fs');
      const stat = fs.readFileSync('/proc/thread-self/stat', 'utf8');
      parentPort.postMessage([fs.readlinkSync('/proc/thread-self').split('/').pop(), stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19]]);
      setInterval(() => {}, 1000);`;
    const worker = new Worker(code, { eval: true });
    const [[thread, threadStarted]] = await once(worker, 'message');
    const other = { ...thisThread(), thread, threadStarted };
    expect(thread).not.toBe(thisThread().thread);
    expect(isDead(other, thisThread())).toBe(false);
    await worker.terminate();
    expect(isDead(other, thisThread())).toBe(true);
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
