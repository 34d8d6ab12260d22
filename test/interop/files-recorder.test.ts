// The recorder of node:fs against strace: for each call the same operations, for the Node that runs the tests and for others.
//
// The others are packages of npm with the program of Node. Where they cannot be had their tests are skipped, and say so.

import { execFile } from 'node:child_process';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  realpathSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { build } from 'esbuild';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { straceFiles } from '../../src/testing/files/strace.js';
import { linesOf } from '../testing/files/lines.js';
import { CALLS } from './files-calls.mjs';

const run = promisify(execFile);
const PROGRAM = fileURLToPath(new URL('files-calls.mjs', import.meta.url));
const SOURCE = fileURLToPath(new URL('../../src/testing/files/', import.meta.url));
const LINES = fileURLToPath(new URL('../testing/files/lines.ts', import.meta.url));
/** Stays for the next run. */
const TOOLS = fileURLToPath(new URL('../../node_modules/.cache/nodes', import.meta.url));

const folder = mkdtempSync(
  join(realpathSync(existsSync('/dev/shm') ? '/dev/shm' : tmpdir()), 'recorder-'),
);
const recorder = join(folder, 'recorder.mjs');

beforeAll(async () => {
  const contents = `export { recordFiles } from ${JSON.stringify(`${SOURCE}record.ts`)}; export { linesOf } from ${JSON.stringify(LINES)};`;
  const stdin = { contents, resolveDir: SOURCE };
  await build({
    stdin,
    bundle: true,
    format: 'esm',
    platform: 'node',
    outfile: recorder,
    logLevel: 'error',
  });
});

afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** The program of another version, installed if it is not there yet. */
async function nodeOf(version: number): Promise<string> {
  if (process.version.startsWith(`v${version}.`)) return process.execPath;
  const home = join(TOOLS, String(version));
  const program = join(home, 'node_modules/node/bin/node');
  if (!existsSync(program)) {
    mkdirSync(home, { recursive: true });
    writeFileSync(join(home, 'package.json'), '{"private":true}');
    await run('npm', ['install', `node@${version}`, '--no-audit', '--no-fund'], { cwd: home });
  }
  await run(program, ['--version']);
  return program;
}

/** The lines of each call, without the folder and the random part of names. */
function byCall(lines: readonly string[]): Map<string, string[]> {
  const names = Object.keys(CALLS);
  const calls = new Map<string, string[]>(names.map((name) => [name, []]));
  let current = '';
  for (const line of lines) {
    const [, mark] = /^mark (\d+)$/.exec(line) ?? [];
    if (mark !== undefined) current = names[Number(mark)] ?? '';
    else
      calls
        .get(current)
        ?.push(line.replace(/(?<=\s)\/\d+(?=\/|$|\s)/g, '').replace(/tmp-\w{6}/g, 'tmp-'));
  }
  return calls;
}

/** Node does these on several threads at once, so their operations have no order of their own. */
const UNORDERED = new Set(['rm, recursive', 'promises.rm, recursive']);

/** Functions that change neither content nor names, and what is no function but a class. */
const HARMLESS = [
  'l?chown f?chown l?chmod f?chmod l?utimes f?utimes f?stat l?stat statfs access exists readlink realpath',
  'readdir readFile',
  'opendir glob readv watch watchFile unwatchFile openAsBlob readLines readableWebStream pull pullSync',
  'constructor getAsyncId _toUnixTimestamp Dir Dirent Stats FileReadStream ReadStream',
  // What createWriteStream makes.
  'FileWriteStream WriteStream',
].join(' ');
const IS_HARMLESS = new RegExp(`\\.(${HARMLESS.replaceAll(' ', '|')})(Sync)?$`);

/** Whether a function that was asked to flush asks the system for an fsync, as the page about crash tests of files says. */
const FLUSHES: Readonly<Record<string, boolean>> = {
  'writeFile, flush': true,
  'promises.writeFile, flush': true,
  'promises.appendFile, flush': true,
  'createWriteStream, flush': true,
  'writeFileSync of a text, flush': true,
  'writeFileSync of bytes, flush': true,
  'writeFileSync of a latin1 text, flush': true,
  'appendFileSync of bytes, flush': true,
  'writeFileSync of a text in utf8, flush': false,
  'appendFileSync of a text in utf8, flush': false,
  'a handle that writes whole files, flush': false,
};

describe.each([20, 22, 24])('node:fs of Node %i', (version) => {
  test('has no function that changes files and is not called here', async ({ skip }) => {
    const program = await nodeOf(version).catch((error: Error) => error);
    if (program instanceof Error) {
      skip(`Node ${version}: ${program.message}`);
      return;
    }
    const { stdout } = await run(program, [PROGRAM, 'functions']);
    const called = new Set(readFileSync(PROGRAM, 'utf8').match(/\b(fs|fsp|handle)\.\w+/g));
    const missing = (JSON.parse(stdout) as string[]).filter(
      (name) => !called.has(name) && !IS_HARMLESS.test(name),
    );
    expect(missing).toEqual([]);
  });

  test('is recorded as strace sees it, call by call', async ({ skip }) => {
    const strace = await run('strace', ['-V']).then(
      () => undefined,
      () => 'there is no strace',
    );
    const program = await nodeOf(version).catch((error: Error) => error);
    if (strace !== undefined || program instanceof Error) {
      skip(`Node ${version}: ${strace ?? (program as Error).message}`);
      return;
    }
    const own = join(folder, `own-${version}`);
    const seen = join(folder, `seen-${version}`);
    mkdirSync(own);
    mkdirSync(seen);
    const { stdout } = await run(program, [PROGRAM, own, recorder], { maxBuffer: 1 << 26 });
    const recorded = JSON.parse(stdout) as { lines: string[]; gaps: string[] };
    const trace = await straceFiles({ root: seen, command: [program, PROGRAM, seen] });
    const [ours, theirs] = [byCall(recorded.lines), byCall(linesOf(trace))];
    const differing = Object.keys(CALLS).flatMap((name) => {
      const [a = [], b = []] = [ours.get(name), theirs.get(name)];
      if (UNORDERED.has(name)) for (const lines of [a, b]) lines.sort();
      return a.join('\n') === b.join('\n') ? [] : [{ name, recorded: a, strace: b }];
    });
    expect(differing).toEqual([]);
    const flushing = Object.keys(FLUSHES).map((name) => {
      return [name, theirs.get(name)?.some((line) => line.startsWith('fsync')) ?? false];
    });
    expect(Object.fromEntries(flushing)).toEqual(FLUSHES);
    expect(recorded.gaps).toEqual([]);
    expect(trace.gaps).toEqual([]);
  });
});
