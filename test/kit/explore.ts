// Every small program, in every order of what may happen: the explorer of the exhaustive worlds.
//
// A run is plain code that asks a chooser for what comes next. It is run again and again until every combination of answers has
// come once. A run that throws is run once more with the same choices, and tells what happens: of millions of runs hardly
// one is read, so the others make no text.
//
// Not here: searches that remember states (systems/qemu/exploration.ts), where runs that meet go on as one.

import { Chooser } from '../../src/testing/choices.js';

export { Chooser };

/** Hears of each event of a run that broke a rule. */
export type Tell = (event: string) => void;

/** All programs of so many words of the alphabet, in the order of the alphabet. */
export function* wordsOf(alphabet: string, length: number): Generator<string[]> {
  const letters = alphabet.split(' ');
  const chooser = new Chooser();
  do {
    yield Array.from({ length }, () => letters[chooser.choose(letters.length)] as string);
  } while (chooser.advance());
}

/**
 * Runs in every way, and answers in how many.
 *
 * @throws what the run throws first, as the `cause` of an error that tells the story of that run
 */
export function everyWay(run: (chooser: Chooser, tell?: Tell) => void): number {
  const chooser = new Chooser();
  let runs = 0;
  do {
    runs += 1;
    try {
      withoutStacks(() => run(chooser));
    } catch (error) {
      chooser.rewind();
      throw new Error(
        storyOf((tell) => run(chooser, tell), error),
        { cause: error },
      );
    }
  } while (chooser.advance());
  return runs;
}

/** The function, which is called once for each text: a world says the same few words in each of its runs. */
export function memoized<T>(of: (text: string) => T): (text: string) => T {
  const known = new Map<string, T>();
  return (text) => {
    let value = known.get(text);
    if (value === undefined) {
      value = of(text);
      known.set(text, value);
    }
    return value;
  };
}

/** Runs something whose errors have no stacks: of the millions that are meant they take half of the time, and none is read. */
export function withoutStacks<T>(run: () => T): T {
  const { stackTraceLimit } = Error;
  Error.stackTraceLimit = 0;
  try {
    return run();
  } finally {
    Error.stackTraceLimit = stackTraceLimit;
  }
}

function storyOf(run: (tell: Tell) => void, error: unknown): string {
  const story: string[] = [];
  try {
    run((event) => story.push(event));
  } catch {}
  return [String(error), ...story].join('\n  ');
}
