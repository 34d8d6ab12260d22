// The log of strace as calls of the system.
//
// The format is that of `strace -f -xx -y -o`: a line is a process, a call, its arguments and its result. All bytes of strings and
// paths are written as `\xHH`, so nothing in them is taken for punctuation. A call during which another process has run has two
// lines: one that ends with `<unfinished ...>`, one that begins with `<... name resumed>`.
//
//   L1  A call has two moments, its begin and its end, and both come in the order of the log. Its result is known at its
//       begin already, because the whole log is there.
//   L2  A call that failed, or that has no result because its process has ended, is left out; but `unanswered` ones of those
//       that change something may have had an effect, and are kept.
//
// Source: strace(1) 6.1.

/** A call of the system. */
export interface SystemCall {
  readonly process: number;
  readonly name: string;
  /** As they are written; strings and paths in hexadecimal. */
  readonly args: readonly string[];
  /** Undefined if the process has ended before the call returned. */
  readonly result: number | undefined;
}

/** The beginning or the end of a call. */
export interface CallEvent {
  readonly kind: 'begin' | 'end';
  readonly call: SystemCall;
}

const LINE = /^(\d+) +(.*)$/s;
const WHOLE = /^(\w+)\((.*)\)\s+= (-?\d+|0x[0-9a-f]+|\?)(?:[ <].*)?$/s;
const UNFINISHED = /^(.*?)\s*<unfinished \.\.\.>\)?$/s;
const RESUMED = /^<\.\.\. \w+ resumed>(.*)$/s;
const CALL = /^(\w+)\((.*)$/s;

/** An event whose call is not read to its end. */
type Draft = { kind: 'begin' | 'end'; call?: SystemCall | undefined };

/** The calls of a log that `isWanted`, by their names, in the order of the log (L1, L2). */
export function callsOf(
  lines: Iterable<string>,
  isWanted: (name: string) => boolean,
): readonly CallEvent[] {
  const events: Draft[] = [];
  const pending = new Map<number, { readonly text: string; readonly begin: Draft }>();
  for (const line of lines) {
    const [, process, text] = LINE.exec(line) ?? [];
    if (process === undefined || text === undefined) continue;
    const number = Number(process);
    const [, unfinished] = UNFINISHED.exec(text) ?? [];
    if (unfinished !== undefined) {
      const begin: Draft = { kind: 'begin' };
      events.push(begin);
      pending.set(number, { text: unfinished, begin });
      continue;
    }
    const [, rest] = RESUMED.exec(text) ?? [];
    const earlier = rest === undefined ? undefined : pending.get(number);
    pending.delete(number);
    const call = wholeCall(
      number,
      rest === undefined ? text : (earlier?.text ?? '') + rest,
      isWanted,
    );
    if (!call) continue;
    if (earlier) earlier.begin.call = call;
    else events.push({ kind: 'begin', call });
    events.push({ kind: 'end', call });
  }
  for (const [process, { text, begin }] of pending) {
    const [, name = '', args = ''] = CALL.exec(text) ?? [];
    if (isWanted(name))
      begin.call = { process, name, args: splitArguments(args), result: undefined };
  }
  return events.filter((event): event is CallEvent => event.call !== undefined);
}

function wholeCall(
  process: number,
  text: string,
  isWanted: (name: string) => boolean,
): SystemCall | undefined {
  const [, name = '', args = '', result = ''] = WHOLE.exec(text) ?? [];
  if (!isWanted(name)) return undefined;
  const isUnanswered = result === '?';
  if (!isUnanswered && Number(result) < 0 && !ALSO_FAILED.has(name)) return undefined;
  const number = isUnanswered ? undefined : Number(result);
  return { process, name, args: splitArguments(args), result: number };
}

/** Marks are asked for under names that do not exist. */
const ALSO_FAILED: ReadonlySet<string> = new Set(['access', 'faccessat', 'faccessat2']);

const OPENING = '[{(';
const CLOSING = ']})';

/** Splits at the commas that stand in no brackets. */
function splitArguments(text: string): string[] {
  const args: string[] = [];
  let depth = 0;
  let start = 0;
  for (let at = 0; at < text.length; at++) {
    const letter = text[at] as string;
    // A string has no quote inside, because that is written in hexadecimal too.
    if (letter === '"') at = text.indexOf('"', at + 1);
    else if (OPENING.includes(letter)) depth++;
    else if (CLOSING.includes(letter)) depth--;
    else if (letter === ',' && depth === 0) {
      args.push(text.slice(start, at).trim());
      start = at + 1;
    }
  }
  const last = text.slice(start).trim();
  return last === '' && args.length === 0 ? args : [...args, last];
}

/** The bytes of all strings in an argument, one after the other; `isCut` if strace has left some out. */
export function stringsIn(argument: string): {
  readonly bytes: Uint8Array;
  readonly isCut: boolean;
} {
  const parts = Array.from(argument.matchAll(/"((?:\\x[0-9a-f]{2})*)"(\.\.\.)?/g));
  return {
    bytes: Buffer.concat(parts.map(([, hex = '']) => bytesOf(hex))),
    isCut: parts.some(([, , dots]) => dots !== undefined),
  };
}

/** A path as text; undefined for NULL. */
export function pathIn(argument: string | undefined): string | undefined {
  return argument?.startsWith('"') ? Buffer.from(stringsIn(argument).bytes).toString() : undefined;
}

/** A descriptor and what the system calls it; AT_FDCWD is -100. */
export function descriptorIn(argument: string | undefined): {
  readonly number: number;
  readonly path: string | undefined;
} {
  const [, name, hex] = /^(-?\d+|AT_FDCWD)(?:<((?:\\x[0-9a-f]{2})*)>)?/.exec(argument ?? '') ?? [];
  return {
    number: name === 'AT_FDCWD' ? AT_FDCWD : Number(name ?? Number.NaN),
    path: hex === undefined ? undefined : Buffer.from(bytesOf(hex)).toString(),
  };
}

export const AT_FDCWD = -100;

const bytesOf = (hex: string): Uint8Array => Buffer.from(hex.replaceAll('\\x', ''), 'hex');
