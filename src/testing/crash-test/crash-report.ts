// The text of a report: the commands around the power cut, what was lost, which call it came from, and the barrier that would
// have prevented it.
//
// Every command before the cut is kept or has lost something; flushes and reads have nothing to lose. The cut is as early as
// the failure allows. Advice is tried and not guessed: a barrier is put into one gap after the other, and the same crash
// state is judged again.
//
// The text is for a person, so it has the length of a screen whatever the workload wrote: a long value becomes one short line,
// and a long list its first items and the number of the others. `fullText` is the same text with nothing left out.

import { messageOf } from '../../model/error.js';
import { checkArgument, checkOptions, OBJECT } from '../../model/index.js';
import { withText } from '../../model/show.js';
import type { DiskCommand } from '../device/disk-trace.js';
import { describeProfile } from '../device/profile.js';
import { type CrashSpace, crashSpace } from '../space/crash-space.js';
import type { CrashState } from '../space/crash-state.js';
import { gapsOf, missingSince, sameState, withBarriers } from './barriers.js';
import type { Told } from './execute.js';
import {
  formatCount,
  formatShare,
  labelOf,
  shortCommand,
  shortList,
  shortText,
  shown,
} from './in-short.js';
import { isSound, lossesOf, lostCommands, type Scene, sceneOf, shownIn, spanOf } from './scene.js';
import {
  type CrashFailure,
  type CrashReport,
  type CrashTest,
  type Failed,
  isHang,
  judgeState,
  type Loss,
  type Trial,
} from './trial.js';
import type { HangError } from './watch.js';

/** The failure of a crash state in words; undefined if the state passes. */
export async function failureOf<A, R>(
  trial: Trial<A, R>,
  state: CrashState,
  advises = true,
): Promise<CrashFailure | undefined> {
  const failed = await judgeState(trial, state);
  if (!failed) return undefined;
  const lost = lostIn(trial, state, failed);
  // Trying a barrier would take as long as the hang.
  const isAdvised = advises && !isHang(failed);
  const told = isAdvised ? await adviceFor(trial, state, failed, lost) : undefined;
  return describeFailure(trial, state, failed, [], told);
}

/** A power cut during recovery: the number of its crash state, and what it has left. */
export interface Cut {
  readonly number: bigint;
  readonly scene: Scene;
}

/** The barrier that would have prevented a failure, or why none would have. */
export type Advice = NonNullable<CrashFailure['advice']>;

/** The failure in words and as data; the last of the words are the `advice`. */
export function describeFailure<A, R>(
  trial: Trial<A, R>,
  state: CrashState,
  failed: Failed,
  later: readonly Cut[],
  advice?: Advice,
): CrashFailure {
  const { test, space, seed, steps } = trial;
  const lost = lostIn(trial, state, failed);
  const scene = sceneOf(trial, state, failed.cut);
  const then = later.map(({ number }) => ` then ${number}`).join('');
  const image = `${space.indexOf(state)}${then}`;
  const body = (full: boolean): string[] => [
    ...comparison(failed, full),
    ...picture(test, scene, full),
    ...lostLines(trial, lost, full),
    ...later.flatMap(({ scene }) => [
      '  then the power is cut again, during the recovery:',
      ...picture(test, scene, full),
    ]),
    ...(advice ? [`  ${advice.text}`] : []),
  ];
  const cuts = [scene, ...later.map(({ scene }) => scene)];
  const told = { lost, cuts, ...(advice && { advice }) };
  return {
    ...inWords(test, seed, steps, failed.cause, image, 'after this power cut: ', body),
    ...told,
  };
}

/** A workload that hangs, in words. */
export function describeHang(
  test: Pick<CrashTest<never, never>, 'program'>,
  seed: number,
  steps: readonly number[],
  cause: HangError,
): CrashFailure {
  // There is no crash state yet. The workload runs first, whichever state the replay names.
  return { ...inWords(test, seed, steps, cause, '0', '', () => []), lost: [], cuts: [] };
}

type InWords = 'message' | 'cause' | 'replay' | 'program' | 'text' | 'fullText';

/** What every failure has: its message after `head`, the program, the lines of `body`, and the replay. */
function inWords(
  test: { readonly program?: readonly unknown[] },
  seed: number,
  steps: readonly number[],
  cause: unknown,
  image: string,
  head: string,
  body: (full: boolean) => readonly string[],
): Pick<CrashFailure, InWords> {
  const all = test.program ?? [];
  const program = steps.map((step) => all[step]);
  const some = steps.length < all.length ? ` steps ${steps.join()}` : '';
  const replay = `seed ${seed}${some} image ${image}`;
  const message = messageOf(cause);
  const write = (full: boolean): string =>
    [
      // The words of a hang are ours.
      head + shortText(message, full || head === ''),
      ...(program.length > 0 ? [`  the program: ${shortProgram(program, full)}`] : []),
      ...body(full),
      `  replay: '${replay}'`,
    ].join('\n');
  return { message, cause, replay, program, text: write(false), fullText: write(true) };
}

function shortProgram(program: readonly unknown[], full: boolean): string {
  const most = full ? program.length : STEPS_MAX;
  const more = program.length - most;
  const first = program.slice(0, most).map((step) => shown(step, full));
  return `${first.join('; ')}${more > 0 ? `; and ${formatCount(more)} more steps` : ''}`;
}

const STEPS_MAX = 20;

/** What was recovered, what had been acknowledged, and what of that is missing if the two can be compared. */
function comparison({ recovered, expected }: Failed, full: boolean): string[] {
  if (!recovered || !expected) return [];
  const { acknowledged, begun } = expected;
  const lines = [`  recovered: ${shown(recovered.value, full)}`];
  if (acknowledged.length > 0) {
    lines.push(`  acknowledged by then: ${shortList(acknowledged, full)}`);
  }
  const found = itemsOf(recovered.value);
  const named = (item: unknown): string => shown(item, true);
  const known = new Set(begun.concat(acknowledged).map(named));
  // Items that are not operations cannot be compared with the journal.
  if (!found?.every((item) => known.has(named(item)))) return lines;
  const there = new Set(found.map(named));
  const missing = acknowledged.filter((operation) => !there.has(named(operation)));
  if (missing.length > 0) lines.push(`  missing: ${shortList(missing, full)}`);
  return lines;
}

/** Longer lists are not compared. */
const COMPARED_MAX = 100_000;

/** The items of a list or a set, the keys of a map or an object; undefined for other values. */
function itemsOf(value: unknown): readonly unknown[] | undefined {
  if (typeof value !== 'object' || value === null || ArrayBuffer.isView(value)) return undefined;
  const items = value instanceof Map || value instanceof Set ? [...value.keys()] : value;
  const list = Array.isArray(items) ? items : Object.keys(items);
  return list.length <= COMPARED_MAX ? list : undefined;
}

const LOST_MAX = 8;

function lostLines<A, R>(trial: Trial<A, R>, lost: readonly Loss[], full: boolean): string[] {
  const [first] = lost;
  const isKnown = first === undefined || lost.some(({ site }) => site !== undefined);
  const why = isKnown ? undefined : trial.whyNoSite(first.command);
  const most = full ? lost.length : LOST_MAX;
  const more = lost.length - most;
  const lines = lost.slice(0, most).map(({ offset, command, site }) => {
    const from = site === undefined ? '' : `, called from ${site}`;
    return `  lost: ${labelOf(trial.test, offset)}, written by #${command}${from}`;
  });
  return [
    ...lines,
    ...(more > 0 ? [`  lost: ${formatCount(more)} more sectors`] : []),
    ...(why === undefined ? [] : [`  no call sites: ${why}`]),
  ];
}

/** What the host told its user, as a report says it. */
export function wordOf({ kind }: Told<unknown>): string {
  return kind === 'begin' ? 'begun' : 'acknowledged';
}

function lostIn<A, R>({ space, siteOf }: Trial<A, R>, state: CrashState, { cut }: Failed): Loss[] {
  return lossesOf(space, state, cut).map(({ offset, command }): Loss => {
    const site = siteOf(command);
    return { offset, command, ...(site !== undefined && { site }) };
  });
}

/** The commands around the cut with their outcomes, and the journal between them. */
function picture<A, R>(test: Trial<A, R>['test'], scene: Scene, full: boolean): string[] {
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

const NEVER = Number.POSITIVE_INFINITY;

/** The maximum number of gaps that are tried, from the cut backwards. */
const GAPS_MAX = 100;

/** The barrier that would have prevented the failure: the last one that does, because it orders no more than it must. */
async function adviceFor<A, R>(
  trial: Trial<A, R>,
  state: CrashState,
  { cut }: Failed,
  lost: readonly Loss[],
): Promise<Advice> {
  const { test, space, trace, siteOf } = trial;
  if (lost.length === 0) {
    return trace.commands.every(isSound)
      ? { text: 'nothing was lost: the recovery fails although everything was written in order' }
      : { text: 'nothing was lost: the recovery fails because of the fault' };
  }
  if (!space.profile.flush) {
    return { text: 'no barrier would have prevented it: the disk has no flush' };
  }
  const since = missingSince(space, state);
  const gaps = gapsOf(trace).filter(({ time }) => time > since && time <= cut);
  for (const gap of gaps.reverse().slice(0, GAPS_MAX)) {
    const repaired = crashSpace(withBarriers(trace, [gap], []), test.profile);
    const same = sameState(space, state, repaired);
    if (same && (await judgeState({ ...trial, space: repaired }, same))) continue;
    const { before: moment, time } = gap;
    // Reads leave nothing, so the place is named by the writes and flushes around it.
    const matters = ({ op }: DiskCommand): boolean => op !== 'read';
    const after = trace.commands.reduce(
      (last, one, n) => (n <= gap.behind && matters(one) ? n : last),
      gap.behind,
    );
    const next = trace.commands.findIndex((one, n) => n >= (moment ?? NEVER) && matters(one));
    const site = next < 0 ? undefined : siteOf(next);
    const from = site === undefined ? '' : `, which was called from ${site},`;
    const text =
      next < 0
        ? `a flush after #${after} would have kept it: wait for the flush before you acknowledge`
        : `a barrier between #${after} and #${next}${from} would have prevented it`;
    return { text, before: time };
  }
  const torn = lost.find(({ command }) => isThere(space, state, command));
  if (torn) {
    const text = `#${torn.command} is torn: no barrier keeps a write whole; a checksum or a second copy would detect it`;
    return { text };
  }
  const untried = gaps.length - GAPS_MAX;
  const text =
    untried > 0
      ? `no barrier in the last ${GAPS_MAX} places before the cut would have prevented it; ${untried} earlier places were not tried`
      : 'no single barrier would have prevented it';
  return { text };
}

/** Whether some of the data of a command is there. */
function isThere({ map }: CrashSpace, { versions }: CrashState, command: number): boolean {
  return map.cells.some(
    (cell, place) => cell.versions[versions[place] as number]?.command === command,
  );
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
  checkArgument('the report of an awaited crashTest', report?.profile, OBJECT);
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
