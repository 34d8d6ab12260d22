// Power cuts for recoveries that take long. Goal: they are possible, no two are the same, and they come from all over the trace.

import fc from 'fast-check';
import { expect, test } from 'vitest';
import { DiskRecorder } from '../../src/testing/device/disk-trace.js';
import { crashSpace } from '../../src/testing/space/crash-space.js';
import { share } from '../kit/amount.js';
import { SECTOR } from './sectors.js';
import { hosts, playedBy, profiles } from './traces.js';

test('given any small trace on any device, when power cuts are drawn, then each leaves a state that is possible at its moment, and each another one', () => {
  fc.assert(
    fc.property(hosts(5), profiles, fc.nat(), (host, profile, seed) => {
      const space = crashSpace(playedBy(host, profile).trace, profile);
      const seen = new Set<string>();
      for (const { time, state } of space.cuts(seed)) {
        expect(state.isPossible).toBe(true);
        expect(state.after).toBeLessThan(time);
        expect(state.before).toBeGreaterThan(time);
        const key = state.versions.join();
        expect(seen.has(key)).toBe(false);
        seen.add(key);
        if (seen.size === 50) break;
      }
      expect(seen.size).toBeGreaterThan(0);
    }),
    { numRuns: share(300) },
  );
});

test('given moments that are no whole numbers, when power cuts are drawn, then all states are met', () => {
  const write = (sector: number, dispatched: number) => ({
    ...{ op: 'write' as const, offset: sector * SECTOR, length: SECTOR },
    ...{ tag: 'simple' as const, fua: false, data: new Uint8Array(SECTOR).fill(1) },
    ...{ dispatched, completed: dispatched + 0.001, failed: false },
  });
  const commands = [write(0, -3.25), write(1, -3.2)];
  const space = crashSpace({ size: 2 * SECTOR, commands, marks: [] });
  expect([...space.cuts()].length).toBe(Number(space.count));
});

test('given a long log, when the first power cuts are drawn, then they are spread over all of it', () => {
  const recorder = new DiskRecorder(100 * SECTOR);
  const what = { length: SECTOR, tag: 'simple', fua: false } as const;
  for (let sector = 0; sector < 100; sector += 1) {
    const data = new Uint8Array(SECTOR).fill(1);
    recorder.complete(recorder.dispatch({ op: 'write', offset: sector * SECTOR, ...what }, data));
    recorder.complete(recorder.dispatch({ op: 'flush', offset: 0, ...what, length: 0 }));
  }
  const times: number[] = [];
  for (const { time } of crashSpace(recorder.trace).cuts(1)) if (times.push(time) === 20) break;
  const tenths = new Set(times.map((time) => Math.floor(time / 40)));
  expect(tenths.size).toBeGreaterThanOrEqual(10);
});
