import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';

const RUN = fileURLToPath(new URL('../../examples/run.mjs', import.meta.url));

export interface Finished {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs `node examples/run.mjs` with these arguments, and `TMPDIR` as the folder for its files. */
export function runExample(args: readonly string[], tmpdir?: string): Promise<Finished> {
  const env = tmpdir === undefined ? process.env : { ...process.env, TMPDIR: tmpdir };
  return new Promise((resolve) => {
    execFile(process.execPath, [RUN, ...args], { env }, (error, stdout, stderr) => {
      resolve({ code: error ? Number(error.code) : 0, stdout, stderr });
    });
  });
}
