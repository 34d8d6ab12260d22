// A store of one number, what a power cut may do to it, and the row of letters that says so.

import { crashFiles } from '../../../src/testing/files/crash-files.js';
import type { CrashFilesTest } from '../../../src/testing/files/files-test.js';
import type { FileModelName } from '../../../src/testing/files/models.js';

export interface Store {
  set(root: string, value: number): unknown;
  get(root: string): number | Promise<number>;
}

/** The columns of a row. */
const MODELS: readonly FileModelName[] = ['strict', 'ext4', 'xfs', 'btrfs', 'posix'];

/** The number 0 is replaced by 1, then by 2. */
export function replacing({ set, get }: Store, isDurable: boolean): CrashFilesTest<number, number> {
  return {
    before: async (root) => void (await set(root, 0)),
    async workload(root, journal) {
      for (const value of [1, 2]) {
        journal.begin(value);
        await set(root, value);
        // Who is promised nothing is told nothing.
        if (isDurable) journal.acknowledge(value);
      }
    },
    recover: get,
    check: (value, { acknowledged, begun }) =>
      isDurable ? value >= Math.max(0, ...acknowledged) : [0, ...begun].includes(value),
  };
}

/**
 * For each model a letter for "some value that was begun is there", and one for "what was acknowledged is there": P if it is
 * proved, F if it fails.
 */
export async function rowOf(store: Store): Promise<string> {
  const cells: string[] = [];
  for (const model of MODELS) {
    let cell = '';
    for (const isDurable of [false, true]) {
      const { verdict } = await crashFiles({ ...replacing(store, isDurable), models: [model] });
      cell += { proved: 'P', passed: 'p', failed: 'F', hung: 'h' }[verdict];
    }
    cells.push(cell);
  }
  return cells.join(' ');
}
