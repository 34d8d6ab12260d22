// The words of the project, checked. Three rules:
//
// - Some words stand nowhere in what a user reads (`src`, the pages in `docs`, README), because readers stumbled over them:
//   they hide the subject (whoever, nobody, somebody), or a plainer word is usual (besides, mend, unless given).
// - An invariant is declared with a bare label in a comment of its file (`//   I3  text`; on a page in a table), and is cited everywhere
//   else as a place, `ordering.I3`: the path of the file inside src, test or docs, as much of its end as makes it the only one, with `-`
//   between folders. A list may follow the place: `ordering.I1 to I3`, `ordering.I1, I2 and I5`.
// - A line of prose has at most 140 characters: all lines of a source, comments of tests, and paragraphs of pages, because longer ones
//   are broken by what shows them. A row of a table and a picture have no place for a break, and neither has the name of a test.
//
// A label that the library prints (a litmus test, a rule of the trace checker, a clause of the contract for storages) is
// a name that users know, and stands bare everywhere.
//
// Not here: whether a sentence is good. That takes a reader.

import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { TRACE_RULES } from '../src/testing/checker/check-trace.js';
import { FAULT_LITMUS, GROWTH_LITMUS, LITMUS } from '../src/testing/lab/index.js';
import { ROOT } from './docs/pages.js';

const WORDS = ['whoever', 'nobody', 'somebody', 'unless given', 'besides', 'mend'];

/** Text by path from the root. */
type Texts = ReadonlyMap<string, string>;

/** Lines of a comment are one text: a line's beginning is a space like any other. */
const GAP = '(?:\\s|//|\\*)+';
const FORBIDDEN = new RegExp(`\\b(?:${WORDS.join('|').replaceAll(' ', GAP)})\\b`, 'gi');

/** In a comment of a source, and in the first cell of a table on a page. */
const DECLARATION =
  /^(?:\s*(?:\/\/|\/?\*+) (?: {0,3}|- )([A-Z]\d{1,2}[a-z]?)(?: {2,}|: |(?<=- \w+) )\S|\| `?([A-Z]\d{1,2}[a-z]?)(?: \w+)?`? *\|)/gm;
const LABEL = '[A-Z]\\d{1,2}[a-z]?';
/** A place, with what it lists: labels of the same letter. */
const CITATION = new RegExp(
  `(?<![\\w./$-])(?<name>[a-z][a-z\\d]*(?:-[a-z\\d]+)*)` +
    `\\.(?<list>(?<letter>[A-Z])\\d{1,2}[a-z]?(?:(?:,? (?:to|and|or) |, )\\k<letter>\\d{1,2}[a-z]?)*)(?![\\w(])`,
  'g',
);
/** A string that is nothing but a label is data. */
const BARE = new RegExp(`(?<![\\w.$#+-])(?!(?<=')${LABEL}')${LABEL}(?![\\w+])`, 'g');
/** Files whose own notation has words that look like labels: `S1 X1`, a flush that starts and fails; `E1`, an error. */
const NOTATIONS: readonly (readonly [path: string, words: RegExp])[] = [
  ['virtio/stability.test.ts', /^[SCX]\d$/],
  ['linux/flush-machine.test.ts', /^E\d$/],
  ['linux/ordered-queue.test.ts', /^E\d$/],
  ['lab/litmus.ts', /^E\d$/],
];

function lineOf(text: string, index: number): number {
  return text.slice(0, index).split('\n').length;
}

function forbiddenWords(texts: Texts): string[] {
  return [...texts].flatMap(([path, text]) =>
    Array.from(text.matchAll(FORBIDDEN), ({ 0: word, index }) => {
      return `${path}:${lineOf(text, index)}: ${word.replaceAll(new RegExp(GAP, 'g'), ' ')}`;
    }),
  );
}

const LINE_MAX = 140;
const COMMENT = /^\s*(?:\/\/|\/?\*)/;
/** Code on a page, a row of a table, a picture. */
const UNBROKEN = /^```[\s\S]*?^```|^\|.*|.*<img.*/gm;

/** Every line that is too long and has a space where it could be broken. */
function longLines(texts: Texts): string[] {
  return [...texts].flatMap(([path, text]) => {
    const isPage = path.endsWith('.md');
    const prose = isPage ? text.replaceAll(UNBROKEN, (match) => match.replaceAll(/.+/g, '')) : text;
    return prose.split('\n').flatMap((line, at) => {
      const counts = !path.startsWith('test/') || isPage || COMMENT.test(line);
      const isLong = line.length > LINE_MAX && line.trim().includes(' ');
      return counts && isLong ? [`${path}:${at + 1}: ${line.length} characters`] : [];
    });
  });
}

/** The labels that a file declares. */
function declared(text: string): ReadonlySet<string> {
  return new Set(
    Array.from(text.matchAll(DECLARATION), ([, inCode, inTable]) => (inCode ?? inTable) as string),
  );
}

/** What a file may be called in a citation: `session`, `server-session`, `nbd-server-session`. */
function namesOf(path: string): string[] {
  const parts = path
    .replace(/(?:\/index)?\.(?:ts|md)$/, '')
    .split('/')
    .slice(1);
  return parts.map((_, at) => parts.slice(at).join('-'));
}

/** Every citation of a label that is declared nowhere, or in more files than one, or is bare in a file of another's. */
function wrongCitations(texts: Texts, printed: ReadonlySet<string>): string[] {
  const labels = new Map(Array.from(texts, ([path, text]) => [path, declared(text)]));
  const everywhere = new Set([...labels.values()].flatMap((own) => [...own]));
  return [...texts].flatMap(([path, text]) => {
    const placed = Array.from(text.matchAll(CITATION), ({ groups: { name, list } = {}, index }) => {
      const homes = [...labels].filter(([home, own]) => own.size > 0 && isNamed(home, name));
      const cited = list?.match(new RegExp(LABEL, 'g')) ?? [];
      const gone = cited.filter((label) => !homes.some(([, own]) => own.has(label)));
      const at = `${path}:${lineOf(text, index)}: ${name}`;
      if (homes.length > 1) return [`${at} is ${homes.map(([home]) => home).join(' or ')}`];
      return gone.map((label) => `${at}.${label} is declared nowhere`);
    }).flat();
    const prose = path.endsWith('.md') ? text.replaceAll(/`[^`\n]*`/g, '') : text;
    const rest = prose.replaceAll(CITATION, (match) => match.replaceAll(/[^\n]/g, ' '));
    const bare = Array.from(rest.matchAll(BARE)).filter(({ 0: label }) => {
      return (
        everywhere.has(label) &&
        !labels.get(path)?.has(label) &&
        !printed.has(label) &&
        !isNotation(path, label)
      );
    });
    return [
      ...placed,
      ...bare.map(({ 0: label, index }) => `${path}:${lineOf(text, index)}: ${label} is bare`),
    ];
  });
}

function isNotation(path: string, label: string): boolean {
  return NOTATIONS.some(([file, words]) => path.endsWith(file) && words.test(label));
}

function isNamed(path: string, name: string | undefined): boolean {
  return name !== undefined && namesOf(path).includes(name);
}

/** The files below a folder with one of these endings. */
function read(folder: string, ending: RegExp): [path: string, text: string][] {
  return readdirSync(join(ROOT, folder), { recursive: true, encoding: 'utf8' })
    .map((path) => `${folder}/${path.replaceAll('\\', '/')}`)
    .filter((path) => ending.test(path) && !path.startsWith('docs/api/'))
    .sort()
    .map((path) => [path, readFileSync(join(ROOT, path), 'utf8')]);
}

const README: [string, string] = ['README.md', readFileSync(join(ROOT, 'README.md'), 'utf8')];
const SOURCES = read('src', /\.ts$/);
const PAGES = [...read('docs', /\.md$/), README];
const MORE_PAGES = [...read('test', /\.md$/), ...read('examples', /\.md$/)];
for (const path of ['ARCHITECTURE.md', 'CHANGELOG.md', 'CONTRIBUTING.md', 'SECURITY.md'])
  MORE_PAGES.push([path, readFileSync(join(ROOT, path), 'utf8')]);
const TESTS = read('test', /\.ts$/).filter(([path]) => path !== 'test/words.test.ts');

test('what a user reads has none of the words that readers stumbled over', () => {
  expect(forbiddenWords(new Map([...SOURCES, ...PAGES]))).toEqual([]);
});

test('no line of prose is longer than others can show', () => {
  expect(longLines(new Map([...SOURCES, ...PAGES, ...MORE_PAGES, ...TESTS]))).toEqual([]);
});

test('every label is cited as a place, and declared there', () => {
  const clauses = declared(new Map(SOURCES).get('src/storage/storage.ts') ?? '');
  const litmus = [...LITMUS, ...GROWTH_LITMUS, ...FAULT_LITMUS].map(
    ({ name }) => name.split(' ')[0] as string,
  );
  const both = litmus.map((name) => name.replace(/[a-z]$/, ''));
  const printed = new Set([...clauses, ...litmus, ...both, ...Object.keys(TRACE_RULES)]);
  expect(printed.size).toBeGreaterThan(40);
  expect(wrongCitations(new Map([...SOURCES, ...TESTS, ...PAGES]), printed)).toEqual([]);
});

describe('the checker', () => {
  const texts = (entries: Record<string, string>): Texts => new Map(Object.entries(entries));

  test('finds the words in any case and across lines of a comment, and lets longer words pass', () => {
    const found = forbiddenWords(
      texts({
        'a.ts': '// Nobody waits,\n// and it is 3 unless\n// given.\n/** x unless\n * given */',
        'b.md': 'amend, mender, antibody; besides',
      }),
    );
    expect(found).toEqual([
      'a.ts:1: Nobody',
      'a.ts:2: unless given',
      'a.ts:4: unless given',
      'b.md:1: besides',
    ]);
  });

  test('finds long lines, and lets pass what has no place for a break', () => {
    const long = `${'word '.repeat(28)}end`;
    const found = longLines(
      texts({
        'src/a.ts': `// short\n// ${long}\nconst x = '${long}';\nconst y = '${'x'.repeat(150)}';\n${'x'.repeat(150)}`,
        'test/a.ts': `  // ${long}\ntest('${long}');`,
        'docs/a.md': `${long}\n| ${long} |\n\`\`\`text\n${long}\n\`\`\`\n<img alt="${long}">\n${long}`,
      }),
    );
    expect(found.map((line) => line.replace(/: \d+ characters$/, ''))).toEqual([
      'src/a.ts:2',
      'src/a.ts:3',
      'src/a.ts:4',
      'test/a.ts:1',
      'docs/a.md:1',
      'docs/a.md:7',
    ]);
  });

  const ordering = '//   I1  One.\n//   I2  Two.\n';

  test('lets pass a place, a list, a label at home, and one that the library prints', () => {
    const found = wrongCitations(
      texts({
        'src/scheduler/ordering.ts': `${ordering}// I1 holds here.`,
        'test/x.test.ts':
          "test('ordering.I1 and I2: scheduler-ordering.I2, and L1', ordering.Inner)",
        'docs/litmus.md': 'L1 and `w0+88`',
        'src/node/tickets.ts': '//   L1  A lock.',
      }),
      new Set(['L1']),
    );
    expect(found).toEqual([]);
  });

  test('finds a label that is bare, gone, or at home in two files', () => {
    const found = wrongCitations(
      texts({
        'src/scheduler/ordering.ts': ordering,
        'src/nbd/server/session.ts': '//   N1  Bytes.',
        'src/nbd/client/session.ts': '//   N1  Replies.',
        'test/x.test.ts':
          'I1\nordering.I3\nordering.I2, I4\nsession.N1 server-session.N1\nnowhere.I1',
      }),
      new Set(),
    );
    expect(found).toEqual([
      'test/x.test.ts:2: ordering.I3 is declared nowhere',
      'test/x.test.ts:3: ordering.I4 is declared nowhere',
      'test/x.test.ts:4: session is src/nbd/server/session.ts or src/nbd/client/session.ts',
      'test/x.test.ts:5: nowhere.I1 is declared nowhere',
      'test/x.test.ts:1: I1 is bare',
    ]);
  });
});
