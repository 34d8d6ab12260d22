// Where in the user's code a call came from. Only a stack trace knows, so this depends on the engine: where its form is
// unknown, or nothing but this library is in it, there is no answer.

/** A moment to ask about later: the text of a stack is made only when somebody wants it. */
export type CallSite = Error;

/** Deep enough for the library's own calls and a few of the user's. */
const FRAMES = 30;

/** Who is calling now. */
export function callSite(): CallSite {
  const { stackTraceLimit } = Error as { stackTraceLimit?: number };
  // Reflect: where Error is frozen, the frames are as many as they are.
  Reflect.set(Error, 'stackTraceLimit', FRAMES);
  const site = new Error('call site');
  Reflect.set(Error, 'stackTraceLimit', stackTraceLimit);
  return site;
}

interface Frame {
  readonly name: string;
  readonly file: string;
  readonly line: string;
}

/** The innermost call that is not of this library, as `name (file:line)`. */
export function describeSite(site: CallSite): string | undefined {
  const frame = framesOf(site).find(({ file }) => !file.startsWith(HOME));
  if (!frame) return undefined;
  const { name, file, line } = frame;
  const where = `${file.slice(file.lastIndexOf('/') + 1)}:${line}`;
  return name === '' || name.includes('<anonymous>') ? where : `${name} (${where})`;
}

/** V8 writes `at name (file:line:column)`, others `name@file:line:column`. */
function framesOf({ stack }: CallSite): Frame[] {
  // A program may have made something else of its stacks.
  if (typeof stack !== 'string') return [];
  return stack.split('\n').flatMap((text) => {
    const [, name = '', file, line] =
      /^\s*at (?:async )?(?:(.*) \()?((?:file:\/\/|https?:\/\/|\/|[A-Za-z]:\\).*?):(\d+):\d+\)?$/.exec(
        text,
      ) ??
      /^(.*)@(.*?):(\d+):\d+$/.exec(text) ??
      [];
    return file === undefined || line === undefined ? [] : [{ name, file, line }];
  });
}

/** Where the library is: the folder of this file when it is built, and `src` before. */
const HOME = (framesOf(callSite())[0]?.file ?? '').replace(/(testing\/device\/)?[^/]*$/, '');
