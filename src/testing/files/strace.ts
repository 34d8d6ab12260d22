// The trace of any program, in any language, by strace: native code, threads and children too. Linux alone.
//
// A program under strace takes several times as long. There are no call sites in such a trace.
//
// Not here: the log (strace-log.ts), what the calls do (strace-calls.ts).

import { spawn } from 'node:child_process';
import { createReadStream } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { checkArgument, misuse, rule, STRING } from '../../model/index.js';
import { ended } from './by-command.js';
import { differences, initialOf } from './folder.js';
import { real } from './originals.js';
import { newFolder, removeFolder, unseenText } from './record.js';
import { ShadowTree } from './shadow.js';
import { CALLS } from './strace-calls.js';
import { type CallEvent, callsOf } from './strace-log.js';
import { Replay } from './strace-replay.js';
import type { FilesTrace } from './trace.js';

/** What is run under strace. */
export interface StraceRecording {
  /** The folder. What is in it already is durable. */
  readonly root: string;
  /**
   * The program and its arguments. To note the value `v` as a mark it asks whether there is a file
   * `/write-barrier-mark/` + encodeURIComponent(JSON.stringify(v)), by access(2) (in Node `existsSync`). All that it did before
   * it asks for `/write-barrier-start` is durable.
   */
  readonly command: readonly [program: string, ...args: string[]];
  /** The current directory of the program. @defaultValue that of this process */
  readonly cwd?: string;
  /**
   * The environment of the program. `UV_USE_IO_URING` is 0 in it if it is not set, so that Node makes its calls where strace sees
   * them: any use of io_uring for files is a gap.
   *
   * @defaultValue that of this process
   */
  readonly env?: NodeJS.ProcessEnv;
}

const COMMAND = /* @__PURE__ */ rule(
  (value) => Array.isArray(value) && value.length > 0 && value.every(STRING.holds),
  'a list of strings',
);

/** The maximum length of a write that a log has whole, in bytes. */
const STRING_MAX = 1 << 26;

/**
 * Runs a program under strace and records what it does to the files of a folder.
 *
 * @throws `INVALID_ARGUMENT` for a folder or a command that is missing, and where there is no strace; an Error if the program does
 *   not end with 0
 */
export async function straceFiles(recording: StraceRecording): Promise<FilesTrace> {
  checkArgument('root', recording?.root, STRING);
  checkArgument('command', recording.command, COMMAND);
  const root = real.realpathSync(recording.root);
  const shadow = new ShadowTree(root);
  const gaps: string[] = [];
  const initial = initialOf(root, shadow, (sentence) => gaps.push(sentence));
  const folder = newFolder();
  try {
    const log = join(folder, 'log');
    await runUnder(log, recording);
    const directory = real.realpathSync(recording.cwd ?? process.cwd());
    const replay = new Replay(shadow, initial, directory, readOutside);
    replay.run(await eventsIn(log), CALLS);
  } finally {
    removeFolder(folder);
  }
  const trace = shadow.trace();
  const unseen = differences(root, trace);
  if (unseen.length > 0) gaps.push(unseenText(unseen));
  return { ...trace, gaps: [...gaps, ...(trace.gaps ?? [])] };
}

function runUnder(log: string, { command, cwd, env }: StraceRecording): Promise<void> {
  // A question mark: older versions do not know each name.
  const names = Object.keys(CALLS).map((name) => `?${name}`);
  const options = ['-f', '-qq', '-xx', '-y', '-s', String(STRING_MAX), '-e', 'signal=none'];
  const args = [...options, '-e', `trace=${names.join(',')}`, '-o', log, ...command];
  const own = { UV_USE_IO_URING: '0', ...(env ?? process.env) };
  const child = spawn('strace', args, { cwd, env: own, stdio: ['ignore', 'ignore', 'pipe'] });
  return ended(child, command.join(' '), (message) =>
    misuse(`straceFiles needs the program strace, which cannot be started: ${message}`),
  );
}

async function eventsIn(log: string): Promise<readonly CallEvent[]> {
  const input = createReadStream(log, 'latin1');
  const lines: string[] = [];
  for await (const line of createInterface({ input })) lines.push(line);
  return callsOf(lines, (name) => Object.hasOwn(CALLS, name));
}

/** A source outside of the folder is read now: it is the same unless it was changed since, which the comparison shows. */
function readOutside(path: string, offset: number, length: number): Uint8Array | undefined {
  try {
    const descriptor = real.openSync(path, 'r');
    try {
      const bytes = new Uint8Array(length);
      return bytes.subarray(0, real.readSync(descriptor, bytes, 0, length, offset));
    } finally {
      real.closeSync(descriptor);
    }
  } catch {
    return undefined;
  }
}
