// The files of one SQLite database on a disk of sectors.
//
// SQLite keeps its promises only as far as the file system under it keeps its own. This one is as small as it can be
// and still honest, so that every flaw that a power cut brings to light is either SQLite's or one that was asked for.
//
//   sector 0   the directory: for each file whether it exists, its size in bytes and its first sector
//   the rest   extents, each of the same number of sectors, given out in order and never taken back
//
// Every write goes straight to the disk, as it comes: the sectors that it touches (what else is in them is read
// first), and then the directory, if the file has grown. Nothing is kept back, so whatever SQLite wrote between two
// syncs the disk may put on its medium in any order. A sync of any file is a flush of the disk.
//
//   F1  The directory is one sector, so it changes as a whole: a file exists or not, and has one size.
//   F2  A sync makes durable all that was written before it, to whatever file, and the directory with it.
//   F3  What a file system must not do after a crash: show old bytes of a file that was there before. Policy `fresh`
//       keeps to that; a file that is created, or cut to nothing, gets sectors that nobody has written yet.
//   F4  Policy `reuse` breaks F3 on purpose, as a pool of files does that are never really deleted: the same sectors
//       again. Directory and sectors are not ordered with each other until a sync, so the directory may already
//       speak of the new file where the sectors still hold the old one.
//   F5  Three policies try to repair F4 with zeroes where a file was removed: in the first sector, where a journal has its
//       head; in all sectors; in all sectors, with a flush between the directory and the zeroes and another behind them. Only
//       the last one is enough, because a journal may have a second head, and because zeroes may be late, or the directory.
//
// Claims are what SQLite is told of the device (https://www.sqlite.org/c3ref/c_iocap_atomic.html). None of them is
// true here: the size of a file may be on the medium before its bytes are, and writes come in any order.
//
// Not here: what SQLite calls (vfs.ts), and files without a name.

import * as SQLite from '@journeyapps/wa-sqlite/src/sqlite-constants.js';
import type { Storage } from 'write-barrier';

/** In bytes. */
export const SECTOR = 512;

/** In sectors. */
const EXTENT = 64;

/** What a file that is created, or cut to nothing, is made of. */
export type Policy = 'fresh' | 'reuse' | 'zero-head' | 'zero-all' | 'zero-all-ordered';

/** What SQLite is told and what is not so. */
export type Claim = 'safeAppend' | 'sequential';

const CLAIMS: Readonly<Record<Claim, number>> = {
  safeAppend: SQLite.SQLITE_IOCAP_SAFE_APPEND,
  sequential: SQLite.SQLITE_IOCAP_SEQUENTIAL,
};

/** The database, its rollback journal and its write-ahead log, as SQLite calls them. */
export const FILE_NAMES = ['db', 'db-journal', 'db-wal'] as const;

/** The files that a database has. */
export type FileName = (typeof FILE_NAMES)[number];

interface File {
  exists: boolean;
  /** In bytes. */
  size: number;
  /** The first sector of its extent; 0 before the first one. */
  start: number;
}

const PLAIN = { fua: false, tag: 'simple' } as const;

/** The files on a disk that answers at once. Nothing is remembered but what the directory says. */
export class SectorFiles {
  readonly #disk: Storage;
  readonly #policy: Policy;
  readonly #files: Readonly<Record<FileName, File>>;
  /** The first sector that belongs to no extent. */
  #free: number;
  /** In bytes. */
  readonly sectorSize: number = SECTOR;
  /** The claims, as SQLite wants them. */
  readonly characteristics: number;

  /** A disk of zeroes has no files. */
  constructor(disk: Storage, policy: Policy = 'fresh', claims: readonly Claim[] = []) {
    this.#disk = disk;
    this.#policy = policy;
    this.characteristics = claims.reduce((all, claim) => all | CLAIMS[claim], 0);
    const directory = this.#sectors(0, 1);
    const words = new DataView(directory.buffer);
    const word = (i: number): number => words.getUint32(4 * i, true);
    const file = (i: number): File => ({
      exists: word(1 + 3 * i) === 1,
      size: word(2 + 3 * i),
      start: word(3 + 3 * i),
    });
    this.#free = word(0) || 1;
    this.#files = { db: file(0), 'db-journal': file(1), 'db-wal': file(2) };
  }

  exists(name: FileName): boolean {
    return this.#files[name].exists;
  }

  /** In bytes. */
  size(name: FileName): number {
    return this.#files[name].size;
  }

  create(name: FileName): void {
    this.#files[name].exists = true;
    this.#empty(name);
  }

  remove(name: FileName): void {
    const file = this.#files[name];
    file.exists = false;
    file.size = 0;
    this.#writeDirectory();
    this.#zero(file);
  }

  /** F5. */
  #zero({ start }: File): void {
    const sectors = {
      fresh: 0,
      reuse: 0,
      'zero-head': 1,
      'zero-all': EXTENT,
      'zero-all-ordered': EXTENT,
    };
    const count = sectors[this.#policy];
    if (count === 0 || start === 0) return;
    const isOrdered = this.#policy === 'zero-all-ordered';
    if (isOrdered) this.sync();
    this.#disk.write(start * SECTOR, new Uint8Array(count * SECTOR), PLAIN);
    if (isOrdered) this.sync();
  }

  /** A file that is cut to a part of itself keeps its extent. Only a recovery does that, which nothing follows. */
  truncate(name: FileName, size: number): void {
    const file = this.#files[name];
    if (size === file.size) return;
    if (size === 0) {
      this.#empty(name);
      return;
    }
    file.size = size;
    this.#writeDirectory();
  }

  /** Answers how many bytes there were; the rest of `into` is as before. */
  read(name: FileName, into: Uint8Array, offset: number): number {
    const { start, size } = this.#files[name];
    const length = Math.min(into.length, size - offset);
    if (length <= 0) return 0;
    const first = Math.floor(offset / SECTOR);
    const bytes = this.#sectors(start + first, Math.ceil((offset + length) / SECTOR) - first);
    const skip = offset - first * SECTOR;
    into.set(bytes.subarray(skip, skip + length));
    return length;
  }

  /** False where the extent is full; nothing has been written then. */
  write(name: FileName, data: Uint8Array, offset: number): boolean {
    const file = this.#files[name];
    const end = offset + data.length;
    if (end > EXTENT * SECTOR) return false;
    const first = Math.floor(offset / SECTOR);
    const count = Math.ceil(end / SECTOR) - first;
    const bytes = new Uint8Array(count * SECTOR);
    for (const edge of new Set([0, count - 1])) {
      const at = (first + edge) * SECTOR;
      const whole = offset <= at && at + SECTOR <= end;
      // Behind its end a file reads as zeroes, whatever the sector holds.
      const before = Math.min(SECTOR, file.size - at);
      if (whole || before <= 0) continue;
      bytes.set(this.#sectors(file.start + first + edge, 1).subarray(0, before), edge * SECTOR);
    }
    bytes.set(data, offset - first * SECTOR);
    this.#disk.write((file.start + first) * SECTOR, bytes, PLAIN);
    if (end > file.size) {
      file.size = end;
      this.#writeDirectory();
    }
    return true;
  }

  sync(): void {
    this.#disk.flush({ tag: 'simple' });
  }

  #empty(name: FileName): void {
    const file = this.#files[name];
    file.size = 0;
    if (this.#policy === 'fresh' || file.start === 0) {
      file.start = this.#free;
      this.#free += EXTENT;
    }
    this.#writeDirectory();
  }

  #writeDirectory(): void {
    const directory = new Uint8Array(SECTOR);
    const files = FILE_NAMES.map((name) => this.#files[name]);
    const words = [
      this.#free,
      ...files.flatMap(({ exists, size, start }) => [exists ? 1 : 0, size, start]),
    ];
    const view = new DataView(directory.buffer);
    for (const [i, word] of words.entries()) view.setUint32(4 * i, word, true);
    this.#disk.write(0, directory, PLAIN);
  }

  #sectors(first: number, count: number): Uint8Array {
    const bytes = new Uint8Array(count * SECTOR);
    this.#disk.read(first * SECTOR, bytes);
    return bytes;
  }
}
