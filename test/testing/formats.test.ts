// Traces as bytes, there and back, and what is no trace.

import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { DiskRecorder, type DiskTrace } from '../../src/testing/device/disk-trace.js';
import {
  decodeTrace,
  encodeTrace,
  readLogWrites,
  writeLogWrites,
} from '../../src/testing/device/formats.js';
import { crashSpace } from '../../src/testing/space/crash-space.js';
import { hosts, playedBy, profiles, SECTOR } from './traces.js';

const write = (offset: number, fua = false) =>
  ({ op: 'write', offset, length: SECTOR, tag: 'simple', fua }) as const;
const FLUSH = { op: 'flush', offset: 0, length: 0, tag: 'simple', fua: false } as const;

/** A log with everything in it that dm-log-writes knows. */
function recorded(): DiskTrace {
  const recorder = new DiskRecorder(8 * SECTOR);
  const run = (what: Parameters<DiskRecorder['dispatch']>[0], fill?: number): void =>
    recorder.complete(
      recorder.dispatch(
        what,
        fill === undefined ? undefined : new Uint8Array(what.length).fill(fill),
      ),
    );
  run(write(0), 1);
  run(write(SECTOR, true), 2);
  recorder.mark('before the flush');
  run(FLUSH);
  run({ ...write(4 * SECTOR), op: 'discard', length: 2 * SECTOR });
  run({ ...write(0), op: 'read' });
  recorder.mark({ file: 3 });
  recorder.complete(recorder.dispatch(write(2 * SECTOR), new Uint8Array(SECTOR)), true);
  recorder.dispatch(write(3 * SECTOR), new Uint8Array(SECTOR).fill(4));
  return recorder.trace;
}

describe('the compact form', () => {
  test('of any trace is read back as it was', () => {
    fc.assert(
      fc.property(hosts(6), profiles, (host, profile) => {
        const { trace } = playedBy(host, profile);
        expect(decodeTrace(encodeTrace(trace))).toEqual(trace);
      }),
      { numRuns: 300 },
    );
    const trace = { ...recorded(), initial: new Uint8Array(8 * SECTOR).fill(9) };
    expect(decodeTrace(encodeTrace(trace))).toEqual(trace);
  });

  test.each([
    ['nothing', new Uint8Array(0)],
    ['something else', new TextEncoder().encode('PNG\n{}\n')],
    ['no JSON', new TextEncoder().encode('write-barrier-trace 1\n{\n')],
    ['other JSON', new TextEncoder().encode('write-barrier-trace 1\n[]\n')],
    ['a cut trace', encodeTrace(recorded()).subarray(0, -1)],
    ['a trace with more behind it', Uint8Array.of(...encodeTrace(recorded()), 0)],
  ])('%s is refused', (_, bytes) => {
    expect(() => decodeTrace(bytes)).toThrow(expect.objectContaining({ code: 'SYNTAX' }));
  });
});

describe('the log of dm-log-writes', () => {
  test('has the layout that the kernel writes', () => {
    const bytes = writeLogWrites(recorded());
    const view = new DataView(bytes.buffer);
    expect(view.getBigUint64(0, true)).toBe(0x6a736677736872n);
    expect([
      view.getBigUint64(8, true),
      view.getBigUint64(16, true),
      view.getUint32(24, true),
    ]).toEqual([1n, 6n, 512]);
    const entry = (at: number) =>
      [0, 8, 16, 24].map((i) => Number(view.getBigUint64(at + i, true)));
    // Header and data of the first write, then the forced one, the mark, the flush, the discard, the mark.
    expect([512, 1536, 2560, 3072, 3584, 4096].map(entry)).toEqual([
      [0, 1, 0, 0],
      [1, 1, 2, 0],
      [0, 0, 8, 16],
      [0, 0, 1, 0],
      [4, 2, 4, 0],
      [0, 0, 8, 10],
    ]);
    expect(bytes.length).toBe(4608);
  });

  test('is read back without reads, failures and what was not answered', () => {
    const { commands, marks } = readLogWrites(writeLogWrites(recorded()), 8 * SECTOR);
    expect(
      commands.map(({ op, offset, fua }) => `${op} ${offset / SECTOR}${fua ? '!' : ''}`),
    ).toEqual(['write 0', 'write 1!', 'flush 0', 'discard 4']);
    expect(marks.map(({ value }) => value)).toEqual(['before the flush', '{"file":3}']);
    expect(commands[0]?.data).toEqual(new Uint8Array(SECTOR).fill(1));
  });

  test('of a trace in which nothing overlaps in time has the same crash space', () => {
    fc.assert(
      fc.property(hosts(6), (host) => {
        const simple = host.commands.map((command) => ({ ...command, tag: 'simple' as const }));
        const recorder = new DiskRecorder(3 * SECTOR);
        for (const [n, what] of simple.entries()) {
          const data = what.op === 'write' ? new Uint8Array(what.length).fill(n + 1) : undefined;
          recorder.complete(recorder.dispatch(what, data));
        }
        const { trace } = recorder;
        const again = readLogWrites(writeLogWrites(trace), trace.size);
        const images = (of: DiskTrace): string[] =>
          [...crashSpace(of)].map((state) => state.image().join()).sort();
        expect(images(again)).toEqual(images(trace));
      }),
      { numRuns: 100 },
    );
  });

  test('takes an entry that is a flush and a write in one', () => {
    const bytes = writeLogWrites(recorded());
    new DataView(bytes.buffer).setBigUint64(512 + 16, 3n, true);
    const { commands } = readLogWrites(bytes, 8 * SECTOR);
    expect(commands.slice(0, 2).map(({ op, fua }) => `${op} ${fua}`)).toEqual([
      'flush false',
      'write true',
    ]);
  });

  test.each([
    ['nothing', () => new Uint8Array(0)],
    ['another magic number', () => writeLogWrites(recorded()).fill(0, 0, 8)],
    ['another version', () => writeLogWrites(recorded()).fill(9, 8, 9)],
    ['sectors of 100 bytes', () => writeLogWrites(recorded()).fill(100, 24, 25)],
    ['an entry that is missing', () => writeLogWrites(recorded()).subarray(0, 4000)],
    ['data that is missing', () => writeLogWrites(recorded()).subarray(0, 1100)],
  ])('%s is refused', (_, make) => {
    expect(() => readLogWrites(make(), 8 * SECTOR)).toThrow(
      expect.objectContaining({ code: 'SYNTAX' }),
    );
  });

  test('what does not fit is told', () => {
    const recorder = new DiskRecorder(8 * SECTOR);
    recorder.complete(recorder.dispatch({ ...write(0), length: 100 }, new Uint8Array(100)));
    expect(() => writeLogWrites(recorder.trace)).toThrow(/not whole sectors/);
    const long = new DiskRecorder(SECTOR);
    long.mark('x'.repeat(481));
    expect(() => writeLogWrites(long.trace)).toThrow(/does not fit/);
  });
});
