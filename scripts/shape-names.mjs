// The public names of the package, and how a user meets each of them.
//
// A public name is what a door exports, a type as well as a value. The methods of an exported object of functions (a
// namespace such as `buffers.slice`) count as names of their own, because a user has to learn each. A name that two
// doors export counts twice.
//
// A name is met where it stands in the code of a page (a fence or a code span, not prose, where `slice` and `flush` are plain
// words) or in an example; or where it is needed to write down the signature of a name that is met: the type of an
// option, a parameter, a property or a result, through any number of types in between.
//
// Not here: whether a name has a comment (TypeDoc), and whether the signatures name only what is exported (TypeDoc).

import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import ts from 'typescript';

/**
 * The doors of the package: what a user writes after `from`, and the source file behind it.
 *
 * @param {string} root
 * @returns {[door: string, file: string][]}
 */
function doorsOf(root) {
  const { name, exports } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));
  const { config } = ts.readConfigFile(join(root, 'tsconfig.json'), ts.sys.readFile);
  return Object.keys(exports)
    .filter((key) => key !== './package.json')
    .map((key) => {
      const door = name + key.slice(1);
      const file = config.compilerOptions.paths[door]?.[0];
      if (!file)
        throw new Error(`package.json exports '${key}', tsconfig.json has no path '${door}'`);
      return [door, join(root, file)];
    });
}

/** @param {string} root */
function programOf(root, files) {
  const { config } = ts.readConfigFile(join(root, 'tsconfig.json'), ts.sys.readFile);
  const { options } = ts.parseJsonConfigFileContent(config, ts.sys, root);
  return ts.createProgram(files, options);
}

/**
 * @typedef {{ door: string, name: string, symbol: ts.Symbol, met: boolean }} PublicName
 *
 * @param {string} root the folder of the package
 * @returns {PublicName[]}
 */
export function publicNames(root) {
  const doors = doorsOf(root);
  const program = programOf(
    root,
    doors.map(([, file]) => file),
  );
  const checker = program.getTypeChecker();
  const real = (symbol) =>
    symbol.flags & ts.SymbolFlags.Alias ? checker.getAliasedSymbol(symbol) : symbol;

  const names = doors.flatMap(([door, file]) => {
    const source = program.getSourceFile(file);
    const module = source && checker.getSymbolAtLocation(source);
    if (!module) throw new Error(`the entry of '${door}', ${file}, is not a module`);
    return checker.getExportsOfModule(module).flatMap((exported) => {
      const symbol = real(exported);
      const own = { door, name: exported.name, symbol, met: false };
      return [
        own,
        ...membersOf(checker, symbol).map((member) => ({
          door,
          name: `${exported.name}.${member.name}`,
          symbol: real(member),
          met: false,
        })),
      ];
    });
  });

  const text = whatUsersRead(root);
  const reached = new Set();
  for (const name of names) {
    if (standsIn(text, name.name)) reach(checker, real, name.symbol, reached);
  }
  for (const name of names) name.met = reached.has(name.symbol);
  return names;
}

/** The functions of an exported object: of `export * as name`, or of a constant with methods written out in its type. */
function membersOf(checker, symbol) {
  if (symbol.flags & ts.SymbolFlags.ValueModule) return checker.getExportsOfModule(symbol);
  if (!(symbol.flags & ts.SymbolFlags.Variable)) return [];
  const type = checker.getTypeOfSymbol(symbol);
  if (type.getCallSignatures().length > 0 || type.getConstructSignatures().length > 0) return [];
  return type.getProperties().filter((property) => {
    const parent = property.valueDeclaration?.parent;
    const spelled =
      parent && (ts.isTypeLiteralNode(parent) || ts.isObjectLiteralExpression(parent));
    return spelled && checker.getTypeOfSymbol(property).getCallSignatures().length > 0;
  });
}

/** The code that a user reads: of the pages in docs, of README, and of the examples. */
function whatUsersRead(root) {
  const below = (folder) =>
    readdirSync(join(root, folder), { recursive: true, encoding: 'utf8' })
      .map((path) => join(folder, path).replaceAll('\\', '/'))
      .filter((path) => !path.startsWith('docs/api/'));
  return ['README.md', ...below('docs'), ...below('examples')]
    .filter((path) => /\.(?:md|m?js|ts)$/.test(path))
    .map((path) => {
      const content = readFileSync(join(root, path), 'utf8');
      return path.endsWith('.md') ? codeOf(content) : content;
    })
    .join('\n');
}

/** The fenced blocks and the code spans of a page. */
function codeOf(page) {
  const fences = /^```\S*\n([\s\S]*?)^```$/gm;
  const blocks = Array.from(page.matchAll(fences), ([, code]) => code);
  const spans = Array.from(
    page.replaceAll(fences, '').matchAll(/`([^`\n]+)`/g),
    ([, code]) => code,
  );
  return [...blocks, ...spans].join('\n');
}

/** Whether the text says the name, and not as a property of something else (`text.slice` is not our `slice`). */
function standsIn(text, name) {
  const word = name.replaceAll(/[.$]/g, '\\$&');
  return new RegExp(`(?:(?<![\\w$.])|(?<=import\\('[^']*'\\)\\.))${word}(?![\\w$])`).test(text);
}

/** Adds the symbol, and all that its declarations need to be written down. */
function reach(checker, real, symbol, reached) {
  if (reached.has(symbol)) return;
  reached.add(symbol);
  const visit = (node) => {
    if (ts.isBlock(node) || isPrivate(node)) return;
    const name = ts.isTypeReferenceNode(node)
      ? node.typeName
      : ts.isExpressionWithTypeArguments(node)
        ? node.expression
        : ts.isTypeQueryNode(node)
          ? node.exprName
          : ts.isImportTypeNode(node)
            ? node.qualifier
            : undefined;
    const needed = name && checker.getSymbolAtLocation(name);
    if (needed) reach(checker, real, real(needed), reached);
    // The value of a constant or a property says nothing that its written type does not.
    ts.forEachChild(node, (child) => {
      if (child !== node.initializer) visit(child);
    });
  };
  for (const declaration of symbol.declarations ?? []) {
    if (declaration.getSourceFile().fileName.includes('node_modules')) continue;
    if (!ts.isSourceFile(declaration)) visit(declaration);
  }
}

function isPrivate(node) {
  return (
    (ts.isClassElement(node) && node.name !== undefined && ts.isPrivateIdentifier(node.name)) ||
    (ts.canHaveModifiers(node) &&
      ts.getModifiers(node)?.some(({ kind }) => kind === ts.SyntaxKind.PrivateKeyword))
  );
}
