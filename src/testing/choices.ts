// Where choices come from: all of them in turn, or drawn by a seed.
//
// A `Chooser` explores plain code that asks for choices. Run the code again and again, and every combination of answers
// comes once, in lexicographic order:
//
//   const chooser = new Chooser();
//   do run(chooser); while (chooser.advance());
//
// The code must ask for the same choices after the same answers. Exhaustive tests and the exploration of crash states use it
// alike; where all combinations are too many, a strategy says which answer comes first.

interface Choice {
  /** What is chosen. */
  readonly key: number;
  readonly of: number;
  at: number;
}

/** An exhaustive sequence of choices. */
export class Chooser {
  readonly #choices: Choice[] = [];
  readonly #unsteady: () => Error;
  #position = 0;

  /** @param unsteady the error for code that asks for another choice after the same answers */
  constructor(
    unsteady = (): Error =>
      new Error(
        'after the same answers the code asked for another choice: it is not deterministic',
      ),
  ) {
    this.#unsteady = unsteady;
  }

  /**
   * A number from 0 up to, not including, `of`.
   *
   * @param key names what is chosen, the same in every run
   * @param first the answer if this choice has not come up before
   */
  choose(of: number, key = 0, first: (of: number) => number = () => 0): number {
    const known = this.#choices[this.#position];
    this.#position += 1;
    if (known) {
      if (known.of !== of || known.key !== key) throw this.#unsteady();
      return known.at;
    }
    const at = first(of);
    this.#choices.push({ key, of, at });
    return at;
  }

  /** The next run makes the choices of the last one again. */
  rewind(): void {
    this.#position = 0;
  }

  /** Ends a run: it must have asked for all choices of the run before, up to the last one that they share. */
  end(): void {
    if (this.#position < this.#choices.length) throw this.#unsteady();
  }

  /** Moves on to the next combination; false when there is none. */
  advance(): boolean {
    this.rewind();
    for (let last = this.#choices.at(-1); last; last = this.#choices.at(-1)) {
      if (last.at + 1 < last.of) {
        last.at += 1;
        return true;
      }
      this.#choices.pop();
    }
    return false;
  }

  /** Whether `next`, which continues in order, has had this combination already. */
  isBefore(next: Chooser): boolean {
    for (const [i, { key, of, at }] of this.#choices.entries()) {
      const other = next.#choices[i];
      if (!other) return false;
      if (other.key !== key || other.of !== of) throw this.#unsteady();
      if (at !== other.at) return at < other.at;
    }
    return false;
  }

  /** The answers as a short key. */
  get answers(): string {
    return this.#choices.map(({ at }) => String.fromCodePoint(Math.min(at, 0xd7ff))).join('');
  }
}

/** A number in [0, 1), as `Math.random` returns it. */
export type Random = () => number;

/**
 * A generator of numbers in [0, 1): the same seed gives the same numbers.
 *
 * @param seed a whole number; its lowest 32 bits count
 * @see mulberry32, by Tommy Ettinger, a generator with 32 bits of state
 */
export function seededRandom(seed: number): () => number {
  let next = 0;
  return () => randomAt(seed, next++);
}

/** The nth number of that generator, from 0. */
export function randomAt(seed: number, n: number): number {
  const state = (seed + Math.imul(n + 1, 0x6d2b79f5)) >>> 0;
  let bits = Math.imul(state ^ (state >>> 15), state | 1);
  bits ^= bits + Math.imul(bits ^ (bits >>> 7), bits | 61);
  return ((bits ^ (bits >>> 14)) >>> 0) / 2 ** 32;
}

/** The nth of numbers in [0, 1) that are spread evenly, however many are taken: the multiples of the golden ratio. */
export function evenly(n: number): number {
  return (n * GOLDEN) % 1;
}

const GOLDEN = (Math.sqrt(5) - 1) / 2;
