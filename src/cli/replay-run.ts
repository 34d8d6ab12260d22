// Replays a trace in one mode onto files, and compares reads and images with the record.
//
// The concurrency is the trace's own: a request is submitted as soon as all requests have completed that had
// completed before it in the trace. Nothing else waits, and no clock is read for it.
//
// A flush of the guest becomes a barrier, because nothing of the guest went on before it was answered; in NONE, which has no barriers, it
// is a flush. A file keeps no ordered tags, so a tag mode runs over a second scheduler that makes barriers of them.

import { open, readFile } from 'node:fs/promises';
import {
  type CommandEvent,
  type Guarantees,
  guarantees,
  IoScheduler,
  MODES,
  type ModeName,
  tracing,
} from 'write-barrier';
import { FileStorage } from 'write-barrier/node';
import type { DiskName, Image, ReplayTrace, Submit } from './replay-trace.js';

/** What reached the files. */
interface Counts {
  read: number;
  write: number;
  fua: number;
  flush: number;
}

/** The result of a replay in one mode. */
export interface Outcome {
  readonly mode: ModeName;
  /** The mode of the scheduler below, null where there is none. */
  readonly host: ModeName | null;
  readonly guarantees: Guarantees;
  readonly commands: Readonly<Counts>;
  /** Of all schedulers together. */
  readonly drains: number;
  readonly coalesced: number;
  readonly elapsedMs: number;
  /** Empty where every read and every image was right. */
  readonly problems: string[];
}

/** Where and how a replay runs. */
export interface ReplayOptions {
  /** Of the files; they are overwritten. */
  readonly paths: Readonly<Record<DiskName, string>>;
  readonly depth: number;
  /** Called for every request that was submitted. */
  readonly onRequest: () => void;
}

/** Zeroes are not written: the file has them already. */
const CHUNK_BYTES = 64 * 1024;
const ZEROES = Buffer.alloc(CHUNK_BYTES);

/** Replays a trace in a mode. */
export async function replay(
  trace: ReplayTrace,
  mode: ModeName,
  { paths, depth, onRequest }: ReplayOptions,
): Promise<Outcome> {
  const commands: Counts = { read: 0, write: 0, fua: 0, flush: 0 };
  const observe = (event: CommandEvent): void => {
    if (event.kind !== 'dispatch') return;
    const { op, fua } = event.what;
    const column = op === 'write' && fua ? 'fua' : op;
    if (isColumn(column)) commands[column] += 1;
  };
  const images = Object.entries(trace.images) as [DiskName, Image][];
  const disks = new Map<DiskName, Disk>();
  for (const [name, image] of images) {
    await prepare(paths[name], image.base);
    disks.set(name, await Disk.open(paths[name], image, mode, depth, observe));
  }
  const all = [...disks.values()];
  const [first] = all;

  const startMs = performance.now();
  let outcome: Outcome;
  try {
    await submitAll(trace, disks, onRequest);
    outcome = {
      mode,
      host: first?.host?.mode ?? null,
      guarantees: (first as Disk).guest.guarantees,
      commands: { ...commands }, // before closing: that flushes once more
      drains: sum(all, ({ drains }) => drains),
      coalesced: sum(all, ({ flushesCoalesced }) => flushesCoalesced),
      elapsedMs: performance.now() - startMs,
      problems: all.flatMap((disk) => disk.problems),
    };
  } finally {
    await Promise.all(all.map((disk) => disk.guest.close()));
  }
  for (const [name, disk] of disks) outcome.problems.push(...(await disk.compare(name)));
  return outcome;
}

async function submitAll(
  trace: ReplayTrace,
  disks: ReadonlyMap<DiskName, Disk>,
  onRequest: () => void,
): Promise<void> {
  const running = new Map<number, Promise<void>>();
  for await (const event of trace.events()) {
    if (event.kind === 'complete') {
      await running.get(event.n);
      running.delete(event.n);
      continue;
    }
    const answer = (disks.get(event.disk) as Disk).submit(event);
    answer.catch(() => {}); // awaited when the trace says that it completes
    running.set(event.n, answer);
    onRequest();
  }
  await Promise.all(running.values());
}

/** One disk of the trace: a file, a scheduler, a host's scheduler between them for the tag modes. */
class Disk {
  readonly guest: IoScheduler;
  readonly host: IoScheduler | undefined;
  readonly problems: string[] = [];
  readonly #path: string;
  readonly #final: Uint8Array | undefined;
  /** What the disk must hold, in the order of submission. */
  readonly #shadow: Buffer;

  /** @param observe called for every command that reaches the file */
  static async open(
    path: string,
    image: Image,
    mode: ModeName,
    depth: number,
    observe: (event: CommandEvent) => void,
  ): Promise<Disk> {
    const file = tracing(await FileStorage.open(path), observe);
    const host = MODES[mode].by === 'tag' ? new IoScheduler(file, { depth }) : undefined;
    const below = host?.asStorage() ?? file;
    const allowUnsafe = guarantees(mode, below.capabilities).verdict === 'unsafe';
    const guest = new IoScheduler(below, { mode, depth, allowUnsafe });
    return new Disk(path, image, guest, host);
  }

  private constructor(
    path: string,
    { base, final }: Image,
    guest: IoScheduler,
    host: IoScheduler | undefined,
  ) {
    this.#path = path;
    this.#final = final;
    this.#shadow = Buffer.from(base);
    this.guest = guest;
    this.host = host;
  }

  async submit({ n, op, offset, length, data, fua, barrier }: Submit): Promise<void> {
    const { by } = MODES[this.guest.mode];
    if (op === 'flush') return by === 'none' ? this.guest.flush() : this.guest.barrier();
    if (op === 'write') {
      this.#shadow.set(data, offset);
      return this.guest.write(offset, data, { fua, barrier: barrier && by !== 'none' });
    }
    const expected = Buffer.from(this.#shadow.subarray(offset, offset + length));
    const found = await this.guest.read(offset, length);
    const at = firstDifference(expected, found);
    if (at !== -1) {
      this.problems.push(
        `request ${n}, a read: ${differ(expected, found, at)} at byte ${offset + at}`,
      );
    }
  }

  /** The image must be the recorded one. Where it is not, the shadow knows whose fault that is. */
  async compare(name: DiskName): Promise<readonly string[]> {
    const image = await readFile(this.#path);
    const wanted = this.#final ?? this.#shadow;
    const at = firstDifference(wanted, image);
    if (at === -1) return [];
    const blame = image.equals(this.#shadow)
      ? 'the replay did what the trace says, so this final image does not belong to it'
      : 'the replay did not do what the trace says';
    const recorded = this.#final ? 'final.img.gz' : 'the image';
    const where = name === 'd' ? recorded : 'the expected marks';
    return [`${where}: ${differ(wanted, image, at)} at byte ${at}; ${blame}`];
  }
}

function isColumn(name: string): name is keyof Counts {
  return name === 'read' || name === 'write' || name === 'fua' || name === 'flush';
}

/** Over all schedulers of the disks. */
function sum(
  disks: readonly Disk[],
  value: (stats: ReturnType<IoScheduler['stats']>) => number,
): number {
  const schedulers = disks.flatMap(({ guest, host }) => (host ? [guest, host] : [guest]));
  return schedulers.reduce((total, scheduler) => total + value(scheduler.stats()), 0);
}

/** Makes the file what the disk was, and durable: the first flush of the replay is not to pay for it. */
async function prepare(path: string, base: Uint8Array): Promise<void> {
  const file = await open(path, 'w');
  try {
    await file.truncate(base.length);
    for (let at = 0; at < base.length; at += CHUNK_BYTES) {
      const chunk = Buffer.from(base.buffer, base.byteOffset, base.byteLength).subarray(
        at,
        at + CHUNK_BYTES,
      );
      if (!chunk.equals(ZEROES.subarray(0, chunk.length)))
        await file.write(chunk, 0, chunk.length, at);
    }
    await file.sync();
  } finally {
    await file.close();
  }
}

/** The index of the first byte that differs, -1 where none does. */
function firstDifference(a: Uint8Array, b: Uint8Array): number {
  if (Buffer.compare(a, b) === 0) return -1;
  const at = a.findIndex((byte, i) => byte !== b[i]);
  return at === -1 ? a.length : at;
}

function differ(expected: Uint8Array, found: Uint8Array, at: number): string {
  return `expected ${expected[at] ?? 'the end'}, found ${found[at] ?? 'the end'}`;
}
