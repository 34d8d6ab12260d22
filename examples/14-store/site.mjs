// @ts-check
// The page as files that a browser loads, and a server for them: npm run example -- store --serve

import { copyFile, readFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import { createRequire } from 'node:module';
import { extname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';

const HERE = fileURLToPath(new URL('.', import.meta.url));
const WASM = 'wa-sqlite-async.wasm';

/** @type {Record<string, string>} */
const TYPES = { '.html': 'text/html', '.js': 'text/javascript', '.wasm': 'application/wasm' };

/** Bundles the page and its worker. @param {string} folder */
export async function bundle(folder) {
  await build({
    entryPoints: ['page.mjs', 'worker.mjs'].map((name) => join(HERE, name)),
    bundle: true,
    format: 'esm',
    outdir: folder,
    // wa-sqlite asks for it in Node alone.
    external: ['module'],
    logLevel: 'silent',
  });
  await copyFile(join(HERE, 'index.html'), join(folder, 'index.html'));
  const wasm = createRequire(import.meta.url).resolve(`@journeyapps/wa-sqlite/dist/${WASM}`);
  await copyFile(wasm, join(folder, WASM));
}

/**
 * Answers the address.
 *
 * @param {string} folder
 * @param {number} port the same each time, because it is a part of the origin that has the files
 */
export async function serve(folder, port) {
  const server = createServer(async ({ url = '/' }, response) => {
    const { pathname } = new URL(url, 'http://localhost');
    const name = pathname === '/' ? 'index.html' : pathname;
    const bytes = await readFile(join(folder, name)).catch(() => undefined);
    const type = TYPES[extname(name)];
    if (bytes === undefined || type === undefined) response.writeHead(404).end();
    else response.writeHead(200, { 'content-type': type }).end(bytes);
  });
  await /** @type {Promise<void>} */ (
    new Promise((resolve, reject) => {
      server.on('error', reject).listen(port, '127.0.0.1', resolve);
    })
  );
  return `http://127.0.0.1:${port}/`;
}
