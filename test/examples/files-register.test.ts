// `node --import write-barrier/testing/files/register`: a CommonJS module that takes its functions out of node:fs when it is
// loaded is seen with it, and noticed without it.

import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, test } from 'vitest';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));

const STORE = `
const { openSync, writeSync, fsyncSync, closeSync, renameSync } = require('node:fs');
const { rename, open } = require('node:fs/promises');
const { promisify } = require('node:util');
const write = promisify(require('fs').write);
exports.set = async (path, text) => {
  const descriptor = openSync(path + '.tmp', 'w');
  await write(descriptor, text);
  fsyncSync(descriptor);
  closeSync(descriptor);
  await rename(path + '.tmp', path);
};
`;

const program = (extension: 'cjs' | 'mjs'): string => {
  const names = [
    ['{ readFileSync, writeFileSync }', 'node:fs'],
    ['{ set }', './store.cjs'],
    ['{ crashFiles }', 'write-barrier/testing/files'],
  ].map(([what, from]) =>
    extension === 'mjs' ? `import ${what} from '${from}';` : `const ${what} = require('${from}');`,
  );
  return `${names.join('\n')}
crashFiles({
  before: (root) => writeFileSync(root + '/a', 'old'),
  workload: async (root, journal) => { journal.begin('new'); await set(root + '/a', 'new'); },
  recover: (root) => readFileSync(root + '/a', 'utf8'),
  check: (text, { begun }) => ['old', ...begun].includes(text),
}).then(({ verdict, warnings, trace }) => {
  console.log(verdict, trace.operations.map(({ op }) => op).join(' '), warnings.length);
});
`;
};

let folder = '';
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'register-'));
  mkdirSync(join(folder, 'node_modules'));
  symlinkSync(ROOT, join(folder, 'node_modules', 'write-barrier'), 'junction');
  writeFileSync(join(folder, 'store.cjs'), STORE);
  for (const extension of ['cjs', 'mjs'] as const)
    writeFileSync(join(folder, `main.${extension}`), program(extension));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const run = (...args: readonly string[]): string =>
  execFileSync(process.execPath, args, { cwd: folder, encoding: 'utf8' }).trim();

test.each(['mjs', 'cjs'])(
  'a store that took its functions early is proved with it, from a .%s',
  (extension) => {
    const text = run('--import', 'write-barrier/testing/files/register', `main.${extension}`);
    expect(text).toBe('proved create write fsync rename 0');
  },
);

test('without it nothing is proved', () => {
  expect(run('main.mjs')).toMatch(/^(?:passed|failed) /);
  expect(run('main.mjs')).not.toMatch(/ 0$/);
});
