// What the tests of ext4's traces rest on: the recorded block trace of a kernel as a DiskTrace, and images of its power cuts, to
// be judged by the file system's own tools (ext4-judge.ts).
//
// The guest, for i = 0, 1, ... 59: writes the file d(i mod 5)/f(i), calls fsync on it and on its directory, and then
// writes "mark i" to a second disk. Where i mod 9 is 8 it renames the file to g(i), without fsync. So once a mark
// has been submitted its file has to survive any power cut, under one of its names.
//
// Not here: the second disk as a disk. What it holds after a power cut says less than what the guest knew before.

import * as fs from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { gunzipSync } from 'node:zlib';
import type { DiskTrace } from 'write-barrier/testing';
import { type CrashSpace, type CrashState, DiskRecorder } from 'write-barrier/testing/lab';
import { judgeDisk, type Verdict } from './ext4-judge.js';

const RECORDED = fileURLToPath(new URL('../../examples/03-replay/ext4-ordered', import.meta.url));

/** How many files the guest wrote. */
export const FILES = 60;

/** Of the file system, in bytes. */
export const BLOCK = 4096;

const ZEROES = new Uint8Array(BLOCK);

/** What the server saw. */
export interface Recording {
  /** The disk with the file system. The value of a mark is the number of its file. */
  readonly trace: DiskTrace;
  /** The same disk after the last request. */
  readonly final: Uint8Array;
}

/** A line of trace.jsonl. */
type Line =
  | {
      readonly e: 'submit';
      readonly n: number;
      readonly x: 'd' | 'm';
      readonly op: 'read' | 'write' | 'flush';
      readonly off?: number;
      readonly len?: number;
      readonly d?: number;
      readonly fua?: 1;
    }
  | { readonly e: 'complete'; readonly n: number };

/** Reads the recording: a submit is the dispatch of a command, the server's reply its answer. */
export function loadRecording(): Recording {
  const base = unzipped('base.img.gz');
  const payloads = unzipped('data.bin.gz');
  const lines = fs.readFileSync(join(RECORDED, 'trace.jsonl'), 'utf8').trim().split('\n');
  const recorder = new DiskRecorder(base.length, base);
  const commands = new Map<number, number>();
  for (const text of lines) {
    const line = JSON.parse(text) as Line;
    if (line.e === 'complete') {
      const command = commands.get(line.n);
      if (command !== undefined) recorder.complete(command);
      continue;
    }
    const { n, x, op, off: offset = 0, len: length = 0, d: start = 0, fua = 0 } = line;
    const data = op === 'write' ? payloads.subarray(start, start + length) : undefined;
    if (x === 'd') {
      const what = { op, offset, length, tag: 'simple', fua: fua === 1 } as const;
      commands.set(n, recorder.dispatch(what, data));
    } else if (data) {
      recorder.mark(newestMark(data));
    }
  }
  return { trace: recorder.trace, final: unzipped('final.img.gz') };
}

function unzipped(name: string): Uint8Array {
  return gunzipSync(fs.readFileSync(join(RECORDED, name)));
}

/** The guest's kernel writes whole pages of eight marks; the last one is new. */
function newestMark(page: Uint8Array): number {
  const marks = [
    ...Buffer.from(page)
      .toString('latin1')
      .matchAll(/mark (\d+)/g),
  ];
  return Number(marks.at(-1)?.[1]);
}

/** What a power cut at some moment may leave. */
export interface Cut {
  readonly time: number;
  readonly state: CrashState;
}

/** The files that had their marks before that moment. */
function markedBefore({ marks }: DiskTrace, moment: number): ReadonlySet<unknown> {
  return new Set(marks.filter(({ time }) => time < moment).map(({ value }) => value));
}

/** What was judged, and what came of it. */
export interface Judged {
  readonly cut: Cut;
  readonly verdict: Verdict;
  /** To find it again. */
  readonly text: string;
}

/** Which images are judged, and what has to be in them. */
export interface Trial {
  readonly trace: DiskTrace;
  readonly space: CrashSpace;
  readonly seed: number;
  readonly count: number;
  /** How many files the guest wrote. */
  readonly files: number;
  /** What was marked before that moment has to be there. */
  readonly knownUntil: (cut: Cut) => number;
}

/** Two at a time. */
export async function judgeCuts(trial: Trial): Promise<readonly Judged[]> {
  const { trace, space, seed, count, files, knownUntil } = trial;
  const cuts = space.cuts(seed);
  const judged: Judged[] = [];
  let left = count;
  const work = async (): Promise<void> => {
    using bench = new Bench(space, files);
    while (left-- > 0) {
      const cut = cuts.next().value as Cut;
      const marked = markedBefore(trace, knownUntil(cut));
      const verdict = await bench.judge(cut.state, (file) => marked.has(file));
      // `space.at(...)` of the number makes the same image again.
      const where = `seed ${seed}, state ${space.indexOf(cut.state)}, cut at ${cut.time}`;
      const text = verdict.kind === 'sound' ? '' : `: ${verdict.kind}: ${verdict.why}`;
      judged.push({ cut, verdict, text: where + text });
    }
  };
  await Promise.all([work(), work()]);
  return judged;
}

/** A file for one image after the other, in memory where the system has a place for that. */
export class Bench implements Disposable {
  readonly #space: CrashSpace;
  readonly #folder: string;
  readonly #disk: string;
  readonly #file: number;
  readonly #files: number;
  /** The offsets of the blocks that are not all zeroes before the trace. */
  readonly #used: readonly number[];

  /** @param files how many files the guest wrote */
  constructor(space: CrashSpace, files: number) {
    this.#space = space;
    this.#files = files;
    const memory = '/dev/shm';
    const parent = fs.existsSync(memory) ? memory : tmpdir();
    this.#folder = fs.mkdtempSync(join(parent, 'write-barrier-'));
    this.#disk = join(this.#folder, 'disk.img');
    this.#file = fs.openSync(this.#disk, 'w');
    const offsets = Array.from({ length: space.map.size / BLOCK }, (_, block) => block * BLOCK);
    this.#used = offsets.filter((offset) => Buffer.compare(this.#before(offset), ZEROES) !== 0);
  }

  /** See `judgeDisk`. */
  judge(state: CrashState, isSafe: (file: number) => boolean): Promise<Verdict> {
    return judgeDisk(this.lay(state), this.#files, isSafe);
  }

  /** Writes `state.image()` to a file, with holes where it has zeroes, which takes less time. */
  lay(state: CrashState): string {
    const { size, regions } = this.#space.map;
    fs.ftruncateSync(this.#file, 0);
    fs.ftruncateSync(this.#file, size);
    for (const offset of this.#used) {
      fs.writeSync(this.#file, this.#before(offset), 0, BLOCK, offset);
    }
    for (const { offset, length } of regions) {
      for (let at = offset; at < offset + length; at += BLOCK) {
        fs.writeSync(this.#file, state.content(at) as Uint8Array, 0, BLOCK, at);
      }
    }
    return this.#disk;
  }

  [Symbol.dispose](): void {
    fs.closeSync(this.#file);
    fs.rmSync(this.#folder, { recursive: true });
  }

  #before(offset: number): Uint8Array {
    return this.#space.map.initial?.subarray(offset, offset + BLOCK) ?? ZEROES;
  }
}
