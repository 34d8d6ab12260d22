// What a program did to a tree of files, as plain data.
//
// A recorder turns paths and descriptors into inodes, because a path names another file after a rename. An operation says which
// inode it changed, and in which directory under which name. Inode 1 is the root of the tree.
//
// Time counts events, as in a `DiskTrace`: an operation takes effect for other callers at `begin` and is answered at `end`.
// An operation that was not answered may be persisted, but promises nothing: its `end` is Infinity.

/** What an inode is before a trace. All of it is durable. */
export type FileNode =
  | { readonly kind: 'file'; readonly data: Uint8Array }
  | { readonly kind: 'directory'; readonly entries: ReadonlyMap<string, number> }
  | { readonly kind: 'symlink'; readonly target: string };

/** A name in a directory. */
export interface Entry {
  /** The inode of the directory. */
  readonly directory: number;
  readonly name: string;
}

/** What an operation changed. */
export type FileChange =
  | (Entry & { readonly op: 'create' | 'mkdir' | 'link'; readonly inode: number })
  | (Entry & { readonly op: 'symlink'; readonly inode: number; readonly target: string })
  | (Entry & { readonly op: 'unlink' | 'rmdir'; readonly inode: number })
  | {
      readonly op: 'rename';
      readonly inode: number;
      readonly from: Entry;
      readonly to: Entry;
      /** The inode that had the new name before. */
      readonly replaced?: number | undefined;
    }
  | {
      readonly op: 'write';
      readonly inode: number;
      /** In bytes from the start of the file. */
      readonly offset: number;
      readonly data: Uint8Array;
    }
  | {
      readonly op: 'truncate';
      readonly inode: number;
      /** The new size in bytes; it may be larger than the old one. */
      readonly size: number;
    };

/** What an operation asked to be durable; `sync` means all files. */
export type FileSync =
  | { readonly op: 'fsync' | 'fdatasync'; readonly inode: number }
  | { readonly op: 'sync' };

/** One operation of a program. */
export type FileOperation = (FileChange | FileSync) & {
  readonly begin: number;
  /** Infinity if it was not answered. */
  readonly end: number;
  /** The call that it came from and the one around it, as `name (file:line), from name (file:line)`, if known. */
  readonly site?: string | undefined;
};

/** What a program did to a tree of files. */
export interface FilesTrace {
  /** The inodes before the trace, by number. */
  readonly initial: ReadonlyMap<number, FileNode>;
  /** In the order of their `begin`. */
  readonly operations: readonly FileOperation[];
  /** What a journal noted, in the order of time. */
  readonly marks: readonly { readonly time: number; readonly value: unknown }[];
  /** The moment after the last event. */
  readonly end: number;
  /**
   * What the record lacks, a sentence each: changes that got past the recorder, or that it does not follow. With any of them a
   * crash state may be missing, so nothing is proved.
   */
  readonly gaps?: readonly string[];
}
