// Goal: a log as large as people have it is a crash space in a small process. Method: each log is counted, sampled and explored
// by a child whose heap is limited (real-logs.mjs, which says how it is judged), and that measures its own peak. How long
// that takes is measured by `npm run bench -- logs`, because a busy machine may take any time.

import { execFile } from 'node:child_process';
import { copyFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { expect, test } from 'vitest';
import { EXHAUSTIVE } from '../kit/amount.js';
import { installPackage, temporaryDirectory } from '../node/support.js';

const SCRIPT = fileURLToPath(new URL('real-logs.mjs', import.meta.url));

interface Found {
  /** The peak of the resident memory of the process, without the log itself. */
  readonly mib: number;
  readonly entries: number;
  /** The count is that of a counter for each sector. */
  readonly isCounted: boolean;
  /** States and outcomes that no epoch of the log allows. */
  readonly impossible: number;
  readonly recoveries: number;
  /** All crash states are covered by the outcomes, where all outcomes were seen. */
  readonly isCovered: boolean;
}

interface Log {
  readonly about: string;
  readonly name: string;
  readonly entries: number;
  readonly heapMib?: number;
  readonly mibMax?: number;
}

const LOGS: readonly Log[] = [
  { about: 'a discard of all of 320 MiB and a write', name: 'discard', entries: 2 },
  {
    about: '13 MB of writes, and 370 MB of discards that cut across them',
    name: 'mixed',
    entries: 650,
  },
];

const LARGE: readonly Log[] = [
  { about: '64 discards of all of 320 MiB and a write', name: 'discards', entries: 65 },
  // A log of this size takes half of its own size besides.
  { about: '1 GiB of writes', name: 'gibibyte', entries: 262_148, heapMib: 420, mibMax: 512 },
];

test.each(EXHAUSTIVE ? [...LOGS, ...LARGE] : LOGS)(
  'given $about, the crash space needs little memory',
  async (log) => {
    const { name, entries, heapMib = 300, mibMax = 300 } = log;
    const found = (await measured(name, heapMib)) as Found;
    expect(found).toMatchObject({ entries, isCounted: true, impossible: 0, isCovered: true });
    expect(found.recoveries).toBeGreaterThan(1);
    expect(found.mib).toBeLessThan(mibMax);
  },
);

test.each([
  ['too many versions', 'nested', 1_200, /^the trace is too long: .* more than 4000000 versions/],
  ['too many writes that overlap', 'entangled', 300, /^too many writes overlap in one region/],
] as const)(
  'given %s, a log is refused before the heap is full',
  async (_, name, heapMib, message) => {
    expect(await measured(name, heapMib)).toEqual({
      code: 'INVALID_ARGUMENT',
      message: expect.stringMatching(message),
    });
  },
);

/** What a process with that heap prints about a log. */
async function measured(name: string, heapMib: number): Promise<unknown> {
  const directory = temporaryDirectory();
  installPackage(directory);
  const script = join(directory, 'real-logs.mjs');
  copyFileSync(SCRIPT, script);
  const words = [`--max-old-space-size=${heapMib}`, script, name];
  const { stdout } = await promisify(execFile)(process.execPath, words, { cwd: directory });
  return JSON.parse(stdout);
}
