// Random programs for the storage contract, and the model that they are compared with.
//
// A program is a list of rounds. The commands of a round are called at once and touch different blocks; the next round
// begins when all are answered. So storage.S4 is kept, and the result does not depend on the order of the answers. A flush
// covers the rounds before its own.
//
// The model is memory with a past: for each block the contents that it may have after a power cut, oldest first. The block
// reads as the last of them. After a flush, a forced write, or any write without a volatile cache, only the last one is left.
// A power cut may leave any of them, or a mixture of their bytes, because no clause promises that a block is whole. A block
// that was never written, or was discarded, is `null`: it reads as anything.
//
// Programs with resizes work at the end of the storage: its last blocks, and those that are added. The size has a past as a block
// has. What is added, and what is cut off, counts as zeroes that were written there. After a forced write only the sizes are left
// that have room for it.
//
// A program that fails is shrunk: commands are left out one by one, as long as it still fails.

import { formatRequest, type Request } from '../../model/index.js';
import type { Capabilities } from '../../storage/index.js';
import { type Random, seededRandom } from '../choices.js';
import {
  BLOCKS,
  type Clause,
  type ContractSubject,
  isVolatile,
  type Ranged,
  type Trial,
  together,
  tried,
  Violation,
} from './contract-trial.js';

/** The form of the programs of a test. */
export interface Shape {
  /** The maximum number of commands that are called at once. */
  readonly atOnce: number;
  /** Whether the power fails in between. */
  readonly cuts?: boolean;
  /** Whether the size changes. */
  readonly resizes?: boolean;
}

type Op = Ranged | 'flush' | 'cut' | 'resize';

/**
 * Places and lengths are in blocks; the length of a resize is that of the part of the storage that the program uses. A power cut or
 * a resize is always alone in its round.
 */
interface Command {
  readonly op: Op;
  readonly at: number;
  readonly blocks: number;
  /** The number of the pattern that a write writes. */
  readonly value: number;
  readonly fua: boolean;
}

type Program = readonly (readonly Command[])[];

const RUNS = 20;
const ROUNDS_MAX = 24;
/** How many blocks a program with resizes has at first. */
const ROOM = BLOCKS / 2;

/** Runs programs until one fails: the failure of the smallest program that fails, or undefined. */
export async function explored(
  clause: Clause,
  subject: ContractSubject,
  shape: Shape,
): Promise<Violation | undefined> {
  const { capabilities, runs = RUNS, seed = Math.floor(Math.random() * 2 ** 32) } = subject;
  const random = seededRandom(seed);
  const attempt = (program: Program): Promise<Violation | undefined> =>
    tried(clause, subject, (trial) => played(trial, program, shape));
  for (let run = 0; run < runs; run += 1) {
    const program = programOf(random, capabilities, shape);
    const failure = await attempt(program);
    if (!failure) continue;
    const { least, why } = await shrunk(program, failure, attempt);
    const text = format(least, capabilities.blockSize);
    return new Violation(clause, `${why.what}\n  program: ${text}\n  seed: ${seed}`, {
      cause: why,
    });
  }
  return undefined;
}

/**
 * Leaves out each command, from the last to the first, until none can be left out. One pass is not enough, because a
 * command that a failure needs may become superfluous when an earlier one is gone.
 */
async function shrunk(
  program: Program,
  failure: Violation,
  attempt: (program: Program) => Promise<Violation | undefined>,
): Promise<{ least: Program; why: Violation }> {
  let [least, why] = [program, failure];
  for (let size = Infinity; least.flat().length < size; ) {
    size = least.flat().length;
    for (const command of least.flat().reverse()) {
      const fewer = least
        .map((round) => round.filter((other) => other !== command))
        .filter((round) => round.length > 0);
      const still = await attempt(fewer);
      if (still) [least, why] = [fewer, still];
    }
  }
  return { least, why };
}

function programOf(
  random: Random,
  { writev, discard, writeZeroes, flush, fua }: Capabilities,
  { atOnce, cuts = false, resizes = false }: Shape,
): Program {
  const below = (limit: number): number => Math.floor(random() * limit);
  const declared = Object.entries({ writev, discard, writeZeroes, flush });
  const others = declared.flatMap(([op, has]) => (has ? [op as Op] : []));
  const ops: readonly Op[] = ['read', 'write', 'write', ...others];
  let value = 0;
  return Array.from({ length: 1 + below(ROUNDS_MAX) }, () => {
    if (cuts && below(6) === 0) return [{ op: 'cut', at: 0, blocks: 0, value: 0, fua: false }];
    if (resizes && below(3) === 0) {
      return [{ op: 'resize', at: 0, blocks: below(BLOCKS + 1), value: 0, fua: false }];
    }
    const round: Command[] = [];
    const count = 1 + below(atOnce);
    for (let at = below(BLOCKS); at < BLOCKS && round.length < count; ) {
      const blocks = 1 + below(Math.min(4, BLOCKS - at));
      const op = ops[below(ops.length)] ?? 'read';
      value += 1;
      round.push({ op, at, blocks, value, fua: fua && below(4) === 0 });
      at += blocks + below(3);
    }
    return round;
  });
}

async function played(trial: Trial, program: Program, { resizes }: Shape): Promise<void> {
  const first = resizes ? trial.storage.size / trial.block - ROOM : 0;
  const model = new Model(trial, resizes ? ROOM : BLOCKS);
  const all = async (): Promise<Uint8Array> =>
    model.size === 0 ? new Uint8Array(0) : trial.read(first, model.size);
  for (const round of program) {
    const [{ op: alone, blocks = 0 } = {}] = round;
    if (alone === 'cut') {
      if (!(await trial.cut())) continue;
      if (resizes) model.cutSize(trial.storage.size / trial.block - first);
      model.cut(await all());
      continue;
    }
    if (alone === 'resize') {
      await trial.resize((first + blocks) * trial.block);
      model.resize(blocks);
      continue;
    }
    // A resize that made room for a command may have been left out.
    const legal = round.filter(({ op, at, blocks }) => op === 'flush' || at + blocks <= model.size);
    const answers = await together(legal.map((command) => () => issue(trial, command, first)));
    if (legal.some(({ op }) => op === 'flush')) model.flush();
    for (const [index, command] of legal.entries()) {
      const bytes = answers[index];
      if (bytes) model.compare(command.at, bytes);
      else model.take(command);
    }
  }
  model.compare(0, await all());
}

/** Calls the command at once; a read returns its bytes. */
async function issue(
  trial: Trial,
  { op, at, blocks, value, fua }: Command,
  first: number,
): Promise<Uint8Array | undefined> {
  const { block } = trial;
  if (op === 'read') return trial.read(first + at, blocks);
  if (op === 'flush') await trial.flush();
  else if (op !== 'cut' && op !== 'resize') {
    await trial.call(op, (first + at) * block, blocks * block, trial.pattern(value, blocks), fua);
  }
  return undefined;
}

/** The content of a block; `null`: anything. */
type Content = Uint8Array | null;

class Model {
  readonly #trial: Trial;
  /** For each block, never empty. */
  readonly #pasts: Content[][] = Array.from({ length: BLOCKS }, () => [null]);
  /** In blocks, oldest first, never empty. */
  #sizes: number[];

  constructor(trial: Trial, size: number) {
    this.#trial = trial;
    this.#sizes = [size];
  }

  /** In blocks. */
  get size(): number {
    return this.#sizes.at(-1) as number;
  }

  resize(blocks: number): void {
    const zero = new Uint8Array(this.#trial.block);
    const forced = !isVolatile(this.#trial.storage.capabilities);
    const [from, to] = [Math.min(this.size, blocks), Math.max(this.size, blocks)];
    for (let at = from; at < to; at += 1) {
      this.#pasts[at] = forced ? [zero] : [...(this.#pasts[at] ?? []), zero];
    }
    this.#sizes = forced ? [blocks] : [...this.#sizes, blocks];
  }

  take({ op, at, blocks, value, fua }: Command): void {
    if (op === 'read' || op === 'flush' || op === 'cut' || op === 'resize') return;
    const { block, storage } = this.#trial;
    const isWrite = op === 'write' || op === 'writev';
    const forced = (fua && isWrite) || !isVolatile(storage.capabilities);
    const bytes =
      op === 'writeZeroes' ? new Uint8Array(blocks * block) : this.#trial.pattern(value, blocks);
    if (forced) this.#sizes = this.#sizes.filter((size) => size >= at + blocks);
    for (let index = 0; index < blocks; index += 1) {
      const now = op === 'discard' ? null : bytes.subarray(index * block, (index + 1) * block);
      const past = this.#pasts[at + index] ?? [];
      this.#pasts[at + index] = forced ? [now] : [...past, now];
    }
  }

  flush(): void {
    this.#sizes = this.#sizes.slice(-1);
    for (const [at, past] of this.#pasts.entries()) this.#pasts[at] = past.slice(-1);
  }

  compare(at: number, bytes: Uint8Array): void {
    for (const [actual, block, past] of this.#blocks(at, bytes)) {
      const expected = past.at(-1);
      if (expected) this.#trial.same(actual, expected, `block ${block}`);
    }
  }

  /** Compares the size after a power cut. What is not there would read as zero if it were added. */
  cutSize(blocks: number): void {
    if (!this.#sizes.includes(blocks)) {
      const sizes = [...new Set(this.#sizes)].join(' or ');
      throw this.#trial.violation(
        `after a power cut: expected a size of ${sizes} blocks, found ${blocks}`,
      );
    }
    this.#sizes = [blocks];
    const zero = new Uint8Array(this.#trial.block);
    for (let at = blocks; at < BLOCKS; at += 1) this.#pasts[at] = [zero];
  }

  /** Compares the contents of all blocks after a power cut. */
  cut(bytes: Uint8Array): void {
    for (const [actual, block, past] of this.#blocks(0, bytes)) {
      const known = past.filter((content) => content !== null);
      const expected = known.at(-1);
      const isKnown = known.length === past.length && expected !== undefined;
      this.#pasts[block] = [isKnown ? actual : null];
      if (!isKnown) continue;
      const older = (at: number): boolean => known.some((content) => content[at] === actual[at]);
      const those = known.length > 1 ? ` or one of ${known.length - 1} older` : '';
      this.#trial.same(actual, expected, `block ${block} after a power cut${those}`, older);
    }
  }

  *#blocks(at: number, bytes: Uint8Array): Iterable<[Uint8Array, number, readonly Content[]]> {
    const { block } = this.#trial;
    for (let start = 0; start < bytes.length; start += block) {
      const index = at + start / block;
      yield [bytes.subarray(start, start + block), index, this.#pasts[index] ?? []];
    }
  }
}

function format(program: Program, blockSize: number): string {
  const rounds = program.map((round) => {
    const commands = round.map((command) => formatCommand(command, blockSize));
    return commands.length === 1 ? commands[0] : `[${commands.join(' ')}]`;
  });
  return rounds.join(' ') || '(nothing but a read of all blocks)';
}

/** In the notation of programs; `v` marks a writev. */
function formatCommand({ op, at, blocks, fua }: Command, blockSize: number): string {
  if (op === 'cut') return 'cut';
  if (op === 'resize') return `resize${blocks}`;
  const kind = op === 'writev' ? 'write' : op;
  const request = { kind, offset: at * blockSize, length: blocks * blockSize, fua } as Request;
  return formatRequest(request, { blockSize }) + (op === 'writev' ? 'v' : '');
}
