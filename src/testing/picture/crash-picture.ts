// The counterexample of a report as a picture, from the same data as its text.
//
// Time goes to the right and is a count of events, as in the trace. A region has a lane, and regions next to each other that
// share their fate share a lane. A write is a bar in the lanes of its regions, from its dispatch to the moment from which it must
// be there, whenever the power is cut. So a bar that reaches the power cut is one that may be lost. What is lost is hollow,
// what is on the medium is filled. Flushes are spans over all lanes; acknowledgements are flags above them.
//
// A report without a power cut (`proved`, `passed`, and a workload that hangs) has the picture of its trace: how long each write
// might have been lost. It is not refused, because a build that keeps the picture of each report should not break when the code
// under test is right.
//
// Reads are left out, because they leave nothing.

import { line, moved, rect, type Shape, widthOf, words, wrapped } from '../../trace/svg.js';
import { checkReport, headline, wordOf } from '../crash-test/crash-report.js';
import type { Told } from '../crash-test/execute.js';
import { formatCount, shortCommand, shortList, shortText } from '../crash-test/in-short.js';
import {
  isSound,
  isWrite,
  type Region,
  type Scene,
  type Shown,
  SIZE_LABEL,
  shownIn,
  spanOf,
  startOf,
} from '../crash-test/scene.js';
import type { CrashReport } from '../crash-test/types.js';
import type { DiskCommand } from '../device/disk-trace.js';
import { type Interval, intervalsOf } from '../space/intervals.js';
import { BAR, Frame, LANE, LATER, MARGIN, ROW } from './frame.js';

const NEVER = Number.POSITIVE_INFINITY;

/** The width of a moment, in units of the picture. */
const COLUMN_MIN = 18;
/** More lanes than a screen has are not drawn, but counted. */
const LANES_MAX = 24;
/** Names of operations may be long, and are what a reader looks for. */
const LINES_MAX = 6;

/**
 * The power cut of a report as a picture in SVG: what was written, what is lost of it, and the barrier that would have helped.
 * Without a power cut it is the picture of the trace.
 *
 * The SVG has no scripts and refers to nothing outside. It is as wide as what it stands in, and follows a dark colour scheme.
 *
 * @throws `INVALID_ARGUMENT` for what is no report, such as the promise of one
 */
export function crashPicture(report: CrashReport): string {
  checkReport(report);
  const { failure, verdict, profile } = report;
  const { advice } = failure ?? {};
  const cuts = failure?.cuts ?? [];
  const runs = (cuts.length > 0 ? cuts : [wholeRun(report)]).map((scene, at) => {
    const intervals = intervalsOf(scene.trace.commands, profile);
    return timed(scene, intervals, at === (advice?.cut ?? 0) ? advice?.before : undefined);
  });
  const columns = Math.max(...runs.map(({ moments }) => moments.length + 1));
  const frame = new Frame<Look>(columns, COLUMN_MIN);
  const said = failure ? `${verdict}: ${shortText(failure.message, false)}` : verdict;
  frame.tell(said, 'head', 2);
  for (const run of runs) {
    frame.y += 6;
    const later = LATER[run.scene.during];
    if (later) frame.tell(later, 'head', 1);
    const panel = panelOf(run, frame.width, frame.used);
    frame.shapes.push(moved(0, frame.y, panel.shapes));
    frame.y += panel.height;
    for (const note of panel.notes) frame.tell(note, 'quiet', 2);
  }
  if (advice) frame.tell(advice.text, advice.before === undefined ? '' : 'good', 3);
  frame.explain(LOOKS, sampleOf);
  return frame.drawn(`A crash test: ${said}`, failure?.text ?? headline(report));
}

/** The scene of a report without a power cut: the whole trace, in sectors. */
function wholeRun({ trace, profile, labels }: CrashReport): Scene {
  const { sectorSize: length } = profile;
  const run = { during: 'workload', trace, time: NEVER, regions: [] } as const;
  const offsets = new Set<number>();
  let isResized = false;
  for (const item of shownIn(run, false)) {
    const command = item.kind === 'command' ? trace.commands[item.number] : undefined;
    if (!command || !isWrite(command)) continue;
    if (command.size !== undefined) {
      isResized = true;
      continue;
    }
    const start = startOf(command);
    for (let at = start; at < start + command.length; at += length) offsets.add(at);
  }
  const regions = [...offsets]
    .sort((a, b) => a - b)
    .map((offset): Region => {
      const label = labels?.[offset] ?? `offset ${offset}`;
      return { offset, length, label, there: -1, lost: [] };
    });
  const end = { offset: trace.size, length: 0, label: SIZE_LABEL, there: -1, lost: [] };
  return { ...run, regions: isResized ? [...regions, { ...end, size: trace.size }] : regions };
}

// Time

/** A scene with the moments at which something changes, ascending: each has a column. */
interface Run {
  readonly scene: Scene;
  readonly intervals: readonly (Interval | undefined)[];
  readonly items: readonly Shown[];
  /** The commands that were not sent. */
  readonly later: readonly number[];
  readonly moments: readonly number[];
  readonly cut: number;
  readonly barrier: number | undefined;
  /** The commands before the first one that is shown. */
  readonly hidden: number;
}

/** Moments of a trace are whole numbers, so there is room for what comes between two of them. */
const BETWEEN = 0.5;

function timed(
  scene: Scene,
  intervals: readonly (Interval | undefined)[],
  missing: number | undefined,
): Run {
  const { trace, time } = scene;
  const items = shownIn(scene, false);
  const { from, end, later } = spanOf(scene);
  const cut = time + BETWEEN;
  const barrier = missing === undefined ? undefined : missing - BETWEEN;
  const changes = items.flatMap((item): number[] => {
    if (item.kind === 'left out') return [];
    if (item.kind === 'marks') return [item.time];
    const { dispatched, completed } = trace.commands[item.number] as DiskCommand;
    return [dispatched, completed, intervals[item.number]?.durable ?? NEVER];
  });
  const before = new Set([...changes, barrier ?? NEVER].filter((moment) => moment < cut));
  const next = [...Array(later).keys()].map((i) => end + i);
  const sent = next.map((number) => (trace.commands[number] as DiskCommand).dispatched);
  const all = [...before, ...(cut < NEVER ? [cut] : []), ...sent].sort((a, b) => a - b);
  return { scene, intervals, items, later: next, moments: all, cut, barrier, hidden: from };
}

/** Where a moment is in a picture of that width; what never comes is at its end. */
function clockOf({ moments, cut }: Run, width: number): (moment: number) => number {
  const step = (width - 2 * MARGIN) / (moments.length + 1);
  return (moment) => {
    const at = moment === NEVER ? cut : moment;
    const passed = moments.filter((one) => one < at).length;
    return MARGIN + step * (at === NEVER ? moments.length + 1 : passed + BETWEEN / 2);
  };
}

// Lanes

/** How a bar looks, and what that means. */
const LOOKS = {
  there: 'on the medium',
  lost: 'lost',
  old: 'overwritten',
  open: 'may be lost until its end',
  fault: 'fault',
  later: 'not sent',
  flush: 'flush',
  answer: 'answered',
  sure: 'must be there from here on',
  tag: 'ordered tag',
  fua: 'FUA',
} as const;
type Look = keyof typeof LOOKS;
/** Those that are lines, and those that are letters. */
const LINES: ReadonlySet<string> = new Set(['answer', 'sure']);
const LETTERS: Readonly<Record<string, string>> = { tag: '^', fua: '!' };

interface Bar {
  readonly number: number;
  readonly look: Look;
}

interface Lane {
  readonly label: string;
  /** How many regions it stands for, and where the last one ends. */
  readonly regions: number;
  readonly end: number;
  readonly bars: readonly Bar[];
}

/** A lane for each region, or for neighbours with the same bars. */
function lanesOf({ scene, items, later }: Run): Lane[] {
  const { commands } = scene.trace;
  const shown = items.flatMap((item) => (item.kind === 'command' ? [item.number] : []));
  const writes = [...shown, ...later].filter((number) => isWrite(commands[number] as DiskCommand));
  const lanes: Lane[] = [];
  for (const region of scene.regions) {
    const { label, offset, size } = region;
    const end = offset + region.length;
    const bars = writes.flatMap((number): Bar[] => {
      const command = commands[number] as DiskCommand;
      const start = startOf(command);
      const isHere =
        size === undefined
          ? start < end && offset < start + command.length
          : command.size !== undefined;
      return isHere ? [{ number, look: lookOf(number, region, scene) }] : [];
    });
    const last = lanes.at(-1);
    if (
      size === undefined &&
      last?.end === offset &&
      JSON.stringify(last.bars) === JSON.stringify(bars)
    ) {
      lanes[lanes.length - 1] = { ...last, regions: last.regions + 1, end };
    } else if (bars.length > 0) lanes.push({ label, regions: 1, end, bars });
  }
  return lanes;
}

function lookOf(number: number, { there, lost }: Region, { trace, time }: Scene): Look {
  const command = trace.commands[number] as DiskCommand;
  if (command.dispatched > time) return 'later';
  if (lost.includes(number)) return 'lost';
  if (!isSound(command)) return 'fault';
  if (time === NEVER) return 'open';
  return there === number ? 'there' : 'old';
}

/** The lanes that fit: those where something is lost or wrong first. */
function fitting(lanes: readonly Lane[]): readonly Lane[] {
  if (lanes.length <= LANES_MAX) return lanes;
  const matters = ({ bars }: Lane): boolean =>
    bars.some(({ look }) => look === 'lost' || look === 'fault');
  const first = [...lanes.filter(matters), ...lanes.filter((lane) => !matters(lane))];
  const kept = new Set(first.slice(0, LANES_MAX));
  return lanes.filter((lane) => kept.has(lane));
}

// The picture of one run

interface Panel {
  readonly shapes: readonly Shape[];
  readonly height: number;
  readonly notes: readonly string[];
}

/** Adds to `used` what the legend must explain. */
function panelOf(run: Run, width: number, used: Set<Look>): Panel {
  const { scene, cut, barrier, items, hidden } = run;
  const clock = clockOf(run, width);
  const all = lanesOf(run);
  const lanes = fitting(all);
  const flags = placed(flagsOf(run, clock), width);
  for (const { span } of flags) if (span) used.add(span);
  const rows = flags.reduce((most, { row, lines }) => Math.max(most, row + lines.length), 0);
  const top = rows * ROW + 4;
  const bottom = top + Math.max(1, lanes.length) * LANE;
  const drawn = lanes.map((lane, at) => {
    return moved(0, top + at * LANE, laneShapes(lane, run, clock, used));
  });
  const poles = flags.map(({ x, until, span, text, row }) => {
    const from = row * ROW + 3;
    if (!span) return line(x, from, x, bottom, 'quiet');
    return rect(x, from, until - x, bottom - from, span, text);
  });
  const shapes: Shape[] = [
    ...lanes.map((_, at) => line(MARGIN, top + at * LANE, width - MARGIN, top + at * LANE, 'rule')),
    ...poles,
    ...drawn,
  ];
  let height = bottom + 4;
  const below: Shape[] = [];
  if (barrier !== undefined) {
    const { marks } = scene.trace;
    const isFlush = marks.some(({ time }) => time === barrier + BETWEEN);
    const text = `a ${isFlush ? 'flush' : 'barrier'} is missing here`;
    shapes.push(line(clock(barrier), 0, clock(barrier), height, 'good'));
    below.push(centred(clock(barrier), height + 11, text, 'good', clock(cut) - 6));
    height += ROW;
  }
  if (cut < NEVER) {
    shapes.push(line(clock(cut), 0, clock(cut), height, 'cut'));
    below.push(centred(clock(cut), height + 12, 'the power is cut', 'lost', width - MARGIN));
    height += ROW;
  }
  const most = width - 2 * MARGIN;
  // Words come last, so that lines pass behind them.
  shapes.push(
    ...lanes.map(({ label, regions }, at) => {
      const named = regions > 1 ? `${label} and ${regions - 1} more` : label;
      return words(MARGIN, top + at * LANE + 12, named, 'halo', most);
    }),
    ...below,
    ...flags.flatMap(({ lines, row, start, look }) =>
      lines.map((text, at) => words(start, (row + at) * ROW + 11, text, look, most)),
    ),
  );
  const left = items.reduce((sum, item) => sum + (item.kind === 'left out' ? item.count : 0), 0);
  const notes = [
    ...(hidden > 0 ? [`not shown: ${hidden === 1 ? '#0' : `#0 to #${hidden - 1}`}, kept`] : []),
    ...(left > 0 ? [`not shown: ${formatCount(left)} more commands and acknowledgements`] : []),
    ...(lanes.length < all.length ? [moreLanes(all, lanes)] : []),
  ];
  return { shapes, height: height + 6, notes };
}

function moreLanes(all: readonly Lane[], shown: readonly Lane[]): string {
  const isLost = ({ bars }: Lane): boolean => bars.some(({ look }) => look === 'lost');
  const lost = all.filter(isLost).length - shown.filter(isLost).length;
  return `not shown: ${formatCount(all.length - shown.length)} more regions, with losses in ${formatCount(lost)} of them`;
}

/** Words below their line, as far in the middle as the edges allow. */
function centred(x: number, y: number, text: string, look: string, end: number): Shape {
  const half = widthOf(text) / 2;
  const at = Math.max(Math.min(x, end - half), MARGIN + half);
  return words(at, y, text, `middle halo ${look}`);
}

function laneShapes(
  { label, bars }: Lane,
  { scene, intervals, cut }: Run,
  clock: (moment: number) => number,
  used: Set<Look>,
): Shape[] {
  const { commands } = scene.trace;
  const shapes: Shape[] = [];
  for (const { number, look } of bars) {
    const command = commands[number] as DiskCommand;
    used.add(look);
    if (command.tag === 'ordered') used.add('tag');
    if (command.fua) used.add('fua');
    const durable = intervals[number]?.durable ?? NEVER;
    const x = clock(command.dispatched);
    const isLater = look === 'later';
    const end = isLater ? x + COLUMN_MIN / 2 : clock(Math.min(durable, cut));
    const open = command.completed > cut && !isLater ? ', not answered' : '';
    const kind = command.fault ? ` (${command.fault.kind})` : '';
    const title = `#${number} ${shortCommand(command, label)}: ${LOOKS[look]}${kind}${open}`;
    shapes.push(rect(x, 16, end - x, BAR, look, title));
    const on = look === 'there' ? 'on' : 'ink';
    // The answer may come long before the data must be there; the distance is what a volatile cache may lose.
    if (command.completed < Math.min(durable, cut)) {
      shapes.push(line(clock(command.completed), 16, clock(command.completed), 16 + BAR, on));
      used.add('answer');
    }
    if (durable < cut) {
      shapes.push(line(end, 14, end, 18 + BAR, 'sure'));
      used.add('sure');
    }
    const name = `${command.tag === 'ordered' ? '^' : ''}#${number}${command.fua ? '!' : ''}`;
    const fits = widthOf(name) + 6 < end - x;
    shapes.push(
      fits
        ? words(x + 3, 27, name, `code ${on}`)
        : words(end + 4, 27, name, isLater ? 'code quiet' : 'code halo'),
    );
  }
  return shapes;
}

// Flags

interface Flag {
  readonly text: string;
  readonly x: number;
  /** Where a span ends. */
  readonly until: number;
  /** How a span looks; absent for a moment. */
  readonly span?: Look;
}

/** Acknowledgements, and flushes. */
function flagsOf(run: Run, clock: (moment: number) => number): Flag[] {
  const { scene, items, later, cut } = run;
  const { commands } = scene.trace;
  const flush = (number: number): Flag[] => {
    const { op, dispatched, completed, tag } = commands[number] as DiskCommand;
    if (op !== 'flush') return [];
    const x = clock(dispatched);
    const isLater = dispatched > cut;
    const until = isLater ? x + COLUMN_MIN / 2 : clock(Math.min(completed, cut));
    const text = `${tag === 'ordered' ? '^' : ''}#${number} flush`;
    return [{ x, until, text, span: isLater ? 'later' : 'flush' }];
  };
  const told = items.flatMap((item): Flag[] => {
    if (item.kind === 'command') return flush(item.number);
    if (item.kind === 'left out') return [];
    const operations = item.marks.map(({ value }) => (value as Told<unknown>).operation);
    const [{ value }] = item.marks;
    const text = `${wordOf(value as Told<unknown>)}: ${shortList(operations, false)}`;
    const x = clock(item.time);
    return [{ x, until: x, text }];
  });
  return [...told, ...later.flatMap(flush)];
}

interface Placed extends Flag {
  /** Its words, in as many rows as they need. */
  readonly lines: readonly string[];
  /** From the top. */
  readonly row: number;
  /** Where its words begin. */
  readonly start: number;
  readonly look: string;
}

/** Puts each flag below those whose words it would touch. */
function placed(flags: readonly Flag[], width: number): Placed[] {
  const ends: number[] = [];
  return flags.map((flag) => {
    const look = flag.span === 'flush' ? 'halo flush' : flag.span ? 'halo quiet' : 'halo';
    const lines = wrapped(flag.text, width - 2 * MARGIN, LINES_MAX);
    const long = Math.min(Math.max(...lines.map(widthOf)), width - 2 * MARGIN);
    const start = Math.max(MARGIN, Math.min(flag.x + 3, width - MARGIN - long));
    let row = ends.length;
    while (row > 0 && (ends[row - 1] as number) < start) row -= 1;
    for (const at of lines.keys()) ends[row + at] = start + long + 6;
    return { ...flag, lines, row, start, look };
  });
}

/** In the legend, of a look that is a line or a letter. */
function sampleOf(look: Look, x: number, y: number): Shape | undefined {
  if (LINES.has(look)) return line(x + 7, y + 2, x + 7, y + 13, look);
  const letter = LETTERS[look];
  return letter && words(x + 4, y + 11, letter, 'code');
}
