// Goal: what is known of SQLite and LevelDB comes out of their own calls. Method: Debian's Python runs both under strace, unmodified; their
// recovery, in a process that stays, looks at every tree that a power cut may leave on ext4, xfs and btrfs.
//
// What SQLite's manual says of `pragma synchronous`: OFF "might become corrupted"; NORMAL has "a very small (though non-zero)
// chance" of corruption in DELETE mode, and is consistent but not durable in WAL mode; FULL is safe, and with EXTRA "additional
// durability if the commit is followed closely by a power loss", because the directory of the journal is synced, too.
//
// SQLite asks for fdatasync, of directories as well. In WAL mode it maps a file that several processes share; alone with its database
// (locking_mode=EXCLUSIVE) it does without, and then nothing is missing in the record.

import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { crashFiles, type FilesReport, straceFiles } from 'write-barrier/testing/files';
import { NATIVE_STORES, type NativeStore } from './native-stores.js';
import { missing, PYTHON, run, titled } from './nbd-programs.js';

const PROGRAM = new URL('native-stores.py', import.meta.url).pathname;

const python = missing(PYTHON, 'strace');
const absentFor = async (module: string): Promise<string[]> => {
  if (python.length > 0) return python;
  const { code } = await run(PYTHON, ['-c', `import ${module}`]);
  return code === 0 ? [] : [`module ${module} of ${PYTHON}`];
};
const of = (kind: string): readonly NativeStore[] =>
  NATIVE_STORES.filter(({ store }) => store.startsWith(kind));
const SUBJECTS = [
  { name: 'SQLite', stores: of('sqlite'), absent: await absentFor('sqlite3') },
  { name: 'LevelDB', stores: of('level'), absent: await absentFor('plyvel') },
];

describe.each(SUBJECTS)('$name', ({ stores, absent }) => {
  const folder = mkdtempSync(join(existsSync('/dev/shm') ? '/dev/shm' : tmpdir(), 'native-'));
  let recover: (store: string, root: string) => Promise<number>;
  let end: () => Promise<unknown>;

  beforeAll(() => {
    if (absent.length > 0) return;
    const child = spawn(PYTHON, [PROGRAM, 'recoveries'], { stdio: ['pipe', 'pipe', 'inherit'] });
    const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
    const closed = new Promise((resolve) => child.once('close', resolve));
    end = () => {
      child.stdin.end();
      return closed;
    };
    recover = async (store, root) => {
      child.stdin.write(`${JSON.stringify([store, root])}\n`);
      const { value: line = '{"error":"the process has ended"}' } = await lines.next();
      const { value, error } = JSON.parse(line) as { value?: number; error?: string };
      if (value === undefined) throw new Error(error);
      return value;
    };
  });
  afterAll(async () => {
    await end?.();
    rmSync(folder, { recursive: true });
  });

  const reported = async (store: string, isDurable: boolean): Promise<FilesReport> => {
    const root = mkdtempSync(join(folder, 'store-'));
    const acknowledges = isDurable ? 'yes' : 'no';
    const command = [PYTHON, PROGRAM, 'workload', store, root, acknowledges] as const;
    const trace = await straceFiles({ root, command });
    return crashFiles<number, number>({
      ...{ trace, wholeTree: true, recoveriesMax: 100_000 },
      workload: () => {},
      recover: (at) => recover(store, at),
      check: (value, { acknowledged, begun }) =>
        isDurable
          ? value >= Math.max(0, ...acknowledged)
          : value >= 0 && value <= Math.max(0, ...begun),
    });
  };

  test.skipIf(absent.length > 0).each(stores)(
    titled('$name: consistent is $consistent, durable is $durable', absent),
    async ({ store, consistent, durable }) => {
      const found = [];
      for (const isDurable of [false, true]) found.push((await reported(store, isDurable)).verdict);
      expect(found).toEqual([consistent, durable]);
    },
  );
});
