// The texts of litmus tests: programs as lines of requests, and outcomes as facts about a power cut.

import { type Request, WriteBarrierError } from '../../model/index.js';
import type { DiskTrace } from '../device/disk-trace.js';
import type { CrashState } from '../space/crash-space.js';
import type { LitmusColumn } from './litmus.js';

/** In bytes. */
export const SECTOR = 512;
/** The names of the sectors. */
export const LETTERS = 'xyz';

/** A line of a program. */
export interface Line {
  readonly label: string;
  /** Absent for `wait`, and for an empty barrier that nobody sends. */
  readonly request: Request | undefined;
  readonly waits: boolean;
  readonly fill: number;
}

/** What a settled request leaves in the trace. */
export interface Settled {
  readonly label: string;
  readonly ok: boolean;
}

/** @throws `SYNTAX` for a text that is no program */
export function programOf(text: string, mode: LitmusColumn): Line[] {
  return text.split(';').map((part): Line => {
    const [verb = '', ...names] = part.trim().split(/\s+/);
    const [label = verb] = names.map((name) => name.replace(/:=.*/, ''));
    const fill = Number(/:=(\d+)/.exec(part)?.[1] ?? 1);
    if (verb === 'wait') return { label, request: undefined, waits: true, fill };
    if (/^E\d*$/.test(verb)) {
      return { label: verb, request: emptyBarrier(mode), waits: false, fill };
    }
    const offset = LETTERS.indexOf(label) * SECTOR;
    if (!/^(W|W!|B)$/.test(verb) || offset < 0) throw syntax(part);
    const write = { kind: 'write', offset, length: names.length * SECTOR } as const;
    const flags = verb === 'B' ? barrierFlags(mode) : verb === 'W!' ? { fua: true } : {};
    return { label, request: { ...write, ...flags }, waits: false, fill };
  });
}

function barrierFlags(mode: LitmusColumn): object {
  if (mode === 'NONE') return {};
  return mode === 'modern' ? { preflush: true, fua: true } : { barrier: true };
}

function emptyBarrier(mode: LitmusColumn): Request | undefined {
  if (mode === 'NONE') return undefined;
  return { kind: mode === 'modern' ? 'flush' : 'barrier' };
}

/** What is said of a power cut. */
export type Fact =
  | { readonly kind: 'holds'; readonly place: number; readonly value: number }
  | { readonly kind: 'ok' | 'err' | 'no'; readonly label: string };

function factOf(text: string): Fact {
  const [, letter = '', value] = /^([xyz])=(\d+)$/.exec(text) ?? [];
  if (letter) return { kind: 'holds', place: LETTERS.indexOf(letter), value: Number(value) };
  const [, kind, label = ''] = /^(ok|err|no)\((\w+)\)$/.exec(text) ?? [];
  if (!kind) throw syntax(text);
  return { kind: kind as 'ok' | 'err' | 'no', label };
}

/** Alternatives of facts; `SYNTAX` for a text that is no outcome. */
export function outcomeOf(text: string): readonly (readonly Fact[])[] {
  return text.split('|').map((facts) => facts.trim().split(/\s+/).map(factOf));
}

/** Whether a state shows one of the alternatives. */
export function isShown(
  alternatives: readonly (readonly Fact[])[],
  state: CrashState,
  trace: DiskTrace,
): boolean {
  return alternatives.some((facts) => areTrue(facts, state, trace));
}

/** Whether the power can have been cut at a moment when all facts are true. */
function areTrue(facts: readonly Fact[], state: CrashState, trace: DiskTrace): boolean {
  let { after, before } = state;
  const image = state.image();
  for (const fact of facts) {
    if (fact.kind === 'holds') {
      if (image[fact.place * SECTOR] !== fact.value) return false;
      continue;
    }
    const mark = trace.marks.find(({ value }) => (value as Settled).label === fact.label);
    const told =
      mark && (mark.value as Settled).ok === (fact.kind === 'ok') ? mark.time : undefined;
    if (fact.kind === 'no') before = Math.min(before, mark?.time ?? Number.POSITIVE_INFINITY);
    else if (told === undefined) return false;
    else after = Math.max(after, told);
  }
  return after < before;
}

function syntax(text: string): WriteBarrierError {
  return new WriteBarrierError('SYNTAX', `no litmus test has ${JSON.stringify(text.trim())}`);
}
