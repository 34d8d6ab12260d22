// What the pictures of power cuts have in common: the measures, the words above and below, and the legend.

import { moved, picture, rect, type Shape, widthOf, words, wrapped } from '../../trace/svg.js';

/** In units of the picture, of which 360 are the width of a phone. */
const WIDTH_MIN = 360;
export const MARGIN = 12;
/** The height of a line of words. */
export const ROW = 15;
/** The height of a lane, and of a bar in it. */
export const LANE = 34;
export const BAR = 14;
/** How much wider the letters of a heading are. */
const HEAD = 1.3;

/** What is said above a later power cut. */
export const LATER: Readonly<Record<'workload' | 'recovery' | 'life', string | undefined>> = {
  workload: undefined,
  recovery: 'Then the power is cut again, during the recovery:',
  life: 'Then it recovers, goes on, and the power is cut again:',
};

/** A picture that is drawn from top to bottom. A look is a class of the shapes, and has its meaning in the legend. */
export class Frame<Look extends string> {
  readonly shapes: Shape[] = [];
  readonly width: number;
  /** The looks that occur. */
  readonly used: Set<Look> = new Set();
  /** Where the next shape goes. */
  y: number = MARGIN;

  /** @param columns of `column` units each */
  constructor(columns: number, column: number) {
    this.width = Math.max(WIDTH_MIN, 2 * MARGIN + columns * column);
  }

  /** Words, in as many lines as they need, at most `lines`. */
  tell(text: string, look: string, lines: number): void {
    const most = (this.width - 2 * MARGIN) / (look === 'head' ? HEAD : 1);
    for (const part of wrapped(text, most, lines)) {
      this.shapes.push(words(MARGIN, this.y + 11, part, look, most));
      this.y += ROW;
    }
  }

  /** What the looks mean that occur; `sampleOf` draws one that is no bar. */
  explain(
    meanings: Readonly<Record<Look, string>>,
    sampleOf: (look: Look, x: number, y: number) => Shape | undefined = () => undefined,
  ): void {
    const shapes: Shape[] = [];
    let [x, y] = [MARGIN, 0];
    for (const [look, meaning] of Object.entries(meanings) as [Look, string][]) {
      if (!this.used.has(look)) continue;
      const long = 18 + widthOf(meaning) + 10;
      if (x + long > this.width && x > MARGIN) [x, y] = [MARGIN, y + ROW];
      const sample = sampleOf(look, x, y) ?? rect(x + 1, y + 3, 11, 9, look);
      shapes.push(sample, words(x + 17, y + 11, meaning, 'quiet'));
      x += long;
    }
    this.shapes.push(moved(0, this.y + 4, shapes));
    this.y += 4 + y + (this.used.size > 0 ? ROW : 0);
  }

  /** The whole as SVG. */
  drawn(title: string, description: string): string {
    const { width, y, shapes } = this;
    return picture({ width, height: y + MARGIN, title, description }, shapes);
  }
}
