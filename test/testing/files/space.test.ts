// The space of a trace of files against everything else that knows what a power cut may leave.

import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { seededRandom } from '../../../src/testing/choices.js';
import { type CellVersion, cellsOf } from '../../../src/testing/files/cells.js';
import { FILE_MODELS, type FileModel } from '../../../src/testing/files/models.js';
import { Promises } from '../../../src/testing/files/promises.js';
import { fileSpace } from '../../../src/testing/files/space.js';
import type { FilesTrace } from '../../../src/testing/files/trace.js';
import type { Clock } from '../../../src/testing/space/clocks.js';
import { share } from '../../kit/amount.js';
import { treesByHand } from './oracle.js';
import { type Call, PROGRAMS, textOf, traceOf } from './programs.js';

/** Small blocks, so that short texts have several. */
const MODELS = Object.entries(FILE_MODELS).map(([name, model]): [string, FileModel] => [
  name,
  { ...model, block: name === 'strict' ? model.block : 4 },
]);

const path = fc.constantFrom('/a', '/b', '/d', '/d/a', '/d/b', '/e', '/e/a');
const call: fc.Arbitrary<Call> = fc.oneof(
  { weight: 2, arbitrary: path.map((at): Call => ['create', at]) },
  { weight: 1, arbitrary: path.map((at): Call => ['mkdir', at]) },
  {
    weight: 4,
    arbitrary: fc
      .tuple(path, fc.nat(6), fc.integer({ min: 0, max: 7 }), fc.constantFrom('x', 'y', 'z'))
      .map(([at, offset, length, letter]): Call => ['write', at, offset, letter.repeat(length)]),
  },
  {
    weight: 2,
    arbitrary: fc.tuple(path, fc.nat(9)).map(([at, size]): Call => ['truncate', at, size]),
  },
  { weight: 3, arbitrary: fc.tuple(path, path).map(([from, to]): Call => ['rename', from, to]) },
  { weight: 1, arbitrary: fc.tuple(path, path).map(([from, to]): Call => ['link', from, to]) },
  { weight: 1, arbitrary: path.map((at): Call => ['symlink', 'x', at]) },
  { weight: 1, arbitrary: path.map((at): Call => ['unlink', at]) },
  { weight: 1, arbitrary: path.map((at): Call => ['rmdir', at]) },
  {
    weight: 3,
    arbitrary: fc
      .tuple(
        fc.constantFrom('fsync' as const, 'fdatasync' as const),
        fc.oneof(path, fc.constant('/')),
      )
      .map((one): Call => one),
  },
  { weight: 1, arbitrary: fc.constant<Call>(['sync']) },
);

/** Traces of a few calls on a tree of a few files; some calls are answered late, or never. */
const traces: fc.Arbitrary<FilesTrace> = fc
  .record({
    before: fc.array(call, { maxLength: 4 }),
    calls: fc.array(call, { minLength: 1, maxLength: 7 }),
    answers: fc.array(fc.constantFrom(0, 0, 0, 1, 2, 9), { maxLength: 7 }),
  })
  .map(({ before, calls, answers }) =>
    traceOf({ before: [['create', '/a'], ['mkdir', '/d'], ...before], calls }, answers),
  );

/** All values that the clocks may have at a moment. */
function pointsOf(clocks: readonly Clock[], time: number): number[][] {
  const values = clocks.map(({ from, until }) =>
    [...from.keys()].filter((value) => {
      return (from[value] as number) <= time && time < (until[value] as number);
    }),
  );
  return values.reduce<number[][]>(
    (points, list) => points.flatMap((point) => list.map((value) => [...point, value])),
    [[]],
  );
}

describe.each(MODELS)('given any small trace of files on %s', (_, model) => {
  test('the trees of each moment are those that brute force finds', () => {
    fc.assert(
      fc.property(traces, fc.boolean(), (trace, lies) => {
        const byMoment = treesByHand(trace, model, { lies });
        fc.pre(byMoment !== undefined);
        const space = fileSpace(trace, model, lies ? { lies: ['ignoreFlush'] } : {});
        const found: { tree: string; after: number; before: number }[] = [];
        for (const crash of space.explore()) {
          const tree = textOf(crash.files.tree());
          found.push({ tree, after: crash.after, before: crash.before });
        }
        for (const [time, trees] of byMoment ?? []) {
          const then = found.filter(({ after, before }) => after <= time && time < before);
          const met = new Set(then.map(({ tree }) => tree));
          expect([time, ...[...met].sort()]).toEqual([time, ...[...trees].sort()]);
        }
      }),
      { numRuns: share(1500, 150) },
    );
  });

  test('at every moment and for all values that the clocks may have then, each cell has a version (clocks.K1, clocks.K3)', () => {
    fc.assert(
      fc.property(traces, fc.boolean(), (trace, lies) => {
        const { clocks } = new Promises(trace, model, lies);
        for (const { from, until } of clocks) {
          for (const edge of [from, until]) expect(edge).toEqual([...edge].sort((a, b) => a - b));
        }
        const { regions } = cellsOf(trace, model, lies);
        const moments = trace.operations.flatMap(({ begin, end }) => [begin, end]);
        for (const time of [-1, ...moments.filter(Number.isFinite)]) {
          for (const point of pointsOf(clocks, time)) {
            const isOpen = ({ after, ordered, when }: CellVersion): boolean =>
              after <= time &&
              time < ordered &&
              (!when ||
                (point.some((value, n) => value >= (when.from[n] as number)) &&
                  point.every((value, n) => value < (when.until[n] as number))));
            for (const { versions } of regions) expect(versions.some(isOpen)).toBe(true);
          }
        }
      }),
      { numRuns: share(1500, 150) },
    );
  });

  test('readers of the whole tree, and readers of a part of it, cover all states, each once', () => {
    const looks = fc.array(path, { minLength: 0, maxLength: 3 });
    fc.assert(
      fc.property(traces, looks, (trace, paths) => {
        const space = fileSpace(trace, model);
        fc.pre(space.count < 3000n);
        let whole = 0n;
        for (const crash of space.explore()) {
          crash.files.tree();
          whole += crash.images;
        }
        expect(whole).toBe(space.count);
        let part = 0n;
        for (const crash of space.explore()) {
          for (const at of paths) {
            let inode: number | undefined = 1;
            for (const name of at.split('/').filter(Boolean)) {
              inode = inode === undefined ? undefined : crash.files.entry(inode, name);
            }
            if (inode !== undefined && crash.files.kind(inode) === 'file') crash.files.data(inode);
          }
          part += crash.images;
        }
        expect(part).toBe(space.count);
      }),
      { numRuns: share(600, 60) },
    );
  });
});

/** The trees of each program in each model: strict, ext4, ext4-journal, xfs, btrfs, posix with the blocks of the others. */
const TREES: Readonly<Record<keyof typeof PROGRAMS, readonly number[]>> = {
  'replace via rename, no fsync': [4, 7, 4, 5, 5, 10],
  'replace via rename, fsync before': [4, 5, 4, 4, 4, 6],
  'replace via rename, fsync before and dir after': [4, 5, 4, 4, 4, 6],
  'replace of 3 blocks via rename, no fsync': [4, 31, 6, 17, 17, 46],
  'first rename to a new name, no fsync': [4, 7, 4, 5, 5, 10],
  'append within a block': [3, 6, 3, 3, 3, 6],
  'append of blocks': [3, 7, 3, 4, 4, 7],
  'append to two files': [4, 18, 4, 6, 6, 18],
  'append, fsync, append': [3, 5, 3, 3, 3, 5],
  'overwrite two blocks in place': [2, 4, 3, 4, 4, 4],
  'write-ahead log': [4, 5, 4, 4, 4, 5],
  'create and fsync, no fsync of the directory': [5, 7, 5, 5, 5, 10],
  'two files, fsync of the second': [5, 13, 5, 7, 9, 16],
  'create, link, unlink': [4, 4, 4, 4, 4, 8],
  'link, unlink, fsync': [3, 3, 3, 3, 3, 4],
  'truncate and write': [3, 4, 3, 3, 3, 7],
  'open with O_TRUNC and write': [3, 4, 3, 3, 3, 7],
  'truncate to a part': [3, 7, 3, 5, 5, 10],
  'directory rename': [5, 5, 5, 5, 5, 26],
  'directory rename, fsync of a file in it': [3, 4, 3, 4, 4, 7],
  'mkdir, create in it, fsync of the file': [5, 6, 5, 5, 5, 8],
  'log rotation': [5, 15, 5, 8, 10, 22],
  'two renames over each other': [4, 4, 4, 4, 4, 18],
  'write over the end': [2, 4, 2, 3, 2, 4],
  'append of two blocks at once': [2, 7, 3, 4, 4, 7],
  'rename, fdatasync': [2, 2, 2, 2, 2, 4],
  'create and rename, fdatasync of the directory': [3, 3, 3, 3, 3, 8],
};

function treesOf(trace: FilesTrace, model: FileModel): Set<string> {
  const trees = new Set<string>();
  for (const { files } of fileSpace(trace, model).explore()) trees.add(textOf(files.tree()));
  return trees;
}

// Goal: no change of the models by mistake. They were compared with real kernels by these numbers of trees.
test.each(Object.entries(TREES))(
  'given the program %s, each model has as many trees as when kernels were compared with it',
  (name, numbers) => {
    const trace = traceOf(PROGRAMS[name] as (typeof PROGRAMS)[string]);
    const trees = Object.values(FILE_MODELS).map((model) => {
      return treesOf(trace, { ...model, block: model.delays ? 4096 : model.block });
    });
    expect(trees.map(({ size }) => size)).toEqual(numbers);
    // What a file system without delays leaves, each of them may leave.
    for (const tree of trees[0] as Set<string>) {
      for (const wider of trees) expect(wider.has(tree)).toBe(true);
    }
  },
);

test('given that all programs were compared, the table names each of them', () => {
  expect(Object.keys(TREES)).toEqual(Object.keys(PROGRAMS));
});

describe('given trees that were seen on real file systems', () => {
  const [one] = [PROGRAMS['replace via rename, no fsync'] as (typeof PROGRAMS)[string]];

  test('a rename without fsync leaves zeroes on ext4, and an empty file on xfs and btrfs', () => {
    const zeroes = JSON.stringify({ a: '\0\0\0\0' });
    const empty = JSON.stringify({ a: '' });
    const [ext4, xfs, btrfs] = [FILE_MODELS.ext4, FILE_MODELS.xfs, FILE_MODELS.btrfs].map((model) =>
      treesOf(traceOf(one), model),
    ) as [Set<string>, Set<string>, Set<string>];
    expect([ext4.has(zeroes), ext4.has(empty)]).toEqual([true, true]);
    expect([xfs.has(zeroes), xfs.has(empty)]).toEqual([false, true]);
    expect([btrfs.has(zeroes), btrfs.has(empty)]).toEqual([false, true]);
  });

  test('the block that a truncation cuts is there without the truncation', () => {
    const trace = traceOf(PROGRAMS['truncate to a part'] as (typeof PROGRAMS)[string]);
    const text = 'o'.repeat(5000) + 'n'.repeat(3000) + '\0'.repeat(192) + 'o'.repeat(808);
    for (const model of [FILE_MODELS.ext4, FILE_MODELS.xfs]) {
      expect(treesOf(trace, model).has(JSON.stringify({ a: text }))).toBe(true);
    }
  });

  test('an fsync on btrfs brings a file and its name, and not the file that was made before', () => {
    const trace = traceOf(PROGRAMS['two files, fsync of the second'] as (typeof PROGRAMS)[string]);
    const alone = JSON.stringify({ b: 'two' });
    expect(treesOf(trace, FILE_MODELS.btrfs).has(alone)).toBe(true);
    expect(treesOf(trace, FILE_MODELS.ext4).has(alone)).toBe(false);
    expect(treesOf(trace, FILE_MODELS.xfs).has(alone)).toBe(false);
  });
});

test('an fdatasync brings bytes and size, and the rename before it on btrfs alone', () => {
  const calls: Call[] = [
    ['rename', '/a', '/b'],
    ['fdatasync', '/b'],
  ];
  const program = { before: [['create', '/a']] as Call[], calls };
  const names = (model: FileModel, op: 'fsync' | 'fdatasync'): string[] => {
    const { operations, ...rest } = traceOf(program);
    const synced = operations.map((one) => (one.op === 'fdatasync' ? { ...one, op } : one));
    const trace = { ...rest, operations: synced };
    const answered = operations.at(-1)?.end ?? 0;
    const found: string[] = [];
    for (const crash of fileSpace(trace, model).explore()) {
      const tree = [...crash.files.tree().keys()].join();
      if (crash.before > answered) found.push(tree);
    }
    return found;
  };
  const both = ['a', 'b'];
  for (const [name, model] of MODELS) {
    const isWeak = ['ext4', 'ext4-journal', 'xfs'].includes(name);
    if (name !== 'posix') expect([name, names(model, 'fsync')]).toEqual([name, ['b']]);
    if (isWeak) expect([name, names(model, 'fdatasync')]).toEqual([name, both]);
    else if (name !== 'posix') expect([name, names(model, 'fdatasync')]).toEqual([name, ['b']]);
  }
});

test('an fdatasync of a directory brings the names in it, as an fsync does', () => {
  const calls: Call[] = [
    ['create', '/b'],
    ['rename', '/a', '/c'],
    ['fdatasync', '/'],
  ];
  const trace = traceOf({ before: [['create', '/a']], calls });
  const answered = trace.operations.at(-1)?.end ?? 0;
  for (const [name, model] of MODELS) {
    const late: string[] = [];
    for (const crash of fileSpace(trace, model).explore()) {
      const names = [...crash.files.tree().keys()].join();
      if (crash.before > answered) late.push(names);
    }
    expect([name, ...late]).toEqual([name, 'b,c']);
  }
});

test('a write over the end of a file may be there without the new size on xfs, and on btrfs not', () => {
  const trace = traceOf(PROGRAMS['write over the end'] as (typeof PROGRAMS)[string]);
  const part = JSON.stringify({ a: 'lon' });
  const having = MODELS.filter(([, model]) => treesOf(trace, { ...model, block: 4096 }).has(part));
  expect(having.map(([name]) => name)).toEqual(['ext4', 'xfs', 'posix']);
});

test('the size of an append may end with a block of it on ext4, with the bytes or with zeroes', () => {
  const trace = traceOf(PROGRAMS['append of two blocks at once'] as (typeof PROGRAMS)[string]);
  const trees = treesOf(trace, FILE_MODELS.ext4);
  for (const letter of ['n', '\0']) {
    expect(trees.has(JSON.stringify({ a: `old${letter.repeat(4093)}` }))).toBe(true);
  }
});

test('given a file in a new directory, when its fsync was answered, then btrfs has both', () => {
  const name = 'mkdir, create in it, fsync of the file';
  const trace = traceOf(PROGRAMS[name] as (typeof PROGRAMS)[string]);
  const { end } = trace.operations.find(({ op }) => op === 'fsync') as { end: number };
  for (const crash of fileSpace(trace, 'btrfs').explore()) {
    const tree = crash.files.tree();
    if (crash.before > end) expect(tree.has('d/a')).toBe(true);
  }
});

describe('given a device that ignores flushes', () => {
  test('what was synced may be lost on every file system that delays', () => {
    const trace = traceOf({
      before: [],
      calls: [['create', '/a'], ['write', '/a', 0, 'x'], ['fsync', '/a'], ['fsync', '/'], ['sync']],
    });
    for (const [name, model] of Object.entries(FILE_MODELS)) {
      const after = { honest: [] as string[], lying: [] as string[] };
      for (const lies of [[], ['ignoreFlush']] as const) {
        for (const { files, ...crash } of fileSpace(trace, model, { lies }).explore()) {
          expect(crash).toBeDefined();
          (lies.length > 0 ? after.lying : after.honest).push(textOf(files.tree()));
        }
      }
      expect([name, after.lying.length >= after.honest.length]).toEqual([name, true]);
      const late = [...fileSpace(trace, model, { lies: ['ignoreFlush'] }).explore()].filter(
        (crash) => {
          return crash.files.tree().size === 0 && crash.before === Number.POSITIVE_INFINITY;
        },
      );
      expect([name, late.length]).toEqual([name, model.delays ? 1 : 0]);
    }
  });
});

describe('given a state by its number', () => {
  const states = fc.tuple(traces, fc.constantFrom(...MODELS.map(([, model]) => model)));

  test('all numbers together are all states, each once', () => {
    fc.assert(
      fc.property(states, ([trace, model]) => {
        const space = fileSpace(trace, model);
        fc.pre(space.count < 300n);
        const numbered: string[] = [];
        for (let k = 0n; k < space.count; k += 1n) numbered.push(textOf(space.at(k).tree()));
        const met: string[] = [];
        for (const crash of space.explore()) {
          const text = textOf(crash.files.tree());
          for (let n = 0n; n < crash.images; n += 1n) met.push(text);
        }
        expect(numbered.sort()).toEqual(met.sort());
      }),
      { numRuns: share(500, 60) },
    );
  });

  test('draws are about equally often each of them, and those from the same numbers are the same', () => {
    const trace = traceOf(PROGRAMS['replace via rename, no fsync'] as (typeof PROGRAMS)[string]);
    const space = fileSpace(trace, 'ext4');
    const random = seededRandom(1);
    const draws = new Map<string, number>();
    for (let n = 0; n < 200 * Number(space.count); n += 1) {
      const text = textOf(space.sample(random).tree());
      draws.set(text, (draws.get(text) ?? 0) + 1);
    }
    const states = new Map<string, number>();
    for (let k = 0n; k < space.count; k += 1n) {
      const text = textOf(space.at(k).tree());
      states.set(text, (states.get(text) ?? 0) + 1);
    }
    expect([...draws.keys()].sort()).toEqual([...states.keys()].sort());
    for (const [text, times] of draws) {
      expect(Math.abs(times / 200 / (states.get(text) as number) - 1)).toBeLessThan(0.3);
    }
    const again = space.sample(seededRandom(7));
    expect(textOf(again.tree())).toBe(textOf(space.sample(seededRandom(7)).tree()));
  });

  test('a number that there is not is refused', () => {
    const space = fileSpace(traceOf({ before: [], calls: [['create', '/a']] }), 'ext4');
    expect(space.count).toBe(2n);
    expect(() => space.at(2n)).toThrow(/out of range: this space has states 0 to 1/);
    expect(() => space.at(-1n)).toThrow(/OUT_OF_RANGE|out of range/);
  });
});

describe('given much that is not synced', () => {
  const files = Array.from({ length: 40 }, (_, n) => `/f${n}`);
  const calls = files.flatMap((at): Call[] => [
    ['create', at],
    ['write', at, 0, 'x'.repeat(3000)],
  ]);

  test('a recovery that reads one file needs four looks for all states', () => {
    const space = fileSpace(traceOf({ before: [], calls }), 'ext4');
    let covered = 0n;
    let recoveries = 0;
    for (const crash of space.explore()) {
      const inode = crash.files.entry(1, 'f7');
      if (inode !== undefined) crash.files.data(inode);
      covered += crash.images;
      recoveries += 1;
    }
    expect(recoveries).toBe(4);
    expect(covered).toBe(space.count);
    expect(space.count).toBe(49_565_958_604_199_796_162_953_216n);
  });

  test('guides come to late power cuts, with all of the data and with names alone, while depth first is at the first ones', () => {
    const space = fileSpace(traceOf({ before: [], calls }), 'ext4');
    const late: { order: string; whole: number }[] = [];
    for (const { files: left, order } of space.explore({ recoveriesMax: 200 })) {
      const nodes = [...left.tree().values()];
      const whole = nodes.filter((node) => node.kind === 'file' && node.data.includes(120)).length;
      if (nodes.length > 10) late.push({ order, whole });
    }
    expect(late.map(({ order }) => order)).not.toContain('depth first');
    expect(late.some(({ whole }) => whole > 10)).toBe(true);
    expect(late.some(({ whole }) => whole < 2)).toBe(true);
  });

  test('payloads are not copied before they are read', () => {
    const data = new Uint8Array(4096).fill(7);
    const trace = traceOf({
      before: [],
      calls: [
        ['create', '/a'],
        ['write', '/a', 0, 'x'],
      ],
    });
    const [create, write] = trace.operations;
    const longer = { ...trace, operations: [create, { ...write, data }] } as FilesTrace;
    const space = fileSpace(longer, 'ext4');
    data.fill(9);
    const inode = space.at(space.count - 1n).entry(1, 'a') as number;
    expect([...new Set(space.at(space.count - 1n).data(inode))]).toEqual([9]);
  });
});

describe('given what cannot be', () => {
  const trace = traceOf({
    before: [],
    calls: [
      ['create', '/a'],
      ['mkdir', '/d'],
    ],
  });

  test('an unknown file system is refused, with those that are known', () => {
    expect(() => fileSpace(trace, 'ext5' as 'ext4')).toThrow(/unknown file system 'ext5'.*ext4/);
  });

  test('moments that do not ascend are refused, with the operation', () => {
    const [first, second] = trace.operations;
    const backwards = { ...trace, operations: [second, first] } as FilesTrace;
    expect(() => fileSpace(backwards, 'ext4')).toThrow(/operation 1 begins before/);
  });

  test('a trace whose journal has too much to commit at the same time is refused, with what helps', () => {
    const names = Array.from({ length: 8000 }, (_, n) => `/f${n}`);
    const calls = names.map((at): Call => ['create', at]);
    expect(() => fileSpace(traceOf({ before: [], calls }), 'xfs')).toThrow(
      /too long.*ends with a sync/,
    );
  });

  test('an inode that the trace does not have is refused, and so is the target of what is no link', () => {
    const state = fileSpace(trace, 'ext4').at(0n);
    expect(() => state.kind(77)).toThrow(/no inode 77/);
    expect(() => state.target(1)).toThrow(/a directory, not a symbolic link/);
  });

  test('a recovery that looks at other files on an equal tree is refused', () => {
    let looks = 0;
    const space = fileSpace(trace, 'ext4');
    expect(() => {
      for (const { files } of space.explore()) {
        looks += 1;
        files.entry(1, looks % 2 === 0 ? 'd' : 'a');
      }
    }).toThrow(/not deterministic/);
  });
});
