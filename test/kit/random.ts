import { seededRandom } from '../../src/testing/index.js';

/** A stream of choices that is a pure function of its seed: each a whole number from 0 up to, not including, `of`. */
export function chooserOf(seed: number): (of: number) => number {
  const random = seededRandom(seed);
  return (of) => Math.floor(random() * of);
}
