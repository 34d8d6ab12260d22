// What the simulated disk keeps its work in, so that a step takes no longer when much is in flight.

/** A set from which one is drawn by its place in `all`. Its members change their places when one leaves. */
export class Bag<T> {
  readonly #all: T[] = [];
  readonly #places = new Map<T, number>();

  get all(): readonly T[] {
    return this.#all;
  }

  add(one: T): void {
    if (!this.#places.has(one)) this.#places.set(one, this.#all.push(one) - 1);
  }

  /** The last one takes the place of the one that leaves, because then no other has to move. */
  delete(one: T): void {
    const place = this.#places.get(one);
    if (place === undefined) return;
    const last = this.#all.pop() as T;
    if (last !== one) {
      this.#all[place] = last;
      this.#places.set(last, place);
    }
    this.#places.delete(one);
  }
}

interface Tree<T> {
  readonly one: T;
  readonly key: number;
  readonly nth: number;
  readonly above: Tree<T>[];
}

/** A queue in the order of keys, the least first; of two with the same key, the one that came first. */
export class Queue<T> {
  // A pairing heap: no tree has a lesser key than the one that it is above.
  #least: Tree<T> | undefined;
  #count = 0;

  get first(): T | undefined {
    return this.#least?.one;
  }

  add(one: T, key: number): void {
    const tree = { one, key, nth: this.#count++, above: [] };
    this.#least = this.#least ? melded(this.#least, tree) : tree;
  }

  /** Removes the first one. */
  shift(): void {
    let trees = this.#least?.above ?? [];
    while (trees.length > 1) {
      const pairs: Tree<T>[] = [];
      for (let i = 0; i < trees.length; i += 2) {
        const [a, b] = [trees[i] as Tree<T>, trees[i + 1]];
        pairs.push(b ? melded(a, b) : a);
      }
      trees = pairs;
    }
    this.#least = trees[0];
  }
}

function melded<T>(a: Tree<T>, b: Tree<T>): Tree<T> {
  const [low, high] = (a.key - b.key || a.nth - b.nth) < 0 ? [a, b] : [b, a];
  low.above.push(high);
  return low;
}
