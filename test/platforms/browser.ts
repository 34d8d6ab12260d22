// Pages in Chromium: a server for the files of a consumer, and a browser that opens one page. The page sends what it found to
// the server, so nothing has to look into the browser.

import { spawn } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { extname, join } from 'node:path';
import { text } from 'node:stream/consumers';
import { ENVIRONMENT } from './consumer.js';

const TYPES: Readonly<Record<string, string>> = {
  '.html': 'text/html',
  '.js': 'text/javascript',
  '.mjs': 'text/javascript',
  '.json': 'application/json',
  '.wasm': 'application/wasm',
};

/** How long a page may take, in milliseconds. */
const PAGE_MS = 120_000;
const FLAGS = ['--headless=new', '--no-sandbox', '--disable-gpu', '--no-first-run'];

/**
 * What the page sends, as JSON.
 *
 * @param at the port of the server, which is a part of the page's origin
 */
export async function opened(
  browser: string,
  folder: string,
  page: string,
  at = 0,
): Promise<Readonly<Record<string, string>>> {
  let answer: (found: string) => void = () => {};
  const found = new Promise<string>((resolve) => {
    answer = resolve;
  });
  const server = await served(folder, at, answer);
  const { port } = server.address() as AddressInfo;
  const profile = `--user-data-dir=${join(folder, 'profile')}`;
  const address = `http://127.0.0.1:${port}/${page}`;
  // A group of its own, because a browser is many processes.
  const child = spawn(browser, [...FLAGS, profile, address], {
    env: ENVIRONMENT,
    detached: true,
    stdio: 'ignore',
  });
  const gone = new Promise<void>((resolve) => child.on('close', () => resolve()));
  void gone.then(() => answer(JSON.stringify({ page: 'the browser ended' })));
  const late = setTimeout(
    () => answer(JSON.stringify({ page: `it sent nothing in ${PAGE_MS} ms` })),
    PAGE_MS,
  );
  try {
    return JSON.parse(await found);
  } finally {
    clearTimeout(late);
    const runs = child.exitCode === null && child.signalCode === null;
    if (runs && child.pid !== undefined) process.kill(-child.pid, 'SIGKILL');
    await gone;
    server.closeAllConnections();
    server.close();
  }
}

/** Serves a folder, and passes on what is posted. */
async function served(
  folder: string,
  at: number,
  answer: (found: string) => void,
): Promise<Server> {
  const server = createServer(async (request, response) => {
    if (request.method === 'POST') {
      answer(await text(request));
      response.end();
      return;
    }
    const { pathname } = new URL(request.url ?? '/', 'http://localhost');
    const type = TYPES[extname(pathname)];
    const bytes = await readFile(join(folder, pathname)).catch(() => undefined);
    if (bytes === undefined || type === undefined) response.writeHead(404).end();
    else response.writeHead(200, { 'content-type': type }).end(bytes);
  });
  await new Promise<void>((resolve) => server.listen(at, '127.0.0.1', resolve));
  return server;
}
