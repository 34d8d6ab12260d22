// The space of a trace of files: all trees that a power cut during it may leave under a model of a file system.
//
// A state is a version for each cell (cells.ts), all of them possible at one point of the clocks (space/clocks.ts). It is counted and
// explored by what does that for disks. A state that is explored is undecided: a cell gets its version when it is looked at. So
// one recovery covers all states that it cannot tell apart.
//
// A state by its number is found by deciding one cell after the other, and passing over as many states as each version has that
// comes before. That takes a count for each version, so it is for single states, and not for all of them.

import { checkOptions, misuse, WriteBarrierError } from '../../model/index.js';
import type { Random } from '../choices.js';
import { type Choose, type Counted, Decisions } from '../space/decisions.js';
import { versionAt } from '../space/places.js';
import { type Walk, walksOf } from '../space/walks.js';
import { blockAfter, type FileHistory, sizeAsked, sizeBounds } from './blocks.js';
import {
  type Cell,
  type CellMap,
  type CellVersion,
  cellsOf,
  entryKey,
  type Kind,
} from './cells.js';
import { type FileModel, type FileModelName, modelOf } from './models.js';
import type { FilesTrace } from './trace.js';
import { type CrashTree, treeOf } from './tree.js';

/** What a path of a tree holds. */
export type TreeNode =
  | {
      /** A file with bytes. */
      readonly kind: 'file';
      /** All of its bytes. */
      readonly data: Uint8Array;
    }
  | {
      /** A folder. */
      readonly kind: 'directory';
    }
  | {
      /** A symbolic link. */
      readonly kind: 'symlink';
      /** Where it points to. */
      readonly target: string;
    };

/** How a tree of files is laid out on a device. */
export interface FileSpaceOptions {
  /**
   * `ignoreFlush`: the device says that a flush is done, and does nothing. Then no sync promises anything. The order of the
   * journal is kept here; a real file system may not survive such a device at all.
   *
   * @defaultValue none
   */
  readonly lies?: readonly 'ignoreFlush'[];
}

/** A power cut, decided as far as the recovery has looked. */
export interface FileCrash {
  /** What the power cut has left. Each look at it decides something. */
  readonly files: FileState;
  /** The power was cut after this moment. */
  readonly after: number;
  /** The power was cut before this moment. What was acknowledged by then must be there. */
  readonly before: number;
  /** How many states this outcome covers, given what was looked at; 0 if an earlier one covered them. */
  readonly images: bigint;
  /** The strategy that picked it: `depth first`, or the name of a guide. */
  readonly order: string;
}

/** A tree of files that a power cut has left. Inode 1 is its root. */
export class FileState {
  readonly #map: CellMap;
  readonly #versionOf: (cell: Cell, place: number) => number;
  readonly #before: CrashTree;

  /**
   * @param before what was there before the trace
   * @internal
   */
  constructor(
    map: CellMap,
    versionOf: (cell: Cell, place: number) => number,
    before: CrashTree = treeOf(map.trace.initial),
  ) {
    this.#map = map;
    this.#versionOf = versionOf;
    this.#before = before;
  }

  /** The inode of an entry; undefined if there is none. */
  entry(directory: number, name: string): number | undefined {
    const known = (): number | undefined => this.#before.entry(directory, name);
    const cell = this.#map.entries.get(entryKey(directory, name));
    return cell ? this.#valueOf(cell, known) : known();
  }

  /** The names in a directory, sorted. Each name that was ever there is looked at. */
  names(directory: number): string[] {
    const changed = this.#map.names.get(directory) ?? [];
    const names = new Set([...this.#before.names(directory), ...changed]);
    return [...names].sort().filter((name) => this.entry(directory, name) !== undefined);
  }

  /**
   * What an inode is.
   *
   * @throws `INVALID_ARGUMENT` for an inode that the trace does not know
   */
  kind(inode: number): TreeNode['kind'] {
    return this.#kindOf(inode)?.kind ?? this.#before.kind(inode);
  }

  /**
   * Where a symbolic link points.
   *
   * @throws `INVALID_ARGUMENT` for an inode that is none
   */
  target(inode: number): string {
    const kind = this.#kindOf(inode);
    if (kind?.kind === 'symlink') return kind.target;
    if (!kind) return this.#before.target(inode);
    throw misuse(`inode ${inode} is a ${kind.kind}, not a symbolic link`);
  }

  /** The size of a file in bytes. */
  size(inode: number): number {
    const { sizes, blocks, histories, model } = this.#map;
    const known = (): number => this.#before.size(inode);
    const cell = sizes.get(inode);
    const history = histories.get(inode);
    if (!history || model.size === 'free' || model.data === 'journaled')
      return (cell && this.#valueOf(cell, known)) ?? known();
    const last = cell ? this.#version(cell).change : -1;
    const { cut, most, since } = sizeBounds(history, cell?.changes ?? [], last);
    const least = cut ?? known();
    if (most <= least) return least;
    for (const run of [...(blocks.get(inode) ?? [])].reverse()) {
      for (let n = run.count - 1; n >= 0; n -= 1) {
        // What lies before cannot ask for more.
        if ((run.block + n + 1) * model.block <= least) return least;
        const { change, command } = this.#version(run, n);
        const made = command > since ? run.changes[change] : undefined;
        const asked = made ? sizeAsked(history, made, run.block + n, model.block) : 0;
        if (asked > 0) return Math.min(most, Math.max(least, asked));
      }
    }
    return least;
  }

  /** A new array with the bytes of a file. */
  data(inode: number): Uint8Array {
    const { blocks, histories, model } = this.#map;
    const runs = blocks.get(inode);
    if (!runs && !this.#map.sizes.has(inode)) return this.#before.data(inode).slice();
    const bytes = new Uint8Array(this.size(inode));
    bytes.set(this.#before.data(inode).subarray(0, bytes.length));
    for (const run of runs ?? []) {
      for (let n = 0; n < run.count; n += 1) {
        const at = (run.block + n) * model.block;
        if (at >= bytes.length) return bytes;
        const changes = run.changes.slice(0, this.#version(run, n).change + 1);
        const history = histories.get(inode) as FileHistory;
        const block = blockAfter(history, changes, run.block + n, model.block);
        bytes.set(block.subarray(0, bytes.length - at), at);
      }
    }
    return bytes;
  }

  /** Everything below the root, by its path without a leading `/`. A directory in itself is left out. */
  tree(): Map<string, TreeNode> {
    const found = new Map<string, TreeNode>();
    const walk = (directory: number, prefix: string, above: readonly number[]): void => {
      // Where names are independent, a directory may have been moved into itself.
      if (above.includes(directory)) return;
      for (const name of this.names(directory)) {
        const inode = this.entry(directory, name) as number;
        const path = `${prefix}${name}`;
        const kind = this.kind(inode);
        if (kind === 'file') found.set(path, { kind, data: this.data(inode) });
        else if (kind === 'symlink') found.set(path, { kind, target: this.target(inode) });
        else found.set(path, { kind });
        if (kind === 'directory') walk(inode, `${path}/`, [...above, directory]);
      }
    };
    walk(1, '', []);
    return found;
  }

  /** Undefined for an inode from before the trace of a later life. */
  #kindOf(inode: number): Kind | undefined {
    const kind = this.#map.kinds.get(inode);
    if (kind || this.#map.isLater) return kind;
    throw misuse(`the trace has no inode ${inode}`);
  }

  #version(cell: Cell, n = 0): CellVersion {
    return versionAt(cell, this.#versionOf(cell, cell.first + n));
  }

  #valueOf<T>(cell: Cell, before: () => T): T | number | undefined {
    const { change } = this.#version(cell);
    return change < 0 ? before() : cell.changes[change]?.value;
  }
}

/** All trees that a power cut during a trace may leave. */
export class FileSpace {
  /** @internal */
  readonly map: CellMap;
  /** The assumed file system. */
  readonly model: FileModel;
  #count: bigint | undefined;

  /** @internal */
  constructor(map: CellMap) {
    this.map = map;
    this.model = map.model;
  }

  /** The number of states. States with different versions are different, even if their bytes happen to be equal. */
  get count(): bigint {
    this.#count ??= new Decisions(this.searched).states;
    return this.#count;
  }

  /**
   * State number k. They are numbered by the versions of their cells, the oldest first; number 0 has the tree before the trace,
   * as far as nothing is certain.
   *
   * @throws `OUT_OF_RANGE` if k is not from 0 to count - 1
   */
  at(k: bigint): FileState {
    if (k < 0n || k >= this.count) {
      throw new WriteBarrierError(
        'OUT_OF_RANGE',
        `state ${k} is out of range: this space has states 0 to ${this.count - 1n}`,
      );
    }
    let rest = k;
    const decisions = new Decisions(this.searched);
    for (const cell of this.map.regions) {
      for (let place = cell.first; place < cell.first + cell.count; place += 1) {
        decisions.versionOf(cell, place, (_, __, candidates) => {
          for (const choice of candidates.keys()) {
            const copy = decisions.copy();
            copy.versionOf(cell, place, () => choice);
            const { states } = copy;
            if (rest < states) return choice;
            rest -= states;
          }
          return candidates.length;
        });
      }
    }
    return new FileState(this.map, (_, place) => decisions.decided.get(place) as number);
  }

  /** Draws a state; all are equally likely, as far as the numbers can tell. */
  sample(random: Random): FileState {
    const { count } = this;
    let [drawn, of] = [0n, 1n];
    // Some bits more than the count has, so that the rest does not matter.
    while (of < count << 32n) {
      drawn = (drawn << 32n) | BigInt(Math.floor(random() * 2 ** 32));
      of <<= 32n;
    }
    return this.at((drawn * count) / of);
  }

  /**
   * Every outcome that a recovery can tell apart, once: a tree whose cells get their content when they are looked at first.
   * Finish with each tree before you take the next; you may await in between.
   *
   * @param options `recoveriesMax`: the maximum number of trees, by default all
   * @throws `INVALID_ARGUMENT` if a recovery looks at other cells than an earlier one did on an equal tree
   */
  *explore(options: { readonly recoveriesMax?: number } = {}): Generator<FileCrash, void> {
    checkOptions(options, { recoveriesMax: 0 }, 'explore');
    yield* this.crashes(options.recoveriesMax);
  }

  /**
   * The same above what earlier power cuts have left.
   *
   * @internal
   */
  crashes(recoveriesMax?: number, below?: Decisions<CellMap>): Generator<FileRun, void> {
    const label = (cell: Cell): unknown => cell.of;
    return onTrees(walksOf(new Decisions(this.searched, below), { recoveriesMax, label }));
  }

  /** @internal */
  get searched(): Counted<CellMap> {
    const { map } = this;
    return { map, counts: map.counts };
  }
}

/** A power cut with its decisions. */
export type FileRun = Walk<CellMap> & { readonly files: FileState };

/** Walks with the tree for each. */
export function* onTrees(walks: Iterable<Walk<CellMap>>): Generator<FileRun, void> {
  for (const walk of walks)
    yield Object.assign(walk, { files: treeIn(walk.decisions, walk.choose) });
}

/** What the last of several power cuts has left, above what the others have. */
function treeIn(decisions: Decisions<CellMap>, choose: Choose): FileState {
  const { below, space } = decisions;
  return new FileState(
    space.map,
    (cell, place) => decisions.versionOf(cell, place, choose),
    below && treeIn(below, choose),
  );
}

/**
 * The space of a trace of files: all trees that a power cut during it may leave.
 *
 * @param model a file system of `FILE_MODELS`, or a model of your own
 * @throws `INVALID_ARGUMENT` for an unknown file system, for what is no trace, and for a trace whose moments are not ascending
 */
export function fileSpace(
  trace: FilesTrace,
  model: FileModelName | FileModel,
  options: FileSpaceOptions = {},
): FileSpace {
  checkOptions(options, { lies: 0 }, 'fileSpace');
  return spaceOf(
    trace,
    modelOf(model).model,
    options.lies?.includes('ignoreFlush') ?? false,
    false,
  );
}

/** `isLater`: the trace has no more of the tree before it than its operations have met. */
export function spaceOf(
  trace: FilesTrace,
  model: FileModel,
  lies: boolean,
  isLater: boolean,
): FileSpace {
  return new FileSpace(cellsOf(trace, model, lies, isLater));
}
