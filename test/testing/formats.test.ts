// Traces as bytes, there and back, and what is no trace.

import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { MemoryStorage } from '../../src/storage/index.js';
import { DiskRecorder, type DiskTrace, recording } from '../../src/testing/device/disk-trace.js';
import {
  decodeTrace,
  encodeTrace,
  readLogWrites,
  TraceWriter,
  writeLogWrites,
} from '../../src/testing/lab/formats.js';
import { crashSpace } from '../../src/testing/space/crash-space.js';
import { share } from '../kit/amount.js';
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

const COMMAND = {
  ...{ op: 'discard', offset: 0, length: 512, tag: 'simple', fua: false },
  ...{ dispatched: 0, failed: false },
};

describe('the compact form', () => {
  test('of any trace is read back as it was', () => {
    fc.assert(
      fc.property(hosts(6), hosts(6, true), profiles, (host, resizing, profile) => {
        for (const one of [host, resizing]) {
          const { trace } = playedBy(one, profile);
          expect(decodeTrace(encodeTrace(trace))).toEqual(trace);
        }
        const { trace } = playedBy(host, profile);
        expect(decodeTrace(encodeTrace(trace))).toEqual(trace);
      }),
      { numRuns: share(300) },
    );
    const initial = new Uint8Array(8 * SECTOR).fill(9);
    const trace = { ...recorded(), initial, unreadable: [SECTOR] };
    expect(decodeTrace(encodeTrace(trace))).toEqual(trace);
  });

  test('cut off anywhere behind its beginning is the same run, ended earlier', () => {
    const trace = recorded();
    const bytes = encodeTrace(trace);
    const beginning = encodeTrace({ ...trace, commands: [], marks: [] }).length;
    const times = new Set<number>();
    for (let end = beginning; end <= bytes.length; end++) {
      const { commands, marks } = decodeTrace(bytes.subarray(0, end));
      const known = [...commands.flatMap(momentsOf), ...marks.map(({ time }) => time)];
      const now = 1 + Math.max(-1, ...known);
      expect(known.length).toBe(now);
      if (!times.has(now)) expect({ commands, marks }).toEqual(until(trace, now));
      times.add(now);
    }
    expect(times.size).toBe(1 + trace.marks.length + trace.commands.flatMap(momentsOf).length);
  });

  test.each([
    ['nothing', new Uint8Array(0)],
    ['something else', new TextEncoder().encode('PNG\n{}\n')],
    ['an older form', new TextEncoder().encode('write-barrier-trace 1\n{"size":512}\n')],
    ['a disk without a size', told('{}')],
    ['a beginning that is cut off', told('{"size":512}').subarray(0, -1)],
    ['an initial image that is cut off', told('{"size":512,"payload":512}')],
    ['a line that is no JSON', told('{"size":512}', '{')],
    ['a line that is no object', told('{"size":512}', '7')],
    ['an event that is none', told('{"size":512}', '{}')],
    ['a payload without a length', told('{"size":512}', '{"dispatched":0,"payload":-1}')],
    ...Object.entries({
      op: 'truncate',
      offset: -1,
      length: '512',
      dispatched: 0.5,
      tag: 'head',
      fua: 1,
      failed: null,
    }).map(([name, value]): [string, Uint8Array] => [
      `a command with the ${name} ${JSON.stringify(value)}`,
      told('{"size":512}', JSON.stringify({ ...COMMAND, [name]: value })),
    ]),
    ['an answer to nothing', told('{"size":512}', '{"completed":0,"command":0}')],
  ])('%s is refused', (_, bytes) => {
    expect(() => decodeTrace(bytes)).toThrow(expect.objectContaining({ code: 'SYNTAX' }));
  });
});

function told(...lines: readonly string[]): Uint8Array {
  return new TextEncoder().encode(`write-barrier-trace 2\n${lines.join('\n')}\n`);
}

function momentsOf({ dispatched, completed }: DiskTrace['commands'][number]): number[] {
  return completed === Number.POSITIVE_INFINITY ? [dispatched] : [dispatched, completed];
}

/** What had happened by then. That a command was to fail is in its dispatch. */
function until({ commands, marks }: DiskTrace, now: number): Pick<DiskTrace, 'commands' | 'marks'> {
  return {
    commands: commands
      .filter(({ dispatched }) => dispatched < now)
      .map((command) =>
        command.completed < now ? command : { ...command, completed: Number.POSITIVE_INFINITY },
      ),
    marks: marks.filter(({ time }) => time < now),
  };
}

describe('a writer of traces', () => {
  const BYTES = 8 * SECTOR;

  test('given the same run, writes at once what a recorder keeps', () => {
    const pieces: Uint8Array[] = [];
    const initial = new Uint8Array(BYTES).fill(3);
    const recorder = new DiskRecorder(BYTES, initial);
    const writer = new TraceWriter(BYTES, (piece) => void pieces.push(piece), initial);
    for (const each of [recorder, writer]) {
      const first = each.dispatch(write(0), new Uint8Array(SECTOR).fill(1));
      const second = each.dispatch(FLUSH);
      each.complete(second, true);
      each.mark({ file: 1 });
      each.complete(first);
      each.dispatch(write(SECTOR, true), new Uint8Array(SECTOR).fill(2));
      expect(decodeTrace(Buffer.concat(pieces)).commands.length).toBe(each === writer ? 3 : 0);
    }
    expect(decodeTrace(Buffer.concat(pieces))).toEqual(recorder.trace);
  });

  test('takes no answer twice, and none to what it has not seen', () => {
    const writer = new TraceWriter(BYTES, () => {});
    writer.complete(writer.dispatch(FLUSH));
    expect(() => writer.complete(0)).toThrow(/is not in flight/);
    expect(() => writer.complete(1)).toThrow(/is not in flight/);
  });
});

describe('a recording', () => {
  test('tells every command before the storage gets it, with its bytes, and every answer', async () => {
    const recorder = new DiskRecorder(8 * SECTOR);
    const seen: number[] = [];
    const memory = new MemoryStorage(8 * SECTOR, { capabilities: { cache: 'volatile' } });
    const disk = recording(memory, {
      dispatch: (what, data) => {
        const into = new Uint8Array(SECTOR);
        memory.read(0, into);
        seen.push(into[0] as number);
        return recorder.dispatch(what, data);
      },
      complete: (command, failed) => recorder.complete(command, failed),
    });
    const flags = { tag: 'simple', fua: false } as const;
    const data = new Uint8Array(SECTOR).fill(1);
    await disk.write(0, data, flags);
    data.fill(9);
    await disk.writev?.(SECTOR, [new Uint8Array(100).fill(2), new Uint8Array(412).fill(3)], flags);
    await disk.flush(flags);
    await disk.writeZeroes?.(0, SECTOR);
    await expect(async () => disk.write(8 * SECTOR, data, flags)).rejects.toThrow();
    const { commands } = recorder.trace;
    expect(
      commands.map(({ op, offset, failed, data }) => [op, offset, failed, data?.[0], data?.[511]]),
    ).toEqual([
      ['write', 0, false, 1, 1],
      ['write', SECTOR, false, 2, 3],
      ['flush', 0, false, undefined, undefined],
      ['writeZeroes', 0, false, undefined, undefined],
      ['write', 8 * SECTOR, true, 9, 9],
    ]);
    expect(seen).toEqual([0, 1, 1, 1, 0]);
    expect(commands.every(({ completed }) => completed < Number.POSITIVE_INFINITY)).toBe(true);
  });

  test('takes a transfer that comes short for a failure', async () => {
    const recorder = new DiskRecorder(8 * SECTOR);
    const short = Object.assign(new MemoryStorage(8 * SECTOR), { write: () => 511 });
    const disk = recording(short as unknown as MemoryStorage, recorder);
    expect(disk.write(0, new Uint8Array(SECTOR), { tag: 'simple', fua: false })).toBe(511);
    expect(recorder.trace.commands[0]).toMatchObject({ failed: true });
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

  test('has no place for a resize, which is refused and not left out', () => {
    const recorder = new DiskRecorder(SECTOR);
    const grow = { op: 'writeZeroes', offset: SECTOR, length: SECTOR, size: 2 * SECTOR } as const;
    recorder.complete(recorder.dispatch({ ...grow, tag: 'simple', fua: false }));
    expect(() => writeLogWrites(recorder.trace)).toThrow('a resize to 1024 bytes');
    const text = new TextDecoder().decode(encodeTrace(recorder.trace));
    const wrong = new TextEncoder().encode(text.replace('"size":1024', '"size":1536'));
    expect(() => decodeTrace(wrong)).toThrow('has a size that its range does not make');
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
      { numRuns: share(100) },
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
