/** The content that one recovery should see. */
export interface Guide {
  /** The name of its strategy. */
  readonly order: string;
  /** Which of these versions a place should have, by its index in the list. */
  choose(place: number, candidates: readonly number[]): number;
}

/** The version that each place has in a crash state. */
export type Target = (place: number) => number;

/** A name, and crash states to look at: a recovery reaches each of them from every partial choice that agrees with it. */
export interface Strategy {
  readonly order: string;
  readonly targets: Iterator<Target, void>;
}
