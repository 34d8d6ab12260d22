// Where choices come from: all of them in turn, or drawn by a seed.
//
// A `Chooser` explores plain code that asks for choices. Run the code again and again, and every combination of answers
// comes once, in lexicographic order:
//
//   const chooser = new Chooser();
//   do run(chooser); while (chooser.advance());
//
// The code must ask for the same choices after the same answers.

import { invariant } from '../model/error.js';

/** An exhaustive sequence of choices. */
export class Chooser {
  #choices: { at: number; of: number }[] = [];
  #position = 0;

  /** A number from 0 up to, not including, `of`. */
  choose(of: number): number {
    const known = this.#choices[this.#position];
    this.#position += 1;
    if (known) {
      invariant(
        known.of === of,
        'choices: after the same answers the code asked for another choice',
      );
      return known.at;
    }
    this.#choices.push({ at: 0, of });
    return 0;
  }

  /** The next run makes the choices of the last one again. */
  rewind(): void {
    this.#position = 0;
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
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let bits = Math.imul(state ^ (state >>> 15), state | 1);
    bits ^= bits + Math.imul(bits ^ (bits >>> 7), bits | 61);
    return ((bits ^ (bits >>> 14)) >>> 0) / 2 ** 32;
  };
}
