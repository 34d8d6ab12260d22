// Exhaustive exploration by plain code that asks for choices: run it again and again, and every combination of
// answers comes once, in lexicographic order.
//
//   const chooser = new Chooser();
//   do run(chooser); while (chooser.advance());

export class Chooser {
  #choices: { at: number; of: number }[] = [];
  #position = 0;

  /** A number from 0 up to, not including, `of`. */
  choose(of: number): number {
    const known = this.#choices[this.#position];
    if (known) {
      this.#position += 1;
      return known.at;
    }
    this.#choices.push({ at: 0, of });
    this.#position += 1;
    return 0;
  }

  /** The next run makes the choices of the last one again. */
  rewind(): void {
    this.#position = 0;
  }

  /** Goes on to the next combination; false when there is none. */
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
