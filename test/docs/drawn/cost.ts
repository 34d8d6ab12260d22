// What durability costs on a file, by hand and here, as bars: the figures that `npm run bench -- commit --write` has written.

import { picture, rect, type Shape, words } from '../../../src/trace/svg.js';
import { read } from '../pages.js';

interface Figures {
  readonly command: string;
  readonly machine: string;
  readonly date: string;
  readonly groups: readonly {
    readonly title: string;
    readonly bars: readonly { readonly name: string; readonly time: number }[];
  }[];
}

const WIDTH = 360;
const MARGIN = 12;
const ROW = 36;

/** The first way of each group is what a program does by hand, and the unit of the others. */
const LOOKS = ['old', 'there', 'later'];

function figures(): Figures {
  return JSON.parse(read('bench/cost.json'));
}

/** A time as a person says it: two digits. */
function shown(time: number): string {
  return time < 0.1 ? String(Number(time.toPrecision(1))) : time.toFixed(time < 1 ? 2 : 1);
}

/** What the picture says, for those who do not see it, with where it was measured. */
export function costInWords(): string {
  const { command, machine, date, groups } = figures();
  const told = groups.map(({ title, bars }) => {
    const parts = bars.map(({ name, time }) => `${name}: ${shown(time)}`);
    return `Time for ${title}. ${parts.join('; ')}.`;
  });
  return `${told.join(' ')} Medians of ${command} on ${machine}, ${date}.`;
}

export function cost(): string {
  const { groups, date } = figures();
  const most = Math.max(...groups.flatMap(({ bars }) => bars.map(({ time }) => time)));
  const long = (time: number): number => Math.max(2, ((WIDTH - 2 * MARGIN - 40) * time) / most);
  const shapes: Shape[] = [];
  let y = MARGIN;
  for (const { title, bars } of groups) {
    shapes.push(words(MARGIN, y + 12, title, 'head'));
    y += 22;
    for (const [at, { name, time }] of bars.entries()) {
      const look = LOOKS[at] as string;
      shapes.push(
        words(MARGIN, y + 11, name, at === 1 ? 'code' : 'code quiet'),
        rect(MARGIN + 1, y + 17, long(time), 12, look),
        words(MARGIN + long(time) + 8, y + 27, shown(time), at === 1 ? 'head' : 'quiet'),
      );
      y += ROW;
    }
    y += 10;
  }
  shapes.push(words(MARGIN, y + 8, `Time; by hand = 1. Shorter is cheaper. ${date}`, 'quiet'));
  const title = 'What durability costs on a file';
  const frame = { width: WIDTH, height: y + 20, title, description: costInWords() };
  return picture(frame, shapes);
}
