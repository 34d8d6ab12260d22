// Logs of strace as traces. The logs are written by hand here, in the words of strace; test/interop/files-recorder.test.ts has
// real ones.

import { describe, expect, test } from 'vitest';
import { ShadowTree } from '../../../src/testing/files/shadow.js';
import { CALLS } from '../../../src/testing/files/strace-calls.js';
import { callsOf } from '../../../src/testing/files/strace-log.js';
import { Replay } from '../../../src/testing/files/strace-replay.js';
import type { FileNode, FilesTrace } from '../../../src/testing/files/trace.js';
import { linesOf } from './lines.js';

const hex = (text: string): string =>
  Array.from(Buffer.from(text), (byte) => `\\x${byte.toString(16).padStart(2, '0')}`).join('');

/** Strings and paths in hexadecimal, as `strace -xx -y` writes them. */
const encoded = (line: string): string =>
  line.replace(/"([^"]*)"|<(\/[^>]*)>/g, (_, text, path) =>
    text === undefined ? `<${hex(path)}>` : `"${hex(text)}"`,
  );

const INITIAL = new Map<number, FileNode>([
  [
    1,
    {
      kind: 'directory',
      entries: new Map([
        ['old', 2],
        ['d', 3],
      ]),
    },
  ],
  [2, { kind: 'file', data: Buffer.from('old') }],
  [3, { kind: 'directory', entries: new Map() }],
]);

/** The trace of a log about the folder /r, which has the file `old` and the folder `d`. */
function traceOf(...lines: readonly string[]): FilesTrace {
  const replay = new Replay(new ShadowTree('/r'), INITIAL, '/home', () => Buffer.from('outside'));
  const log = lines.map((line) => encoded(/^\d/.test(line) ? line : `7 ${line}`));
  replay.run(
    callsOf(log, (name) => Object.hasOwn(CALLS, name)),
    CALLS,
  );
  return replay.shadow.trace();
}

const OPEN = 'openat(AT_FDCWD</home>, "/r/a", O_RDWR|O_CREAT|O_CLOEXEC, 0666) = 3</r/a>';

describe('a log becomes operations:', () => {
  test.each<[string, readonly string[], readonly string[]]>([
    [
      'an open that makes, one that cuts, one that finds',
      [
        OPEN,
        'openat(AT_FDCWD</home>, "/r/old", O_WRONLY|O_CREAT|O_TRUNC, 0666) = 4</r/old>',
        'open("/r/old", O_RDONLY) = 5</r/old>',
        'creat("/r/b", 0666) = 6</r/b>',
        'openat2(AT_FDCWD</home>, "/r/c", {flags=O_WRONLY|O_CREAT, mode=0666, resolve=0}, 24) = 8</r/c>',
      ],
      ['create /a', 'truncate /old to 0', 'create /b', 'create /c'],
    ],
    [
      'writes at positions and without',
      [
        OPEN,
        'write(3</r/a>, "abc", 3) = 3',
        'pwrite64(3</r/a>, "x", 1, 10) = 1',
        'writev(3</r/a>, [{iov_base="d", iov_len=1}, {iov_base="ef", iov_len=2}], 2) = 3',
        'pwritev(3</r/a>, [{iov_base="gh", iov_len=2}], 1, 20) = 2',
        'pwritev2(3</r/a>, [{iov_base="i", iov_len=1}], 1, -1, 0) = 1',
        'lseek(3</r/a>, 1, SEEK_SET) = 1',
        'read(3</r/a>, "bc", 2) = 2',
        'write(3</r/a>, "short", 5) = 2',
      ],
      [
        'create /a',
        'write /a 0..3',
        'write /a 10..11',
        'write /a 3..6',
        'write /a 20..22',
        'write /a 6..7',
        'write /a 3..5',
      ],
    ],
    [
      'appends, whatever the position is',
      [
        'openat(AT_FDCWD</home>, "/r/old", O_WRONLY|O_APPEND) = 3</r/old>',
        'write(3</r/old>, "abc", 3) = 3',
        'pwrite64(3</r/old>, "x", 1, 0) = 1',
      ],
      ['write /old 3..6', 'write /old 6..7'],
    ],
    [
      'syncs, and writes that sync',
      [
        'openat(AT_FDCWD</home>, "/r/a", O_RDWR|O_CREAT|O_DSYNC, 0666) = 3</r/a>',
        'write(3</r/a>, "a", 1) = 1',
        'fsync(3</r/a>) = 0',
        'fdatasync(3</r/a>) = 0',
        'pwritev2(3</r/a>, [{iov_base="i", iov_len=1}], 1, 0, RWF_SYNC) = 1',
        'sync_file_range(3</r/a>, 0, 0, SYNC_FILE_RANGE_WRITE) = 0',
        'sync() = 0',
        'syncfs(3</r/a>) = 0',
      ],
      [
        'create /a',
        'write /a 0..1',
        'fdatasync /a',
        'fsync /a',
        'fdatasync /a',
        'write /a 0..1',
        'fsync /a',
        'sync',
        'sync',
      ],
    ],
    [
      'sizes',
      [
        OPEN,
        'ftruncate(3</r/a>, 10) = 0',
        'ftruncate(3</r/a>, 10) = 0',
        'truncate("/r/old", 1) = 0',
        'fallocate(3</r/a>, 0, 5, 10) = 0',
        'fallocate(3</r/a>, FALLOC_FL_KEEP_SIZE, 0, 100) = 0',
        'fallocate(3</r/a>, FALLOC_FL_KEEP_SIZE|FALLOC_FL_PUNCH_HOLE, 10, 100) = 0',
      ],
      [
        'create /a',
        'truncate /a to 10',
        'truncate /old to 1',
        'truncate /a to 15',
        'write /a 10..15',
      ],
    ],
    [
      'names, from folders of descriptors and of the process',
      [
        'openat(AT_FDCWD</home>, "/r/d", O_RDONLY|O_DIRECTORY) = 3</r/d>',
        'renameat(AT_FDCWD</r>, "old", 3</r/d>, "new") = 0',
        'renameat2(3</r/d>, "new", AT_FDCWD</r>, "old", RENAME_NOREPLACE) = 0',
        'chdir("/r/d") = 0',
        'mkdir("e", 0777) = 0',
        'mkdirat(3</r/d>, "f", 0777) = 0',
        'rmdir("e") = 0',
        'unlinkat(3</r/d>, "f", AT_REMOVEDIR) = 0',
        'symlink("target", "s") = 0',
        'symlinkat("target", 3</r/d>, "t") = 0',
        'link("/r/old", "l") = 0',
        'linkat(AT_FDCWD</r/d>, "l", 3</r/d>, "m", 0) = 0',
        'unlink("../old") = 0',
        'fsync(3</r/d>) = 0',
      ],
      [
        'rename /old -> /d/new',
        'rename /d/new -> /old',
        'mkdir /d/e',
        'mkdir /d/f',
        'rmdir /d/e',
        'rmdir /d/f',
        'symlink /d/s -> target',
        'symlink /d/t -> target',
        'link /old -> /d/l',
        'link /old -> /d/m',
        'unlink /old',
        'fsync /d',
      ],
    ],
    [
      'copies in the kernel, from the folder and from outside',
      [
        OPEN,
        'openat(AT_FDCWD</home>, "/r/old", O_RDONLY) = 4</r/old>',
        'openat(AT_FDCWD</home>, "/etc/x", O_RDONLY) = 5</etc/x>',
        'copy_file_range(4</r/old>, NULL, 3</r/a>, NULL, 100, 0) = 3',
        'copy_file_range(4</r/old>, [1], 3</r/a>, [10], 2, 0) = 2',
        'sendfile(3</r/a>, 5</etc/x>, [0] => [7], 7) = 7',
      ],
      ['create /a', 'write /a 0..3', 'write /a 10..12', 'write /a 3..10'],
    ],
    [
      'duplicates, children and threads',
      [
        OPEN,
        'dup(3</r/a>) = 4</r/a>',
        'dup2(3</r/a>, 5) = 5</r/a>',
        'fcntl(3</r/a>, F_DUPFD_CLOEXEC, 0) = 6</r/a>',
        'write(4</r/a>, "a", 1) = 1',
        'close(3</r/a>) = 0',
        'clone(child_stack=NULL, flags=CLONE_CHILD_SETTID|SIGCHLD) = 8',
        'clone3({flags=CLONE_VM|CLONE_FS|CLONE_FILES|CLONE_THREAD}, 88) = 9',
        '8 write(5</r/a>, "b", 1) = 1',
        '8 close(5</r/a>) = 0',
        '9 write(6</r/a>, "c", 1) = 1',
        '9 close(6</r/a>) = 0',
        'write(5</r/a>, "d", 1) = 1',
        'write(6</home/other>, "not ours", 8) = 8',
      ],
      ['create /a', 'write /a 0..1', 'write /a 1..2', 'write /a 2..3', 'write /a 3..4'],
    ],
    [
      'no operations of calls that failed or that are about other files',
      [
        'openat(AT_FDCWD</home>, "/r/no", O_RDONLY) = -1 ENOENT (No such file or directory)',
        'openat(AT_FDCWD</home>, "/home/a", O_WRONLY|O_CREAT, 0666) = 3</home/a>',
        'write(3</home/a>, "x", 1) = 1',
        'fsync(3</home/a>) = 0',
        'rename("/home/a", "/home/b") = 0',
        'mkdir("/r/d", 0777) = -1 EEXIST (File exists)',
        'write(1<pipe:[123]>, "(x, [", 5) = 5',
      ],
      [],
    ],
    [
      'marks in their places, and nothing before the start',
      [
        OPEN,
        'access("/write-barrier-start", F_OK) = -1 ENOENT (No such file or directory)',
        'access("/write-barrier-mark/%22begun%22", F_OK) = -1 ENOENT (No such file or directory)',
        'write(3</r/a>, "a", 1) = 1',
        'faccessat2(AT_FDCWD</home>, "/write-barrier-mark/1", F_OK, AT_EACCESS) = -1 ENOENT (No such file or directory)',
      ],
      ['mark "begun"', 'write /a 0..1', 'mark 1'],
    ],
  ])('%s', (_, log, operations) => {
    const trace = traceOf(...log);
    expect(linesOf(trace)).toEqual(operations);
    expect(trace.gaps).toEqual([]);
  });

  test('a call that others interrupt begins and ends where the log says, and may never end', () => {
    const trace = traceOf(
      OPEN,
      'clone3({flags=CLONE_VM|CLONE_FS|CLONE_FILES|CLONE_THREAD}, 88) = 8',
      'write(3</r/a>, "a", 1 <unfinished ...>',
      '8 fsync(3</r/a> <unfinished ...>',
      '9 access("/write-barrier-mark/1", F_OK) = -1 ENOENT (No such file or directory)',
      '7 <... write resumed>) = 1',
    );
    expect(linesOf(trace)).toEqual(['create /a', 'write /a 0..1', 'fsync /a', 'mark 1']);
    expect(trace.operations.map(({ begin, end }) => [begin, end])).toEqual([
      [0, 1],
      [2, 5],
      [3, Infinity],
    ]);
  });

  test('a descriptor is free from the begin of its close, and taken from the end of an open', () => {
    const trace = traceOf(
      OPEN,
      'clone3({flags=CLONE_VM|CLONE_FS|CLONE_FILES|CLONE_THREAD}, 88) = 8',
      '8 openat(AT_FDCWD</home>, "/r/b", O_WRONLY|O_CREAT, 0666 <unfinished ...>',
      'close(3</r/a> <unfinished ...>',
      '8 <... openat resumed>) = 3</r/b>',
      '<... close resumed>) = 0',
      'write(3</r/b>, "x", 1) = 1',
    );
    expect(linesOf(trace)).toEqual(['create /a', 'create /b', 'write /b 0..1']);
  });
});

test.each<[string, RegExp, readonly string[]]>([
  [
    'a mapping',
    /mapped/,
    [OPEN, 'mmap(NULL, 10, PROT_READ|PROT_WRITE, MAP_SHARED, 3</r/a>, 0) = 0x7f0'],
  ],
  ['io_uring', /io_uring/, ['io_uring_setup(8, {flags=0}) = 5<anon_inode:[io_uring]>']],
  [
    'an exchange of names',
    /RENAME_EXCHANGE/,
    ['renameat2(AT_FDCWD</r>, "old", AT_FDCWD</r>, "d", RENAME_EXCHANGE) = 0'],
  ],
  ['a clone', /clone/, [OPEN, 'ioctl(3</r/a>, BTRFS_IOC_CLONE or FICLONE, 4</x>) = 0']],
  [
    'a collapsed range',
    /FALLOC_FL_COLLAPSE_RANGE/,
    [OPEN, 'fallocate(3</r/a>, FALLOC_FL_COLLAPSE_RANGE, 0, 1) = 0'],
  ],
  ['a copy of unknown bytes', /does not know/, [OPEN, 'sendfile(3</r/a>, 9</x>, NULL, 99) = 99']],
  ['a file from outside', /outside/, ['rename("/home/a", "/r/b") = 0']],
  ['a file of unknown origin', /who made it/, ['openat(AT_FDCWD</r>, "b", O_RDONLY) = 3</r/b>']],
  ['a write that is too long for the log', /longer/, [OPEN, 'write(3</r/a>, "abc"..., 9) = 9']],
])('%s is told as a gap', (_, sentence, log) => {
  expect(traceOf(...log).gaps).toEqual([expect.stringMatching(sentence)]);
});

test('a ring that was made before the start is a gap, because it may be used after it', () => {
  const ring = 'io_uring_setup(8, {flags=0}) = 5<anon_inode:[io_uring]>';
  const start = 'access("/write-barrier-start", F_OK) = -1 ENOENT (No such file or directory)';
  expect(traceOf(ring, start, OPEN).gaps).toEqual([expect.stringMatching(/io_uring/)]);
});

test('the ring of an event loop of libuv is no gap, and another one of the same process is', () => {
  const polls = 'epoll_create1(EPOLL_CLOEXEC) = 5<anon_inode:[eventpoll]>';
  const ring = (entries: number, flags: string): string =>
    `io_uring_setup(${entries}, {flags=${flags}, features=IORING_FEAT_SQPOLL_NONFIXED}) = 6<anon_inode:[io_uring]>`;
  expect(traceOf(polls, ring(256, '0x10000')).gaps).toEqual([]);
  for (const log of [
    [ring(256, '0')],
    [polls, ring(64, '0')],
    [polls, ring(256, 'IORING_SETUP_SQPOLL')],
    [polls, ring(256, '0'), ring(256, '0')],
    [polls, `8 ${ring(256, '0')}`],
  ]) {
    expect(traceOf(...log).gaps).toEqual([expect.stringMatching(/io_uring/)]);
  }
});

test('a private mapping and one that is only read are no gaps', () => {
  const trace = traceOf(
    OPEN,
    'mmap(NULL, 10, PROT_READ|PROT_WRITE, MAP_PRIVATE, 3</r/a>, 0) = 0x7f0',
    'mmap(NULL, 10, PROT_READ, MAP_SHARED, 3</r/a>, 0) = 0x7f0',
  );
  expect(trace.gaps).toEqual([]);
});
