import { readdirSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { defineConfig } from 'vitest/config';

// Tests read the sources, by the paths of tsconfig.json; the longest comes first, because an alias also stands for what begins
// with it. Examples import the package as a user would, from `dist`.
const { compilerOptions } = JSON.parse(
  readFileSync(new URL('tsconfig.json', import.meta.url), 'utf8'),
);
const sources = Object.entries<string[]>(compilerOptions.paths)
  .sort(([a], [b]) => b.length - a.length)
  .map(([find, [path]]) => ({
    find,
    replacement: fileURLToPath(new URL(path as string, import.meta.url)),
  }));

/** Folders of tests that are not of the sources alone. */
const OTHERS = ['examples', 'interop', 'platforms', 'browser'].map((name) => `test/${name}/**`);

/** What runs a share of its worlds or its random runs in the project `unit`, by test/kit/amount.ts, and runs all of it here. */
function exhaustive(): string[] {
  return readdirSync('test', { recursive: true, encoding: 'utf8' })
    .map((path) => `test/${path.replaceAll('\\', '/')}`)
    .filter((path) => path.endsWith('.test.ts') && !path.startsWith('test/interop/'))
    .filter((path) => /\/exhaustive|kit\/amount\.js/.test(path + readFileSync(path, 'utf8')));
}

/**
 * Test files of one process share their modules, because to load the package anew for each file takes a fifth of the time.
 * What measures memory asks for a collection first.
 */
const SHARED = {
  isolate: false,
  execArgv: ['--expose-gc'],
  setupFiles: ['test/kit/stacks.ts'],
};

// Limits of time are for what hangs: a machine ten times slower than ours passes.
export default defineConfig({
  test: {
    maxWorkers: 2,
    projects: [
      {
        resolve: { alias: sources },
        test: {
          name: 'unit',
          include: ['test/**/*.test.ts'],
          exclude: OTHERS,
          testTimeout: 300_000,
          ...SHARED,
        },
      },
      {
        test: {
          name: 'examples',
          include: ['test/examples/**/*.test.ts'],
          testTimeout: 300_000,
          hookTimeout: 300_000,
          ...SHARED,
        },
      },
      {
        resolve: { alias: sources },
        test: {
          name: 'exhaustive',
          include: exhaustive(),
          env: { EXHAUSTIVE: '1' },
          testTimeout: 3_000_000,
          ...SHARED,
        },
      },
      {
        resolve: { alias: sources },
        test: { name: 'interop', include: ['test/interop/**/*.test.ts'], testTimeout: 600_000 },
      },
      {
        test: {
          name: 'platforms',
          include: ['test/platforms/**/*.test.ts'],
          globalSetup: 'test/platforms/consumer.ts',
          testTimeout: 300_000,
        },
      },
      {
        resolve: { alias: sources },
        test: { name: 'browser', include: ['test/browser/**/*.test.ts'] },
      },
    ],
  },
});
