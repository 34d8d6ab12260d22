// What each synchronous call of node:fs does to the folder of a session: the original does it, and the shadow is told.
//
// An effect throws what the original throws, and then has told the shadow nothing. What Node does in one call to the system is
// one effect here; copies and removals of whole trees are in whole-trees.ts.
//
// Positions are counted here, because no call of Node asks for the position of a descriptor.
//
// Source: lib/fs.js of Node 20, 22 and 24; libuv's src/unix/fs.c for the calls of the system that a copy makes.

import type { PathLike, RmDirOptions, Stats } from 'node:fs';
import { withHeardTimes } from './asks.js';
import { real } from './originals.js';
import type { Need, OpenFile, Session } from './session.js';

export type Arguments = readonly unknown[];
export type Effect = (session: Session, args: Arguments) => unknown;

type Name = keyof typeof real;
/** Calls an original with arguments that it checks itself. */
export const call = (name: Name, args: Arguments): unknown =>
  (real[name] as (...args: Arguments) => unknown)(...args);

const { constants } = real;

/** The flags of open(2) that letters stand for. Source: stringToFlags in lib/internal/fs/utils.js. */
const WRITING = constants.O_CREAT | constants.O_WRONLY;
const BOTH = constants.O_CREAT | constants.O_RDWR;
const LETTERS: Readonly<Record<string, number>> = {
  r: constants.O_RDONLY,
  'r+': constants.O_RDWR,
  w: constants.O_TRUNC | WRITING,
  'w+': constants.O_TRUNC | BOTH,
  a: constants.O_APPEND | WRITING,
  'a+': constants.O_APPEND | BOTH,
};

/** As a number; letters come in any order that Node takes. */
export function flagsOf(flags: unknown): number {
  if (typeof flags === 'number') return flags;
  const text = typeof flags === 'string' ? flags : 'r';
  const exclusive = text.includes('x') ? constants.O_EXCL : 0;
  const synchronous = text.includes('s') ? constants.O_SYNC : 0;
  return (LETTERS[text.replace(/[xs]/g, '')] ?? 0) | exclusive | synchronous;
}

const has = (flags: number, flag: number): boolean => flag !== 0 && (flags & flag) === flag;

function openSync(session: Session, args: Arguments): number {
  const [path] = args;
  const flags = flagsOf(args[1]);
  const isTruncating = has(flags, constants.O_TRUNC);
  const follow = !has(flags, constants.O_NOFOLLOW);
  const { shadow } = session;
  // A record needs what a recovery empties, because a power cut may leave it.
  session.touch(path, isTruncating && !shadow ? 'name' : 'data', follow);
  // O_EXCL does not follow a link, but where there is one it fails.
  const place = session.place(path, follow);
  const descriptor = call('openSync', args) as number;
  if (isTruncating) session.changed(path, 'emptied');
  if (!shadow) {
    session.files.set(descriptor, UNKNOWN);
    return descriptor;
  }
  if (!place) {
    session.files.delete(descriptor);
    return descriptor;
  }
  let { inode } = place;
  if (inode === undefined && has(flags, constants.O_CREAT)) inode = shadow.create(place);
  else if (inode !== undefined && isTruncating) shadow.truncate(inode, 0);
  if (inode === undefined) return descriptor;
  const sync = has(flags, constants.O_SYNC)
    ? 'fsync'
    : has(flags, constants.O_DSYNC)
      ? 'fdatasync'
      : undefined;
  const isAppending = has(flags, constants.O_APPEND);
  session.files.set(descriptor, { inode, isAppending, sync, at: 0 });
  return descriptor;
}

/** The file of a recovery: only that its descriptor is one of the session counts. */
const UNKNOWN: OpenFile = { inode: 0, isAppending: false, sync: undefined, at: 0 };

function closeSync(session: Session, args: Arguments): unknown {
  session.files.delete(args[0] as number);
  return call('closeSync', args);
}

/** Tells the shadow what was written at a position, or at that of the descriptor. */
function wrote(session: Session, descriptor: unknown, bytes: Uint8Array, position: unknown): void {
  const file = session.file(descriptor);
  const { shadow } = session;
  if (!file || !shadow || bytes.length === 0) return;
  const isPositioned = isPosition(position);
  // Linux appends with O_APPEND whatever the position is. Source: pwrite(2), BUGS.
  const at = file.isAppending ? shadow.size(file.inode) : isPositioned ? position : file.at;
  if (!isPositioned) file.at = at + bytes.length;
  shadow.write(file.inode, at, bytes, file.sync !== undefined);
  if (file.sync) shadow.syncAfterWrite(file.inode, file.sync);
}

/** Others are taken for the position of the descriptor. */
const isPosition = (position: unknown): position is number =>
  typeof position === 'number' && position >= 0;

/** The bytes of a view. */
export const bytesOf = ({ buffer, byteOffset, byteLength }: ArrayBufferView): Uint8Array =>
  new Uint8Array(buffer, byteOffset, byteLength);

function writeSync(session: Session, args: Arguments): number {
  const written = call('writeSync', args) as number;
  const [descriptor, data, third, fourth, fifth] = args;
  if (ArrayBuffer.isView(data)) {
    const options =
      typeof third === 'object' && third !== null ? (third as WriteOptions) : undefined;
    const offset = options ? (options.offset ?? 0) : ((third as number | undefined) ?? 0);
    const bytes = bytesOf(data).subarray(offset, offset + written);
    wrote(session, descriptor, bytes, options ? options.position : fifth);
  } else {
    const bytes = Buffer.from(String(data), fourth as BufferEncoding | undefined);
    wrote(session, descriptor, bytes.subarray(0, written), third);
  }
  return written;
}

interface WriteOptions {
  readonly offset?: number;
  readonly position?: number | null;
}

function writevSync(session: Session, args: Arguments): number {
  const written = call('writevSync', args) as number;
  const [descriptor, views, position] = args;
  const bytes = Buffer.concat((views as readonly ArrayBufferView[]).map(bytesOf));
  wrote(session, descriptor, bytes.subarray(0, written), position);
  return written;
}

/** A read moves the position of its descriptor. */
function readSync(session: Session, args: Arguments): number {
  const read = call('readSync', args) as number;
  const [descriptor, , third, , fifth] = args;
  const isObject = typeof third === 'object' && third !== null;
  moved(session.file(descriptor), read, isObject ? (third as WriteOptions).position : fifth);
  return read;
}

function readvSync(session: Session, args: Arguments): number {
  const read = call('readvSync', args) as number;
  moved(session.file(args[0]), read, args[2]);
  return read;
}

function moved(file: OpenFile | undefined, bytes: number, position: unknown): void {
  if (file && !isPosition(position) && (typeof position !== 'bigint' || position < 0n))
    file.at += bytes;
}

function readFileSync(session: Session, args: Arguments): unknown {
  const [path] = args;
  session.touch(path, 'data');
  const content = call('readFileSync', args);
  const file = session.file(path);
  // It reads from the position to the end. Node may have read through `readSync`, which has moved the position already.
  if (file && session.shadow) file.at = Math.max(file.at, session.shadow.size(file.inode));
  return content;
}

function ftruncateSync(session: Session, args: Arguments): void {
  call('ftruncateSync', args);
  const file = session.file(args[0]);
  if (file) session.shadow?.truncate(file.inode, Math.max(0, Number(args[1] ?? 0)));
}

/** By path it is three calls of the system, none of which a caller sees. */
export function truncateSync(session: Session, [path, length]: Arguments): void {
  if (typeof path === 'number') {
    ftruncateSync(session, [path, length]);
    return;
  }
  const descriptor = openSync(session, [path, 'r+']);
  try {
    ftruncateSync(session, [descriptor, length]);
  } finally {
    closeSync(session, [descriptor]);
  }
}

const syncs =
  (name: 'fsyncSync' | 'fdatasyncSync', op: 'fsync' | 'fdatasync'): Effect =>
  (session, args) => {
    call(name, args);
    const file = session.file(args[0]);
    if (file) session.shadow?.sync(file.inode, op);
  };

function renameSync(session: Session, args: Arguments): void {
  const [from, to] = args;
  session.touch(from, 'tree', false);
  session.touch(to, 'tree', false);
  const source = session.place(from, false);
  const target = session.place(to, false);
  call('renameSync', args);
  session.moved(from, to);
  const { shadow } = session;
  if (!shadow) return;
  if (source && target) shadow.rename(source, target);
  else if (source) shadow.remove(source);
  else if (target) arrived(session, to);
}

/** What came from outside has no history here: it is as if it had been made just now. */
function arrived(session: Session, path: unknown): void {
  const { shadow } = session;
  const place = session.place(path, false);
  if (!shadow || !place) return;
  shadow.gap(
    'a name came from outside of the folder by rename or link; whether its content was durable is not known',
  );
  if (place.inode !== undefined) shadow.remove(place);
  const status = real.lstatSync(path as PathLike);
  if (!status.isFile()) return;
  shadow.write(shadow.create(place), 0, readFile(path as PathLike));
}

function linkSync(session: Session, args: Arguments): void {
  const [existing, path] = args;
  session.touch(existing, 'data', false);
  session.touch(path, 'name', false);
  const source = session.place(existing, false);
  const place = session.place(path, false);
  call('linkSync', args);
  if (!place) return;
  if (source?.inode === undefined) arrived(session, path);
  else session.shadow?.link(source.inode, place);
}

export function symlinkSync(session: Session, args: Arguments): void {
  const [, path] = args;
  session.touch(path, 'name', false);
  const place = session.place(path, false);
  call('symlinkSync', args);
  // Read again, because Node may have changed it.
  if (place) session.shadow?.symlink(place, real.readlinkSync(path as PathLike));
}

export function unlinkSync(session: Session, args: Arguments): void {
  const [path] = args;
  session.touch(path, 'name', false);
  const place = session.place(path, false);
  call('unlinkSync', args);
  session.changed(path, 'removed');
  if (place) session.shadow?.remove(place);
}

/** Removes an empty directory; what removes a tree is in whole-trees.ts. */
export function rmdirSync(session: Session, args: Arguments): void {
  const [path] = args;
  session.touch(path, 'names', false);
  const place = session.place(path, false);
  real.rmdirSync(path as PathLike, args[1] as RmDirOptions);
  session.changed(path, 'removed');
  if (place) session.shadow?.remove(place);
}

/** Makes one directory. */
export function makeDirectory(session: Session, args: Arguments): void {
  const [path] = args;
  session.touch(path, 'name', false);
  const place = session.place(path, false);
  call('mkdirSync', args);
  if (place && place.inode === undefined) session.shadow?.mkdir(place);
}

function mkdtempSync(session: Session, args: Arguments): unknown {
  session.touch(args[0], 'name', false);
  const path = call('mkdtempSync', args);
  const place = session.place(path, false);
  if (place) session.shadow?.mkdir(place);
  return path;
}

/**
 * libuv opens the target without O_TRUNC, cuts it to nothing, and has the kernel copy. A clone, where the file system has
 * it, is the same bytes at once.
 */
export function copyFileSync(session: Session, args: Arguments): void {
  const [from, to] = args;
  session.touch(from, 'data');
  session.touch(to, session.shadow ? 'data' : 'name');
  const place = session.place(to, true);
  const source = session.place(from, true);
  call('copyFileSync', args);
  session.changed(to, 'emptied');
  const { shadow } = session;
  if (!shadow || !place) return;
  // A file onto itself: nothing happens.
  if (place.inode !== undefined && place.inode === source?.inode) return;
  if (place.inode !== undefined) shadow.truncate(place.inode, 0);
  const inode = place.inode ?? shadow.create(place);
  shadow.write(inode, 0, readFile(to as PathLike));
}

/** Past the replaced functions, and past those of the originals that call them. */
function readFile(path: PathLike): Uint8Array {
  const descriptor = real.openSync(path, 'r');
  try {
    const bytes = new Uint8Array(real.fstatSync(descriptor).size);
    for (let at = 0; at < bytes.length; ) {
      const read = real.readSync(descriptor, bytes, at, bytes.length - at, at);
      if (read === 0) break;
      at += read;
    }
    return bytes;
  } finally {
    real.closeSync(descriptor);
  }
}

/** The status of a file. */
const stats =
  (name: Name, need: Need, follow = true): Effect =>
  (session, args) => {
    const status = looks(name, need, follow)(session, args);
    return withHeardTimes(status as Stats | undefined, session.asked);
  };

/** What only looks, or changes what is not followed here: times, owners and modes. */
const looks =
  (name: Name, need: Need, follow = true): Effect =>
  (session, args) => {
    session.touch(args[0], need, follow);
    return call(name, args);
  };

function readdirSync(session: Session, args: Arguments): unknown {
  const isRecursive = (args[1] as { readonly recursive?: boolean } | undefined)?.recursive;
  session.touch(args[0], isRecursive ? 'shape' : 'names');
  return call('readdirSync', args);
}

/** By the name of the original. */
export const EFFECTS: Readonly<Record<string, Effect>> = {
  openSync,
  closeSync,
  writeSync,
  writevSync,
  readSync,
  readvSync,
  readFileSync,
  ftruncateSync,
  truncateSync,
  fsyncSync: syncs('fsyncSync', 'fsync'),
  fdatasyncSync: syncs('fdatasyncSync', 'fdatasync'),
  renameSync,
  linkSync,
  symlinkSync,
  unlinkSync,
  mkdtempSync,
  copyFileSync,
  readdirSync,
  opendirSync: looks('opendirSync', 'names'),
  statSync: stats('statSync', 'size'),
  lstatSync: stats('lstatSync', 'size', false),
  statfsSync: looks('statfsSync', 'name'),
  existsSync: looks('existsSync', 'name'),
  accessSync: looks('accessSync', 'name'),
  readlinkSync: looks('readlinkSync', 'name', false),
  realpathSync: looks('realpathSync', 'name'),
  chmodSync: looks('chmodSync', 'name'),
  chownSync: looks('chownSync', 'name'),
  lchownSync: looks('lchownSync', 'name', false),
  lchmodSync: looks('lchmodSync', 'name', false),
  utimesSync: looks('utimesSync', 'name'),
  lutimesSync: looks('lutimesSync', 'name', false),
  fstatSync: stats('fstatSync', 'name'),
  fchmodSync: looks('fchmodSync', 'name'),
  fchownSync: looks('fchownSync', 'name'),
  futimesSync: looks('futimesSync', 'name'),
};
