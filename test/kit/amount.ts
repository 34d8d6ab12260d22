// How much a test does. `npm test` runs a share of the large worlds and of the long random runs, `npm run test:exhaustive` all
// of them: the same files, in a project of their own that sets EXHAUSTIVE. A file that imports this one is in both.
//
// A share, because programs that are spread evenly over a large world find a mistake as soon as a whole smaller world does,
// and see its longer programs as well.

const { EXHAUSTIVE: asked } = process.env;

/** Whether everything runs. */
export const EXHAUSTIVE: boolean = asked === '1';

/**
 * One in so many, in the quick run: the largest that leaves as many as `FEW`, or the smallest. They have no factor in common with
 * the sizes of the alphabets that worlds are made of.
 */
const ONE_IN = [23, 11, 5] as const;
const FEW = 5;

/**
 * How many runs of a property: all, or a share of them that is still large enough to find what is not rare.
 *
 * @param least fewer than this are no share; where a run is long, a few are as good as many short ones
 */
export function share(all: number, least = 60): number {
  return EXHAUSTIVE ? all : Math.min(all, Math.max(least, Math.ceil(all / ONE_IN[0])));
}

/** All members of a world; in the quick run one in so many of them, and one in five of those that `often` names. */
export function sampled<T>(all: Iterable<T>, often?: (one: T) => boolean): readonly T[] {
  const members = [...all];
  if (EXHAUSTIVE) return members;
  const most = ONE_IN[2];
  const oneIn = ONE_IN.find((each) => members.length / each >= FEW) ?? most;
  return members.filter((one, nth) => nth % oneIn === 0 || (nth % most === 0 && often?.(one)));
}
