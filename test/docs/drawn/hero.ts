// Two writes, with and without a barrier, and what a power cut may leave of each: all images, from the crash space.

import { formatSteps, IoScheduler, parseProgram, transformer } from 'write-barrier';
import { VolatileDisk } from 'write-barrier/testing';
import { crashSpace } from 'write-barrier/testing/lab';
import { picture, rect, type Shape, words } from '../../../src/trace/svg.js';

const SECTOR = 512;
const WIDTH = 360;
const MARGIN = 12;
const COLUMN = (WIDTH - 2 * MARGIN) / 4;

/** Whether the record is there, and whether its commit mark is. */
type Image = readonly [record: boolean, mark: boolean];

/** What a power cut may leave of a record and its commit mark, written at once. */
export async function imagesOf(barrier: boolean): Promise<Image[]> {
  const device = new VolatileDisk({ size: 2 * SECTOR });
  const disk = new IoScheduler(device);
  const filled = new Uint8Array(SECTOR).fill(1);
  await Promise.all([disk.write(0, filled), disk.write(SECTOR, filled, { barrier })]);
  const space = crashSpace(device.trace);
  return Array.from({ length: Number(space.count) }, (_, k): Image => {
    const image = space.at(BigInt(k)).image();
    return [image[0] === 1, image[SECTOR] === 1];
  });
}

const CAPTIONS = ['neither', 'record only', 'mark only', 'both'];

function placeOf([record, mark]: Image): number {
  return Number(record) + 2 * Number(mark);
}

export async function hero(): Promise<string> {
  const shapes: Shape[] = [];
  const told: string[] = [];
  let y = MARGIN;
  for (const barrier of [false, true]) {
    const images = await imagesOf(barrier);
    const program = barrier ? 'w0 b1' : 'w0 w1';
    const steps = formatSteps(transformer('DRAIN_FUA')(parseProgram(program))).replace(/ =>$/, '');
    shapes.push(
      words(MARGIN, y + 12, barrier ? 'With a barrier' : 'Without a barrier', 'head'),
      words(WIDTH - MARGIN, y + 12, steps, 'code quiet end'),
      words(MARGIN, y + 29, `A power cut may leave ${images.length} crash states:`, 'quiet'),
    );
    const top = y + 40;
    for (const [at, caption] of CAPTIONS.entries()) {
      const x = MARGIN + at * COLUMN;
      const image = images.find((one) => placeOf(one) === at);
      if (!image) {
        shapes.push(words(x + 36, top + 17, 'never', 'middle good'));
        continue;
      }
      const [record, mark] = image;
      const cell = (left: number, letter: string, isThere: boolean): Shape[] => [
        rect(left, top, 34, 26, isThere ? 'there' : 'later'),
        words(left + 17, top + 17, letter, `code middle ${isThere ? 'on' : 'quiet'}`),
      ];
      shapes.push(
        ...cell(x + 1, '0', record),
        ...cell(x + 38, '1', mark),
        words(x + 36, top + 42, caption, mark && !record ? 'middle lost' : 'middle'),
      );
    }
    const names = images.map((image) => CAPTIONS[placeOf(image)]);
    told.push(`${barrier ? 'With' : 'Without'} a barrier: ${names.join(', ')}`);
    y += 96;
    shapes.push(
      words(
        MARGIN,
        y + 8,
        barrier
          ? 'A commit mark is never there without its record.'
          : 'A commit mark without its record: recovery believes it.',
        barrier ? 'good' : 'lost',
      ),
    );
    y += 30;
  }
  const legend: Shape[] = [
    rect(MARGIN + 1, y + 2, 11, 9, 'there'),
    words(MARGIN + 17, y + 10, 'on the medium', 'quiet'),
    rect(MARGIN + 111, y + 2, 11, 9, 'later'),
    words(MARGIN + 127, y + 10, 'not there', 'quiet'),
    words(MARGIN + 200, y + 10, '0 record, 1 mark', 'quiet'),
  ];
  const title = 'What a power cut may leave of a record and its commit mark';
  return picture({ width: WIDTH, height: y + 22, title, description: `${told.join('. ')}.` }, [
    ...shapes,
    ...legend,
  ]);
}
