import { readdirSync, readFileSync } from 'node:fs';
import { posix } from 'node:path';
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
const OTHERS = ['cli', 'examples', 'interop', 'platforms', 'browser'].map(
  (name) => `test/${name}/**`,
);

/**
 * What runs a share of its worlds or its random runs in the project `unit` and runs all of it here: the tests that import
 * test/kit/amount.ts, themselves or by what they share with others.
 */
function exhaustive(): string[] {
  const files = readdirSync('test', { recursive: true, encoding: 'utf8' })
    .map((path) => `test/${path.replaceAll('\\', '/')}`)
    .filter((path) => path.endsWith('.ts'));
  const imports = new Map(files.map((path) => [path, importsOf(path)]));
  const sampling = new Set(['test/kit/amount.ts']);
  // A set grows while it is walked.
  for (const path of sampling)
    for (const from of files) if (imports.get(from)?.includes(path)) sampling.add(from);
  return files
    .filter((path) => path.endsWith('.test.ts') && !path.startsWith('test/interop/'))
    .filter((path) => sampling.has(path));
}

function importsOf(path: string): string[] {
  const text = readFileSync(path, 'utf8');
  return Array.from(text.matchAll(/ from '(\.[^']+)\.js'/g), ([, to]) =>
    posix.join(posix.dirname(path), `${to}.ts`),
  );
}

/**
 * Test files of one process share their modules, because to load the package anew for each file takes a fifth of the time.
 * What measures memory asks for a collection first. The young generation is large, because most of what the tests make is soon
 * garbage, and to copy it takes a tenth of the time; it is so from the beginning, because a count of allocated bytes is void where a
 * collection comes in between.
 */
const SHARED = {
  isolate: false,
  execArgv: ['--expose-gc', '--min-semi-space-size=64', '--max-semi-space-size=64'],
  setupFiles: ['test/kit/stacks.ts', 'test/kit/seed.ts'],
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
          include: ['test/examples/**/*.test.ts', 'test/cli/**/*.test.ts'],
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
        test: {
          name: 'interop',
          include: ['test/interop/**/*.test.ts'],
          env: { EXHAUSTIVE: '1' },
          testTimeout: 600_000,
        },
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
