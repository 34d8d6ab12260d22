// The functions of node:fs, replaced in place: those of the module, those of fs.promises, and those of FileHandle (handles.ts).
//
//   R1  A replaced function calls the original for what is no business of a session, and has the properties of the original.
//   R2  What Node makes of other public functions stays as it is, because then it is Node: streams, `writeFile` with a callback.
//   R3  Everything is put back when the last session ends, save what others have replaced meanwhile. A program that took a
//       function out of the module during a session keeps one that calls the original.
//
// A program that took a function out of node:fs earlier is not seen. ES modules that import it by name are: their imports follow.
//
// Source: lib/fs.js and lib/internal/fs/promises.js of Node 20, 22 and 24.

import fs from 'node:fs';
import { syncBuiltinESMExports } from 'node:module';
import { type Arguments, EFFECTS, type Effect } from './effects.js';
import { openHandle, putHandlesBack, readFile, writeFile } from './handles.js';
import { real, realPromises, shared } from './originals.js';
import { flushesText } from './probes.js';
import { type Outcome, type Session, sessionOf } from './session.js';
import { copyAsync, TREE_EFFECTS } from './whole-trees.js';

type AnyFunction = (...args: unknown[]) => unknown;
type Callback = (...args: unknown[]) => void;
type Functions = Record<string, AnyFunction | undefined>;

const ALL_EFFECTS: Readonly<Record<string, Effect>> = { ...EFFECTS, ...TREE_EFFECTS };

/** Calls that have two paths, and one whose first argument is none. Others have a path or a descriptor first. */
const TWO_PATHS = new Set(['rename', 'link', 'copyFile', 'cp']);
const addressesOf = (name: string, args: Arguments): Arguments => {
  if (TWO_PATHS.has(name)) return args.slice(0, 2);
  return name === 'symlink' ? args.slice(1, 2) : args.slice(0, 1);
};

/** What was replaced, and by what. */
const replaced: { readonly home: Functions; readonly name: string; readonly by: AnyFunction }[] =
  [];

/** Replaces the functions, until the answer is called. */
export function replaceFunctions(): () => void {
  if (shared.users++ === 0) {
    for (const [name, effect] of Object.entries(ALL_EFFECTS)) replaceSync(name, effect);
    replaceCompounds();
    replacePromises();
    syncBuiltinESMExports();
  }
  let isOver = false;
  return () => {
    if (isOver) return;
    isOver = true;
    if (--shared.users === 0) putBack();
  };
}

function putBack(): void {
  for (const { home, name, by } of replaced.splice(0)) {
    const originals = home === module ? real : realPromises;
    if (home[name] === by) home[name] = (originals as unknown as Functions)[name];
  }
  putHandlesBack();
  syncBuiltinESMExports();
}

const module = fs as unknown as Functions;
const promises = fs.promises as unknown as Functions;

/** Replaces a function, if this Node has it, and gives the new one the properties of the original. */
function replace(
  home: Functions,
  name: string,
  make: (original: AnyFunction) => AnyFunction,
): void {
  const originals = (home === module ? real : realPromises) as unknown as Functions;
  const original = originals[name];
  if (!original) return;
  const by = make(original);
  // For util.promisify, which asks symbols; and a function of Node has a name and a length.
  Object.defineProperties(by, Object.getOwnPropertyDescriptors(original));
  home[name] = by;
  replaced.push({ home, name, by });
}

/** A synchronous function, and the one with a callback that does the same later. */
function replaceSync(syncName: string, effect: Effect): void {
  const name = syncName.slice(0, -'Sync'.length);
  replace(module, syncName, (original) => (...args) => {
    const session = sessionOf(...addressesOf(name, args));
    return session ? session.now(() => effect(session, args)) : original(...args);
  });
  replace(module, name, (original) => withCallback(name, effect, original));
}

function withCallback(name: string, effect: Effect, original: AnyFunction): AnyFunction {
  return (...args) => {
    const session = sessionOf(...addressesOf(name, args));
    const isOptional = name === 'close' && args.length === 1;
    const callback = isOptional ? throwError : args.at(-1);
    // Without a callback the original says so; only `close` may do without.
    if (!session || typeof callback !== 'function') return original(...args);
    const given = isOptional ? args : args.slice(0, -1);
    const answer = answerOf(name, given, callback as Callback);
    if (name === 'cp') {
      copyAsync(session, given).then(
        () => answer({ value: undefined }),
        (error: unknown) => answer({ error }),
      );
      return undefined;
    }
    session.later(() => effect(session, whole(name, given)), answer, given[0]);
    return undefined;
  };
}

function throwError(error: unknown): void {
  if (error) throw error;
}

/** `fs.read` takes its arguments in more ways than `fs.readSync`. */
function whole(name: string, args: Arguments): Arguments {
  if (name !== 'read' || ArrayBuffer.isView(args[1])) return args;
  const { buffer = Buffer.alloc(16 * 1024), ...options } = (args[1] ?? {}) as {
    readonly buffer?: ArrayBufferView;
  };
  return [args[0], buffer, options];
}

/** Calls with what a callback is told after the result: the buffer that it was about. */
const WITH_BUFFER = new Set(['read', 'write', 'readv', 'writev']);

function answerOf(
  name: string,
  args: Arguments,
  callback: Callback,
): (outcome: Outcome<unknown>) => void {
  return (outcome) => {
    if (name === 'exists') callback('value' in outcome && outcome.value);
    else if ('error' in outcome) callback(outcome.error);
    else if (WITH_BUFFER.has(name)) callback(null, outcome.value, args[1]);
    else if (outcome.value === undefined) callback(null);
    else callback(null, outcome.value);
  };
}

/** What Node makes of other public functions (R2), what it makes in C++, and what has functions of its own. */
function replaceCompounds(): void {
  for (const name of ['writeFile', 'appendFile', 'createWriteStream', 'createReadStream'])
    replace(module, name, (original) => onBehalf(original));
  replace(module, 'writeFileSync', (original) => writeFileSync(original, 'w'));
  replace(module, 'appendFileSync', (original) => writeFileSync(original, 'a'));
  replace(module, 'mkdtempDisposableSync', (original) => mkdtempDisposableSync(original));
  for (const name of ['glob', 'globSync']) replace(module, name, globbing);
  replaceNative();
}

/** The path of a call, or the descriptor in the options of a stream. */
function onBehalf(original: AnyFunction): AnyFunction {
  return (...args) => {
    const { fd } = (args[1] ?? {}) as { readonly fd?: unknown };
    const session = sessionOf(args[0], fd);
    return session ? session.onBehalf(() => original(...args)) : original(...args);
  };
}

interface WriteFileOptions {
  readonly encoding?: string | null;
  readonly flag?: string;
  readonly flush?: boolean;
  readonly mode?: number;
}

/** A text in UTF-8 is written by a call of its own in C++; all else is made of public functions. */
function writeFileSync(original: AnyFunction, defaultFlag: 'a' | 'w'): AnyFunction {
  return (...args) => {
    const [path, data, given] = args;
    const session = sessionOf(path);
    if (!session) return original(...args);
    const options: WriteFileOptions =
      typeof given === 'string'
        ? { encoding: given }
        : ((given ?? { encoding: 'utf8' }) as WriteFileOptions);
    const isText = typeof data === 'string' && /^utf-?8$/.test(options.encoding ?? '');
    if (!isText) return session.onBehalf(() => original(...args));
    const isFlushing = options.flush === true && flushesText();
    const flag = typeof path === 'number' ? defaultFlag : (options.flag ?? defaultFlag);
    return session.now(() =>
      writeText(session, path, data, { ...options, flag, flush: isFlushing }),
    );
  };
}

function writeText(session: Session, path: unknown, data: string, options: WriteFileOptions): void {
  const run = (name: string, ...args: Arguments): unknown => EFFECTS[name]?.(session, args);
  const { flag, mode, flush } = options;
  const isOwn = typeof path !== 'number';
  const descriptor = isOwn ? run('openSync', path, flag, mode ?? 0o666) : path;
  try {
    if (data !== '') run('writeSync', descriptor, data);
    if (flush) run('fsyncSync', descriptor);
  } finally {
    if (isOwn) run('closeSync', descriptor);
  }
}

function mkdtempDisposableSync(original: AnyFunction): AnyFunction {
  return (...args) => {
    if (!sessionOf(args[0])) return original(...args);
    const path = fs.mkdtempSync(...(args as Parameters<typeof fs.mkdtempSync>));
    const remove = (): void => fs.rmSync(path, { recursive: true, force: true });
    return { path, remove, [Symbol.dispose]: remove };
  };
}

/** Patterns look at much of a tree, by functions that Node has taken out of its module. */
function globbing(original: AnyFunction): AnyFunction {
  return (...args) => {
    const { cwd = process.cwd() } = (args[1] ?? {}) as { readonly cwd?: unknown };
    sessionOf(cwd)?.touch(cwd, 'shape');
    return original(...args);
  };
}

/** `realpath.native` and `realpathSync.native` are functions of their own. */
function replaceNative(): void {
  const touching =
    (original: AnyFunction): AnyFunction =>
    (...args) => {
      sessionOf(args[0])?.touch(args[0], 'name');
      return original(...args);
    };
  for (const name of ['realpath', 'realpathSync']) {
    const original = (real as unknown as Record<string, { native: AnyFunction }>)[name]?.native;
    if (original) Object.assign(module[name] as AnyFunction, { native: touching(original) });
  }
}

/** In fs.promises a `FileHandle` may stand for a path. */
function replacePromises(): void {
  for (const [syncName, effect] of Object.entries(ALL_EFFECTS)) {
    const name = syncName.slice(0, -'Sync'.length);
    replace(promises, name, (original) => (...args) => {
      const session = sessionOf(...addressesOf(name, args));
      return session ? session.promise(() => effect(session, args)) : original(...args);
    });
  }
  const SPECIAL: Readonly<Record<string, (session: Session, args: Arguments) => Promise<unknown>>> =
    {
      open: openHandle,
      cp: copyAsync,
      writeFile: (session, args) => writeFile(session, args, 'w'),
      appendFile: (session, args) => writeFile(session, args, 'a'),
      readFile,
    };
  for (const [name, run] of Object.entries(SPECIAL))
    replace(promises, name, (original) => (...args) => {
      const [first] = args;
      const session = sessionOf(...addressesOf(name, args), (first as { fd?: unknown })?.fd);
      return session ? session.onBehalf(() => run(session, args)) : original(...args);
    });
  replace(promises, 'mkdtempDisposable', (original) => mkdtempDisposable(original));
  replace(promises, 'glob', globbing);
}

function mkdtempDisposable(original: AnyFunction): AnyFunction {
  return async (...args) => {
    if (!sessionOf(args[0])) return original(...args);
    const path = await fs.promises.mkdtemp(...(args as Parameters<typeof fs.promises.mkdtemp>));
    const remove = (): Promise<void> => fs.promises.rm(path, { recursive: true, force: true });
    return { path, remove, [Symbol.asyncDispose]: remove };
  };
}
