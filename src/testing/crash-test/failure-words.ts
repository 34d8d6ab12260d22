// What the text of every failure has, whatever was tested: the message, the steps of the program, what was recovered and what was
// expected, and the replay.

import { messageOf } from '../../model/error.js';
import { shortList, shortText, shown } from './in-short.js';
import type { Failed } from './judge.js';
import { formatReplay, type Replay } from './replay.js';
import type { CrashFailure } from './types.js';

type InWords = 'message' | 'cause' | 'replay' | 'program' | 'text' | 'fullText';

/** What every failure has: its message after `head`, the program, the lines of `body`, and the replay, with `on` before it. */
export function inWords(
  test: { readonly program?: readonly unknown[] },
  again: Replay & { readonly on?: string },
  cause: unknown,
  head: string,
  body: (full: boolean) => readonly string[],
): Pick<CrashFailure, InWords> {
  const all = test.program ?? [];
  const program = again.steps.map((step) => all[step]);
  const replay = (again.on ?? '') + formatReplay(again, all.length);
  const message = messageOf(cause);
  const write = (full: boolean): string =>
    [
      // The words of a hang are ours.
      head + shortText(message, full || head === ''),
      ...(program.length > 0
        ? [`  the program: ${shortList(program, full, STEPS_MAX, '; ', ' steps')}`]
        : []),
      ...body(full),
      `  replay: '${replay}'`,
    ].join('\n');
  return { message, cause, replay, program, text: write(false), fullText: write(true) };
}

const STEPS_MAX = 20;

/** What was recovered, what had been acknowledged, and what of that is missing if the two can be compared. */
export function comparison({ recovered, expected }: Failed, full: boolean): string[] {
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
