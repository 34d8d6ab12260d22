// The suite itself: that it passes what keeps the contract, a scheduler in every mode among it; that it finds what
// does not; that its failures say what to know; and that two test runners can run it.

import { execFile } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { describe, expect, test } from 'vitest';
import {
  type Capabilities,
  guarantees,
  IoScheduler,
  MODE_NAMES,
  type Storage,
} from '../../src/index.js';
import {
  type ContractSubject,
  type Opened,
  storageContract,
  type TestRunner,
} from '../../src/testing/contract/storage-contract.js';
import { share } from '../kit/amount.js';
import { installPackage, temporaryDirectory } from '../node/support.js';
import { BROKEN, type Broken } from './broken-storages.js';
import { type CachedDisk, cachedDisk, EVERYTHING } from './cached-disk.js';

const LEAST: Capabilities = {
  blockSize: 1,
  cache: 'volatile',
  flush: false,
  fua: false,
  orderedTags: false,
};

/** A subject of disks with that wrapper around each. */
function subjectOf(
  capabilities: Capabilities,
  wrap: (disk: CachedDisk) => Storage = ({ storage }) => storage,
): Omit<ContractSubject, 'open'> & { readonly open: () => Opened } {
  const opened = (disk: CachedDisk): Opened => {
    let now = disk;
    return {
      storage: wrap(disk),
      reopen: () => {
        now = cachedDisk(capabilities, now.medium);
        return wrap(now);
      },
      forgetCaches: () => now.forget(),
    };
  };
  return { name: 'a disk', capabilities, open: () => opened(cachedDisk(capabilities)) };
}

interface Outcome {
  readonly name: string;
  readonly error: unknown;
}

/** Runs the suite with a runner that collects, one test after the other. */
async function outcomes(subject: ContractSubject): Promise<Outcome[]> {
  const tests: { name: string; body: () => void | Promise<void> }[] = [];
  const runner: TestRunner = {
    describe: (_name, body) => body(),
    test: (name, body) => void tests.push({ name, body }),
  };
  storageContract(runner, subject);
  const list: Outcome[] = [];
  for (const { name, body } of tests) {
    try {
      await body();
      list.push({ name, error: undefined });
    } catch (error) {
      list.push({ name, error });
    }
  }
  return list;
}

const failuresOf = async (subject: ContractSubject): Promise<Outcome[]> =>
  (await outcomes(subject)).filter(({ error }) => error !== undefined);
const messageOf = (outcome: Outcome | undefined): string =>
  outcome?.error instanceof Error ? outcome.error.message : String(outcome?.error);
const clausesOf = (list: readonly Outcome[]): string[] => [
  ...new Set(list.map(({ name }) => name.split(':')[0] ?? '')),
];

// The disks of these tests, in Vitest.
const DEVICES: Readonly<Record<string, Capabilities>> = {
  'that can do everything': EVERYTHING,
  'that can do next to nothing': LEAST,
  'without FUA and tags': { ...EVERYTHING, fua: false, orderedTags: false },
  'without a cache': { ...EVERYTHING, cache: 'none', flush: false },
  'with blocks of 4096 bytes and a protected cache': {
    ...LEAST,
    blockSize: 4096,
    cache: 'protected',
    flush: true,
  },
};
for (const [which, capabilities] of Object.entries(DEVICES)) {
  storageContract(
    { describe, test },
    { ...subjectOf(capabilities), name: `A cached disk ${which}` },
  );

  for (const mode of MODE_NAMES) {
    if (guarantees(mode, capabilities).verdict === 'unsafe') continue;
    const stacked = ({ storage }: CachedDisk): Storage =>
      new IoScheduler(storage, { mode }).asStorage();
    storageContract(
      { describe, test },
      {
        ...subjectOf(capabilities, stacked),
        capabilities: stacked(cachedDisk(capabilities)).capabilities,
        name: `A scheduler in ${mode} over a disk ${which}`,
      },
    );
  }
}

describe('the suite', () => {
  const broken = ({ instead, declares }: Broken): ContractSubject =>
    subjectOf({ ...EVERYTHING, ...declares }, (disk) =>
      Object.create(disk.storage, Object.getOwnPropertyDescriptors(instead(disk))),
    );

  test.each(BROKEN.map((one) => [one.clause, one.how, one] as const))(
    'finds by %s a storage that %s',
    async (clause, _how, one) => {
      const failures = await failuresOf({ ...broken(one), seed: 1 });
      expect(clausesOf(failures)).toContain(clause);
      for (const failure of failures) expect(messageOf(failure)).toMatch(/^S\d+: /);
    },
  );

  test('has broken storages for every clause', () => {
    const clauses = Array.from({ length: 13 }, (_, index) => `S${index + 1}`);
    expect([...new Set(BROKEN.map(({ clause }) => clause))]).toEqual(clauses);
  });

  test('has tests for every clause, each named after its own, no name twice', async () => {
    const list = await outcomes(subjectOf(EVERYTHING));
    const clauses = Array.from({ length: 13 }, (_, index) => `S${index + 1}`);
    expect(clausesOf(list).sort()).toEqual(clauses.sort());
    expect(new Set(list.map(({ name }) => name)).size).toBe(list.length);
    for (const { name } of list) expect(name).toMatch(/^S\d+: [a-z]/);
  });

  test('does not test what is not declared', async () => {
    const unasked = (name: string) => (): never => {
      throw new Error(`${name} was called`);
    };
    const subject = subjectOf(LEAST, ({ storage }) => ({ ...storage, flush: unasked('flush') }));
    const list = await outcomes(subject);
    expect(list.filter(({ error }) => error)).toEqual([]);
    expect(clausesOf(list)).toEqual(['S1', 'S2', 'S3', 'S4', 'S9', 'S10', 'S11']);
  });

  test('says the clause, what should be and what is', async () => {
    const [deaf] = BROKEN.filter(({ how }) => how === 'takes no notice of FUA');
    const failures = await failuresOf(broken(deaf as Broken));
    const forced = failures.find(({ name }) => name.includes('outlives a power cut'));
    expect(messageOf(forced)).toBe(
      'S6: a forced write over a plain one, after a power cut: expected 0x3e in byte 0, found 0x00 (510 of 512 bytes are wrong)',
    );
  });

  test('says what a command failed with that should not fail', async () => {
    const cause = new Error('head crash');
    const subject = subjectOf(EVERYTHING, ({ storage }) => ({
      ...storage,
      writeZeroes: () => Promise.reject(cause),
    }));
    const failed = (await failuresOf(subject)).find(({ name }) => name.startsWith('S8'));
    expect(failed?.error).toMatchObject({
      message: 'S8: a legal command should not fail, but: head crash',
      cause,
    });
  });

  test('says that a storage is too small for it', async () => {
    const open = (): Opened => ({ storage: cachedDisk(LEAST, new Uint8Array(15)).storage });
    const failures = await failuresOf({ name: 'a small disk', capabilities: LEAST, open });
    expect(messageOf(failures[0])).toMatch(
      /^S1: the suite needs 16 blocks of \d+ bytes; the storage has 15 bytes$/,
    );
  });
});

describe('a random test', () => {
  const [credulous] = BROKEN.filter(({ how }) => how.startsWith('believes that zeroes'));
  const subject = subjectOf(EVERYTHING, (disk) =>
    Object.create(disk.storage, Object.getOwnPropertyDescriptors(credulous?.instead(disk))),
  );
  const failed = async (seed?: number): Promise<string> => {
    const runs = 100;
    const failures = await failuresOf({ ...subject, runs, ...(seed !== undefined && { seed }) });
    return messageOf(failures.find(({ name }) => name.includes('one by one, it reads')));
  };

  test('given a failure, then it prints the fewest commands that make it, and its seed', async () => {
    expect(await failed()).toMatch(
      /^S1: block \d+: expected 0x00 .*, found 0xdd .*\n {2}program: d\d+(\+\d)? z\d+(\+\d)?\n {2}seed: \d+$/,
    );
  });

  test('given a command that only one left out later made necessary, then it is left out as well', async () => {
    expect(await failed(13_157_199)).toMatch(/\n {2}program: d14 z13\+3\n/);
  });

  test('given the seed that it printed, then it fails in the same way', async () => {
    const first = await failed();
    const seed = Number(/seed: (\d+)$/.exec(first)?.[1]);
    expect(await failed(seed)).toBe(first);
  });

  test('opens as many storages as it is told to run programs', async () => {
    const counts: number[] = [];
    for (const runs of [1, 5]) {
      let count = 0;
      const { open, ...rest } = subjectOf(LEAST);
      const list = await outcomes({
        ...rest,
        runs,
        open: () => {
          count += 1;
          return open();
        },
      });
      const random = list.filter(({ name }) => name.includes('given any commands')).length;
      counts.push(count - (list.length - random) - runs * random);
    }
    expect(counts).toEqual([0, 0]);
  });
});

describe('every test closes what it opened, once, and cleans up', () => {
  type Life = string[];

  /** What happens to each storage that is opened, in order. */
  async function livesOf(one: Broken | undefined, over: Partial<Opened> = {}) {
    const lives: Life[] = [];
    const subject = subjectOf({ ...EVERYTHING, ...one?.declares }, (disk) => {
      const storage: Storage = Object.create(
        disk.storage,
        Object.getOwnPropertyDescriptors(one?.instead(disk) ?? {}),
      );
      const close = (): void | Promise<void> => {
        lives.at(-1)?.push('close');
        return disk.storage.close();
      };
      return Object.create(storage, { close: { value: close } });
    });
    const list = await outcomes({
      ...subject,
      seed: 7,
      runs: share(20, 4),
      open: () => {
        const life: Life = ['open'];
        lives.push(life);
        const opened = subject.open();
        return {
          ...opened,
          reopen: () => {
            life.push('open');
            return opened.reopen?.() as Storage;
          },
          cleanUp: () => void life.push('clean'),
          ...over,
        };
      },
    });
    return { lives: [...new Set(lives.map((life) => life.join(' ')))], list };
  }

  test('when they pass, and when they fail', async () => {
    for (const one of [undefined, ...BROKEN]) {
      const { lives } = await livesOf(one);
      for (const life of lives) expect(life).toMatch(/^(open close )+clean$/);
    }
  });

  test('and fails where that fails', async () => {
    const { list } = await livesOf(undefined, {
      cleanUp: () => {
        throw new Error('still in use');
      },
    });
    for (const outcome of list) {
      expect(messageOf(outcome)).toMatch(/^S\d+: cleanUp should not fail, but: still in use/);
    }
    const stuck = await outcomes(
      subjectOf(EVERYTHING, ({ storage }) =>
        Object.create(storage, { close: { value: () => Promise.reject(new Error('jammed')) } }),
      ),
    );
    for (const outcome of stuck) expect(messageOf(outcome)).toContain('but: jammed');
  });

  test('and fails with the reason where it cannot open', async () => {
    const open = (): Opened => {
      throw new Error('no such device');
    };
    const list = await outcomes({ name: 'nothing', capabilities: EVERYTHING, open });
    expect([...new Set(list.map(messageOf))]).toEqual(['no such device']);
  });
});

describe('the runner of Node', () => {
  // Types: what both runners export is a TestRunner as it is.
  const accepted = (
    node: Pick<typeof import('node:test'), 'describe' | 'test'>,
  ): readonly TestRunner[] => [node, { describe, test }];

  const script = (wrapped: string): string => `
    import { describe, test } from 'node:test';
    import { MemoryStorage, withFaults } from 'write-barrier';
    import { storageContract } from './node_modules/write-barrier/testing/contract/storage-contract.js';
    const traits = { capabilities: { cache: 'none', orderedTags: true } };
    const { capabilities } = new MemoryStorage(8192, traits);
    storageContract({ describe, test }, {
      name: 'MemoryStorage', capabilities, seed: 5,
      open: () => {
        let memory = new MemoryStorage(32 * 512, traits);
        const reopen = () => (memory = new MemoryStorage(memory.bytes, traits));
        return { storage: ${wrapped}, reopen };
      },
    });`;

  async function run(wrapped: string): Promise<{ code: number; output: string }> {
    const directory = temporaryDirectory();
    installPackage(directory);
    const path = join(directory, 'contract.test.mjs');
    writeFileSync(path, script(wrapped));
    const words = ['--test', '--test-reporter=tap', path];
    try {
      const { stdout } = await promisify(execFile)(process.execPath, words, { cwd: directory });
      return { code: 0, output: stdout };
    } catch (error) {
      const { code, stdout } = error as { code: number; stdout: string };
      return { code, output: stdout };
    }
  }

  test('passes what keeps the contract', async () => {
    const { code, output } = await run('memory');
    const expected = (await outcomes(subjectOf({ ...EVERYTHING, cache: 'none' }))).length;
    expect({ code, passed: /^# pass (\d+)/m.exec(output)?.[1] }).toEqual({
      code: 0,
      passed: String(expected),
    });
    expect(accepted).toBeTypeOf('function');
  });

  test('fails what does not, and shows the clause', async () => {
    const { code, output } = await run(
      "withFaults(memory, [{ on: 'write', nth: 0, fault: 'short' }])",
    );
    expect(code).toBe(1);
    expect(output).toMatch(/not ok \d+ - S3: a transfer that claims to be complete/);
    expect(output).toMatch(
      /S3: the value returned for a write of 4096 bytes: expected nothing or 4096, found 2048/,
    );
  });
});
