// Storages that gather: writes that follow each other become one command (ordering.I9), and forced writes share a flush where
// forcing costs as much as a flush (`slowFua`). The laws are tested with those of the scheduler, on any program; here is
// what happens to each of the writes.

import { describe, expect, test } from 'vitest';
import { IoScheduler, type TraceEvent, type WriteBarrierError } from 'write-barrier';
import { checkTrace } from 'write-barrier/testing';
import { BLOCK, ManualStorage, outcomes, settled, VOLATILE, World } from './world.js';

const FILE = { ...VOLATILE, gathers: true, slowFua: true, orderedTags: false };

describe('given a storage that gathers', () => {
  test('when one turn submits writes that follow each other, then they are one write, and flushes among them share one flush', async () => {
    const { device, disk, submit } = world();
    const all = submit('w0 f w1+2 f w3 f');
    expect(device.log).toBe('');
    await settled();
    expect(device.inFlight).toBe('w0+4');
    await device.answer('w0+4');
    expect(outcomes(all)).toBe('w0:done f:pending w1+2:done f:pending w3:done f:pending');
    expect(device.inFlight).toBe('F');
    await device.answer('F');
    expect(all.every(({ outcome }) => outcome === 'done')).toBe(true);
    expect(disk.stats()).toMatchObject({ submitted: 6, settled: 6, flushesCoalesced: 2 });
    expect(disk.stats().commands).toMatchObject({ write: 1, flush: 1 });
  });

  test('when writes do not follow each other, overlap, or are something else, then they stay apart', async () => {
    for (const program of ['w0 w2', 'w1 w0', 'w0 r1 w1', 'd0 d1', 'z0 z1', 'r0 r1', 'fw1 w2']) {
      const { device, submit } = world();
      submit(program);
      await settled();
      await device.drain();
      const sorted = (text: string): string[] => text.replaceAll(/F |f/g, '').split(' ').sort();
      expect(sorted(device.log)).toEqual(sorted(program));
    }
    const { device, submit } = world();
    submit('w5');
    await settled();
    submit('w4 w5 w6');
    await settled();
    expect(device.inFlight).toBe('w5 w4 w6');
  });

  test('when the writes are large, then no command is larger than 256 KiB', async () => {
    const { device, submit } = world();
    submit('w0+30 w30+30 w60+30 w90+100 w190');
    await settled();
    expect(device.inFlight).toBe('w0+60 w60+30 w90+100 w190');
  });

  test('when a gathered write fails, then each of its writes has failed, and the barrier behind is not written', async () => {
    const events: TraceEvent[] = [];
    const { device, submit } = world((event) => events.push(event));
    const all = submit('w0 w1 f w2 b5');
    await settled();
    await device.fail('w0+3');
    await device.drain();
    expect(outcomes(all)).toBe('w0:IO_FAILED w1:IO_FAILED f:done w2:IO_FAILED b5:BARRIER_ABORTED');
    const [first, , , last] = all.map(({ error }) => error as WriteBarrierError);
    expect(first?.cause).toBe(last?.cause);
    expect(first?.message).not.toBe(last?.message);
    expect(checkTrace(events, { mode: 'DRAIN_FUA', device: FILE })).toEqual([]);
  });

  test('when a buffer is transferred before its turn, then only its own write fails', async () => {
    const device = new ManualStorage(FILE);
    const disk = new IoScheduler(device);
    const gone = new Uint8Array(BLOCK);
    const ends = [new Uint8Array(BLOCK), gone, new Uint8Array(BLOCK), new Uint8Array(BLOCK)].map(
      (data, i) => disk.write(i * BLOCK, data).catch((error: WriteBarrierError) => error.code),
    );
    structuredClone(gone, { transfer: [gone.buffer] });
    await settled();
    expect(device.inFlight).toBe('w0 w2+2');
    await device.drain();
    expect(await Promise.all(ends)).toEqual([undefined, 'IO_FAILED', undefined, undefined]);
  });

  test('when a write is cancelled in the turn that submitted it, then it is not issued, and its neighbours are apart', async () => {
    const { device, submit } = world();
    const all = submit('w0 w1 w2');
    await all[1]?.cancel();
    expect(device.inFlight).toBe('w0 w2');
    await device.drain();
    expect(outcomes(all)).toBe('w0:done w1:cancelled w2:done');
  });

  test('when forced writes come together, then they are one write and one flush; the write of a barrier is forced by itself', async () => {
    const events: TraceEvent[] = [];
    const { device, submit } = world((event) => events.push(event));
    const all = submit('w0! w1! b9');
    await settled();
    expect(device.inFlight).toBe('w0+2');
    await device.drain();
    expect(device.log).toBe('w0+2 F F w9!');
    expect(all.every(({ outcome }) => outcome === 'done')).toBe(true);
    expect(checkTrace(events, { mode: 'DRAIN_FUA', device: FILE })).toEqual([]);
  });
});

function world(observer?: (event: TraceEvent) => void): World & { submit: World['submit'] } {
  const made = new World({ mode: 'DRAIN_FUA', device: FILE, ...(observer && { observer }) });
  return Object.assign(made, { submit: made.submit.bind(made) });
}
