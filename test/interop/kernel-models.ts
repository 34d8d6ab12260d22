// What models say of programs at a moment, and whether a kernel has left something else.
//
// Not here: how a kernel is made to leave something (kernel-disk.ts).

import { type FileModelName, fileSpace } from '../../src/testing/files/index.js';
import { type Program, textOf, traceOf } from '../testing/files/programs.js';
import type { KernelDisk, Times } from './kernel-disk.js';

/** The trees of a program under a model, each with the times in which a power cut may leave it. */
class Expected {
  readonly seen: Set<string> = new Set();
  readonly #spans = new Map<string, { readonly after: number; readonly before: number }[]>();

  constructor(program: Program, model: FileModelName) {
    for (const crash of fileSpace(traceOf(program), model).explore()) {
      const tree = textOf(crash.files.tree());
      const spans = this.#spans.get(tree) ?? [];
      // They are known when all of the tree was looked at.
      spans.push({ after: crash.after, before: crash.before });
      this.#spans.set(tree, spans);
    }
  }

  get size(): number {
    return this.#spans.size;
  }

  /** Whether a power cut in a span of the trace's time may leave the tree. */
  see(tree: string, [from, to]: readonly [number, number]): boolean {
    const spans = this.#spans.get(tree) ?? [];
    const isExpected = spans.some(({ after, before }) => after <= to && before > from);
    if (isExpected) this.seen.add(tree);
    return isExpected;
  }
}

/** How many calls of a program had begun at a moment of the disk, and how many had ended. */
function progressAt({ begins, ends }: Times, moment: number): { begun: number; ended: number } {
  const until = (times: readonly number[]): number => times.filter((time) => time < moment).length;
  return { begun: until(begins), ended: until(ends) };
}

/** The span of a trace, as `traceOf` counts time, in which the moment lies. */
function spanOf({ begun, ended }: { begun: number; ended: number }): readonly [number, number] {
  const settled = ended === 0 ? -1 : 100 * (ended - 1) + ended;
  return [settled, begun > ended ? 100 * ended : settled];
}

/** What was compared with a model. */
export interface Tally {
  readonly model: FileModelName;
  programs: number;
  /** The trees of the model, of all programs. */
  states: number;
  /** Those of them that were found. */
  seen: number;
  /** What was found and the model does not have, by a text of it. */
  readonly misses: Map<string, Miss>;
}

/** A tree that a model does not have. */
export interface Miss {
  readonly calls: string;
  /** How many calls had begun and were answered, and the seed. */
  readonly when: string;
  readonly tree: string;
}

export function tallyOf(model: FileModelName): Tally {
  return { model, programs: 0, states: 0, seen: 0, misses: new Map() };
}

/** What was seen of a file system, as the page has it. */
export interface Seen {
  readonly kernel: string;
  readonly model: FileModelName;
  readonly programs: number;
  readonly images: number;
  readonly states: number;
  readonly seen: number;
  /** The models that lack something, each with an example. */
  readonly refuted: Readonly<Record<string, Miss>>;
}

/** Runs the programs together on a disk, and compares what power cuts have left; the answer is the number of images. */
export async function compare(
  disk: KernelDisk,
  programs: readonly Program[],
  { seed, images }: { readonly seed: number; readonly images: number },
  tallies: readonly Tally[],
): Promise<number> {
  const models = tallies.map((tally) => {
    return { tally, expected: programs.map((program) => new Expected(program, tally.model)) };
  });
  const run = await disk.run(programs, seed);
  let mounted = 0;
  for await (const { cut, trees } of disk.looks(run, seed, images)) {
    mounted += 1;
    for (const [program, tree] of trees.entries()) {
      const { calls } = programs[program] as Program;
      const progress = progressAt(run.times[program] as Times, cut.time);
      for (const { tally, expected } of models) {
        if (expected[program]?.see(tree, spanOf(progress))) continue;
        const miss = missOf(calls, progress, tree, seed);
        tally.misses.set(JSON.stringify(miss), miss);
      }
    }
  }
  for (const { tally, expected } of models) count(tally, expected);
  return mounted;
}

function count(tally: Tally, expected: readonly Expected[]): void {
  tally.programs += expected.length;
  for (const { size, seen } of expected) {
    tally.states += size;
    tally.seen += seen.size;
  }
}

function missOf(
  calls: Program['calls'],
  { begun, ended }: { begun: number; ended: number },
  tree: string,
  seed: number,
): Miss {
  return {
    calls: short(calls.map((call) => call.join(' ')).join('; ')),
    when: `${begun} begun, ${ended} answered, seed ${seed}`,
    tree: short(tree),
  };
}

/** Long runs of a letter in short. */
function short(text: string): string {
  return text.replace(/(\\u0000|.)\1{9,}/g, (run, letter: string) => {
    return `${letter}*${run.length / letter.length}`;
  });
}
