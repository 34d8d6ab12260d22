// Builds `dist/`.
//
//   node scripts/build.mjs            JavaScript and declarations: for packing, and for the checks of the package
//   node scripts/build.mjs --fresh    JavaScript alone, and only if it is older than what it is made of: for whatever
//                                     runs the package (start, test, example, bench), since declarations take ten
//                                     times as long and nothing that runs reads them
//
// Fresh means that each bundle that package.json exports is at least as new as each source. A bundle bears the time at which its
// build began, so that a source saved during the build is newer. Folders count as sources, because a file that
// was deleted leaves no other trace.
//
// The full build marks in the declarations the imports of packages that a user may not have.
// `write-barrier/testing/arbitraries` takes the user's fast-check as an argument, and its declarations name fast-check's types: no
// others would do, because fast-check's classes have private members, so that nothing with the same shape is assignable
// to them. For a user without fast-check that import is an error in a file that is not theirs (with `skipLibCheck: false`).
// The mark before it makes the types `any` there, and changes nothing where fast-check is installed. The bundler of
// the declarations drops comments before imports, so the mark is set here.

import { readdirSync, readFileSync, rmSync, statSync, utimesSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const ROOT = fileURLToPath(new URL('..', import.meta.url));
const CONFIGURATION = ['package.json', 'tsconfig.json', 'tsup.config.ts', 'scripts/build.mjs'];
const MARK = '// @ts-ignore: an optional peer; where it is not installed, its types are `any`';

const { bin, exports, peerDependenciesMeta } = JSON.parse(
  readFileSync(join(ROOT, 'package.json'), 'utf8'),
);

if (!process.argv.includes('--fresh')) {
  console.log('Building dist/, with declarations ...');
  await build({ dts: true });
  markOptionalPeers();
} else if (!isFresh()) {
  console.log('Building the JavaScript of dist/ ...');
  await build({ dts: false });
}

async function build({ dts }) {
  const began = new Date();
  // Imported here because loading tsup takes longer than finding out that there is nothing to build.
  const tsup = await import('tsup');
  await tsup.build({ dts, silent: true });
  dropBareImports();
  dropUnusedForms();
  for (const file of bundles()) utimesSync(file, began, began);
}

/**
 * The bundler imports a chunk of which an entry uses nothing, to keep the order of side effects. There are none, and other
 * bundlers warn of such an import.
 */
function dropBareImports() {
  const dist = join(ROOT, 'dist');
  for (const name of readdirSync(dist).filter((file) => file.endsWith('.js'))) {
    const code = readFileSync(join(dist, name), 'utf8');
    const slim = code.replace(/^import "\.\/chunk-\w+\.js";\n/gm, '');
    if (slim !== code) writeFileSync(join(dist, name), slim);
  }
}

/** What the command runs is an ES module, and is never imported, so it needs no other form and no declarations. */
function dropUnusedForms() {
  const dist = join(ROOT, 'dist');
  const unused = readdirSync(dist).filter((name) =>
    /^cli(?:-record)?\.(?:cjs|d\.c?ts)$/.test(name),
  );
  for (const name of unused) rmSync(join(dist, name));
}

/** The files of JavaScript that the package exports, and its command. */
function bundles() {
  const doors = Object.values(exports)
    .filter((door) => typeof door === 'object')
    .flatMap((door) => [door.import, door.require])
    .flatMap(({ browser, default: usual }) => (browser ? [browser, usual] : [usual]))
    .map((path) => join(ROOT, path));
  return [...doors, ...Object.values(bin).map((path) => join(ROOT, path))];
}

function isFresh() {
  const sources = readdirSync(join(ROOT, 'src'), { recursive: true, encoding: 'utf8' });
  const inputs = ['src', ...sources.map((path) => join('src', path)), ...CONFIGURATION];
  const newest = Math.max(...inputs.map((path) => statSync(join(ROOT, path)).mtimeMs));
  return bundles().every((file) => {
    const built = statSync(file, { throwIfNoEntry: false });
    return built !== undefined && built.mtimeMs >= newest;
  });
}

function markOptionalPeers() {
  const optional = Object.keys(peerDependenciesMeta).filter(
    (name) => peerDependenciesMeta[name].optional,
  );
  const from = new RegExp(`^import [^;]* from '(?:${optional.join('|')})';$`, 'gm');
  const dist = join(ROOT, 'dist');
  for (const name of readdirSync(dist).filter((file) => /\.d\.c?ts$/.test(file))) {
    const declarations = readFileSync(join(dist, name), 'utf8');
    const marked = declarations.replace(from, (line) => `${MARK}\n${line}`);
    if (marked !== declarations) writeFileSync(join(dist, name), marked);
  }
}
