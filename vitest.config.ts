import { fileURLToPath } from 'node:url';
import { defineConfig } from 'vitest/config';

const at = (path: string) => fileURLToPath(new URL(path, import.meta.url));
// Unit tests read the sources; examples import the package as a user would, from `dist`.
const sources = {
  'write-barrier/nbd': at('./src/nbd/index.ts'),
  'write-barrier/node': at('./src/node/index.ts'),
  'write-barrier/systems': at('./src/systems/index.ts'),
  'write-barrier/testing': at('./src/testing/index.ts'),
  'write-barrier': at('./src/index.ts'),
};

export default defineConfig({
  test: {
    // Two long files explore all small programs, each on a core of its own.
    maxWorkers: 2,
    projects: [
      {
        resolve: { alias: sources },
        test: {
          name: 'unit',
          include: ['test/**/*.test.ts'],
          exclude: ['test/examples/**', 'test/interop/**', 'test/browser/**'],
          testTimeout: 60_000,
        },
      },
      {
        test: {
          name: 'examples',
          include: ['test/examples/**/*.test.ts'],
          testTimeout: 60_000,
          hookTimeout: 60_000,
        },
      },
      {
        resolve: { alias: sources },
        test: { name: 'interop', include: ['test/interop/**/*.test.ts'], testTimeout: 600_000 },
      },
      {
        resolve: { alias: sources },
        test: { name: 'browser', include: ['test/browser/**/*.test.ts'] },
      },
    ],
  },
});
