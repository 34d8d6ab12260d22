// A second tree beside the real one, which turns the paths and descriptors of calls into inodes, and calls into operations.
//
//   H1  The shadow has what the calls that it was told of have made. It never looks at the real tree.
//   H2  A path is resolved as a kernel does it: through symbolic links, those that lead out of the tree excepted.
//   H3  A call is made of operations, one after the other: each ends when the next of the same call begins, and the last one
//       when the caller has its answer.
//   H4  What changes nothing is no operation: a write of no bytes, a truncation to the same size, a rename to the same file.
//
// Contents are not kept here, because the trace has them: `finalTree` plays the trace.
//
// Not here: how a call is seen (record.ts, strace.ts), what is in the real tree (folder.ts).

import { posix } from 'node:path';
import { CallSites } from '../device/call-site.js';
import type { Entry, FileChange, FileNode, FileSync, FilesTrace } from './trace.js';

/** The number of the root of a tree. */
export const ROOT = 1;

/** A tree of inodes, as far as a path needs it. */
export interface Tree {
  /** The inode that has this name in a directory. */
  entry(directory: number, name: string): number | undefined;
  kind(inode: number): FileNode['kind'];
  /** Where a symbolic link points to. */
  target(inode: number): string;
}

/** Where a path leads to. */
export interface Place extends Entry {
  /** Absolute in the tree, without links; `/` is the root. */
  readonly path: string;
  /** Absent if there is nothing of this name. */
  readonly inode: number | undefined;
}

/** As many symbolic links as Linux follows. */
const LINKS_MAX = 40;

/**
 * Resolves a path of a tree.
 *
 * @param root the real path of the root, to which absolute targets of links are compared
 * @param follow whether a link that the path ends with is followed
 * @returns undefined if the path leads out of the tree, or through what is no directory
 */
export function resolveIn(
  tree: Tree,
  root: string,
  path: string,
  follow: boolean,
): Place | undefined {
  const rest = partsOf(path);
  const above: Place[] = [];
  let at: Place = { directory: ROOT, name: '', path: '/', inode: ROOT };
  for (let links = 0; rest.length > 0; ) {
    const name = rest.shift() as string;
    const { inode } = at;
    if (inode === undefined || tree.kind(inode) !== 'directory') return undefined;
    if (name === '..') {
      const parent = above.pop();
      if (!parent) return undefined;
      at = parent;
      continue;
    }
    const next = tree.entry(inode, name);
    const isLink = next !== undefined && tree.kind(next) === 'symlink';
    if (isLink && (follow || rest.length > 0)) {
      links++;
      const target = tree.target(next);
      const isAbsolute = posix.isAbsolute(target);
      const inTree = isAbsolute ? insideOf(root, target) : target;
      if (inTree === undefined || links > LINKS_MAX) return undefined;
      rest.unshift(...partsOf(inTree));
      if (isAbsolute) {
        above.length = 0;
        at = { directory: ROOT, name: '', path: '/', inode: ROOT };
      }
      continue;
    }
    above.push(at);
    at = { directory: inode, name, path: posix.join(at.path, name), inode: next };
  }
  return at;
}

/** A path of the system as one of the tree below `root`, `/` for the root itself; undefined if it is outside. */
export function insideOf(root: string, path: string): string | undefined {
  if (path === root) return '/';
  return path.startsWith(`${root}/`) ? path.slice(root.length) : undefined;
}

const partsOf = (path: string): string[] =>
  path.split('/').filter((part) => part !== '' && part !== '.');

/** An operation that is being made; `end` is set when it is answered. */
export type Begun = (FileChange | FileSync) & { readonly begin: number; end: number };

interface ShadowFile {
  readonly kind: 'file';
  size: number;
  /** Whether it was written without O_SYNC and O_DSYNC since it was last synced. */
  isDirty: boolean;
}
type ShadowNode =
  | ShadowFile
  | { readonly kind: 'directory'; readonly entries: Map<string, number> }
  | { readonly kind: 'symlink'; readonly target: string };

/** The shadow of the tree below `root`; see the essay above. */
export class ShadowTree implements Tree {
  readonly root: string;
  readonly #outerSite: () => number | undefined;
  readonly #nodes = new Map<number, ShadowNode>();
  readonly #gaps = new Set<string>();
  readonly #sites = new CallSites();
  /** The call sites of operations: the innermost, and that of the call around it, by their numbers. */
  readonly #calledFrom = new Map<
    Begun,
    { readonly own: number; readonly outer: number | undefined }
  >();
  #operations: Begun[] = [];
  #marks: { readonly time: number; readonly value: unknown }[] = [];
  #initial: ReadonlyMap<number, FileNode> = new Map([[ROOT, emptyDirectory()]]);
  /** The initial tree as far as it is known, above another trace. */
  #known = new Map<number, FileNode>();
  #now = 0;
  #nextInode = ROOT + 1;
  /** The last operation of the call that is being made (H3). */
  #current: Begun | undefined;

  /** @param outerSite the number of the call site of a call that has gone on in callbacks, which stacks do not show */
  constructor(root: string, outerSite: () => number | undefined = () => undefined) {
    this.root = root;
    this.#outerSite = outerSite;
    this.#nodes.set(ROOT, emptyDirectory());
  }

  /** From now on the trace begins: all that is there is durable. */
  seal(initial: ReadonlyMap<number, FileNode>): void {
    this.#initial = initial;
    this.#operations = [];
    this.#marks = [];
    this.#calledFrom.clear();
    this.#gaps.clear();
    this.#now = 0;
    this.#current = undefined;
    this.#nodes.clear();
    for (const [inode, node] of initial) {
      this.#nodes.set(inode, shadowOf(node));
      this.#nextInode = Math.max(this.#nextInode, inode + 1);
    }
  }

  /**
   * Begins a trace above a tree of which nothing is known yet: `learn` says what is.
   *
   * @param firstInode a number that no inode of that tree has, nor any above it
   */
  startAbove(firstInode: number): void {
    this.#nextInode = firstInode;
    this.#known = new Map([[ROOT, emptyDirectory()]]);
    this.#initial = this.#known;
  }

  /** A name of the tree before the trace. */
  learn(directory: number, name: string, inode: number, node: FileNode): void {
    if (!this.#known.has(inode)) {
      this.#known.set(inode, node);
      this.#nodes.set(inode, shadowOf(node));
    }
    const known = this.#known.get(directory);
    if (known?.kind === 'directory') (known.entries as Map<string, number>).set(name, inode);
    this.#enter(directory, name, inode);
  }

  /** The bytes of a file of the tree before the trace. */
  learnData(inode: number, data: Uint8Array): void {
    this.#known.set(inode, { kind: 'file', data });
    this.#nodes.set(inode, { kind: 'file', size: data.length, isDirty: false });
  }

  /** A number that no inode has had. */
  newInode(): number {
    return this.#nextInode++;
  }

  /** The trace up to now, as plain data. */
  trace(): FilesTrace {
    const operations = this.#operations.map((operation) => {
      const site = this.#siteOf(operation);
      return Object.freeze({ ...operation, ...(site === undefined ? {} : { site }) });
    });
    return {
      initial: this.#initial,
      operations,
      marks: [...this.#marks],
      end: this.#now,
      gaps: [...this.#gaps],
    };
  }

  entry(directory: number, name: string): number | undefined {
    const node = this.#nodes.get(directory);
    return node?.kind === 'directory' ? node.entries.get(name) : undefined;
  }

  kind(inode: number): FileNode['kind'] {
    return this.#node(inode).kind;
  }

  target(inode: number): string {
    const node = this.#node(inode);
    return node.kind === 'symlink' ? node.target : '';
  }

  /** In bytes; 0 for what is no file. */
  size(inode: number): number {
    const node = this.#node(inode);
    return node.kind === 'file' ? node.size : 0;
  }

  names(directory: number): string[] {
    const node = this.#nodes.get(directory);
    return node?.kind === 'directory' ? [...node.entries.keys()] : [];
  }

  place(path: string, follow: boolean): Place | undefined {
    return resolveIn(this, this.root, path, follow);
  }

  /** The operations up to now. */
  get begun(): readonly Begun[] {
    return this.#operations;
  }

  /** Says that something is missing in the trace. */
  gap(sentence: string): void {
    this.#gaps.add(sentence);
  }

  mark(value: unknown): void {
    this.#marks.push({ time: this.#now++, value });
  }

  /** The number of a call site: that of the current call. */
  callSite(): number {
    const number = this.#sites.count;
    this.#sites.add();
    return number;
  }

  /** Begins a call: what comes next does not end what came before (H3). */
  beginCall(): void {
    this.#current = undefined;
  }

  /** The last operation of the call that is being made. */
  get current(): Begun | undefined {
    return this.#current;
  }

  /** An operation is answered. */
  end(operation: Begun | undefined): void {
    if (operation?.end === Number.POSITIVE_INFINITY) operation.end = this.#now++;
  }

  create({ directory, name }: Entry): number {
    const inode = this.#add({ kind: 'file', size: 0, isDirty: false });
    this.#enter(directory, name, inode);
    this.#begin({ op: 'create', directory, name, inode });
    return inode;
  }

  mkdir({ directory, name }: Entry): number {
    const inode = this.#add(emptyDirectory());
    this.#enter(directory, name, inode);
    this.#begin({ op: 'mkdir', directory, name, inode });
    return inode;
  }

  symlink({ directory, name }: Entry, target: string): void {
    const inode = this.#add({ kind: 'symlink', target });
    this.#enter(directory, name, inode);
    this.#begin({ op: 'symlink', directory, name, inode, target });
  }

  link(inode: number, { directory, name }: Entry): void {
    this.#enter(directory, name, inode);
    this.#begin({ op: 'link', directory, name, inode });
  }

  /** Removes a name, of a file or of an empty directory. */
  remove({ directory, name, inode }: Place): void {
    if (inode === undefined) return;
    this.#enter(directory, name, undefined);
    const op = this.kind(inode) === 'directory' ? 'rmdir' : 'unlink';
    this.#begin({ op, directory, name, inode });
  }

  rename(from: Place, to: Place): void {
    const { inode } = from;
    // Two names of one file: rename(2) does nothing, and says that it has.
    if (inode === undefined || inode === to.inode) return;
    this.#enter(from.directory, from.name, undefined);
    this.#enter(to.directory, to.name, inode);
    this.#begin({
      op: 'rename',
      inode,
      from: { directory: from.directory, name: from.name },
      to: { directory: to.directory, name: to.name },
      ...(to.inode === undefined ? {} : { replaced: to.inode }),
    });
  }

  /** renameat2 with RENAME_EXCHANGE has no operation of its own. */
  exchange(a: Place, b: Place): void {
    this.gap('two names were exchanged at once (RENAME_EXCHANGE), which the record does not have');
    this.#enter(a.directory, a.name, b.inode);
    this.#enter(b.directory, b.name, a.inode);
  }

  write(inode: number, offset: number, data: Uint8Array, isSynchronous = false): void {
    const node = this.#file(inode);
    if (!node || data.length === 0) return;
    node.size = Math.max(node.size, offset + data.length);
    node.isDirty ||= !isSynchronous;
    // A copy, because the program may use its buffer again.
    this.#begin({ op: 'write', inode, offset, data: Uint8Array.from(data) });
  }

  truncate(inode: number, size: number): void {
    const node = this.#file(inode);
    if (!node || node.size === size) return;
    node.size = size;
    this.#begin({ op: 'truncate', inode, size });
  }

  sync(inode: number, op: 'fsync' | 'fdatasync'): void {
    const node = this.#file(inode);
    if (node) node.isDirty = false;
    this.#begin({ op, inode });
  }

  /**
   * A write through a descriptor with O_SYNC or O_DSYNC is followed by this. A kernel syncs the bytes of this write alone, and
   * the operations have no word for that.
   */
  syncAfterWrite(inode: number, op: 'fsync' | 'fdatasync'): void {
    if (this.#file(inode)?.isDirty)
      this.gap(
        'a file was written both with O_SYNC or O_DSYNC and without, and the record takes a synchronous write for a sync of the whole file',
      );
    this.sync(inode, op);
  }

  syncAll(): void {
    for (const node of this.#nodes.values()) if (node.kind === 'file') node.isDirty = false;
    this.#begin({ op: 'sync' });
  }

  #begin(what: FileChange | FileSync): void {
    this.end(this.#current);
    const operation: Begun = { ...what, begin: this.#now++, end: Number.POSITIVE_INFINITY };
    this.#operations.push(operation);
    this.#calledFrom.set(operation, { own: this.callSite(), outer: this.#outerSite() });
    this.#current = operation;
  }

  #siteOf(operation: Begun): string | undefined {
    const { own, outer } = this.#calledFrom.get(operation) ?? {};
    const inner = own === undefined ? undefined : this.#sites.describe(own);
    return inner ?? (outer === undefined ? undefined : this.#sites.describe(outer));
  }

  #node(inode: number): ShadowNode {
    return this.#nodes.get(inode) ?? { kind: 'file', size: 0, isDirty: false };
  }

  #file(inode: number): ShadowFile | undefined {
    const node = this.#nodes.get(inode);
    return node?.kind === 'file' ? node : undefined;
  }

  #add(node: ShadowNode): number {
    const inode = this.newInode();
    this.#nodes.set(inode, node);
    return inode;
  }

  #enter(directory: number, name: string, inode: number | undefined): void {
    const node = this.#nodes.get(directory);
    if (node?.kind !== 'directory') return;
    if (inode === undefined) node.entries.delete(name);
    else node.entries.set(name, inode);
  }
}

const emptyDirectory = (): {
  readonly kind: 'directory';
  readonly entries: Map<string, number>;
} => ({
  kind: 'directory',
  entries: new Map(),
});

function shadowOf(node: FileNode): ShadowNode {
  if (node.kind === 'directory') return { kind: 'directory', entries: new Map(node.entries) };
  if (node.kind === 'symlink') return node;
  return { kind: 'file', size: node.data.length, isDirty: false };
}
