// Litmus tests: programs of a few requests, and what a power cut may make of them, in every mode on every device.
//
// A program is a list of lines: `W x` writes 1 to sector x, `W x:=2` writes 2, `W! x` forces it, `B x` is a barrier
// with data, `B x y` one over two sectors, `E` an empty barrier, `wait x` waits for the answer to the request that
// names x. All sectors start as 0. Distinct letters are distinct sectors; x, y, z lie one behind the other.
//
// An outcome is a list of facts at the moment of the power cut: `x=0` what a sector holds, `ok(x)` that the host has
// heard of success, `err(x)` of failure, `no(x)` that it has heard nothing; alternatives are joined by `|`.
//
// Each row of `expected` tells for a write-through and a write-back device whether some legal run shows the outcome:
// A(llowed) or F(orbidden). In NONE barriers count as plain writes: a file system goes on like that after EOPNOTSUPP.
// The column `modern` is Linux since 2.6.37, where a barrier is PREFLUSH and FUA on a write that nobody else waits for.
//
// Source: the tables were computed by exhaustive search of a model of the device, and are checked here again by the
// axioms, the simulated disk and the scheduler.

import type { ModeName } from '../../model/index.js';
import type { Lie } from '../device/profile.js';

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
  /** The command that may fail. */
  readonly fault?: LitmusFault;
  /** What the scheduler does about it; `abort` unless given. */
  readonly policy?: 'abort' | 'kernel';
}

/** What may fail, once: the first flush of a run, the flush behind a barrier's data, or a write to x. */
export interface LitmusFault {
  /** Which command. */
  readonly fails: 'first flush' | 'postflush' | 'write x';
  /** What a failed flush does to what it should have covered. */
  readonly flush?: 'keep' | 'drop';
}

/** In the order of the tables. */
export const LITMUS_COLUMNS: readonly LitmusColumn[] = Object.freeze([
  'NONE',
  'DRAIN',
  'DRAIN_FLUSH',
  'DRAIN_FUA',
  'TAG',
  'TAG_FLUSH',
  'TAG_FUA',
  'modern',
]);

const row = (name: string, program: string, outcome: string, cells: string): LitmusTest => ({
  name,
  program,
  outcome,
  expected: expectedOf(cells),
});

function expectedOf(cells: string): LitmusTest['expected'] {
  const values = cells.split(' ');
  return Object.fromEntries(values.map((cell, i) => [LITMUS_COLUMNS[i] as LitmusColumn, cell]));
}

/** What no fault disturbs. */
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

const broken = (
  name: string,
  policy: 'abort' | 'kernel',
  fault: LitmusFault,
  program: string,
  outcome: string,
  cells: string,
): LitmusTest => ({ name, program, outcome, expected: expectedOf(cells), fault, policy });

const FLUSH_FAILS: LitmusFault = { fails: 'first flush', flush: 'keep' };
const FLUSH_DROPS: LitmusFault = { fails: 'first flush', flush: 'drop' };
const WRITE_FAILS: LitmusFault = { fails: 'write x' };
const POSTFLUSH_FAILS: LitmusFault = { fails: 'postflush', flush: 'keep' };
const TWO_EMPTY = 'W x; E; wait E; E2; wait E2';

/** What one injected fault makes of it. Tag modes cannot abort: their cells are the same under both policies. */
export const FAULT_LITMUS: readonly LitmusTest[] = Object.freeze([
  broken('F1 kernel', 'kernel', FLUSH_FAILS, 'W x; B y', 'y=1 x=0', 'A/A F/A F/A F/A F/A F/A F/A'),
  broken('F1 abort', 'abort', FLUSH_FAILS, 'W x; B y', 'y=1 x=0', 'A/A F/A F/F F/F F/A F/A F/A'),
  broken('F1 ok', 'kernel', FLUSH_FAILS, 'W x; B y', 'ok(y) x=0', 'A/A F/A F/F F/F F/A F/F F/F'),
  broken(
    'F2 drop',
    'kernel',
    FLUSH_DROPS,
    TWO_EMPTY,
    'err(E) ok(E2) x=0',
    'F/F F/F F/A F/A F/F F/A F/A',
  ),
  broken(
    'F2 keep',
    'kernel',
    FLUSH_FAILS,
    TWO_EMPTY,
    'err(E) ok(E2) x=0',
    'F/F F/F F/F F/F F/F F/F F/F',
  ),
  broken(
    'F3 kernel',
    'kernel',
    WRITE_FAILS,
    'W x; B y',
    'ok(y) y=1 x=0',
    'A/A A/A A/A A/A A/A A/A A/A',
  ),
  broken(
    'F3 abort',
    'abort',
    WRITE_FAILS,
    'W x; B y',
    'ok(y) y=1 x=0',
    'A/A F/A F/F F/F A/A A/A A/A',
  ),
  broken(
    'F4',
    'kernel',
    POSTFLUSH_FAILS,
    'W x; B y; W z',
    'z=1 y=0',
    'A/A F/A F/A F/F F/A F/A F/F',
  ),
]);

/** What a device that lies makes of the tests above, on a write-back cache. */
export interface LyingLitmus {
  /** What the device claims and does not do. */
  readonly lie: Lie;
  /** The modes that it is told for. */
  readonly modes: readonly ModeName[];
  /** The names of the tests whose outcome the lie allows. */
  readonly allowed: readonly string[];
  /** Those that hold all the same. */
  readonly forbidden: readonly string[];
}

const names = (text: string): readonly string[] => (text === '' ? [] : text.split(' '));
const lying = (lie: Lie, modes: string, allowed: string, forbidden: string): LyingLitmus => ({
  lie,
  modes: names(modes) as readonly ModeName[],
  allowed: names(allowed),
  forbidden: names(forbidden),
});

const ORDER = 'L1 L2 L3a L3b L6a L6b L10';

/** The tests of order and durability, on devices that do not do what they claim. */
export const LYING_LITMUS: readonly LyingLitmus[] = Object.freeze([
  lying('ignoreFua', 'DRAIN_FLUSH TAG_FLUSH', '', ORDER),
  lying('ignoreFua', 'DRAIN_FUA TAG_FUA', 'L2 L3a', 'L1 L6a L6b L10'),
  lying('ignoreFlush', 'DRAIN_FLUSH TAG_FLUSH', ORDER, ''),
  lying('ignoreFlush', 'DRAIN_FUA TAG_FUA', 'L1 L3b L6a L6b', 'L2 L3a L10'),
  lying('ignoreTags', 'DRAIN_FLUSH DRAIN_FUA', '', ORDER),
  // Without tags the postflush may run before the data that it is to cover; FUA does not depend on it.
  lying('ignoreTags', 'TAG_FLUSH', ORDER, ''),
  lying('ignoreTags', 'TAG_FUA', 'L1 L2 L3b L6a L6b', 'L3a L10'),
]);
