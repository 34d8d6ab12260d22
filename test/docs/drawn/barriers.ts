// Which mode on which device, and what a barrier costs, as bars: figures of simulated disks in virtual time, which
// test/examples/neighbours.test.ts keeps in bench/barriers.json.

import { picture, rect, type Shape, widthOf, words } from '../../../src/trace/svg.js';
import { read } from '../pages.js';

interface Figures {
  /** By disk. */
  readonly costs: Readonly<
    Record<
      string,
      readonly {
        readonly mode: string;
        readonly aloneUs: number;
        readonly besideUs: number;
        readonly groupUs: number;
      }[]
    >
  >;
  readonly modes: Readonly<
    Record<
      string,
      readonly {
        readonly device: string;
        readonly mode: string;
        readonly verdict: string;
        readonly isChosen: boolean;
        readonly commitUs: number;
      }[]
    >
  >;
}

const WIDTH = 360;
const MARGIN = 12;
const ROW = 16;
/** Where bars begin, after their names. */
const LEFT = 102;
const END = WIDTH - MARGIN;

const figures = (): Figures => JSON.parse(read('bench/barriers.json'));

const shown = (us: number): string =>
  us < 1000 ? `${us} us` : `${(us / 1000).toFixed(us < 100_000 ? 1 : 0)} ms`;

/** A bar with its name before it and its time, with a remark, behind it, as far to the right as there is room. */
function bar(y: number, name: string, us: number, most: number, look: string, note = ''): Shape[] {
  const long = Math.max(2, ((END - LEFT - 56) * us) / most);
  const text = note === '' ? shown(us) : `${shown(us)}, ${note}`;
  const isTight = LEFT + long + 6 + widthOf(text) > END;
  const on = look === 'there' ? 'on' : look === 'lost' ? 'lost' : '';
  const quiet = look === 'there' ? '' : look === 'lost' ? 'lost' : 'quiet';
  return [
    words(MARGIN, y + 11, name, look === 'there' ? 'code' : 'code quiet'),
    rect(LEFT, y + 2, long, 11, look),
    isTight
      ? words(LEFT + long - 5, y + 11, text, `end ${on}`.trim())
      : words(LEFT + long + 6, y + 11, text, quiet),
  ];
}

/** For each disk and what it can do: a commit in each mode. */
export function modeChoice(): string {
  const shapes: Shape[] = [];
  let y = MARGIN;
  for (const [disk, rows] of Object.entries(figures().modes)) {
    const most = Math.max(...rows.map(({ commitUs }) => commitUs));
    shapes.push(words(MARGIN, y + 12, `${disk}: a commit of four blocks`, 'head'));
    y += 20;
    let last = '';
    for (const { device, mode, verdict, isChosen, commitUs } of rows) {
      if (device !== last) {
        y += last === '' ? 0 : 6;
        shapes.push(words(MARGIN, y + 11, `on a disk with ${device}`, 'quiet'));
        y += ROW;
      }
      last = device;
      // In NONE the journal waits itself, which is right everywhere.
      const isUnsafe = verdict === 'unsafe' && mode !== 'NONE';
      const look = isChosen ? 'there' : isUnsafe ? 'lost' : 'old';
      const note = isChosen ? 'chosen' : isUnsafe ? 'unsafe' : '';
      shapes.push(...bar(y, mode, commitUs, most, look, note));
      y += ROW;
    }
    y += 16;
  }
  shapes.push(words(MARGIN, y + 4, 'In NONE the program waits and flushes itself.', 'quiet'));
  const title = 'Which mode on which device';
  const description =
    'What a commit costs in each mode, for disks without a volatile cache, with one and a flush, and with FUA. The mode that is chosen is the cheapest that is safe.';
  return picture({ width: WIDTH, height: y + 18, title, description }, shapes);
}

/** For each disk and mode: a commit alone, beside a bulk writer, and beside it on a group. */
export function barrierCosts(): string {
  const shapes: Shape[] = [];
  let y = MARGIN;
  for (const [disk, rows] of Object.entries(figures().costs)) {
    const most = Math.max(...rows.map(({ besideUs }) => besideUs));
    shapes.push(words(MARGIN, y + 12, `${disk}: three records and a mark`, 'head'));
    y += 20;
    for (const { mode, aloneUs, besideUs, groupUs } of rows) {
      shapes.push(words(MARGIN, y + 11, mode === 'NONE' ? 'NONE, waiting' : mode, 'quiet'));
      y += ROW;
      for (const [name, us, look] of [
        ['alone', aloneUs, 'old'],
        ['beside bulk', besideUs, 'later'],
        ['on a group', groupUs, 'there'],
      ] as const) {
        shapes.push(...bar(y, name, us, most, look));
        y += ROW;
      }
      y += 5;
    }
    y += 12;
  }
  const title = 'What a barrier costs';
  const description =
    'A commit in each mode: alone on the disk, beside a bulk writer, and beside it on a group. The neighbour costs more than the barrier, and a group takes most of that away. The tables have the figures.';
  return picture({ width: WIDTH, height: y, title, description }, shapes);
}
