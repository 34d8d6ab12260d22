// A failure in the terms of the user: the commands around the power cut, what was lost, where it came from, and the
// barrier that would have forbidden it.
//
// Every command but those behind the cut is either kept or has lost something; a flush or a read has nothing to lose. The
// cut is as early as the failure allows. Advice is not a guess: a barrier is put into one gap after the other, and the
// same image is judged again.

import { inWords } from '../../model/error.js';
import type { DiskCommand } from '../device/disk-trace.js';
import { newestUntil } from '../space/cells.js';
import { type CrashSpace, type CrashState, crashSpace } from '../space/crash-space.js';
import type { Version } from '../space/versions.js';
import { gapsOf, sameState, withBarriers } from './barriers.js';
import {
  type CrashFailure,
  type Failed,
  judgeState,
  type Loss,
  type Told,
  type Trial,
} from './trial.js';

/** What fails in a state, made as small as it can be; undefined where nothing does. */
export async function failureOf<A, R>(
  trial: Trial<A, R>,
  state: CrashState,
): Promise<CrashFailure | undefined> {
  const failed = await judgeState(trial, state);
  if (!failed) return undefined;
  const failure = describeFailure(trial, state, failed, []);
  const told = await advice(trial, state, failed, failure.lost);
  const [replay, ...rest] = failure.text.split('\n').reverse();
  return { ...failure, text: [...rest.reverse(), told, replay].join('\n') };
}

/** A power cut during recovery: the number of its image, and its picture. */
export interface Cut {
  readonly number: bigint;
  readonly lines: readonly string[];
}

/** The failure without advice. */
export function describeFailure<A, R>(
  trial: Trial<A, R>,
  state: CrashState,
  { cause, cut }: Failed,
  later: readonly Cut[],
): CrashFailure {
  const { test, space, seed, steps, siteOf } = trial;
  const lost = lossesOf(space, state, cut).map(({ offset, command }): Loss => {
    const site = siteOf(command);
    return { offset, command, ...(site !== undefined && { site }) };
  });
  const all = test.program ?? [];
  const part = steps.length < all.length ? ` steps ${steps.join()}` : '';
  const then = later.map(({ number }) => ` then ${number}`).join('');
  const replay = `seed ${seed}${part} image ${space.indexOf(state)}${then}`;
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
    ...later.flatMap(({ lines }) => ['  then the recovery is cut short as well:', ...lines]),
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
    const fate = isLost.has(from + i) ? 'LOST ' : isSound(command) ? 'kept ' : 'FAULT';
    return {
      time: command.dispatched,
      line: `  ${fate} #${from + i} ${inShort(command, label)}${open}${wrongWith(command)}`,
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

function isSound({ failed, fault }: DiskCommand): boolean {
  return !failed && fault === undefined;
}

/** What the disk did wrong, and what it said. */
function wrongWith({ failed, fault }: DiskCommand): string {
  return `${failed ? ', failed' : ''}${fault ? `, fault: ${fault.kind}` : ''}`;
}

function shown(operation: unknown): string {
  if (typeof operation !== 'object') return String(operation);
  try {
    return JSON.stringify(operation, (_, value) =>
      typeof value === 'bigint' ? `${value}n` : value,
    );
  } catch {
    return String(operation);
  }
}

function inShort(
  { op, offset, length, fua, tag }: DiskCommand,
  label: (offset: number) => string,
): string {
  const flags = `${tag === 'ordered' ? ', ordered' : ''}${fua ? ', FUA' : ''}`;
  return op === 'flush' ? `flush${flags}` : `${op} of ${length} bytes at ${label(offset)}${flags}`;
}

/** So many gaps are tried, from the cut backwards. */
const GAPS_MAX = 100;

/** The barrier that would have forbidden it, found by trying: the last one that does forbids no more than it must. */
async function advice<A, R>(
  trial: Trial<A, R>,
  state: CrashState,
  { cut }: Failed,
  lost: readonly Loss[],
): Promise<string> {
  const { test, space, trace, siteOf } = trial;
  if (lost.length === 0) {
    return trace.commands.every(isSound)
      ? '  nothing was lost: the recovery fails on what was written in order'
      : '  nothing was lost: the recovery fails on what the fault has left';
  }
  if (!space.profile.flush) return '  no barrier would have forbidden it: the disk has no flush';
  const first = Math.min(...lost.map(({ command }) => command));
  const gaps = gapsOf(trace).filter(({ behind, time }) => behind >= first && time <= cut);
  for (const gap of gaps.reverse().slice(0, GAPS_MAX)) {
    const mended = crashSpace(withBarriers(trace, [gap], []), test.profile);
    const same = sameState(space, state, mended);
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
    : '  no single barrier would have forbidden it';
}

/** Whether some of what a command wrote is there. */
function isThere({ map }: CrashSpace, { versions }: CrashState, command: number): boolean {
  return map.cells.some(
    (cell, place) => cell.versions[versions[place] as number]?.command === command,
  );
}
