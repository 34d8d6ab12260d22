// What each call of the system does to a tree of files, as far as it changes what a crash may leave.
//
// Times, modes, owners and locks are not followed, nor is sync_file_range, because it makes nothing durable: it flushes no device
// and writes no metadata.
//
// A mark is a call of access(2) for a path that does not exist: any language can make it, and the log has it in its place.
//
// Source: the manual pages of the calls, section 2.

import { BOOT, BOOT_PATH } from './asks.js';
import type { Place } from './shadow.js';
import { descriptorIn, pathIn, type SystemCall, stringsIn } from './strace-log.js';
import type { Handler, Handlers, OpenFile, Process, Replay } from './strace-replay.js';

/** A mark is asked for below this path, as the JSON of its value with `encodeURIComponent`. */
export const MARK_PATH = '/write-barrier-mark/';
/** What was done before this path is asked for is durable. */
export const START_PATH = '/write-barrier-start';

const flagsIn = (text: string | undefined): ReadonlySet<string> =>
  new Set(text?.match(/\b[A-Z][A-Z0-9_]+\b/g));

const syncOf = (flags: ReadonlySet<string>, both: string, data: string): OpenFile['sync'] =>
  flags.has(both) ? 'fsync' : flags.has(data) ? 'fdatasync' : undefined;

/** An open, by the arguments that have the directory, the path and the flags. */
function opening(path: number, flagsAt: number, directory?: number): Handlers[string] {
  return {
    begin: (replay, call, process) => {
      const flags = flagsIn(call.args[flagsAt]);
      const follow = !flags.has('O_NOFOLLOW');
      const full = replay.pathOf(call, process, path, directory);
      if (full === BOOT_PATH) replay.shadow.gap(`the program was recorded, and ${BOOT}`);
      const place = replay.placeOf(full, follow);
      if (place && !flags.has('O_TMPFILE')) open(replay, call, place, flags);
    },
    end: opened,
  };
}

function open(replay: Replay, call: SystemCall, place: Place, flags: ReadonlySet<string>): void {
  const { shadow } = replay;
  let { inode } = place;
  if (inode !== undefined && flags.has('O_TRUNC')) shadow.truncate(inode, 0);
  if (inode === undefined && flags.has('O_CREAT')) inode = shadow.create(place);
  if (inode === undefined) {
    shadow.gap(`${place.path} was opened, and the record has not seen who made it`);
    return;
  }
  const sync = syncOf(flags, 'O_SYNC', 'O_DSYNC');
  replay.opened.set(call, { inode, isAppending: flags.has('O_APPEND'), sync, at: 0 });
}

function opened(replay: Replay, call: SystemCall, { files }: Process): void {
  const { result } = call;
  const file = replay.opened.get(call);
  if (result === undefined) return;
  if (file) files.set(result, file);
  else files.delete(result);
}

/** A write: where its bytes, its position and its own flags stand. */
function writing(positionAt?: number, flagsAt?: number): Handlers[string] {
  return {
    begin: (replay, call, process) => {
      const file = replay.fileOf(call.args[0], process);
      if (!file) return;
      const { bytes, isCut } = stringsIn(call.args[1] ?? '');
      if (isCut) replay.shadow.gap('a write was longer than the log has it');
      const flags = flagsIn(flagsAt === undefined ? undefined : call.args[flagsAt]);
      const position = positionAt === undefined ? -1 : Number(call.args[positionAt]);
      write(replay, file, bytes.subarray(0, call.result ?? bytes.length), position, flags);
    },
  };
}

/** At a position, or at that of the open file if it is negative. */
function write(
  { shadow }: Replay,
  file: OpenFile,
  bytes: Uint8Array,
  position: number,
  flags: ReadonlySet<string> = new Set(),
): void {
  const isAppending = file.isAppending || flags.has('RWF_APPEND');
  const at = isAppending ? shadow.size(file.inode) : position < 0 ? file.at : position;
  if (position < 0) file.at = at + bytes.length;
  const sync = syncOf(flags, 'RWF_SYNC', 'RWF_DSYNC') ?? file.sync;
  shadow.write(file.inode, at, bytes, sync !== undefined);
  if (sync && bytes.length > 0) shadow.syncAfterWrite(file.inode, sync);
}

/** A read moves the position of its file, unless it has one of its own. */
const reading = (positionAt?: number): Handlers[string] => ({
  end: (replay, call, process) => {
    const file = replay.fileOf(call.args[0], process);
    const isPositioned = positionAt !== undefined && Number(call.args[positionAt]) >= 0;
    if (file && !isPositioned) file.at += call.result ?? 0;
  },
});

/** An offset that is passed by address: `NULL`, `[3]`, or `[3] => [5]`. */
function offsetIn(argument: string | undefined): number | undefined {
  const [, offset] = /^\[(\d+)\]/.exec(argument ?? '') ?? [];
  return offset === undefined ? undefined : Number(offset);
}

/** A copy in the kernel: the log has the number of bytes, and the source has what they are. */
function copying(
  inAt: number,
  inOffsetAt: number,
  outAt: number,
  outOffsetAt?: number,
): Handlers[string] {
  return {
    begin: (replay, call, process) => {
      const from = replay.fileOf(call.args[inAt], process);
      const to = replay.fileOf(call.args[outAt], process);
      const length = call.result ?? 0;
      const own = offsetIn(call.args[inOffsetAt]);
      const offset = own ?? from?.at ?? 0;
      if (from && own === undefined) from.at += length;
      if (!to || length === 0) return;
      const bytes = from
        ? replay.contentOf(from.inode).slice(offset, offset + length)
        : replay.readOutside(descriptorIn(call.args[inAt]).path ?? '', offset, length);
      if (bytes?.length !== length) {
        replay.shadow.gap(`${call.name} copied bytes that the record does not know`);
        return;
      }
      const target = outOffsetAt === undefined ? undefined : offsetIn(call.args[outOffsetAt]);
      write(replay, to, bytes, target ?? -1);
    },
  };
}

function ftruncate(replay: Replay, { args }: SystemCall, process: Process): void {
  const file = replay.fileOf(args[0], process);
  if (file) replay.shadow.truncate(file.inode, Number(args[1]));
}

function truncate(replay: Replay, call: SystemCall, process: Process): void {
  const { inode } = replay.placeOf(replay.pathOf(call, process, 0), true) ?? {};
  if (inode !== undefined) replay.shadow.truncate(inode, Number(call.args[1]));
}

/** Without flags it makes a file longer; holes and zeroes are bytes; the rest moves bytes. */
function fallocate(replay: Replay, { args }: SystemCall, process: Process): void {
  const file = replay.fileOf(args[0], process);
  if (!file) return;
  const { shadow } = replay;
  const flags = flagsIn(args[1]);
  const [offset, length] = [Number(args[2]), Number(args[3])];
  const size = shadow.size(file.inode);
  const isKeepingSize = flags.has('FALLOC_FL_KEEP_SIZE');
  const isZeroing = flags.has('FALLOC_FL_ZERO_RANGE') || flags.has('FALLOC_FL_PUNCH_HOLE');
  if (!isZeroing && [...flags].some((flag) => flag !== 'FALLOC_FL_KEEP_SIZE')) {
    shadow.gap(`fallocate with ${[...flags].join(' and ')} is not followed`);
    return;
  }
  if (isZeroing && offset < size)
    shadow.write(file.inode, offset, new Uint8Array(Math.min(length, size - offset)));
  if (!isKeepingSize && offset + length > size) shadow.truncate(file.inode, offset + length);
}

const syncing =
  (op: 'fsync' | 'fdatasync'): Handler =>
  (replay, { args }, process) => {
    const file = replay.fileOf(args[0], process);
    if (file) replay.shadow.sync(file.inode, op);
  };

/** Two paths, each with its directory or without. */
type TwoPaths = readonly [from: number, to: number, fromDirectory?: number, toDirectory?: number];

const renaming =
  ([fromAt, toAt, fromDirectory, toDirectory]: TwoPaths, flagsAt?: number): Handler =>
  (replay, call, process) => {
    const from = replay.placeOf(replay.pathOf(call, process, fromAt, fromDirectory), false);
    const to = replay.placeOf(replay.pathOf(call, process, toAt, toDirectory), false);
    const flags = flagsIn(flagsAt === undefined ? undefined : call.args[flagsAt]);
    const { shadow } = replay;
    if (from && to && flags.has('RENAME_EXCHANGE')) shadow.exchange(from, to);
    else if (from && to) shadow.rename(from, to);
    else if (from) shadow.remove(from);
    else if (to) fromOutside(replay, to);
  };

function fromOutside({ shadow }: Replay, { path }: Place): void {
  shadow.gap(`${path} came from outside of the folder by rename or link`);
}

const linking =
  ([fromAt, toAt, fromDirectory, toDirectory]: TwoPaths, flagsAt?: number): Handler =>
  (replay, call, process) => {
    const flags = flagsIn(flagsAt === undefined ? undefined : call.args[flagsAt]);
    const to = replay.placeOf(replay.pathOf(call, process, toAt, toDirectory), false);
    if (!to) return;
    const path = replay.pathOf(call, process, fromAt, fromDirectory);
    const { inode } = flags.has('AT_EMPTY_PATH')
      ? (replay.fileOf(call.args[fromDirectory ?? 0], process) ?? { inode: undefined })
      : (replay.placeOf(path, flags.has('AT_SYMLINK_FOLLOW')) ?? { inode: undefined });
    if (inode === undefined) fromOutside(replay, to);
    else replay.shadow.link(inode, to);
  };

const symlinking =
  (pathAt: number, directory?: number): Handler =>
  (replay, call, process) => {
    const place = replay.placeOf(replay.pathOf(call, process, pathAt, directory), false);
    if (place) replay.shadow.symlink(place, pathIn(call.args[0]) ?? '');
  };

const removing =
  (pathAt: number, directory?: number): Handler =>
  (replay, call, process) => {
    const place = replay.placeOf(replay.pathOf(call, process, pathAt, directory), false);
    if (place) replay.shadow.remove(place);
  };

const makingDirectory =
  (pathAt: number, directory?: number): Handler =>
  (replay, call, process) => {
    const place = replay.placeOf(replay.pathOf(call, process, pathAt, directory), false);
    if (place && place.inode === undefined) replay.shadow.mkdir(place);
  };

function duplicate(replay: Replay, { args, result }: SystemCall, process: Process): void {
  const file = replay.fileOf(args[0], process);
  if (result === undefined) return;
  if (file) process.files.set(result, file);
  else process.files.delete(result);
}

function closeRange(_: Replay, { args }: SystemCall, { files }: Process): void {
  const [first, last] = [Number(args[0]), Number(args[1])];
  for (const descriptor of [...files.keys()])
    if (descriptor >= first && !(descriptor > last)) files.delete(descriptor);
}

function mark(replay: Replay, call: SystemCall): void {
  const path = call.args.map((argument) => pathIn(argument)).find((text) => text !== undefined);
  if (path === START_PATH) replay.start();
  else if (path?.startsWith(MARK_PATH))
    replay.shadow.mark(JSON.parse(decodeURIComponent(path.slice(MARK_PATH.length))));
}

const gap =
  (sentence: string): Handler =>
  ({ shadow }) =>
    shadow.gap(sentence);

function map(replay: Replay, { args }: SystemCall, process: Process): void {
  const [, , protection, flags, descriptor] = args;
  const isShared = /MAP_SHARED/.test(flags ?? '') && /PROT_WRITE/.test(protection ?? '');
  if (isShared && replay.fileOf(descriptor, process))
    replay.shadow.gap('a file was mapped to be written, and stores to memory are in no log');
}

const forking: Handlers[string] = {
  begin: (replay, { args, result }, process) => {
    if (result !== undefined && result > 0) replay.fork(process, result, args.join(' '));
  },
};

/** What becomes gaps if it is done to a file of the tree. */
const onFile =
  (at: number, what: string, pattern?: RegExp): Handler =>
  (replay, { args }, process) => {
    if (pattern && !pattern.test(args[1] ?? '')) return;
    if (replay.fileOf(args[at], process)) replay.shadow.gap(`${what} is not followed`);
  };

/**
 * A ring is a gap, save those that libuv makes for each event loop, of 256 entries and right after its epoll: it registers descriptors with
 * them, and takes another one for files. Source: uv__platform_loop_init in libuv's src/unix/linux.c.
 */
function ring({ shadow, loops }: Replay, { process, args }: SystemCall): void {
  const isOfLoop =
    loops.delete(process) && args[0] === '256' && !/SETUP_SQPOLL/.test(args[1] ?? '');
  if (!isOfLoop) shadow.gap('io_uring was used, whose requests are in no log');
}

const sync: Handlers[string] = { begin: ({ shadow }) => shadow.syncAll() };
const access: Handlers[string] = { begin: mark };

/** By the name of the call; these are the ones that a log must have. */
export const CALLS: Handlers = {
  open: opening(0, 1),
  openat: opening(1, 2, 0),
  openat2: opening(1, 2, 0),
  creat: {
    begin: (replay, call, process) => {
      const place = replay.placeOf(replay.pathOf(call, process, 0), true);
      if (place) open(replay, call, place, new Set(['O_CREAT', 'O_TRUNC']));
    },
    end: opened,
  },
  close: { begin: (_, { args }, { files }) => void files.delete(descriptorIn(args[0]).number) },
  close_range: { begin: closeRange },
  dup: { end: duplicate },
  dup2: { end: duplicate },
  dup3: { end: duplicate },
  fcntl: {
    end: (replay, call, process) => {
      if (/F_DUPFD/.test(call.args[1] ?? '')) duplicate(replay, call, process);
    },
  },
  read: reading(),
  readv: reading(),
  preadv2: reading(3),
  lseek: {
    end: (replay, { args, result }, process) => {
      const file = replay.fileOf(args[0], process);
      if (file && result !== undefined) file.at = result;
    },
  },
  write: writing(),
  writev: writing(),
  pwrite64: writing(3),
  pwritev: writing(3),
  pwritev2: writing(3, 4),
  copy_file_range: copying(0, 1, 2, 3),
  sendfile: copying(1, 2, 0),
  splice: { begin: onFile(2, 'splice into a file') },
  ioctl: { begin: onFile(0, 'a clone of a file', /CLONE|DEDUPE/) },
  truncate: { begin: truncate },
  ftruncate: { begin: ftruncate },
  fallocate: { begin: fallocate },
  fsync: { begin: syncing('fsync') },
  fdatasync: { begin: syncing('fdatasync') },
  sync,
  syncfs: sync,
  rename: { begin: renaming([0, 1]) },
  renameat: { begin: renaming([1, 3, 0, 2]) },
  renameat2: { begin: renaming([1, 3, 0, 2], 4) },
  link: { begin: linking([0, 1]) },
  linkat: { begin: linking([1, 3, 0, 2], 4) },
  symlink: { begin: symlinking(1) },
  symlinkat: { begin: symlinking(2, 1) },
  unlink: { begin: removing(0) },
  rmdir: { begin: removing(0) },
  unlinkat: { begin: removing(1, 0) },
  mkdir: { begin: makingDirectory(0) },
  mkdirat: { begin: makingDirectory(1, 0) },
  chdir: {
    end: (replay, call, process) => {
      process.current.path = replay.pathOf(call, process, 0) ?? process.current.path;
    },
  },
  fchdir: {
    end: (_, { args }, process) => {
      process.current.path = descriptorIn(args[0]).path ?? process.current.path;
    },
  },
  clone: forking,
  clone3: forking,
  fork: forking,
  vfork: forking,
  mmap: { begin: map },
  epoll_create1: { begin: ({ loops }, { process }) => void loops.add(process) },
  io_uring_setup: { begin: ring },
  io_submit: { begin: gap('io_submit was used, which is not followed') },
  access,
  faccessat: access,
  faccessat2: access,
};
