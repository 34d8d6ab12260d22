// Values, lists and counts as a report shows them: each in one short line, or whole.
//
// The values come from the code under test, so they may be anything: as long as what the workload wrote, circular, throwing
// when they are read, or full of control characters. None of that may cost the report of a failure. So no more of a value is
// read than is shown, a value that throws is shown by its kind, and control characters are escaped. The data of the report
// does not change: `failure.message` and `failure.program` are as the test made them.

import { messageOf } from '../../model/error.js';
import { escapeControls, formatValue, tagOf } from '../../model/show.js';
import { type DiskCommand, sizeBefore } from '../device/disk-trace.js';

const VALUE_MAX = 80;
const LIST_MAX = 5;
const LINES_MAX = 12;
const LINE_MAX = 200;
/** No more of a value is read than this, so that large values cost nothing. */
const ITEMS_MAX = 8;
const DEPTH_MAX = 3;

/** A value in one line: as JSON, with the kinds of values that JSON lacks; cut short unless `full`. */
export function shown(value: unknown, full: boolean): string {
  const text = escapeControls(write(value, full, 0, new Set()));
  return full ? text : cut(text, VALUE_MAX);
}

function cut(text: string, most: number): string {
  return text.length > most ? `${text.slice(0, most)}...` : text;
}

function write(value: unknown, full: boolean, depth: number, above: Set<unknown>): string {
  if (typeof value === 'string') {
    const text = full ? value : cut(value, VALUE_MAX);
    return depth === 0 && !/[\p{Cc}\u2028\u2029]/u.test(text) ? text : JSON.stringify(text);
  }
  if (typeof value !== 'object' || value === null) return formatValue(value);
  if (above.has(value)) return '(itself)';
  if (!full && depth >= DEPTH_MAX) return Array.isArray(value) ? '[...]' : '{...}';
  above.add(value);
  try {
    return writeObject(value, (inner) => write(inner, full, depth + 1, above), full);
  } catch {
    // A getter or a proxy that throws.
    return tagOf(value);
  } finally {
    above.delete(value);
  }
}

/** The user's name for a place, in one short line; the offset if there is none. */
export function labelOf(test: { label?(offset: number): string }, offset: number): string {
  let name: unknown;
  try {
    name = test.label?.(offset);
  } catch {
    // The report matters more than the name.
  }
  return name === undefined ? `offset ${offset}` : shown(name, false);
}

function writeObject(value: object, inner: (value: unknown) => string, full: boolean): string {
  const some = (items: Iterable<unknown>, count: number, one = inner): string => {
    const most = full ? count : ITEMS_MAX;
    const written: string[] = [];
    for (const item of items) {
      if (written.length === most) break;
      written.push(one(item));
    }
    return `${written.join(',')}${count > most ? `,... ${count - most} more` : ''}`;
  };
  if (value instanceof Error)
    return `${value.name}: ${full ? messageOf(value) : firstLine(messageOf(value))}`;
  if (value instanceof Date) return String(value.getTime());
  if (Array.isArray(value)) return `[${some(value, value.length)}]`;
  if (ArrayBuffer.isView(value) && !(value instanceof DataView)) {
    const numbers = value as Uint8Array;
    return `${value.constructor.name}(${numbers.length}) [${some(numbers, numbers.length)}]`;
  }
  const pair = (entry: unknown): string => {
    const [key, item] = entry as readonly [unknown, unknown];
    return `${inner(key)}:${inner(item)}`;
  };
  if (value instanceof Set) return `Set(${value.size}) {${some(value, value.size)}}`;
  if (value instanceof Map) return `Map(${value.size}) {${some(value, value.size, pair)}}`;
  const keys = Object.keys(value);
  const fields = value as Readonly<Record<string, unknown>>;
  const field = (key: unknown): string => `${JSON.stringify(key)}:${inner(fields[key as string])}`;
  return `{${some(keys, keys.length, field)}}`;
}

function firstLine(text: string): string {
  return text.split('\n', 1)[0] ?? '';
}

/** The items in one line; of a long list the first ones and the number of the others, in `words`. */
export function shortList(
  items: readonly unknown[],
  full: boolean,
  short: number = LIST_MAX,
  between: string = ', ',
  words: string = '',
): string {
  const most = full ? items.length : short;
  const first = items.slice(0, most).map((item) => shown(item, full));
  const more = items.length - most;
  const others = `${words && ';'} and ${formatCount(more)} more${words}`;
  return `${first.join(between)}${more > 0 ? others : ''}`;
}

/** A command; `where` names its place. */
export function shortCommand(command: DiskCommand, where: string): string {
  const { op, length, size } = command;
  if (size !== undefined) {
    const before = sizeBefore(command);
    return `${size > before ? 'grow' : 'shrink'} from ${before} to ${size} bytes`;
  }
  return op === 'flush' ? 'flush' : `${op} of ${length} bytes at ${where}`;
}

/** A message of the code under test, cut to the length of a screen. */
export function shortText(text: string, full: boolean): string {
  if (full) return escapeControls(text);
  const lines = escapeControls(text).split('\n');
  const first = lines.slice(0, LINES_MAX).map((line) => cut(line, LINE_MAX));
  const more = lines.length - LINES_MAX;
  return [...first, ...(more > 0 ? [`... ${formatCount(more)} more lines`] : [])].join('\n');
}

/** A count: exact below a million, with three digits from there on, as 1.23e45. */
export function formatCount(count: number | bigint): string {
  const digits = String(count);
  if (digits.length < 7) return digits;
  const exponent = digits.length - 1;
  const fraction = digits.slice(1, 3).replace(/0+$/, '');
  return `${digits[0]}${fraction === '' ? '' : `.${fraction}`}e${exponent}`;
}

/** How many of how many, also if both have the same short form. */
export function formatShare(part: bigint, whole: bigint): string {
  if (part === whole) return `all ${formatCount(whole)}`;
  const [some, all] = [formatCount(part), formatCount(whole)];
  return some === all ? `all but ${formatCount(whole - part)} of ${all}` : `${some} of ${all}`;
}
