// What a power cut may leave, for the page about the fault model: all of it computed from the crash space of small traces.

import { crashSpace, DiskRecorder, recording } from 'write-barrier/testing/lab';
import type { DiskCommand, DiskTrace } from '../../../src/testing/device/disk-trace.js';
import { deviceProfile } from '../../../src/testing/device/profile.js';
import { crashesOf } from '../../../src/testing/space/explore.js';
import { intervalsOf } from '../../../src/testing/space/intervals.js';
import { possibleAt } from '../../../src/testing/space/places.js';
import { line, picture, rect, type Shape, words } from '../../../src/trace/svg.js';

const SECTOR = 512;
const WIDTH = 360;
const MARGIN = 12;

function command(
  op: 'write' | 'flush',
  [sector, sectors]: readonly [number, number],
  [dispatched, completed]: readonly [number, number],
  value: number,
  fua = false,
): DiskCommand {
  const length = sectors * SECTOR;
  return {
    ...{ op, offset: sector * SECTOR, length, tag: 'simple', fua, dispatched, completed },
    failed: false,
    ...(op === 'write' && { data: new Uint8Array(length).fill(value) }),
  };
}

function traceOf(sectors: number, commands: readonly DiskCommand[]): DiskTrace {
  return { size: sectors * SECTOR, commands, marks: [] };
}

const write = (
  where: readonly [number, number],
  when: readonly [number, number],
  value: number,
): DiskCommand => command('write', where, when, value);

// The time span of a write

const SPANS = traceOf(4, [
  write([0, 1], [1, 2], 1),
  command('flush', [0, 0], [3, 4], 0),
  write([1, 1], [5, 6], 1),
  command('write', [2, 1], [7, 10], 1, true),
  write([3, 1], [9, 11], 1),
  command('flush', [0, 0], [12, 13], 0),
]);
/** When the power is cut. */
const CUT = 8;
const LANE = 30;

export async function span(): Promise<string> {
  const profile = deviceProfile('file');
  const intervals = intervalsOf(SPANS.commands, profile);
  const { map } = crashSpace(SPANS, profile);
  const scale = 16.5;
  const x = (time: number): number => MARGIN + 18 + time * scale;
  const top = 64;
  const bottom = top + 4 * LANE;
  const shapes: Shape[] = [
    words(MARGIN, 24, 'A write has a time span', 'head'),
    words(MARGIN, 41, 'from its dispatch until it must be there', 'quiet'),
  ];
  const told: string[] = [];
  const bars: Shape[] = [];
  for (const [n, { op, offset, dispatched, completed, fua }] of SPANS.commands.entries()) {
    if (op === 'flush') {
      shapes.push(
        rect(x(dispatched), top, scale, bottom - top, 'flush'),
        words(x(dispatched) + 2, bottom + 12, 'F', 'code flush'),
      );
      continue;
    }
    const { durable } = intervals[n] as { durable: number };
    const sector = offset / SECTOR;
    const region = map.regions[sector];
    const left = region ? possibleAt(region, CUT) : [];
    const fate = left.length > 1 ? 'either' : left[0] === 0 ? 'not there' : 'must be there';
    const y = top + sector * LANE + 8;
    const look = fate === 'either' ? 'open' : fate === 'not there' ? 'later' : 'there';
    const end = Math.min(x(durable), 262) - x(dispatched);
    bars.push(
      rect(x(dispatched), y, end, 14, look),
      line(x(completed), y + 1, x(completed), y + 13, look === 'there' ? 'on' : 'answer'),
      words(MARGIN, y + 11, `w${sector}${fua ? '!' : ''}`, 'code'),
      words(WIDTH - MARGIN, y + 11, fate, 'end'),
    );
    told.push(`w${sector}: ${fate}`);
  }
  const cut = x(CUT);
  const legend: readonly (readonly [look: string, meaning: string])[] = [
    ['cut', 'the power cut'],
    ['answer', 'the answer to a write'],
    ['flush', 'F: a flush; w2! is a write with FUA'],
  ];
  let y = bottom + 26;
  for (const [look, meaning] of legend) {
    const isLine = look !== 'flush';
    shapes.push(
      isLine ? line(MARGIN + 6, y, MARGIN + 6, y + 11, look) : rect(MARGIN, y + 1, 12, 9, look),
      words(MARGIN + 20, y + 10, meaning, 'quiet'),
    );
    y += 16;
  }
  const title = 'The time span of a write, and a power cut through four of them';
  return picture({ width: WIDTH, height: y + 6, title, description: `${told.join('; ')}.` }, [
    ...shapes,
    ...bars,
    line(cut, top - 8, cut, bottom + 4, 'cut'),
  ]);
}

// Regions

const NAMES = ['A', 'B', 'C'];
const OVERLAPS = traceOf(12, [
  write([1, 7], [1, 2], 1),
  write([4, 6], [3, 4], 2),
  write([6, 1], [5, 6], 3),
]);

export async function regions(): Promise<string> {
  const space = crashSpace(OVERLAPS, 'file');
  const column = (WIDTH - 2 * MARGIN) / 12;
  const shapes: Shape[] = [
    words(MARGIN, 24, 'Where other writes begin, a region ends', 'head'),
    words(MARGIN, 41, 'three writes over twelve sectors, none of them flushed', 'quiet'),
  ];
  let y = 54;
  for (const [n, { offset, length }] of OVERLAPS.commands.entries()) {
    const left = MARGIN + (offset / SECTOR) * column;
    shapes.push(
      rect(left + 1, y, (length / SECTOR) * column - 2, 16, 'open'),
      words(left + 7, y + 12, NAMES[n] as string, 'code halo'),
    );
    y += 21;
  }
  y += 4;
  for (let sector = 0; sector < 12; sector += 1) {
    shapes.push(rect(MARGIN + sector * column + 1, y, column - 2, 16, 'later'));
  }
  const told: string[] = [];
  y += 24;
  for (const { offset, length, versions, writes } of space.map.regions) {
    const left = MARGIN + (offset / SECTOR) * column;
    const wide = (length / SECTOR) * column;
    const names = writes.map((one) => NAMES[one.command]).join('');
    shapes.push(
      rect(left + 1, y, wide - 2, 22, 'there'),
      words(left + wide / 2, y + 15, String(versions.length), 'middle on'),
      words(left + wide / 2, y + 36, names, 'code middle'),
    );
    told.push(`${length / SECTOR} sectors written by ${names}, ${versions.length} versions each`);
  }
  shapes.push(
    words(MARGIN, y + 58, 'Each sector has so many versions: the old content,', 'quiet'),
    words(MARGIN, y + 73, 'and one for each write that covers it.', 'quiet'),
    words(
      MARGIN,
      y + 95,
      `${space.map.regions.length} regions, ${space.count} crash states`,
      'good',
    ),
  );
  const title = 'The regions of three writes that overlap';
  return picture(
    {
      width: WIDTH,
      height: y + 106,
      title,
      description: `${told.join('; ')}. ${space.count} crash states.`,
    },
    shapes,
  );
}

// Atomic units

/** Four sectors of which A writes all, as one unit, and B the second one. */
function leftBy(commands: readonly DiskCommand[]): string[] {
  const space = crashSpace(traceOf(4, commands), { atomicWriteUnit: 4 * SECTOR });
  return [...space].map((state) => {
    const image = state.image();
    return [0, 1, 2, 3].map((n) => '-AB'[image[n * SECTOR] as number]).join('');
  });
}

export async function units(): Promise<string> {
  const unit = write([0, 4], [1, 2], 1);
  const smaller = write([1, 1], [3, 4], 2);
  const shapes: Shape[] = [
    words(MARGIN, 24, 'A smaller write breaks an atomic unit', 'head'),
    words(MARGIN, 41, 'A writes four sectors as one unit, B the second of them', 'quiet'),
  ];
  const told: string[] = [];
  let y = 54;
  for (const [title, commands] of [
    ['A', [unit]],
    ['A, then B', [unit, smaller]],
  ] as const) {
    const all = leftBy(commands);
    shapes.push(words(MARGIN, y + 10, `${title}, not flushed: ${all.length} crash states`));
    told.push(`${title}: ${all.join(', ')}`);
    y += 18;
    for (const [n, sectors] of all.entries()) {
      const left = MARGIN + (n % 5) * 68;
      const top = y + Math.floor(n / 5) * 24;
      for (const [at, name] of [...sectors].entries()) {
        const look = { '-': 'later', A: 'there', B: 'flush' }[name] as string;
        shapes.push(
          rect(left + at * 15 + 1, top, 13, 17, look),
          words(left + at * 15 + 7.5, top + 12, name, `code middle ${name === 'A' ? 'on' : 'ink'}`),
        );
      }
    }
    y += Math.ceil(all.length / 5) * 24 + 12;
  }
  shapes.push(words(MARGIN, y + 4, '- is the old content', 'quiet'));
  const title = 'An atomic unit of four sectors, alone and below a smaller write';
  return picture(
    { width: WIDTH, height: y + 16, title, description: `${told.join('. ')}.` },
    shapes,
  );
}

// Levels

const SECTORS = ['x', 'y', 'z'];

export async function levels(): Promise<string> {
  const first = crashSpace(
    traceOf(
      3,
      [0, 1, 2].map((n) => write([n, 1], [2 * n + 1, 2 * n + 2], 1)),
    ),
    'file',
  );
  const read = (disk: { read(offset: number, into: Uint8Array): unknown }, n: number): number => {
    const into = new Uint8Array(SECTOR);
    disk.read(n * SECTOR, into);
    return into[0] as number;
  };
  const found = new Set<string>();
  for (const run of crashesOf(first, {})) {
    const recorder = new DiskRecorder(3 * SECTOR);
    const disk = recording(run.disk, recorder);
    if (read(disk, 0) !== 1) continue;
    disk.write(SECTOR, new Uint8Array(SECTOR).fill(2), { fua: false, tag: 'simple' });
    const second = crashSpace(recorder.trace, 'file');
    for (const next of crashesOf(second, {}, run.decisions)) {
      found.add(`${read(next.disk, 1)} ${read(next.disk, 2)}`);
    }
  }
  const all = [...found].sort();
  const column = 62;
  const left = 150;
  const shapes: Shape[] = [
    words(MARGIN, 24, 'The next recovery decides what is open', 'head'),
    words(MARGIN, 41, 'x, y, z: 0 before, 1 by the workload, 2 by the recovery', 'quiet'),
    ...SECTORS.map((name, n) => words(left + n * column + 28, 66, name, 'code middle')),
  ];
  const row = (
    y: number,
    label: readonly string[],
    cells: readonly (string | undefined)[],
  ): void => {
    shapes.push(...label.map((text, n) => words(MARGIN, y + 11 + n * 14, text)));
    for (const [n, cell] of cells.entries()) {
      if (cell === undefined) continue;
      const isOpen = cell.includes('or');
      shapes.push(
        rect(left + n * column, y, column - 6, 28, isOpen ? 'open' : 'there'),
        words(left + n * column + 28, y + 18, cell, isOpen ? 'code middle halo' : 'code middle on'),
      );
    }
  };
  row(76, ['Level 2: a recovery', 'wrote y = 2, then a cut'], [undefined, '2 or -', undefined]);
  row(114, ['Level 1: the first cut;', 'the recovery read x = 1'], ['1', '0 or 1', '0 or 1']);
  shapes.push(
    words(MARGIN, 168, '- is nothing: level 1 decides.', 'quiet'),
    words(MARGIN, 190, `The next recovery reads y and z, and finds one of ${all.length}:`),
  );
  for (const [n, one] of all.entries()) {
    for (const [at, value] of one.split(' ').entries()) {
      const x = MARGIN + n * 56 + at * 24;
      shapes.push(
        rect(x + 1, 202, 22, 20, value === '0' ? 'later' : value === '1' ? 'there' : 'flush'),
        words(x + 12, 216, value, `code middle ${value === '1' ? 'on' : 'ink'}`),
      );
    }
  }
  const title = 'Two levels: the first power cut, and a second one during the recovery';
  const description = `The next recovery finds for y and z: ${all.join(', ')}.`;
  return picture({ width: WIDTH, height: 236, title, description }, shapes);
}
