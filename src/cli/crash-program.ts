// `write-barrier crash-files -- PROGRAM`: what a power cut leaves of the files of a program, and whether its recovery copes with it.
//
// The program runs once and is recorded: in Node by functions of node:fs that are replaced (record.ts), anything else by strace. Then
// `crashFiles` makes each tree that a power cut may have left, whole, because the recovery is another process, and runs the commands of
// the user on it.
//
//   V1  The program works in a folder of its own, which goes at the end. What a user names is copied there, and never changed.
//   V2  A program that has changed nothing there was not tested, so that is an answer of its own: it could not be run.
//   V3  What has changed the folder after the record had ended is no part of the record. So the folder is compared with the record
//       when the program has ended, and a difference is a warning, with which nothing is proved.

import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join, resolve } from 'node:path';
import { deserialize } from 'node:v8';
import { WriteBarrierError } from 'write-barrier';
import {
  crashFiles,
  FILE_MODELS,
  type FileModelName,
  type FilesReport,
  type FilesTrace,
  fileSpace,
  formatFilesReport,
  straceFiles,
  type TreeNode,
} from 'write-barrier/testing/files';
import {
  type Command,
  choiceOf,
  counted,
  countOf,
  Ends,
  type Given,
  readWords,
  UsageError,
} from './command.js';
import type { RecordOrder } from './record.js';
import { type Judges, judgesIn } from './shell.js';
import { isTold } from './trace-file.js';

const MODEL_NAMES = Object.keys(FILE_MODELS) as FileModelName[];

const PROGRAM = {
  from: {
    value: 'FOLDER',
    text: 'what is in its folder before it runs: a copy of this one; all of it is durable',
  },
  inside: { text: 'runs the program and the commands with their folder as the current one' },
  strace: {
    text: 'records by strace also what Node runs: native code, children, process.exit. Linux',
  },
} as const;

const JUDGE = {
  recover: {
    value: 'COMMAND',
    text: 'of the shell, for each folder that a power cut leaves: {} is the folder. It may write. Another exit code than 0 is a failure',
  },
  check: {
    value: 'COMMAND',
    text: 'runs after it, in the same folder, and must not write. Exit code 0 says that what is there is right',
  },
  model: {
    value: 'NAME',
    many: true,
    text: `a file system that is assumed: ${MODEL_NAMES.join(', ')}; may be repeated; by default ext4, xfs, btrfs`,
  },
  recoveries: { value: 'N', text: 'so many for each file system at most, by default 1000' },
  timeout: { value: 'SECONDS', text: 'for a command; by default 60' },
  replay: { value: 'TEXT', text: 'tries only one folder: the replay that a failure has printed' },
} as const;

const OPTIONS = { ...PROGRAM, ...JUDGE };
type Values = Given<typeof OPTIONS>;

export const command: Command = {
  usage: '[options] (--recover COMMAND | --check COMMAND) -- PROGRAM [words]',
  about:
    'Runs a program, records what it does to the files of a folder, makes every folder that a power cut may have ' +
    'left, and runs a recovery or a check on each. {} in the words of the program is its folder. A program in ' +
    'Node is recorded by its calls, with their lines; any other one by strace.',
  groups: { 'The program': PROGRAM, 'What is right': JUDGE },
  epilogue: `Exit codes: 0 proved or passed, 1 failed, 2 could not be run, also where the program changes nothing in its folder.
In the environment $FOLDER is the folder, and for --check $ACKNOWLEDGED and $BEGUN are lists in JSON: what a program says of itself
by asking whether there is a file /write-barrier-mark/TEXT, where TEXT is {"kind":"acknowledge","operation":"name"} in percents.`,
  run: async (words) => {
    const end = words.indexOf('--');
    const program = end < 0 ? [] : words.slice(end + 1);
    const { values } = readWords(end < 0 ? words : words.slice(0, end), OPTIONS, 0);
    const [name, ...rest] = program;
    if (name === undefined) throw new UsageError('-- PROGRAM is missing: what to run');
    const ends = new Ends();
    try {
      return await tested([name, ...rest], values, ends);
    } finally {
      await ends.end();
    }
  },
};

/** A program and its words. */
type Program = readonly [name: string, ...words: string[]];

async function tested(program: Program, values: Values, ends: Ends): Promise<number> {
  const judges = judgesIn(values, 'FOLDER');
  if (!judges) {
    throw new UsageError('--recover or --check is missing: what says whether a folder is right');
  }
  const models = values.model?.map((name) => choiceOf('--model', name, MODEL_NAMES));
  const recoveriesMax = countOf('--recoveries', values.recoveries ?? '1000', 1, 1_000_000_000);
  const root = folderFor(values.from, ends);
  const isOfNode = /^node(?:\.exe)?$/.test(basename(program[0])) && !values.strace;
  const words = program.map((word) => word.replaceAll('{}', root)) as unknown as Program;
  const run = { program: values.inside ? absolute(words) : words, root, values };
  const trace = isOfNode ? await recorded(run, ends) : await straced(run);
  if (trace.operations.length === 0) {
    throw new UsageError(
      `${program.join(' ')} has changed nothing in its folder: write {} where it takes the path, or use --inside`,
    );
  }
  // A word that is not understood would leave out what must be there.
  const odd = trace.marks.find(({ value }) => !isTold(value));
  if (odd) {
    throw new UsageError(
      `the mark ${JSON.stringify(odd.value)} is not {"kind":"begin" or "acknowledge","operation":...}`,
    );
  }
  const report = await crashFiles({
    workload: () => {},
    trace,
    ...judgesFor(judges),
    ...(models && { models }),
    ...(values.replay !== undefined && { replay: values.replay }),
    recoveriesMax,
    // The commands are other processes.
    wholeTree: true,
    hangMs: Number.POSITIVE_INFINITY,
  });
  for (const judge of Object.values(judges)) if (judge?.broken) throw judge.broken;
  print(program, isOfNode, report);
  return report.verdict === 'proved' || report.verdict === 'passed' ? 0 : 1;
}

/** With every file that is named from here by its whole path. */
function absolute([name, ...words]: Program): Program {
  return [name, ...words.map((word) => (existsSync(word) ? resolve(word) : word))];
}

function print(program: Program, isOfNode: boolean, report: FilesReport): void {
  const { operations } = report.trace;
  const how = isOfNode ? 'its calls of node:fs' : 'strace';
  console.log(
    `${program.join(' ')}: ${counted(operations.length, 'change')} of files, seen by ${how}`,
  );
  console.log(formatFilesReport(report));
}

/** In memory where the system has a file system for that. */
function newFolder(ends: Ends): string {
  const place = existsSync('/dev/shm') ? '/dev/shm' : tmpdir();
  const folder = mkdtempSync(join(place, 'write-barrier-'));
  ends.defer(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

function folderFor(from: string | undefined, ends: Ends): string {
  const root = join(newFolder(ends), 'files');
  mkdirSync(root);
  if (from !== undefined) cpSync(from, root, { recursive: true, verbatimSymlinks: true });
  return root;
}

/** A run of the program. */
interface Run {
  readonly program: Program;
  readonly root: string;
  readonly values: Values;
}

/** In Node, by its calls. */
async function recorded({ program, root, values }: Run, ends: Ends): Promise<FilesTrace> {
  const file = join(newFolder(ends), 'trace');
  const order: RecordOrder = { root, file };
  const recorder = new URL('./cli-record.js', import.meta.url).href;
  const [name, ...words] = program;
  const env = { ...process.env, FOLDER: root, WRITE_BARRIER_RECORD: JSON.stringify(order) };
  const code = await new Promise<number | string>((resolve, reject) => {
    const child = spawn(name, ['--import', recorder, ...words], {
      env,
      ...(values.inside && { cwd: root }),
      // What it prints is not the answer of this command.
      stdio: ['ignore', process.stderr, process.stderr],
    });
    child.on('error', reject);
    child.on('close', (exit, signal) => resolve(exit ?? signal ?? 1));
  });
  if (code !== 0)
    throw new UsageError(`${program.join(' ')} ended with ${code}, so there is nothing to judge`);
  if (!existsSync(file)) {
    const why = existsSync(`${file}.why`)
      ? readFileSync(`${file}.why`, 'utf8')
      : 'it was not recorded';
    throw new UsageError(
      `the record of ${program.join(' ')} has no end: ${why}; let it end by itself, or use --strace`,
    );
  }
  const trace = deserialize(readFileSync(file)) as FilesTrace;
  return { ...trace, gaps: [...(trace.gaps ?? []), ...changesAfter(trace, root)] };
}

/** Any other program, by strace. */
async function straced({ program, root, values }: Run): Promise<FilesTrace> {
  // What libuv asks of a ring is in no log, and without one it asks the system itself.
  const env = { UV_USE_IO_URING: '0', ...process.env, FOLDER: root };
  try {
    return await straceFiles({ root, command: program, env, ...(values.inside && { cwd: root }) });
  } catch (error) {
    if (WriteBarrierError.is(error) || !(error instanceof Error)) throw error;
    throw new UsageError(error.message.replace(/: $/, ''), { cause: error });
  }
}

/** See V3. */
function changesAfter(trace: FilesTrace, root: string): string[] {
  const space = fileSpace(trace, 'strict');
  const then = treeHash(space.at(space.count - 1n).tree());
  return then === treeHash(treeIn(root))
    ? []
    : ['the folder has changed after the record had ended, or in a way that was not seen'];
}

function treeIn(folder: string): Map<string, TreeNode> {
  const tree = new Map<string, TreeNode>();
  for (const entry of readdirSync(folder, { recursive: true, withFileTypes: true })) {
    const path = join(entry.parentPath ?? entry.path, entry.name);
    const name = path.slice(folder.length + 1);
    if (entry.isDirectory()) tree.set(name, { kind: 'directory' });
    else if (entry.isSymbolicLink())
      tree.set(name, { kind: 'symlink', target: readlinkSync(path) });
    else if (entry.isFile()) tree.set(name, { kind: 'file', data: readFileSync(path) });
  }
  return tree;
}

/** The same for equal trees. */
function treeHash(tree: ReadonlyMap<string, TreeNode>): string {
  const hash = createHash('sha256');
  for (const [path, node] of [...tree].sort(([a], [b]) => (a < b ? -1 : 1))) {
    const content = node.kind === 'file' ? node.data : node.kind === 'symlink' ? node.target : '';
    hash.update(JSON.stringify([path, node.kind, content.length])).update(content);
  }
  return hash.digest('hex').slice(0, 12);
}

/** What a report shows of what a recovery has printed. */
const SHOWN_MAX = 200;

/** Recovery and check of a crash test by commands. */
function judgesFor({
  recover,
  check,
}: Judges): Pick<Parameters<typeof crashFiles<unknown, string>>[0], 'recover' | 'check'> {
  let folder = '';
  return {
    recover: async (root) => {
      folder = root;
      const said = await recover?.succeed(root);
      // Without words of a recovery a name for the tree, by which the crash test sees whether two are the same.
      return said === undefined
        ? `tree ${treeHash(treeIn(root))}`
        : said.trim().slice(0, SHOWN_MAX);
    },
    check: async (_, { acknowledged, begun }) => {
      const journal = { ACKNOWLEDGED: JSON.stringify(acknowledged), BEGUN: JSON.stringify(begun) };
      await check?.succeed(folder, journal);
      return true;
    },
  };
}
