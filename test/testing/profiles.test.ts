// Which devices there are, and that a test runs on the one that its code will run on. The device called `file` and the
// storage of files must not part: code whose test ran on another one would take another mode in production.

import { mkdtempSync, realpathSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { chooseMode, IoScheduler, type Storage } from 'write-barrier';
import { FileStorage } from '../../src/node/index.js';
import { formatCrashReport } from '../../src/testing/crash-test/crash-report.js';
import { crashTest } from '../../src/testing/crash-test/crash-test.js';
import type { CrashTest } from '../../src/testing/crash-test/types.js';
import { DiskRecorder } from '../../src/testing/device/disk-trace.js';
import {
  DEVICE_PROFILES,
  type DeviceName,
  type DeviceProfile,
  deviceProfile,
} from '../../src/testing/device/profile.js';
import { VolatileDisk } from '../../src/testing/device/volatile-disk.js';
import { LITMUS } from '../../src/testing/lab/litmus.js';
import { runLitmus } from '../../src/testing/lab/litmus-run.js';
import { barrierSynthesis } from '../../src/testing/lab/synthesis.js';
import { crashSpace } from '../../src/testing/space/crash-space.js';
import { share } from '../kit/amount.js';

const SECTOR = 512;
const NAMES = Object.keys(DEVICE_PROFILES) as DeviceName[];
const sector = (byte: number): Uint8Array => new Uint8Array(SECTOR).fill(byte);

/** A record and its mark, in order. */
const inOrder: CrashTest<string, string> = {
  size: 2 * SECTOR,
  workload: async (disk, journal) => {
    const host = new IoScheduler(disk);
    await Promise.all([host.write(0, sector(1)), host.write(SECTOR, sector(1), { barrier: true })]);
    journal.acknowledge('both');
  },
  recover: (disk) => {
    const all = new Uint8Array(2 * SECTOR);
    disk.read(0, all);
    return `${all[0]}${all[SECTOR]}`;
  },
  check: (found, { acknowledged }) =>
    found !== '01' && (acknowledged.length === 0 || found === '11'),
};

describe('the device that is called a file', () => {
  test('is what a FileStorage is here without the package that trims, but for gathering and holes, and all get the same mode', async () => {
    const folder = mkdtempSync(join(realpathSync(tmpdir()), 'write-barrier-'));
    const [plain, trims] = ['plain.img', 'trims.img'].map((name) => join(folder, name));
    const fs = { loadLock: () => Promise.reject(new Error('not installed')) };
    const file = await FileStorage.open(plain ?? '', { size: 16 * SECTOR, fs });
    const trimming = await FileStorage.open(trims ?? '', { size: 16 * SECTOR });
    try {
      const name = process.platform === 'linux' ? 'file' : 'file-without-fua';
      const disk = new VolatileDisk({ size: 16 * SECTOR, profile: name });
      const known = { gathers: true, blockStatus: true };
      expect({ ...disk.capabilities, ...known }).toEqual(file.capabilities);
      const { discard, writeZeroes, fastZeroes } = trimming.capabilities;
      expect(trimming.capabilities).toEqual({
        ...file.capabilities,
        discard,
        writeZeroes,
        fastZeroes,
      });
      const modes = [disk, file, trimming].map((storage) => new IoScheduler(storage).mode);
      expect(new Set(modes).size).toBe(1);
    } finally {
      await trimming.close();
      await file.close();
      rmSync(folder, { recursive: true });
    }
  });

  test('does not gather, because what is left of gathered writes may be left of each by itself, too', async () => {
    const write = fc.record({
      at: fc.nat({ max: 2 }),
      forced: fc.boolean(),
      barrier: fc.boolean(),
    });
    const turn = fc.array(write, { minLength: 1, maxLength: 3 });
    await fc.assert(
      fc.asyncProperty(fc.array(turn, { minLength: 1, maxLength: 2 }), async (turns) => {
        const each = await imagesOf(turns, false);
        const gathered = await imagesOf(turns, true);
        expect([...gathered].filter((image) => !each.has(image))).toEqual([]);
      }),
      { numRuns: share(150) },
    );
  });

  /** What power cuts may leave of turns of writes that follow each other. */
  async function imagesOf(
    turns: readonly (readonly { at: number; forced: boolean; barrier: boolean }[])[],
    gathers: boolean,
  ): Promise<ReadonlySet<string>> {
    const size = 6 * SECTOR;
    const profile = { ...DEVICE_PROFILES.file, gathers };
    const device = new VolatileDisk({ size, profile, seed: 1 });
    const disk = new IoScheduler(device);
    let fill = 0;
    for (const turn of turns) {
      const writes = turn.map(({ at, forced: fua, barrier }, n) => {
        fill += 1;
        return disk.write((at + n) * SECTOR, new Uint8Array(SECTOR).fill(fill), { fua, barrier });
      });
      await Promise.all([...writes, disk.flush()]);
    }
    const images = Array.from(crashSpace(device.trace, profile), (state) =>
      Buffer.from(state.image()).toString('base64'),
    );
    return new Set(images);
  }

  test('is what every test runs on that names no other', async () => {
    expect(deviceProfile()).toEqual(DEVICE_PROFILES.file);
    expect(deviceProfile({})).toEqual(DEVICE_PROFILES.file);
    expect(new VolatileDisk({ size: SECTOR }).profile).toEqual(DEVICE_PROFILES.file);
    const trace = { size: SECTOR, commands: [], marks: [] };
    expect(crashSpace(trace).profile).toEqual(DEVICE_PROFILES.file);
    const report = await crashTest(inOrder);
    expect(report).toMatchObject({ profile: DEVICE_PROFILES.file, mode: 'DRAIN_FUA' });
    expect(report.trace.commands.some(({ tag }) => tag === 'ordered')).toBe(false);
  });
});

describe.each(NAMES.map((name) => [name, DEVICE_PROFILES[name]] as const))(
  'the device %s',
  (name, profile) => {
    test('is data, all of it, and is taken by its name or as it stands', () => {
      expect(Object.isFrozen(profile)).toBe(true);
      expect(JSON.parse(JSON.stringify(profile))).toEqual(profile);
      expect(deviceProfile(name)).toEqual(profile);
      expect(deviceProfile(profile)).toEqual(profile);
      expect(deviceProfile({ ...profile, lies: ['ignoreFlush'] }).lies).toEqual(['ignoreFlush']);
    });

    test('has each optional command exactly where it declares it: for its host, for another opener, and for a recovery', () => {
      const disk = new VolatileDisk({ size: SECTOR, profile: name });
      const left = crashSpace(disk.trace, name).at(0n).disk();
      for (const it of [disk, disk.opener(), left]) {
        expect(it.capabilities).toEqual({ ...disk.capabilities, cache: it.capabilities.cache });
        const { writev, discard, writeZeroes } = it.capabilities;
        const has = [it.writev, it.discard, it.writeZeroes].map((call) => call !== undefined);
        expect(has).toEqual([writev, discard, writeZeroes]);
      }
      expect(disk.capabilities).toMatchObject({ blockSize: SECTOR, cache: profile.cache });
    });

    test('runs a sound workload, which is proved on it, and the report says on what it ran', async () => {
      const report = await crashTest({ ...inOrder, profile: name, seeds: 5 });
      expect(report).toMatchObject({ verdict: 'proved', profile, mode: chooseMode(profile) });
      expect(formatCrashReport(report)).toContain(
        `device: ${name}; by default a scheduler on it takes ${report.mode}`,
      );
      expect(await barrierSynthesis({ ...inOrder, profile: name })).toBeDefined();
    });

    test('runs the litmus tests of the mode that is chosen for it', () => {
      const mode = chooseMode(profile);
      const cell = profile.cache === 'volatile' ? 1 : 0;
      for (const litmus of LITMUS.filter((each) => /^L[1-6]/.test(each.name))) {
        const expected = litmus.expected[mode]?.split('/')[cell] === 'A' ? 'sometimes' : 'never';
        expect(`${litmus.name} ${runLitmus(litmus, { mode, device: name }).verdict}`).toBe(
          `${litmus.name} ${expected}`,
        );
      }
    });
  },
);

test('given a device without a name, when it is reported, then it says how it differs from a file', async () => {
  const profile = { orderedTags: true, lies: ['ignoreFua', 'ignoreTags'] } as const;
  const report = await crashTest({ ...inOrder, profile });
  expect(formatCrashReport(report)).toContain(
    'device: file with orderedTags: true, lies: ignoreFua,ignoreTags; by default a scheduler on it takes TAG_FUA',
  );
  const replay = await crashTest({ ...inOrder, replay: 'seed 0 cut -1' });
  expect(replay).toMatchObject({ profile: DEVICE_PROFILES.file, mode: 'DRAIN_FUA' });
});

test('given a device without ordered tags, when a trace has some, then they order nothing', () => {
  const recorder = new DiskRecorder(2 * SECTOR);
  for (const [n, tag] of (['simple', 'ordered'] as const).entries()) {
    const what = { op: 'write', offset: n * SECTOR, length: SECTOR, tag, fua: false } as const;
    recorder.dispatch(what, sector(1));
  }
  const images = (orderedTags: boolean): string[] =>
    [...crashSpace(recorder.trace, { cache: 'none', orderedTags })]
      .map((state) => [0, 1].map((i) => state.image()[i * SECTOR]).join(''))
      .sort();
  expect(images(true)).toEqual(['00', '10', '11']);
  expect(images(false)).toEqual(['00', '01', '10', '11']);
});

test('given a device that takes no discards, when a trace has one all the same, then the place reads as anything', () => {
  const recorder = new DiskRecorder(SECTOR, sector(1));
  const what = { op: 'discard', offset: 0, length: SECTOR, tag: 'simple', fua: false } as const;
  recorder.complete(recorder.dispatch(what));
  const bytes = (discard: DeviceProfile['discard']): string[] =>
    [...crashSpace(recorder.trace, { cache: 'none', discard })].map((state) =>
      Buffer.from(state.image()).toString('hex'),
    );
  expect(bytes('none')).toEqual(bytes('arbitrary'));
  expect(bytes('none')).not.toEqual(bytes('zero'));
});

describe.each([
  ['zero', /^0$/],
  ['old-or-zero', /^1$/],
  ['arbitrary', /^(?!0$|1$)/],
] as const)('given a device whose discards leave %s', (discard, left) => {
  const profile = { discard, writeZeroes: true } as const;
  const initial = new Uint8Array(3 * SECTOR).fill(1);
  const bytes = new Uint8Array(SECTOR);
  /** The values of the first bytes of each sector, each of them once. */
  const seen = async (disk: Storage, n: number): Promise<string> => {
    await disk.read(n * SECTOR, bytes);
    return [...new Set(bytes)].join();
  };
  const use = async (disk: Storage): Promise<string[]> => {
    await disk.discard?.(0, 2 * SECTOR);
    await disk.write(SECTOR, sector(2), { fua: false, tag: 'simple' });
    await disk.writeZeroes?.(2 * SECTOR, SECTOR);
    return [await seen(disk, 0), await seen(disk, 1), await seen(disk, 2)];
  };
  const expected = [expect.stringMatching(left), '2', '0'];

  test('when a workload reads what it has discarded, then it cannot count on zeroes', async () => {
    const disk = new VolatileDisk({ size: 3 * SECTOR, initial, profile });
    expect(await use(disk)).toEqual(expected);
    await disk.flush();
    const left = Buffer.from(disk.powerCut()).toString('hex');
    const states = [...crashSpace(disk.trace, profile)].map((state) => state.image());
    expect(states.map((state) => Buffer.from(state).toString('hex'))).toContain(left);
  });

  // The first time; a later recovery may find what the one before has discarded.
  test('when a recovery reads what it has discarded, then it cannot either, in no life', async () => {
    const [found, shown]: [unknown[], unknown[]] = [[], []];
    const report = await crashTest<number, readonly string[]>({
      ...{ size: 3 * SECTOR, initial, profile, lives: 2 },
      workload: (_, __, ___, life) => void shown.push(life.shown),
      recover: use,
      check: (all) => found.push(all) > 0,
    });
    expect(report.failure).toBe(undefined);
    expect(found[0]).toEqual(expected);
    expect(shown.slice(0, 2)).toEqual([undefined, expected]);
  });
});

describe('a device that there is not', () => {
  test.each([
    ['floppy', /profile must be one of file, .*, not 'floppy'/],
    ['__proto__', /profile must be one of file, .*, not '__proto__'/],
    ['toString', /profile must be one of file, .*, not 'toString'/],
    [{ orderedTag: true }, /no option 'orderedTag'; did you mean 'orderedTags'/],
    [{ cache: 'off' }, /cache must be 'none', .*, not 'off'/],
    [{ sectorSize: '512' }, /sectorSize must be a whole number .*, not '512'/],
    [{ flush: 'yes' }, /flush must be a boolean, not 'yes'/],
    [{ writeZeroes: 1 }, /writeZeroes must be a boolean, not 1/],
    [{ fastZeroes: true }, /fastZeroes needs writeZeroes/],
    [{ discard: true }, /discard must be 'none', .*, not true/],
    [null, /must be an object, not null/],
    [7, /must be an object, not 7/],
  ])('%j is refused', (profile, message) => {
    const refusal = expect.objectContaining({
      code: 'INVALID_ARGUMENT',
      message: expect.stringMatching(message),
    });
    expect(() => new VolatileDisk({ size: SECTOR, profile: profile as 'file' })).toThrow(refusal);
    const trace = { size: SECTOR, commands: [], marks: [] };
    expect(() => crashSpace(trace, profile as 'file')).toThrow(refusal);
  });
});

test.each([
  [{ sectorSize: 0 }, 'sectorSize must be a whole number of bytes, at least 1, not 0'],
  [{ atomicWriteUnit: 700 }, 'atomicWriteUnit must be a multiple of sectorSize, 512, not 700'],
  [{ tear: 'torn' }, "tear must be 'sector', 'shorn' or 'garbage', not 'torn'"],
  [{ flush: 1 }, 'flush must be a boolean, not 1'],
  [{ lies: 'ignoreFlush' }, "lies must be a list, not 'ignoreFlush'"],
  [
    { lies: ['ignore'] },
    "a lie must be 'ignoreFlush', 'ignoreFua', 'ignoreTags' or 'claimWriteThrough', not 'ignore'",
  ],
  [{ fastZeroes: true }, 'fastZeroes needs writeZeroes'],
])(
  'given a profile with %j, then it is refused in words that say what is allowed',
  (fields, words) => {
    const message = `invalid device profile: ${words}`;
    expect(() => deviceProfile(fields as Partial<DeviceProfile>)).toThrow(
      expect.objectContaining({ code: 'INVALID_ARGUMENT', message }),
    );
  },
);
