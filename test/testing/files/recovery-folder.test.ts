// The folder of a recovery: what a recovery finds, and what it has decided by looking.

import { execFileSync } from 'node:child_process';
import * as fs from 'node:fs';
import * as fsp from 'node:fs/promises';
import { pathToFileURL } from 'node:url';
import { afterAll, describe, expect, test } from 'vitest';
import { newFolder, removeFolder } from '../../../src/testing/files/record.js';
import { recoverIn } from '../../../src/testing/files/recovery-folder.js';
import type { CrashTree } from '../../../src/testing/files/tree.js';

const root = newFolder();
afterAll(() => removeFolder(root));

/** A file, a link `-> target`, or a folder. The same object is the same inode. */
type Written = string | { readonly file: string } | { readonly [name: string]: Written };

/** A crash state written by hand, and what it was asked. */
function stateOf(written: Written): { readonly tree: CrashTree; readonly asked: string[] } {
  const nodes: Written[] = ['no inode has the number 0'];
  const names: string[] = [''];
  const asked: string[] = [];
  const numberOf = (node: Written, name: string): number => {
    const known = typeof node === 'object' ? nodes.indexOf(node) : -1;
    if (known >= 0) return known;
    names.push(name);
    return nodes.push(node) - 1;
  };
  numberOf(written, '/');
  const entriesOf = (inode: number): Readonly<Record<string, Written>> =>
    nodes[inode] as Readonly<Record<string, Written>>;
  const textOf = (inode: number): string => {
    const node = nodes[inode] as Written;
    return typeof node === 'string' ? node : (node as { readonly file: string }).file;
  };
  const tree: CrashTree = {
    entry(directory, name) {
      asked.push(`${names[directory]} ${name}`);
      const entries = entriesOf(directory);
      const node = Object.hasOwn(entries, name) ? entries[name] : undefined;
      return node === undefined ? undefined : numberOf(node, name);
    },
    names(directory) {
      asked.push(`names of ${names[directory]}`);
      return Object.keys(entriesOf(directory));
    },
    kind(inode) {
      const node = nodes[inode] as Written;
      if (typeof node === 'string') return node.startsWith('-> ') ? 'symlink' : 'file';
      return typeof Object.entries(node).find(([name]) => name === 'file')?.[1] === 'string'
        ? 'file'
        : 'directory';
    },
    target: (inode) => textOf(inode).slice('-> '.length),
    size(inode) {
      asked.push(`size of ${names[inode]}`);
      return Buffer.byteLength(textOf(inode));
    },
    data(inode) {
      asked.push(`data of ${names[inode]}`);
      return Buffer.from(textOf(inode));
    },
  };
  return { tree, asked };
}

/** Runs a recovery; what it returns, and what it asked. */
async function recover<T>(
  written: Written,
  run: (root: string) => T | Promise<T>,
): Promise<{ readonly value: T; readonly asked: string[] }> {
  const { tree, asked } = stateOf(written);
  const value = await recoverIn({ root, tree, isWhole: false }, run);
  return { value, asked };
}

const STATE = { a: 'one', b: 'three', d: { x: 'deep', e: { y: 'deeper' } }, s: '-> d/x' } as const;

describe('a recovery that looks at', () => {
  test.each<[string, (root: string) => unknown, unknown, string[]]>([
    ['nothing', () => 1, 1, []],
    ['whether a file is there', (d) => fs.existsSync(`${d}/a`), true, ['/ a']],
    ['whether none is there', (d) => fs.existsSync(`${d}/no`), false, ['/ no']],
    ['a size', (d) => fs.statSync(`${d}/b`).size, 5, ['/ b', 'size of b']],
    ['a file', (d) => fs.readFileSync(`${d}/a`, 'utf8'), 'one', ['/ a', 'data of a']],
    [
      'a file in a folder',
      (d) => fs.readFileSync(`${d}/d/x`, 'utf8'),
      'deep',
      ['/ d', 'd x', 'data of x'],
    ],
    [
      'a file through a link',
      (d) => fs.readFileSync(`${d}/s`, 'utf8'),
      'deep',
      ['/ s', '/ d', 'd x', 'data of x'],
    ],
    ['a link itself', (d) => fs.readlinkSync(`${d}/s`), 'd/x', ['/ s']],
    [
      'the names of a folder',
      (d) => fs.readdirSync(`${d}/d`),
      ['e', 'x'],
      ['/ d', 'names of d', 'd x', 'd e'],
    ],
    [
      'all names',
      (d) => fs.readdirSync(`${d}/d`, { recursive: true }).sort(),
      ['e', 'e/y', 'x'],
      ['/ d', 'names of d', 'd x', 'd e', 'names of e', 'e y'],
    ],
    ['a file with a promise', (d) => fsp.readFile(`${d}/a`, 'utf8'), 'one', ['/ a', 'data of a']],
    [
      'a file by a handle',
      async (d) => {
        const handle = await fsp.open(`${d}/a`);
        const text = await handle.readFile('utf8');
        await handle.close();
        return text;
      },
      'one',
      ['/ a', 'data of a'],
    ],
    [
      'a file by a stream',
      async (d) => {
        let text = '';
        for await (const part of fs.createReadStream(`${d}/a`)) text += part;
        return text;
      },
      'one',
      ['/ a', 'data of a'],
    ],
    [
      'a file by a URL and by bytes',
      async (d) => [
        fs.readFileSync(pathToFileURL(`${d}/a`), 'utf8'),
        fs.readFileSync(Buffer.from(`${d}/b`), 'utf8'),
      ],
      ['one', 'three'],
      ['/ a', 'data of a', '/ b', 'data of b'],
    ],
    [
      'a folder entry by entry',
      async (d) => {
        const names: string[] = [];
        for await (const { name } of await fsp.opendir(`${d}/d`)) names.push(name);
        return names.sort();
      },
      ['e', 'x'],
      ['/ d', 'names of d', 'd x', 'd e'],
    ],
    [
      'what a folder has in place of a file',
      (d) => {
        try {
          return fs.readFileSync(`${d}/d`);
        } catch (error) {
          return (error as NodeJS.ErrnoException).code;
        }
      },
      'EISDIR',
      ['/ d'],
    ],
  ])('%s decides that, and no more', async (_, run, value, asked) => {
    const recovered = await recover(STATE, run);
    expect(recovered.value).toEqual(value);
    expect(recovered.asked).toEqual(asked);
  });
});

describe('what a recovery changes', () => {
  test('stays as it has left it: a file that was removed is not there again', async () => {
    const { value } = await recover(STATE, (d) => {
      fs.unlinkSync(`${d}/a`);
      return [fs.existsSync(`${d}/a`), fs.readdirSync(d).sort()];
    });
    expect(value).toEqual([false, ['b', 'd', 's']]);
  });

  test('is not looked at: a file that is written anew', async () => {
    const { value, asked } = await recover(STATE, (d) => {
      fs.writeFileSync(`${d}/a`, 'mine');
      return fs.readFileSync(`${d}/a`, 'utf8');
    });
    expect(value).toBe('mine');
    expect(asked).toEqual(['/ a']);
  });

  test('is what it appends to, and cuts', async () => {
    const { value } = await recover(STATE, (d) => {
      fs.appendFileSync(`${d}/a`, ' more');
      fs.truncateSync(`${d}/b`, 2);
      return [fs.readFileSync(`${d}/a`, 'utf8'), fs.readFileSync(`${d}/b`, 'utf8')];
    });
    expect(value).toEqual(['one more', 'th']);
  });

  test('moves with its bytes, and what it has replaced does not come back', async () => {
    const { value } = await recover(STATE, (d) => {
      fs.renameSync(`${d}/a`, `${d}/b`);
      return [
        fs.existsSync(`${d}/a`),
        fs.statSync(`${d}/b`).size,
        fs.readFileSync(`${d}/b`, 'utf8'),
      ];
    });
    expect(value).toEqual([false, 3, 'one']);
  });

  test('moves as a whole folder', async () => {
    const { value } = await recover(STATE, (d) => {
      fs.renameSync(`${d}/d`, `${d}/moved`);
      fs.mkdirSync(`${d}/d`);
      fs.writeFileSync(`${d}/d/x`, 'new');
      return [
        fs.readFileSync(`${d}/moved/e/y`, 'utf8'),
        fs.readFileSync(`${d}/d/x`, 'utf8'),
        fs.readdirSync(`${d}/d`),
      ];
    });
    expect(value).toEqual(['deeper', 'new', ['x']]);
  });

  test('may be a copy, a link, or a removal of a folder', async () => {
    const { value } = await recover(STATE, async (d) => {
      await fsp.cp(`${d}/d`, `${d}/copy`, { recursive: true });
      await fsp.rm(`${d}/d`, { recursive: true });
      await fsp.link(`${d}/a`, `${d}/same`);
      await fsp.copyFile(`${d}/b`, `${d}/a`);
      const texts = ['copy/e/y', 'copy/x', 'a', 'same'].map((path) =>
        fs.readFileSync(`${d}/${path}`, 'utf8'),
      );
      return [...texts, fs.existsSync(`${d}/d/x`)];
    });
    expect(value).toEqual(['deeper', 'deep', 'three', 'three', false]);
  });

  test('is seen under all names of one file', async () => {
    const file = { file: 'shared' };
    const { value } = await recover({ a: file, b: file, c: file }, (d) => {
      fs.appendFileSync(`${d}/a`, '!');
      const through = fs.readFileSync(`${d}/b`, 'utf8');
      fs.renameSync(`${d}/a`, `${d}/moved`);
      fs.unlinkSync(`${d}/b`);
      return [through, fs.readFileSync(`${d}/c`, 'utf8'), fs.statSync(`${d}/c`).nlink];
    });
    expect(value).toEqual(['shared!', 'shared!', 2]);
  });

  test('leaves the bytes of another name to be looked at', async () => {
    const file = { file: 'shared' };
    const { value } = await recover({ a: file, b: file }, (d) => {
      fs.readdirSync(d);
      fs.unlinkSync(`${d}/a`);
      return fs.readFileSync(`${d}/b`, 'utf8');
    });
    expect(value).toBe('shared');
  });
});

test('a folder under two names has its files under both, and below itself it is empty', async () => {
  const folder: Record<string, Written> = { a: 'x', deep: { b: 'y' } };
  Object.assign(folder, { self: folder });
  const { value } = await recover({ one: folder, two: folder }, (d) => [
    fs.readFileSync(`${d}/one/a`, 'utf8'),
    fs.readFileSync(`${d}/two/a`, 'utf8'),
    fs.readdirSync(`${d}/two`),
    fs.readFileSync(`${d}/two/deep/b`, 'utf8'),
    fs.readdirSync(`${d}/two/self`),
    fs.readdirSync(`${d}/one`, { recursive: true }).length,
  ]);
  expect(value).toEqual(['x', 'x', ['a', 'deep', 'self'], 'y', [], 4]);
});

test('links that lead in circles, up, or out of the folder are those of the system', async () => {
  const state = {
    a: '-> b',
    b: '-> a',
    d: { up: '-> ../x', out: '-> ../../../etc/passwd' },
    x: 'x',
  };
  const { value } = await recover(state, (d) => {
    const codes = [];
    try {
      fs.readFileSync(`${d}/a`);
    } catch (error) {
      codes.push((error as NodeJS.ErrnoException).code);
    }
    return [...codes, fs.readFileSync(`${d}/d/up`, 'utf8'), fs.readlinkSync(`${d}/d/out`)];
  });
  expect(value).toEqual(['ELOOP', 'x', '../../../etc/passwd']);
});

test('an absolute link into the folder is followed', async () => {
  const { value } = await recover({ s: `-> ${root}/d`, d: { x: 'deep' } }, (d) =>
    fs.readFileSync(`${d}/s/x`, 'utf8'),
  );
  expect(value).toBe('deep');
});

test('a recovery that reads past node:fs has the whole tree', async () => {
  const { tree } = stateOf(STATE);
  const text = await recoverIn({ root, tree, isWhole: true }, (d) =>
    execFileSync('sh', ['-c', 'cat a b d/x d/e/y s'], { cwd: d, encoding: 'utf8' }),
  );
  expect(text).toBe('onethreedeepdeeperdeep');
});

test('each recovery begins with an empty folder, and puts the functions back', async () => {
  const { readFileSync } = fs;
  await recover(STATE, (d) => fs.writeFileSync(`${d}/left`, 'over'));
  await expect(
    recover(STATE, (d) => {
      expect(fs.existsSync(`${d}/left`)).toBe(false);
      throw new Error('no');
    }),
  ).rejects.toThrow('no');
  expect(fs.readFileSync).toBe(readFileSync);
});
