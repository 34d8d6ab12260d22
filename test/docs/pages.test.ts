// Goal: what the pages name exists. Method: links, headings and lists are compared with files and sources.

import { existsSync, readdirSync } from 'node:fs';
import { dirname, join } from 'node:path/posix';
import { describe, expect, test } from 'vitest';
import type { ErrorCode } from 'write-barrier';
import { UNSAFE_PAIRS } from '../../src/model/index.js';
import { headingsOf, pages, proseOf, ROOT, read } from './pages.js';

/** Every code: one that is missing here does not compile. */
const CODES: Readonly<Record<ErrorCode, true>> = {
  INVALID_ARGUMENT: true,
  OUT_OF_RANGE: true,
  UNALIGNED: true,
  ZERO_LENGTH: true,
  SYNTAX: true,
  EINVAL: true,
  INVALID_STORAGE: true,
  STORAGE_IN_USE: true,
  CLOSED: true,
  EOPNOTSUPP: true,
  UNSAFE_MODE: true,
  QUEUE_FULL: true,
  FAILED: true,
  READ_AT_RISK: true,
  BARRIER_ABORTED: true,
  STORAGE_LOCKED: true,
  READ_ONLY: true,
  NO_SPACE: true,
  IO_FAILED: true,
  SHORT_TRANSFER: true,
  FLUSH_FAILED: true,
  CLOSE_TIMEOUT: true,
  CONNECTION_LOST: true,
  POWER_CUT: true,
};

function examplePages(): string[] {
  return readdirSync(join(ROOT, 'examples'))
    .map((name) => `examples/${name}/README.md`)
    .filter((path) => existsSync(join(ROOT, path)));
}

/** As hosts of repositories and TypeDoc make it of a heading. */
const anchorOf = (title: string): string =>
  title
    .toLowerCase()
    .replaceAll(/[^\w\- ]/g, '')
    .replaceAll(' ', '-');

test.each(pages())('%s links to what is there', (path) => {
  for (const [, target = '', anchor] of proseOf(read(path)).matchAll(
    /\]\(([^)#]*)(?:#([^)]+))?\)/g,
  )) {
    if (/^https?:/.test(target)) continue;
    const file = target === '' ? path : join(dirname(path), target);
    expect(existsSync(join(ROOT, file)), `${path} links to ${file}`).toBe(true);
    if (anchor) expect(headingsOf(read(file)).map(anchorOf)).toContain(anchor);
  }
});

/** Whether npm packs a file: by `files` in package.json, of which the last entry that fits decides. */
function isPacked(file: string): boolean {
  const { files }: { files: string[] } = JSON.parse(read('package.json'));
  let packed = ['README.md', 'LICENSE', 'package.json'].includes(file);
  for (const entry of files) {
    const path = entry.replace(/^!/, '').replaceAll('.', '\\.').replaceAll('*', '[^/]*');
    if (new RegExp(`^${path}(?:/|$)`).test(file)) packed = !entry.startsWith('!');
  }
  return packed;
}

// A reader of the package has neither sources nor tests, and a link to them leads nowhere.
const packed = [...pages(), ...examplePages()].filter(isPacked);
test.each(packed)('%s links to what is in the package', (path) => {
  for (const [, target = ''] of proseOf(read(path)).matchAll(/\]\(([^)#]*)(?:#[^)]+)?\)/g)) {
    if (target === '' || /^https?:/.test(target)) continue;
    const file = join(dirname(path), target).replace(/\/$/, '');
    expect(existsSync(join(ROOT, file)) && isPacked(file), `${path} links to ${file}`).toBe(true);
  }
});

test('every page of docs is linked from their index', () => {
  const index = read('docs/README.md');
  for (const path of pages().filter((page) => /^docs\/(?!README)/.test(page))) {
    expect(index).toContain(`](${path.slice('docs/'.length)})`);
  }
});

test('every error code has a heading of its own, and no heading has a code that is none', () => {
  const headings = headingsOf(read('docs/how-to/handle-errors.md'));
  const codes = headings.filter((title) => /^[A-Z_]+$/.test(title));
  expect(codes.sort()).toEqual(Object.keys(CODES).sort());
});

test('every litmus test that a reason names is explained', () => {
  const page = read('docs/what-a-barrier-is.md');
  const explained = Array.from(page.matchAll(/^\| ([LF]\d+[ab]?) +\|/gm), ([, name]) => name);
  for (const { litmus } of Object.values(UNSAFE_PAIRS)) {
    for (const name of litmus) {
      expect(explained.some((known) => known?.startsWith(name))).toBe(true);
    }
  }
});

test('CONTRIBUTING lists the scripts of package.json, and no others', () => {
  const scripts: Record<string, string> = JSON.parse(read('package.json')).scripts;
  const listed = Array.from(
    read('CONTRIBUTING.md').matchAll(/^\| `npm (?:run )?([\w:]+)/gm),
    ([, name]) => name,
  );
  expect(listed.sort()).toEqual(Object.keys(scripts).sort());
});

describe('the list of corner cases', () => {
  const [present = '', later = ''] = read('test/README.md').split('### Later work');
  const rows = Array.from(present.matchAll(/^\| (\d+) +\|.*\| (`[^|]+`) +\|$/gm));
  const listed = rows.map(([, number]) => Number(number));
  const postponed = Array.from(later.matchAll(/^\| ([\d, to]+?) +\|/gm)).flatMap(
    ([, text = '']) => {
      const [from, to] = text.split(' to ').map(Number);
      if (to === undefined) return text.split(', ').map(Number);
      return Array.from({ length: to - (from ?? to) + 1 }, (_, i) => (from ?? to) + i);
    },
  );

  test.each(rows.map(([, number, files]) => ({ number, files })))(
    'case $number is tested where it says',
    ({ number, files = '' }) => {
      for (const file of files.split(', ')) {
        const source = read(`test/${file.slice(1, -1)}.test.ts`);
        expect(source, file).toMatch(new RegExp(`['"\`]case ${number}: `));
      }
    },
  );

  test('has every case from 1 to 75 as tested or as later work', () => {
    const known = new Set([...listed, ...postponed]);
    expect([...known].sort((a, b) => a - b)).toEqual(Array.from({ length: 75 }, (_, i) => i + 1));
  });

  test('names every case that a test names', () => {
    for (const file of readdirSync(join(ROOT, 'test'), { recursive: true, encoding: 'utf8' })) {
      if (!file.endsWith('.test.ts')) continue;
      for (const [, number] of read(`test/${file}`).matchAll(
        /^\s*(?:test\()?['"`]case (\d+): /gm,
      )) {
        expect(listed, file).toContain(Number(number));
      }
    }
  });
});
