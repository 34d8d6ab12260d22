// Prints the shape of the package: how much there is, what it is called, what it costs; before, now, and the goal.
//
//   npm run check:shape                 the table, and the public names that no user meets
//   npm run check:shape -- --strict     the same, and fails for such a name
//   npm run check:shape -- --times      measures the commands and the benchmark as well, which takes minutes
//
// Only a name without a use fails here, because a number may be exceeded for a good reason; sizes fail in check:size, which has
// a limit for each door. The two columns of the past
// are constants: `first` before the simulated faults were written, `draft` after them and before the second draft of
// the house. What the faults added to the lines of code is told apart, because the goal for lines grants it.

import { execFileSync, spawnSync } from 'node:child_process';
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { publicNames } from './shape-names.mjs';
import { coreSize, countSources } from './shape-sources.mjs';

const ROOT = fileURLToPath(new URL('..', import.meta.url));
const [strict, times] = ['--strict', '--times'].map((flag) => process.argv.includes(flag));

/** Lines of code before the faults, and before this draft: counted as this script counts, the first rounded. */
const LINES = { first: 20_000, draft: 24_956, goal: 17_000 };
/** Bytes of `{ IoScheduler }` before this draft, and the goal: a little above it, because gathering came after it. */
const CORE_BYTES = { draft: 13_853, goal: 14_000 };

const number = (value) => value.toLocaleString('en-US');
const kilobytes = (bytes) => `${(bytes / 1000).toFixed(2)} kB`;

const sources = countSources(ROOT);
const names = publicNames(ROOT);
const core = await coreSize(ROOT);
const unmet = names.filter(({ met }) => !met);

const faults = LINES.draft - LINES.first;
const share = (sources.comments / (sources.code + sources.comments)) * 100;
const rows = [
  ['measure', 'first', 'draft', 'now', 'goal'],
  [
    'lines of code in src',
    `about ${number(LINES.first)}`,
    number(LINES.draft),
    number(sources.code),
    `${number(LINES.goal + faults)} at most`,
  ],
  ['  of them added by the faults', '', number(faults), '', `${number(LINES.goal)} without them`],
  ['share of comment lines', '21 %', '21.5 %', `${share.toFixed(1)} %`, '18 % at least'],
  ['files in src', '177', '209', `${sources.files}`, '140 at most'],
  ['public names, all doors', '401', '410', `${names.length}`, '250 at most'],
  ...doorRows(),
  ['  in no page, example or signature', '268 in no page or example', '99', `${unmet.length}`, '0'],
  [
    'functions that pump a machine',
    '9',
    '10',
    `${sources.pumps.length}`,
    '1, and those for sockets and rings',
  ],
  [
    'core size, min+gzip, { IoScheduler }',
    '12 kB',
    kilobytes(CORE_BYTES.draft),
    kilobytes(core),
    `below ${kilobytes(CORE_BYTES.goal)}`,
  ],
  ['npm test, CPU', '420 s', '', times ? cpuOf('npm', ['test']) : '--times', '200 s at most'],
  ['npm ci && npm start, CPU', '38 s', '', times ? cpuOfStart() : '--times', '25 s at most'],
  ['bench overhead, ratio to fastq', '0.5', '', times ? overhead() : '--times', '0.5 at least'],
];

print(rows);
console.log(`\nFunctions that pump a machine: ${sources.pumps.join(', ')}`);
if (unmet.length > 0) {
  console.log('\nPublic names in no page, no example, and no signature of a name that is in one:');
  for (const { door, name } of unmet) console.log(`  ${door}  ${name}`);
}
if (strict && unmet.length > 0) fail(`${unmet.length} public names that no user meets`);

function doorRows() {
  const past = {
    'write-barrier/testing': ['77', '80', '32'],
    'write-barrier/systems': ['198', '198', '45'],
  };
  const doors = new Map(names.map(({ door }) => [door, 0]));
  for (const { door } of names) doors.set(door, doors.get(door) + 1);
  return Array.from(doors, ([door, count]) => {
    const [first, draft, goal] = past[door] ?? ['', '', ''];
    return [`  ${door}`, first, draft, `${count}`, goal && `${goal} at most`];
  });
}

/** Seconds of CPU, of the user and of the system, that a command and its children take. */
function cpuOf(command, args) {
  const script = `TIMEFORMAT='%U %S'; time "$@" > /dev/null 2>&1`;
  const { stderr } = spawnSync('bash', ['-c', script, 'bash', command, ...args], {
    cwd: ROOT,
    encoding: 'utf8',
  });
  const seconds = stderr
    .trim()
    .split(/\s+/)
    .slice(-2)
    .reduce((sum, value) => sum + Number(value), 0);
  return `${seconds.toFixed(0)} s`;
}

/** The same of a fresh clone's first commands, with what npm has in its cache. */
function cpuOfStart() {
  rmSync(join(ROOT, 'dist'), { recursive: true, force: true });
  return cpuOf('bash', ['-c', 'npm ci --no-audit --no-fund && npm start']);
}

/** The ratios that the benchmark prints, one for each kind of cache. */
function overhead() {
  const printed = execFileSync('npm', ['run', '--silent', 'bench', '--', 'overhead'], {
    cwd: ROOT,
    encoding: 'utf8',
  });
  return Array.from(printed.matchAll(/ratio (\S+)/g), ([, ratio]) => ratio).join(', ');
}

function print(table) {
  const widths = table[0].map((_, column) => Math.max(...table.map((row) => row[column].length)));
  for (const row of table)
    console.log(
      row
        .map((cell, at) => cell.padEnd(widths[at]))
        .join('  ')
        .trimEnd(),
    );
}

function fail(message) {
  console.error(`\ncheck:shape: ${message}`);
  process.exitCode = 1;
}
