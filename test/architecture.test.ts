// Who may import whom, as data, and the checker that reads the sources for it. The rule is per folder;
// circles are looked for per file, type imports included.

import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join, normalize } from 'node:path/posix';
import { fileURLToPath } from 'node:url';
import ts from 'typescript';
import { describe, expect, test } from 'vitest';

interface FolderRule {
  /** Other folders of src. */
  readonly folders: readonly string[];
  /** Packages, as patterns for the whole specifier. */
  readonly packages: readonly RegExp[];
}

const FACE = /^write-barrier(?:\/kit)?$/;
const DOORS = /^write-barrier(?:\/|$)/;
const NODE = /^node:/;
const DIRECTORY = /^write-barrier\/directory$/;
const FAST_CHECK = /^fast-check$/;

/**
 * The folder '' is src itself: the public face. A folder without a rule may not exist. A folder within another may have a rule
 * of its own; then the outer one must name it like any other.
 */
const RULES: Readonly<Record<string, FolderRule>> = {
  '': { folders: ['machine', 'model', 'scheduler', 'storage', 'trace'], packages: [] },
  model: { folders: [], packages: [] },
  storage: { folders: ['model'], packages: [] },
  trace: { folders: ['model'], packages: [] },
  machine: { folders: ['model', 'storage'], packages: [] },
  scheduler: { folders: ['machine', 'model', 'storage', 'trace'], packages: [] },
  testing: {
    folders: ['machine', 'model', 'scheduler', 'storage', 'trace'],
    packages: [FAST_CHECK],
  },
  // Files are Node's, so the crash kit for blocks does without this.
  'testing/files': {
    folders: ['machine', 'model', 'scheduler', 'storage', 'testing', 'trace'],
    packages: [NODE],
  },
  // Outsiders import the public doors, as a stranger would.
  node: { folders: [], packages: [FACE, NODE] },
  nbd: { folders: [], packages: [FACE, NODE] },
  opfs: { folders: [], packages: [FACE] },
  directory: { folders: [], packages: [FACE] },
  sqlite: { folders: [], packages: [FACE, DIRECTORY] },
  systems: { folders: [], packages: [FACE] },
  // The command is what a user of all doors would write.
  cli: { folders: [], packages: [DOORS, NODE] },
};

/** Lines of code: comments and blank lines are free. */
const CODE_LINES_MAX = 400;
/** A module of more lines opens with an essay of so many lines at least. */
const ESSAY = { overLines: 120, lines: 6 };

/** Source text by path inside src, with `/` between folders. */
type Sources = ReadonlyMap<string, string>;

const folderOf = (path: string): string => {
  const [outer = '', inner] = path.split('/').slice(0, -1);
  return RULES[`${outer}/${inner}`] ? `${outer}/${inner}` : outer;
};
const linesOf = (text: string): number => text.split('\n').length - (text.endsWith('\n') ? 1 : 0);
/** Every specifier of import, export from, import() and import types. */
const specifiersOf = (text: string): string[] =>
  ts.preProcessFile(text, true, true).importedFiles.map(({ fileName }) => fileName);

/** The file of src that a relative specifier names; undefined for a package. */
function target(path: string, specifier: string): string | undefined {
  if (!specifier.startsWith('.')) return undefined;
  return normalize(join(dirname(path), specifier)).replace(/\.js$/, '.ts');
}

function importViolations(sources: Sources): string[] {
  return [...sources].flatMap(([path, text]) => {
    const folder = folderOf(path);
    const rule = RULES[folder];
    if (!rule) return [`${path}: the folder has no rule`];
    return specifiersOf(text).flatMap((specifier) => {
      const file = target(path, specifier);
      if (file === undefined) {
        const allowed = rule.packages.some((pattern) => pattern.test(specifier));
        return allowed ? [] : [`${path}: imports the package ${specifier}`];
      }
      if (!specifier.endsWith('.js')) return [`${path}: ${specifier} does not end in .js`];
      if (!sources.has(file)) return [`${path}: ${specifier} is not a file of src`];
      const other = folderOf(file);
      const allowed = other === folder || rule.folders.includes(other);
      return allowed ? [] : [`${path}: imports ${file}`];
    });
  });
}

/** One circle of imports through each file that closes one. */
function importCircles(sources: Sources): string[] {
  const circles: string[] = [];
  const done = new Set<string>();
  const visit = (path: string, trail: readonly string[]): void => {
    if (trail.includes(path)) {
      circles.push([...trail.slice(trail.indexOf(path)), path].join(' -> '));
      return;
    }
    if (done.has(path)) return;
    for (const specifier of specifiersOf(sources.get(path) ?? '')) {
      const file = target(path, specifier);
      if (file !== undefined) visit(file, [...trail, path]);
    }
    done.add(path);
  };
  for (const path of sources.keys()) visit(path, []);
  return circles;
}

/** The packages that a file pulls in, itself or through others. */
function packagesBehind(sources: Sources, entry: string): string[] {
  const files = new Set([entry]);
  const packages = new Set<string>();
  for (const path of files) {
    for (const specifier of specifiersOf(sources.get(path) ?? '')) {
      const file = target(path, specifier);
      if (file === undefined) packages.add(specifier);
      else files.add(file);
    }
  }
  return [...packages];
}

function shapeViolations(sources: Sources): string[] {
  return [...sources].flatMap(([path, text]) => {
    const lines = linesOf(text);
    const code = text.split('\n').filter((line) => !/^\s*(?:\/\/|\/\*|\*|$)/.test(line)).length;
    if (code > CODE_LINES_MAX) return [`${path}: ${code} lines of code`];
    if (lines > ESSAY.overLines && essayLines(text) < ESSAY.lines) return [`${path}: no essay`];
    return [];
  });
}

/** How many lines the comment has that a file opens with. */
function essayLines(text: string): number {
  const essay = /^(?:(?:\/\/[^\n]*\n)+|\/\*[\s\S]*?\*\/\n)/.exec(text);
  return essay ? linesOf(essay[0]) : 0;
}

function readSources(): Sources {
  const root = fileURLToPath(new URL('../src', import.meta.url));
  const paths = readdirSync(root, { recursive: true, encoding: 'utf8' })
    .map((path) => path.replaceAll('\\', '/'))
    .filter((path) => path.endsWith('.ts'))
    .sort();
  return new Map(paths.map((path) => [path, readFileSync(join(root, path), 'utf8')]));
}

describe('the sources', () => {
  const sources = readSources();

  test('are found', () => {
    expect([...sources.keys()]).toContain('index.ts');
    expect([...sources.keys()]).toContain('model/transform.ts');
  });

  test('import only what the rule of their folder allows', () => {
    expect(importViolations(sources)).toEqual([]);
  });

  test('have no circle of imports', () => {
    expect(importCircles(sources)).toEqual([]);
  });

  test('of the public face need no package and no platform', () => {
    expect(packagesBehind(sources, 'index.ts')).toEqual([]);
  });

  // A specifier that is computed is invisible to the rules above, and to bundlers, which is why there is one.
  test('load by a computed name nothing but the optional dependency', () => {
    const computed = [...sources].filter(([, text]) => /\bimport\(\s*[^'"\s)]/.test(text));
    expect(computed.map(([path]) => path)).toEqual(['node/file-lock.ts']);
    const names = Array.from(
      computed[0]?.[1].matchAll(/const PACKAGE = '(.*)'/g) ?? [],
      (m) => m[1],
    );
    const { optionalDependencies } = JSON.parse(
      readFileSync(new URL('../package.json', import.meta.url), 'utf8'),
    );
    expect(names).toEqual(Object.keys(optionalDependencies));
  });

  test('keep to 400 lines, and open with an essay where they have more than 120', () => {
    expect(shapeViolations(sources)).toEqual([]);
  });
});

describe('the checker', () => {
  const files = (entries: Record<string, string>): Sources => new Map(Object.entries(entries));

  test('lets pass what the rule allows', () => {
    const sources = files({
      'index.ts': "export * from './model/a.js';",
      'model/a.ts': "import type { B } from './b.js';",
      'model/b.ts': '// import "./never.js"',
      'scheduler/c.ts': "import { a } from '../model/a.js';",
      'node/d.ts': "import fs from 'node:fs';\nimport type { Storage } from 'write-barrier';",
    });
    expect(importViolations(sources)).toEqual([]);
    expect(importCircles(sources)).toEqual([]);
    expect(packagesBehind(sources, 'index.ts')).toEqual([]);
  });

  test.each([
    ["import { x } from '../storage/x.js';", 'imports storage/x.ts'],
    ["import type { X } from '../storage/x.js';", 'imports storage/x.ts'],
    ["export * from '../storage/x.js';", 'imports storage/x.ts'],
    ["export type X = import('../storage/x.js').X;", 'imports storage/x.ts'],
    ["export const x = await import('../storage/x.js');", 'imports storage/x.ts'],
    ["import '../index.js';", 'imports index.ts'],
    ["import fs from 'node:fs';", 'imports the package node:fs'],
    ["import { x } from 'write-barrier';", 'imports the package write-barrier'],
    ["import { x } from 'lodash';", 'imports the package lodash'],
    ["import { x } from './other';", './other does not end in .js'],
    ["import { x } from './gone.js';", './gone.js is not a file of src'],
  ])('finds the violation in a model file that says %s', (text, violation) => {
    const sources = files({ 'index.ts': '', 'model/a.ts': text, 'storage/x.ts': '' });
    expect(importViolations(sources)).toEqual([`model/a.ts: ${violation}`]);
  });

  test('finds an outsider that reaches inside, and a folder that nobody has thought of', () => {
    const sources = files({
      'model/a.ts': '',
      'node/file.ts': "import '../model/a.js';\nimport 'node:fs';",
      'opfs/file.ts': "import 'node:fs';",
      'helpers/h.ts': '',
    });
    expect(importViolations(sources)).toEqual([
      'node/file.ts: imports model/a.ts',
      'opfs/file.ts: imports the package node:fs',
      'helpers/h.ts: the folder has no rule',
    ]);
  });

  test('finds what reaches from a folder into one within it that has a rule of its own', () => {
    const sources = files({
      'testing/a.ts': "import './files/b.js';\nimport './space/c.js';",
      'testing/files/b.ts': "import '../a.js';\nimport 'node:fs';",
      'testing/space/c.ts': "import 'node:fs';",
    });
    expect(importViolations(sources)).toEqual([
      'testing/a.ts: imports testing/files/b.ts',
      'testing/space/c.ts: imports the package node:fs',
    ]);
  });

  test('finds a circle, also one of types alone', () => {
    const sources = files({
      'model/a.ts': "import type { B } from './b.js';",
      'model/b.ts': "import type { C } from './c.js';",
      'model/c.ts': "import type { A } from './a.js';",
    });
    expect(importCircles(sources)).toEqual([
      'model/a.ts -> model/b.ts -> model/c.ts -> model/a.ts',
    ]);
  });

  test('finds a platform behind the public face, however far behind', () => {
    const sources = files({
      'index.ts': "export * from './storage/a.js';",
      'storage/a.ts': "export * from './b.js';",
      'storage/b.ts': "import 'node:fs';",
    });
    expect(packagesBehind(sources, 'index.ts')).toEqual(['node:fs']);
  });

  test('finds a file that is too long, and a long one that explains nothing', () => {
    const code = (lines: number): string => 'export {};\n'.repeat(lines);
    const essay = '// Why.\n'.repeat(ESSAY.lines);
    const sources = files({
      'model/long.ts': essay + code(CODE_LINES_MAX + 1),
      'model/mute.ts': code(ESSAY.overLines + 1),
      'model/curt.ts': `// Why.\n${code(ESSAY.overLines)}`,
      'model/short.ts': code(ESSAY.overLines),
      'model/good.ts': essay + code(ESSAY.overLines),
      'model/block.ts': `/**\n${' * Why.\n'.repeat(ESSAY.lines)} */\n${code(ESSAY.overLines)}`,
    });
    expect(shapeViolations(sources)).toEqual([
      `model/long.ts: ${CODE_LINES_MAX + 1} lines of code`,
      'model/mute.ts: no essay',
      'model/curt.ts: no essay',
    ]);
  });
});
