// What all subcommands share: options as data, from which both the help and the values come, and the errors of a command line.
//
//   0  it did what it was asked for, and the answer is good
//   1  it did, and the answer is bad: a crash was found, an image is wrong, a flush has failed
//   2  it could not: the words are wrong, or a file, an address or a program is not to be had
//
// A mistake of a user is answered in one line, without a stack, because the stack is about this program and the mistake is not.
// Any other error keeps its stack, because then this program is wrong.

import { parseArgs } from 'node:util';
import { MODE_NAMES, type ModeName, WriteBarrierError } from 'write-barrier';

/** The words are wrong. */
export class UsageError extends Error {}

/** It ran, and its answer is bad: exit code 1. */
export class Failure extends Error {}

/** An option without `value` is a switch. */
export interface Option {
  /** What its value is called in the help. */
  readonly value?: string;
  /** It may be given several times. */
  readonly many?: true;
  /** A line of the help, or several. */
  readonly text: string;
}

/** Options by name, without the dashes. */
export type Options = Readonly<Record<string, Option>>;

/** What was given, by option. */
export type Given<O extends Options> = {
  readonly [K in keyof O]?: O[K] extends { readonly many: true }
    ? string[]
    : O[K] extends { readonly value: string }
      ? string
      : boolean;
};

/** A subcommand. */
export interface Command {
  /** What follows its name: `FILE [options]`. */
  readonly usage: string;
  /** What it does: a sentence or a paragraph. */
  readonly about: string;
  /** Its options, under headings. */
  readonly groups: Readonly<Record<string, Options>>;
  /** What the help ends with. */
  readonly epilogue?: string;
  /** It does its work also if what it prints is lost. */
  readonly isService?: true;
  /** Answers the exit code. */
  run(words: readonly string[]): Promise<number>;
}

const HELP_OPTION: Options = { help: { text: 'prints this' } };
const WIDTH = 100;

/** The help of a subcommand. */
export function helpOf(name: string, { usage, about, groups, epilogue }: Command): string {
  const titles = Object.values(groups).flatMap((options) => Object.entries(options).map(titleOf));
  const wide = Math.max(...titles.map((title) => title.length), titleOf(['help', {}]).length) + 2;
  const list = (options: Options): string[] =>
    Object.entries(options).flatMap(([option, spec]) => {
      const [first = '', ...more] = wrapped(spec.text, WIDTH - wide - 2);
      const title = titleOf([option, spec]);
      return [
        `  ${title.padEnd(wide)}${first}`,
        ...more.map((line) => ' '.repeat(wide + 2) + line),
      ];
    });
  const sections = Object.entries(groups).map(([heading, options]) =>
    [`${heading}:`, ...list(options)].join('\n'),
  );
  return [
    `Usage: write-barrier ${name} ${usage}`,
    wrapped(about, WIDTH).join('\n'),
    ...sections,
    list(HELP_OPTION).join('\n'),
    ...(epilogue === undefined ? [] : [epilogue]),
  ].join('\n\n');
}

function titleOf([name, { value }]: [string, Partial<Option>]): string {
  return value === undefined ? `--${name}` : `--${name} ${value}`;
}

function wrapped(text: string, width: number): string[] {
  const lines = [''];
  for (const word of text.split(/\s+/)) {
    const line = lines.at(-1) as string;
    if (line !== '' && line.length + 1 + word.length > width) lines.push(word);
    else lines[lines.length - 1] = line === '' ? word : `${line} ${word}`;
  }
  return lines;
}

/**
 * The values and the operands in the words of a user.
 *
 * @param operandsMax how many operands there may be
 * @throws `UsageError` for unknown options and for too many operands
 */
export function readWords<O extends Options>(
  words: readonly string[],
  options: O,
  operandsMax: number,
): { readonly values: Given<O>; readonly operands: readonly string[] } {
  const known = Object.entries(options).map(([name, { value, many = false }]) => [
    name,
    { type: value === undefined ? 'boolean' : 'string', multiple: many },
  ]);
  let read: ReturnType<typeof parseArgs>;
  try {
    read = parseArgs({
      args: [...words],
      options: Object.fromEntries(known),
      allowPositionals: true,
    });
  } catch (error) {
    // Some messages of Node have several lines.
    const message = error instanceof Error ? error.message : String(error);
    throw new UsageError(message.replaceAll(/\s*\n\s*/g, ' '));
  }
  const { values, positionals: operands } = read;
  const extra = operands[operandsMax];
  if (extra !== undefined) throw new UsageError(`'${extra}' is one operand too many`);
  return { values: values as Given<O>, operands };
}

/** The only operand. */
export function operandIn(operands: readonly string[], what: string): string {
  const [operand] = operands;
  if (operand === undefined || operand === '') throw new UsageError(`${what} is missing`);
  return operand;
}

/** Bytes, as `1048576`, `64M` or `1G`; `least` is the smallest number that makes sense. */
export function bytesOf(option: string, text: string, least = 1): number {
  const [, digits = '', unit = ''] = /^(\d+)([KMGT]?)$/i.exec(text) ?? [];
  const bytes =
    digits === '' ? -1 : Number(digits) * 1024 ** ' KMGT'.indexOf(unit.toUpperCase() || ' ');
  if (Number.isSafeInteger(bytes) && bytes >= least) return bytes;
  throw new UsageError(`${option} takes bytes, as 1048576 or 64M, at least ${least}, not ${text}`);
}

/** A whole number within bounds. */
export function countOf(option: string, text: string, least: number, most: number): number {
  const count = Number(text);
  if (/^\d+$/.test(text) && count >= least && count <= most) return count;
  throw new UsageError(`${option} takes a whole number from ${least} to ${most}, not ${text}`);
}

/** Seconds, with a fraction if you like, as milliseconds. */
export function millisecondsOf(option: string, text: string, least: number): number {
  const ms = Math.round(Number(text) * 1000);
  if (/^\d+(?:\.\d+)?$/.test(text) && ms >= least && ms < 2 ** 31) return ms;
  throw new UsageError(`${option} takes seconds, at least ${least / 1000}, not ${text}`);
}

/** One of a few words, in any case. */
export function choiceOf<T extends string>(option: string, text: string, all: readonly T[]): T {
  const found = all.find((one) => one.toLowerCase() === text.toLowerCase());
  if (found !== undefined) return found;
  throw new UsageError(`${option} must be one of ${all.join(', ')}, not ${text}`);
}

/** The name of a mode, in any case. */
export const modeOf = (text: string): ModeName => choiceOf('--mode', text, MODE_NAMES);

/** A number with its noun: `1 flush`. */
export function counted(count: number, one: string, many = `${one}s`): string {
  return `${count} ${count === 1 ? one : many}`;
}

/** What is to be undone at the end: all of it, in the opposite order, whatever fails. */
export class Ends {
  readonly #undo: (() => unknown)[] = [];

  defer(undo: () => unknown): void {
    this.#undo.push(undo);
  }

  /** @throws the first error, when all was tried */
  async end(): Promise<void> {
    const errors: unknown[] = [];
    for (const undo of this.#undo.splice(0).reverse()) {
      try {
        await undo();
      } catch (error) {
        errors.push(error);
      }
    }
    if (errors.length > 0) throw errors[0];
  }
}

/** A table without lines, its columns as wide as their widest cell. Numbers stand on the right. */
export function tableOf(rows: readonly (readonly (string | number)[])[]): string[] {
  const [head = []] = rows;
  const widths = head.map((_, column) =>
    Math.max(...rows.map((row) => String(row[column] ?? '').length)),
  );
  return rows.map((row) =>
    row
      .map((cell, column) => {
        const width = widths[column] ?? 0;
        return typeof cell === 'number' ? String(cell).padStart(width) : cell.padEnd(width);
      })
      .join('  ')
      .trimEnd(),
  );
}

/** What the library calls its options, and what they are called here. */
const SPELLINGS: readonly (readonly [RegExp, string])[] = [
  [/pass lock: 'none'/g, 'use --no-lock'],
  [/pass readOnly: true/g, 'use --read-only'],
  [/pass a size/g, 'use --size'],
  [/pass blockSize: /g, 'use --block-size '],
  [/pass size: /g, '--size '],
  [/use --size, as in \{ size: (\d+) \}/g, 'use --size, as in --size $1'],
  [/use allowRemote: true to serve other machines/g, 'other machines need --tls-ca or --tls-psk'],
];

/** The message of an error, with the options of the command. */
export function messageFor({ message }: Error): string {
  return SPELLINGS.reduce((text, [wanted, by]) => text.replaceAll(wanted, by), message);
}

/**
 * Errors that need no stack: wrong words, and what the library or the system refuses.
 */
export function isExpected(error: unknown): error is Error {
  if (error instanceof UsageError || error instanceof Failure || WriteBarrierError.is(error))
    return true;
  return (
    error instanceof Error &&
    'code' in error &&
    /^(?:E[A-Z\d]+|ERR_FS_\w+)$/.test(String(error.code))
  );
}
