#!/usr/bin/env node
// The command of the package: `npx write-barrier SUBCOMMAND ...`.
//
// Each subcommand is a module of its own and is loaded when it is called, so that none of them waits for the code of others.

import { readFileSync } from 'node:fs';
import { type Command, Failure, helpOf, isExpected, messageFor } from './command.js';

const SUBCOMMANDS: Readonly<
  Record<string, readonly [() => Promise<{ command: Command }>, string]>
> = {
  serve: [() => import('./serve.js'), 'serves files over NBD, the network block device protocol'],
  doctor: [() => import('./doctor.js'), 'says what a file system, a device and Node give'],
  crash: [() => import('./crash.js'), 'checks the disks that a power cut during a trace may leave'],
  replay: [() => import('./replay.js'), 'replays a trace in each mode, and compares every byte'],
  litmus: [() => import('./litmus.js'), 'says what a power cut may leave of small programs'],
  'crash-files': [
    () => import('./crash-program.js'),
    'cuts the power for a program that writes files',
  ],
};

function overview(): string {
  const wide = Math.max(...Object.keys(SUBCOMMANDS).map((name) => name.length)) + 2;
  const lines = Object.entries(SUBCOMMANDS).map(
    ([name, [, text]]) => `  ${name.padEnd(wide)}${text}`,
  );
  return `\
Usage: write-barrier SUBCOMMAND [options]

${lines.join('\n')}

Options of each: write-barrier SUBCOMMAND --help. The version: --version.
Exit codes: 0 the answer is good, 1 the answer is bad, 2 it could not be run.`;
}

/** Answers the exit code. */
async function main([name, ...words]: readonly string[]): Promise<number> {
  if (name === undefined || name === '--help' || name === 'help') {
    console.log(overview());
    return name === undefined ? 2 : 0;
  }
  if (name === '--version') {
    const path = new URL('../package.json', import.meta.url);
    console.log(JSON.parse(readFileSync(path, 'utf8')).version);
    return 0;
  }
  const [load] = Object.hasOwn(SUBCOMMANDS, name) ? (SUBCOMMANDS[name] ?? []) : [];
  if (!load) {
    const known = Object.keys(SUBCOMMANDS).join(', ');
    console.error(`write-barrier: there is no subcommand '${name}'; there are ${known}`);
    return 2;
  }
  const { command } = await load();
  isService = command.isService ?? false;
  const end = words.indexOf('--');
  if (words.slice(0, end < 0 ? undefined : end).includes('--help')) {
    console.log(helpOf(name, command));
    return 0;
  }
  try {
    return await command.run(words);
  } catch (error) {
    if (!isExpected(error)) throw error;
    console.error(`write-barrier ${name}: ${messageFor(error)}`);
    return error instanceof Failure ? 1 : 2;
  }
}

/** Whether the work goes on if what is printed is lost (serve.E3). */
let isService = false;
let isLost = false;

process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  // A reader that has seen enough, such as `head`, is no error.
  if (error.code === 'EPIPE' && !isService) process.exit();
  if (!isLost) console.error(`write-barrier: what it prints is lost: ${error.message}`);
  isLost = true;
  if (!isService) process.exitCode = 2;
});
process.stderr.on('error', () => {}); // There is no place left to say it.

main(process.argv.slice(2)).then((code) => {
  if (!isLost || isService) process.exitCode = code;
});
