// fs.promises.open and what FileHandle does, on the files of a session.
//
// The effect of an open is at once, by a descriptor; around that descriptor a FileHandle of Node is made, by the classes of a
// handle that Node has opened. So a handle is Node's own, with its events, streams and locks.
//
// A handle's methods are replaced in its prototype, `close` in the handle, because Node defines it there.
//
// Source: lib/internal/fs/promises.js of Node 20, 22 and 24.

import type { FileHandle } from 'node:fs/promises';
import { type Arguments, bytesOf, EFFECTS } from './effects.js';
import { realPromises } from './originals.js';
import { handlesFlush } from './probes.js';
import { type Session, sessionOf } from './session.js';

type Methods = Record<string, (...args: unknown[]) => unknown>;

/** The classes of a handle; nothing else gives them. */
interface HandleClasses {
  readonly FileHandle: new (inner: unknown) => FileHandle;
  /** What a handle is inside, made of a descriptor. */
  readonly Inner: new (
    descriptor: number,
  ) => unknown;
  readonly flushes: boolean;
}

let classes: Promise<HandleClasses> | undefined;

async function findClasses(): Promise<HandleClasses> {
  const handle = await realPromises.open('/dev/null', 'r');
  try {
    const key = Object.getOwnPropertySymbols(handle).find(
      ({ description }) => description === 'kHandle',
    );
    if (!key) throw new Error(`Node ${process.version} has other file handles than this kit knows`);
    const inner = (handle as unknown as Record<symbol, object>)[key] as object;
    return {
      FileHandle: handle.constructor as HandleClasses['FileHandle'],
      Inner: inner.constructor as HandleClasses['Inner'],
      flushes: await handlesFlush(),
    };
  } finally {
    await handle.close();
  }
}

const run = (session: Session, name: string, ...args: Arguments): unknown =>
  EFFECTS[name]?.(session, args);

export function openHandle(session: Session, args: Arguments): Promise<FileHandle> {
  return session.promise(() => {
    const [path, flags = 'r', mode = 0o666] = args;
    const descriptor = run(session, 'openSync', path, flags, mode) as number;
    classes ??= findClasses();
    return classes.then(({ FileHandle, Inner }) => {
      const handle = new FileHandle(new Inner(descriptor));
      replaceMethods(Object.getPrototypeOf(handle) as Methods);
      const close = handle.close.bind(handle);
      handle.close = () => {
        const file = session.files.get(handle.fd);
        if (!file) return close();
        return session.promise(() => {
          session.files.delete(handle.fd);
          return close();
        }, handle.fd);
      };
      return handle;
    });
  });
}

/** How a method of a handle is made of an effect: its arguments after the descriptor, and its answer. */
interface Method {
  readonly effect: string;
  readonly args?: (args: Arguments) => Arguments;
  readonly answer?: (result: unknown, args: Arguments) => unknown;
}

const METHODS: Readonly<Record<string, Method>> = {
  read: {
    effect: 'readSync',
    args: readArguments,
    answer: (bytesRead, [buffer]) => ({ bytesRead, buffer }),
  },
  readv: { effect: 'readvSync', answer: (bytesRead, [buffers]) => ({ bytesRead, buffers }) },
  write: {
    effect: 'writeSync',
    answer: (bytesWritten, [buffer]) => ({ bytesWritten, buffer }),
  },
  writev: {
    effect: 'writevSync',
    answer: (bytesWritten, [buffers]) => ({ bytesWritten, buffers }),
  },
  truncate: { effect: 'ftruncateSync' },
  sync: { effect: 'fsyncSync' },
  datasync: { effect: 'fdatasyncSync' },
  stat: { effect: 'fstatSync' },
  chmod: { effect: 'fchmodSync' },
  chown: { effect: 'fchownSync' },
  utimes: { effect: 'futimesSync' },
};

/** `read` takes a buffer or options, and may take none of them. */
function readArguments(args: Arguments): Arguments {
  if (ArrayBuffer.isView(args[0])) return args;
  const { buffer = Buffer.alloc(16 * 1024), ...options } = (args[0] ?? {}) as {
    readonly buffer?: ArrayBufferView;
  };
  return [buffer, options];
}

let patched:
  | { readonly prototype: Methods; readonly originals: Methods; readonly own: Methods }
  | undefined;

function replaceMethods(prototype: Methods): void {
  if (patched) return;
  const originals: Methods = {};
  const own: Methods = {};
  const replace = (
    name: string,
    method: (session: Session, fd: number, args: Arguments) => unknown,
  ): void => {
    const original = prototype[name];
    if (!original) return;
    originals[name] = original;
    own[name] = function (this: FileHandle, ...args) {
      const session = sessionOf(this.fd);
      return session ? method(session, this.fd, args) : original.apply(this, args);
    };
    prototype[name] = own[name];
  };
  for (const [name, { effect, args: argumentsOf = same, answer }] of Object.entries(METHODS))
    replace(name, (session, descriptor, given) =>
      session.promise(() => {
        const args = argumentsOf(given);
        const result = run(session, effect, descriptor, ...args);
        return answer ? answer(result, args) : result;
      }, descriptor),
    );
  for (const name of ['writeFile', 'appendFile'])
    replace(name, (session, descriptor, [data, options]) =>
      session.onBehalf(() => writeHandle(session, descriptor, data, options)),
    );
  replace('readFile', (session, descriptor, [options]) =>
    session.promise(() => run(session, 'readFileSync', descriptor, options), descriptor),
  );
  patched = { prototype, originals, own };
}

const same = (args: Arguments): Arguments => args;

/** For the end of the last session. */
export function putHandlesBack(): void {
  if (!patched) return;
  const { prototype, originals, own } = patched;
  for (const [name, original] of Object.entries(originals))
    if (prototype[name] === own[name]) prototype[name] = original;
  patched = undefined;
}

interface WriteFileOptions {
  readonly encoding?: BufferEncoding | null;
  readonly flag?: string;
  readonly flush?: boolean;
  readonly mode?: number;
  readonly signal?: AbortSignal | undefined;
}

const optionsOf = (options: unknown): WriteFileOptions =>
  typeof options === 'string'
    ? { encoding: options as BufferEncoding }
    : ((options ?? {}) as WriteFileOptions);

const descriptorOf = (path: unknown): number | undefined =>
  typeof path === 'object' && path !== null ? (path as { readonly fd?: number }).fd : undefined;

/** fs.promises.writeFile and appendFile. */
export async function writeFile(
  session: Session,
  [path, data, given]: Arguments,
  defaultFlag: 'a' | 'w',
): Promise<void> {
  const descriptor = descriptorOf(path);
  if (descriptor !== undefined) return writeHandle(session, descriptor, data, given);
  const { flag, mode, flush, signal, encoding } = optionsOf(given);
  checkData(data);
  signal?.throwIfAborted();
  const handle = await openHandle(session, [path, flag ?? defaultFlag, mode]);
  try {
    await writeAll(session, handle.fd, data, { encoding: encoding ?? null, signal });
    if (flush) await session.promise(() => run(session, 'fsyncSync', handle.fd), handle.fd);
  } finally {
    await handle.close();
  }
}

/** Of a file that is open. `flush` does here what it does in Node. */
async function writeHandle(
  session: Session,
  descriptor: number,
  data: unknown,
  given: unknown,
): Promise<void> {
  const { flush, ...options } = optionsOf(given);
  checkData(data);
  await writeAll(session, descriptor, data, options);
  if (flush && (await classes)?.flushes)
    await session.promise(() => run(session, 'fsyncSync', descriptor), descriptor);
}

/** Node writes no more at once. Source: kWriteFileMaxChunkSize. */
const CHUNK_BYTES = 512 * 1024;

async function writeAll(
  session: Session,
  descriptor: number,
  data: unknown,
  { encoding, signal }: Pick<WriteFileOptions, 'encoding' | 'signal'>,
): Promise<void> {
  const isIterable = typeof data !== 'string' && !ArrayBuffer.isView(data);
  for await (const part of isIterable ? (data as Iterable<unknown>) : [data]) {
    const bytes = ArrayBuffer.isView(part)
      ? bytesOf(part)
      : Buffer.from(String(part), encoding ?? 'utf8');
    for (let at = 0; at < bytes.length; ) {
      signal?.throwIfAborted();
      const length = Math.min(CHUNK_BYTES, bytes.length - at);
      at += await session.promise(
        () => run(session, 'writeSync', descriptor, bytes, at, length) as number,
        descriptor,
      );
    }
  }
}

/** Node refuses other data before it opens the file. */
function checkData(data: unknown): void {
  if (typeof data === 'string' || ArrayBuffer.isView(data)) return;
  const isIterable =
    typeof data === 'object' &&
    data !== null &&
    (Symbol.asyncIterator in data || Symbol.iterator in data);
  if (isIterable) return;
  const message =
    'The "data" argument must be of type string or an instance of Buffer, TypedArray, or DataView, or an iterable of these.';
  throw Object.assign(new TypeError(message), { code: 'ERR_INVALID_ARG_TYPE' });
}

/** fs.promises.readFile. */
export async function readFile(session: Session, [path, options]: Arguments): Promise<unknown> {
  optionsOf(options).signal?.throwIfAborted();
  return session.promise(() => run(session, 'readFileSync', descriptorOf(path) ?? path, options));
}
