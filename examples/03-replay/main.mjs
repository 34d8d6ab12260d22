// @ts-check
import { mkdtemp, open, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { MODE_NAMES, WriteBarrierError } from 'write-barrier';
import { replay } from './replay.mjs';
import { explanation, introduction, progress, table } from './report.mjs';
import { loadTrace, TraceError } from './trace.mjs';

/** @import { ModeName } from 'write-barrier' */

const HELP = `\
Replays a recorded block trace through the ordered modes, onto a file.

  --trace DIR   a folder with base.img.gz, final.img.gz, trace.jsonl and data.bin.gz
  --file PATH   the file to replay onto, PATH.marks for the second disk; neither may exist
  --mode NAME   one of ${MODE_NAMES.join(', ')};
                may be repeated; default: all seven
  --depth N     commands in flight at the file; default: 32
  --keep        leaves the files as the last mode left them
  --help        prints this
`;

try {
  process.exitCode = await main();
} catch (error) {
  if (!isExpected(error)) throw error;
  console.error(`replay: ${error.message}`);
  process.exitCode = 1;
}

/** @returns {Promise<number>} the exit code */
async function main() {
  const { values } = parseArgs({
    options: {
      trace: { type: 'string', default: fileURLToPath(new URL('ext4-ordered', import.meta.url)) },
      file: { type: 'string' },
      mode: { type: 'string', multiple: true, default: [...MODE_NAMES] },
      depth: { type: 'string', default: '32' },
      keep: { type: 'boolean', default: false },
      help: { type: 'boolean', default: false },
    },
  });
  if (values.help) {
    console.log(HELP);
    return 0;
  }
  const modes = values.mode.map(modeNamed);
  const depth = Number(values.depth);
  if (!Number.isSafeInteger(depth) || depth < 1) {
    throw new TraceError(`--depth takes a whole number, at least 1, not ${values.depth}`);
  }
  const trace = await loadTrace(values.trace);
  console.log(introduction(trace, basename(resolve(values.trace))));

  const { read, write, flush } = trace.requests;
  const shown = progress(process.stderr, modes.length * (read + write + flush));
  const files = await makeFiles(values.file);
  const outcomes = [];
  try {
    for (const mode of modes) {
      const { paths } = files;
      const onRequest = () => shown.request(mode);
      const outcome = await replay(trace, mode, { paths, depth, onRequest });
      shown.mode(outcome);
      outcomes.push(outcome);
    }
  } finally {
    shown.end();
    if (!values.keep) await files.remove();
  }
  for (const line of [...table(outcomes), ...explanation(outcomes)]) console.log(line);
  if (values.keep) console.log(`\nKept: ${Object.values(files.paths).join(', ')}`);
  const problems = outcomes.flatMap(({ mode, problems }) => problems.map((p) => `${mode}: ${p}`));
  for (const problem of problems) console.error(`replay: ${problem}`);
  return problems.length === 0 ? 0 : 1;
}

/**
 * @param {string} name
 * @returns {ModeName}
 */
function modeNamed(name) {
  const mode = MODE_NAMES.find((candidate) => candidate === name.toUpperCase());
  if (mode) return mode;
  throw new TraceError(`${name} is not a mode; there are ${MODE_NAMES.join(', ')}`);
}

/** @param {string | undefined} path */
async function makeFiles(path) {
  if (path === undefined) {
    const folder = await mkdtemp(join(tmpdir(), 'replay-'));
    return {
      paths: { d: join(folder, 'disk.img'), m: join(folder, 'marks.img') },
      remove: () => rm(folder, { recursive: true }),
    };
  }
  const paths = { d: path, m: `${path}.marks` };
  /** @type {string[]} */
  const created = [];
  const remove = async () => {
    for (const file of created) await rm(file);
  };
  try {
    for (const file of Object.values(paths)) {
      // A replay overwrites its files, so it takes none that it has not made.
      await (await open(file, 'wx')).close();
      created.push(file);
    }
  } catch (error) {
    await remove();
    throw error;
  }
  return { paths, remove };
}

/**
 * What needs no stack trace: a wrong trace, a wrong option, a file that the system refuses.
 *
 * @param {unknown} error
 * @returns {error is Error}
 */
function isExpected(error) {
  if (error instanceof TraceError || WriteBarrierError.is(error)) return true;
  if (!(error instanceof Error) || !('code' in error)) return false;
  return /^(ERR_PARSE_ARGS_|E[A-Z]+$)/.test(String(error.code));
}
