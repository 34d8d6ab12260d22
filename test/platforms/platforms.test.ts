// The package as npm packs it, on the platforms of README's table: the same programs in each, and what they find is what the
// table says. Runtimes come from npm's registry, Chromium from the machine; what is not there is skipped, and the name of
// the test says why.

import { beforeAll, describe, expect, inject, test } from 'vitest';
import { opened } from './browser.js';
import { builtByVite, bundledByEsbuild, mapped } from './bundles.js';
import { chromium, ran, runtimes } from './consumer.js';
import {
  FEATURES,
  type Feature,
  PAGES,
  type PageName,
  PLATFORMS,
  RUNTIMES,
  type RuntimeName,
} from './platforms.js';

const programs = await runtimes();
const browser = chromium();
const homes = inject('consumer');

const isError = (value: unknown): value is Error => value instanceof Error;
/** Nothing, or why the test is skipped. */
const skipped = (tool: string | Error): string =>
  isError(tool) ? ` (skipped: ${tool.message})` : '';

/** Compares what a platform found with its row. */
function isAsTold(platform: string, found: Readonly<Record<string, string>>): void {
  const told = PLATFORMS[platform] as Readonly<Record<Feature, string>>;
  const features = (Object.keys(FEATURES) as Feature[]).filter((name) => told[name] !== '-');
  const says = (name: Feature): string => (found[name] === 'works' ? 'yes' : 'no');
  const expected = Object.fromEntries(features.map((name) => [name, told[name]]));
  const actual = Object.fromEntries(features.map((name) => [name, says(name)]));
  expect(actual, JSON.stringify(found, null, 2)).toEqual(expected);
}

describe.each(Object.keys(RUNTIMES) as RuntimeName[])('%s', (name) => {
  const program = programs[name];
  const { words } = RUNTIMES[name];

  test.skipIf(isError(program)).each(['full', 'bare'] as const)(
    `finds what the table says, %s of optional dependencies${skipped(program)}`,
    async (home) => {
      const { stdout, stderr } = await ran(String(program), [...words, 'main.mjs'], homes[home]);
      const [line = ''] = stdout.split('\n');
      expect(line, stderr).toMatch(/^\{/);
      isAsTold(name, JSON.parse(line));
    },
  );

  test.skipIf(isError(program))(
    `ends by itself after a crash test, and after a file was open${skipped(program)}`,
    async () => {
      for (const file of ['main.mjs', 'failing.mjs']) {
        const ended = await ran(String(program), [...words, file], homes.full);
        expect(ended, file).toMatchObject({ code: 0, byItself: true });
      }
    },
  );
});

describe('the note about Deno', () => {
  const program = programs['Deno 2.9'];
  const { words } = RUNTIMES['Deno 2.9'];

  test.skipIf(isError(program))(
    `the first lock of fs-native-extensions ends the process${skipped(program)}`,
    async () => {
      const ended = await ran(String(program), [...words, 'extensions.mjs'], homes.full);
      expect(ended).toMatchObject({ code: 127, stdout: '', byItself: true });
      expect(ended.stderr).toContain('symbol lookup error');
    },
  );

  test.skipIf(isError(program))(
    `a ticket is the lock, although fs-native-extensions is installed${skipped(program)}`,
    async () => {
      const ended = await ran(String(program), [...words, 'locked.mjs'], homes.full);
      expect(ended, ended.stderr).toMatchObject({ code: 0, byItself: true });
      const { lock, lockReason } = JSON.parse(ended.stdout);
      expect(lock).toBe('ticket');
      expect(lockReason).toContain('in Deno its first lock would end the process');
    },
  );
});

describe('Chromium', () => {
  beforeAll(async () => {
    if (isError(browser)) return;
    await bundledByEsbuild(homes.full);
    await builtByVite(homes.full);
    await mapped(homes.full);
  }, 300_000);

  test.skipIf(isError(browser)).each(Object.keys(PAGES) as PageName[])(
    `%s: finds what the table says${skipped(browser)}`,
    async (name) => {
      const found = await opened(String(browser), homes.full, PAGES[name]);
      isAsTold(name, found);
      const refused = (door: string): unknown =>
        expect.stringContaining(`EOPNOTSUPP]: write-barrier/${door} does not work in a browser`);
      expect(found).toMatchObject({ node: refused('node'), nbd: refused('nbd') });
    },
  );
});
