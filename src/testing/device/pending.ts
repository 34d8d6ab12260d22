// What the simulated disk keeps its work in, so that a step takes no longer when much is in flight: a list without order, a
// heap, and the commands that are not answered.

import { WriteBarrierError } from '../../model/index.js';
import type { DiskFault } from './disk-faults.js';
import type { DiskRequest } from './disk-trace.js';

/** A command that is not answered. */
export interface Pending extends Due<Pending> {
  readonly number: number;
  readonly request: DiskRequest;
  /** In virtual microseconds. */
  readonly dueUs: number;
  /** Its answer is an error. */
  failed: boolean;
  /** It is not carried out, or only in part. */
  spoilt: boolean;
  readonly into: Uint8Array | undefined;
  readonly fault: DiskFault | undefined;
  /** How many commands the disk had answered when this one came. */
  readonly since: number;
  readonly resolve: () => void;
  readonly reject: (error: Error) => void;
}

/** How the host hears of the end. */
export type Answers = Pick<Pending, 'resolve' | 'reject'>;

/** For a host that has its answer before the call returns. */
export const UNHEARD: Answers = { resolve: () => {}, reject: () => {} };

/** A host that waits in virtual time. */
export interface Sleeper extends Answers, Due<Sleeper> {}

/** What a call returns: nothing at once, or later. */
export type Answer = void | Promise<void>;

/** The flags of commands that have none. */
export const PLAIN = { tag: 'simple', fua: false } as const;

/** The answer to a command that a power cut ends. */
export function powerCut(): WriteBarrierError {
  return new WriteBarrierError('POWER_CUT', 'the power was cut');
}

// Lists and heaps

/** Adds to a list without order. */
export function enter<T extends { place: number }>(list: T[], one: T): void {
  one.place = list.push(one) - 1;
}

/** Takes out of a list without order: the last one gets its place, because then no other has to move. */
export function leave<T extends { place: number }>(list: T[], one: T): void {
  const last = list.at(-1) as T;
  list[one.place] = last;
  last.place = one.place;
  list.pop();
}

/**
 * A member of a heap. The first one is the heap: that with the least key, and of two with the same key the one that came
 * first.
 */
export interface Due<T> {
  readonly key: number;
  readonly nth: number;
  // A leftist heap: what is below comes later, and the way to the right is the shortest one to an end.
  left?: T | undefined;
  right?: T | undefined;
  /** The length of the way to the right. */
  rank?: number;
}

/** The members of two heaps in one, in the time of the logarithm of their number. */
export function melded<T extends Due<T>>(a: T | undefined, b: T | undefined): T | undefined {
  if (!a || !b) return a ?? b;
  if ((b.key - a.key || b.nth - a.nth) < 0) return melded(b, a);
  a.right = melded(a.right, b);
  if (rankOf(a.left) < rankOf(a.right)) [a.left, a.right] = [a.right, a.left];
  a.rank = 1 + rankOf(a.right);
  return a;
}

/** The heap without its first member. */
export function withoutFirst<T extends Due<T>>({ left, right }: T): T | undefined {
  return melded(left, right);
}

function rankOf({ rank = 1 }: { rank?: number } = { rank: 0 }): number {
  return rank;
}
