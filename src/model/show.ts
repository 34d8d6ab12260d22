// How values look in messages and on a console. A message shows a value with its type, because '4' and 4, or 512 and 512n,
// would look the same without it. It never shows the contents of an object, because they may be secret, or long.

const SHOWN_MAX = 80;

/**
 * A value as a message shows it, in one short line and with its type: `'4'`, `512n`, `null`, `[object Uint8Array]`.
 * The contents of an object are never shown, because they may be secret, or long.
 */
export function formatValue(value: unknown): string {
  switch (typeof value) {
    case 'string':
      return quoted(value);
    case 'bigint':
      return `${value}n`;
    case 'function':
      return 'a function';
    case 'object':
      return value === null ? 'null' : tagOf(value);
    default:
      return Object.is(value, -0) ? '-0' : String(value);
  }
}

/** `[object Uint8Array]`, also for an object of another realm; it may be a proxy that throws. */
export function tagOf(value: unknown): string {
  try {
    return Object.prototype.toString.call(value);
  } catch {
    return '[object Object]';
  }
}

/** What steers a terminal, what has no place in XML, and what changes the direction of the words around it. */
const UNWRITABLE =
  // biome-ignore lint/suspicious/noControlCharactersInRegex: these are the characters in question
  /[\0-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ufffe\uffff\p{Cs}\p{Bidi_Control}]/gu;

/** Text with what would steer a terminal or break XML escaped as in JSON; line ends and tabs stay. */
export function escapeControls(text: string): string {
  return text.replace(UNWRITABLE, (one) => `\\u${one.charCodeAt(0).toString(16).padStart(4, '0')}`);
}

function quoted(text: string): string {
  const shown = text.length > SHOWN_MAX ? `${text.slice(0, SHOWN_MAX)}...` : text;
  // JSON escapes what would break the line or steer a terminal, but for the upper control characters.
  const inner = JSON.stringify(shown).slice(1, -1);
  return `'${inner.replace(/[\x7f-\x9f\u2028\u2029]/g, (c) => `\\u{${c.charCodeAt(0).toString(16)}}`)}'`;
}

/** Node, Deno and Bun call the method of this name to print an object. It is a registered symbol, so nothing is imported. */
const INSPECT = Symbol.for('nodejs.util.inspect.custom');

/** Sets the line that a console prints for an object, instead of its contents. */
export function withText<T extends object>(object: T, text: () => string): T {
  return Object.defineProperty(object, INSPECT, { value: text });
}

/** The line that `withText` has set; undefined without one. */
export function ownText(object: object): string | undefined {
  const text: unknown = Reflect.get(object, INSPECT);
  return typeof text === 'function' ? String(text.call(object)) : undefined;
}
