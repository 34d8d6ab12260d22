// Little programs over files, and what a shadow of their tree makes of them: traces.

import type { FileNode, FileOperation, FilesTrace } from '../../../src/testing/files/trace.js';

/** A call, with paths. */
export type Call =
  | readonly [op: 'create' | 'mkdir' | 'unlink' | 'rmdir' | 'fsync' | 'fdatasync', path: string]
  | readonly [op: 'sync']
  | readonly [op: 'write', path: string, offset: number, text: string]
  | readonly [op: 'truncate', path: string, size: number]
  | readonly [op: 'rename' | 'link' | 'symlink', from: string, to: string];

/** What is durable before the trace, and what the program does. */
export interface Program {
  readonly before: readonly Call[];
  readonly calls: readonly Call[];
}

type Made = FileOperation extends infer O
  ? O extends O
    ? Omit<O, 'begin' | 'end'>
    : never
  : never;
type Node =
  | { kind: 'file'; data: Uint8Array }
  | { kind: 'directory'; entries: Map<string, number> }
  | { kind: 'symlink'; target: string };

/** A tree of files, and the operations on it. */
export class Shadow {
  readonly inodes: Map<number, Node> = new Map<number, Node>([
    [1, { kind: 'directory', entries: new Map() }],
  ]);
  #next = 2;

  /** The inode at a path; undefined if there is none. */
  lookup(path: string): number | undefined {
    let inode: number | undefined = 1;
    for (const part of path.split('/').filter(Boolean)) {
      const node: Node | undefined = inode === undefined ? undefined : this.inodes.get(inode);
      inode = node?.kind === 'directory' ? node.entries.get(part) : undefined;
    }
    return inode;
  }

  /** Carries out a call, and says what it was; undefined if a system would refuse it. */
  run(call: Call): Made | undefined {
    if (call[0] === 'sync') return { op: 'sync' };
    const [, path] = call;
    const inode = this.lookup(path);
    const at = this.#at(path);
    switch (call[0]) {
      case 'fsync':
      case 'fdatasync':
        return inode === undefined ? undefined : { op: call[0], inode };
      case 'write':
      case 'truncate': {
        const node = inode === undefined ? undefined : this.inodes.get(inode);
        if (node?.kind !== 'file' || inode === undefined) return undefined;
        if (call[0] === 'truncate') {
          node.data = resized(node.data, call[2]);
          return { op: 'truncate', inode, size: call[2] };
        }
        const data = new Uint8Array(Buffer.from(call[3], 'latin1'));
        node.data = resized(node.data, Math.max(node.data.length, call[2] + data.length));
        node.data.set(data, call[2]);
        return { op: 'write', inode, offset: call[2], data };
      }
      case 'create':
      case 'mkdir': {
        if (inode !== undefined || !at) return undefined;
        const made = this.#add(
          call[0] === 'mkdir'
            ? { kind: 'directory', entries: new Map() }
            : { kind: 'file', data: new Uint8Array(0) },
        );
        this.#set(at, made);
        return { op: call[0], ...at, inode: made };
      }
      case 'symlink': {
        const to = this.#at(call[2]);
        if (!to || this.lookup(call[2]) !== undefined) return undefined;
        const made = this.#add({ kind: 'symlink', target: path });
        this.#set(to, made);
        return { op: 'symlink', ...to, inode: made, target: path };
      }
      case 'unlink':
      case 'rmdir': {
        if (inode === undefined || !at || inode === 1) return undefined;
        const node = this.inodes.get(inode) as Node;
        if ((node.kind === 'directory') !== (call[0] === 'rmdir')) return undefined;
        if (node.kind === 'directory' && node.entries.size > 0) return undefined;
        this.#set(at, undefined);
        return { op: call[0], ...at, inode };
      }
      case 'link': {
        const to = this.#at(call[2]);
        const node = inode === undefined ? undefined : this.inodes.get(inode);
        if (node?.kind !== 'file' || !to || this.lookup(call[2]) !== undefined) return undefined;
        this.#set(to, inode);
        return { op: 'link', ...to, inode: inode as number };
      }
      case 'rename': {
        const to = this.#at(call[2]);
        const replaced = this.lookup(call[2]);
        if (inode === undefined || !at || !to || replaced === inode) return undefined;
        if (`${call[2]}/`.startsWith(`${path}/`)) return undefined;
        const [old, node] = [replaced ?? inode, inode].map((one) => this.inodes.get(one) as Node);
        if (old?.kind !== node?.kind) return undefined;
        if (replaced !== undefined && old?.kind === 'directory' && old.entries.size > 0) {
          return undefined;
        }
        this.#set(at, undefined);
        this.#set(to, inode);
        return { op: 'rename', inode, from: at, to, replaced };
      }
    }
  }

  /** The tree as it is, all of it durable. */
  get initial(): Map<number, FileNode> {
    const copy = (node: Node): FileNode => {
      if (node.kind === 'directory') return { ...node, entries: new Map(node.entries) };
      return node.kind === 'file' ? { ...node, data: node.data.slice() } : { ...node };
    };
    return new Map([...this.inodes].map(([inode, node]) => [inode, copy(node)]));
  }

  #add(node: Node): number {
    this.inodes.set(this.#next, node);
    this.#next += 1;
    return this.#next - 1;
  }

  #at(path: string): { directory: number; name: string } | undefined {
    const slash = path.lastIndexOf('/');
    const directory = this.lookup(path.slice(0, slash));
    const node = directory === undefined ? undefined : this.inodes.get(directory);
    if (node?.kind !== 'directory' || directory === undefined) return undefined;
    return { directory, name: path.slice(slash + 1) };
  }

  #set({ directory, name }: { directory: number; name: string }, inode: number | undefined): void {
    const { entries } = this.inodes.get(directory) as Node & { kind: 'directory' };
    if (inode === undefined) entries.delete(name);
    else entries.set(name, inode);
  }
}

function resized(data: Uint8Array, size: number): Uint8Array {
  const bytes = new Uint8Array(size);
  bytes.set(data.subarray(0, size));
  return bytes;
}

/**
 * The trace of a program, one call after the other.
 *
 * @param answers how many calls begin before each is answered; by default each is answered at once
 */
export function traceOf({ before, calls }: Program, answers: readonly number[] = []): FilesTrace {
  const shadow = new Shadow();
  for (const call of before) shadow.run(call);
  const { initial } = shadow;
  const made = calls.flatMap((call) => shadow.run(call) ?? []);
  // Two moments for each call: its beginning, and before the next one those that are answered.
  const operations = made.map((one, n) => {
    const begin = 100 * n;
    const late = answers[n] ?? 0;
    const end = n + late < made.length || late === 0 ? 100 * (n + late) + 1 + n : Infinity;
    return { ...one, begin, end } as FileOperation;
  });
  return { initial, operations, marks: [], end: 100 * made.length };
}

/** A tree as text: what a person would compare. */
export function textOf(
  tree: ReadonlyMap<string, { kind: string; data?: Uint8Array; target?: string }>,
): string {
  const entries = [...tree].map(([path, { kind, data, target }]) => {
    if (kind === 'file') return [path, Buffer.from(data as Uint8Array).toString('latin1')];
    return [path, kind === 'directory' ? null : { target }];
  });
  return JSON.stringify(Object.fromEntries(entries));
}

const long = (text: string, length: number): string => text.repeat(length);
const one: readonly Call[] = [
  ['create', '/a'],
  ['write', '/a', 0, 'old'],
];

/** The programs whose trees were compared with those of ext4, xfs and btrfs. */
export const PROGRAMS: Readonly<Record<string, Program>> = {
  'replace via rename, no fsync': {
    before: one,
    calls: [
      ['create', '/t'],
      ['write', '/t', 0, 'new!'],
      ['rename', '/t', '/a'],
    ],
  },
  'replace via rename, fsync before': {
    before: one,
    calls: [
      ['create', '/t'],
      ['write', '/t', 0, 'new!'],
      ['fsync', '/t'],
      ['rename', '/t', '/a'],
    ],
  },
  'replace via rename, fsync before and dir after': {
    before: one,
    calls: [
      ['create', '/t'],
      ['write', '/t', 0, 'new!'],
      ['fsync', '/t'],
      ['rename', '/t', '/a'],
      ['fsync', '/'],
    ],
  },
  'replace of 3 blocks via rename, no fsync': {
    before: one,
    calls: [
      ['create', '/t'],
      ['write', '/t', 0, long('n', 12_000)],
      ['rename', '/t', '/a'],
    ],
  },
  'first rename to a new name, no fsync': {
    before: [],
    calls: [
      ['create', '/t'],
      ['write', '/t', 0, 'new!'],
      ['rename', '/t', '/a'],
    ],
  },
  'append within a block': {
    before: one,
    calls: [
      ['write', '/a', 3, 'one'],
      ['write', '/a', 6, 'two'],
    ],
  },
  'append of blocks': {
    before: [
      ['create', '/a'],
      ['write', '/a', 0, long('o', 4096)],
    ],
    calls: [
      ['write', '/a', 4096, long('1', 4096)],
      ['write', '/a', 8192, long('2', 4096)],
    ],
  },
  'append to two files': {
    before: [
      ['create', '/a'],
      ['create', '/b'],
    ],
    calls: [
      ['write', '/a', 0, 'one'],
      ['write', '/b', 0, 'two'],
      ['write', '/a', 3, 'more'],
    ],
  },
  'append, fsync, append': {
    before: [['create', '/a']],
    calls: [
      ['write', '/a', 0, 'one'],
      ['fsync', '/a'],
      ['write', '/a', 3, 'two'],
      ['fdatasync', '/a'],
    ],
  },
  'overwrite two blocks in place': {
    before: [
      ['create', '/a'],
      ['write', '/a', 0, long('o', 8192)],
    ],
    calls: [['write', '/a', 0, long('n', 8192)]],
  },
  'write-ahead log': {
    before: [
      ['create', '/a'],
      ['write', '/a', 0, 'data0'],
      ['create', '/log'],
    ],
    calls: [
      ['write', '/log', 0, 'undo0'],
      ['fsync', '/log'],
      ['write', '/a', 0, 'data1'],
      ['fsync', '/a'],
      ['unlink', '/log'],
    ],
  },
  'create and fsync, no fsync of the directory': {
    before: [],
    calls: [
      ['create', '/a'],
      ['write', '/a', 0, 'one'],
      ['fsync', '/a'],
      ['create', '/b'],
      ['write', '/b', 0, 'two'],
    ],
  },
  'two files, fsync of the second': {
    before: [],
    calls: [
      ['create', '/a'],
      ['write', '/a', 0, 'one'],
      ['create', '/b'],
      ['write', '/b', 0, 'two'],
      ['fsync', '/b'],
    ],
  },
  'create, link, unlink': {
    before: [
      ['create', '/a'],
      ['write', '/a', 0, 'one'],
    ],
    calls: [
      ['link', '/a', '/b'],
      ['unlink', '/a'],
      ['link', '/b', '/c'],
    ],
  },
  'link, unlink, fsync': {
    before: [
      ['create', '/a'],
      ['write', '/a', 0, 'one'],
    ],
    calls: [
      ['link', '/a', '/b'],
      ['unlink', '/a'],
      ['fsync', '/b'],
    ],
  },
  'truncate and write': {
    before: one,
    calls: [
      ['truncate', '/a', 0],
      ['write', '/a', 0, 'new!'],
    ],
  },
  'open with O_TRUNC and write': {
    before: one,
    calls: [
      ['truncate', '/a', 0],
      ['write', '/a', 0, 'new!'],
    ],
  },
  'truncate to a part': {
    before: [
      ['create', '/a'],
      ['write', '/a', 0, long('o', 9000)],
    ],
    calls: [
      ['truncate', '/a', 5000],
      ['write', '/a', 5000, long('n', 3000)],
    ],
  },
  'directory rename': {
    before: [
      ['mkdir', '/d'],
      ['create', '/d/a'],
      ['write', '/d/a', 0, 'one'],
    ],
    calls: [
      ['mkdir', '/e'],
      ['rename', '/d/a', '/e/a'],
      ['rename', '/e', '/f'],
      ['create', '/f/b'],
    ],
  },
  'directory rename, fsync of a file in it': {
    before: [
      ['mkdir', '/d'],
      ['create', '/d/a'],
      ['write', '/d/a', 0, 'one'],
    ],
    calls: [
      ['rename', '/d', '/e'],
      ['write', '/e/a', 0, 'two'],
      ['fsync', '/e/a'],
    ],
  },
  'mkdir, create in it, fsync of the file': {
    before: [],
    calls: [
      ['mkdir', '/d'],
      ['create', '/d/a'],
      ['write', '/d/a', 0, 'one'],
      ['fsync', '/d/a'],
      ['mkdir', '/e'],
    ],
  },
  'log rotation': {
    before: [
      ['create', '/log'],
      ['write', '/log', 0, 'one'],
    ],
    calls: [
      ['write', '/log', 3, 'two'],
      ['rename', '/log', '/log.1'],
      ['create', '/log'],
      ['write', '/log', 0, 'three'],
      ['fsync', '/log'],
    ],
  },
  'two renames over each other': {
    before: [
      ['create', '/a'],
      ['write', '/a', 0, 'A'],
      ['create', '/b'],
      ['write', '/b', 0, 'B'],
    ],
    calls: [
      ['rename', '/a', '/x'],
      ['rename', '/b', '/a'],
      ['rename', '/x', '/b'],
    ],
  },
  'write over the end': {
    before: one,
    calls: [['write', '/a', 0, 'longer']],
  },
  'append of two blocks at once': {
    before: one,
    calls: [['write', '/a', 3, long('n', 5000)]],
  },
  'rename, fdatasync': {
    before: one,
    calls: [
      ['fsync', '/a'],
      ['rename', '/a', '/b'],
      ['fdatasync', '/b'],
    ],
  },
  'create and rename, fdatasync of the directory': {
    before: one,
    calls: [
      ['create', '/b'],
      ['rename', '/a', '/c'],
      ['fdatasync', '/'],
    ],
  },
};
