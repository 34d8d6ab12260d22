import { readFile } from 'node:fs/promises';
import { describe, expect, test } from 'vitest';
import type { ModeName } from 'write-barrier';
import { type CrashTest, crashTest } from 'write-barrier/testing';
import { log } from '../../examples/05-crash-test/log.mjs';
import { manifest } from '../../examples/05-crash-test/manifest.mjs';
import { pages } from '../../examples/05-crash-test/pages.mjs';
import { superblock } from '../../examples/05-crash-test/superblock.mjs';
import { runExample, runHere } from './run.js';

type Twins = (mode?: ModeName) => Record<string, CrashTest<unknown, unknown>>;

const SYSTEMS: Readonly<Record<string, Twins>> = { log, pages, manifest, superblock };
/** What the recovery of each twin comes to. */
const MESSAGES: Readonly<Record<string, Readonly<Record<string, RegExp>>>> = {
  log: {
    'a mark for a checksum': /^record 0 reads 'record 0 and zeroes'$/,
    'a checksum without the number': /^record 4 reads 'record 0'$/,
  },
  pages: {
    'no barrier behind the copy': /^page (\d) reads 'page\1 v1 and zeroes'/,
    'no copy': /^page (\d) reads 'page\1 v1 and zeroes'/,
  },
  manifest: {
    'no barrier before the pointer': /^key \d is lost$/,
  },
  superblock: {
    'always the same slot': /^generation 0 counts, 1 was acknowledged$/,
    'no barrier before the slot': /^leaf 0 of generation 1 reads 'zeroes/,
  },
};
const SEEDS = [0, 1, 2, 3];

const systems = Object.entries(SYSTEMS).map(([name, twins]) => ({ name, twins }));
const broken = Object.entries(MESSAGES).flatMap(([name, messages]) =>
  Object.entries(messages).map(([twin, message]) => ({ name, twin, message })),
);

function testOf(name: string, twin: string, mode?: ModeName): CrashTest<unknown, unknown> {
  const found = SYSTEMS[name]?.(mode)[twin];
  if (!found) throw new Error(`${name} has no twin '${twin}'`);
  return found;
}

test('given a system, when its twins are listed, then each but the sound one is expected to fail', () => {
  for (const { name, twins } of systems) {
    expect(Object.keys(twins())).toEqual(['sound', ...Object.keys(MESSAGES[name] ?? {})]);
  }
});

describe.each(systems)('given the $name', ({ name }) => {
  test.each(['TAG_FLUSH', 'TAG_FUA', 'DRAIN_FLUSH'] as const)(
    'when it runs in mode %s, then it survives every power cut, whatever the order of answers',
    async (mode) => {
      for (const seed of SEEDS) {
        const report = await crashTest({ ...testOf(name, 'sound', mode), seed });
        expect(report).toMatchObject({ verdict: 'proved', warnings: [] });
        expect(report.covered).toBe(report.images);
        expect(report.recoveries).toBeLessThan(1000);
      }
    },
  );

  test('when the disk ignores flushes, then it does not survive', async () => {
    const careless = {
      ...testOf(name, 'sound'),
      profile: { orderedTags: true, lies: ['ignoreFlush'] },
    } as const;
    expect((await crashTest(careless)).verdict).toBe('failed');
  });
});

describe.each(broken)('given the $name with $twin', ({ name, twin, message }) => {
  test('when the power is cut, then that is found, and comes back when it is replayed', async () => {
    const broken = testOf(name, twin);
    const { verdict, failure, recoveries } = await crashTest({ ...broken, recoveriesMax: 1000 });
    expect(verdict).toBe('failed');
    expect(failure?.message).toMatch(message);
    expect(recoveries).toBeLessThan(1000);
    const again = await crashTest({ ...broken, replay: failure?.replay as string });
    expect(again.failure?.message).toBe(failure?.message);
  });

  test('when the disk answers in another order, or has FUA to use, then it is found, too', async () => {
    for (const mode of ['TAG_FLUSH', 'TAG_FUA', 'DRAIN_FLUSH'] as const) {
      for (const seed of SEEDS) {
        const { verdict } = await crashTest({ ...testOf(name, twin, mode), seed });
        expect(verdict, `${mode}, seed ${seed}`).toBe('failed');
      }
    }
  });
});

describe('the example', () => {
  test('prints what its page shows', async () => {
    const path = new URL('../../examples/05-crash-test/README.md', import.meta.url);
    const page = (await readFile(path, 'utf8')).replaceAll('\r\n', '\n');
    const shown = /^```text\n([\s\S]*?)^```$/m.exec(page)?.[1];
    expect(await runExample(['crash-test'])).toEqual({ code: 0, stdout: shown, stderr: '' });
  });

  test.each(systems)('with $name shows all that its twins come to', async ({ name, twins }) => {
    const { code, stdout, stderr } = await runHere('05-crash-test', [name]);
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
    const [rows = '', ...reports] = stdout.trimEnd().split('\n\n');
    expect(
      rows
        .split('\n')
        .slice(1)
        .map((row) => row.split(/ {2,}/)[1]),
    ).toEqual(Object.keys(twins()));
    const titles = Object.keys(MESSAGES[name] ?? {}).map((twin) => `${name}, ${twin}`);
    expect(reports.map((report) => report.split('\n')[0])).toEqual(titles);
    for (const report of reports) expect(report).toContain("  replay: 'seed 0 cut ");
  });

  test('with any other name says which there are', async () => {
    const { code, stdout, stderr } = await runExample(['crash-test', 'heap']);
    expect({ code, stdout }).toEqual({ code: 1, stdout: '' });
    expect(stderr).toBe("'heap' is no system; there are log, pages, manifest, superblock\n");
  });
});
