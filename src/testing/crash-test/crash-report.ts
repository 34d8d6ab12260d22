// The text of a report: the commands around the power cut, what was lost, which call it came from, and the barrier that would
// have prevented it.
//
// Every command before the cut is kept or has lost something; flushes and reads have nothing to lose. The cut is as early as
// the failure allows.
//
// The text is for a person, so it has the length of a screen whatever the workload wrote: a long value becomes one short line,
// and a long list its first items and the number of the others. `fullText` is the same text with nothing left out.

import { checkArgument, checkOptions, OBJECT } from '../../model/index.js';
import { withText } from '../../model/show.js';
import type { DiskCommand } from '../device/disk-trace.js';
import { describeProfile } from '../device/profile.js';
import { type Advice, adviceFor } from './advice.js';
import type { Told } from './execute.js';
import { comparison, inWords } from './failure-words.js';
import {
  formatCount,
  formatShare,
  labelOf,
  shortCommand,
  shortList,
  shortText,
} from './in-short.js';
import { isHang } from './judge.js';
import { diskSubject } from './lives.js';
import { isSound, lostCommands, type Scene, sceneOf, shownIn, spanOf } from './scene.js';
import { cutsOf, type FailingOf, momentOf } from './shrink.js';
import type { Disk, Life, Trial } from './trial.js';
import type { CrashFailure, CrashReport, CrashTest, Loss } from './types.js';
import type { HangError } from './watch.js';

/** The failure of a chain in words and as data. `advises`: with the barrier that would have prevented it. */
export async function failureOf<A, R>(
  trial: Trial<A, R>,
  failing: FailingOf<Disk>,
  advises = true,
): Promise<CrashFailure> {
  const { test, seed, steps } = trial;
  const { chain, failed } = failing;
  const { links } = chain;
  // Trying a barrier would take as long as the hang.
  const advice = advises && !isHang(failed) ? await adviceFor(trial, failing) : undefined;
  const cuts = links.map((link, n) => sceneOf(test, link, momentOf(link, n, failed)));
  const lost = links.map((link, n) => lostIn(link, n, cuts[n] as Scene));
  const body = (full: boolean): string[] => [
    ...comparison(failed, full),
    ...cuts.flatMap((scene, n) => [
      ...(n > 0 ? [laterLife(scene.during, n, advice)] : []),
      ...picture(test, scene, full),
      ...lostLines(test, links[n] as Life, lost[n] ?? [], full),
    ]),
    ...(failed.goesOn ? ['  then the recovery and more work, which fails'] : []),
    ...(advice ? [`  ${advice.text}`] : []),
  ];
  const replay = { seed, steps, cuts: cutsOf(diskSubject(trial), failing), goesOn: failed.goesOn };
  const words = inWords(test, replay, failed.cause, 'after this power cut: ', body);
  return { ...words, lost: lost.flat(), cuts, ...(advice && { advice }) };
}

/** The line before a later power cut. */
function laterLife(during: Life['during'], n: number, advice: Advice | undefined): string {
  const what = during === 'life' ? 'then the recovery and more work' : 'then the recovery';
  const missing = advice?.cut === n ? advice.missing : undefined;
  return `  ${what}, cut short as well${missing === undefined ? '' : `, where ${missing} is missing`}:`;
}

/** A workload that hangs, in words. */
export function describeHang(
  test: Pick<CrashTest<never, never>, 'program'>,
  seed: number,
  steps: readonly number[],
  cause: HangError,
): CrashFailure {
  // There is no crash state yet. The workload runs first, whichever state the replay names.
  const cuts = [{ during: 'workload', time: -1, versions: new Map() }] as const;
  return {
    ...inWords(test, { seed, steps, cuts }, cause, '', () => []),
    lost: [],
    cuts: [],
  };
}

const LOST_MAX = 8;

function lostLines(
  test: Pick<CrashTest<never, never>, 'label'>,
  { sites }: Life,
  lost: readonly Loss[],
  full: boolean,
): string[] {
  const [first] = lost;
  const isKnown = first === undefined || lost.some(({ site }) => site !== undefined);
  const why = isKnown ? undefined : sites?.whyUnknown(first.command);
  const most = full ? lost.length : LOST_MAX;
  const more = lost.length - most;
  const lines = lost.slice(0, most).map(({ offset, size, command, site }) => {
    const from = site === undefined ? '' : `, called from ${site}`;
    if (size !== undefined) {
      return `  lost: the size was still ${size} bytes, because #${command} is lost${from}`;
    }
    return `  lost: ${labelOf(test, offset)}, written by #${command}${from}`;
  });
  return [
    ...lines,
    ...(more > 0 ? [`  lost: ${formatCount(more)} more sectors`] : []),
    ...(why === undefined ? [] : [`  no call sites: ${why}`]),
  ];
}

/** What the host told its user, as a report says it. */
export function wordOf({ kind }: Told<unknown>): string {
  return kind === 'begin' ? 'begun' : kind === 'shown' ? 'shown by the recovery' : 'acknowledged';
}

function lostIn({ sites }: Life, cut: number, { regions }: Scene): Loss[] {
  // The size comes first, because what was written behind it is lost with it.
  const ordered = [...regions].sort(
    (a, b) => Number(b.size !== undefined) - Number(a.size !== undefined),
  );
  return ordered.flatMap(({ offset, size, lost }): Loss[] => {
    const command = lost.at(-1);
    if (command === undefined) return [];
    const site = sites?.describe(command);
    const found = { offset, ...(size !== undefined && { size }), command, cut };
    return [{ ...found, ...(site !== undefined && { site }) }];
  });
}

/** The commands around the cut with their outcomes, and the journal between them. */
function picture<A>(
  test: Pick<CrashTest<never, never>, 'label'>,
  scene: Omit<Scene, 'during'>,
  full: boolean,
): string[] {
  const { time } = scene;
  const { commands } = scene.trace;
  const label = (offset: number): string => labelOf(test, offset);
  const lost = lostCommands(scene);
  const { from, end, later } = spanOf(scene);
  const lines = shownIn(scene, full).map((item) => {
    if (item.kind === 'left out') return `  ...   ${formatCount(item.count)} more lines`;
    if (item.kind === 'marks') {
      const words = wordOf(item.marks[0].value as Told<A>);
      const operations = item.marks.map(({ value }) => (value as Told<A>).operation);
      return `        ${words}: ${shortList(operations, full)}`;
    }
    const command = commands[item.number] as DiskCommand;
    const open = command.completed > time ? ', not answered' : '';
    const fate = lost.has(item.number) ? 'LOST ' : isSound(command) ? 'kept ' : 'FAULT';
    return `  ${fate} #${item.number} ${inShort(command, label)}${open}${wrongWith(command)}`;
  });
  const next = commands.slice(end, end + later);
  return [
    ...(from > 0 ? [`  kept  ${from === 1 ? '#0' : `#0 to #${from - 1}`}`] : []),
    ...lines,
    '  ----- the power is cut',
    ...next.map((command, i) => `  later #${end + i} ${inShort(command, label)}`),
  ];
}

/** What went wrong with a command, and whether its answer said so. */
function wrongWith({ failed, fault }: DiskCommand): string {
  return `${failed ? ', failed' : ''}${fault ? `, fault: ${fault.kind}` : ''}`;
}

function inShort(command: DiskCommand, label: (offset: number) => string): string {
  const { op, offset, fua, tag } = command;
  const flags = `${tag === 'ordered' ? ', ordered' : ''}${fua ? ', FUA' : ''}`;
  return `${shortCommand(command, op === 'flush' ? '' : label(offset))}${flags}`;
}

const FORMAT_OPTIONS = { full: 0 };

/**
 * The report as text.
 *
 * @param options `full`: values, lists and messages as long as they are; they may be as long as what the workload wrote.
 *   By default they are cut short
 * @throws `INVALID_ARGUMENT` for unknown options, and for what is no report, such as the promise of one
 */
export function formatCrashReport(
  report: CrashReport,
  options: { readonly full?: boolean } = {},
): string {
  checkOptions(options, FORMAT_OPTIONS, 'formatCrashReport');
  checkReport(report);
  const { failure, orders, warnings, profile, mode } = report;
  const picked = Object.entries(orders).map(([order, count]) => `${formatCount(count)} ${order}`);
  const lines = [
    headline(report),
    ...(picked.length > 1 ? [`recoveries: ${picked.join(', ')}`] : []),
    `device: ${describeProfile(profile)}; by default a scheduler on it takes ${mode}`,
    ...warnings.map((warning) => `warning: ${warning}`),
  ];
  const told = options.full ? failure?.fullText : failure?.text;
  return [...lines, ...(told === undefined ? [] : [told])].join('\n');
}

/** Refuses what is no report with `INVALID_ARGUMENT`, such as the promise of one. */
export function checkReport(report: CrashReport): void {
  checkArgument('the report of an awaited crashTest', report?.profile, OBJECT);
}

/** The verdict in a line: what was tried, or what has found the failure. */
export function headline({
  verdict,
  images,
  covered,
  recoveries,
  seed,
  seeds,
  failure,
}: CrashReport): string {
  const tried = `${formatCount(recoveries)} recoveries cover ${formatShare(covered, images)} images`;
  const found = `found by recovery ${formatCount(recoveries)}, among ${formatCount(images)} images`;
  const isRun = recoveries > 0;
  const what = !failure ? tried : isRun ? found : 'while the workload ran, before any recovery';
  const ran = seeds > 1 ? `seeds ${seed - seeds + 1} to ${seed}` : `seed ${seed}`;
  return `${verdict}: ${what}, ${ran}`;
}

/** Lets a console show a report in a few lines. */
export function inspectable(report: CrashReport): CrashReport {
  return withText(report, () => {
    const { failure, warnings } = report;
    const why = failure
      ? `${shortText(failure.message, false).split('\n')[0]}; replay: '${failure.replay}'`
      : warnings.map((warning) => `warning: ${warning}`).join('; ');
    const line = why === '' ? '' : `\n  ${why}`;
    return `CrashReport ${headline(report)}${line}\n  (formatCrashReport(report) has all of it)`;
  });
}
