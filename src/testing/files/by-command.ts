// A recovery in a process of its own, for native readers: what crashes there does not end the test, and any language will do.

import { type ChildProcessByStdio, spawn } from 'node:child_process';
import type { Readable } from 'node:stream';
import { checkArgument, STRING } from '../../model/index.js';

/**
 * A recovery that is a command: it runs in the folder that the power cut left, and what it prints is what was recovered. Use it with
 * `wholeTree: true`, because a process of its own sees only what is in the folder before it begins.
 *
 * @example
 * ```ts
 * crashFiles({ trace, wholeTree: true, recover: byCommand('sqlite3', 'db', 'select * from t'), check });
 * ```
 *
 * @returns a function for `recover`. It rejects if the command cannot be started, ends with another code than 0, or is ended by a
 *   signal; the message has the end of what it wrote to its standard error
 * @throws `INVALID_ARGUMENT` for a program or an argument that is not a string
 */
export function byCommand(program: string, ...args: string[]): (root: string) => Promise<string> {
  for (const word of [program, ...args]) checkArgument('an argument', word, STRING);
  return async (root) => {
    const child = spawn(program, args, { cwd: root, stdio: ['ignore', 'pipe', 'pipe'] });
    let told = '';
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      told += text;
    });
    await ended(child, program, (message) => new Error(`${program}: ${message}`));
    return told;
  };
}

/** So much of the standard error is in a message, in characters. */
const ERROR_MAX = 500;

/**
 * Resolves when a process has ended with 0.
 *
 * @param name of the process, for the message of another end, which has the end of what the process wrote to its standard error
 * @param unstarted makes the error of a process that cannot be started
 */
export function ended(
  child: ChildProcessByStdio<null, Readable | null, Readable>,
  name: string,
  unstarted: (message: string) => Error,
): Promise<void> {
  return new Promise((resolve, reject) => {
    let errors = '';
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      errors += text;
    });
    child.on('error', ({ message }) => reject(unstarted(message)));
    child.on('close', (code, signal) => {
      if (code === 0) return resolve();
      const said = errors.trim().slice(-ERROR_MAX);
      reject(new Error(`${name} ended with ${signal ?? code}${said && `: ${said}`}`));
    });
  });
}
