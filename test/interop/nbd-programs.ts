// Programs that speak NBD and that nobody here wrote: whether they are there, and what they say.

import { execFile } from 'node:child_process';
import { accessSync, constants } from 'node:fs';
import { delimiter, join } from 'node:path';

const { PATH = '' } = process.env;
const FOLDERS = [...PATH.split(delimiter), '/usr/sbin', '/sbin'];

/** Python's bindings belong to Debian's Python, whatever other one comes first. */
export const PYTHON = '/usr/bin/python3';

/** Those of the programs that are not there. */
export function missing(...programs: readonly string[]): string[] {
  return programs.filter(
    (program) =>
      !FOLDERS.some((folder) =>
        isExecutable(join(program.startsWith('/') ? '/' : folder, program)),
      ),
  );
}

/** The title of a group, with the reason why it is skipped, if it is. */
export function titled(title: string, absent: readonly string[]): string {
  return absent.length === 0 ? title : `${title} (skipped: no ${absent.join(', ')})`;
}

/** What a program has said. */
export interface Said {
  readonly code: number;
  readonly text: string;
}

/** Runs a program to its end; 60 seconds at most. */
export function run(program: string, args: readonly string[], cwd?: string): Promise<Said> {
  return new Promise((resolve, reject) => {
    const env = { ...process.env, PATH: FOLDERS.join(delimiter), LC_ALL: 'C' };
    const options = { cwd, env, timeout: 300_000, maxBuffer: 64 << 20 };
    execFile(program, args, options, (error, stdout, stderr) => {
      const text = stdout + stderr;
      if (error && typeof error.code !== 'number')
        reject(new Error(`${program}: ${error.message}\n${text}`));
      else resolve({ code: error ? Number(error.code) : 0, text });
    });
  });
}

/** Runs a program that has to succeed; answers with what it says. */
export async function succeeds(
  program: string,
  args: readonly string[],
  cwd?: string,
): Promise<string> {
  const { code, text } = await run(program, args, cwd);
  if (code !== 0) throw new Error(`${program} ${args.join(' ')}: exit code ${code}\n${text}`);
  return text;
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}
