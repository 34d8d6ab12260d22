// Commands of a user, run by the shell on a file or a folder: checks and recoveries.
//
//   C1  `{}` in a command stands for the path, quoted only where the shell needs that, so `"{}/name"` is a file in it as well. It is in
//       the environment, too. A command that names neither cannot look at the path, so it is refused: its answer would mean nothing.
//   C2  A command that the shell cannot find or start gives no answer about the path. That is no failure of what is tested, so the
//       whole run ends with "could not be run".
//   C3  A command that takes too long is ended with all its children, and so are those that run when this process is ended.

import { type ChildProcess, spawn } from 'node:child_process';
import { millisecondsOf, UsageError } from './command.js';

/** How a command ended. */
export interface Ended {
  /** The exit code, or the name of a signal. */
  readonly code: number | string;
  /** What it printed. */
  readonly stdout: string;
  readonly stderr: string;
}

/** A command of the shell for many paths. */
export class ShellCommand {
  readonly #option: string;
  readonly #text: string;
  readonly #variable: string;
  readonly #timeoutMs: number;
  readonly #isInside: boolean;
  /** C2: why it cannot be run at all. */
  broken: UsageError | undefined;

  /**
   * @param option whose value it is, for messages
   * @param variable the name of the path in the environment
   * @param isInside whether it runs with the path, a folder, as its current one
   * @throws `UsageError` for a command that does not name the path, except if it runs there
   */
  constructor(option: string, text: string, variable: string, timeoutMs: number, isInside = false) {
    if (!isInside && !text.includes('{}') && !text.includes(`$${variable}`)) {
      throw new UsageError(`${option} must have {} where the path is to stand, or $${variable}`);
    }
    this.#option = option;
    this.#text = text;
    this.#variable = variable;
    this.#timeoutMs = timeoutMs;
    this.#isInside = isInside;
  }

  /** @throws `UsageError` if it cannot be run; an Error if it does not end in time */
  async run(path: string, environment: Readonly<Record<string, string>> = {}): Promise<Ended> {
    if (this.broken) throw this.broken;
    const text = this.#text.replaceAll('{}', quoted(path));
    const env = { ...process.env, ...environment, [this.#variable]: path };
    const cwd = this.#isInside ? path : undefined;
    const ended = await runShell(text, env, this.#timeoutMs, cwd);
    // What a POSIX shell answers for a command that is not there, or cannot be executed.
    if (ended.code === 127 || ended.code === 126) {
      this.broken = new UsageError(`${this.#option} could not be run: ${spokenIn(ended.stderr)}`);
      throw this.broken;
    }
    return ended;
  }

  /** @throws an Error that says how it ended, if it was not with 0 */
  async succeed(path: string, environment?: Readonly<Record<string, string>>): Promise<string> {
    const { code, stdout, stderr } = await this.run(path, environment);
    if (code === 0) return stdout;
    const said = spokenIn(stderr) || spokenIn(stdout);
    throw new Error(`${this.#option} ended with ${code}${said === '' ? '' : `: ${said}`}`);
  }
}

/** The commands that say whether what a power cut left is right. */
export interface Judges {
  readonly recover: ShellCommand | undefined;
  readonly check: ShellCommand | undefined;
}

/**
 * What a user has given of them; undefined for neither.
 *
 * @param variable the name of the path in the environment
 * @throws `UsageError` as `ShellCommand`, and for a timeout that is no time
 */
export function judgesIn(
  given: {
    readonly recover?: string;
    readonly check?: string;
    readonly timeout?: string;
    readonly inside?: boolean;
  },
  variable: string,
): Judges | undefined {
  const { recover, check, timeout = '60', inside } = given;
  if (recover === undefined && check === undefined) return undefined;
  const limitMs = millisecondsOf('--timeout', timeout, 1);
  const shell = (option: string, text: string | undefined): ShellCommand | undefined =>
    text === undefined ? undefined : new ShellCommand(option, text, variable, limitMs, inside);
  return { recover: shell('--recover', recover), check: shell('--check', check) };
}

/** The line that says what is wrong: that of an error, or the last one. */
function spokenIn(text: string): string {
  const lines = text.trim().split('\n');
  return lines.find((line) => /^\w*Error\b.*:/.test(line)) ?? lines.at(-1) ?? '';
}

function quoted(path: string): string {
  if (/^[\w./-]+$/.test(path)) return path;
  return process.platform === 'win32' ? `"${path}"` : `'${path.replaceAll("'", `'\\''`)}'`;
}

/** The groups of processes that run now (C3). */
const running = new Set<ChildProcess>();

/** Ends a detached child and its children. */
export function endGroup({ pid }: ChildProcess): void {
  if (pid === undefined) return;
  try {
    // A child that is detached leads a group of its own, of the same number.
    process.kill(process.platform === 'win32' ? pid : -pid, 'SIGKILL');
  } catch {
    // It has ended.
  }
}

function endAll(signal: NodeJS.Signals): void {
  for (const child of running) endGroup(child);
  process.kill(process.pid, signal);
}

function runShell(
  text: string,
  env: NodeJS.ProcessEnv,
  timeoutMs: number,
  cwd: string | undefined,
): Promise<Ended> {
  if (running.size === 0) for (const signal of SIGNALS) process.once(signal, endAll);
  return new Promise((resolve, reject) => {
    const child = spawn(text, {
      shell: true,
      detached: process.platform !== 'win32',
      env,
      cwd,
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    running.add(child);
    const said = { stdout: '', stderr: '' };
    for (const stream of ['stdout', 'stderr'] as const)
      child[stream].setEncoding('utf8').on('data', (data: string) => {
        said[stream] = (said[stream] + data).slice(-OUTPUT_MAX);
      });
    let isLate = false;
    const timer = setTimeout(() => {
      isLate = true;
      endGroup(child);
    }, timeoutMs);
    const end = (): void => {
      clearTimeout(timer);
      running.delete(child);
      if (running.size === 0) for (const signal of SIGNALS) process.off(signal, endAll);
    };
    child.on('error', (error) => {
      end();
      reject(error);
    });
    child.on('close', (code, signal) => {
      end();
      if (isLate) reject(new Error(`it has not ended within ${timeoutMs / 1000} s: ${text}`));
      else resolve({ code: code ?? signal ?? 1, ...said });
    });
  });
}

const SIGNALS = ['SIGINT', 'SIGTERM'] as const;
/** Of what a command prints, so many characters are kept, the last ones. */
const OUTPUT_MAX = 1 << 20;
