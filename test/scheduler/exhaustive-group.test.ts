// Every small program of a group's members (group-exploration.ts), and mistakes that the specification must find.

import { describe, expect, test } from 'vitest';
import { sampled, share } from '../kit/amount.js';
import { wordsOf } from '../kit/explore.js';
import { exploreGroup, type GroupWorld } from './group-exploration.js';

interface Named extends GroupWorld {
  readonly name: string;
  /** What the programs of each member are made of, and their length. */
  readonly members: readonly { readonly alphabet: string; readonly length: number }[];
  /** It is small, and the quick run does all of it. */
  readonly isSmall?: boolean;
}

const one = (alphabet: string, length = 1): Named['members'][number] => ({ alphabet, length });

const WORLDS: readonly Named[] = [
  { name: 'three commands beside two', members: [one('w0 f', 3), one('w0 f', 2)], depth: 3 },
  {
    name: 'two of every kind beside one',
    members: [one('w0 w1 r0 f ^w0 ^f w1!', 2), one('w0 r0 f ^w1')],
  },
  {
    name: 'two beside two, and a failure',
    members: [one('w0 w1! f ^f', 2), one('w0 f ^w0', 2)],
    ...{ depth: 2, failures: 1 },
  },
  {
    name: 'flushes that fail twice',
    members: [one('w0 f', 2), one('w1 f'), one('f')],
    ...{ depth: 2, failures: 2 },
  },
  {
    name: 'who learns of a failure, and how often',
    members: [one('w0! w0 f', 3), one('f')],
    ...{ failures: 1, isSmall: true },
  },
  {
    name: 'pieces, few bytes, a failure and an end',
    members: [one('r0+512 z0+512 w1 d1 f ^w0'), one('r0+512 z0+512 w1 f ^w0')],
    ...{ depth: 2, depthBytes: 1 << 20, failures: 1, closes: 1 },
  },
  {
    name: 'an end at every point',
    members: [one('w0 w1 f ^w0 ^f z0+512', 2), one('w0 f ^w1 z0+512')],
    ...{ depth: 2, closes: 1 },
  },
  {
    name: 'a stable medium, one at a time',
    members: [one('w0 r0 f ^w1', 2), one('w0 r0 f ^w1', 2)],
    ...{ depth: 1, isVolatile: false },
  },
  {
    name: 'three members that overlap',
    members: [one('w0+2 r0 ^w0 z0+512'), one('w0 w1 r0'), one('w0 r0+2 w1+2')],
    ...{ depth: 2, failures: 1 },
  },
];

/** The same where commands go past the queue while nothing waits (sharing.G8). */
const PASSING: readonly Named[] = WORLDS.map(({ name, ...world }) => ({
  ...world,
  name: `past the queue: ${name}`,
  passes: true,
}));

describe('every program of a group keeps the rules', () => {
  test.each([...WORLDS, ...PASSING])('$name', { timeout: 600_000 }, (named) => {
    const { members, isSmall, ...world } = named;
    let runs = 0;
    const programs = programsOf(members);
    for (const program of isSmall ? programs : sampled(programs))
      runs += exploreGroup(program, world);
    expect(runs).toBeGreaterThan(share(1000, 1));
  });
});

function programsOf(members: Named['members']): string[][][] {
  return members.reduce<string[][][]>(
    (programs, { alphabet, length }) =>
      programs.flatMap((before) =>
        [...wordsOf(alphabet, length)].map((words) => [...before, words]),
      ),
    [[]],
  );
}
