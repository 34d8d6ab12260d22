import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import type { Finished } from '../examples/run.js';

/** The command as it is built. */
export const CLI: string = fileURLToPath(new URL('../../dist/cli.js', import.meta.url));

/** Runs `write-barrier` with these words; in a folder if one is given, and then that is the folder for temporary files as well. */
export function runCommand(words: readonly string[], cwd?: string): Promise<Finished> {
  const place = cwd === undefined ? {} : { cwd, env: { ...process.env, TMPDIR: cwd } };
  const options = { ...place, maxBuffer: 1 << 26 };
  return new Promise((resolve) => {
    execFile(process.execPath, [CLI, ...words], options, (error, stdout, stderr) => {
      resolve({ code: error ? Number(error.code) : 0, stdout, stderr });
    });
  });
}
