// A failure in the terms of the user: the commands around the power cut, what was lost, where it came from, and the
// barrier that would have forbidden it.
//
// Every command but those behind the cut is either kept or has lost something; a flush or a read has nothing to lose. The
// cut is as early as the failure allows. Advice is not a guess: a barrier is put into one gap after the other, and the
// same image is judged again.

import { inWords } from '../../model/error.js';
import type { DiskCommand } from '../device/disk-trace.js';
import { newestUntil, type Version } from '../space/cells.js';
import { type CrashSpace, type CrashState, crashSpace } from '../space/crash-space.js';
import { gapsOf, sameImage, withBarriers } from './barriers.js';
import { type CrashFailure, cutOf, judgeState, type Loss, type Told, type Trial } from './trial.js';

/** What fails in a state; undefined where nothing does. */
export async function failureOf<A, R>(
  trial: Trial<A, R>,
  state: CrashState,
): Promise<CrashFailure | undefined> {
  const failed = await judgeState(trial, state);
  if (!failed) return undefined;
  const failure = describeFailure(trial, state, await cutOf(trial, state), failed.cause);
  const told = await advice(trial, state, failure.lost);
  const [replay, ...rest] = failure.text.split('\n').reverse();
  return { ...failure, text: [...rest.reverse(), told, replay].join('\n') };
}

/** The failure without advice. */
export function describeFailure<A, R>(
  trial: Trial<A, R>,
  state: CrashState,
  cut: number,
  cause: unknown,
): CrashFailure {
  const { test, space, seed, steps, siteOf } = trial;
  const lost = lossesOf(space, state, cut).map(({ offset, command }): Loss => {
    const site = siteOf(command);
    return { offset, command, ...(site !== undefined && { site }) };
  });
  const all = test.program ?? [];
  const part = steps.length < all.length ? ` steps ${steps.join()}` : '';
  const replay = `seed ${seed}${part} image ${space.indexOf(state)}`;
  const program = steps.map((step) => all[step]);
  const message = inWords(cause);
  const text = [
    `after this power cut: ${message}`,
    ...(program.length > 0 ? [`  the program: ${program.map(shown).join('; ')}`] : []),
    ...picture(trial, state, cut),
    ...lost.map(({ offset, command, site }) => {
      const from = site === undefined ? '' : `, called from ${site}`;
      return `  lost: ${labelled(trial, offset)}, written by #${command}${from}`;
    }),
    `  replay: '${replay}'`,
  ].join('\n');
  return { message, cause, replay, lost, program, text };
}

/** The cells whose newest content before the cut is gone. */
export function lossesOf(
  { map }: CrashSpace,
  state: CrashState,
  cut: number,
): { readonly place: number; readonly offset: number; readonly command: number }[] {
  return map.cells.flatMap((cell, place) => {
    const newest = newestUntil(cell, cut, true);
    if (state.versions[place] === newest) return [];
    const { command } = cell.versions[newest] as Version;
    return [{ place, offset: cell.offset, command }];
  });
}

function labelled<A, R>({ test }: Pick<Trial<A, R>, 'test'>, offset: number): string {
  return test.label?.(offset) ?? `offset ${offset}`;
}

/** How many commands before the cut are shown at least. */
const SHOWN = 6;

/** The commands around the cut, each with what became of it, and what the journal said in between. */
export function picture<A, R>(
  { test, space, trace: { commands, marks } }: Pick<Trial<A, R>, 'test' | 'space' | 'trace'>,
  state: CrashState,
  cut: number,
): string[] {
  const label = (offset: number): string => labelled({ test }, offset);
  const isLost = new Set(lossesOf(space, state, cut).map(({ command }) => command));
  const next = commands.findIndex(({ dispatched }) => dispatched > cut);
  const end = next < 0 ? commands.length : next;
  const from = Math.max(0, Math.min(end, ...isLost, end - SHOWN));
  const since = commands[from]?.dispatched ?? 0;
  const told = marks
    .filter(({ time }) => time > since && time <= cut)
    .map(({ time, value }) => {
      const { kind, operation } = value as Told<A>;
      const said = kind === 'begin' ? 'begun' : 'acknowledged';
      return { time, line: `        ${said}: ${shown(operation)}` };
    });
  const asked = commands.slice(from, end).map((command, i) => {
    const open = command.completed > cut ? ', not answered' : '';
    const fate = isLost.has(from + i) ? 'LOST ' : 'kept ';
    return {
      time: command.dispatched,
      line: `  ${fate} #${from + i} ${inShort(command, label)}${open}`,
    };
  });
  const later = commands
    .slice(end, end + 2)
    .map((command, i) => `  later #${end + i} ${inShort(command, label)}`);
  return [
    ...(from > 0 ? [`  kept  #0 to #${from - 1}`] : []),
    ...[...told, ...asked].sort((a, b) => a.time - b.time).map(({ line }) => line),
    '  ----- the power is cut',
    ...later,
  ];
}

function shown(operation: unknown): string {
  return typeof operation === 'object' ? JSON.stringify(operation) : String(operation);
}

function inShort(
  { op, offset, length, fua, tag }: DiskCommand,
  label: (offset: number) => string,
): string {
  const flags = `${tag === 'ordered' ? ', ordered' : ''}${fua ? ', FUA' : ''}`;
  return op === 'flush' ? `flush${flags}` : `${op} of ${length} bytes at ${label(offset)}${flags}`;
}

/** The barrier that would have forbidden it, found by trying: the last one that does forbids no more than it must. */
async function advice<A, R>(
  trial: Trial<A, R>,
  state: CrashState,
  lost: readonly Loss[],
): Promise<string> {
  const { test, space, trace, siteOf } = trial;
  if (lost.length === 0) {
    return '  nothing was lost: the recovery fails on what was written in order';
  }
  const first = Math.min(...lost.map(({ command }) => command));
  for (const gap of gapsOf(trace).reverse()) {
    if (gap.behind < first) break;
    const mended = crashSpace(withBarriers(trace, [gap], []), test.profile);
    const same = sameImage(space, state, mended);
    if (same && (await judgeState({ ...trial, space: mended }, same))) continue;
    const { behind, before } = gap;
    if (before === undefined) {
      return `  a flush behind #${behind} would have kept it: wait for it before you acknowledge`;
    }
    const site = siteOf(before);
    const from = site === undefined ? '' : `, which was called from ${site},`;
    return `  a barrier between #${behind} and #${before}${from} would have forbidden it`;
  }
  const torn = lost.find(({ command }) => isThere(space, state, command));
  return torn
    ? `  #${torn.command} is torn: no barrier keeps one write whole, a checksum or a second copy would tell`
    : '  no barrier would have forbidden it';
}

/** Whether some of what a command wrote is there. */
function isThere({ map }: CrashSpace, { versions }: CrashState, command: number): boolean {
  return map.cells.some(
    (cell, place) => cell.versions[versions[place] as number]?.command === command,
  );
}
