// The labels of the museum, held to everything else that is known: the guarantees of the model, what the modules say of
// their eras, the repair of each defect, and the crash kit's own verdict on the same runs.

import { readFile } from 'node:fs/promises';
import { describe, expect, test } from 'vitest';
import {
  type Answer,
  type Guarantees,
  guarantees,
  MODES,
  type ModeName,
  parseProgram,
  type Request,
  type Storage,
} from 'write-barrier';
import {
  BARRIER_ERAS,
  BLKBACK_ERAS,
  BLKFRONT_ERAS,
  type BlkbackEra,
  FLUSH_ERAS,
  SYSTEMS,
} from 'write-barrier/systems';
import { crashTest, deviceProfile } from 'write-barrier/testing';
import { everyOrder } from '../../examples/06-museum/disk.mjs';
import {
  BLOCK,
  type Exhibit,
  PROGRAM,
  profileOf,
  type Run,
} from '../../examples/06-museum/engine.mjs';
import * as systems from '../../examples/06-museum/exhibits.mjs';
import { type Label, labelOf } from '../../examples/06-museum/label.mjs';
import { ARRANGEMENTS, stackName } from '../../examples/08-stacks/arrangements.mjs';
import { runExample, runHere } from './run.js';

const halls = Object.entries(systems.HALLS).map(([hall, exhibits]) => ({ hall, exhibits }));
const exhibits = halls.flatMap(({ hall, exhibits }) =>
  exhibits.map((exhibit) => ({ key: `${hall}: ${exhibit.name}`, exhibit })),
);
const labels = new Map<string, Label>();
for (const { key, exhibit } of exhibits) labels.set(key, await labelOf(exhibit));

function labelAt(key: string): Label {
  const label = labels.get(key);
  if (!label) throw new Error(`there is no exhibit '${key}'`);
  return label;
}

/** What an exhibit is asked, where that is not the same as for all. */
function asked(key: string): Pick<Exhibit, 'program' | 'failures'> {
  const found = exhibits.find((exhibit) => exhibit.key === key);
  if (!found) throw new Error(`there is no exhibit '${key}'`);
  const { program, failures } = found.exhibit;
  return { ...(program !== undefined && { program }), ...(failures && { failures }) };
}

/** In the order of the columns. */
function inShort({ cells }: Label): string {
  const { before, after, durable, flush, failure } = cells;
  return [before, after, durable, flush, failure].join(' ');
}

const NO_CACHE = { disk: { cache: 'none' } } as const;
const WAITS = { client: 'waits' } as const;

// The model

/** What the model says, in the words of a label; the explicit flush is an empty barrier. */
function promised(given: Guarantees): string {
  if (given.barrierDurable === 'refused') return 'refused refused refused refused -';
  const cell = (answer: Answer): string => (answer === 'yes' ? 'yes' : 'NO');
  const { preBeforeBarrier, barrierBeforePost, barrierDurable, emptyBarrierFlushes } = given;
  const cells = [preBeforeBarrier, barrierBeforePost, barrierDurable, emptyBarrierFlushes].map(
    cell,
  );
  const asked = cells[0] === 'yes' && cells[2] === 'yes';
  return [...cells, asked ? cell(given.failureStopsBarrier ? 'yes' : 'no') : '-'].join(' ');
}

const pairs = Object.keys(MODES).flatMap((name) =>
  ([{}, NO_CACHE] as const).map((disk) => ({
    mode: name as ModeName,
    disk,
    cache: deviceProfile('disk' in disk ? disk.disk : {}).cache,
  })),
);

describe.each(pairs)('given mode $mode and a cache that is $cache', ({ mode, disk }) => {
  const device = deviceProfile({ orderedTags: true, ...('disk' in disk && disk.disk) });

  test('when our scheduler is an exhibit, then its label says what guarantees() says', async () => {
    const exhibit: Exhibit = { name: mode, ...systems.scheduler(mode), ...disk };
    const { rules, ...label } = await labelOf(exhibit, 'w0 w1 b2 w3 b');
    expect(inShort({ rules, ...label })).toBe(promised(guarantees(mode, device)));
    expect(rules).toEqual([]);
  });
});

test('given the kernels with barriers, when nothing fails, then each keeps what its mode promises, but for two', () => {
  const kept: string[] = [];
  for (const { key, exhibit } of exhibits.filter(({ key }) => key.startsWith('linux: '))) {
    if (exhibit.mode === undefined || exhibit.mode === 'NONE') continue;
    const said = promised(guarantees(exhibit.mode, deviceProfile(profileOf(exhibit))));
    const shown = inShort(labelAt(key));
    const upToFailure = (text: string): string => text.replace(/ \S+$/, '');
    if (upToFailure(said) === upToFailure(shown)) kept.push(exhibit.name);
    else expect(['2.6.24, TAG, no cache', '2.6.36, TAG_FLUSH']).toContain(exhibit.name);
  }
  expect(kept).toHaveLength(4);
});

// What is ours

/** Of whom the mode does not say it: the guest of the ring uses tags, which no failure stops. */
const TAGGED = /^(TAG|BlkFrontend)/;

test.each(exhibits.filter(({ exhibit }) => exhibit.ours))(
  'given $key, which is ours, then nothing is wrong with it',
  ({ key, exhibit: { name, cancels } }) => {
    const { wrong, rules, ...label } = labelAt(key);
    const failure = TAGGED.test(name) ? 'NO' : 'yes';
    expect(inShort({ wrong, rules, ...label })).toBe(
      cancels ? 'yes yes - yes -' : `yes yes yes yes ${failure}`,
    );
    expect(wrong.filter((text) => !/^the first (write|flush) fails: /.test(text))).toEqual([]);
    expect(rules).toEqual([]);
  },
);

// What the modules say

test.each(ARRANGEMENTS.filter(({ queue }) => queue === 'own'))(
  'given the stack "$name", then it holds what its arrangement claims',
  (arrangement) => {
    const { before, after, durable, flush } = labelAt(`stacks: ${stackName(arrangement)}`).cells;
    const holds = [before, after, durable].every((cell) => cell === 'yes');
    expect({ holds, flush }).toEqual({
      holds: arrangement.barrierHolds,
      flush: arrangement.emptyBarrierHolds ? 'yes' : 'NO',
    });
  },
);

test.each(Object.values(BLKBACK_ERAS))(
  'given the backend $name under one ring, then its barrier does what its era says',
  async (era) => {
    const front = BLKFRONT_ERAS['linux-2.6.36'];
    const { cells } = await labelOf({ name: era.name, ...systems.xen(front, { backend: era }) });
    const { barrier } = era;
    const whole = barrier.by === 'hard-barrier' || barrier.holdsLater;
    const forced = barrier.by === 'hard-barrier' || barrier.payload !== 'nothing';
    expect(cells).toMatchObject({
      before: 'yes',
      // What is not forced may be overtaken by whoever waited for it, too.
      after: whole && forced ? 'yes' : 'NO',
      durable: forced ? 'yes' : 'NO',
      flush: era.emptyBarrier === 'taken' ? 'yes' : 'fails',
    });
  },
);

test('given the three ways of a Solaris guest, then (a) costs a write more for each flush, and the ring decides the rest', () => {
  const cost = (name: string) => labelAt(`solaris: ${name}`).cost;
  const [c, b, a] = [cost('(c) flush operation'), cost('(b) empty barrier'), cost('(a) old write')];
  expect(b).toEqual(c);
  expect(a).toEqual({ writes: c.writes + c.flushes, flushes: c.flushes });
  expect(cost('cache off')).toEqual({ writes: 4, flushes: 4 });
});

// The defects, each with its repair

interface Defect {
  readonly key: string;
  readonly shown: string;
  readonly rules?: readonly string[];
  /** The same exhibit with the one thing mended, and what is shown after that. */
  readonly mended: Omit<Exhibit, 'name'>;
  readonly after: string;
}

type BlkbackBarrier = BlkbackEra['barrier'];
const { '2009': QEMU_2009 } = SYSTEMS['qemu-2009'].eras;
const { '2010': TAPDISK_2010 } = SYSTEMS.tapdisk.eras;
const MODERN = BLKFRONT_ERAS['linux-5.x'];
const TELLING = { ...MODERN, unsupported: 'told' } as const;
const BARRIERS = { 'feature-barrier': '1', 'feature-flush-cache': '0' };
const LINUX_3_2 = BLKBACK_ERAS['linux-3.2'];
const WHOLE: BlkbackBarrier = {
  by: 'preflush',
  waitsFor: 'device',
  holdsLater: true,
  payload: 'fua',
};
const mended = (barrier: Partial<BlkbackBarrier>) => ({
  ...LINUX_3_2,
  barrier: { ...LINUX_3_2.barrier, ...barrier } as BlkbackBarrier,
});
const front = BLKFRONT_ERAS['linux-2.6.36'];
const DEFECTS: readonly Defect[] = [
  {
    key: 'linux: 2.6.24, TAG, no cache',
    shown: 'yes yes yes NO NO',
    rules: ['C3'],
    mended: {
      ...systems.linux({ ...BARRIER_ERAS['2.6.24'], emptyBarrier: 'masked' }, 'TAG'),
      ...NO_CACHE,
    },
    after: 'yes yes yes yes NO',
  },
  {
    key: 'linux: 2.6.36, TAG_FLUSH',
    shown: 'hangs hangs hangs hangs -',
    rules: ['C14'],
    mended: systems.linux({ ...BARRIER_ERAS['2.6.36'], flushProxies: 'packet' }, 'TAG_FLUSH'),
    after: 'yes yes yes yes NO',
  },
  {
    key: 'linux: 2.6.37, nobody waits',
    shown: 'NO NO yes NO -',
    rules: ['C11'],
    mended: { ...systems.flushMachine('2.6.37'), ...WAITS },
    after: 'yes yes yes yes NO',
  },
  {
    key: 'linux: 2.6.37, who waits',
    shown: 'yes yes yes yes NO',
    mended: { ...systems.flushMachine({ ...FLUSH_ERAS['2.6.37'], afterError: 'stop' }), ...WAITS },
    after: 'yes yes yes yes yes',
  },
  {
    key: 'qemu: May 2009',
    shown: 'yes yes yes refused NO',
    mended: systems.qemu({
      ...QEMU_2009,
      failuresStopNothing: false,
      ignoresSyncErrors: false,
      refusesEmptyBarriers: false,
    }),
    after: 'yes yes yes yes yes',
  },
  {
    key: 'qemu: May 2009, b2 cancelled',
    shown: 'NO yes - refused -',
    rules: ['C13'],
    mended: {
      ...systems.qemu({ ...QEMU_2009, cancellableWhileDraining: false }),
      cancels: true,
    },
    after: 'yes yes yes refused NO',
  },
  {
    key: 'qemu: May 2009, b2 cancelled, 1 worker',
    shown: 'yes hangs - refused -',
    rules: ['C14'],
    mended: {
      ...systems.qemu(
        { ...QEMU_2009, cancelKeepsCount: false, cancelDropsPlace: false },
        { threadsMax: 1 },
      ),
      cancels: true,
    },
    after: 'yes yes - refused -',
  },
  {
    key: 'blktap: before the patch',
    shown: 'refused refused refused refused -',
    mended: systems.tapdisk('2010'),
    after: 'yes yes yes refused NO',
  },
  {
    key: 'blktap: November 2010',
    shown: 'yes yes yes refused NO',
    mended: systems.tapdisk({ ...TAPDISK_2010, acceptsEarlierFailures: false }),
    after: 'yes yes yes refused yes',
  },
  {
    key: 'virtio: before it, BARRIER',
    shown: 'yes yes yes NO NO',
    mended: systems.system('virtio-blk', { era: 'beforePatch', features: ['BARRIER', 'FLUSH'] }),
    after: 'yes yes yes yes NO',
  },
  {
    key: 'virtio: before it, neither',
    shown: 'refused refused refused refused -',
    mended: { ...systems.system('virtio-blk', { era: 'afterPatch', features: [] }), ...NO_CACHE },
    after: 'yes yes yes yes NO',
  },
  {
    key: 'virtio: after it, neither',
    shown: 'NO NO NO NO -',
    mended: systems.system('virtio-blk', { era: 'afterPatch', features: ['FLUSH'] }),
    after: 'yes yes yes yes NO',
  },
  {
    key: 'xen: 2.6.36 on 3.2',
    shown: 'yes NO NO yes -',
    mended: systems.xen(front, { backend: mended({ holdsLater: true, payload: 'fua' }) }),
    after: 'yes yes yes yes NO',
  },
  {
    key: 'xen: 2.6.36 on 4.x, two rings',
    shown: 'NO NO NO NO -',
    mended: systems.xen(front, {
      backend: { ...BLKBACK_ERAS['linux-4.x-multi-ring'], barrier: WHOLE },
      rings: 2,
    }),
    // A barrier that still waits stops its own ring only, whatever else is mended.
    after: 'yes NO yes yes NO',
  },
  {
    key: 'xen: 5.x on 3.2, by flush',
    shown: 'yes yes yes yes NO',
    mended: {
      ...systems.xen({ ...MODERN, emptyErrorIsUnsupported: false }, { backend: LINUX_3_2 }),
      ...WAITS,
    },
    after: 'yes yes yes yes yes',
  },
  {
    key: 'xen: 5.x on 3.2, by barrier',
    shown: 'yes NO NO yes -',
    mended: {
      ...systems.xen(
        { ...MODERN, emptyErrorIsUnsupported: false },
        { backend: mended({ payload: 'fua' }), nodes: BARRIERS },
      ),
      ...WAITS,
    },
    after: 'yes yes yes yes yes',
  },
  {
    key: 'xen: 5.x, b2 not supported',
    shown: 'NO NO NO NO -',
    mended: {
      ...systems.xen(TELLING, { backend: systems.takingBack(2), nodes: BARRIERS }),
      ...WAITS,
    },
    after: 'refused refused refused - -',
  },
  {
    key: 'xen: 5.x on 3.2, two errors',
    shown: 'yes NO NO NO -',
    mended: {
      ...systems.twoBios({ ...LINUX_3_2, status: 'worst' }),
      ...WAITS,
      ...asked('xen: 5.x on 3.2, two errors'),
    },
    after: 'fails fails fails - -',
  },
  {
    key: 'solaris: cache off, on 3.2',
    shown: 'yes yes NO NO -',
    mended: systems.solaris({ backend: mended({ payload: 'fua' }), writeCache: false }),
    after: 'yes yes yes yes yes',
  },
];

describe.each(DEFECTS)('given $key', ({ key, shown, rules = [], mended, after }) => {
  test('then its label tells what is wrong, and without the defect no more', async () => {
    const label = labelAt(key);
    expect(inShort(label)).toBe(shown);
    expect(label.rules.map((rule) => rule.split(':')[0])).toEqual(rules);
    const repaired = await labelOf({ name: key, ...mended });
    expect(inShort(repaired)).toBe(after);
    expect(repaired.rules).toEqual([]);
  });
});

// The crash kit, asked another way

const names = ['before', 'after', 'durable', 'flush'] as const;

/** What a user would write as a check: which blocks are there, and what had been acknowledged. */
function checkOf(
  name: (typeof names)[number],
  requests: readonly Request[],
  { outcomes }: Run,
  cancelled: boolean,
) {
  const barrier = requests.findIndex((request) => request.kind === 'write' && request.barrier);
  const last = requests.length - 2;
  return (found: readonly boolean[], acknowledged: readonly number[]): boolean => {
    const earlier = found.slice(0, barrier).every(Boolean);
    switch (name) {
      case 'before':
        return !found[barrier] || (!cancelled && earlier);
      case 'after':
        return !found[last] || (cancelled ? earlier : found[barrier] === true);
      case 'durable':
        return !acknowledged.includes(barrier) || found[barrier] === true;
      case 'flush':
        return (
          !acknowledged.includes(last + 1) ||
          found.every((there, n) => there || outcomes[n] !== 'done')
        );
    }
  };
}

function recovered(disk: Storage, requests: readonly Request[]): boolean[] {
  return requests.slice(0, -1).map((request, n) => {
    if (request.kind !== 'write') return false;
    const bytes = new Uint8Array(request.length);
    const written = new Uint8Array(request.length).fill(n + 1);
    disk.read(request.offset, bytes);
    return Buffer.compare(bytes, written) === 0;
  });
}

test.each(exhibits)(
  'given the runs of $key, when crashTest judges them, then it agrees',
  async ({ key, exhibit }) => {
    const { cells, runs } = labelAt(key);
    const requests = parseProgram(exhibit.program ?? PROGRAM);
    for (const name of names) {
      if (!['yes', 'NO'].includes(cells[name])) continue;
      let failed = 0;
      for (const run of runs) {
        const cancelled = run.outcomes.includes('cancelled');
        const check = checkOf(name, requests, run, cancelled);
        const marks = run.trace.marks.flatMap(({ time, value }) => {
          const { answered } = value as { answered?: number };
          const told = { kind: 'acknowledge', operation: answered };
          return answered === undefined ? [] : [{ time, value: told }];
        });
        const report = await crashTest<number, boolean[]>({
          size: 8 * BLOCK,
          profile: profileOf(exhibit),
          trace: { ...run.trace, marks },
          workload: () => {},
          recover: (disk) => recovered(disk, requests),
          check: (found, { acknowledged }) => check(found, acknowledged),
        });
        if (report.verdict === 'failed') failed += 1;
        else expect(report.covered).toBe(report.images);
      }
      expect(failed > 0, name).toBe(cells[name] === 'NO');
    }
  },
);

// The disk

test('given three choices of 3, 2 and 1, when every order is tried, then there are six, each once', async () => {
  const orders = await everyOrder(async (choose) => {
    const left = ['a', 'b', 'c'];
    let order = '';
    while (left.length > 0) order += left.splice(choose(left.length), 1);
    return order;
  });
  expect([...orders].sort()).toEqual(['abc', 'acb', 'bac', 'bca', 'cab', 'cba']);
});

test('given writes that nobody orders, when they run, then the disk answers in every order, and tags leave fewer', async () => {
  const runsOf = async (mode: ModeName, words: string): Promise<number> => {
    const { runs } = await labelOf({ name: mode, ...systems.scheduler(mode), ...NO_CACHE }, words);
    return new Set(runs.map(({ trace }) => trace.commands.map(({ completed }) => completed).join()))
      .size;
  };
  expect(await runsOf('NONE', 'w0 w1 w2 w3 b')).toBe(24);
  expect(await runsOf('TAG', 'w0 w1 b2 w3 b')).toBe(2);
});

// The page

describe('the example', async () => {
  const path = new URL('../../examples/06-museum/README.md', import.meta.url);
  const page = (await readFile(path, 'utf8')).replaceAll('\r\n', '\n');
  const shown = /^```text\n([\s\S]*?)^```$/m.exec(page)?.[1] ?? '';

  test('prints what its page shows', async () => {
    expect(await runExample(['museum'])).toEqual({ code: 0, stdout: shown, stderr: '' });
  });

  test.each(halls)(
    'with $hall shows that hall, and all that is in it',
    async ({ hall, exhibits }) => {
      const { code, stdout, stderr } = await runHere('06-museum', [hall]);
      expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
      expect(shown).toContain(stdout);
      const rows = stdout
        .trimEnd()
        .split('\n\n')[0]
        ?.split('\n')
        .filter((line) => !line.startsWith(' '));
      expect(rows?.[0]).toMatch(new RegExp(`^${hall} +before`));
      expect(rows?.slice(1).map((row) => row.split(/ {2,}/)[0]?.trim())).toEqual(
        exhibits.map(({ name }) => name),
      );
    },
  );

  test('with any other name says which there are', async () => {
    const { code, stdout, stderr } = await runExample(['museum', 'vax']);
    expect({ code, stdout }).toEqual({ code: 1, stdout: '' });
    expect(stderr).toBe(`'vax' is no hall; there are ${Object.keys(systems.HALLS).join(', ')}\n`);
  });
});
