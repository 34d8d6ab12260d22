// Who waits for whom on a shared disk, as bars: the figures of example 10, which test/examples/neighbours.test.ts keeps in
// bench/neighbours.json.

import { picture, rect, type Shape, words } from '../../../src/trace/svg.js';
import { read } from '../pages.js';

interface Row {
  readonly name: string;
  readonly way: string;
  readonly worstReadUs: number;
}

const WIDTH = 480;
const MARGIN = 12;
const BAR = 18;
/** Where bars begin, after the name of their way. */
const LEFT = 76;
const LOOKS: Readonly<Record<string, string>> = { shared: 'old', own: 'later', group: 'there' };

/** The longest wait of the reader, for each arrangement in each way, on each disk. */
export function neighbours(): string {
  const disks: Readonly<Record<string, readonly Row[]>> = JSON.parse(read('bench/neighbours.json'));
  const shapes: Shape[] = [];
  let y = MARGIN;
  for (const [disk, rows] of Object.entries(disks)) {
    const most = Math.max(...rows.map(({ worstReadUs }) => worstReadUs));
    shapes.push(words(MARGIN, y + 12, `${disk}: the longest wait for a read`, 'head'));
    y += 18;
    let last = '';
    for (const { name, way, worstReadUs } of rows) {
      if (name !== last) {
        shapes.push(words(MARGIN, y + 14, name, 'quiet'));
        y += 18;
      }
      last = name;
      const long = Math.max(2, ((WIDTH - LEFT - MARGIN - 64) * worstReadUs) / most);
      shapes.push(
        words(MARGIN, y + 12, way, way === 'group' ? 'code' : 'code quiet'),
        rect(LEFT, y + 2, long, 12, LOOKS[way] as string),
        words(
          LEFT + long + 8,
          y + 12,
          `${(worstReadUs / 1000).toFixed(1)} ms`,
          way === 'group' ? 'head' : 'quiet',
        ),
      );
      y += BAR;
    }
    y += 14;
  }
  const title = 'Who waits for whom on a shared disk';
  const description =
    'The longest wait of a reader beside two journals and a bulk writer, in virtual time. The tables have the figures.';
  return picture({ width: WIDTH, height: y, title, description }, shapes);
}
