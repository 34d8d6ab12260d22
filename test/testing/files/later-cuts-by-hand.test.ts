// Power cuts during recoveries and in later lives, against brute force: a recovery is any short program, and it is told what each tree was
// in the end.
//
// By hand: each tree that the first cut may leave; what the program makes of it, and each tree that a cut during that may leave;
// what the program makes of those. The recovery itself decides the first tree where it looks, and reads everything only when it is done.

import * as fs from 'node:fs';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { crashFiles } from '../../../src/testing/files/crash-files.js';
import { FILE_MODELS, type FileModel } from '../../../src/testing/files/models.js';
import { share } from '../../kit/amount.js';
import { treesByHand } from './oracle.js';
import { type Call, Shadow, traceOf } from './programs.js';

const MODELS = (['ext4', 'ext4-journal', 'xfs', 'btrfs'] as const).map(
  (name): [string, FileModel] => [name, { ...FILE_MODELS[name], block: 4 }],
);

const path = fc.constantFrom('/a', '/b', '/d', '/d/a');
const call: fc.Arbitrary<Call> = fc.oneof(
  path.map((at): Call => ['create', at]),
  fc.constant<Call>(['mkdir', '/d']),
  fc
    .tuple(path, fc.nat(5), fc.integer({ min: 1, max: 5 }), fc.constantFrom('x', 'y', 'z'))
    .map(([at, offset, length, letter]): Call => ['write', at, offset, letter.repeat(length)]),
  fc.tuple(path, fc.nat(7)).map(([at, size]): Call => ['truncate', at, size]),
  fc.tuple(path, path).map(([from, to]): Call => ['rename', from, to]),
  path.map((at): Call => ['unlink', at]),
  path.map((at): Call => ['rmdir', at]),
  fc
    .tuple(
      fc.constantFrom('fsync' as const, 'fdatasync' as const),
      fc.oneof(path, fc.constant('/')),
    )
    .map((one): Call => one),
);

/** A call by node:fs, with what it needs of the tree and no more; a system refuses some. */
function run(root: string, call: Call): void {
  const at = root + (call[1] ?? '');
  const opened = (flags: string, use: (descriptor: number) => void): void => {
    const descriptor = fs.openSync(at, flags);
    try {
      use(descriptor);
    } finally {
      fs.closeSync(descriptor);
    }
  };
  try {
    if (call[0] === 'create') opened('wx', () => undefined);
    if (call[0] === 'mkdir') fs.mkdirSync(at);
    if (call[0] === 'write')
      opened(
        'r+',
        (file) => void fs.writeSync(file, Buffer.from(call[3]), 0, call[3].length, call[2]),
      );
    if (call[0] === 'truncate') opened('r+', (file) => fs.ftruncateSync(file, call[2]));
    if (call[0] === 'rename' && !`${call[2]}/`.startsWith(`${call[1]}/`))
      fs.renameSync(at, root + call[2]);
    if (call[0] === 'unlink') fs.unlinkSync(at);
    if (call[0] === 'rmdir') fs.rmdirSync(at);
    if (call[0] === 'fsync') opened('r', fs.fsyncSync);
    if (call[0] === 'fdatasync') opened('r', fs.fdatasyncSync);
  } catch (error) {
    if (!/^E[A-Z]+$/.test((error as { code?: string }).code ?? '')) throw error;
  }
}

/** The tree in a folder. */
function read(root: string, prefix = ''): Record<string, string | null> {
  const found: Record<string, string | null> = {};
  for (const name of fs.readdirSync(root).sort()) {
    const isFolder = fs.lstatSync(`${root}/${name}`).isDirectory();
    found[prefix + name] = isFolder ? null : fs.readFileSync(`${root}/${name}`, 'latin1');
    if (isFolder) Object.assign(found, read(`${root}/${name}`, `${prefix}${name}/`));
  }
  return found;
}

/** The calls that make a tree, from its text. */
const making = (text: string): Call[] =>
  Object.entries(JSON.parse(text) as Record<string, string | null>).flatMap(
    ([at, data]): Call[] => {
      if (data === null) return [['mkdir', `/${at}`]];
      return [
        ['create', `/${at}`],
        ['write', `/${at}`, 0, data],
      ];
    },
  );

/** What a program makes of a tree, as text. */
function made(text: string, calls: readonly Call[]): string {
  const shadow = new Shadow();
  for (const each of [...making(text), ...calls]) shadow.run(each);
  const found: Record<string, string | null> = {};
  const walk = (inode: number, prefix: string): void => {
    const node = shadow.inodes.get(inode);
    if (node?.kind !== 'directory') return;
    for (const [name, child] of [...node.entries].sort(([a], [b]) => (a < b ? -1 : 1))) {
      const inner = shadow.inodes.get(child);
      found[prefix + name] =
        inner?.kind === 'file' ? Buffer.from(inner.data).toString('latin1') : null;
      walk(child, `${prefix}${name}/`);
    }
  };
  walk(1, '');
  return JSON.stringify(found);
}

function treesOf(
  trace: ReturnType<typeof traceOf>,
  model: FileModel,
): ReadonlySet<string> | undefined {
  const byMoment = treesByHand(trace, model, { most: 2000 });
  return byMoment && new Set([...byMoment.values()].flatMap((trees) => [...trees]));
}

describe.each(MODELS)('given any recovery on %s', (_, model) => {
  test.each([
    ['a cut during it', true],
    ['a cut during it or the work after it', false],
  ])(
    'what it makes of trees after one cut, and after %s, is what brute force finds',
    async (_, isNested) => {
      await fc.assert(
        fc.asyncProperty(
          fc.array(call, { maxLength: 3 }),
          fc.array(call, { minLength: 1, maxLength: 4 }),
          fc.array(call, { minLength: 1, maxLength: 3 }),
          fc.array(call, { minLength: 1, maxLength: isNested ? 1 : 3 }),
          async (before, calls, recovery, work) => {
            const start: Call[] = [['create', '/a'], ['write', '/a', 0, 'olden'], ...before];
            const trace = traceOf({ before: start, calls });
            const first = treesOf(trace, model);
            fc.pre(first !== undefined && first.size < 30);
            const expected = new Set<string>();
            const later = isNested ? recovery : [...recovery, ...work];
            for (const tree of first ?? []) {
              expected.add(made(tree, recovery));
              const second = treesOf(traceOf({ before: making(tree), calls: later }), model);
              fc.pre(second !== undefined);
              for (const each of second ?? []) expected.add(made(each, recovery));
            }
            const found = new Set<string>();
            const report = await crashFiles<never, string>({
              ...{ trace, models: [model], ...(isNested ? { nested: true } : { lives: 2 }) },
              workload(root) {
                for (const each of work) run(root, each);
              },
              recover(root) {
                for (const each of recovery) run(root, each);
                return JSON.stringify(read(root));
              },
              // It says nothing, because one that returns true is asked about damaged trees as well.
              check: (text) => void found.add(text),
            });
            expect(report.failure).toBeUndefined();
            expect([...found].sort()).toEqual([...expected].sort());
            expect(report.models[0]?.covered).toBe(report.models[0]?.states);
          },
        ),
        { numRuns: share(400, 20) },
      );
    },
  );
});
