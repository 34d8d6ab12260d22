// What a power cut may leave of a tree of files, said once more and slowly: for every moment, every number of committed steps and every
// number of committed syncs of a log, all combinations of what each cell may hold then. Contents are copies of whole files.

import type { FileModel } from '../../../src/testing/files/models.js';
import type { FileOperation, FilesTrace } from '../../../src/testing/files/trace.js';

const NAMES = ['create', 'mkdir', 'symlink', 'link', 'unlink', 'rmdir', 'rename'];

/** One change of a cell: an operation, the step that it needs (0 for none), and the directory of an entry. */
interface Change<V> {
  readonly operation: number;
  readonly step: number;
  readonly directory?: number;
  readonly value: V;
}

interface Cell<V> {
  readonly initial: V;
  readonly changes: Change<V>[];
}

/** The trees of each moment, as text; undefined if there are too many to look at each. */
export function treesByHand(
  trace: FilesTrace,
  model: FileModel,
  { lies = false, most = 20_000 }: { lies?: boolean; most?: number } = {},
): Map<number, Set<string>> | undefined {
  const { operations, initial } = trace;
  const at = (n: number): FileOperation => operations[n] as FileOperation;
  const isSync = ({ op }: FileOperation): boolean => ['fsync', 'fdatasync', 'sync'].includes(op);
  const syncs = operations.filter(isSync);
  const ordered = model.namespace === 'ordered';
  const { block } = model;

  // Steps: their operations, from 1.
  const steps: number[] = [-1];
  const firstStep = operations.map((one, n) => {
    const first = steps.length;
    if (!ordered || isSync(one)) return 0;
    if (NAMES.includes(one.op) || one.op === 'truncate') steps.push(n);
    if (one.op === 'write' && model.data === 'journaled' && one.data.length > 0) {
      const blocks =
        Math.ceil((one.offset + one.data.length) / block) - Math.floor(one.offset / block);
      for (let i = 0; i < blocks; i += 1) steps.push(n);
    }
    return steps.length > first ? first : 0;
  });
  const stepsUntil = (n: number): number => steps.filter((operation) => operation <= n).length - 1;

  // Cells
  const entries = new Map<string, Cell<number | undefined> & { directory: number; name: string }>();
  const entry = (directory: number, name: string) => {
    const key = `${directory}/${name}`;
    const node = initial.get(directory);
    const before = node?.kind === 'directory' ? node.entries.get(name) : undefined;
    const cell = entries.get(key) ?? { directory, name, initial: before, changes: [] };
    entries.set(key, cell);
    return cell;
  };
  const kinds = new Map<number, string>([[1, 'directory']]);
  const targets = new Map<number, string>();
  const contents = new Map<number, Uint8Array[]>();
  for (const [inode, node] of initial) {
    kinds.set(inode, node.kind);
    if (node.kind === 'symlink') targets.set(inode, node.target);
    if (node.kind === 'directory') for (const name of node.entries.keys()) entry(inode, name);
    if (node.kind === 'file') contents.set(inode, [node.data]);
  }
  for (const [n, one] of operations.entries()) {
    const set = (directory: number, name: string, value: number | undefined): void => {
      const step = firstStep[n] as number;
      entry(directory, name).changes.push({ operation: n, step, directory, value });
    };
    if (one.op === 'create' || one.op === 'mkdir' || one.op === 'link' || one.op === 'symlink') {
      if (one.op === 'create') contents.set(one.inode, [new Uint8Array(0)]);
      if (one.op === 'symlink') targets.set(one.inode, one.target);
      const kind = { create: 'file', mkdir: 'directory', symlink: 'symlink', link: undefined };
      kinds.set(one.inode, kind[one.op] ?? (kinds.get(one.inode) as string));
      set(one.directory, one.name, one.inode);
    } else if (one.op === 'unlink' || one.op === 'rmdir') set(one.directory, one.name, undefined);
    else if (one.op === 'rename') {
      set(one.from.directory, one.from.name, undefined);
      set(one.to.directory, one.to.name, one.inode);
    }
  }

  // Files: what a reader of the running system saw after each operation.
  const files = [...contents].map(([inode, [first]]) => {
    const start = first as Uint8Array;
    const seen = new Map<number, Uint8Array>([[-1, start]]);
    const sizes: Cell<number> = { initial: start.length, changes: [] };
    let data = start;
    const own = [...operations.keys()].filter((n) => {
      const one = at(n);
      return (one.op === 'write' || one.op === 'truncate') && one.inode === inode;
    });
    const before = new Map<number, number>();
    for (const n of own) {
      const one = at(n);
      before.set(n, data.length);
      if (one.op === 'truncate') data = padded(data, one.size);
      if (one.op === 'write' && one.data.length > 0) {
        data = padded(data, Math.max(data.length, one.offset + one.data.length));
        data.set(one.data, one.offset);
      }
      seen.set(n, data);
    }
    const count = Math.ceil(Math.max(...[...seen.values()].map(({ length }) => length)) / block);
    const blocks = Array.from(
      { length: count },
      (): Cell<number> => ({ initial: -1, changes: [] }),
    );
    for (const n of own) {
      const one = at(n);
      const old = before.get(n) as number;
      const size = (seen.get(n) as Uint8Array).length;
      const first = firstStep[n] as number;
      if (one.op === 'truncate') {
        if (size !== old) sizes.changes.push({ operation: n, step: first, value: size });
        for (const [b, { changes }] of blocks.entries()) {
          if (size >= old || (b + 1) * block <= size) continue;
          const isCut = b * block < size && model.data === 'in-place';
          changes.push({ operation: n, step: isCut ? 0 : first, value: n });
        }
      }
      if (one.op === 'write' && one.data.length > 0) {
        const [from, to] = [one.offset, one.offset + one.data.length];
        for (const [b, { changes }] of blocks.entries()) {
          if (to <= b * block || from >= (b + 1) * block) continue;
          const step = first > 0 ? first + b - Math.floor(from / block) : 0;
          changes.push({ operation: n, step, value: n });
          const value = Math.min(size, (b + 1) * block);
          if ((step > 0 || model.size === 'free') && value > old) {
            sizes.changes.push({ operation: n, step, value });
          }
        }
        if (first === 0 && size > old && old > from && model.size === 'after-data') {
          sizes.changes.push({ operation: n, step: 0, value: size });
        }
      }
    }
    return { inode, seen, before, sizes, blocks };
  });

  // Promises
  const forced = (time: number): number =>
    Math.max(
      0,
      ...operations.map((one, n) => {
        if (one.end > time) return 0;
        if (!model.delays) return stepsUntil(n);
        if (!isSync(one) || lies) return 0;
        if (one.op === 'sync') return stepsUntil(n);
        if (model.fsync !== 'journal' || one.op === 'write') return 0;
        const { inode } = one as { inode: number };
        const isData =
          one.op === 'fdatasync' && model.fdatasync === 'data' && kinds.get(inode) !== 'directory';
        const counts = (other: FileOperation, m: number): boolean => {
          if (isData && !['create', 'mkdir', 'write', 'truncate'].includes(other.op)) return false;
          if (isData && (other as { inode: number }).inode !== inode) return false;
          if (other.op !== 'write') return touches(other, inode);
          const old = files.find((file) => file.inode === inode)?.before.get(m);
          const size = files.find((file) => file.inode === inode)?.seen.get(m)?.length ?? 0;
          return other.inode === inode && ((firstStep[m] as number) > 0 || size > (old ?? size));
        };
        const last = operations.map((other, m) => m < n && counts(other, m)).lastIndexOf(true);
        return last < 0 ? 0 : stepsUntil(last);
      }),
    );
  const isLogged = (change: Change<unknown>, logged: number): boolean =>
    syncs.slice(0, logged).some((sync) => {
      const one = at(change.operation);
      if (sync.begin <= one.begin) return false;
      if (sync.op === 'sync') return true;
      const { inode } = sync as { inode: number };
      if (inode === change.directory || inode === (one as { inode: number }).inode) return true;
      if (one.op !== 'mkdir' && one.op !== 'rename') return false;
      return parentsOf(inode, sync.begin, operations).includes(one.inode);
    });
  const isDurable = (change: Change<unknown>, inode: number, time: number): boolean =>
    !lies &&
    syncs.some((sync) => {
      const covers = sync.op === 'sync' || (sync as { inode: number }).inode === inode;
      return covers && sync.begin > at(change.operation).begin && sync.end <= time;
    });

  const byMoment = new Map<number, Set<string>>();
  const moments = [-1, ...operations.flatMap(({ begin, end }) => [begin, end])].filter(
    Number.isFinite,
  );
  let work = 0;
  for (const time of [...new Set(moments)].sort((a, b) => a - b)) {
    const trees = new Set<string>();
    byMoment.set(time, trees);
    const begun = steps.slice(1).filter((operation) => at(operation).begin <= time).length;
    const logs = ordered && model.fsync === 'log';
    const logMax = logs ? syncs.filter(({ begin }) => begin <= time).length : 0;
    const answered = syncs.map(({ end }) => end <= time).lastIndexOf(true) + 1;
    const logMin = logs && !lies ? answered : 0;
    for (let committed = forced(time); committed <= begun; committed += 1) {
      for (let logged = logMin; logged <= logMax; logged += 1) {
        const options = <V>(cell: Cell<V>, inode: number): V[] => {
          const { changes } = cell;
          let era = -1;
          for (const [n, change] of changes.entries()) {
            if (change.step === 0) continue;
            if (change.step <= committed || (logs && isLogged(change, logged))) era = n;
          }
          let found = [changes[era] ? (changes[era] as Change<V>).value : cell.initial];
          for (const change of changes.slice(era + 1)) {
            if (change.step > 0) break;
            if (at(change.operation).begin > time) continue;
            found = isDurable(change, inode, time) ? [change.value] : [...found, change.value];
          }
          return found;
        };
        const cells = [
          ...[...entries].map(([key, cell]) => [key, options(cell, cell.directory)] as const),
          ...files.flatMap(({ inode, sizes, blocks }) => [
            // The size is told by its change, because data behind a truncation says nothing of it.
            [`s${inode}`, options(numbered(sizes), inode)] as const,
            ...blocks.map((cell, b) => [`b${inode}/${b}`, options(cell, inode)] as const),
          ]),
        ];
        work += cells.reduce((product, [, list]) => product * list.length, 1);
        if (work > most) return undefined;
        for (const chosen of choices(cells)) trees.add(textOf(chosen));
      }
    }
  }
  return byMoment;

  function textOf(chosen: ReadonlyMap<string, number | undefined>): string {
    const found: Record<string, unknown> = {};
    const walk = (directory: number, prefix: string, above: number[]): void => {
      if (above.includes(directory)) return;
      const names = [...entries.values()].filter((one) => one.directory === directory);
      for (const { name } of names.sort((a, b) => (a.name < b.name ? -1 : 1))) {
        const inode = chosen.get(`${directory}/${name}`);
        if (inode === undefined) continue;
        const kind = kinds.get(inode);
        if (kind === 'file') found[prefix + name] = dataOf(inode, chosen);
        else found[prefix + name] = kind === 'directory' ? null : { target: targets.get(inode) };
        if (kind === 'directory') walk(inode, `${prefix}${name}/`, [...above, directory]);
      }
    };
    walk(1, '', []);
    return JSON.stringify(found);
  }

  function dataOf(inode: number, chosen: ReadonlyMap<string, number | undefined>): string {
    const file = files.find((one) => one.inode === inode) as (typeof files)[0];
    const { seen, before, sizes, blocks } = file;
    const index = chosen.get(`s${inode}`) as number;
    const follows = model.size !== 'free' && model.data === 'in-place';
    const isCut = (change: Change<number> | undefined): boolean =>
      change !== undefined && at(change.operation).op === 'truncate';
    let resized = sizes.changes[index];
    for (let n = index; follows && resized && !isCut(resized); n -= 1) resized = sizes.changes[n];
    let size = resized ? resized.value : sizes.initial;
    const versions = blocks.map((_, b) => chosen.get(`b${inode}/${b}`) as number);
    if (follows) {
      for (const [b, version] of versions.entries()) {
        if (version <= (resized?.operation ?? -1) || at(version).op !== 'write') continue;
        size = Math.max(size, Math.min((seen.get(version) as Uint8Array).length, (b + 1) * block));
      }
      // A write over the end whose size is not there shows what lies before that end.
      const missing = sizes.changes[index + 1];
      if (missing && !isCut(missing)) {
        size = Math.min(size, before.get(missing.operation) as number);
      }
    }
    const data = new Uint8Array(size);
    for (const [b, version] of versions.entries()) {
      if (b * block >= size) break;
      const bytes = (seen.get(version) as Uint8Array).subarray(
        b * block,
        Math.min(size, (b + 1) * block),
      );
      data.set(bytes, b * block);
    }
    return Buffer.from(data).toString('latin1');
  }
}

/** The same changes, with their indexes for values. */
function numbered({ changes }: Cell<number>): Cell<number> {
  return { initial: -1, changes: changes.map((change, value) => ({ ...change, value })) };
}

function* choices(
  cells: readonly (readonly [string, readonly (number | undefined)[]])[],
  chosen: ReadonlyMap<string, number | undefined> = new Map(),
): Generator<ReadonlyMap<string, number | undefined>> {
  const [first, ...rest] = cells;
  if (!first) yield chosen;
  else for (const value of first[1]) yield* choices(rest, new Map([...chosen, [first[0], value]]));
}

function padded(data: Uint8Array, size: number): Uint8Array {
  const bytes = new Uint8Array(size);
  bytes.set(data.subarray(0, size));
  return bytes;
}

function touches(one: FileOperation, inode: number): boolean {
  if (one.op === 'sync' || one.op === 'fsync' || one.op === 'fdatasync') return false;
  if (one.inode === inode) return true;
  if (one.op === 'rename') {
    return [one.from.directory, one.to.directory, one.replaced].includes(inode);
  }
  return 'directory' in one && one.directory === inode;
}

/** The directories above an inode, by the latest names before a moment. */
function parentsOf(inode: number, time: number, operations: readonly FileOperation[]): number[] {
  const parents: number[] = [];
  for (let at = inode; !parents.includes(at); ) {
    const given = operations
      .filter(
        (one) =>
          one.begin < time &&
          ['create', 'mkdir', 'link', 'symlink', 'rename'].includes(one.op) &&
          (one as { inode: number }).inode === at,
      )
      .at(-1);
    if (!given) break;
    at = given.op === 'rename' ? given.to.directory : (given as { directory: number }).directory;
    parents.push(at);
  }
  return parents;
}
