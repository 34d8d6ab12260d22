// What the tests of files and devices share: directories that vanish, and other processes. A test
// file runs from the sources; another process cannot, so the sources are compiled into a package
// for it.

import { type ChildProcess, spawn } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import ts from 'typescript';
import { onTestFinished } from 'vitest';

/** A directory for one test. */
export function temporaryDirectory(): string {
  const path = mkdtempSync(join(tmpdir(), 'write-barrier-'));
  onTestFinished(() => rmSync(path, { recursive: true, force: true }));
  return path;
}

/** Compiles the sources as a package that a script in `directory` can import. */
export function installPackage(directory: string): void {
  const sources = fileURLToPath(new URL('../../src/', import.meta.url));
  const root = join(directory, 'node_modules', 'write-barrier');
  for (const name of readdirSync(sources, { recursive: true, encoding: 'utf8' })) {
    if (!name.endsWith('.ts')) continue;
    const { outputText } = ts.transpileModule(readFileSync(join(sources, name), 'utf8'), {
      compilerOptions: {
        target: ts.ScriptTarget.ES2022,
        module: ts.ModuleKind.ESNext,
        verbatimModuleSyntax: true,
      },
    });
    const target = join(root, name.replace(/\.ts$/, '.js'));
    mkdirSync(dirname(target), { recursive: true });
    writeFileSync(target, outputText);
  }
  const exports = {
    '.': './index.js',
    './node': './node/index.js',
    './testing': './testing/index.js',
  };
  writeFileSync(join(root, 'package.json'), JSON.stringify({ type: 'module', exports }));
}

/** Another process that opens files on command. */
export interface Opener {
  readonly pid: number;
  /** Opens the file; 'ok', or the code of the error. */
  open(path: string): Promise<string>;
  close(): Promise<string>;
  /**
   * Takes and gives back the lock so many times, however often it is refused, and watches with a
   * second file that nobody else is inside; 'ok', or what was seen.
   */
  contend(path: string, witness: string, times: number): Promise<string>;
  /** Dies at once, without giving anything back. */
  kill(): Promise<void>;
}

const SCRIPT = `
import { closeSync, openSync, unlinkSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { FileStorage } from 'write-barrier/node';
let storage;
const commands = {
  async open(path) {
    storage = await FileStorage.open(path, { size: 4096 });
  },
  async close() {
    await storage.close();
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
};
console.log('ready');
for await (const line of createInterface({ input: process.stdin })) {
  const [name, ...words] = JSON.parse(line);
  try {
    await commands[name](...words);
    console.log('ok');
  } catch (error) {
    console.log(error.code ?? String(error));
  }
}
`;

/** Starts a process that can import the package installed in `directory`. */
export async function startOpener(directory: string): Promise<Opener> {
  const script = join(directory, 'opener.mjs');
  writeFileSync(script, SCRIPT);
  const child = spawn(process.execPath, [script], { stdio: ['pipe', 'pipe', 'inherit'] });
  const exited = new Promise<void>((resolve) => child.once('exit', () => resolve()));
  const kill = async (): Promise<void> => {
    child.kill('SIGKILL');
    await exited;
  };
  onTestFinished(kill);
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
    contend: (path, witness, times) => ask('contend', path, witness, String(times)),
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
