// A power cut as lines: the operations before it, and what became of each.
//
//   LOST   something of it is not there
//   kept   all of it that the recovery has looked at is there
//   ?      the recovery has not looked
//
// Syncs have nothing to lose. Names of files are those that they had when the operation was called.

import type { LinkOf } from '../crash-test/chains.js';
import type { FilesCut } from './files-test.js';
import { isSync } from './promises.js';
import type { FileOperation, FilesTrace } from './trace.js';
import type { Files } from './tree-subject.js';

/** The names of inodes while the operations of a trace are read in their order. */
export class Names {
  readonly #paths = new Map<number, string>([[1, '']]);

  constructor({ initial }: FilesTrace) {
    const walk = (inode: number, path: string): void => {
      // A file with several names has its first one here.
      if (!this.#paths.has(inode)) this.#paths.set(inode, path);
      const node = initial.get(inode);
      if (node?.kind !== 'directory') return;
      for (const [name, child] of node.entries) walk(child, `${path}/${name}`);
    };
    walk(1, '');
  }

  of(inode: number): string {
    return this.#paths.get(inode) || '/';
  }

  #at(directory: number, name: string): string {
    return `${this.#paths.get(directory) ?? ''}/${name}`;
  }

  /** An operation in words; afterwards the names are those that it has made. */
  describe(operation: FileOperation): string {
    const { op } = operation;
    if (op === 'sync') return op;
    if (op === 'truncate') return `truncate ${this.of(operation.inode)} to ${operation.size}`;
    if (op === 'write') {
      const { inode, offset, data } = operation;
      return `write ${this.of(inode)} ${offset}..${offset + data.length}`;
    }
    if (op === 'rename') {
      const from = this.#at(operation.from.directory, operation.from.name);
      const to = this.#at(operation.to.directory, operation.to.name);
      this.#paths.set(operation.inode, to);
      return `rename ${from} -> ${to}`;
    }
    if (!('directory' in operation)) return `${op} ${this.of(operation.inode)}`;
    const path = this.#at(operation.directory, operation.name);
    if (op === 'link') return `link ${this.of(operation.inode)} -> ${path}`;
    if (op === 'symlink') return `symlink ${path} -> ${operation.target}`;
    if (op === 'create' || op === 'mkdir') this.#paths.set(operation.inode, path);
    return `${op} ${path}`;
  }
}

/** How many operations before the cut are shown; those before them are counted. */
const LINES_MAX = 40;

/** What a power cut has left of a life. */
export function sceneOf({ during, trace, space, state }: LinkOf<Files>, time: number): FilesCut {
  const lost = new Set<number>();
  const kept = new Set<number>();
  for (const { first, count, versions, changes } of space.map.regions) {
    for (let place = first; place < first + count; place += 1) {
      if (!state.seen.has(place)) continue;
      const last = versions[state.versions[place] as number]?.change ?? -1;
      for (const [number, { operation }] of changes.entries())
        (number > last ? lost : kept).add(operation);
    }
  }
  const isBegun = (n: number): boolean => (trace.operations[n]?.begin ?? Infinity) <= time;
  const sorted = (all: Iterable<number>): number[] => [...all].sort((a, b) => a - b);
  const isWhole = (n: number): boolean => !lost.has(n);
  return {
    ...{ during, trace, time },
    lost: sorted(lost).filter(isBegun),
    kept: sorted(kept).filter(isBegun).filter(isWhole),
  };
}

/** The lines of a power cut right after a moment. */
export function picture({ trace, time, lost, kept }: FilesCut, full: boolean): string[] {
  const names = new Names(trace);
  const lines: string[] = [];
  const later: string[] = [];
  for (const [number, operation] of trace.operations.entries()) {
    const words = `#${number} ${names.describe(operation)}`;
    const site = operation.site === undefined ? '' : `   at ${operation.site}`;
    if (operation.begin > time) {
      later.push(`        ${words}${site}`);
      continue;
    }
    const fate = isSync(operation)
      ? ''
      : lost.includes(number)
        ? 'LOST'
        : kept.includes(number)
          ? 'kept'
          : '?';
    const open = operation.end > time ? '   (not returned)' : '';
    lines.push(`  ${fate.padStart(4)}  ${words}${site}${open}`);
  }
  const left = full ? 0 : Math.max(0, lines.length - LINES_MAX);
  return [
    ...(left > 0 ? [`        ${left} operations before`] : []),
    ...lines.slice(left),
    '  ----- the power is cut',
    ...later.slice(0, 2),
  ];
}
