// The verdict of recovery and check about what power cuts may leave.
//
// The search for failures (search.ts, chains.ts), their shrinking (shrink.ts) and their advice (advice.ts) all judge with the
// functions of this file.
//
//   J1  A recovered state is checked at the first moment at which the power can have been cut to leave it, and after each
//       later entry of the journal, because at each of them more must be there, or more may be.
//   J2  What a recovery has returned in a later life is shown to a user from then on. A cut before that is judged by what the
//       life before had acknowledged, because that is all that anybody was told.

import { formatValue, misuse } from '../../model/index.js';
import type { Mark } from '../device/disk-trace.js';
import { UnsteadyRecoveryError } from '../space/walks.js';
import type { Told } from './execute.js';
import type { CrashTest, Expected } from './types.js';
import { HangError, type Watch } from './watch.js';

/** Why a recovered state is wrong. */
export interface Failed {
  readonly cause: unknown;
  /** The earliest moment of the power cut, in the trace of the life that was judged. */
  readonly cut: number;
  /** The number of that life, from 0. */
  readonly life: number;
  /** What was recovered; absent if the recovery threw. */
  readonly recovered?: { readonly value: unknown };
  /** What the check was called with. */
  readonly expected?: Expected<unknown>;
  /** Recovery and check accept the disk, and the life that goes on with it fails. */
  readonly goesOn?: boolean;
}

/** Whether the failure is a hang. */
export function isHang({ cause }: Pick<Failed, 'cause'>): boolean {
  return cause instanceof HangError;
}

/** A life that a power cut ended, and when the power can have been cut. */
export interface CutShort {
  readonly trace: { readonly marks: readonly Mark[] };
  /** After this moment. */
  readonly after: number;
  /** Before this moment. */
  readonly before: number;
}

/** A moment of a power cut, and the journal up to it. */
interface Moment<A, R> {
  readonly time: number;
  readonly life: number;
  readonly expected: Expected<A, R>;
}

/** The moments of the last power cut that make a difference (J1, J2). The first life is first. */
export function* momentsOf<A, R>(lives: readonly CutShort[]): Generator<Moment<A, R>, void> {
  const last = lives.at(-1);
  if (!last) return;
  const life = lives.length - 1;
  const { marks } = last.trace;
  const at = marks.findIndex(({ value }) => (value as Told<A>).kind === 'shown');
  if (life === 0) {
    yield* momentsIn(marks, last, life, {});
    return;
  }
  const shown = marks[at];
  if (!shown || last.after < shown.time) yield* momentsOf(lives.slice(0, -1));
  if (!shown || shown.time >= last.before) return;
  const after = Math.max(last.after, shown.time);
  const value = (shown.value as Told<R>).operation;
  yield* momentsIn(marks.slice(at + 1), { ...last, after }, life, { shown: value });
}

/** The first moment, and each entry of the journal. */
function* momentsIn<A, R>(
  marks: readonly Mark[],
  { after, before }: Omit<CutShort, 'trace'>,
  life: number,
  shown: Pick<Expected<A, R>, 'shown'>,
): Generator<Moment<A, R>, void> {
  const acknowledged: A[] = [];
  const begun: A[] = [];
  let isFirst = true;
  // Copies, because a check may keep them; one pair at a time, because there may be thousands.
  const at = (time: number): Moment<A, R> => {
    isFirst = false;
    const expected = { acknowledged: [...acknowledged], begun: [...begun], ...copied(shown) };
    return { time, life, expected };
  };
  for (const { time, value } of marks) {
    if (time >= before) break;
    if (time > after && isFirst) yield at(after);
    const { kind, operation } = value as Told<A>;
    (kind === 'begin' ? begun : acknowledged).push(operation);
    if (time > after) yield at(time);
  }
  if (isFirst) yield at(after);
}

/**
 * A copy of data, so that changing one does not change the other. What is more than data, such as an instance of a class, is
 * returned as it is, because a copy would have lost its methods.
 */
export function copied<T>(value: T): T {
  try {
    return isData(value) ? structuredClone(value) : value;
  } catch {
    return value;
  }
}

/** @throws `RangeError` for a value that contains itself */
function isData(value: unknown): boolean {
  if (Object(value) !== value || ArrayBuffer.isView(value)) return true;
  if (value instanceof Map || value instanceof Set) return [...value].every(isData);
  const proto: unknown = Object.getPrototypeOf(value);
  const isPlain = proto === Object.prototype || proto === null || Array.isArray(value);
  return isPlain && Object.values(value as object).every(isData);
}

/**
 * Recovers and checks the result, up to the first failure.
 *
 * @param lives called after the recovery, because only then it is known what the recovery has read
 * @throws `INVALID_ARGUMENT` for a check whose answer is not a verdict
 */
export async function checked<A, R>(
  { test, watch }: { readonly test: Pick<CrashTest<A, R>, 'check'>; readonly watch: Watch },
  recover: () => R | Promise<R>,
  lives: () => readonly CutShort[],
): Promise<{ readonly failed?: Failed; readonly isSilent: boolean }> {
  let isSilent = false;
  let recovered: R;
  try {
    recovered = await recover();
  } catch (cause) {
    if (cause instanceof UnsteadyRecoveryError) throw cause;
    return { failed: failedOn(cause, lives()), isSilent };
  }
  for (const { time, life, expected } of momentsOf<A, R>(lives())) {
    const at = { cut: time, life, recovered: { value: recovered }, expected };
    let answer: unknown;
    try {
      answer = await watch.run<unknown>('check', () => test.check(recovered, expected));
      if (answer === false) throw new Error('the check returned false');
    } catch (cause) {
      if (cause instanceof UnsteadyRecoveryError) throw cause;
      return { failed: { cause, ...at }, isSilent };
    }
    if (answer !== true && answer !== undefined) {
      throw misuse(
        `the check returned ${formatValue(answer)}; it must return true or false, or throw`,
      );
    }
    isSilent ||= answer === undefined;
  }
  return { isSilent };
}

/** A recovery that throws is wrong, whatever had been acknowledged. */
export function failedOn(cause: unknown, lives: readonly CutShort[]): Failed {
  return { cause, cut: lives.at(-1)?.after ?? 0, life: lives.length - 1 };
}
