// How every public function checks its options, before anything else happens. It refuses an unknown name, because a
// misspelt option would silently not be set. It refuses a value that breaks the rule of its option.
//
// A table has one key for each option. If the value in the table is a rule, the option must satisfy it; any other value (a
// default, a bound) only makes the name known. An option that is `undefined` counts as left out.
//
// Not here: the tables, which stand beside the options, and conditions on several options at once.

import { messageOf, misuse, WriteBarrierError } from './error.js';
import { formatValue, tagOf } from './show.js';

/** A condition on a value: the test, and how a message names it. */
export interface Rule {
  /** Whether the value keeps the rule. */
  readonly holds: (value: unknown) => boolean;
  /** Completes `depth must be ...`: `a boolean`, `a whole number from 1 to 1024`. */
  readonly expected: string;
}

/** One key for each option. A value that is a `Rule` is checked; any other value only makes the name known. */
export type KnownOptions<T> = { readonly [K in keyof T & string]-?: unknown };

/** Options that are true or false. */
export const BOOLEAN: Rule = rule((value) => typeof value === 'boolean', 'a boolean');
/** Rule: an object, and not null. */
export const OBJECT: Rule = rule(
  (value) => typeof value === 'object' && value !== null,
  'an object',
);
/** Options that are called. */
export const FUNCTION: Rule = rule((value) => typeof value === 'function', 'a function');

/** Arguments that are text. */
export const STRING: Rule = rule((value) => typeof value === 'string', 'a string');

/** Makes a rule. */
/* @__NO_SIDE_EFFECTS__ */
export function rule(holds: Rule['holds'], expected: string): Rule {
  return { holds, expected };
}

/** Whole numbers from `min` to `max`, both included. */
/* @__NO_SIDE_EFFECTS__ */
export function wholeNumber(min = 0, max: number = Number.MAX_SAFE_INTEGER): Rule {
  const range = max === Number.MAX_SAFE_INTEGER ? `of at least ${min}` : `from ${min} to ${max}`;
  const holds: Rule['holds'] = (value) =>
    Number.isSafeInteger(value) && (value as number) >= min && (value as number) <= max;
  return rule(holds, `a whole number ${range}`);
}

/** One of a few strings. */
/* @__NO_SIDE_EFFECTS__ */
export function oneOf(words: readonly string[]): Rule {
  const known = words.map((word) => `'${word}'`);
  const last = known.pop() as string;
  const expected = known.length > 0 ? `${known.join(', ')} or ${last}` : last;
  return rule((value) => words.includes(value as string), expected);
}

/** Whether a value is a Uint8Array, also one of another realm: a frame, a vm context. */
export function isBytes(value: unknown): value is Uint8Array {
  return value instanceof Uint8Array || tagOf(value) === '[object Uint8Array]';
}

/**
 * Refuses options that are not an object, have an unknown key, or have a value that breaks its rule.
 *
 * @param options the options that the function was called with
 * @param known one key for each option, with the rule of each; make the table once, not for each call
 * @param of the class or function that takes them, for the message: `NbdServer`, `write`
 * @throws `INVALID_ARGUMENT`; the message names the nearest known option, or what the value must be
 */
export function checkOptions<T extends object>(
  options: T,
  known: KnownOptions<T>,
  of: string,
): void {
  try {
    check(options, known, of);
  } catch (cause) {
    throw unreadable(cause);
  }
}

/**
 * Refuses an argument that breaks a rule.
 *
 * @param name how the message names the argument
 * @throws `INVALID_ARGUMENT`
 */
export function checkArgument(name: string, value: unknown, { holds, expected }: Rule): void {
  if (!holds(value)) throw invalid(name, expected, value);
}

/**
 * Refuses what cannot be walked over, and a string, because its items are letters.
 *
 * @param name how the message names the argument, and its items
 * @throws `INVALID_ARGUMENT`
 */
export function checkIterable(name: string, items: unknown): void {
  if (typeof items === 'object' && items !== null && Symbol.iterator in items) return;
  throw invalid(name, `an iterable of ${name}`, items);
}

/** `depth must be a whole number, not '4'`. */
export function invalid(name: string, expected: string, value: unknown): WriteBarrierError {
  return misuse(`${name} must be ${expected}, not ${formatValue(value)}`);
}

/** The error for arguments that throw when they are read: getters, proxies. */
export function unreadable(cause: unknown): WriteBarrierError {
  if (WriteBarrierError.is(cause)) return cause;
  return misuse(`an argument cannot be read: ${messageOf(cause)}`, { cause });
}

function check<T extends object>(options: T, known: KnownOptions<T>, of: string): void {
  checkArgument(`the options of ${of}`, options, OBJECT);
  for (const name in options) {
    // An inherited property was not meant for this call.
    if (!Object.hasOwn(known, name) && Object.hasOwn(options, name)) {
      throw misuse(unknownOption(name, Object.keys(known), of));
    }
  }
  for (const name in known) {
    const rule: Partial<Rule> = Object(known[name as never]);
    if (!rule.holds) continue;
    const value: unknown = options[name as never];
    if (value !== undefined) checkArgument(name, value, rule as Rule);
  }
}

function unknownOption(name: string, known: readonly string[], of: string): string {
  const near = nearest(name, known);
  const hint = near ? `did you mean '${near}'?` : `the options are ${known.join(', ') || 'none'}`;
  return `${of} has no option ${formatValue(name)}; ${hint}`;
}

/** The known name that shares the most pairs of adjacent letters, if it shares at least half of them. */
function nearest(name: string, known: readonly string[]): string | undefined {
  const pairs = pairsOf(name);
  let [best, most]: [string | undefined, number] = [undefined, 0.5];
  for (const candidate of known) {
    const others = pairsOf(candidate);
    const shared = others.filter((pair) => pairs.includes(pair)).length;
    const likeness = (2 * shared) / (pairs.length + others.length);
    if (likeness >= most) [best, most] = [candidate, likeness];
  }
  return best;
}

/** The ends of the name count as letters, so that short names have pairs, too. */
function pairsOf(name: string): string[] {
  const letters = ` ${name.slice(0, 40).toLowerCase()} `;
  return Array.from({ length: letters.length - 1 }, (_, i) => letters.slice(i, i + 2));
}
