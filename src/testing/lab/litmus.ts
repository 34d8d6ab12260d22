// Litmus tests: programs of a few requests, and what a power cut may leave of them, in every mode on every device.
//
//   program   lines, separated by `;`: `W x` a write, `W! x` with FUA, `B x` a barrier write, `E` an empty barrier,
//             `wait x` for the answer to the request that names x; `B x y` writes two sectors side by side, and `W x:=2`
//             writes 2 instead of 1; `R 4` resizes the disk to four sectors, so that there is a sector w
//   outcome   alternatives, separated by `|`, of facts that are all true of one power cut: `x=0` what a sector holds,
//             `ok(x)` that the write was answered by then, `err(x)` that it failed, `no(x)` that it had no answer;
//             `size=3` how many sectors there are, and a fact about a sector that is not there is false
//
// There are three sectors, and all start as 0. Distinct letters are distinct sectors; x, y, z, w are adjacent.
//
// Each row of `expected` says for a write-through and a write-back device whether some legal run shows the outcome:
// A(llowed) or F(orbidden). In NONE barriers count as plain writes, because a file system that gets EOPNOTSUPP for a barrier
// repeats it as a plain write.
// The column `modern` is Linux since 2.6.37, where a barrier is PREFLUSH and FUA on a write that no other request waits for.
//
// Source: the tables were computed by exhaustive search of a model of the device, and are checked here again by the
// axioms, the simulated disk and the scheduler.
//
// Not here: what runs the tests (litmus-run.ts).

import {
  formatValue,
  MODE_NAMES,
  type ModeName,
  type Request,
  resizeOf,
  WriteBarrierError,
} from '../../model/index.js';
import type { DiskTrace } from '../device/disk-trace.js';
import type { DeviceProfile } from '../device/profile.js';
import type { CrashState } from '../space/crash-state.js';

/** How requests are ordered: one of the seven modes, or Linux since 2.6.37. */
export type LitmusColumn = ModeName | 'modern';

/** One program and one outcome. */
export interface LitmusTest {
  /** Stable: documentation and messages use it. */
  readonly name: string;
  /** What is submitted, line by line. */
  readonly program: string;
  /** What is looked for. */
  readonly outcome: string;
  /** For each column `A` or `F` on a write-through device, a slash, and the same on a write-back device. */
  readonly expected: Readonly<Partial<Record<LitmusColumn, string>>>;
  /** The command that may fail, once in a run. */
  readonly fault?: {
    /** The first flush of the run, the flush after a barrier's data, or a write to x. */
    readonly fails: 'first flush' | 'postflush' | 'write x';
    /** What a failed flush does to what it should have covered. */
    readonly flush?: 'keep' | 'drop';
  };
  /** The scheduler's error policy. @defaultValue `'abort'` */
  readonly policy?: 'abort' | 'kernel';
}

/** The command of a litmus test that may fail. */
export type LitmusFault = NonNullable<LitmusTest['fault']>;

/** In the order of the tables. */
export const LITMUS_COLUMNS: readonly LitmusColumn[] = Object.freeze([...MODE_NAMES, 'modern']);

type Broken = Pick<LitmusTest, 'fault' | 'policy'>;

/** Cells are in the order of the columns; there may be fewer. */
function row(
  name: string,
  program: string,
  outcome: string,
  cells: string,
  broken: Broken = {},
): LitmusTest {
  const expected = cells.split(' ').map((cell, i) => [LITMUS_COLUMNS[i] as LitmusColumn, cell]);
  return { name, program, outcome, expected: Object.fromEntries(expected), ...broken };
}

/** The tests without faults. */
export const LITMUS: readonly LitmusTest[] = Object.freeze([
  row('L1', 'W x; B y', 'y=1 x=0', 'A/A F/A F/F F/F F/A F/F F/F A/A'),
  row('L2', 'B x; W y', 'y=1 x=0', 'A/A F/A F/F F/F F/A F/F F/F A/A'),
  row('L3a', 'W x; B y; wait y', 'ok(y) y=0', 'F/A F/A F/F F/F F/A F/F F/F F/F'),
  row('L3b', 'W x; B y; wait y', 'ok(y) x=0', 'A/A F/A F/F F/F F/A F/F F/F A/A'),
  row('L4', 'W x; wait x', 'ok(x) x=0', 'F/A F/A F/A F/A F/A F/A F/A F/A'),
  row('L5', 'W x; wait x; W y', 'y=1 x=0', 'F/A F/A F/A F/A F/A F/A F/A F/A'),
  row('L6a', 'W x; E; W y', 'y=1 x=0', 'A/A F/A F/F F/F F/A F/F F/F A/A'),
  row('L6b', 'W x; E; W y', 'ok(E) x=0', 'A/A F/A F/F F/F F/A F/F F/F A/A'),
  row('L7a', 'W x; W y', 'y=1 x=0', 'A/A A/A A/A A/A A/A A/A A/A A/A'),
  row('L7b', 'W x; W y', 'x=1 y=0', 'A/A A/A A/A A/A A/A A/A A/A A/A'),
  row('L8a', 'B x y', 'x=1 y=0', 'A/A A/A A/A A/A A/A A/A A/A A/A'),
  row('L8b', 'B x y', 'ok(x) x=1 y=0', 'F/A F/A F/F F/F F/A F/F F/F F/F'),
  row('L9a', 'W x; B y; W x:=2', 'x=2 y=0', 'A/A F/A F/F F/F F/A F/F F/F A/A'),
  row('L9b', 'W x; B y; W x:=2', 'y=1 x=0', 'A/A F/A F/F F/F F/A F/F F/F A/A'),
  row('L10', 'B x; B y; B z', 'z=1 x=0 | z=1 y=0', 'A/A F/A F/F F/F F/A F/F F/F A/A'),
  row('L11a', 'W x; B y; W z; wait z', 'ok(z) no(y)', 'A/A F/F F/F F/F A/A A/A A/A A/A'),
  row('L11b', 'W x; B y; W z; wait z', 'ok(z) x=0 | ok(z) y=0', 'A/A F/A F/F F/F F/A F/F F/F A/A'),
  row('L12a', 'W x; wait x; W! y; wait y', 'y=1 x=0', 'F/A F/A F/A F/A F/A F/A F/A F/A'),
  row('L12b', 'W x; wait x; W! y; wait y', 'ok(y) y=0', 'F/F F/F F/F F/F F/F F/F F/F F/F'),
]);

/**
 * The tests of a disk whose size changes, without the column `modern`: there no request waits for another, and a resize waits for
 * all that it overlaps (storage.S13).
 */
export const GROWTH_LITMUS: readonly LitmusTest[] = Object.freeze([
  row('G1', 'R 4; wait r4', 'ok(r4) size=3', 'F/A F/A F/A F/A F/A F/A F/A'),
  row('G2', 'R 4; B x', 'x=1 size=3', 'A/A F/A F/F F/F F/A F/F F/F'),
  row('G3', 'R 4; W w; B x', 'x=1 size=3 | x=1 w=0', 'A/A F/A F/F F/F F/A F/F F/F'),
  row('G4', 'R 4; W w', 'size=4 w=0', 'A/A A/A A/A A/A A/A A/A A/A'),
  row('G5', 'R 4; wait r4; W! w; wait w', 'ok(w) size=3', 'F/F F/F F/F F/F F/F F/F F/F'),
  row('G6', 'B x; R 2', 'size=2 x=0', 'A/A F/A F/F F/F F/A F/F F/F'),
  row('G7', 'W z; R 2; R 4', 'size=4 z=1', 'F/A F/A F/A F/A F/A F/A F/A'),
  row('G8', 'W z; R 2; E; R 4', 'size=4 z=1', 'F/A F/A F/F F/F F/A F/F F/F'),
]);

const kernel = (fault: LitmusFault): Broken => ({ fault, policy: 'kernel' });
const abort = (fault: LitmusFault): Broken => ({ fault, policy: 'abort' });

const FAILS: LitmusFault = { fails: 'first flush', flush: 'keep' };
const DROPS: LitmusFault = { fails: 'first flush', flush: 'drop' };
const WRITE: LitmusFault = { fails: 'write x' };
const POSTFLUSH: LitmusFault = { fails: 'postflush', flush: 'keep' };
const TWO_EMPTY = 'W x; E; wait E; E2; wait E2';

/** The tests with one injected fault. Tag modes cannot abort: their cells are the same with both error policies. */
export const FAULT_LITMUS: readonly LitmusTest[] = Object.freeze([
  row('F1 kernel', 'W x; B y', 'y=1 x=0', 'A/A F/A F/A F/A F/A F/A F/A', kernel(FAILS)),
  row('F1 abort', 'W x; B y', 'y=1 x=0', 'A/A F/A F/F F/F F/A F/A F/A', abort(FAILS)),
  row('F1 ok', 'W x; B y', 'ok(y) x=0', 'A/A F/A F/F F/F F/A F/F F/F', kernel(FAILS)),
  row('F2 drop', TWO_EMPTY, 'err(E) ok(E2) x=0', 'F/F F/F F/A F/A F/F F/A F/A', kernel(DROPS)),
  row('F2 keep', TWO_EMPTY, 'err(E) ok(E2) x=0', 'F/F F/F F/F F/F F/F F/F F/F', kernel(FAILS)),
  row('F3 kernel', 'W x; B y', 'ok(y) y=1 x=0', 'A/A A/A A/A A/A A/A A/A A/A', kernel(WRITE)),
  row('F3 abort', 'W x; B y', 'ok(y) y=1 x=0', 'A/A F/A F/F F/F A/A A/A A/A', abort(WRITE)),
  row('F4', 'W x; B y; W z', 'z=1 y=0', 'A/A F/A F/A F/F F/A F/A F/F', kernel(POSTFLUSH)),
]);

const names = (text: string): readonly string[] => (text === '' ? [] : text.split(' '));
const lying = (
  lie: DeviceProfile['lies'][number],
  modes: string,
  allowed: string,
  forbidden: string,
): (typeof LYING_LITMUS)[number] => ({
  lie,
  modes: names(modes) as readonly ModeName[],
  allowed: names(allowed),
  forbidden: names(forbidden),
});

const ORDER = 'L1 L2 L3a L3b L6a L6b L10';

/** The tests of order and durability on devices with a write-back cache that do not do what they claim. */
export const LYING_LITMUS: readonly {
  /** What the device claims and does not do. */
  readonly lie: DeviceProfile['lies'][number];
  /** The modes that the row is about. */
  readonly modes: readonly ModeName[];
  /** The names of the tests whose outcome the lie allows. */
  readonly allowed: readonly string[];
  /** The names of the tests whose outcome stays forbidden. */
  readonly forbidden: readonly string[];
}[] = Object.freeze([
  lying('ignoreFua', 'DRAIN_FLUSH TAG_FLUSH', '', ORDER),
  lying('ignoreFua', 'DRAIN_FUA TAG_FUA', 'L2 L3a', 'L1 L6a L6b L10'),
  lying('ignoreFlush', 'DRAIN_FLUSH TAG_FLUSH', ORDER, ''),
  lying('ignoreFlush', 'DRAIN_FUA TAG_FUA', 'L1 L3b L6a L6b', 'L2 L3a L10'),
  lying('ignoreTags', 'DRAIN_FLUSH DRAIN_FUA', '', ORDER),
  // Without tags the postflush may run before the data that it is to cover; FUA does not depend on it.
  lying('ignoreTags', 'TAG_FLUSH', ORDER, ''),
  lying('ignoreTags', 'TAG_FUA', 'L1 L2 L3b L6a L6b', 'L3a L10'),
]);

// The notation

/** In bytes. */
export const SECTOR = 512;
/** The names of the sectors that there are at first. */
export const LETTERS = 'xyz';
/** Those, and that which a resize adds. */
const ALL_LETTERS = `${LETTERS}w`;

/** A line of a program. */
export interface Line {
  readonly label: string;
  /** Absent for `wait`, and for an empty barrier in a mode without barriers. */
  readonly request: Request | undefined;
  readonly waits: boolean;
  readonly fill: number;
}

/** The mark that an answered request leaves in the trace. */
export interface Answered {
  readonly label: string;
  readonly ok: boolean;
}

/** @throws `SYNTAX` for a text that is no program */
export function programOf(text: string, mode: LitmusColumn): Line[] {
  let size = LETTERS.length * SECTOR;
  return text.split(';').map((part): Line => {
    const [verb = '', ...names] = part.trim().split(/\s+/);
    const [, label = verb, value = 1] = /^(\w+)(?::=(\d{1,3}))?$/.exec(names[0] ?? '') ?? [];
    const fill = Number(value);
    if (verb === 'wait' && names.length === 1 && label !== verb) {
      return { label, request: undefined, waits: true, fill };
    }
    if (/^E\d*$/.test(verb) && names.length === 0) {
      return { label: verb, request: emptyBarrier(mode), waits: false, fill };
    }
    if (/^R [0-4]$/.test(part.trim())) {
      const request = resizeOf(size, Number(label) * SECTOR);
      size = request.size ?? size;
      if (request.length === 0) throw syntax(part, LINES);
      return { label: `r${label}`, request, waits: false, fill };
    }
    const sectors = [label, ...names.slice(1)].join('');
    const offset = ALL_LETTERS.indexOf(label) * SECTOR;
    // The sectors of a write must be adjacent, and there; and a value must be a byte.
    const isWrite = /^(W|W!|B)$/.test(verb) && label.length === 1 && ALL_LETTERS.includes(sectors);
    if (!isWrite || fill > 255 || offset + names.length * SECTOR > size) throw syntax(part, LINES);
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

/** A fact about a power cut. */
type Fact =
  | { readonly kind: 'holds'; readonly place: number; readonly value: number }
  | { readonly kind: 'size'; readonly sectors: number }
  | { readonly kind: 'ok' | 'err' | 'no'; readonly label: string };

function factOf(text: string): Fact {
  const [, letter = '', value] = /^([xyzw]|size)=(\d+)$/.exec(text) ?? [];
  if (letter === 'size') return { kind: 'size', sectors: Number(value) };
  if (letter) return { kind: 'holds', place: ALL_LETTERS.indexOf(letter), value: Number(value) };
  const [, kind, label = ''] = /^(ok|err|no)\((\w+)\)$/.exec(text) ?? [];
  if (!kind) throw syntax(text, FACTS);
  return { kind: kind as 'ok' | 'err' | 'no', label };
}

/** Whether a state shows one of the alternatives; `SYNTAX` for a text that is no outcome. */
export function outcomeOf(text: string): (state: CrashState, trace: DiskTrace) => boolean {
  const alternatives = text.split('|').map((facts) => facts.trim().split(/\s+/).map(factOf));
  return (state, trace) => alternatives.some((facts) => areTrue(facts, state, trace));
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
    if (fact.kind === 'size') {
      if (state.size !== fact.sectors * SECTOR) return false;
      continue;
    }
    const mark = trace.marks.find(({ value }) => (value as Answered).label === fact.label);
    if (fact.kind === 'no') before = Math.min(before, mark?.time ?? Number.POSITIVE_INFINITY);
    else if (!mark || (mark.value as Answered).ok !== (fact.kind === 'ok')) return false;
    else after = Math.max(after, mark.time);
  }
  return after < before;
}

const LINES =
  'a program has W x, W x:=2, W! x, B x, B x y, R 2, E and wait x, separated by semicolons';
const FACTS = 'an outcome has x=1, size=2, ok(x), err(x) and no(x), and | between alternatives';

function syntax(text: string, allowed: string): WriteBarrierError {
  const found = formatValue(text.trim());
  return new WriteBarrierError('SYNTAX', `no litmus test has ${found}: ${allowed}`);
}
