import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { vi } from 'vitest';

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

/**
 * The same without a process of its own, for an example that runs as one once and has many arguments to be tried: its modules
 * are loaded and compiled already. What it prints is what it gives to `console`.
 *
 * @param folder of the example, `06-museum`
 */
export async function runHere(folder: string, args: readonly string[]): Promise<Finished> {
  const { argv, exitCode } = process;
  const printed = { log: '', error: '' };
  const spies = (['log', 'error'] as const).map((stream) =>
    vi.spyOn(console, stream).mockImplementation((text = '') => {
      printed[stream] += `${text}\n`;
    }),
  );
  const main = new URL(`../../examples/${folder}/main.mjs`, import.meta.url);
  try {
    process.argv = [process.execPath, fileURLToPath(main), ...args];
    process.exitCode = 0;
    // A module runs once for each name that it is imported by.
    await import(/* @vite-ignore */ `${fileURLToPath(main)}?${args.join('&')}`);
    return { code: Number(process.exitCode), stdout: printed.log, stderr: printed.error };
  } finally {
    Object.assign(process, { argv, exitCode });
    for (const spy of spies) spy.mockRestore();
  }
}
