// What file systems promise, as data.
//
// A model says which states a power cut may leave of a tree of files. It is a claim about a kernel: each field names its source, and
// what was seen in crash images of Linux 6.18.44, with ext4, xfs and btrfs of default options on a disk that answers late
// ("seen"). A model has every tree that was seen, and more: docs/file-systems.md has the shares.
//
// Not here: times, owners and permissions of files; errors of a full disk; changes through memory mappings.

import { formatValue, misuse } from '../../model/index.js';

/** How a file system persists what programs do to files. */
export interface FileModel {
  /**
   * What becomes of the names of files, and of truncations. `ordered`: a journal commits them one after the other, so what a
   * power cut leaves is a prefix. `independent`: each entry of a directory by itself, so a rename may leave both names, or none.
   *
   * Source: ext4 and xfs have one journal; "strictly ordered metadata consistency" (Goldstein and Chinner on linux-fsdevel).
   * POSIX says nothing about it. Seen: no later name without an earlier one, except by an fsync on btrfs.
   */
  readonly namespace: 'ordered' | 'independent';
  /**
   * What becomes of the content of files. `in-place`: every block by itself, before or after what the journal has. `journaled`: in
   * the journal with the names, in the order of the writes; a write of several blocks is one step for each of them.
   *
   * Source: ext4.rst, data=ordered and data=journal. Seen on ext4, in place: two blocks of a file in both orders; data of
   * zeroes behind a rename without fsync.
   */
  readonly data: 'in-place' | 'journaled';
  /**
   * When the new size of a file is there. `free`: before its data or after it, block by block, and without data the file has
   * zeroes. `after-data`: never before the data, and the data may be there in front of the old size without the new one.
   * `with-data`: together with the data.
   *
   * Source: ext4 decides at writeback (Ts'o on linux-ext4), for each extent that it has mapped (mpage_map_and_submit_extent); xfs since
   * commit ba87ea699ebd sets the size when the data is there, in a transaction of its own; btrfs writes data to new places, and
   * their extents come with the size. Seen on ext4: an appended line that is zeroes, and a size that ends with the first
   * block of a write of two; on xfs: a write over the end of a file of which the part inside is there and the rest is not; on xfs
   * and btrfs: no zeroes, but empty files.
   */
  readonly size: 'free' | 'after-data' | 'with-data';
  /**
   * What an fsync that was answered has made durable, apart from the content and the size of the file. `journal`: the last
   * operation on the file, and all operations before it; a write that leaves the size as it is counts for none, because it may
   * change no more than a time, and that only once in a tick of the clock. `log`: the file, its names, and new directories above
   * it, and nothing else. `file`: nothing; names need an fsync of their directory.
   *
   * Source: fsync(2); commit messages of btrfs' tree log. Seen on btrfs: `create a; create b; fsync b` leaves b alone.
   */
  readonly fsync: 'journal' | 'log' | 'file';
  /**
   * What an fdatasync of a file does; of a directory it does the same as an fsync. `data`: it makes the content and the size of the
   * file durable, and with `journal` what came before the last operation that made the file or changed its size; a name that
   * the file got since may be lost. `fsync`: the same as an fsync.
   *
   * Source: ext4_fsync_journal, which waits for `i_datasync_tid`: a rename leaves that as it was, because it is set where an inode is
   * new or its size changes; of a directory it forces a commit, because the entries are the data there. xfs has such a number too
   * (ili_datasync_seq), so what is safe on ext4 is asked for there, and xfs_dir_fsync does not ask which of the two it is. In
   * btrfs_sync_file the argument `datasync` is traced and else not read. POSIX asks for no more than `data`. Seen on ext4: a
   * rename that is lost after an fdatasync of the file; on xfs not.
   */
  readonly fdatasync: 'data' | 'fsync';
  /** Whether an operation may be lost after it was answered, until an fsync. Real file systems delay all of them. */
  readonly delays: boolean;
  /** The bytes of a file that are there as a whole or not at all: a power of two. Source: the block size of the file system. */
  readonly block: number;
}

/** A file system of `FILE_MODELS`. */
export type FileModelName = 'strict' | 'ext4' | 'ext4-journal' | 'xfs' | 'btrfs' | 'posix';

/**
 * The file systems by name.
 *
 * - `strict`: every call is there as a whole as soon as it has returned. No file system does that; tests without a crash kit
 *   take it for granted. Seen: hundreds of trees of ext4, xfs and btrfs that it lacks.
 * - `ext4`: of the mount options data=writeback and noauto_da_alloc change nothing here. The manual says that a rename over a
 *   file waits for the data (auto_da_alloc); it only starts to write it (commit 0e20270454e4), and trees without it were seen.
 * - `ext4-journal`: ext4 with data=journal.
 * - `xfs`: a file that is renamed without an fsync may be empty; a write over the end of a file may be there without what is new
 *   behind the old end.
 * - `btrfs`: a renamed file may be empty, too, and an fsync writes a log of one file.
 * - `posix`: what POSIX says, which is the least that a file system may do. A failure here alone was seen nowhere.
 */
export const FILE_MODELS: Readonly<Record<FileModelName, FileModel>> = Object.freeze({
  strict: {
    ...{ namespace: 'ordered', data: 'journaled', size: 'free', fsync: 'journal' },
    ...{ fdatasync: 'fsync', delays: false, block: 2 ** 52 },
  },
  ext4: {
    ...{ namespace: 'ordered', data: 'in-place', size: 'free', fsync: 'journal' },
    ...{ fdatasync: 'data', delays: true, block: 4096 },
  },
  'ext4-journal': {
    ...{ namespace: 'ordered', data: 'journaled', size: 'free', fsync: 'journal' },
    ...{ fdatasync: 'data', delays: true, block: 4096 },
  },
  xfs: {
    ...{ namespace: 'ordered', data: 'in-place', size: 'after-data', fsync: 'journal' },
    ...{ fdatasync: 'data', delays: true, block: 4096 },
  },
  btrfs: {
    ...{ namespace: 'ordered', data: 'in-place', size: 'with-data', fsync: 'log' },
    ...{ fdatasync: 'fsync', delays: true, block: 4096 },
  },
  posix: {
    ...{ namespace: 'independent', data: 'in-place', size: 'free', fsync: 'file' },
    ...{ fdatasync: 'data', delays: true, block: 512 },
  },
});

/** A model with the name that a report gives it. */
export interface NamedModel {
  readonly name: string;
  readonly model: FileModel;
}

/** @throws `INVALID_ARGUMENT` for an unknown file system */
export function modelOf(model: FileModelName | FileModel): NamedModel {
  if (typeof model === 'object' && model !== null) return { name: 'own', model };
  if (Object.hasOwn(FILE_MODELS, model)) return { name: model, model: FILE_MODELS[model] };
  throw misuse(
    `unknown file system ${formatValue(model)}; known are ${Object.keys(FILE_MODELS).join(', ')}`,
  );
}
