// What the tests of the platforms share: the package as npm packs it, installed in projects of a consumer outside of the
// repository, and the programs that run it.

import { execFile, spawn } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { cp, mkdir, mkdtemp, realpath, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import type { TestProject } from 'vitest/node';
import { RUNTIMES, type Runtime, type RuntimeName } from './platforms.js';

const run = promisify(execFile);
const REPOSITORY = fileURLToPath(new URL('../../', import.meta.url));
const PROGRAMS = fileURLToPath(new URL('programs', import.meta.url));
/** Stays for the next run, because the programs take 400 MB. */
const TOOLS = join(REPOSITORY, 'node_modules/.cache/platforms');

/** Without the variables of the runner of these tests, which change what bundlers and other runners do. */
const { PATH = '', HOME } = process.env;
export const ENVIRONMENT: NodeJS.ProcessEnv = { PATH, HOME, NO_COLOR: '1' };

/** A consumer's projects. */
export interface Consumer {
  /** With the optional dependency, and without it. */
  readonly full: string;
  readonly bare: string;
  /** The unpacked tarball. */
  readonly unpacked: string;
}

declare module 'vitest' {
  interface ProvidedContext {
    readonly consumer: Consumer;
  }
}

/** Makes the projects once for all tests, which have them by `inject('consumer')`; the answer removes them. */
export default async function setup({ provide }: TestProject): Promise<() => Promise<void>> {
  const folder = await realpath(await mkdtemp(join(tmpdir(), 'platforms-')));
  provide('consumer', await consumer(folder));
  // The last processes of a browser may still write into its profile.
  return () => rm(folder, { recursive: true, force: true, maxRetries: 10, retryDelay: 200 });
}

/** Packs the package, and installs it in two projects, which have the programs of this folder as well. */
async function consumer(folder: string): Promise<Consumer> {
  // Without `prepack`: the script that runs these tests has built `dist/`.
  const pack = ['pack', '--silent', '--ignore-scripts', '--pack-destination', folder];
  const { stdout } = await run('npm', pack, { cwd: REPOSITORY });
  const tarball = join(folder, stdout.trim());
  const install = async (name: string, ...words: readonly string[]): Promise<string> => {
    const home = join(folder, name);
    await cp(PROGRAMS, home, { recursive: true });
    await writeFile(join(home, 'package.json'), JSON.stringify({ type: 'module' }));
    await npm(home, 'install', ...words, tarball);
    return home;
  };
  const full = await install('full');
  const bare = await install('bare', '--omit=optional');
  await run('tar', ['-xzf', tarball, '-C', folder]);
  return { full, bare, unpacked: join(folder, 'package') };
}

function npm(cwd: string, ...words: readonly string[]): Promise<unknown> {
  return run('npm', [...words, '--no-audit', '--no-fund', '--prefer-offline'], { cwd });
}

/** The programs of the runtimes, installed where they are not there yet; an error where they cannot be. */
export async function runtimes(): Promise<Readonly<Record<RuntimeName, string | Error>>> {
  const all = Object.entries<Runtime>(RUNTIMES);
  const fetched = all.filter(([, runtime]) => runtime.package !== undefined);
  const dependencies = Object.fromEntries(
    fetched.map(([name, runtime]) => [aliasOf(name), `npm:${runtime.package}`]),
  );
  const text = JSON.stringify({ private: true, dependencies });
  const wanted = join(TOOLS, 'package.json');
  const isThere =
    existsSync(wanted) &&
    readFileSync(wanted, 'utf8') === text &&
    fetched.every(([name, runtime]) => existsSync(programOf(name, runtime)));
  let why: Error | undefined;
  if (process.platform !== 'linux' || process.arch !== 'x64') {
    why = new Error('the packages of the runtimes are for Linux on x64');
  } else if (!isThere) {
    await mkdir(TOOLS, { recursive: true });
    await writeFile(wanted, text);
    await npm(TOOLS, 'install').catch(() => {
      why = new Error('npm could not install it');
    });
  }
  const found = all.map(([name, runtime]): [string, string | Error] => {
    if (runtime.package) return [name, why ?? programOf(name, runtime)];
    const isSame = `Node ${process.versions.node.split('.')[0]}` === name;
    return [name, isSame ? runtime.program : new Error(`Node here is ${process.version}`)];
  });
  return Object.fromEntries(found) as Record<RuntimeName, string | Error>;
}

const aliasOf = (name: string): string => name.toLowerCase().replace(/[^a-z\d]+/g, '-');
const programOf = (name: string, { program }: Runtime): string =>
  join(TOOLS, 'node_modules', aliasOf(name), program);

/** A browser of the machine. */
export function chromium(): string | Error {
  for (const folder of PATH.split(delimiter)) {
    for (const name of ['chromium', 'chromium-browser', 'google-chrome']) {
      if (existsSync(join(folder, name))) return join(folder, name);
    }
  }
  return new Error('there is no Chromium');
}

export interface Ended {
  readonly stdout: string;
  readonly stderr: string;
  /** Null if a signal ended it. */
  readonly code: number | null;
  /** Whether it ended by itself. */
  readonly byItself: boolean;
}

/** How long a process may go on after its last output, and without any. */
const LINGER_MS = 5000;
const SILENCE_MS = 120_000;

/** Runs a program to its end, or ends it some time after its first line. */
export function ran(program: string, words: readonly string[], cwd: string): Promise<Ended> {
  return new Promise((resolve, reject) => {
    const child = spawn(program, words, { cwd, env: ENVIRONMENT });
    let [stdout, stderr, byItself] = ['', '', true];
    const kill = (): void => {
      byItself = false;
      child.kill('SIGKILL');
    };
    let timer = setTimeout(kill, SILENCE_MS);
    child.stdout.on('data', (data) => {
      stdout += data;
      clearTimeout(timer);
      timer = setTimeout(kill, stdout.endsWith('\n') ? LINGER_MS : SILENCE_MS);
    });
    child.stderr.on('data', (data) => {
      stderr += data;
    });
    child.on('error', reject);
    child.on('close', (code) => {
      clearTimeout(timer);
      resolve({ stdout, stderr, code, byItself });
    });
  });
}
