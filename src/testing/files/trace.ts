// What a program did to a tree of files, as plain data.
//
// A recorder turns paths and descriptors into inodes, because a path names another file after a rename. An operation says which
// inode it changed, and in which directory under which name. Inode 1 is the root of the tree.
//
// Time counts events, as in a `DiskTrace`: an operation takes effect for other callers at `begin` and is answered at `end`.
// An operation that was not answered may be persisted, but promises nothing: its `end` is Infinity.

/** What an inode is before a trace. All of it is durable. */
export type FileNode =
  | {
      /** A file with bytes. */
      readonly kind: 'file';
      /** All of its bytes. */
      readonly data: Uint8Array;
    }
  | {
      /** A folder. */
      readonly kind: 'directory';
      /** The inodes by name. */
      readonly entries: ReadonlyMap<string, number>;
    }
  | {
      /** A symbolic link. */
      readonly kind: 'symlink';
      /** Where it points to. */
      readonly target: string;
    };

/** A name in a directory. */
export interface Entry {
  /** The inode of the directory. */
  readonly directory: number;
  /** Without a slash. */
  readonly name: string;
}

/** What an operation changed. */
export type FileChange =
  | (Entry & {
      /** A new name, of a new file or folder, or of a file that has one. */
      readonly op: 'create' | 'mkdir' | 'link';
      /** What has the name from now on. */
      readonly inode: number;
    })
  | (Entry & {
      /** A new symbolic link. */
      readonly op: 'symlink';
      /** The link. */
      readonly inode: number;
      /** Where it points to. */
      readonly target: string;
    })
  | (Entry & {
      /** A name is gone. */
      readonly op: 'unlink' | 'rmdir';
      /** What had the name. */
      readonly inode: number;
    })
  | {
      /** Another name, in place of the one before. */
      readonly op: 'rename';
      /** What has the name. */
      readonly inode: number;
      /** The name before. */
      readonly from: Entry;
      /** The name from now on. */
      readonly to: Entry;
      /** The inode that had the new name before. */
      readonly replaced?: number | undefined;
    }
  | {
      /** Bytes of a file. */
      readonly op: 'write';
      /** The file. */
      readonly inode: number;
      /** In bytes from the start of the file. */
      readonly offset: number;
      /** The bytes. */
      readonly data: Uint8Array;
    }
  | {
      /** Another size of a file. */
      readonly op: 'truncate';
      /** The file. */
      readonly inode: number;
      /** The new size in bytes; it may be larger than the old one. */
      readonly size: number;
    };

/** What an operation asked to be durable; `sync` means all files. */
export type FileSync =
  | {
      /** One file or folder; fdatasync leaves out times. */
      readonly op: 'fsync' | 'fdatasync';
      /** The file or folder. */
      readonly inode: number;
    }
  | {
      /** All files. */
      readonly op: 'sync';
    };

/** One operation of a program. */
export type FileOperation = (FileChange | FileSync) & {
  /** The moment from which on others see it. */
  readonly begin: number;
  /** The moment of its answer; Infinity if it was not answered. */
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
  readonly marks: readonly {
    /** The moment. */
    readonly time: number;
    /** What was noted. */
    readonly value: unknown;
  }[];
  /** The moment after the last event. */
  readonly end: number;
  /**
   * What the record lacks, a sentence each: changes that got past the recorder, or that it does not follow. With any of them a
   * crash state may be missing, so nothing is proved.
   */
  readonly gaps?: readonly string[];
}
