// The calls of node:fs that walk over trees: made of effects here, because Node makes them of calls that nothing sees.
//
// A call that must fail is left to the original, which then has no effect and the right error. The order is that of Node's
// synchronous functions: a copy makes a directory before its entries, a removal removes it after them.
//
// Source: lib/internal/fs/cp/cp-sync.js and rimraf.js of Node 20, src/node_file.cc of Node 22 and 24 (CpSyncCopyDir).

import type { CopySyncOptions, MakeDirectoryOptions, PathLike, RmOptions, Stats } from 'node:fs';
import { dirname, isAbsolute, join, resolve, sep } from 'node:path';
import { fileURLToPath } from 'node:url';
import {
  type Arguments,
  call,
  copyFileSync,
  type Effect,
  makeDirectory,
  rmdirSync,
  symlinkSync,
  unlinkSync,
} from './effects.js';
import { real } from './originals.js';
import { copiesInPlace, removesUnsorted } from './probes.js';
import type { Session } from './session.js';

/** A path as text; Node has checked it, or will. */
function textOf(path: unknown): string {
  if (path instanceof URL) return fileURLToPath(path);
  return path instanceof Uint8Array ? Buffer.from(path).toString() : String(path);
}

function mkdirSync(session: Session, args: Arguments): unknown {
  const [path, options] = args;
  const { recursive, mode } = (options ?? {}) as MakeDirectoryOptions;
  if (typeof options !== 'object' || !recursive) return makeDirectory(session, args);
  session.touch(path, 'name');
  const missing: string[] = [];
  // As it was given, relative or not, because the first one is the answer.
  for (let at = textOf(path); !real.existsSync(at); at = dirname(at)) missing.unshift(at);
  if (missing.length === 0) return call('mkdirSync', args);
  for (const each of missing) makeDirectory(session, mode === undefined ? [each] : [each, mode]);
  return missing[0];
}

function rmSync(session: Session, args: Arguments): unknown {
  const [path, options] = args;
  session.touch(path, 'shape', false);
  const status = statusOf(path);
  const { recursive } = (options ?? {}) as RmOptions;
  if (!status || (status.isDirectory() && !recursive)) return call('rmSync', args);
  remove(session, textOf(path), status);
  return undefined;
}

function removeDirectory(session: Session, args: Arguments): unknown {
  const [path, options] = args;
  const { recursive } = (options ?? {}) as { readonly recursive?: boolean };
  if (!recursive) return rmdirSync(session, args);
  session.touch(path, 'shape', false);
  const status = statusOf(path);
  if (!status?.isDirectory()) return call('rmdirSync', args);
  remove(session, textOf(path), status);
  return undefined;
}

function remove(session: Session, path: string, status: Stats | undefined): void {
  if (!status?.isDirectory()) {
    unlinkSync(session, [path]);
    return;
  }
  for (const name of removesUnsorted() ? namesIn(path) : real.readdirSync(path)) {
    const inner = join(path, name);
    remove(session, inner, statusOf(inner));
  }
  rmdirSync(session, [path]);
}

const statusOf = (path: unknown): Stats | undefined =>
  real.lstatSync(path as PathLike, { throwIfNoEntry: false });

/** What a copy asks: whether this source is copied to this target. */
type Question = readonly [source: string, target: string];
type Copying = Generator<Question, void, boolean>;

interface Copy {
  readonly session: Session;
  readonly options: CopySyncOptions;
  /** Whether a file that is there is cut and written, and not replaced. */
  readonly isInPlace: boolean;
}

/** One entry, and what is below it. */
function* copyEntry(copy: Copy, source: string, target: string): Copying {
  const { session, options } = copy;
  const { dereference, recursive, force = true, errorOnExist, filter } = options;
  if (filter && !(yield [source, target])) return;
  const from = dereference ? real.statSync(source) : real.lstatSync(source);
  const to = statusOf(target);
  const isSame = to && from.ino === to.ino && from.dev === to.dev;
  const isMixed = to && from.isDirectory() !== to.isDirectory();
  const isInside = from.isDirectory() && resolve(target).startsWith(resolve(source) + sep);
  const isOther = !from.isDirectory() && !from.isFile() && !from.isSymbolicLink();
  const isRefused = to?.isFile() && !force && errorOnExist;
  if (isSame || isMixed || isInside || isOther || isRefused || (from.isDirectory() && !recursive))
    return refuse(options, source, target);
  makeParents(session, target);
  if (from.isDirectory()) yield* copyDirectory(copy, source, target, to === undefined, from.mode);
  else if (from.isSymbolicLink()) copyLink(copy, source, target, to);
  else if (!to || force) copyFile(copy, source, target, from, to);
}

/** The original finds the same fault, before it has any effect. */
function refuse(options: CopySyncOptions, source: string, target: string): void {
  const { filter: _, ...others } = options;
  real.cpSync(source, target, others);
}

function makeParents(session: Session, target: string): void {
  const parent = dirname(resolve(target));
  if (!real.existsSync(parent)) mkdirSync(session, [parent, { recursive: true }]);
}

function* copyDirectory(
  copy: Copy,
  source: string,
  target: string,
  isNew: boolean,
  mode: number,
): Copying {
  if (isNew) makeDirectory(copy.session, [target]);
  for (const name of namesIn(source))
    yield* copyEntry(copy, join(source, name), join(target, name));
  if (isNew) real.chmodSync(target, mode);
}

/** In the order of the system, which `readdirSync` sorts. */
function namesIn(path: string): string[] {
  const directory = real.opendirSync(path);
  try {
    const names: string[] = [];
    for (let entry = directory.readSync(); entry; entry = directory.readSync())
      names.push(entry.name);
    return names;
  } finally {
    directory.closeSync();
  }
}

function copyLink(
  { session, options }: Copy,
  source: string,
  target: string,
  to: Stats | undefined,
): void {
  const text = real.readlinkSync(source);
  const isKept = options.verbatimSymlinks || isAbsolute(text);
  if (to) unlinkSync(session, [target]);
  symlinkSync(session, [isKept ? text : resolve(dirname(source), text), target]);
}

function copyFile(
  { session, options, isInPlace }: Copy,
  source: string,
  target: string,
  from: Stats,
  to: Stats | undefined,
): void {
  if (to && !isInPlace) unlinkSync(session, [target]);
  const mode = options.mode === undefined ? [] : [options.mode];
  copyFileSync(session, [source, target, ...mode]);
  if (options.preserveTimestamps) {
    if ((from.mode & 0o200) === 0) real.chmodSync(target, from.mode | 0o200);
    const { atime, mtime } = real.statSync(source);
    real.utimesSync(target, atime, mtime);
  }
  real.chmodSync(target, from.mode);
}

function copying(session: Session, args: Arguments, isSync: boolean): Copying {
  const [source, target] = [textOf(args[0]), textOf(args[1])];
  const options = (args[2] ?? {}) as CopySyncOptions;
  session.touch(source, 'tree');
  session.touch(target, session.shadow ? 'tree' : 'shape');
  const isWhole = isSync && !options.filter && real.statSync(source).isDirectory();
  const isInPlace = isWhole && copiesInPlace();
  return copyEntry({ session, options, isInPlace }, source, target);
}

type Filter = (source: string, target: string) => unknown;

function cpSync(session: Session, args: Arguments): void {
  const filter = (args[2] as { readonly filter?: Filter } | undefined)?.filter;
  const copy = copying(session, args, true);
  for (let step = copy.next(); !step.done; ) {
    const answer = filter?.(...step.value);
    if (answer instanceof Promise) {
      const message =
        'Expected boolean to be returned from the "filter" function but got a promise.';
      throw Object.assign(new TypeError(message), { code: 'ERR_INVALID_RETURN_VALUE' });
    }
    step = copy.next(Boolean(answer));
  }
}

/** The asynchronous copy: all at once where no filter is asked, otherwise from question to question. */
export async function copyAsync(session: Session, args: Arguments): Promise<void> {
  const filter = (args[2] as { readonly filter?: Filter } | undefined)?.filter;
  const copy = copying(session, args, false);
  let answer = false;
  for (;;) {
    const step = await session.promise(() => copy.next(answer));
    if (step.done) return;
    answer = Boolean(await filter?.(...step.value));
  }
}

/** By the name of the original. */
export const TREE_EFFECTS: Readonly<Record<string, Effect>> = {
  mkdirSync,
  rmSync,
  rmdirSync: removeDirectory,
  cpSync,
};
