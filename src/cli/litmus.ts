// `write-barrier litmus`: what a power cut may leave of small programs, in each mode on a device.
//
// The verdicts are computed when they are asked for, by every run of the scheduler's state machine. So a program of the user's own is
// judged like those of the library. For one test in one mode the run that shows the outcome is printed.
//
// A device without ordered tags gets them, because the table has columns for the TAG modes. The heading says so. Without a tag the
// other modes are the same on both.
//
// Not here: the notation of programs and outcomes (the lab's litmus.ts).

import { MODE_NAMES } from 'write-barrier';
import {
  DEVICE_PROFILES,
  type DeviceName,
  type DeviceProfile,
  deviceProfile,
} from 'write-barrier/testing';
import {
  FAULT_LITMUS,
  GROWTH_LITMUS,
  LITMUS,
  LITMUS_COLUMNS,
  type LitmusColumn,
  type LitmusResult,
  type LitmusTest,
  runLitmus,
} from 'write-barrier/testing/lab';
import {
  type Command,
  choiceOf,
  counted,
  type Given,
  readWords,
  tableOf,
  UsageError,
} from './command.js';

const OPTIONS = {
  mode: {
    value: 'NAME',
    many: true,
    text: `a column: ${MODE_NAMES.join(', ')} or modern, which is Linux since 2.6.37; by default all`,
  },
  device: {
    value: 'NAME',
    text: `${Object.keys(DEVICE_PROFILES).join(', ')}; by default scsi-tags, which has a volatile cache and can do everything`,
  },
  faults: { text: 'with the tests in which a command may fail' },
  program: { value: 'TEXT', text: "a program of your own: 'W x; B y; wait y'" },
  outcome: { value: 'TEXT', text: "what is looked for after it: 'y=1 x=0'" },
} as const;

export const command: Command = {
  usage: '[NAME ...] [options]',
  about:
    'Says for small programs whether a power cut may leave an outcome: never, sometimes (in some run), or ' +
    'always. NAME is a test, L1 or L3a; by default all without faults. For one test in one mode it shows a run.',
  groups: { Options: OPTIONS },
  epilogue: `W x writes 1 to sector x, W! x forces it, B x is a barrier with data, E an empty barrier, wait x waits for the answer.
All sectors start as 0. ok(x) says that the write was answered by then, err(x) that it failed, no(x) that it had no answer.`,
  run: async (words) => {
    const { values, operands } = readWords(words, OPTIONS, Number.POSITIVE_INFINITY);
    const tests = testsIn(operands, values);
    const named = (values.mode ?? LITMUS_COLUMNS).map((mode) =>
      choiceOf('--mode', mode, LITMUS_COLUMNS),
    );
    // In that column no request waits for another, and a resize must.
    const resizes = tests.some(({ program }) => /\bR \d/.test(program));
    const columns = values.mode || !resizes ? named : named.filter((mode) => mode !== 'modern');
    const name = choiceOf(
      '--device',
      values.device ?? 'scsi-tags',
      Object.keys(DEVICE_PROFILES) as DeviceName[],
    );
    const rows = tests.map((test) =>
      columns.map((mode) => runLitmus(test, { mode, device: deviceFor(name) })),
    );
    print(name, tests, columns, rows);
    return 0;
  },
};

/** The TAG modes need a device with ordered tags, and the table is to have all modes, so it gets them. */
function deviceFor(name: DeviceName): DeviceProfile {
  return deviceProfile({ ...DEVICE_PROFILES[name], orderedTags: true });
}

function testsIn(
  names: readonly string[],
  { faults, program, outcome }: Given<typeof OPTIONS>,
): readonly LitmusTest[] {
  if ((program === undefined) !== (outcome === undefined)) {
    throw new UsageError('--program and --outcome go together');
  }
  if (program !== undefined && outcome !== undefined) {
    if (names.length > 0) throw new UsageError('--program takes the place of names');
    return [{ name: 'own', program, outcome, expected: {} }];
  }
  if (names.length === 0) return faults ? [...LITMUS, ...FAULT_LITMUS] : LITMUS;
  return names.flatMap((wanted) => {
    const found = NAMED.filter(({ name }) => isNamed(name, wanted));
    if (found.length > 0) return found;
    const known = NAMED.map(({ name }) => name).join(', ');
    throw new UsageError(`${wanted} is not a litmus test; there are ${known}`);
  });
}

const NAMED = [...LITMUS, ...GROWTH_LITMUS, ...FAULT_LITMUS];

/** `L3` names L3a and L3b, and `F1` all three of F1. */
function isNamed(name: string, wanted: string): boolean {
  const [short] = name.split(' ');
  return [name, short, short?.replace(/[a-z]$/, '')].some(
    (one) => one?.toLowerCase() === wanted.toLowerCase(),
  );
}

function print(
  device: DeviceName,
  tests: readonly LitmusTest[],
  columns: readonly LitmusColumn[],
  rows: readonly (readonly LitmusResult[])[],
): void {
  const tags = DEVICE_PROFILES[device].orderedTags ? '' : ', with ordered tags added';
  console.log(`On the device ${device}${tags}:\n`);
  const table = tests.map(({ name, program, outcome }, row) => [
    name,
    program,
    outcome,
    ...(rows[row] ?? []).map(({ verdict }) => verdict),
  ]);
  for (const line of tableOf([['', 'program', 'outcome', ...columns], ...table])) console.log(line);
  const [[only] = []] = rows;
  if (tests.length > 1 || columns.length > 1 || !only) return;
  console.log(
    `\n${counted(only.runs, 'run')}${only.witness ? '; one that shows it:' : ', and none shows it'}`,
  );
  for (const line of runOf(only.witness)) console.log(`  ${line}`);
}

const SECTORS = 'xyz';

/** The commands, the answers and the sectors of a run, in the order of time. */
function runOf(witness: LitmusResult['witness']): string[] {
  if (!witness) return [];
  const { trace, state } = witness;
  const sector = trace.commands.reduce(
    (least, { length }) => (length > 0 ? Math.min(least, length) : least),
    trace.size,
  );
  const events = trace.commands.flatMap(
    ({ op, offset, length, tag, fua, dispatched, completed }, n) => {
      const place = op === 'flush' ? '' : ` ${placesOf(offset, length, sector)}`;
      const flags = `${fua ? ', FUA' : ''}${tag === 'ordered' ? ', ordered' : ''}`;
      return [
        { time: dispatched, text: `#${n} ${op}${place}${flags}` },
        { time: completed, text: `   #${n} is answered` },
      ];
    },
  );
  const told = trace.marks.map(({ time, value }) => {
    const { label, ok } = value as { readonly label: string; readonly ok: boolean };
    return { time, text: `      ${ok ? 'ok' : 'err'}(${label})` };
  });
  const { before } = state;
  const all = [...events, ...told].filter(
    ({ time }) => time < Math.min(before, Number.POSITIVE_INFINITY),
  );
  all.sort((one, other) => one.time - other.time);
  const image = state.image();
  const written = [
    ...new Set(
      trace.commands.flatMap(({ op, offset, length }) =>
        op === 'flush' ? [] : sectorsOf(offset, length, sector),
      ),
    ),
  ];
  const left = written
    .sort((a, b) => a - b)
    .map((at) => `${SECTORS[at] ?? at}=${image[at * sector]}`);
  return [...all.map(({ text }) => text), '----- the power is cut', `left: ${left.join(' ')}`];
}

function sectorsOf(offset: number, length: number, sector: number): number[] {
  return Array.from({ length: length / sector }, (_, n) => offset / sector + n);
}

function placesOf(offset: number, length: number, sector: number): string {
  return sectorsOf(offset, length, sector)
    .map((at) => SECTORS[at] ?? at)
    .join(' ');
}
