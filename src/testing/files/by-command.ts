// A recovery in a process of its own, for native readers: what crashes there does not end the test, and any language will do.

import { spawn } from 'node:child_process';

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
 */
export function byCommand(program: string, ...args: string[]): (root: string) => Promise<string> {
  return (root) =>
    new Promise((resolve, reject) => {
      const child = spawn(program, args, { cwd: root, stdio: ['ignore', 'pipe', 'pipe'] });
      const told: Buffer[] = [];
      const errors: Buffer[] = [];
      child.stdout.on('data', (data: Buffer) => told.push(data));
      child.stderr.on('data', (data: Buffer) => errors.push(data));
      child.on('error', ({ message }) => reject(new Error(`${program}: ${message}`)));
      child.on('close', (code, signal) => {
        if (code === 0) return resolve(Buffer.concat(told).toString());
        const said = Buffer.concat(errors).toString().trim().slice(-ERROR_MAX);
        reject(new Error(`${program} ended with ${signal ?? code}${said && `: ${said}`}`));
      });
    });
}

/** So much of the standard error is in a message, in characters. */
const ERROR_MAX = 500;
