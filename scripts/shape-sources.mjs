// What can be counted in the sources: lines, comments, functions that pump a machine, and the size of the core.
//
// A line is a line of code where a token stands on it, and a line of comment where nothing but a comment does. Blank
// lines count for nothing. The formatter wraps at 100, and `npm run check:lint` keeps it so: lines cannot be won by long ones.

import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { build } from 'esbuild';
import ts from 'typescript';

/**
 * @param {string} root the folder of the package
 * @returns {{ files: number, code: number, comments: number, pumps: string[] }}
 */
export function countSources(root) {
  const paths = readdirSync(join(root, 'src'), { recursive: true, encoding: 'utf8' })
    .map((path) => path.replaceAll('\\', '/'))
    .filter((path) => path.endsWith('.ts'))
    .sort();
  const counts = { files: paths.length, code: 0, comments: 0, pumps: /** @type {string[]} */ ([]) };
  for (const path of paths) {
    const source = ts.createSourceFile(
      path,
      readFileSync(join(root, 'src', path), 'utf8'),
      ts.ScriptTarget.Latest,
      true,
    );
    const { code, comments } = countLines(source);
    counts.code += code;
    counts.comments += comments;
    counts.pumps.push(...Array(pumpsIn(source)).fill(path));
  }
  return counts;
}

/** @param {ts.SourceFile} source */
export function countLines(source) {
  const code = new Set();
  const mark = (node) => {
    if (ts.isJSDoc(node)) return;
    const children = node.getChildren(source);
    if (children.length === 0 && node.kind !== ts.SyntaxKind.EndOfFileToken) {
      const start = source.getLineAndCharacterOfPosition(node.getStart(source)).line;
      const end = source.getLineAndCharacterOfPosition(node.getEnd()).line;
      if (node.getEnd() > node.getStart(source)) for (let at = start; at <= end; at++) code.add(at);
    }
    for (const child of children) mark(child);
  };
  mark(source);
  const written = source.text.split('\n').flatMap((line, at) => (line.trim() === '' ? [] : [at]));
  const lines = written.filter((at) => code.has(at)).length;
  return { code: lines, comments: written.length - lines };
}

/** How many functions, methods and closures named `pump` the file defines. */
function pumpsIn(source) {
  let pumps = 0;
  const visit = (node) => {
    const named = 'name' in node && node.name && /^#?pump$/.test(node.name.getText(source));
    const value =
      ts.isVariableDeclaration(node) || ts.isPropertyDeclaration(node) ? node.initializer : node;
    if (named && value && ts.isFunctionLike(value) && 'body' in value && value.body) pumps++;
    ts.forEachChild(node, visit);
  };
  visit(source);
  return pumps;
}

/**
 * The bytes that a user's bundle grows by who imports the scheduler: minified, then gzip -9.
 *
 * @param {string} root the folder of the package
 */
export async function coreSize(root) {
  const { outputFiles } = await build({
    stdin: { contents: "export { IoScheduler } from './src/index.ts';", resolveDir: root },
    bundle: true,
    minify: true,
    format: 'esm',
    target: 'es2022',
    write: false,
  });
  return gzipSync(outputFiles[0].contents, { level: 9 }).byteLength;
}
