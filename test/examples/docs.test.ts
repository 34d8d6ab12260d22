// Goal: what the pages show is what happens. Method: the code blocks of a page, one behind the other, are one module;
// it is checked against the types of the sources, and runs in a process of its own, in an empty folder.
// A block that prints is followed by a `text` block with just that.

import { execFile } from 'node:child_process';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import ts from 'typescript';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type Block, BROWSER_PAGE, blocksOf, pages, ROOT, read } from '../docs/pages.js';

const LANGUAGES = ['console', 'ini', 'js', 'json', 'text', 'ts'];
/** Printed between two blocks. */
const BORDER = '\u001e';

const isTyped = ({ language }: Block): boolean => language === 'ts';
const isCode = (block: Block): boolean => block.language === 'js' || isTyped(block);
const books = pages().map((path) => ({ path, blocks: blocksOf(read(path)) }));

/** What is one module: a page, but in README a single block, because readers copy single blocks from there. */
const modules = books.flatMap(({ path, blocks }) => {
  if (path !== 'README.md') return [{ path, blocks }];
  return blocks.filter(isCode).map((block) => {
    const next = blocks[blocks.indexOf(block) + 1];
    const output = next?.language === 'text' ? [next] : [];
    return { path: `README-line-${block.line}.md`, blocks: [block, ...output] };
  });
});
const programs = modules
  .filter(({ path, blocks }) => path !== BROWSER_PAGE && blocks.some(isCode))
  .map(({ path, blocks }) => ({
    path,
    blocks,
    file: path.replaceAll('/', '-').replace(/md$/, blocks.some(isTyped) ? 'mts' : 'mjs'),
    source: blocks
      .filter(isCode)
      .map(({ text }) => text)
      .join(`console.log('${BORDER}');\n`),
  }));

/** The source behind each door of the package. */
const { compilerOptions } = JSON.parse(read('tsconfig.json'));
const sources = Object.fromEntries(
  Object.entries<string[]>(compilerOptions.paths).map(([door, paths]) => [
    door,
    paths.map((path) => join(ROOT, path)),
  ]),
);

/** A folder in which the package is installed, with every program in it. */
let folder = '';
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'docs-test-'));
  for (const scope of ['@types', '@journeyapps']) {
    mkdirSync(join(folder, 'node_modules', scope), { recursive: true });
  }
  symlinkSync(ROOT, join(folder, 'node_modules', 'write-barrier'), 'junction');
  for (const name of ['@types/node', 'undici-types', 'lokijs', '@journeyapps/wa-sqlite']) {
    symlinkSync(join(ROOT, 'node_modules', name), join(folder, 'node_modules', name), 'junction');
  }
  for (const { file, source } of programs) writeFileSync(join(folder, file), source);
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** What follows a code block and belongs to it. */
function outputsOf(blocks: readonly Block[]): string[] {
  return blocks.flatMap((block, index) => {
    if (!isCode(block)) return [];
    const next = blocks[index + 1];
    return [next?.language === 'text' ? next.text : ''];
  });
}

/** Where a page uses `node:test`, the report of that runner goes to a file, because the page says only what the code prints. */
const REPORT = 'report.tap';

function run(file: string, cwd: string): Promise<{ stdout: string; stderr: string }> {
  const reporter = ['--test-reporter=tap', `--test-reporter-destination=${join(cwd, REPORT)}`];
  return new Promise((resolve) => {
    execFile(process.execPath, [...reporter, file], { cwd }, (_, stdout, stderr) =>
      resolve({ stdout, stderr }),
    );
  });
}

test.each(books)('$path: every block says what it is', ({ blocks }) => {
  for (const { language, line } of blocks) {
    expect(LANGUAGES, `line ${line}`).toContain(language);
  }
});

describe('the code on the pages', () => {
  test.each(programs)('$path: runs, and prints what the page says', async (program) => {
    // JavaScript runs as it stands, because a page may show the lines of its own calls.
    const { outputText } = program.blocks.some(isTyped)
      ? ts.transpileModule(program.source, {
          compilerOptions: { target: ts.ScriptTarget.ES2022, module: ts.ModuleKind.ESNext },
        })
      : { outputText: program.source };
    const cwd = mkdtempSync(join(folder, 'run-'));
    const file = join(cwd, 'page.mjs');
    writeFileSync(file, outputText);
    const { stdout, stderr } = await run(file, cwd);
    expect(stderr).toBe('');
    const printed = stdout.split(`${BORDER}\n`);
    expect(printed).toEqual(outputsOf(program.blocks));
    // A page that registers tests of its own passes them, and the first of the crash kit does.
    const report = join(cwd, REPORT);
    const hasTests = existsSync(report);
    if (program.path === 'docs/crash-testing.md') expect(hasTests).toBe(true);
    if (hasTests) expect(readFileSync(report, 'utf8')).toMatch(/^# pass [1-9].*\n# fail 0$/m);
  });

  // Against the sources, because declarations take long to build; `npm run test:interop` checks those of the packed package.
  test('agrees with the types of the package', () => {
    const files = programs.map(({ file }) => join(folder, file));
    const program = ts.createProgram(files, {
      target: ts.ScriptTarget.ES2022,
      module: ts.ModuleKind.NodeNext,
      lib: ['lib.es2022.d.ts'],
      types: ['node'],
      typeRoots: [join(folder, 'node_modules', '@types')],
      strict: true,
      exactOptionalPropertyTypes: true,
      allowJs: true,
      checkJs: true,
      noImplicitAny: false, // in JavaScript parameters have no types
      useUnknownInCatchVariables: false,
      noEmit: true,
      paths: sources,
    });
    const errors = files.flatMap((file) => {
      const source = program.getSourceFile(file);
      return [
        ...program.getSyntacticDiagnostics(source),
        ...program.getSemanticDiagnostics(source),
      ];
    });
    const host: ts.FormatDiagnosticsHost = {
      getCurrentDirectory: () => folder,
      getCanonicalFileName: (name) => name,
      getNewLine: () => '\n',
    };
    expect(ts.formatDiagnostics(errors, host)).toBe('');
  });
});
