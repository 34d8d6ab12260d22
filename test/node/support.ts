// What the tests of files and devices share: directories that vanish, and other processes. A test
// file runs from the sources; another process cannot, so the sources are compiled into a package
// for it.

import { type ChildProcess, spawn } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join, relative } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { buildSync } from 'esbuild';
import { onTestFinished } from 'vitest';

const ROOT = fileURLToPath(new URL('../../', import.meta.url));

/** A directory for one test. */
export function temporaryDirectory(): string {
  const path = mkdtempSync(join(tmpdir(), 'write-barrier-'));
  onTestFinished(() => rmSync(path, { recursive: true, force: true }));
  return path;
}

/** Which lock the openers of a directory reach. */
export type OpenerLock = 'platform' | 'ticket';

/**
 * Compiles the sources as a package that a script in `directory` can import. With `platform` the package
 * fs-native-extensions is there as well, and otherwise it is missing.
 */
export function installPackage(directory: string, lock: OpenerLock = 'ticket'): void {
  if (lock === 'platform') {
    mkdirSync(join(directory, 'node_modules'), { recursive: true });
    const name = join('node_modules', 'fs-native-extensions');
    symlinkSync(fileURLToPath(new URL(`../../${name}`, import.meta.url)), join(directory, name));
  }
  const root = join(directory, 'node_modules', 'write-barrier');
  for (const [name, text] of compiled()) {
    const target = join(root, name);
    mkdirSync(dirname(target), { recursive: true });
    writeFileSync(target, text);
  }
  writeFileSync(join(root, 'package.json'), JSON.stringify({ type: 'module', exports: doors() }));
}

/** The doors of the package, over its compiled sources. */
function doors(): Record<string, string> {
  const { compilerOptions } = JSON.parse(readFileSync(join(ROOT, 'tsconfig.json'), 'utf8'));
  return Object.fromEntries(
    Object.entries<string[]>(compilerOptions.paths).map(([door, [source]]) => [
      door.replace('write-barrier', '.'),
      (source as string).replace('/src/', '/').replace(/ts$/, 'js'),
    ]),
  );
}

/** What scripts import beside the doors, inside src. */
const INSIDE = ['testing/contract/storage-contract.ts', 'testing/choices.ts'];

const outputs = new Map<string, string>();

/** The doors as JavaScript, each in a file; compiled once for all tests of a file. A process loads few files sooner than many. */
function compiled(): ReadonlyMap<string, string> {
  if (outputs.size > 0) return outputs;
  const sources = join(ROOT, 'src');
  const { outputFiles } = buildSync({
    entryPoints: [
      ...Object.values(doors()).map((door) => join(sources, door.replace(/js$/, 'ts'))),
      ...INSIDE.map((path) => join(sources, path)),
    ],
    outdir: sources,
    outbase: sources,
    bundle: true,
    splitting: true,
    packages: 'external',
    platform: 'node',
    format: 'esm',
    target: 'es2022',
    write: false,
  });
  for (const { path, text } of outputFiles) outputs.set(relative(sources, path), text);
  return outputs;
}

/** Another process, or a worker of one, that opens files on command. */
export interface Opener {
  readonly pid: number;
  /** Opens the file; the lock that it got, or the code of the error. */
  open(path: string): Promise<string>;
  close(): Promise<string>;
  /** The message and the holder of the last error. */
  said(): Promise<string>;
  /**
   * Takes and gives back the lock so many times, however often it is refused, and watches with a
   * second file that no other is inside; 'ok', or what was seen.
   */
  contend(path: string, witness: string, times: number): Promise<string>;
  /** Opens the file in a worker thread; the lock that it got, or the code of the error. */
  openInWorker(path: string): Promise<string>;
  /** Ends the last worker in the way that is given: from outside, by an exit, or by an error. */
  endWorker(how: 'terminate' | 'exit' | 'throw'): Promise<string>;
  /** Closes what it has open, and ends its worker. */
  rest(): Promise<string>;
  /** Dies at once, without giving anything back. */
  kill(): Promise<void>;
}

const SCRIPT = `
import { closeSync, openSync, unlinkSync } from 'node:fs';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { isMainThread, parentPort, Worker } from 'node:worker_threads';
import { FileStorage } from 'write-barrier/node';
let storage;
let error;
let worker;
const commands = {
  async open(path) {
    storage = await FileStorage.open(path, { size: 4096 });
    return storage.lock;
  },
  async close() {
    await storage.close();
  },
  said: () => error.message + ' HOLDER ' + error.holder,
  async rest() {
    await worker?.terminate();
    await storage?.close().catch(() => {});
    [storage, error, worker] = [];
  },
  async contend(path, witness, times) {
    for (let held = 0; held < Number(times); ) {
      let mine;
      try {
        mine = await FileStorage.open(path, { size: 4096 });
      } catch (error) {
        if (error.code !== 'STORAGE_LOCKED') throw error;
        continue;
      }
      held += 1;
      closeSync(openSync(witness, 'wx'));
      unlinkSync(witness);
      await mine.close();
    }
  },
  async openInWorker(path) {
    worker = new Worker(new URL(import.meta.url));
    worker.on('error', () => {});
    worker.postMessage(['open', path]);
    return (await once(worker, 'message'))[0];
  },
  async endWorker(how) {
    const over = new Promise((resolve) => worker.once('exit', resolve));
    if (how === 'terminate') worker.terminate();
    else worker.postMessage([how]);
    await over;
  },
  exit: () => process.exit(),
  throw: () => setImmediate(() => { throw new Error('as the test wants it'); }),
};
async function answer([name, ...words]) {
  try {
    return (await commands[name](...words)) ?? 'ok';
  } catch (thrown) {
    error = thrown;
    return thrown.code ?? String(thrown);
  }
}
if (isMainThread) {
  console.log('ready');
  for await (const line of createInterface({ input: process.stdin })) {
    console.log(await answer(JSON.parse(line)));
  }
} else {
  parentPort.on('message', async (words) => parentPort.postMessage(await answer(words)));
}
`;

/** Starts a process that can import the package installed in `directory`. It lives until it is killed. */
export async function startOpener(directory: string): Promise<Opener> {
  const script = join(directory, 'opener.mjs');
  writeFileSync(script, SCRIPT);
  const child = spawn(process.execPath, [script], { stdio: ['pipe', 'pipe', 'inherit'] });
  const exited = new Promise<void>((resolve) => child.once('exit', () => resolve()));
  const kill = async (): Promise<void> => {
    child.kill('SIGKILL');
    await exited;
  };
  const { stdin, stdout, pid } = parts(child);
  const lines = createInterface({ input: stdout })[Symbol.asyncIterator]();
  const answer = async (): Promise<string> => String((await lines.next()).value);
  const ask = (...words: string[]): Promise<string> => {
    stdin.write(`${JSON.stringify(words)}\n`);
    return answer();
  };
  await answer();
  return {
    pid,
    open: (path) => ask('open', path),
    close: () => ask('close'),
    said: () => ask('said'),
    contend: (path, witness, times) => ask('contend', path, witness, String(times)),
    openInWorker: (path) => ask('openInWorker', path),
    endWorker: (how) => ask('endWorker', how),
    rest: () => ask('rest'),
    kill,
  };
}

function parts({ stdin, stdout, pid }: ChildProcess): {
  readonly stdin: NonNullable<ChildProcess['stdin']>;
  readonly stdout: NonNullable<ChildProcess['stdout']>;
  readonly pid: number;
} {
  if (!stdin || !stdout || pid === undefined) throw new Error('the process did not start');
  return { stdin, stdout, pid };
}
