// A real folder as inodes, and what a trace makes of a tree: the two that are compared when a recording ends.
//
// What got past a recorder (native code, another process, a worker, a mapping) has changed the folder, and the trace does not have
// it. So at the end the tree that the trace makes is compared with the one that is there. A change that was undone again is
// not seen. Times, modes and owners are not compared, because no trace has them.
//
// A file with several names is one inode. The system's own numbers say so, and for nothing else they are used, because it gives
// a number again when a file is gone.

import { join } from 'node:path';
import { quietly, real } from './originals.js';
import { ROOT, type ShadowTree } from './shadow.js';
import type { Entry, FileChange, FileNode, FileOperation, FileSync, FilesTrace } from './trace.js';

/** A directory whose entries can be changed. */
type MutableNode =
  | Exclude<FileNode, { readonly kind: 'directory' }>
  | { readonly kind: 'directory'; readonly entries: Map<string, number> };

/**
 * What is in a folder. A name that the shadow has keeps its inode, because descriptors of it may be open.
 *
 * @param gap called with a sentence for what is neither file nor directory nor link
 */
export function initialOf(
  root: string,
  shadow: ShadowTree,
  gap: (sentence: string) => void,
): Map<number, FileNode> {
  const nodes = new Map<number, MutableNode>();
  /** Files with several names, by the inode of the system. */
  const linked = new Map<string, number>();
  const walk = (path: string, inode: number): void => {
    const entries = new Map<string, number>();
    nodes.set(inode, { kind: 'directory', entries });
    for (const name of real.readdirSync(path).sort()) {
      const full = join(path, name);
      const status = real.lstatSync(full);
      const known = shadow.entry(inode, name);
      const isTaken = known === undefined || nodes.has(known);
      const key = `${status.dev}:${status.ino}`;
      const number = linked.get(key) ?? (isTaken ? shadow.newInode() : known);
      const isNew = !nodes.has(number);
      if (status.isDirectory()) walk(full, number);
      else if (status.isSymbolicLink())
        nodes.set(number, { kind: 'symlink', target: real.readlinkSync(full) });
      else if (!status.isFile()) {
        gap(`${full} is neither a file nor a directory nor a symbolic link`);
        continue;
      } else if (isNew) {
        nodes.set(number, { kind: 'file', data: bytesOf(full) });
        if (status.nlink > 1) linked.set(key, number);
      }
      entries.set(name, number);
    }
  };
  walk(root, ROOT);
  return nodes;
}

/** The tree after all operations of a trace. */
export function finalTree({ initial, operations }: FilesTrace): ReadonlyMap<number, FileNode> {
  const nodes = new Map<number, MutableNode>();
  for (const [inode, node] of initial) {
    nodes.set(
      inode,
      node.kind === 'directory' ? { ...node, entries: new Map(node.entries) } : node,
    );
  }
  const contents = new Contents(initial);
  for (const operation of operations) {
    contents.apply(operation);
    applyNames(nodes, operation);
  }
  for (const [inode, data] of contents.all()) nodes.set(inode, { kind: 'file', data });
  return nodes;
}

function applyNames(nodes: Map<number, MutableNode>, change: FileOperation): void {
  const enter = ({ directory, name }: Entry, inode: number | undefined): void => {
    const node = nodes.get(directory);
    if (node?.kind !== 'directory') return;
    if (inode === undefined) node.entries.delete(name);
    else node.entries.set(name, inode);
  };
  if (change.op === 'mkdir') nodes.set(change.inode, { kind: 'directory', entries: new Map() });
  if (change.op === 'symlink') nodes.set(change.inode, { kind: 'symlink', target: change.target });
  if (change.op === 'create') nodes.set(change.inode, { kind: 'file', data: new Uint8Array() });
  if (change.op === 'rename') {
    enter(change.from, undefined);
    enter(change.to, change.inode);
  } else if ('directory' in change) {
    enter(change, change.op === 'unlink' || change.op === 'rmdir' ? undefined : change.inode);
  }
}

/** What the files of a tree contain while operations are applied, in the order of a trace. */
export class Contents {
  readonly #initial: ReadonlyMap<number, FileNode>;
  /** Of the files that were changed. */
  readonly #changed = new Map<number, GrowingBytes>();

  constructor(initial: ReadonlyMap<number, FileNode>) {
    this.#initial = initial;
  }

  apply(change: FileChange | FileSync): void {
    if (change.op === 'write') this.#of(change.inode).write(change.offset, change.data);
    else if (change.op === 'truncate') this.#of(change.inode).truncate(change.size);
  }

  /** A view, which later changes may change. */
  of(inode: number): Uint8Array {
    const node = this.#initial.get(inode);
    return (
      this.#changed.get(inode)?.bytes ?? (node?.kind === 'file' ? node.data : new Uint8Array())
    );
  }

  /** The files that were changed. */
  *all(): Generator<readonly [inode: number, data: Uint8Array], void> {
    for (const [inode, { bytes }] of this.#changed) yield [inode, bytes];
  }

  #of(inode: number): GrowingBytes {
    let bytes = this.#changed.get(inode);
    if (!bytes) {
      bytes = new GrowingBytes(this.of(inode));
      this.#changed.set(inode, bytes);
    }
    return bytes;
  }
}

/** Bytes to which others are added, in time that is linear in what is added. */
class GrowingBytes {
  #buffer: Uint8Array;
  #size: number;

  constructor(bytes: Uint8Array) {
    this.#buffer = Uint8Array.from(bytes);
    this.#size = bytes.length;
  }

  get bytes(): Uint8Array {
    return this.#buffer.subarray(0, this.#size);
  }

  write(offset: number, data: Uint8Array): void {
    this.#reserve(offset + data.length);
    this.#buffer.set(data, offset);
    this.#size = Math.max(this.#size, offset + data.length);
  }

  truncate(size: number): void {
    this.#reserve(size);
    // What lies behind the end reads as zeroes when the file grows again.
    this.#buffer.fill(0, Math.min(size, this.#size), this.#size);
    this.#size = size;
  }

  #reserve(size: number): void {
    if (size <= this.#buffer.length) return;
    const larger = new Uint8Array(Math.max(size, this.#buffer.length * 2));
    larger.set(this.#buffer.subarray(0, this.#size));
    this.#buffer = larger;
  }
}

/** The paths in a folder that are not as the trace says. */
export function differences(root: string, trace: FilesTrace): string[] {
  const nodes = finalTree(trace);
  const found: string[] = [];
  const walk = (path: string, shown: string, inode: number): void => {
    const node = nodes.get(inode);
    const entries = node?.kind === 'directory' ? node.entries : new Map<string, number>();
    for (const name of new Set([...real.readdirSync(path), ...entries.keys()])) {
      const number = entries.get(name);
      const expected = number === undefined ? undefined : nodes.get(number);
      const full = join(path, name);
      if (!isAsExpected(full, expected)) found.push(`${shown}/${name}`);
      else if (number !== undefined && expected?.kind === 'directory')
        walk(full, `${shown}/${name}`, number);
    }
  };
  walk(root, '', ROOT);
  return found;
}

function isAsExpected(path: string, node: FileNode | undefined): boolean {
  const status = real.lstatSync(path, { throwIfNoEntry: false });
  if (!status || !node) return !status && !node;
  if (node.kind === 'directory') return status.isDirectory();
  if (node.kind === 'symlink')
    return status.isSymbolicLink() && real.readlinkSync(path) === node.target;
  return (
    status.isFile() &&
    status.size === node.data.length &&
    Buffer.compare(bytesOf(path), node.data) === 0
  );
}

function bytesOf(path: string): Uint8Array {
  const { buffer, byteOffset, byteLength } = quietly(() => real.readFileSync(path));
  return new Uint8Array(buffer, byteOffset, byteLength);
}
