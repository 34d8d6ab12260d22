// What the tests of the documentation share: the pages, their code blocks, their headings, and the sections that
// are generated.

import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

/** The root of the repository, with a slash at its end. */
export const ROOT: string = fileURLToPath(new URL('../../', import.meta.url));

/** The page whose code needs a browser; the tests of the browser run it. */
export const BROWSER_PAGE = 'docs/how-to/store-in-a-browser.md';

/** A fenced block of a page. */
export interface Block {
  /** The word behind the fence; empty where there is none. */
  readonly language: string;
  readonly text: string;
  /** The number of the line that opens it, from 1. */
  readonly line: number;
}

/** Every page, as a path from the root: those at the root, those in docs, and that of the tests. */
export function pages(): string[] {
  const below = readdirSync(join(ROOT, 'docs'), { recursive: true, encoding: 'utf8' })
    .map((path) => `docs/${path.replaceAll('\\', '/')}`)
    .filter((path) => path.endsWith('.md') && !path.startsWith('docs/api/'));
  const atRoot = readdirSync(ROOT).filter((path) => path.endsWith('.md'));
  return [...atRoot, ...below, 'test/README.md'].sort();
}

/** The text of a page, with plain line ends. */
export function read(path: string): string {
  return readFileSync(join(ROOT, path), 'utf8').replaceAll('\r\n', '\n');
}

/** The fenced blocks of a page, in order. */
export function blocksOf(page: string): Block[] {
  const blocks: Block[] = [];
  let open: { language: string; line: number; text: string[] } | undefined;
  for (const [index, line] of page.split('\n').entries()) {
    const fence = /^```(\S*)$/.exec(line);
    if (!open && fence) open = { language: fence[1] ?? '', line: index + 1, text: [] };
    else if (open && fence) {
      blocks.push({ ...open, text: `${open.text.join('\n')}\n` });
      open = undefined;
    } else open?.text.push(line);
  }
  if (open) throw new Error(`the block in line ${open.line} has no end`);
  return blocks;
}

/** The page without its fenced blocks. */
export function proseOf(page: string): string {
  return page.replaceAll(/^```\S*\n[\s\S]*?^```$/gm, '');
}

/** The titles of the headings, without marks. */
export function headingsOf(page: string): string[] {
  return Array.from(proseOf(page).matchAll(/^#+ (.+)$/gm), ([, title]) => title as string);
}

/** The page with `body` between the markers of that name. */
export function withSection(page: string, name: string, body: string): string {
  const [start, end] = [`<!-- ${name}:start -->`, `<!-- ${name}:end -->`];
  const [from, to] = [page.indexOf(start), page.indexOf(end)];
  if (from < 0 || to < from) throw new Error(`there is no section ${name}`);
  return `${page.slice(0, from + start.length)}\n\n${body}\n\n${page.slice(to)}`;
}

/** A table, its columns as wide as their widest cell. */
export function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const widths = head.map((title, i) =>
    Math.max(title.length, ...rows.map((row) => row[i]?.length ?? 0)),
  );
  const line = (cells: readonly string[]): string =>
    `| ${cells.map((cell, i) => cell.padEnd(widths[i] ?? 0)).join(' | ')} |`;
  const rule = line(widths.map((width) => '-'.repeat(width)));
  return [line(head), rule, ...rows.map(line)].join('\n');
}
