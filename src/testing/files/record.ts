// Records what a program does to files, without a change to the program: what it calls in node:fs goes to a real folder and
// into a trace.
//
// The program must take the functions of node:fs when it calls them, or import them by name as an ES module. A CommonJS module that
// has taken them out before is not seen, unless it was loaded after `write-barrier/testing/files/register`. What was not seen is
// noticed at the end, by comparing the folder with the trace, and the trace says so in `gaps`.
//
// Not here: the functions (node-fs.ts), other programs (strace.ts).

import { tmpdir } from 'node:os';
import { join } from 'node:path';
import {
  checkArgument,
  checkOptions,
  FUNCTION,
  type KnownOptions,
  misuse,
  STRING,
} from '../../model/index.js';
import type { Told } from '../crash-test/execute.js';
import { COMMON } from '../crash-test/limits.js';
import type { Journal } from '../crash-test/types.js';
import { differences, initialOf } from './folder.js';
import { replaceFunctions } from './node-fs.js';
import { quietly, real } from './originals.js';
import { closeSession, openSession, outerSite, Session } from './session.js';
import { ShadowTree } from './shadow.js';
import type { FilesTrace } from './trace.js';

/** What is recorded. */
export interface FilesRecording {
  /**
   * The folder. What is in it already is durable. It is made if it is not there.
   *
   * @defaultValue a new folder in memory (tmpfs) where the system has that, which is removed afterwards
   */
  readonly root?: string;
  /** The order of calls that wait at the same time: that of the calls for 0, else a drawn one. @defaultValue 0 */
  readonly seed?: number;
  /** Makes what is in the folder before the recording; all of it is durable. @defaultValue nothing */
  before?(root: string): void | Promise<void>;
  /** The program. When it returns, all that it has asked for must have been answered. `mark` notes a value in the trace. */
  run(root: string, mark: (value: unknown) => void): void | Promise<void>;
}

const RECORDING: KnownOptions<FilesRecording> = {
  root: STRING,
  seed: COMMON.seed,
  before: FUNCTION,
  run: FUNCTION,
};

/**
 * Runs a program and records what it does to the files of a folder.
 *
 * @throws what the program throws; `INVALID_ARGUMENT` for unknown options, a `run` that is missing and values of a wrong type, and
 *   on Windows, whose paths the recorder does not know
 */
export async function recordFiles(recording: FilesRecording): Promise<FilesTrace> {
  checkOptions(recording, RECORDING, 'recordFiles');
  const { root, seed = 0, before, run } = recording;
  checkArgument('run', run, FUNCTION);
  if (process.platform === 'win32')
    throw misuse('recordFiles does not know the paths of Windows; run the test on Linux or macOS');
  const folder = root ?? newFolder();
  const putBack = replaceFunctions();
  try {
    if (root !== undefined) quietly(() => real.mkdirSync(root, { recursive: true }));
    return await attempt(folder, seed, before, run);
  } finally {
    putBack();
    if (root === undefined) removeFolder(folder);
  }
}

/** Named so that call sites end here: who has started the recording is no part of them. */
async function attempt(
  folder: string,
  seed: number,
  before: FilesRecording['before'],
  run: FilesRecording['run'],
): Promise<FilesTrace> {
  const shadow = new ShadowTree(real.realpathSync(folder), outerSite);
  const session = new Session(folder, { shadow, seed });
  const gaps: string[] = [];
  const seal = (): void => shadow.seal(initialOf(session.root, shadow, (gap) => gaps.push(gap)));
  openSession(session);
  try {
    seal();
    if (before) {
      await before(folder);
      gaps.length = 0;
      seal();
    }
    await run(folder, (value) => shadow.mark(value));
  } finally {
    closeSession(session);
  }
  const trace = shadow.trace();
  const unseen = differences(session.root, trace);
  if (unseen.length > 0) gaps.push(unseenText(unseen));
  return { ...trace, gaps: [...gaps, ...(trace.gaps ?? [])] };
}

/** How many paths a sentence names. */
const PATHS_MAX = 5;

export function unseenText(paths: readonly string[]): string {
  const named = paths.slice(0, PATHS_MAX).join(', ');
  const more = paths.length > PATHS_MAX ? ` and ${paths.length - PATHS_MAX} more` : '';
  return (
    `${named}${more}: not as the recorded calls have left it, because something else has changed it: native ` +
    `code, another process, a worker, or code that had taken its functions out of node:fs before`
  );
}

/** A new folder, in memory where the system has a file system for that, because a run there takes a tenth of the time. */
export function newFolder(): string {
  for (const place of ['/dev/shm', tmpdir()]) {
    try {
      return real.realpathSync(real.mkdtempSync(join(place, 'write-barrier-')));
    } catch {
      // The next place, or none: then mkdtemp says why.
    }
  }
  return real.mkdtempSync(join(tmpdir(), 'write-barrier-'));
}

export function removeFolder(folder: string): void {
  quietly(() => real.rmSync(folder, { recursive: true, force: true }));
}

/** A journal whose entries are marks. That of a disk would bring the simulated disk with it. */
export function journalOf<A>(mark: (told: Told<A>) => void): Journal<A> {
  return {
    begin: (operation) => mark({ kind: 'begin', operation }),
    acknowledge: (operation) => mark({ kind: 'acknowledge', operation }),
  };
}
