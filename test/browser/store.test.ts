// The store of the examples in a real browser: its page, a reload, and a browser that is killed while it commits.

import { mkdtemp, readFile, realpath, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { opened } from '../platforms/browser.js';
import { chromium } from '../platforms/consumer.js';
import { freePort } from './free-port.js';

const browser = chromium();
const LIMIT_MS = 300_000;
const SITE = new URL('../../examples/14-store/site.mjs', import.meta.url);

let folder = '';
let port = 0;
const found = (page: string): Promise<unknown> => opened(String(browser), folder, page, port);

/** Fills the form of the page, reloads it when that is shown, and then tells what is shown. */
const USER = `
const shown = () => [...document.querySelectorAll('tbody td')].map((cell) => cell.textContent);
const until = async (isSo) => { while (!isSo()) await new Promise((resolve) => setTimeout(resolve, 20)); };
const status = document.querySelector('[role=status]');
await until(() => status.textContent.includes('values'));
if (shown().length === 0) {
  const [key, value] = document.querySelectorAll('input');
  [key.value, value.value] = ["O'Hara", '<b>7</b>'];
  document.querySelector('button').click();
  await until(() => shown().length > 0);
  location.reload();
} else {
  const wide = document.documentElement.scrollWidth > innerWidth;
  await fetch('/found', { method: 'POST', body: JSON.stringify({ shown: shown(), status: status.textContent, wide }) });
}`;

beforeAll(async () => {
  port = await freePort();
  folder = await realpath(await mkdtemp(join(tmpdir(), 'store-')));
  const { bundle } = (await import(SITE.href)) as { bundle(folder: string): Promise<void> };
  await bundle(folder);
  await build({
    entryPoints: [fileURLToPath(new URL('programs/store-acts.ts', import.meta.url))],
    bundle: true,
    format: 'esm',
    outdir: folder,
    logLevel: 'silent',
  });
  const page = await readFile(join(folder, 'index.html'), 'utf8');
  await writeFile(join(folder, 'used.html'), `${page}<script type="module">${USER}</script>`);
  await writeFile(
    join(folder, 'acts.html'),
    '<!doctype html><meta charset="utf-8"><script type="module" src="store-acts.js"></script>',
  );
}, LIMIT_MS);
afterAll(() => rm(folder, { recursive: true, force: true, maxRetries: 10, retryDelay: 200 }));

interface Shown {
  readonly values: readonly (readonly [key: string, value: string])[];
  readonly keys: readonly string[];
  readonly verdict: readonly string[];
}

describe.skipIf(browser instanceof Error)('the store in Chromium', () => {
  test('shows what was set, also after a reload', { timeout: LIMIT_MS }, async () => {
    expect(await found('used.html')).toEqual({
      shown: ["O'Hara", '<b>7</b>'],
      status: expect.stringMatching(/^1 values, 1 changes in SQLite, /),
      wide: false,
    });
  });

  test('has all that was answered, in the store and in SQLite, when the browser is killed while it commits', {
    timeout: LIMIT_MS,
  }, async () => {
    const expected = ["O'Hara"];
    for (const round of [1, 2, 3]) {
      // The answer comes in the middle of the commits, and then the browser is killed.
      expect(await found(`acts.html?flood${round}`)).toEqual({ answered: 50 });
      for (let n = 1; n <= 50; n++) expected.push(`${round}.${n}`);
      const { values, keys, verdict } = (await found('acts.html?show')) as Shown;
      const stored = new Map(values);
      expect(verdict).toEqual(['ok']);
      for (const key of expected) expect([key, stored.has(key)]).toEqual([key, true]);
      for (const key of expected) expect([key, keys.includes(key)]).toEqual([key, true]);
      // One order for both: SQLite's row is added behind the value.
      for (const key of keys) expect([key, stored.has(key)]).toEqual([key, true]);
    }
  });
});
