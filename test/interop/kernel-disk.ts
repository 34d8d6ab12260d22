// A real file system whose disk is an NBD export of ours: what a kernel writes while programs run on it, and what it finds there after
// a power cut.
//
// Programs run interleaved, each in a folder of its own, because one image then shows what a power cut leaves of all of them. The
// calls of the others are to each of them what any other process does. Between the calls other things happen by chance: a commit of the
// journal, writeback, a pause. The disk answers some writes late, so that later ones overtake them.
//
// The way is kernel - loop device with direct I/O - nbdfuse - our server - `recording()` - a file in memory.
//
// Not here: which programs run (kernel-programs.ts), what may be found (kernel-models.ts), another kernel than the one that runs.

import { type ChildProcess, spawn } from 'node:child_process';
import * as fs from 'node:fs';
import { access } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout } from 'node:timers/promises';
import type { Storage } from 'write-barrier';
import { NbdServer } from 'write-barrier/nbd';
import { seededRandom } from 'write-barrier/testing';
import { type CrashSpace, crashSpace, DiskRecorder, recording } from 'write-barrier/testing/lab';
import type { Call, Program } from '../testing/files/programs.js';
import { Bench, BLOCK, type Cut } from './ext4.js';
import { missing, PYTHON, succeeds } from './nbd-programs.js';

/** A file system as it is made and mounted. */
export interface FileSystem {
  readonly type: 'ext4' | 'xfs' | 'btrfs';
  /** What the program that makes it is told. Everything is of whole blocks, so that the disk may be one of such sectors. */
  readonly layout: readonly string[];
  /** In bytes. */
  readonly size: number;
  /** Of mount(8). */
  readonly options: readonly string[];
}

const MIB = 1 << 20;

/** With the options that are the default. The device knows no discard. */
export const EXT4: FileSystem = {
  type: 'ext4',
  layout: ['-q', '-F', '-b', `${BLOCK}`, '-J', 'size=4', '-E', 'lazy_itable_init=0'],
  size: 24 * MIB,
  options: ['nodiscard'],
};
export const XFS: FileSystem = {
  type: 'xfs',
  layout: ['-q', '-f', '-s', `size=${BLOCK}`],
  size: 300 * MIB,
  options: ['nodiscard', 'nouuid'],
};
/** By itself it commits every 30 seconds, which is longer than a run. */
export const BTRFS: FileSystem = {
  type: 'btrfs',
  layout: ['-q', '-f'],
  size: 128 * MIB,
  options: ['nodiscard', 'commit=1'],
};

/** What is not there of that which a file system of this type needs. */
export async function absentFor({ type }: FileSystem): Promise<string[]> {
  const programs = missing(`mkfs.${type}`, 'nbdfuse', 'losetup', 'mount', PYTHON);
  if (programs.length > 0) return programs;
  if (process.getuid?.() !== 0) return ['root'];
  if (!fs.existsSync('/dev/fuse')) return ['FUSE'];
  const known = fs.readFileSync('/proc/filesystems', 'utf8').split(/\s/);
  return known.includes(type) ? [] : [`${type} in this kernel`];
}

/** When a program was where, in the time of the disk. */
export interface Times {
  /** The moment before each call, and the moment after it. */
  readonly begins: readonly number[];
  readonly ends: readonly number[];
}

/** What a run has left: a space of crash images, and the times of each program. */
export interface Run {
  readonly space: CrashSpace;
  readonly times: readonly Times[];
}

/** The tree of each program as JSON, as `textOf` has it. */
export type Trees = readonly string[];

const folderOf = (program: number): string => `p${program}`;

/** Writes that take so long let others overtake them, in milliseconds. */
const LATE_MAX = 8;

export class KernelDisk implements AsyncDisposable {
  readonly #system: FileSystem;
  readonly #folder: string;
  readonly #mountPoint: string;

  constructor(system: FileSystem) {
    this.#system = system;
    const memory = '/dev/shm';
    const parent = fs.existsSync(memory) ? memory : tmpdir();
    this.#folder = fs.mkdtempSync(join(parent, 'write-barrier-kernel-'));
    this.#mountPoint = join(this.#folder, 'mounted');
    fs.mkdirSync(this.#mountPoint);
  }

  /** Runs the programs once; the seed decides who is next, what else happens and which writes are late. */
  async run(programs: readonly Program[], seed: number): Promise<Run> {
    const random = seededRandom(seed);
    const { options } = this.#system;
    const initial = await this.#prepared(programs);
    const recorder = new DiskRecorder(initial.length, initial);
    const storage = lateDisk(initial.slice(), random);
    await using device = await Device.over(this.#folder, recording(storage, recorder));
    await this.#mount(device.path, options);
    const made = programs.map(() => 0);
    try {
      await using caller = new Caller(this.#mountPoint);
      for (const n of interleaved(programs, random)) {
        const call = programs[n]?.calls[made[n] as number] as Call;
        recorder.mark({ n, at: 'begins' });
        await caller.make(call, folderOf(n));
        recorder.mark({ n, at: 'ends' });
        made[n] = (made[n] as number) + 1;
        await this.#meanwhile(caller, call, n, random);
      }
    } finally {
      await this.#unmount();
    }
    const { trace } = recorder;
    const times = programs.map(() => ({ begins: [] as number[], ends: [] as number[] }));
    for (const { time, value } of trace.marks) {
      const { n, at } = value as { n: number; at: 'begins' | 'ends' };
      times[n]?.[at].push(time);
    }
    return { space: crashSpace(trace, { cache: 'volatile', sectorSize: BLOCK }), times };
  }

  /** Mounts images of power cuts, and says what each program finds. All of them can be mounted. */
  async *looks(
    { space, times }: Run,
    seed: number,
    count: number,
  ): AsyncGenerator<{ readonly cut: Cut; readonly trees: Trees }, void> {
    using bench = new Bench(space, 0);
    let left = count;
    for (const cut of space.cuts(seed)) {
      if (left-- <= 0) return;
      yield { cut, trees: await this.#lookAt(bench.lay(cut.state), times.length) };
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    fs.rmSync(this.#folder, { recursive: true });
  }

  /** The bytes of a disk on which what the programs take for durable is there. */
  async #prepared(programs: readonly Program[]): Promise<Uint8Array> {
    const { type, layout, size, options } = this.#system;
    const image = join(this.#folder, 'before.img');
    fs.writeFileSync(image, '');
    fs.truncateSync(image, size);
    await succeeds(`mkfs.${type}`, [...layout, image]);
    await this.#mount(image, [...options, 'loop']);
    try {
      await using caller = new Caller(this.#mountPoint);
      for (const [n, { before }] of programs.entries()) {
        await caller.make(['mkdir', `/${folderOf(n)}`], '.');
        for (const call of before) await caller.make(call, folderOf(n));
      }
    } finally {
      await this.#unmount();
    }
    return fs.readFileSync(image);
  }

  /** What other processes do, and the time that passes. */
  async #meanwhile(caller: Caller, call: Call, n: number, random: () => number): Promise<void> {
    const paths = call.filter((one) => typeof one === 'string' && one.startsWith('/'));
    const path = paths[Math.floor(random() * paths.length)] as string | undefined;
    const push = async (flags: number): Promise<void> => {
      if (path !== undefined) await caller.ask('push', `${folderOf(n)}${path}`, flags);
    };
    const commit = (): Promise<void> => caller.ask('commit', 'other');
    const chance = random();
    if (chance < 0.1) await commit();
    else if (chance < 0.25) await push(START);
    else if (chance < 0.35) await push(START | WAIT_BEFORE | WAIT_AFTER);
    else if (chance < 0.45) await push(START).then(commit);
    else if (chance < 0.55) await setTimeout(20);
    else if (chance < 0.56 && this.#system.type === 'btrfs') await setTimeout(1200);
  }

  async #lookAt(image: string, programs: number): Promise<Trees> {
    // Not read-only, because then the loop device is too, and no log can be replayed.
    await this.#mount(image, [...this.#system.options, 'loop']);
    try {
      const folders = Array.from({ length: programs }, (_, n) => folderOf(n));
      return folders.map((folder) => treeAt(join(this.#mountPoint, folder)));
    } finally {
      await this.#unmount();
    }
  }

  async #mount(device: string, options: readonly string[]): Promise<void> {
    const { type } = this.#system;
    await succeeds('mount', ['-t', type, '-o', options.join(), device, this.#mountPoint]);
  }

  async #unmount(): Promise<void> {
    await succeeds('umount', [this.#mountPoint]);
  }
}

/** Flags of sync_file_range(2). */
const [WAIT_BEFORE, START, WAIT_AFTER] = [1, 2, 4];

/** A disk in memory. Half of the writes are late. */
function lateDisk(bytes: Uint8Array, random: () => number): Storage {
  return {
    size: bytes.length,
    capabilities: { blockSize: 512, cache: 'volatile', flush: true, fua: true, orderedTags: false },
    read: (offset, into) => into.set(bytes.subarray(offset, offset + into.length)),
    async write(offset, data) {
      bytes.set(data, offset);
      const ms = random() < 0.5 ? 0 : random() * LATE_MAX;
      if (ms > 1) await setTimeout(ms);
    },
    flush: () => setTimeout(1),
    close() {},
  };
}

/** The number of the program whose call is next, for each call. */
function* interleaved(programs: readonly Program[], random: () => number): Generator<number, void> {
  const left = programs.flatMap(({ calls }, n) => calls.map(() => n));
  while (left.length > 0) yield left.splice(Math.floor(random() * left.length), 1)[0] as number;
}

/** A tree of a mounted file system, as `textOf` has those of a model. */
function treeAt(root: string): string {
  const tree: Record<string, unknown> = {};
  const walk = (folder: string, prefix: string): void => {
    for (const entry of fs.readdirSync(folder, { withFileTypes: true }).sort(byName)) {
      const [path, key] = [join(folder, entry.name), prefix + entry.name];
      if (entry.isSymbolicLink()) tree[key] = { target: fs.readlinkSync(path) };
      else tree[key] = entry.isDirectory() ? null : fs.readFileSync(path, 'latin1');
      if (entry.isDirectory()) walk(path, `${key}/`);
    }
  };
  walk(root, '');
  return JSON.stringify(tree);
}

const byName = (a: fs.Dirent, b: fs.Dirent): number => (a.name < b.name ? -1 : 1);

/** A process that makes calls of the system, one after the other. */
class Caller implements AsyncDisposable {
  readonly #child: ChildProcess;
  readonly #answers: AsyncIterator<string>;

  constructor(root: string) {
    const program = new URL('kernel-calls.py', import.meta.url).pathname;
    this.#child = spawn(PYTHON, [program, root], { stdio: ['pipe', 'pipe', 'inherit'] });
    const input = this.#child.stdout as NodeJS.ReadableStream;
    this.#answers = createInterface({ input })[Symbol.asyncIterator]();
  }

  /** A call of a program, in its folder. */
  make([op, ...args]: Call | readonly ['sync'], folder: string): Promise<void> {
    // What a symbolic link points to is no path of the program.
    const target = op === 'symlink' ? args.shift() : undefined;
    const inside = args.map((arg) =>
      typeof arg === 'string' && arg.startsWith('/') ? folder + arg : arg,
    );
    return this.ask(
      op,
      ...(target === undefined ? [] : [target]),
      ...inside,
      ...(op === 'sync' ? ['.'] : []),
    );
  }

  async ask(...call: readonly (string | number)[]): Promise<void> {
    this.#child.stdin?.write(`${JSON.stringify(call)}\n`);
    const { value = 'the process has ended' } = await this.#answers.next();
    if (value !== 'ok') throw new Error(value);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const closed = new Promise((resolve) => this.#child.once('close', resolve));
    this.#child.stdin?.end();
    await closed;
  }
}

/** It must not wait: the file is served by this process. */
const isThere = (path: string): Promise<boolean> =>
  access(path).then(
    () => true,
    () => false,
  );

/** A loop device over a storage. */
class Device implements AsyncDisposable {
  readonly path: string;
  readonly #undo: readonly (() => unknown)[];

  private constructor(path: string, undo: readonly (() => unknown)[]) {
    this.path = path;
    this.#undo = undo;
  }

  static async over(folder: string, storage: Storage): Promise<Device> {
    const socket = join(folder, 'socket');
    const mountPoint = join(folder, 'fuse');
    fs.mkdirSync(mountPoint, { recursive: true });
    const server = new NbdServer({ exports: { '': storage } });
    await server.listen({ path: socket });
    const file = join(mountPoint, 'disk');
    const fuse = spawn('nbdfuse', [file, '--unix', socket], { stdio: 'ignore' });
    const gone = new Promise((resolve) => fuse.once('close', resolve));
    const undo: (() => unknown)[] = [
      async () => {
        await succeeds('umount', [mountPoint]);
        await gone;
      },
      () => server.close(),
      () => fs.rmSync(socket, { force: true }),
    ];
    while (!(await isThere(file))) {
      if (fuse.exitCode !== null) throw new Error(`nbdfuse ended with ${fuse.exitCode}`);
      await setTimeout(10);
    }
    const said = await succeeds('losetup', ['--find', '--show', '--direct-io=on', file]);
    const path = said.trim();
    return new Device(path, [() => succeeds('losetup', ['--detach', path]), ...undo]);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const step of this.#undo) await step();
  }
}
