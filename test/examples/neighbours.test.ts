// Who waits for whom, in figures: the rows are the same in every run and are those of the page. What is said of them there is
// checked, and so are the bounds in time that a group states.

import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import {
  IoScheduler,
  MemoryStorage,
  type ModeName,
  SchedulerGroup,
  type Storage,
} from 'write-barrier';
import { SHARED_DISKS, sharedDisk } from '../../bench/devices/shared-disk.mjs';
import { VirtualClock } from '../../bench/devices/virtual-clock.mjs';
import {
  ABILITIES,
  barrierCosts,
  compareNeighbours,
  modeCosts,
  type Neighbours,
} from '../../examples/10-neighbours/neighbours.mjs';
import { ROOT, read, table, withSection } from '../docs/pages.js';
import { runExample } from './run.js';

const DISKS = Object.entries(SHARED_DISKS);
const rowsOf = Object.fromEntries(
  await Promise.all(DISKS.map(async ([name, times]) => [name, await compareNeighbours(times)])),
) as Record<string, readonly Neighbours[]>;
const costsOf = Object.fromEntries(
  await Promise.all(DISKS.map(async ([name, times]) => [name, await barrierCosts(times)])),
) as Record<string, Awaited<ReturnType<typeof barrierCosts>>>;

const modesOf = Object.fromEntries(
  await Promise.all(DISKS.map(async ([name, times]) => [name, await modeCosts(times)])),
) as Record<string, Awaited<ReturnType<typeof modeCosts>>>;

// `npx vitest run --project examples test/examples/neighbours.test.ts -u` writes the page anew.
test('the tables of the page are these rows', async () => {
  let page = read('docs/many-on-one-disk.md');
  const head = ['', '', 'worst read', 'mean read', 'mean commit', 'bulk bytes per ms'];
  for (const [disk] of DISKS) {
    const cells = (rowsOf[disk] as readonly Neighbours[]).map((row) => [
      ...[row.name, row.way],
      ...[row.worstReadUs, row.meanReadUs, row.commitUs, row.bulkBytesPerMs, row.flushes].map(
        String,
      ),
    ]);
    page = withSection(page, disk, table([...head, 'flushes per 1000 commits'], cells));
    const costs = (costsOf[disk] as (typeof costsOf)[string]).map((row) => [
      row.mode,
      ...[row.aloneUs, row.besideUs, row.groupUs].map(String),
    ]);
    const costHead = ['mode', 'alone', 'beside a bulk writer', 'the same, on a group'];
    page = withSection(page, `${disk}-costs`, table(costHead, costs));
  }
  await expect(page).toMatchFileSnapshot(join(ROOT, 'docs/many-on-one-disk.md'));
});

// The pictures of the page are drawn from them (test/docs/drawn/neighbours.ts, barriers.ts).
test.each([
  ['neighbours', rowsOf],
  ['barriers', { costs: costsOf, modes: modesOf }],
])('the figures of the pictures are these rows: bench/%s.json', async (name, figures) => {
  const text = `${JSON.stringify(figures, null, 2)}\n`;
  await expect(text).toMatchFileSnapshot(join(ROOT, `bench/${name}.json`));
});

describe('what the page says', () => {
  const worst = (disk: string, way: string): number[] =>
    (rowsOf[disk] ?? []).filter((row) => row.way === way).map(({ worstReadUs }) => worstReadUs);

  test.each(DISKS)(
    'a read on a group waits for a flush, and for what is at the disk: %s',
    (disk, times) => {
      const bulk = times.commandUs + (128 * 1024) / times.bytesPerUs;
      const bound = times.flushUs + 3 * bulk + times.commandUs;
      for (const us of worst(disk, 'group')) expect(us).toBeLessThan(bound + times.flushUs);
    },
  );

  test('on the spindle it waits for less than half of what it waits for elsewhere', () => {
    const [most] = worst('spindle', 'group').sort((a, b) => b - a);
    for (const way of ['shared', 'own']) {
      for (const us of worst('spindle', way)) expect(us).toBeGreaterThan(2 * (most as number));
    }
  });

  test('no way without a group is better for the reader, on either disk', () => {
    for (const [disk] of DISKS) {
      const rows = rowsOf[disk] as readonly Neighbours[];
      for (const row of rows.filter(({ way }) => way === 'group')) {
        const others = rows.filter(({ name, way }) => name === row.name && way !== 'group');
        for (const other of others) expect(row.worstReadUs).toBeLessThan(other.worstReadUs);
      }
    }
  });

  test.each(DISKS)('which mode on which device: %s', (disk, times) => {
    const costOf = (device: string): Partial<Record<ModeName, number>> =>
      Object.fromEntries(
        (modesOf[disk] ?? [])
          .filter((row) => row.device === device)
          .map(({ mode, commitUs }) => [mode, commitUs]),
      );
    const [none = '', flush = '', fua = ''] = Object.keys(ABILITIES);
    // Without a cache there is nothing to flush, so every mode costs what its writes cost.
    expect(new Set(Object.values(costOf(none))).size).toBe(1);
    // With one a barrier pays for two flushes, and DRAIN for none, because it promises nothing there.
    expect(costOf(flush).DRAIN_FLUSH).toBe((costOf(flush).DRAIN ?? 0) + 2 * times.flushUs);
    // FUA takes the place of the second flush; where it is emulated it saves nothing.
    expect(costOf(flush).DRAIN_FUA).toBe(costOf(flush).DRAIN_FLUSH);
    expect(costOf(fua).DRAIN_FUA).toBe((costOf(fua).DRAIN ?? 0) + times.flushUs + times.fuaUs);
    // A program that waits itself pays what the best mode pays.
    for (const device of [flush, fua]) {
      const chosen = (modesOf[disk] ?? []).find((row) => row.device === device && row.isChosen);
      expect(chosen?.verdict).toBe('safe');
      expect(costOf(device).NONE).toBe(chosen?.commitUs);
    }
  });

  test('the example prints them', async () => {
    const { code, stdout, stderr } = await runExample(['neighbours']);
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
    for (const [name] of DISKS) expect(stdout).toContain(`${name}, in virtual microseconds`);
    expect(stdout).toContain(`${worst('spindle', 'shared')[0]}`);
  });
});

describe('in virtual time, beside 8 members that flood', () => {
  const BLOCK = 4096;
  const PART = 8 * 1024 * 1024;
  const FLOOD = new Uint8Array(512 * 1024);
  const TIMES = SHARED_DISKS.flash;

  interface Flood {
    /** The most that one of its commands moves, in bytes. */
    readonly largest: number;
    readonly send: (disk: IoScheduler, at: number) => Promise<unknown>;
  }

  const FLOODS: Readonly<Record<string, Flood>> = {
    'write 16 times 512 KiB at once': {
      largest: FLOOD.length,
      send: (disk, at) =>
        Promise.all(Array.from({ length: 16 }, (_, n) => disk.write(at + n * FLOOD.length, FLOOD))),
    },
    'read 16 times 512 KiB at once': {
      largest: FLOOD.length,
      send: (disk, at) =>
        Promise.all(
          Array.from({ length: 16 }, (_, n) => disk.read(at + n * FLOOD.length, FLOOD.length)),
        ),
    },
    'write zeroes, 8 MiB at a time': {
      largest: 1024 * 1024,
      send: (disk, at) => disk.writeZeroes(at, PART),
    },
    'commit by a barrier without pause': {
      largest: FLOOD.length,
      send: (disk, at) =>
        Promise.all([
          disk.write(at, FLOOD),
          disk.write(at + FLOOD.length, FLOOD.subarray(0, BLOCK), { barrier: true }),
        ]),
    },
    'write a block and flush without pause': {
      largest: BLOCK,
      send: async (disk, at) => {
        await disk.write(at, FLOOD.subarray(0, BLOCK));
        await disk.flush();
      },
    },
  };

  async function worstRead(partOf: (n: number) => Storage, clock: VirtualClock, { send }: Flood) {
    let isOver = false;
    const floods = Array.from({ length: 8 }, async (_, n) => {
      const disk = new IoScheduler(partOf(n));
      while (!isOver) await send(disk, n * PART);
    });
    const reader = new IoScheduler(partOf(8));
    let worst = 0;
    const reads = async (): Promise<void> => {
      for (let n = 0; n < 20; n++) {
        await clock.sleep(4000 + 700 * (n % 5));
        const from = clock.now;
        await reader.read(8 * PART, BLOCK);
        worst = Math.max(worst, clock.now - from);
      }
      isOver = true;
    };
    await clock.run(Promise.all([reads(), ...floods]));
    return worst;
  }

  const newDisk = (clock: VirtualClock): Storage => {
    const capabilities = { blockSize: BLOCK, writeZeroes: false };
    return sharedDisk(new MemoryStorage(9 * PART, { capabilities }), clock, TIMES).disk;
  };

  test.each(Object.entries(FLOODS))(
    'a read waits for what is at the disk, a flush, and one command of the others, while they %s',
    async (_, flood) => {
      const depthBytes = 1024 * 1024;
      const clock = new VirtualClock();
      const group = new SchedulerGroup(newDisk(clock), { depth: 8, depthBytes });
      const worst = await worstRead(() => group.member(), clock, flood);
      const moves = (bytes: number): number => TIMES.commandUs + bytes / TIMES.bytesPerUs;
      // As if the disk did one thing after the other; it has four lanes.
      const atDisk = 8 * TIMES.commandUs + Math.max(depthBytes, flood.largest) / TIMES.bytesPerUs;
      const bound = atDisk + TIMES.flushUs + moves(flood.largest) + moves(BLOCK);
      expect(worst).toBeLessThanOrEqual(bound);
    },
  );

  test('without a group the same floods make it wait for several times as long', async () => {
    const flood = FLOODS['write 16 times 512 KiB at once'] as Flood;
    const clock = new VirtualClock();
    const disk = newDisk(clock);
    const shared = new IoScheduler(disk, { readsPassBarriers: false });
    const without = await worstRead(() => shared.asStorage(), clock, flood);
    const other = new VirtualClock();
    const group = new SchedulerGroup(newDisk(other), { depth: 8, depthBytes: 1024 * 1024 });
    const grouped = await worstRead(() => group.member(), other, flood);
    expect(without).toBeGreaterThan(4 * grouped);
  });
});
