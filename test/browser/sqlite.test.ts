// SQLite in a real browser: on a directory in one file of the origin a transaction takes fewer flushes than on wa-sqlite's own file
// systems, which keep each file of SQLite in a file of its own.

import { mkdtemp, realpath, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { opened } from '../platforms/browser.js';
import { chromium } from '../platforms/consumer.js';

const browser = chromium();
const LIMIT_MS = 300_000;
const SCRIPT = "new Worker('./sqlite-worker.js', { type: 'module' }).postMessage('begin');";

let folder = '';
beforeAll(async () => {
  folder = await realpath(await mkdtemp(join(tmpdir(), 'sqlite-')));
  await build({
    entryPoints: [fileURLToPath(new URL('programs/sqlite-worker.ts', import.meta.url))],
    bundle: true,
    format: 'esm',
    outdir: folder,
    loader: { '.wasm': 'binary' },
    external: ['module', 'node:*'],
    logLevel: 'silent',
  });
  await writeFile(
    join(folder, 'page.html'),
    `<!doctype html><meta charset="utf-8"><body></body><script type="module">${SCRIPT}</script>`,
  );
}, LIMIT_MS);
afterAll(() => rm(folder, { recursive: true, force: true, maxRetries: 10, retryDelay: 200 }));

interface Found {
  readonly name: string;
  readonly synchronous: string;
  readonly flushes: number;
  readonly rows: string;
}

describe.skipIf(browser instanceof Error)('SQLite in Chromium', () => {
  test('takes fewer flushes on a directory than elsewhere', { timeout: LIMIT_MS }, async () => {
    const found = (await opened(String(browser), folder, 'page.html')) as unknown as Found[];
    const of = (system: string, synchronous: string): number =>
      found.find(({ name, synchronous: how }) => name === system && how === synchronous)?.flushes ??
      Number.NaN;
    for (const { rows } of found) expect(rows).toBe('51,ok');
    // One a transaction; the rest is for the log of the directory, which is emptied when it is full.
    expect(of('DirectoryVfs', 'FULL')).toBeLessThan(1.5);
    expect(of('DirectoryVfs', 'EXTRA')).toBeLessThan(1.5);
    for (const name of ['AccessHandlePoolVFS', 'OPFSCoopSyncVFS', 'OPFSAdaptiveVFS']) {
      expect([name, of(name, 'FULL') >= 3]).toEqual([name, true]);
    }
  });
});
