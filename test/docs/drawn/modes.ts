// The seven modes, each as the run of one program on a simulated disk with a volatile cache.

import {
  formatSteps,
  guarantees,
  IoScheduler,
  MODE_NAMES,
  type ModeName,
  parseProgram,
  transformer,
} from 'write-barrier';
import { type DiskTrace, VolatileDisk } from 'write-barrier/testing';
import { deviceProfile } from '../../../src/testing/device/profile.js';
import { intervalsOf } from '../../../src/testing/space/intervals.js';
import { line, moved, picture, rect, type Shape, widthOf, words } from '../../../src/trace/svg.js';

const PROGRAM = 'w0 b1 w2';
const BLOCK = 4096;
const PROFILE = deviceProfile('scsi-tags');
const WIDTH = 360;
const MARGIN = 12;
const PANEL = { width: 162, height: 112, lane: 19 };

async function traceOf(mode: ModeName): Promise<DiskTrace> {
  const device = new VolatileDisk({ size: 4 * BLOCK, profile: PROFILE });
  const disk = new IoScheduler(device, { mode, allowUnsafe: true });
  const data = new Uint8Array(BLOCK).fill(1);
  const writes = [0, 1, 2].map((n) => disk.write(n * BLOCK, data, { barrier: n === 1 }));
  await Promise.allSettled(writes);
  return device.trace;
}

async function panelOf(mode: ModeName): Promise<Shape[]> {
  const { commands } = await traceOf(mode);
  const intervals = intervalsOf(commands, PROFILE);
  const steps = [...transformer(mode)(parseProgram(PROGRAM))];
  const { verdict } = guarantees(mode, PROFILE);
  const moments = commands
    .flatMap(({ dispatched, completed }) => [dispatched, completed])
    .sort((a, b) => a - b);
  const { width, lane } = PANEL;
  const clock = (time: number): number =>
    moments.filter((one) => one < time).length * (width / (moments.length + 1)) + 2;
  const top = 36;
  const bottom = top + 3 * lane;
  const shapes: Shape[] = [
    words(0, 12, mode, 'head'),
    words(
      width,
      12,
      verdict.replace('safe-without-errors', 'safe *'),
      `end ${verdict === 'unsafe' ? 'lost' : 'good'}`,
    ),
    words(0, 28, formatSteps(steps).replace('EOPNOTSUPP(b1)', '(b1 refused)'), 'code quiet'),
  ];
  const bars: Shape[] = [];
  let number = 0;
  for (const step of steps) {
    const command = commands[number];
    if (step.kind === 'drain' && command) {
      const x = clock(command.dispatched) - width / (moments.length + 1) / 2;
      shapes.push(line(x, top, x, bottom, 'good'));
    }
    if (step.kind === 'refuse') {
      bars.push(words(2, top + lane + 13, 'b1: EOPNOTSUPP', 'code lost'));
    }
    if (step.kind !== 'command' || !command) continue;
    const { op, dispatched, completed, tag, fua, offset } = command;
    const x = clock(dispatched);
    const name = `${tag === 'ordered' ? '^' : ''}${op === 'flush' ? 'F' : `w${offset / BLOCK}`}${fua ? '!' : ''}`;
    if (op === 'flush') {
      shapes.push(
        rect(x, top, clock(completed) - x, bottom - top, 'flush'),
        words(x + 2, bottom + 11, name, 'code flush'),
      );
    } else {
      const y = top + (offset / BLOCK) * lane + 3;
      const durable = intervals[number]?.durable ?? Infinity;
      const end = durable === Infinity ? width : clock(durable);
      const isWide = widthOf(name) + 6 < end - x;
      bars.push(
        rect(x, y, end - x, 13, durable === Infinity ? 'open' : 'there'),
        words(
          isWide ? x + 3 : end + 3,
          y + 10,
          name,
          durable === Infinity || !isWide ? 'code halo' : 'code on',
        ),
      );
    }
    number += 1;
  }
  return [...shapes, ...bars];
}

const LEGEND: readonly (readonly [look: string, meaning: string])[] = [
  ['there', 'from its dispatch until it must be on the medium'],
  ['open', 'may still be lost at the end'],
  ['flush', 'flush (F): from its dispatch until its answer'],
  ['good', 'drain (=>): wait for all answers'],
];

const LETTERS: readonly (readonly [letter: string, meaning: string])[] = [
  ['^', 'ordered tag'],
  ['!', 'FUA'],
  ['*', 'as long as no write fails'],
];

export async function modes(): Promise<string> {
  const shapes: Shape[] = [
    words(MARGIN, 24, `${PROGRAM} in the seven modes`, 'head'),
    words(MARGIN, 41, 'on a device with a volatile cache, FUA and ordered tags', 'quiet'),
  ];
  let y = 56;
  for (const [at, mode] of MODE_NAMES.entries()) {
    const x = MARGIN + (at % 2) * (WIDTH - 2 * MARGIN - PANEL.width);
    shapes.push(moved(x, y + Math.floor(at / 2) * PANEL.height, await panelOf(mode)));
  }
  y += 4 * PANEL.height;
  for (const [look, meaning] of LEGEND) {
    const sample =
      look === 'good'
        ? line(MARGIN + 6, y, MARGIN + 6, y + 12, look)
        : rect(MARGIN + 1, y + 2, 11, 9, look);
    shapes.push(sample, words(MARGIN + 17, y + 10, meaning, 'quiet'));
    y += 15;
  }
  shapes.push(
    ...LETTERS.flatMap(([letter, meaning], at) => [
      words(MARGIN + 3, y + 10 + at * 15, letter, 'code'),
      words(MARGIN + 17, y + 10 + at * 15, meaning, 'quiet'),
    ]),
  );
  const described = MODE_NAMES.map((mode) => {
    const steps = formatSteps(transformer(mode)(parseProgram(PROGRAM)));
    return `${mode}: ${steps}, ${guarantees(mode, PROFILE).verdict}`;
  });
  const title = `What the seven modes make of ${PROGRAM}`;
  return picture(
    { width: WIDTH, height: y + 54, title, description: described.join('; ') },
    shapes,
  );
}
