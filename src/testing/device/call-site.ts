// Where in the user's code a call came from. Only a stack trace knows, so this depends on the engine: where the form of
// its stacks is unknown, or a stack has frames of this library only, there is no answer.

import type { Observer } from '../../model/index.js';

/** A call site. The text of its stack is made only when it is needed. */
type CallSite = Error;

/** Call sites are kept for so many commands, because a host that never ends would fill the memory. */
const SITES_MAX = 100_000;

/** The call sites of the commands of a disk, by their numbers. */
export class CallSites {
  readonly #sites: (CallSite | undefined)[] = [];
  /** That of the request which the next command serves, if a scheduler has told it. */
  #next: CallSite | undefined;

  get count(): number {
    return this.#sites.length;
  }

  /** Adds the call site of the next command: what the observer has told, otherwise the current call. */
  add(): void {
    const isKept = this.count < SITES_MAX;
    this.#sites.push(isKept ? (this.#next ?? callSite()) : undefined);
    this.#next = undefined;
  }

  /** For a scheduler: tells the call site of the request that each command serves, before the device gets the command. */
  get observer(): Observer {
    const sites = new Map<number, CallSite>();
    return (event) => {
      if (event.kind === 'submit') sites.set(event.request, callSite());
      else if (event.kind === 'settle') sites.delete(event.request);
      else if (event.kind === 'dispatch') this.#next = sites.get(event.requests[0] ?? -1);
    };
  }

  /**
   * The two innermost calls outside of this library, as `name (file:line), from name (file:line)`. Two, because the first
   * is often an adapter of the user's, which says nothing about the mistake. Who has called the crash test does not count.
   */
  describe(command: number): string | undefined {
    const frames = this.#framesOf(command);
    const kit = frames.findIndex(({ name, file }) => name === 'attempt' && file.startsWith(HOME));
    const calls = frames
      .slice(0, kit < 0 ? undefined : kit)
      .filter(({ file }) => !file.startsWith(HOME))
      .slice(0, 2)
      .map(({ name, file, line }) => {
        const where = `${nameOf(file)}:${line}`;
        return name === '' || name.includes('<anonymous>') ? where : `${name} (${where})`;
      });
    return calls.join(', from ') || undefined;
  }

  /**
   * Why there is no description: in a bundle the library and its user are one file. Undefined if that is not the reason.
   */
  whyUnknown(command: number): string | undefined {
    const files = new Set(this.#framesOf(command).map(({ file }) => file));
    if (files.size !== 1 || !files.has(FILE)) return undefined;
    const what = `the stacks name ${nameOf(FILE)} only, which has this library in it`;
    return `${what}; use its source map (node --enable-source-maps), or bundle without write-barrier`;
  }

  #framesOf(command: number): Frame[] {
    const site = this.#sites[command];
    return site === undefined ? [] : framesOf(site);
  }
}

/** Deep enough for the calls of the library and a few of the user's. */
const FRAMES = 30;

/** The call site of the current call. */
function callSite(): CallSite {
  const { stackTraceLimit } = Error as { stackTraceLimit?: number };
  // Reflect: where Error is frozen, the frames are as many as they are.
  Reflect.set(Error, 'stackTraceLimit', FRAMES);
  const site = new Error('call site');
  Reflect.set(Error, 'stackTraceLimit', stackTraceLimit);
  return site;
}

/** The maximum length of a line that is parsed, in characters: a name, and a path as long as systems allow. */
const LINE_MAX = 5000;

interface Frame {
  readonly name: string;
  readonly file: string;
  readonly line: string;
}

/** The last part of a path. */
const nameOf = (file: string): string => file.slice(file.lastIndexOf('/') + 1);

/** V8 writes `at name (file:line:column)`, others `name@file:line:column`. */
function framesOf({ stack }: CallSite): Frame[] {
  // `Error.prepareStackTrace` of a program may return anything.
  if (typeof stack !== 'string') return [];
  return stack.split('\n').flatMap((text) => {
    // The expressions below take time that is quadratic in the length of a line, and a function may have any name.
    if (text.length > LINE_MAX) return [];
    const [, name = '', file, line] =
      /^\s*at (?:async )?(?:(.*) \()?((?:file:\/\/|https?:\/\/|\/|[A-Za-z]:\\).*?):(\d+):\d+\)?$/.exec(
        text,
      ) ??
      /^(.*)@(.*?):(\d+):\d+$/.exec(text) ??
      [];
    return file === undefined || line === undefined ? [] : [{ name, file, line }];
  });
}

/** The file that has this code. */
const FILE = framesOf(callSite())[0]?.file ?? '';

/** The folder of the library: that of the built file, or `src` when it runs from its sources. */
const HOME = FILE.replace(/(testing\/device\/)?[^/]*$/, '');
