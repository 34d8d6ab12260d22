// The calls of a log of strace, made once more on a shadow tree: what becomes operations of a trace, and what cannot.
//
//   Y1  A call takes effect at its begin, and promises what it promises at its end. A descriptor is there from the end of what
//       made it, and gone from the begin of its close, because a kernel gives a number again as soon as it is free.
//   Y2  Processes share what clone(2) lets them share: descriptors with CLONE_FILES, the current directory with CLONE_FS. A position
//       belongs to an open file, so that duplicates and children have the same one.
//   Y3  What changes files and cannot be followed is a gap: stores to a mapping, io_uring, a copy whose source is unknown.
//
// Not here: the text of a log (strace-log.ts), what the calls do (strace-calls.ts), running a program (strace.ts).

import { posix } from 'node:path';
import { Contents, finalTree } from './folder.js';
import { insideOf, type Place, type ShadowTree } from './shadow.js';
import { type CallEvent, descriptorIn, pathIn, type SystemCall } from './strace-log.js';
import type { FileNode } from './trace.js';

/** An open file, which descriptors share. */
export interface OpenFile {
  readonly inode: number;
  readonly isAppending: boolean;
  /** What follows each write. */
  readonly sync: 'fsync' | 'fdatasync' | undefined;
  /** Where the next write or read without a position is, in bytes. */
  at: number;
}

/** A process or a thread. */
export interface Process {
  /** By descriptor. */
  readonly files: Map<number, OpenFile>;
  /** The current directory. */
  readonly current: { path: string };
}

/** The bytes of a file that is not in the tree, if they can be known. */
export type ReadOutside = (path: string, offset: number, length: number) => Uint8Array | undefined;

/** What a call does at its begin or its end. */
export type Handler = (replay: Replay, call: SystemCall, process: Process) => void;
export type Handlers = Readonly<
  Record<string, { readonly begin?: Handler; readonly end?: Handler }>
>;

/** See the essay above. */
export class Replay {
  readonly shadow: ShadowTree;
  readonly readOutside: ReadOutside;
  /** What an open has found, until it ends. */
  readonly opened: WeakMap<SystemCall, OpenFile> = new WeakMap();
  /** The processes that have made an epoll, and no ring since. */
  readonly loops: Set<number> = new Set();
  readonly #directory: string;
  readonly #processes = new Map<number, Process>();
  #contents: Contents;
  /** How many operations the contents have. */
  #applied = 0;

  /**
   * @param initial the tree before the first call
   * @param directory the current directory of the first process
   */
  constructor(
    shadow: ShadowTree,
    initial: ReadonlyMap<number, FileNode>,
    directory: string,
    readOutside: ReadOutside,
  ) {
    this.shadow = shadow;
    this.readOutside = readOutside;
    this.#contents = new Contents(initial);
    this.#directory = directory;
    shadow.seal(initial);
  }

  run(events: Iterable<CallEvent>, handlers: Handlers): void {
    const last = new Map<SystemCall, ShadowTree['current']>();
    for (const { kind, call } of events) {
      const process = this.#process(call.process);
      if (kind === 'begin') {
        this.shadow.beginCall();
        handlers[call.name]?.begin?.(this, call, process);
        last.set(call, this.shadow.current);
      } else {
        this.shadow.end(last.get(call));
        last.delete(call);
        handlers[call.name]?.end?.(this, call, process);
      }
    }
  }

  #process(number: number): Process {
    let process = this.#processes.get(number);
    if (!process) {
      process = { files: new Map(), current: { path: this.#directory } };
      this.#processes.set(number, process);
    }
    return process;
  }

  /** A new process, with what it shares (Y2). */
  fork(parent: Process, child: number, flags: string): void {
    this.#processes.set(child, {
      files: flags.includes('CLONE_FILES') ? parent.files : new Map(parent.files),
      current: flags.includes('CLONE_FS') ? parent.current : { ...parent.current },
    });
  }

  /** What was done up to now is durable. */
  start(): void {
    const trace = this.shadow.trace();
    const nodes = finalTree(trace);
    this.shadow.seal(nodes);
    // A mapping or a ring that was made before is there, and what was not followed may have left other bytes.
    for (const gap of trace.gaps ?? []) this.shadow.gap(gap);
    this.#contents = new Contents(nodes);
    this.#applied = 0;
  }

  /** The content of a file of the tree, as the calls up to now have left it. */
  contentOf(inode: number): Uint8Array {
    const { begun } = this.shadow;
    for (; this.#applied < begun.length; this.#applied++) {
      const operation = begun[this.#applied];
      if (operation) this.#contents.apply(operation);
    }
    return this.#contents.of(inode);
  }

  /** The path of an argument, from the directory of another one if there is such. */
  pathOf(
    { args }: SystemCall,
    process: Process,
    path: number,
    directory?: number,
  ): string | undefined {
    const text = pathIn(args[path]);
    if (text === undefined) return undefined;
    const from = directory === undefined ? undefined : descriptorIn(args[directory]).path;
    return posix.resolve(from ?? process.current.path, text);
  }

  /** Where a path leads to; undefined if it leads out of the tree. */
  placeOf(path: string | undefined, follow: boolean): Place | undefined {
    const inside = path === undefined ? undefined : insideOf(this.shadow.root, path);
    return inside === undefined ? undefined : this.shadow.place(inside, follow);
  }

  /** The open file of an argument, if it is one of the tree. */
  fileOf(argument: string | undefined, process: Process): OpenFile | undefined {
    const { number, path } = descriptorIn(argument);
    const file = process.files.get(number);
    // A number may have been given to something else by a call that is not in the log.
    const isOurs = path === undefined || insideOf(this.shadow.root, path) !== undefined;
    return isOurs ? file : undefined;
  }
}
