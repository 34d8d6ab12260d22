// What a power cut may leave of little programs over files, in words: the table of the page about atomic writes.
//
// Every tree that a model allows is made, and each row says which of them are damage. So a model that changes changes the page.

import { type FileModelName, fileSpace } from '../../../src/testing/files/index.js';
import { type Call, PROGRAMS, type Program, traceOf } from '../../testing/files/programs.js';
import { table } from '../pages.js';

/** The content of each file by its path. */
type Texts = ReadonlyMap<string, string>;

interface Row extends Program {
  /** In words of the page. */
  readonly program: string;
  readonly question: string;
  /** Whether the program has returned before the power is cut. @defaultValue false: at any moment */
  readonly isAnswered?: boolean;
  /** What is damaged, in a word; undefined if nothing is. */
  readonly damage: (texts: Texts) => string | undefined;
}

/** What files have before a program. */
const BEFORE: readonly string[] = ['old', 'one'];

/** What is wrong with a file, which should have one of these texts. */
function wrong(text: string | undefined, ...right: readonly string[]): string | undefined {
  if (text === undefined) return 'missing';
  if (right.includes(text)) return undefined;
  if (text === '') return 'empty';
  if (text.includes('\0')) return 'zeroes';
  return BEFORE.includes(text) ? 'old' : 'mixed';
}

const old: readonly Call[] = [
  ['create', '/a'],
  ['write', '/a', 0, 'old'],
];
const two: readonly Call[] = [...old, ['create', '/b'], ['write', '/b', 0, 'old']];
const written: readonly Call[] = [
  ['create', '/t'],
  ['write', '/t', 0, 'new!'],
];
const rename: Call = ['rename', '/t', '/a'];
const torn = (texts: Texts): string | undefined => wrong(texts.get('a'), 'old', 'new!');
const notNew = (texts: Texts): string | undefined => wrong(texts.get('a'), 'new!');
/** The second file is new, and the first one is not. */
const ahead = (texts: Texts): string | undefined =>
  texts.get('b') === 'new' ? wrong(texts.get('a'), 'new') : undefined;

const ROWS: readonly Row[] = [
  {
    program: 'write t; rename t to a',
    question: 'the new name without the new bytes',
    before: old,
    calls: [...written, rename],
    damage: torn,
  },
  {
    program: 'write t; **fsync t**; rename t to a',
    question: 'the new name without the new bytes',
    before: old,
    calls: [...written, ['fsync', '/t'], rename],
    damage: torn,
  },
  {
    program: 'write t; fsync t; rename t to a; answer',
    question: 'the answer without the new file',
    before: old,
    calls: [...written, ['fsync', '/t'], rename],
    isAnswered: true,
    damage: notNew,
  },
  {
    program: 'write t; fsync t; rename t to a; **fsync the folder**; answer',
    question: 'the answer without the new file',
    before: old,
    calls: [...written, ['fsync', '/t'], rename, ['fsync', '/']],
    isAnswered: true,
    damage: notNew,
  },
  {
    program: 'truncate a; write a',
    question: 'the truncation, and neither old nor new bytes',
    before: old,
    calls: [
      ['truncate', '/a', 0],
      ['write', '/a', 0, 'new!'],
    ],
    damage: torn,
  },
  {
    program: 'append a line to a',
    question: 'the new size without the line',
    before: old,
    calls: [['write', '/a', 3, 'line']],
    damage: (texts) => wrong(texts.get('a'), 'old', 'oldline'),
  },
  {
    program: 'write a; write b',
    question: 'the new b without the new a',
    before: two,
    calls: [
      ['write', '/a', 0, 'new'],
      ['write', '/b', 0, 'new'],
    ],
    damage: ahead,
  },
  {
    program: 'write a; **fsync a**; write b',
    question: 'the new b without the new a',
    before: two,
    calls: [
      ['write', '/a', 0, 'new'],
      ['fsync', '/a'],
      ['write', '/b', 0, 'new'],
    ],
    damage: ahead,
  },
  {
    program: 'create x; create y',
    question: 'y without x',
    before: [],
    calls: [
      ['create', '/x'],
      ['create', '/y'],
    ],
    damage: (texts) => (texts.has('y') && !texts.has('x') ? 'missing' : undefined),
  },
  {
    program: 'create x; create y; **fsync y**',
    question: 'y without x',
    before: [],
    calls: [
      ['create', '/x'],
      ['create', '/y'],
      ['fsync', '/y'],
    ],
    damage: (texts) => (texts.has('y') && !texts.has('x') ? 'missing' : undefined),
  },
  {
    program: 'create y; fsync y; answer',
    question: 'the answer without the name y',
    before: [],
    calls: [
      ['create', '/y'],
      ['fsync', '/y'],
    ],
    isAnswered: true,
    damage: (texts) => (texts.has('y') ? undefined : 'missing'),
  },
  {
    program: 'append to log; rename log to log.1; write a new log; **fsync log**',
    question: 'the new log without the last line of log.1',
    ...(PROGRAMS['log rotation'] as Program),
    damage: (texts) =>
      texts.get('log') === 'three' ? wrong(texts.get('log.1'), 'onetwo') : undefined,
  },
];

/** Everything that may be wrong with what the program leaves, each once. */
function damages(
  { program, before, calls, isAnswered = false, damage }: Row,
  model: FileModelName,
): string[] {
  const trace = traceOf({ before, calls });
  // A call that a system would refuse is left out of a trace, and the row would be about another program.
  if (trace.operations.length !== calls.length)
    throw new Error(`a call of '${program}' is refused`);
  const found = new Set<string>();
  for (const crash of fileSpace(trace, model).explore()) {
    const tree = crash.files.tree();
    if (isAnswered && crash.before <= trace.end) continue;
    const texts = [...tree].map(([path, node]): [string, string] => [
      path,
      node.kind === 'file' ? Buffer.from(node.data).toString('latin1') : node.kind,
    ]);
    const word = damage(new Map(texts));
    if (word !== undefined) found.add(word);
  }
  return [...found].sort();
}

const MODELS: readonly (readonly [FileModelName, string])[] = [
  ['ext4', 'ext4'],
  ['xfs', 'xfs'],
  ['btrfs', 'btrfs'],
  ['posix', 'POSIX'],
];

/** For each program and each model what may be wrong, or `no`. */
export function fileLosses(): string {
  const rows = ROWS.map((row) => [
    row.program,
    row.question,
    ...MODELS.map(([model]) => {
      const words = damages(row, model);
      return words.length === 0 ? 'no' : `**yes**: ${words.join(', ')}`;
    }),
  ]);
  return table(['a program does this', 'may there be', ...MODELS.map(([, name]) => name)], rows);
}
