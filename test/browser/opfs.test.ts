// Files of an origin in a real browser: the contract, what the browser refuses, and a store that survives a browser that is killed.

import { mkdtemp, realpath, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { BROWSER_PAGE, blocksOf, read } from '../docs/pages.js';
import { opened } from '../platforms/browser.js';
import { chromium } from '../platforms/consumer.js';
import { freePort } from './free-port.js';

const browser = chromium();
const PROGRAMS = fileURLToPath(new URL('programs', import.meta.url));
const LIMIT_MS = 300_000;

let folder = '';
let port = 0;
const found = (act: string): Promise<unknown> =>
  opened(String(browser), folder, `page.html?${act}`, port);

const htmlOf = (script: string): string =>
  `<!doctype html><meta charset="utf-8"><body></body><script type="module">${script}</script>`;

/** The code blocks of the page, each under the name in its first line, and a document that tells what they show. */
async function bundledPage(): Promise<void> {
  const blocks = blocksOf(read(BROWSER_PAGE)).filter(({ language }) => language === 'js');
  const files = blocks.map(({ text }) => ({
    name: /^\/\/ (\S+\.js)$/m.exec(text)?.[1] as string,
    text,
  }));
  const sources = await mkdtemp(join(PROGRAMS, 'page-'));
  try {
    for (const { name, text } of files) await writeFile(join(sources, name), text);
    await build({
      entryPoints: files.map(({ name }) => join(sources, name)),
      bundle: true,
      format: 'esm',
      outdir: join(folder, 'docs'),
      logLevel: 'silent',
    });
  } finally {
    await rm(sources, { recursive: true });
  }
  const shown = 'JSON.stringify(document.body.textContent)';
  const script = `import './page.js'; await fetch('/found', { method: 'POST', body: ${shown} });`;
  await writeFile(join(folder, 'docs', 'index.html'), htmlOf(script));
}

beforeAll(async () => {
  port = await freePort();
  folder = await realpath(await mkdtemp(join(tmpdir(), 'opfs-')));
  await build({
    entryPoints: ['page.ts', 'worker.ts'].map((name) => join(PROGRAMS, name)),
    bundle: true,
    format: 'esm',
    outdir: folder,
    logLevel: 'silent',
  });
  await writeFile(join(folder, 'page.html'), htmlOf("import './page.js';"));
  await bundledPage();
}, LIMIT_MS);

afterAll(() => rm(folder, { recursive: true, force: true, maxRetries: 10, retryDelay: 200 }));

describe.skipIf(browser instanceof Error)('OpfsStorage in Chromium', () => {
  test('keeps the storage contract', { timeout: LIMIT_MS }, async () => {
    const { tests, failed } = (await found('contract')) as { tests: number; failed: unknown };
    expect(failed).toEqual([]);
    expect(tests).toBeGreaterThan(20);
  });

  test('says in words what the browser refuses', { timeout: LIMIT_MS }, async () => {
    expect(await found('refusals')).toEqual({
      locked: expect.stringMatching(/^STORAGE_LOCKED: locked is open already/),
      again: 'works',
      quota: expect.stringMatching(/^IO_FAILED: extending huge .* quota of the page's origin/),
      growth: expect.stringMatching(/^IO_FAILED: giving \d+ bytes to grown .* quota of the page's/),
      sizes: [4096, 8192],
      missing: expect.stringMatching(/^INVALID_ARGUMENT: missing\/file does not exist/),
      folder: expect.stringMatching(/^INVALID_ARGUMENT: folder is a folder/),
    });
  });

  test('is used by the thread of a page through a port', { timeout: LIMIT_MS }, async () => {
    expect(await found('served')).toEqual({ same: true, here: 'EOPNOTSUPP' });
  });

  test('is free again when its worker was ended', { timeout: LIMIT_MS }, async () => {
    expect(await found('ended')).toBe('works');
  });

  test('has every acknowledged record after the browser was killed', {
    timeout: LIMIT_MS,
  }, async () => {
    for (let kill = 0; kill < 3; kill += 1) {
      // The answer comes in the middle of the writes, and then the browser is killed.
      expect(await found('log')).toEqual({ acknowledged: 50 });
      const { largest, torn } = (await found('recover')) as { largest: number; torn: number };
      expect(largest).toBeGreaterThanOrEqual(50);
      expect(torn).toBe(0);
    }
  });

  test('carries the code of the page for browsers, across a killed browser', {
    timeout: LIMIT_MS,
  }, async () => {
    const shown = (): Promise<unknown> => opened(String(browser), folder, 'docs/index.html', port);
    expect([await shown(), await shown()]).toEqual(['This is visit 1.', 'This is visit 2.']);
  });
});
