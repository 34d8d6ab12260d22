// The counterexample of a crash test of files as a picture, from the same data as its text.
//
// Time goes to the right and is a count of operations. A file or folder that was changed has a lane, with all names that it has had. An
// operation is a bar in the lane of what it changed, up to the next one there or to the power cut: filled if it is there, hollow if
// something of it is lost, pale if the recovery has not looked. An fsync is a span in the lane of what it syncs. Below the lanes
// each operation has its words, because a bar has room for a number only.
//
// A report without a power cut has the picture of its trace, because a build that keeps the picture of each report should not break
// when the code under test is right.

import { line, moved, rect, type Shape, widthOf, words } from '../../trace/svg.js';
import { shortText } from '../crash-test/in-short.js';
import { BAR, Frame, LANE, LATER, MARGIN, ROW } from '../picture/frame.js';
import { formatFilesReport } from './files-report.js';
import type { FilesCut, FilesReport } from './files-test.js';
import { isSync } from './promises.js';
import { Names } from './scene.js';
import type { FileOperation } from './trace.js';

const NEVER = Number.POSITIVE_INFINITY;

/** The width of an operation, in units of the picture. */
const COLUMN = 26;
/** More operations before the cut than a screen has are left out. */
const SHOWN_MAX = 24;
/** So many operations that were to come are shown. */
const LATER_MAX = 2;

/** How a bar looks, and what that means. */
const LOOKS = {
  there: 'is there',
  lost: 'lost',
  open: 'not looked at',
  flush: 'fsync',
  later: 'not called',
} as const;
type Look = keyof typeof LOOKS;

/** An operation that is drawn. */
interface Shown {
  readonly number: number;
  readonly operation: FileOperation;
  readonly text: string;
  readonly look: Look;
  /** The column, from 0. */
  readonly at: number;
}

/**
 * The power cuts of a report as a picture in SVG: the operations on their files, the cut, what is lost, and the fsync that would have
 * helped. Without a power cut it is the picture of the trace.
 *
 * The SVG has no scripts and refers to nothing outside. It is as wide as what it stands in, and follows a dark colour scheme.
 *
 * @throws `INVALID_ARGUMENT` for what is no report, such as the promise of one
 */
export function filesPicture(report: FilesReport): string {
  const text = formatFilesReport(report); // refuses what is no report
  const { failure, verdict, trace } = report;
  const whole = { during: 'workload', trace, time: NEVER, lost: [], kept: [] } as const;
  const cuts = failure && failure.cuts.length > 0 ? failure.cuts : [whole];
  const panels = cuts.map((cut) => ({ cut, items: shownIn(cut) }));
  const columns = Math.max(...panels.map(({ items }) => items.length + 1));
  const frame = new Frame<Look>(columns, COLUMN);
  const said = failure
    ? `${verdict} on ${failure.model}: ${shortText(failure.message, false)}`
    : verdict;
  frame.tell(said, 'head', 2);
  for (const { cut, items } of panels) {
    frame.y += 6;
    const above = LATER[cut.during];
    if (above !== undefined) frame.tell(above, 'head', 2);
    drawPanel(frame, cut, items);
  }
  for (const [n, advice] of (failure?.advice ?? []).entries())
    frame.tell(`${n === 0 ? 'This would prevent it' : 'Or this'}: ${advice}`, 'good', 3);
  frame.explain(LOOKS);
  return frame.drawn(`A crash test of files: ${said}`, text);
}

/** The operations that are drawn: those before the cut that matter, and some that were to come. */
function shownIn({ trace, time, lost, kept }: FilesCut): Shown[] {
  const names = new Names(trace);
  const all = trace.operations.map((operation, number) => {
    const isLater = operation.begin > time;
    const look: Look = isLater
      ? 'later'
      : isSync(operation)
        ? 'flush'
        : lost.includes(number)
          ? 'lost'
          : kept.includes(number)
            ? 'there'
            : 'open';
    return { number, operation, text: names.describe(operation), look };
  });
  const begun = all.filter(({ look }) => look !== 'later');
  // What is lost is never left out before what is plain.
  const plain = begun.filter(({ look }) => look !== 'lost');
  const left = new Set(plain.slice(0, Math.max(0, begun.length - SHOWN_MAX)));
  const later = all.filter(({ look }) => look === 'later').slice(0, LATER_MAX);
  return [...begun.filter((one) => !left.has(one)), ...later].map((one, at) => ({ ...one, at }));
}

/** The lane of an operation: the inode that it changed or synced; all files have one of their own. */
const laneOf = ({ operation }: Shown): number => ('inode' in operation ? operation.inode : 0);

function drawPanel(frame: Frame<Look>, cut: FilesCut, items: readonly Shown[]): void {
  const { shapes, width, used } = frame;
  const lanes = [...new Set(items.map(laneOf))];
  const step = (width - 2 * MARGIN) / (items.length + 1);
  const isCut = cut.time < NEVER;
  // The cut has a column of its own.
  const before = items.filter(({ look }) => look !== 'later').length;
  const x = (at: number): number => MARGIN + step * (isCut && at >= before ? at + 0.8 : at + 0.2);
  const cutAt = MARGIN + step * (before + 0.3);
  const top = frame.y;
  for (const [n, lane] of lanes.entries()) {
    const y = top + n * LANE;
    const own = items.filter((item) => laneOf(item) === lane);
    shapes.push(line(MARGIN, y, width - MARGIN, y, 'rule'));
    const bars = own.map((item, i): Shape => {
      const { at, look, number, text, operation } = item;
      used.add(look);
      const next = own[i + 1];
      const until =
        look === 'later'
          ? x(at) + step * 0.6
          : next && next.look !== 'later'
            ? x(next.at) - 2
            : isCut
              ? cutAt
              : width - MARGIN;
      const end = look === 'flush' ? Math.min(until, x(at) + step - 2) : until;
      const open = operation.end > cut.time && look !== 'later' ? ', not returned' : '';
      const title = `#${number} ${text}: ${LOOKS[look]}${open}`;
      const name = `#${number}`;
      const ink = look === 'there' ? 'on' : 'ink';
      const fits = widthOf(name) + 4 < end - x(at);
      return [
        rect(x(at), 16, end - x(at), BAR, look, title),
        words(fits ? x(at) + 3 : x(at), fits ? 27 : 14, name, fits ? `code ${ink}` : 'code halo'),
      ].join('');
    });
    shapes.push(moved(0, y, bars));
    shapes.push(words(MARGIN, y + 12, namesOf(cut, lane), 'halo', width - 2 * MARGIN));
  }
  frame.y = top + Math.max(1, lanes.length) * LANE + 4;
  if (isCut) {
    shapes.push(line(cutAt, top, cutAt, frame.y, 'cut'));
    const half = widthOf('the power is cut') / 2;
    const middle = Math.min(Math.max(cutAt, MARGIN + half), width - MARGIN - half);
    shapes.push(words(middle, frame.y + 12, 'the power is cut', 'middle halo lost'));
    frame.y += ROW + 4;
  }
  const hidden = cut.trace.operations.filter(({ begin }) => begin <= cut.time).length - before;
  if (hidden > 0) frame.tell(`not shown: ${hidden} operations before`, 'quiet', 1);
  for (const { number, text, operation, look } of items) {
    const site = operation.site === undefined ? '' : `  at ${operation.site}`;
    frame.tell(`#${number} ${text}${site}`, look === 'lost' ? 'lost' : 'quiet', 2);
  }
}

/** All names that an inode has in the cut, the last one last. */
function namesOf({ trace }: FilesCut, inode: number): string {
  if (inode === 0) return 'all files';
  const names = new Names(trace);
  const found = [names.of(inode)];
  for (const operation of trace.operations) {
    names.describe(operation);
    if (found.at(-1) !== names.of(inode)) found.push(names.of(inode));
  }
  // A file that is made in the trace has no name before, and is called the root then.
  const own = inode === 1 ? found : found.filter((name) => name !== '/');
  return own.join(', then ');
}
