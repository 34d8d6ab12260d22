// A tree of files as a recovery may ask for it, a part at a time.

import type { Tree } from './shadow.js';
import type { FileNode } from './trace.js';

/** A tree that a power cut left. Each question may decide something. */
export interface CrashTree extends Tree {
  /** The names in a directory, sorted. */
  names(directory: number): readonly string[];
  /** In bytes. */
  size(inode: number): number;
  data(inode: number): Uint8Array;
}

/** A tree in which everything is decided. */
export function treeOf(nodes: ReadonlyMap<number, FileNode>): CrashTree {
  const bytes = (inode: number): Uint8Array => {
    const node = nodes.get(inode);
    return node?.kind === 'file' ? node.data : new Uint8Array();
  };
  const entries = (inode: number): ReadonlyMap<string, number> => {
    const node = nodes.get(inode);
    return node?.kind === 'directory' ? node.entries : new Map();
  };
  return {
    entry: (directory, name) => entries(directory).get(name),
    names: (directory) => [...entries(directory).keys()].sort(),
    kind: (inode) => nodes.get(inode)?.kind ?? 'file',
    target: (inode) => {
      const node = nodes.get(inode);
      return node?.kind === 'symlink' ? node.target : '';
    },
    size: (inode) => bytes(inode).length,
    data: bytes,
  };
}
