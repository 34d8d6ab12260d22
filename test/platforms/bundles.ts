// A consumer's project made ready for a browser: by esbuild, by Vite, and without a bundler by an import map.

import { readFileSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { build as esbuild } from 'esbuild';
import { build as vite } from 'vite';

const ENTRIES = ['page', 'page-with-worker'];

const htmlOf = (script: string, head = ''): string =>
  `<!doctype html><meta charset="utf-8">${head}<script type="module" src="${script}"></script>`;

/** Bundles in `esbuild/`, minified. */
export async function bundledByEsbuild(home: string): Promise<void> {
  const outdir = join(home, 'esbuild');
  await esbuild({
    absWorkingDir: home,
    entryPoints: [...ENTRIES, 'worker'].map((name) => `${name}.mjs`),
    bundle: true,
    minify: true,
    format: 'esm',
    outdir,
    outExtension: { '.js': '.mjs' },
    logLevel: 'silent',
  });
  for (const name of ENTRIES) {
    await writeFile(join(outdir, `${name}.html`), htmlOf(`./${name}.mjs`));
  }
}

/** What Vite makes of the pages, in `vite/`. */
export async function builtByVite(home: string): Promise<void> {
  const pages = ENTRIES.map((name) => join(home, `${name}.html`));
  for (const [i, page] of pages.entries()) await writeFile(page, htmlOf(`./${ENTRIES[i]}.mjs`));
  await vite({
    root: home,
    base: '/vite/',
    configFile: false,
    logLevel: 'silent',
    worker: { format: 'es' },
    build: { outDir: 'vite', rollupOptions: { input: pages } },
  });
}

/** A page that loads the programs and the package as they are. */
export async function mapped(home: string): Promise<void> {
  const root = 'node_modules/write-barrier';
  const { exports } = JSON.parse(readFileSync(join(home, root, 'package.json'), 'utf8'));
  const doors = Object.entries<{ import?: { browser?: string; default: string } }>(exports);
  const imports = Object.fromEntries(
    doors.flatMap(([door, { import: of }]) =>
      of ? [[`write-barrier${door.slice(1)}`, `/${join(root, of.browser ?? of.default)}`]] : [],
    ),
  );
  const map = `<script type="importmap">${JSON.stringify({ imports })}</script>`;
  await writeFile(join(home, 'import-map.html'), htmlOf('./page.mjs', map));
}
