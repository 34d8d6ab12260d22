// The functions of node:fs as they were before any of them was replaced, and what all copies of this code share.
//
// A process may have several copies: one as an ES module and one as CommonJS, one of a preloaded module. They must know of each
// other, because the second to replace a function would take that of the first for the original, and record each call twice.

import fs from 'node:fs';

interface Shared {
  readonly real: typeof fs;
  readonly realPromises: typeof fs.promises;
  readonly setImmediate: typeof globalThis.setImmediate;
  /** Sessions that are open. */
  readonly sessions: Set<unknown>;
  /** What has replaced functions of node:fs, and not put them back. */
  users: number;
  /** How many calls of the kit's own are under way. */
  quiet: number;
}

const KEY = Symbol.for('write-barrier.files');

const home = globalThis as { [KEY]?: Shared };
home[KEY] ??= {
  real: { ...fs },
  realPromises: { ...fs.promises },
  // Taken early: a test may replace it by a clock of its own.
  setImmediate: globalThis.setImmediate,
  sessions: new Set(),
  users: 0,
  quiet: 0,
};
export const shared: Shared = home[KEY];

/** The originals. Some of them call others by their public names, so call those of them within `quietly`. */
export const real: typeof fs = shared.real;

/** The originals of fs.promises. */
export const realPromises: typeof fs.promises = shared.realPromises;

/** Runs what is the kit's own; `run` must not wait. */
export function quietly<T>(run: () => T): T {
  shared.quiet++;
  try {
    return run();
  } finally {
    shared.quiet--;
  }
}
