// `write-barrier replay TRACE`: a trace once more, in each mode, onto a file, with every byte compared.

import { mkdtemp, open, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { MODE_NAMES } from 'write-barrier';
import { type Command, countOf, modeOf, operandIn, readWords } from './command.js';
import { explanation, introduction, progress, tableFor } from './replay-report.js';
import { type Outcome, replay } from './replay-run.js';
import { type DiskName, loadTrace } from './replay-trace.js';
import { TRACE_OPTIONS } from './trace-file.js';

const OPTIONS = {
  mode: {
    value: 'NAME',
    many: true,
    text: `one of ${MODE_NAMES.join(', ')}; may be repeated; by default all`,
  },
  file: {
    value: 'PATH',
    text: 'the file to replay onto, PATH.marks for a second disk; neither may exist; by default in the folder for temporary files',
  },
  depth: { value: 'N', text: 'commands in flight at the file; by default 32' },
  keep: { text: 'leaves the files as the last mode left them' },
  ...TRACE_OPTIONS,
} as const;

export const command: Command = {
  usage: 'TRACE [options]',
  about:
    'Replays a trace in each mode onto a file, with the concurrency that it was recorded with; checks what each ' +
    'read returns, compares the image, and counts the commands that reach the file. TRACE is what serve --trace ' +
    'has written, a log of dm-log-writes, or a folder with base.img.gz, final.img.gz, trace.jsonl and data.bin.gz.',
  groups: { Options: OPTIONS },
  run: async (words) => {
    const { values, operands } = readWords(words, OPTIONS, 1);
    const modes = (values.mode ?? MODE_NAMES).map(modeOf);
    const depth = countOf('--depth', values.depth ?? '32', 1, 65_536);
    const trace = await loadTrace(operandIn(operands, 'TRACE'), values.size);
    console.log(introduction(trace));

    const { read, write, flush } = trace.requests;
    const shown = progress(process.stderr, modes.length * (read + write + flush));
    const files = await makeFiles(values.file, Object.keys(trace.images) as DiskName[]);
    const outcomes: Outcome[] = [];
    try {
      for (const mode of modes) {
        const { paths } = files;
        const onRequest = (): void => shown.request(mode);
        const outcome = await replay(trace, mode, { paths, depth, onRequest });
        shown.mode(outcome);
        outcomes.push(outcome);
      }
    } finally {
      shown.end();
      if (!values.keep) await files.remove();
    }
    for (const line of [...tableFor(outcomes), ...explanation(outcomes)]) console.log(line);
    if (values.keep) console.log(`\nKept: ${files.made.join(', ')}`);
    const problems = outcomes.flatMap(({ mode, problems }) => problems.map((p) => `${mode}: ${p}`));
    for (const problem of problems) console.error(`write-barrier replay: ${problem}`);
    return problems.length === 0 ? 0 : 1;
  },
};

/** The files of a replay. */
interface Files {
  readonly paths: Readonly<Record<DiskName, string>>;
  readonly made: readonly string[];
  remove(): Promise<void>;
}

async function makeFiles(path: string | undefined, disks: readonly DiskName[]): Promise<Files> {
  const folder = path === undefined ? await mkdtemp(join(tmpdir(), 'replay-')) : undefined;
  const first = path ?? join(folder as string, 'disk.img');
  const paths = { d: first, m: `${first}.marks` };
  const made: string[] = [];
  const remove = async (): Promise<void> => {
    for (const file of made) await rm(file);
    if (folder !== undefined) await rm(folder, { recursive: true });
  };
  try {
    for (const disk of disks) {
      // A replay overwrites its files, so it takes none that it has not made.
      await (await open(paths[disk], 'wx')).close();
      made.push(paths[disk]);
    }
  } catch (error) {
    await remove();
    throw error;
  }
  return { paths, made, remove };
}
