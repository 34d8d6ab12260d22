// Goal: at any time one writer at most is inside, whatever lock it goes by and however it ends. Method: 32 threads (8 in the
// quick run, which has one seed of three) in four processes, half of which know tickets only, fight over one file; each makes
// a file inside that must not exist yet. What they do next is chosen by a seed: they close, or their thread ends with the
// file open, or the file is removed.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import * as fs from 'node:fs';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { EXHAUSTIVE } from '../kit/amount.js';
import { installPackage, type OpenerLock, temporaryDirectory } from './support.js';

const THREADS = EXHAUSTIVE ? 8 : 2;
const TRIES = 12;
const SEEDS = EXHAUSTIVE ? [1, 2, 3] : [1];

const SCRIPT = `
import { closeSync, openSync, unlinkSync } from 'node:fs';
import { once } from 'node:events';
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads';
import { FileStorage } from 'write-barrier/node';
import { seededRandom } from './node_modules/write-barrier/testing/choices.js';

if (isMainThread) {
  const [path, seed, threads, tries] = process.argv.slice(2);
  const seen = { held: 0, ended: 0, refused: 0, faults: [] };
  await Promise.all(Array.from({ length: Number(threads) }, async (_, i) => {
    // A thread that ends with the file open is followed by another, which goes on.
    for (let left = Number(tries), life = 0; left > 0; life += 1) {
      const worker = new Worker(new URL(import.meta.url), {
        workerData: { path, seed: Number(seed) * 10007 + i * 101 + life, left },
      });
      worker.on('message', (what) => {
        left -= 1;
        if (what in seen && what !== 'faults') seen[what] += 1;
        else seen.faults.push(what);
      });
      worker.on('error', (error) => {
        left = 0;
        seen.faults.push(String(error));
      });
      await new Promise((resolve) => worker.once('exit', resolve));
    }
  }));
  console.log(JSON.stringify(seen));
} else {
  const random = seededRandom(workerData.seed);
  const below = (n) => Math.floor(random() * n);
  const { path } = workerData;
  const breathe = () => new Promise(setImmediate);
  for (let tries = 0; tries < workerData.left; tries += 1) {
    for (let turns = below(4); turns > 0; turns -= 1) await breathe();
    let storage;
    try {
      storage = await FileStorage.open(path, { size: 4096 });
    } catch (error) {
      parentPort.postMessage(error.code === 'STORAGE_LOCKED' ? 'refused' : String(error));
      continue;
    }
    try {
      closeSync(openSync(path + '.witness', 'wx'));
      for (let turns = below(3); turns > 0; turns -= 1) await breathe();
      await storage.write(0, new Uint8Array(512).fill(tries), { fua: false, tag: 'simple' });
      unlinkSync(path + '.witness');
      if (below(8) === 0) unlinkSync(path);
    } catch (error) {
      parentPort.postMessage('inside: ' + error);
    }
    if (below(4) === 0) {
      parentPort.postMessage('ended');
      await breathe();
      process.exit();
    }
    await storage.close();
    parentPort.postMessage('held');
  }
}
`;

// Elsewhere the end of a thread is not told to those that go by tickets.
test.skipIf(process.platform !== 'linux').each(SEEDS)(
  'given many threads of all kinds that fight over a file, then never two are inside: seed %i',
  async (seed) => {
    const path = join(fs.realpathSync(temporaryDirectory()), 'disk.img');
    const locks: readonly OpenerLock[] = ['platform', 'ticket', 'platform', 'ticket'];
    const seen = await Promise.all(
      locks.map(async (lock, i) => {
        const home = fs.realpathSync(temporaryDirectory());
        installPackage(home, lock);
        const script = join(home, 'fighter.mjs');
        fs.writeFileSync(script, SCRIPT);
        const words = [path, seed * 4 + i, THREADS, TRIES].map(String);
        const child = spawn(process.execPath, [script, ...words], {
          stdio: ['ignore', 'pipe', 'inherit'],
        });
        onTestFinished(() => void child.kill('SIGKILL'));
        let text = '';
        child.stdout.on('data', (chunk) => {
          text += String(chunk);
        });
        await once(child, 'close');
        return JSON.parse(text);
      }),
    );
    expect(seen.flatMap(({ faults }) => faults)).toEqual([]);
    expect(seen.reduce((sum, { held, ended }) => sum + held + ended, 0)).toBeGreaterThan(0);
    const tries = seen.reduce((sum, { held, ended, refused }) => sum + held + ended + refused, 0);
    expect(tries).toBe(locks.length * THREADS * TRIES);
  },
  240_000,
);
