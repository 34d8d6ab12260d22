// What is no test is not proved. Goal: whatever a caller leaves out, misspells or plans in vain is refused with
// INVALID_ARGUMENT, or is a warning in the report and takes the verdict `proved` away.

import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { IoScheduler, type Storage } from 'write-barrier';
import { arbitraries } from '../../src/testing/arbitraries.js';
import {
  type CrashReport,
  type CrashTest,
  checkTrace,
  crashTest,
  type DiskFault,
  deviceProfile,
  formatCrashReport,
  storageContract,
  survives,
  VolatileDisk,
} from '../../src/testing/index.js';
import {
  crashSpace,
  LITMUS,
  type LitmusTest,
  prefixOracle,
  runLitmus,
  tryLitmus,
} from '../../src/testing/lab/index.js';
import { FLUSH, first, full, PLAIN, SECTOR } from './sectors.js';

const good: CrashTest<number, number[]> = {
  size: 4 * SECTOR,
  workload: async (disk, journal) => {
    journal.begin(0);
    await disk.write(0, full(), PLAIN);
    await disk.flush(FLUSH);
    journal.acknowledge(0);
  },
  recover: (disk) => (first(disk, 0) === 1 ? [0] : []),
  check: (found, { acknowledged }) => acknowledged.every((n) => found.includes(n)),
};
/** As JavaScript passes it. */
const changed = (fields: Record<string, unknown>): CrashTest<number, number[]> =>
  ({ ...good, ...fields }) as CrashTest<number, number[]>;

test('given the test that all others change, then it is proved', async () => {
  expect(await crashTest(good)).toMatchObject({ verdict: 'proved', warnings: [] });
});

describe('given a test that lacks something', () => {
  test.each(['workload', 'recover', 'check', 'size'])(
    'when it is %s, then it is refused',
    async (name) => {
      for (const value of [undefined, null, 'text', {}]) {
        await expect(crashTest(changed({ [name]: value }))).rejects.toMatchObject({
          code: 'INVALID_ARGUMENT',
          message: expect.stringContaining(name),
        });
      }
    },
  );

  test('when a trace stands for the workload, then none is needed', async () => {
    const { trace } = await crashTest(good);
    expect(await crashTest(changed({ trace, workload: undefined }))).toMatchObject({
      verdict: 'proved',
    });
    await expect(crashTest(changed({ trace, size: SECTOR }))).rejects.toMatchObject({
      code: 'INVALID_ARGUMENT',
    });
  });
});

describe('given a check', () => {
  test.each<readonly [string, unknown]>([
    ['0', 0],
    ['1', 1],
    ['an empty string', ''],
    ['a string', 'yes'],
    ['null', null],
    ['a list', []],
    ['an object', {}],
    ['a bigint', 1n],
  ])('when it answers %s, then that is no verdict and is refused', async (_, answer) => {
    for (const check of [() => answer, async () => answer]) {
      await expect(crashTest(changed({ check }))).rejects.toMatchObject({
        code: 'INVALID_ARGUMENT',
        message: expect.stringContaining('true or false'),
      });
    }
  });

  test('when it throws where something is wrong and answers nothing, then it is a check', async () => {
    const check: CrashTest<number, number[]>['check'] = (found, { acknowledged }) => {
      expect(found).toEqual(expect.arrayContaining([...acknowledged]));
    };
    expect(await crashTest({ ...good, check })).toMatchObject({ verdict: 'proved', warnings: [] });
  });

  test('when it has forgotten to return, or looks at nothing, then nothing is proved', async () => {
    for (const check of [() => undefined, async () => undefined]) {
      const report = await crashTest(changed({ check }));
      expect(report).toMatchObject({ verdict: 'passed' });
      expect(report.warnings.join()).toContain('the check accepts a disk without any write');
      const workload: CrashTest<number, number[]>['workload'] = (disk) =>
        disk.write(0, full(), PLAIN);
      const silent = await crashTest(changed({ check, workload }));
      expect(silent.verdict).toBe('passed');
      expect(silent.warnings.join()).toContain('the check returned nothing');
    }
  });

  test('when it looks at nothing and the recovery answers with a Map, a Set or a bigint, then that is told as well', async () => {
    const shapes: readonly ((disk: Storage) => unknown)[] = [
      (disk) => new Map([[0, first(disk, 0)]]),
      (disk) => new Set([first(disk, 0)]),
      (disk) => BigInt(first(disk, 0)),
      (disk) => ({ bytes: new Uint8Array([first(disk, 0)]) }),
    ];
    for (const recover of shapes) {
      const report = await crashTest(changed({ recover, check: () => true }));
      expect(report.verdict).toBe('passed');
      expect(report.warnings.join()).toContain('the check accepts a disk without any write');
    }
  });
});

describe('given a plan of faults', () => {
  const plans: readonly (readonly [string, unknown, RegExp])[] = [
    ['no list', {}, /faults must be a list/],
    ['an unknown kind of command', [{ on: 'discard', nth: 0, fault: 'fail' }], /'discard'/],
    [
      'a fault of another command',
      [{ on: 'flush', nth: 0, fault: 'rot' }],
      /the fault of a flush must be one of keep, .*, not 'rot'/,
    ],
    ['a misspelt key', [{ on: 'flush', n: 0, fault: 'drop' }], /did you mean 'nth'|has no option/],
    ['no number', [{ on: 'flush', fault: 'drop' }], /nth/],
    ['a number below 0', [{ on: 'flush', nth: -1, fault: 'drop' }], /nth/],
    ['misdirected to nowhere', [{ on: 'write', nth: 0, fault: 'misdirected' }], /needs 'at'/],
    [
      'misdirected outside',
      [{ on: 'write', nth: 0, fault: 'misdirected', at: 64 * SECTOR }],
      /needs 'at'/,
    ],
    [
      'a place without use',
      [{ on: 'write', nth: 0, fault: 'lost', at: 0 }],
      /only 'misdirected' takes 'at'/,
    ],
    [
      'two at one command',
      [
        { on: 'write', nth: 0, fault: 'lost' },
        { on: 'write', nth: 0, fault: 'rot' },
      ],
      /two faults at write 0/,
    ],
  ];
  test.each(plans)('with %s, then it is refused before anything runs', async (_, faults, words) => {
    let ran = false;
    const workload = (): void => {
      ran = true;
    };
    await expect(crashTest(changed({ faults, workload }))).rejects.toMatchObject({
      code: 'INVALID_ARGUMENT',
      message: expect.stringMatching(words),
    });
    expect(ran).toBe(false);
    const make = (): unknown => new VolatileDisk({ size: SECTOR, faults: faults as DiskFault[] });
    expect(make).toThrow(expect.objectContaining({ code: 'INVALID_ARGUMENT' }));
  });

  test('when a fault comes in no run, then nothing is proved, and the warning names it', async () => {
    for (const on of ['write', 'flush', 'read'] as const) {
      const faults = [{ on, nth: 7, fault: on === 'flush' ? 'drop' : 'fail' }] as DiskFault[];
      const report = await crashTest({ ...good, faults, seeds: 3 });
      expect(report.verdict).toBe('passed');
      expect(report.warnings).toEqual([
        expect.stringMatching(`did not happen: there was no ${on} number 7`),
      ]);
    }
  });

  test('when a fault comes under one seed and not under another, then it has come', async () => {
    const orders: string[] = [];
    const report = await crashTest({
      ...good,
      seeds: 8,
      faults: [{ on: 'flush', nth: 1, fault: 'keep' }],
      // A second flush where the second write is answered first.
      workload: async (disk, journal) => {
        const order: number[] = [];
        const write = async (n: number): Promise<void> => {
          await disk.write(n * SECTOR, full(), PLAIN);
          order.push(n);
        };
        await Promise.all([write(0), write(1)]);
        orders.push(order.join());
        await disk.flush(FLUSH);
        journal.acknowledge(0);
        if (order[0] === 1) await Promise.resolve(disk.flush(FLUSH)).catch(() => {});
      },
    });
    expect(new Set(orders).size).toBe(2);
    expect(report).toMatchObject({ verdict: 'proved', warnings: [] });
  });

  test('when a replay or a failure lacks the fault, then its report says so, too', async () => {
    const faults: DiskFault[] = [{ on: 'flush', nth: 9, fault: 'drop' }];
    const replay = await crashTest({ ...good, faults, replay: 'seed 0 cut -1' });
    expect(replay.warnings.join()).toContain('did not happen');
    const failed = await crashTest({ ...good, faults, check: () => false });
    expect(failed.verdict).toBe('failed');
    expect(failed.warnings.join()).toContain('did not happen');
  });
});

describe('given values out of range', () => {
  test.each<readonly [string, unknown]>([
    ['size', 2 ** 46],
    ['size', 2 ** 60],
    ['size', 100],
    ['size', '4096'],
    ['seed', -1],
    ['seed', '1'],
    ['seeds', 0],
    ['nested', 'yes'],
    ['nested', -1],
    ['recoveriesMax', Number.NaN],
    ['hangMs', 0],
    ['hangMs', '10'],
    ['program', 'abc'],
    ['label', 'x'],
    ['answers', 'never'],
    ['initial', [1, 2]],
    ['initial', new Uint8Array(3)],
    ['replay', 5],
  ])('when %s is %s, then it is refused', async (name, value) => {
    await expect(crashTest(changed({ [name]: value }))).rejects.toMatchObject({
      code: 'INVALID_ARGUMENT',
    });
  });

  test('when there are to be no recoveries, then nothing is proved', async () => {
    const report = await crashTest({ ...good, recoveriesMax: 0 });
    expect(report).toMatchObject({ verdict: 'passed', recoveries: 0 });
    expect(report.warnings).toContain('no recovery was run, because recoveriesMax is 0');
  });
});

describe('given a misspelt option', () => {
  const misspelt: Readonly<Record<string, () => unknown>> = {
    crashTest: () => crashTest(changed({ recoveryMax: 5 })),
    VolatileDisk: () => new VolatileDisk({ size: SECTOR, seeds: 1 } as never),
    'a profile': () => deviceProfile({ sectorsize: 512 } as never),
    'the profile of a test': () => crashTest(changed({ profile: { chache: 'none' } })),
    'the profile of a space': () =>
      crashSpace(new VolatileDisk({ size: SECTOR }).trace, { profile: {} } as never),
    explore: () =>
      crashSpace(new VolatileDisk({ size: SECTOR }).trace).explore({ recoveries: 1 } as never),
    survives: () => survives(changed({}), { allowWarning: true } as never),
    checkTrace: () => checkTrace([], { mode: 'DRAIN', readPass: true } as never),
    runLitmus: () => runLitmus(LITMUS[0] as LitmusTest, { mode: 'DRAIN', devices: {} } as never),
    tryLitmus: () => tryLitmus(LITMUS[0] as LitmusTest, { host: () => {}, timeOutMs: 1 } as never),
    storageContract: () => storageContract({ describe, test }, { name: 'x', run: 1 } as never),
    program: () => arbitraries(fc).program({ requestMax: 1 } as never),
    request: () => arbitraries(fc).request({ block: 1 } as never),
    prefixOracle: () => prefixOracle({ begin: 0 } as never),
    formatCrashReport: () => formatCrashReport({} as CrashReport, { whole: true } as never),
  };
  test.each(Object.keys(misspelt))('of %s, then it is refused', async (name) => {
    const call = async (): Promise<unknown> => misspelt[name]?.();
    await expect(call()).rejects.toMatchObject({
      code: 'INVALID_ARGUMENT',
      message: expect.stringContaining('has no option'),
    });
  });
});

describe('given power cuts during recovery', () => {
  const put = async (disk: Storage, sector: number, byte: number): Promise<void> => {
    await disk.write(sector * SECTOR, new Uint8Array(SECTOR).fill(byte), PLAIN);
  };
  const jobs = (careful: boolean): CrashTest<string, string> => ({
    size: 3 * SECTOR,
    nested: true,
    workload: async (disk, journal) => {
      journal.begin('job');
      await put(disk, 1, 1);
      if (careful) await disk.flush(FLUSH);
      await put(disk, 0, 1);
      await disk.flush(FLUSH);
      journal.acknowledge('job');
    },
    recover: async (disk) => {
      const state = first(disk, 0);
      if (state === 0) return 'nothing';
      if (state === 1) {
        await put(disk, 0, 2);
        await disk.flush(FLUSH);
        return 'done';
      }
      return first(disk, 1) === 1 ? 'done' : 'lost';
    },
    check: (found, { acknowledged }) =>
      acknowledged.length > 0 ? found === 'done' : found !== 'lost',
  });

  test('when the second recovery reads what the first has left undecided, then it decides that, and the failure is found', async () => {
    const report = await crashTest(jobs(false));
    expect(report).toMatchObject({
      verdict: 'failed',
      failure: { message: 'the check returned false' },
    });
    expect(report.failure?.cuts.map(({ during }) => during)).toEqual(['workload', 'recovery']);
  });

  test('when nothing that the second recovery may read is lost, then it is proved', async () => {
    const report = await crashTest(jobs(true));
    expect(report).toMatchObject({ verdict: 'proved', warnings: [] });
  });

  test('when no recovery writes, then the second cut changes nothing, and it is proved', async () => {
    expect(await crashTest({ ...good, nested: 2 })).toMatchObject({ verdict: 'proved' });
  });
});

test('given a scheduler as the host, when the check is good, then it is still proved', async () => {
  const report = await crashTest({
    ...good,
    workload: async (disk, journal) => {
      const scheduler = new IoScheduler(disk);
      journal.begin(0);
      await scheduler.write(0, full(), { barrier: true });
      journal.acknowledge(0);
    },
  });
  expect(report.verdict).toBe('proved');
});

// What newcomers did in JavaScript.
describe('given a first try', () => {
  const block = (): Uint8Array => new Uint8Array(512).fill(65);
  const first: CrashTest<string, number | undefined> = {
    size: 1024,
    workload: async (disk, journal) => {
      await disk.write(0, block());
      await disk.flush();
      journal.acknowledge('A');
    },
    recover: (disk) => {
      const bytes = new Uint8Array(512);
      disk.read(0, bytes);
      return bytes[0];
    },
    check: (value, { acknowledged }) => acknowledged.length === 0 || value === 65,
  };

  test('when it writes and flushes the disk without flags, then these are plain commands', async () => {
    const report = await crashTest(first);
    expect(report.verdict).toBe('proved');
    expect(report.trace.commands.map(({ op, tag, fua }) => `${op} ${tag} ${fua}`)).toEqual([
      'write simple false',
      'flush simple false',
    ]);
  });

  test('when its recovery reads with a length in place of a buffer, then the read fails and does not pass silently', async () => {
    const recover = (disk: Storage): undefined => void disk.read(0, 512 as never);
    const { failure } = await crashTest({ ...first, recover });
    expect(failure?.message).toContain('undefined bytes at 0');
  });

  test('when it formats the promise of a report, then it hears that the test must be awaited', () => {
    const format = (): string => formatCrashReport(crashTest(first) as never);
    expect(format).toThrow(/the report of an awaited crashTest must be an object/);
  });
});
