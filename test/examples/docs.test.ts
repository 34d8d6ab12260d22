// Goal: what the pages show is what happens. Method: the code blocks of a page, one behind the other, are one module;
// it is checked against the declarations of the built package, and runs in a process of its own, in an empty folder.
// A block that prints is followed by a `text` block with just that.

import { execFile } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import ts from 'typescript';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type Block, blocksOf, pages, ROOT, read } from '../docs/pages.js';
import { runExample } from './run.js';

const LANGUAGES = ['console', 'js', 'json', 'text', 'ts'];
/** Printed between two blocks. */
const BORDER = '\u001e';

const isTyped = ({ language }: Block): boolean => language === 'ts';
const isCode = (block: Block): boolean => block.language === 'js' || isTyped(block);
const books = pages().map((path) => ({ path, blocks: blocksOf(read(path)) }));
const programs = books
  .filter(({ blocks }) => blocks.some(isCode))
  .map(({ path, blocks }) => ({
    path,
    blocks,
    file: path.replaceAll('/', '-').replace(/md$/, blocks.some(isTyped) ? 'mts' : 'mjs'),
    source: blocks
      .filter(isCode)
      .map(({ text }) => text)
      .join(`console.log('${BORDER}');\n`),
  }));

/** A folder in which the package is installed, with every program in it. */
let folder = '';
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'docs-test-'));
  mkdirSync(join(folder, 'node_modules', '@types'), { recursive: true });
  symlinkSync(ROOT, join(folder, 'node_modules', 'write-barrier'), 'junction');
  for (const name of ['@types/node', 'undici-types']) {
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

function run(file: string, cwd: string): Promise<{ stdout: string; stderr: string }> {
  return new Promise((resolve) => {
    execFile(process.execPath, [file], { cwd }, (_, stdout, stderr) => resolve({ stdout, stderr }));
  });
}

test.each(books)('$path: every block says what it is', ({ blocks }) => {
  for (const { language, line } of blocks) {
    expect(LANGUAGES, `line ${line}`).toContain(language);
  }
});

describe('the code on the pages', () => {
  test.each(programs)('$path: runs, and prints what the page says', async (program) => {
    const { outputText } = ts.transpileModule(program.source, {
      compilerOptions: { target: ts.ScriptTarget.ES2022, module: ts.ModuleKind.ESNext },
    });
    const cwd = mkdtempSync(join(folder, 'run-'));
    const file = join(cwd, 'page.mjs');
    writeFileSync(file, outputText);
    const { stdout, stderr } = await run(file, cwd);
    expect(stderr).toBe('');
    const printed = stdout.split(`${BORDER}\n`);
    expect(printed).toEqual(outputsOf(program.blocks));
  });

  test('agrees with the declarations of the package', () => {
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
    });
    const host: ts.FormatDiagnosticsHost = {
      getCurrentDirectory: () => folder,
      getCanonicalFileName: (name) => name,
      getNewLine: () => '\n',
    };
    expect(ts.formatDiagnostics(ts.getPreEmitDiagnostics(program), host)).toBe('');
  });
});

test.runIf(process.platform === 'linux')(
  'README.md: the extract of the main job is what it prints, but for the times',
  async () => {
    const { blocks } = books.find(({ path }) => path === 'README.md') ?? { blocks: [] };
    const shown = blocks.find(({ text }) => text.startsWith('mode ') && text.includes('verdict'));
    const { stdout } = await runExample(['03']);
    const timeless = (line: string): string => line.replace(/\d+(?= {2,}identical)/, '..');
    const said = stdout.split('\n').map((line) => timeless(line).replaceAll(/ +/g, ' '));
    const lines = (shown?.text ?? '').trimEnd().split('\n');
    expect(lines.length).toBeGreaterThan(7);
    for (const line of lines) expect(said).toContain(line.replaceAll(/ +/g, ' '));
  },
);
