// A real folder for a recovery, in which the tree that a power cut left appears where the recovery looks.
//
// A crash state has decided nothing until it is asked. So what is asked for, and nothing else, is laid down: the name of a file
// for `existsSync`, its size for `stat`, its bytes for an open, the names of a folder for `readdir`. Then one recovery
// stands for all crash states that differ only where it has not looked.
//
//   V1  A path is laid down before the first call that uses it, and once. From then on the folder is what the recovery makes of it.
//   V2  What the recovery has removed, replaced or emptied is not laid down again, also if it has not looked at its bytes.
//   V3  What a recovery moves is laid down whole before, because its new names are not those of the crash state.
//   V4  Where names are independent, a crash state may have a folder under two names. No system lets a folder have two, so each has a
//       folder of its own, with the same files. Below itself a folder is empty.
//
// A recovery that reads past node:fs (native code, a child process, functions that were taken earlier) sees an empty folder, so
// it needs the whole tree: `isWhole`.
//
// Not here: how calls come here (session.ts, effects.ts), which crash states there are.

import { posix } from 'node:path';
import { listen } from './asks.js';
import { differences } from './folder.js';
import { replaceFunctions } from './node-fs.js';
import { quietly, real } from './originals.js';
import { unseenText } from './record.js';
import { closeSession, type Landing, type Need, openSession, Session } from './session.js';
import { ROOT, resolveIn, type ShadowTree, type Tree } from './shadow.js';
import type { FileNode } from './trace.js';
import type { CrashTree } from './tree.js';

/** How much of a file is there. */
const LEVELS = { name: 0, size: 1, data: 2 } as const;

/** What a call needs of a file. */
const FILE_NEEDS: Readonly<Record<Need, keyof typeof LEVELS>> = {
  name: 'name',
  size: 'size',
  data: 'data',
  names: 'name',
  shape: 'name',
  tree: 'data',
};

/** What a call on a folder needs of its entries; undefined if it needs no more than the folder. */
const ENTRY_NEEDS: Readonly<Partial<Record<Need, Need>>> = {
  names: 'name',
  shape: 'shape',
  tree: 'tree',
};

/** A file that was laid down: how much of it, and under which names. */
interface Laid {
  level: number;
  paths: string[];
}

/** A folder that was laid down. */
interface Folder {
  readonly path: string;
  /** Which one of the crash state it is. */
  readonly inode: number;
  /** The inodes of the folders above it. */
  readonly above: readonly number[];
}

/** See the essay above. */
export class RecoveryFolder implements Landing, Tree {
  readonly #root: string;
  readonly #tree: CrashTree;
  readonly #shadow: ShadowTree | undefined;
  /** The inodes of paths that are decided; undefined where nothing is, or what the recovery has made. */
  readonly #decided = new Map<string, number | undefined>([['/', ROOT]]);
  /** By a number that is the inode for its first name, and negative for each further one (V4). */
  readonly #folders = new Map<number, Folder>([[ROOT, { path: '/', inode: ROOT, above: [] }]]);
  readonly #files = new Map<number, Laid>();

  /**
   * @param root the real path of an empty folder
   * @param shadow is told what is laid down, if the recovery is recorded
   */
  constructor(root: string, tree: CrashTree, shadow?: ShadowTree) {
    this.#root = root;
    this.#tree = tree;
    this.#shadow = shadow;
  }

  touch(path: string, need: Need, follow: boolean): void {
    const place = resolveIn(this, this.#root, path, follow);
    if (place?.inode !== undefined) this.#need(place.inode, need);
  }

  removed(path: string): void {
    const place = resolveIn(this, this.#root, path, false);
    if (place?.inode === undefined) return;
    this.#decided.set(place.path, undefined);
    for (const laid of this.#files.values())
      laid.paths = laid.paths.filter((each) => !isBelow(each, place.path));
  }

  moved(from: string, to: string): void {
    const source = resolveIn(this, this.#root, from, false);
    const target = resolveIn(this, this.#root, to, false);
    this.removed(to);
    if (target) this.#decided.set(target.path, undefined);
    if (!source) return;
    this.#decided.set(source.path, undefined);
    const renamed = (path: string): string =>
      target && isBelow(path, source.path) ? target.path + path.slice(source.path.length) : path;
    for (const laid of this.#files.values()) laid.paths = laid.paths.map(renamed);
  }

  emptied(path: string): void {
    const { inode } = resolveIn(this, this.#root, path, true) ?? {};
    const laid = inode === undefined ? undefined : this.#files.get(inode);
    if (laid) laid.level = LEVELS.data;
  }

  /** The inode that a name in a folder has; the name is laid down. */
  entry(directory: number, name: string): number | undefined {
    const folder = this.#folders.get(directory);
    if (folder === undefined) return undefined;
    const path = posix.join(folder.path, name);
    if (!this.#decided.has(path)) {
      const isCircular = folder.above.includes(folder.inode);
      const inode = isCircular ? undefined : this.#tree.entry(folder.inode, name);
      this.#decided.set(path, inode);
      if (inode !== undefined) {
        quietly(() => this.#lay(path, inode, folder));
        const number = this.#decided.get(path) as number;
        if (number < 0) this.#shadow?.gap(TWO_NAMES);
        this.#shadow?.learn(directory, name, number, this.#emptyNode(inode));
      }
    }
    return this.#decided.get(path);
  }

  kind(inode: number): ReturnType<Tree['kind']> {
    return this.#tree.kind(this.#inodeOf(inode));
  }

  target(inode: number): string {
    return this.#tree.target(inode);
  }

  /** The inode of a number that may be that of a folder. */
  #inodeOf(number: number): number {
    return this.#folders.get(number)?.inode ?? number;
  }

  #emptyNode(inode: number): FileNode {
    const kind = this.#tree.kind(inode);
    if (kind === 'directory') return { kind, entries: new Map() };
    if (kind === 'symlink') return { kind, target: this.#tree.target(inode) };
    return { kind, data: new Uint8Array() };
  }

  /** Something of this name: a folder without entries, a file without bytes. */
  #lay(path: string, inode: number, parent: Folder): void {
    const full = this.#root + path;
    const kind = this.#tree.kind(inode);
    if (kind === 'directory') {
      const number = this.#folders.has(inode) ? -this.#folders.size : inode;
      this.#folders.set(number, { path, inode, above: [...parent.above, parent.inode] });
      this.#decided.set(path, number);
      real.mkdirSync(full);
      return;
    }
    const laid = this.#files.get(inode);
    const [other] = laid?.paths ?? [];
    if (laid && other !== undefined) {
      real.linkSync(this.#root + other, full);
      laid.paths.push(path);
      return;
    }
    if (kind === 'symlink') real.symlinkSync(this.#tree.target(inode), full);
    else real.writeFileSync(full, '');
    this.#files.set(inode, { level: LEVELS.name, paths: [path] });
  }

  #need(inode: number, need: Need): void {
    const kind = this.kind(inode);
    if (kind === 'file') quietly(() => this.#fill(inode, FILE_NEEDS[need]));
    const inner = ENTRY_NEEDS[need];
    if (kind !== 'directory' || inner === undefined) return;
    for (const name of this.#tree.names(this.#inodeOf(inode))) {
      const entry = this.entry(inode, name);
      if (entry !== undefined) this.#need(entry, inner);
    }
  }

  #fill(inode: number, need: keyof typeof LEVELS): void {
    const laid = this.#files.get(inode);
    const [path] = laid?.paths ?? [];
    if (!laid || path === undefined || laid.level >= LEVELS[need]) return;
    laid.level = LEVELS[need];
    const isData = need === 'data';
    const data = isData ? this.#tree.data(inode) : new Uint8Array(this.#tree.size(inode));
    if (isData) real.writeFileSync(this.#root + path, data);
    else real.truncateSync(this.#root + path, data.length);
    this.#shadow?.learnData(inode, data);
  }
}

const TWO_NAMES =
  'a power cut has left a folder with two names, and what a recovery changes in it is not followed';

const isBelow = (path: string, folder: string): boolean =>
  path === folder || path.startsWith(`${folder}/`);

/** Where a recovery runs, and on what. */
export interface Recovery {
  /** The folder; it is emptied first. That of the recording, because a program may have written its path into a file. */
  readonly root: string;
  readonly tree: CrashTree;
  /** Whether the whole tree is there before the recovery begins. */
  readonly isWhole: boolean;
  /** Records what is done in the folder. */
  readonly shadow?: ShadowTree | undefined;
  /** Gets a sentence for each thing that the recovery asks and that a crash state does not have. */
  readonly asked?: Set<string>;
}

/**
 * Runs a recovery on the tree that a power cut left.
 *
 * @throws what the recovery throws
 */
export async function recoverIn<T>(
  { root, tree, isWhole, shadow, asked }: Recovery,
  run: (root: string) => T | Promise<T>,
): Promise<T> {
  empty(root);
  const landing = new RecoveryFolder(real.realpathSync(root), tree, shadow);
  if (isWhole) {
    landing.touch('/', 'tree', true);
    if (!shadow) return run(root);
  }
  const session = new Session(root, { landing, shadow, asked });
  const putBack = replaceFunctions();
  const silence = asked && listen(asked);
  openSession(session);
  try {
    return await run(root);
  } finally {
    closeSession(session);
    putBack();
    silence?.();
    if (shadow) {
      const unseen = differences(session.root, shadow.trace());
      if (unseen.length > 0) shadow.gap(unseenText(unseen));
    }
  }
}

function empty(root: string): void {
  quietly(() => {
    for (const name of real.readdirSync(root))
      real.rmSync(posix.join(root, name), { recursive: true, force: true });
  });
}
