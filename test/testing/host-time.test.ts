// How long a host takes makes no difference to what the simulated disk can do to it. Goal: the two mistakes that hosts make
// most, a write that is not waited for before the flush that is to cover it, and an acknowledgement before its flush has
// ended, are found whatever the host does in between; the right host is proved, and a replay is the same run. Method:
// each kind of pause that JavaScript has stands in the gaps of a bad host and of a good one.

import { readFile } from 'node:fs';
import { open, readFile as readLater } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { isDeepStrictEqual } from 'node:util';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { crashTest } from '../../src/testing/crash-test/crash-test.js';
import type { CrashTest, Journal } from '../../src/testing/crash-test/types.js';
import { delay } from '../../src/testing/device/event-loop.js';
import { VolatileDisk } from '../../src/testing/device/volatile-disk.js';
import { FLUSH, first, full, PLAIN, SECTOR } from './sectors.js';

const HERE = fileURLToPath(import.meta.url);

type Pause = () => Promise<unknown>;
type Workload = (disk: VolatileDisk, journal: Journal<string>) => Promise<void>;

const early =
  (pause: Pause): Workload =>
  async (disk, journal) => {
    await disk.write(0, full(), PLAIN);
    await disk.write(SECTOR, full(), PLAIN);
    const flushed = disk.flush(FLUSH);
    await pause();
    journal.acknowledge('safe');
    await flushed;
  };
const forgotten =
  (pause: Pause): Workload =>
  async (disk, journal) => {
    const written = disk.write(0, full(), PLAIN);
    await disk.write(SECTOR, full(), PLAIN);
    await pause();
    await disk.flush(FLUSH);
    journal.acknowledge('safe');
    await written;
  };
const right =
  (pause: Pause): Workload =>
  async (disk, journal) => {
    const written = disk.write(0, full(), PLAIN);
    await pause();
    await disk.write(SECTOR, full(), PLAIN);
    await written;
    await pause();
    await disk.flush(FLUSH);
    await pause();
    journal.acknowledge('safe');
  };

/** The timers that keep the process alive. */
const timersOpen = (): number =>
  process.getActiveResourcesInfo().filter((name) => name === 'Timeout').length;

// The kit counts timers. One of the test runner's that ends while the host waits for its own would be taken for that one, so
// a test begins when they have ended.
beforeEach(async () => {
  for (let waitedMs = 0; waitedMs < 1000 && timersOpen() > 0; waitedMs += 5) {
    await new Promise<void>((resolve) => delay(5, resolve));
  }
});

const testOf = (workload: Workload): CrashTest<string, string> => ({
  size: 2 * SECTOR,
  workload,
  recover: (disk) => `${first(disk, 0)} ${first(disk, 1)}`,
  check: (found, { acknowledged }) => acknowledged.length === 0 || found === '1 1',
});

const times = async (count: number, pause: Pause): Promise<void> => {
  for (let i = 0; i < count; i++) await pause();
};
const awaits = (count: number) => () => times(count, async () => undefined);
const immediate = () => new Promise((resolve) => setImmediate(resolve));
const timer = (ms: number) => () => new Promise((resolve) => setTimeout(resolve, ms));
const message = () =>
  new Promise<void>((resolve) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => {
      port1.close();
      resolve();
    };
    port2.postMessage(0);
  });

const PAUSES: Readonly<Record<string, Pause>> = {
  'no await': awaits(0),
  '16 awaits': awaits(16),
  '1,000 awaits': awaits(1000),
  '100,000 awaits': awaits(100_000),
  'a tick': () => new Promise<void>((resolve) => process.nextTick(resolve)),
  'an immediate': immediate,
  '100 immediates': () => times(100, immediate),
  'a timer of no time': timer(0),
  'three timers of no time': () => times(3, timer(0)),
  'a timer of 20 ms': timer(20),
  'ten messages': () => times(10, message),
  'a file that is read': () => readLater(HERE),
  'a callback of the file system': () => new Promise((resolve) => readFile(HERE, resolve)),
  'ten files that are closed': () => times(10, async () => (await open(HERE)).close()),
};
/** Node does not tell that one is under way. */
const digests: Pause = () =>
  times(10, () => crypto.subtle.digest('SHA-256', new Uint8Array(SECTOR)));

const BUGS = [
  ['acknowledges before its flush has ended', early],
  ['does not wait for a write before its flush', forgotten],
] as const;

describe.each(Object.entries(PAUSES))('given a host with %s in its gaps', (_, pause) => {
  test.each(BUGS)(
    'when it %s, then the default seed finds it, and a replay is the same run',
    async (_, bug) => {
      const report = await crashTest(testOf(bug(pause)));
      expect(report.verdict).toBe('failed');
      const replay = report.failure?.replay ?? '';
      const again = await crashTest({ ...testOf(bug(pause)), replay });
      expect(again.failure?.text).toBe(report.failure?.text);
      expect(again.trace.commands).toEqual(report.trace.commands);
    },
  );

  test('when it waits for what it needs, then it is proved at every pace', async () => {
    expect(await crashTest({ ...testOf(right(pause)), seeds: 8 })).toMatchObject({
      verdict: 'proved',
      warnings: [],
    });
  });
});

describe('given a host with ten digests in its gaps, which cannot be foreseen', () => {
  // One may be over before it can be noticed that the host waited for it, so a single run is no promise.
  test.each(BUGS)('when it %s, then one of five runs finds it', async (_, bug) => {
    const verdicts = new Set<string>();
    for (let run = 0; run < 5 && !verdicts.has('failed'); run++) {
      verdicts.add((await crashTest(testOf(bug(digests)))).verdict);
    }
    expect(verdicts).toContain('failed');
  });

  test('when it waits for what it needs, then it is proved at every pace', async () => {
    const report = await crashTest({ ...testOf(right(digests)), seeds: 8 });
    expect(report).toMatchObject({ verdict: 'proved', warnings: [] });
  });
});

/** Together longer than one timer is waited for, or not to be seen by the kit. */
const LONG_PAUSES: Readonly<Record<string, Pause>> = {
  'three timers of 50 ms': () => times(3, timer(50)),
  'a wait of 60 ms for something else': () => {
    const memory = new Int32Array(new SharedArrayBuffer(4));
    const { waitAsync } = Atomics as unknown as {
      waitAsync(...args: [Int32Array, number, number, number]): { value: Promise<string> };
    };
    return waitAsync(memory, 0, 0, 60).value;
  },
};
const HANG_MS = 60_000;

describe.each(Object.entries(LONG_PAUSES))(
  'given a host with %s in its gaps, longer than a disk waits at first',
  (_, pause) => {
    test.each(BUGS)(
      'when it %s, then the disk waits for longer, and it is found',
      async (_, bug) => {
        const report = await crashTest(testOf(bug(pause)));
        expect(report.verdict).toBe('failed');
      },
      HANG_MS,
    );

    test(
      'when it waits for what it needs, then it is proved',
      async () => {
        expect(await crashTest(testOf(right(pause)))).toMatchObject({
          verdict: 'proved',
          warnings: [],
        });
      },
      HANG_MS,
    );
  },
);

test(
  'given a host that waits longer than any disk does, when it makes a mistake, then it is not proved',
  async () => {
    for (const bug of [early, forgotten]) {
      // Half of this is what the disk may take, and the pause takes most of it.
      const report = await crashTest({ ...testOf(bug(timer(400))), hangMs: 2000 });
      if (report.verdict === 'failed') continue;
      expect(report.verdict).toBe('passed');
      expect(report.warnings.join()).toContain('may have answered too early');
    }
  },
  HANG_MS,
);

test(
  'given something that calls the disk all the time beside a right host, when it runs, then it ends, and the doubt is told',
  async () => {
    const report = await crashTest({
      ...testOf(async (disk, journal) => {
        let isOn = true;
        const beside = async (): Promise<void> => {
          const reads: unknown[] = [];
          for (; isOn; await immediate()) reads.push(disk.read(0, full()));
          await Promise.all(reads);
        };
        const ended = beside();
        await right(awaits(0))(disk, journal);
        isOn = false;
        await ended;
      }),
    });
    expect(report.verdict).toBe('passed');
    expect(report.warnings.join()).toContain('calls the disk all the time');
  },
  HANG_MS,
);

test('given hosts that differ in their awaits alone, when they run on any seed, then the disk does the same', async () => {
  for (const bug of [early, forgotten, right]) {
    for (let seed = 0; seed < 16; seed++) {
      const tracesOf = (count: number) =>
        crashTest({ ...testOf(bug(awaits(count))), check: () => true, seed });
      const { trace } = await tracesOf(0);
      for (const count of [1, 7, 500]) {
        const other = (await tracesOf(count)).trace;
        // `toEqual` takes longer than the run, and is needed only to show how they differ.
        if (!isDeepStrictEqual(other, trace)) expect(other).toEqual(trace);
      }
    }
  }
});

test('given a write that nobody ever waits for, when the workload returns, then what it breaks is told first', async () => {
  const report = await crashTest(
    testOf(async (disk, journal) => {
      void disk.write(0, full(), PLAIN);
      await disk.write(SECTOR, full(), PLAIN);
      await disk.flush(FLUSH);
      journal.acknowledge('safe');
    }),
  );
  expect(report.verdict).toBe('failed');
  expect(report.warnings).toEqual([
    expect.stringContaining('returned before its commands were done'),
  ]);
});

describe('given the fake timers of a test runner', () => {
  afterEach(() => {
    vi.useRealTimers();
    vi.resetModules();
  });
  const FAKED = [
    'setTimeout',
    'setImmediate',
    'setInterval',
    'queueMicrotask',
    'Date',
    'performance',
  ] as const;

  test('when they are there before the kit is loaded, then it says the same, and names what hangs', async () => {
    vi.resetModules();
    vi.useFakeTimers({ toFake: [...FAKED] });
    const kit = await import('../../src/testing/index.js');
    expect(await kit.crashTest(testOf(early(awaits(1000))))).toMatchObject({ verdict: 'failed' });
    expect(await kit.crashTest(testOf(right(awaits(1000))))).toMatchObject({ verdict: 'proved' });
    const stuck = testOf(right(timer(1)));
    expect(await kit.crashTest({ ...stuck, hangMs: 50 })).toMatchObject({ verdict: 'hung' });
  });

  test('when they come behind it, then it says the same', async () => {
    vi.useFakeTimers({ toFake: [...FAKED] });
    expect(await crashTest(testOf(forgotten(awaits(16))))).toMatchObject({ verdict: 'failed' });
    expect(await crashTest(testOf(right(awaits(16))))).toMatchObject({ verdict: 'proved' });
  });
});

describe('given a simulated disk by itself', () => {
  test('when a command is forgotten, then on seed 0 a thousand newer ones are answered before it', async () => {
    const disk = new VolatileDisk({ size: SECTOR });
    let isOver = false;
    void Promise.resolve(disk.read(0, full())).then(() => {
      isOver = true;
    });
    let newer = 0;
    for (; !isOver; newer++) await disk.read(0, full());
    expect(newer).toBeGreaterThanOrEqual(1000);
    expect(newer).toBeLessThan(1010);
  });

  test('when a host has two disks, then neither answers while the other sets the host going', async () => {
    const [a, b] = [new VolatileDisk({ size: SECTOR }), new VolatileDisk({ size: SECTOR })];
    const log: string[] = [];
    const other = Promise.resolve(b.write(0, full(), PLAIN)).then(() => log.push('b'));
    const one = (async () => {
      for (const step of [1, 2, 3]) {
        await a.read(0, full());
        await times(50, async () => undefined);
        log.push(`a${step}`);
      }
    })();
    await Promise.all([one, other]);
    expect(log.filter((entry) => entry !== 'b')).toEqual(['a1', 'a2', 'a3']);
    expect(log).toContain('b');
  });
});
