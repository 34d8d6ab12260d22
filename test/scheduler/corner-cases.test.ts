// The numbered corner cases of historical systems, as far as the scheduler is concerned. The number in a name is
// that of the fact sheet; test/README.md tells where the others are. Programs are in the text notation.

import { describe, expect, test } from 'vitest';
import { IoScheduler, type ModeName, UnsafeModeError } from 'write-barrier';
import { ManualStorage, outcomes, settled, track, World } from './world.js';

const DRAIN_MODES = ['DRAIN', 'DRAIN_FLUSH', 'DRAIN_FUA'] as const;
const STABLE = { cache: 'none' } as const;
const NO_FUA = { fua: false } as const;

describe('modes and validation', () => {
  test('case 1: given any queue, when the mode is set to none of the seven, then EINVAL and the old mode stays', () => {
    const { disk } = new World({ mode: 'DRAIN_FLUSH' });
    for (const wrong of ['DRAIN_TAG', '', 'drain', 'constructor', 0x31]) {
      expect(() => disk.setMode(wrong as ModeName)).toThrow(
        expect.objectContaining({ code: 'EINVAL' }),
      );
    }
    expect(disk.mode).toBe('DRAIN_FLUSH');
  });

  test('case 4: given a flush mode and a cache without a flush, when it is set, then it is refused, and accepted under allowUnsafe', () => {
    const device = { flush: false } as const;
    const strict = new World({ mode: 'DRAIN', device: { ...device, cache: 'none' } });
    expect(() => new World({ mode: 'DRAIN_FLUSH', device })).toThrow(UnsafeModeError);
    expect(strict.disk.mode).toBe('DRAIN');
    const lax = new World({ mode: 'DRAIN', device, allowUnsafe: true });
    lax.disk.setMode('DRAIN_FLUSH');
    expect(lax.disk.guarantees.unsafe.map(({ name }) => name)).toEqual(['NO_FLUSH']);
  });

  test('case 5: given a sequence that runs, when the mode changes, then its steps stay and the next barrier uses the new mode', async () => {
    const { device, disk, submit } = world('DRAIN_FLUSH');
    submit('b0');
    disk.setMode('DRAIN_FUA');
    submit('b1');
    await device.drain();
    expect(device.log).toBe('F w0 F F w1!');
  });
});

describe('admission', () => {
  test('case 6: given NONE, when a barrier comes, with data or empty, then EOPNOTSUPP at once and others are unaffected', async () => {
    const { device, submit } = world('NONE', { allowUnsafe: true });
    const all = submit('w0 b1 b w2');
    await settled();
    expect(outcomes(all)).toBe('w0:pending b1:EOPNOTSUPP b:EOPNOTSUPP w2:pending');
    await device.drain();
    expect(device.log).toBe('w0 w2');
  });

  test('case 7: given a barrier queued behind I/O, when the mode becomes NONE, then it ends with EOPNOTSUPP and the queue goes on', async () => {
    const { device, disk, submit } = world('DRAIN', { depth: 1, device: STABLE });
    const all = submit('w0 b1 w2');
    disk.setMode('NONE');
    await device.drain();
    expect(outcomes(all)).toBe('w0:done b1:EOPNOTSUPP w2:done');
    expect(device.log).toBe('w0 w2');
  });

  test('case 8: given EOPNOTSUPP on a barrier with data, when it is sent again as a plain write, then that write is the only one', async () => {
    const { device, submit } = world('NONE', { allowUnsafe: true });
    const refused = submit('b1');
    await settled();
    expect(outcomes(refused)).toBe('b1:EOPNOTSUPP');
    const again = submit('w1');
    await device.drain();
    expect(outcomes(again)).toBe('w1:done');
    expect(device.log).toBe('w1');
  });

  test('case 9: given adjacent writes, when a barrier lies between them or is one of them, then they are not merged', async () => {
    const gathering = world('DRAIN', { device: { ...STABLE, gathers: true } });
    const writes = gathering.submit('w1 w2 b3 w4 w5 b w6 w7');
    await settled();
    expect(gathering.device.inFlight).toBe('w1+2');
    await gathering.device.drain();
    expect(gathering.device.log).toBe('w1+2 w3 w4+2 w6+2');
    expect(writes.every(({ outcome }) => outcome === 'done')).toBe(true);
    // Of other devices nothing is merged.
    const between = world('DRAIN', { device: STABLE });
    between.submit('w1 b w2');
    await between.device.drain();
    expect(between.device.log).toBe('w1 w2');
    const among = world('DRAIN', { device: STABLE });
    among.submit('w1 b2 w3');
    await among.device.drain();
    expect(among.device.log).toBe('w1 w2 w3');
  });

  test('case 10: given writes at 100, 10, a barrier, 5, when they are issued, then 5 never goes ahead of the barrier, and nothing is sorted', async () => {
    const gathering = world('DRAIN', { device: { ...STABLE, gathers: true } });
    gathering.submit('w11 w10 w9 w10 b50 w5 w6');
    await settled();
    expect(gathering.device.inFlight).toBe('w11 w10 w9');
    await gathering.device.drain();
    expect(gathering.device.log).toBe('w11 w10 w9 w10 w50 w5+2');
    const { device, submit } = world('DRAIN', { device: STABLE });
    submit('w100 w10 b50 w5');
    expect(device.inFlight).toBe('w100 w10');
    await device.answer('w10', 'w100');
    expect(device.inFlight).toBe('w50');
    await device.answer();
    expect(device.inFlight).toBe('w5');
  });
});

describe('drain modes', () => {
  test.each(DRAIN_MODES)(
    'case 11: given %s and commands in flight, when a barrier comes, then nothing is issued until none is',
    async (mode) => {
      const { device, submit } = world(mode, { allowUnsafe: true });
      submit('w0 w1 w2 b3 w4');
      await device.answer('w2', 'w0');
      expect(device.inFlight).toBe('w1');
      await device.answer('w1');
      expect(device.inFlight).toBe(mode === 'DRAIN' ? 'w3' : 'F');
    },
  );

  test('case 12: given DRAIN and only reads in flight, when a barrier comes, then it waits for the reads', async () => {
    const { device, submit } = world('DRAIN', { device: STABLE });
    submit('r0 r1 b2');
    await device.answer('r1');
    expect(device.inFlight).toBe('r0');
    await device.answer('r0');
    expect(device.inFlight).toBe('w2');
  });

  test('case 12: given a read that passed one barrier, when the next one drains, then it waits for the read', async () => {
    const { device, submit } = world('DRAIN', { device: STABLE });
    submit('w0 b1 r9 b2');
    expect(device.inFlight).toBe('w0 r9');
    await device.answer('w0');
    expect(device.inFlight).toBe('r9 w1');
    await device.answer('w1');
    expect(device.inFlight).toBe('r9');
    await device.answer('r9');
    expect(device.inFlight).toBe('w2');
  });

  test('case 13: given a running barrier, when a read comes, then the strict profile holds it until the sequence is done', async () => {
    const { device, submit } = world('DRAIN_FLUSH', { readsPassBarriers: false });
    submit('b0 r9');
    for (const step of ['F', 'w0', 'F']) {
      expect(device.inFlight).toBe(step);
      await device.answer();
    }
    expect(device.inFlight).toBe('r9');
  });

  test('case 13: given a running barrier, when a read comes that overlaps nothing, then by default it passes', async () => {
    const { device, submit } = world('DRAIN_FLUSH');
    submit('w0 b1 w2 r9 r0 r1 r2');
    expect(device.inFlight).toBe('w0 r9');
    await device.drain();
    expect(device.log).toBe('w0 r9 F w1 F w2 r0 r1 r2');
  });

  test('case 14: given DRAIN and nothing in flight, when an empty barrier comes, then it completes without a command', async () => {
    const { device, submit } = world('DRAIN', { device: STABLE });
    const all = submit('b');
    await settled();
    expect(outcomes(all)).toBe('b:done');
    expect(device.log).toBe('');
  });

  test('case 15: given DRAIN and commands in flight, when an empty barrier comes, then it completes with the last of them', async () => {
    const { device, submit } = world('DRAIN', { device: STABLE });
    const all = submit('w0 w1 b');
    await device.answer('w1');
    expect(outcomes(all)).toBe('w0:pending w1:done b:pending');
    await device.answer('w0');
    expect(outcomes(all)).toBe('w0:done w1:done b:done');
    expect(device.log).toBe('w0 w1');
  });

  test('case 16: given DRAIN_FLUSH, when an empty barrier comes, then exactly one flush and no data', async () => {
    const { device, submit } = world('DRAIN_FLUSH');
    submit('b');
    await device.drain();
    expect(device.log).toBe('F');
  });

  test('case 17: given DRAIN_FLUSH, when a barrier with data comes, then flush, write, flush, one after another', async () => {
    const { device, submit } = world('DRAIN_FLUSH');
    const all = submit('b3');
    for (const step of ['F', 'w3', 'F']) {
      expect(outcomes(all)).toBe('b3:pending');
      expect(device.inFlight).toBe(step);
      await device.answer();
    }
    expect(outcomes(all)).toBe('b3:done');
  });

  test('case 18: given nothing in flight and an earlier request that was not issued, when the drain is evaluated, then it is not complete', async () => {
    const { device, submit } = world('DRAIN', { depth: 1, device: STABLE });
    submit('w0 w0 w1 b2');
    await device.answer('w0');
    expect(device.inFlight).toBe('w0');
    await device.answer('w0');
    expect(device.inFlight).toBe('w1');
    await device.answer('w1');
    expect(device.inFlight).toBe('w2');
  });
});

describe('tag modes', () => {
  test('case 20: given TAG and commands in flight, when a barrier with data comes, then it is issued at once, and so are later writes', () => {
    const { device, submit } = world('TAG', { device: STABLE });
    submit('w0 b1 w2');
    expect(device.inFlight).toBe('w0 ^w1 w2');
  });

  test('case 21: given TAG, when a second barrier comes while one runs, then it and all behind it wait', async () => {
    const { device, submit } = world('TAG', { device: STABLE });
    submit('b1 w2 b3 w4');
    expect(device.inFlight).toBe('^w1 w2');
    await device.answer('w2');
    expect(device.inFlight).toBe('^w1');
    await device.answer('^w1');
    expect(device.inFlight).toBe('^w3 w4');
  });

  test('case 22: given TAG, when an empty barrier comes, then it drains, and the next barrier has its tag again', async () => {
    const { device, submit } = world('TAG', { device: STABLE });
    submit('w0 b w1 b2');
    expect(device.inFlight).toBe('w0');
    await device.answer('w0');
    expect(device.inFlight).toBe('w1 ^w2');
  });

  test('case 24: given TAG_FLUSH, when the answers come as postflush, barrier, preflush, then the barrier completes on the last', async () => {
    const { device, submit } = world('TAG_FLUSH');
    const all = submit('b1');
    expect(device.inFlight).toBe('^F ^w1 ^F');
    await device.answer('^F', '^w1');
    expect(outcomes(all)).toBe('b1:pending');
    await device.answer('^F');
    expect(outcomes(all)).toBe('b1:done');
  });

  test('case 25: given TAG over a volatile cache, when it is chosen, then the scheduler says what breaks', () => {
    expect(() => new World({ mode: 'TAG' })).toThrow(/CACHE_NOT_FLUSHED.*writes back in any order/);
    const { disk } = new World({ mode: 'TAG', allowUnsafe: true });
    expect(disk.guarantees).toMatchObject({ verdict: 'unsafe', preBeforeBarrier: 'no' });
  });
});

describe('errors', () => {
  test('case 26: given errors in preflush and postflush, when the sequence ends, then the first is reported', async () => {
    const { device, submit } = world('DRAIN_FLUSH', { errorPolicy: 'kernel' });
    const [barrier] = submit('b1');
    await device.fail('F', 'E1');
    await device.answer('w1');
    await device.fail('F', 'E2');
    expect(barrier?.outcome).toBe('FLUSH_FAILED');
    expect(String(barrier?.error)).toContain('E1');
  });

  test('case 27: given a failed preflush, then the kernel policy goes on with write and postflush', async () => {
    const { device, submit } = world('DRAIN_FLUSH', { errorPolicy: 'kernel' });
    const all = submit('b1 w2');
    await device.fail('F');
    await device.drain();
    expect(device.log).toBe('F w1 F w2');
    expect(outcomes(all)).toBe('b1:FLUSH_FAILED w2:done');
  });

  test('case 27: given a failed preflush, then the abort policy does not issue the data', async () => {
    const { device, submit } = world('DRAIN_FLUSH');
    const all = submit('b1 w2');
    await device.fail('F');
    expect(device.log).toBe('F');
    expect(outcomes(all)).toBe('b1:FLUSH_FAILED w2:FAILED');
  });

  test('case 28: given a failed write, when a barrier covers it, then the kernel policy lets it succeed', async () => {
    const { device, submit } = world('DRAIN', { errorPolicy: 'kernel', device: STABLE });
    const all = submit('w0 b1');
    await device.fail('w0');
    await device.drain();
    expect(outcomes(all)).toBe('w0:IO_FAILED b1:done');
  });

  test.each(DRAIN_MODES)(
    'case 28: given a failed write in %s, when a barrier covers it, then it is not written and names the culprit',
    async (mode) => {
      const { device, submit } = world(mode, { allowUnsafe: true });
      const all = submit('w0 b1 w2');
      await device.fail('w0');
      await device.drain();
      expect(outcomes(all)).toBe('w0:IO_FAILED b1:BARRIER_ABORTED w2:done');
      expect(all[1]?.error).toMatchObject({
        blame: { kind: 'write', offset: 0 },
        cause: new Error('EIO'),
      });
      expect(device.log).not.toContain('w1');
    },
  );

  test('case 29: given a flush that fails inside a barrier, when the barrier ends, then it reports the error', async () => {
    const { device, submit } = world('DRAIN_FLUSH');
    const all = submit('b1');
    await device.answer('F');
    await device.answer('w1');
    await device.fail('F');
    expect(outcomes(all)).toBe('b1:FLUSH_FAILED');
  });

  test('case 30: given a failed flush, when flush is called again, then it fails without asking the device', async () => {
    const { device, disk, submit } = world('DRAIN_FLUSH');
    const first = submit('f');
    await device.fail('F');
    const second = submit('f');
    await settled();
    expect(outcomes([...first, ...second])).toBe('f:FLUSH_FAILED f:FAILED');
    expect(device.log).toBe('F');
    expect(disk.state).toBe('failed');
  });

  test('case 31: given a failed flush on one device, when another flushes, then that one is not poisoned', async () => {
    const a = world('DRAIN_FLUSH');
    const b = world('DRAIN_FLUSH');
    a.submit('f');
    const other = b.submit('f');
    await a.device.fail('F');
    await b.device.answer('F');
    expect(outcomes(other)).toBe('f:done');
    expect([a.disk.state, b.disk.state]).toEqual(['failed', 'running']);
  });

  test('case 32: given a failed flush, when a second one succeeds, then the bytes stay in doubt until they are written again', async () => {
    const { device, disk, submit } = world('DRAIN_FLUSH');
    submit('w3');
    await device.answer('w3');
    const failed = submit('f');
    await device.fail('F');
    const range = { start: 3 * 4096, end: 4 * 4096 };
    expect(failed[0]?.error).toMatchObject({ atRisk: [range] });
    expect(await disk.recover()).toEqual([range]);
    const again = submit('f');
    await device.answer('F');
    expect(outcomes(again)).toBe('f:done');
    expect(disk.atRisk).toEqual([range]);
    submit('w3');
    await device.drain();
    expect(disk.atRisk).toEqual([]);
  });
});

describe('the post-barrier queue', () => {
  const strict = { device: STABLE, readsPassBarriers: false };

  test('case 33: given a pending barrier, when r1, b2, r2 come, then all three wait and two barriers are pending', () => {
    const { disk, submit } = world('DRAIN', strict);
    submit('w0 b1 r1 b2 r2');
    expect(disk.stats()).toMatchObject({ queued: 3, barriersPending: 2 });
  });

  test('case 34: given case 33, when the barrier completes, then exactly r1 and b2 leave the queue', async () => {
    const { device, disk, submit } = world('DRAIN', strict);
    submit('w0 b1 r1 b2 r2');
    await device.answer('w0');
    await device.answer('w1');
    expect(device.inFlight).toBe('r1');
    expect(disk.stats()).toMatchObject({ queued: 1, barriersPending: 1 });
  });

  test('case 35: given case 34, when r3 comes before b2 completes, then it queues behind r2', async () => {
    const { device, submit } = world('DRAIN', strict);
    submit('w0 b1 r1 b2 r2');
    await device.answer('w0');
    await device.answer('w1');
    submit('r3');
    await device.answer('r1');
    expect(device.inFlight).toBe('w2');
    await device.answer('w2');
    expect(device.inFlight).toBe('r2 r3');
  });

  test('case 36: given no cancels, when a barrier completes, then nothing that came before it is left', async () => {
    const { device, disk, submit } = world('DRAIN', strict);
    const all = submit('w0 w1 r2 b3');
    await device.drain();
    expect(outcomes(all)).not.toContain('pending');
    expect(disk.stats()).toMatchObject({ queued: 0, inFlight: 0, barriersPending: 0 });
  });

  test('case 37: given a barrier that has not started, when it is cancelled, then the counter drops and those behind it go on up to the next barrier', async () => {
    const { device, disk, submit } = world('DRAIN', strict);
    const all = submit('w0 b1 r2 b3 r4');
    await all[1]?.cancel();
    expect(disk.stats().barriersPending).toBe(1);
    await device.answer('w0');
    expect(device.inFlight).toBe('r2');
    await device.drain();
    expect(device.log).toBe('w0 r2 w3 r4');
    expect(outcomes(all)).toBe('w0:done b1:cancelled r2:done b3:done r4:done');
  });

  test('case 38: given a second barrier in the queue, when it is cancelled, then nobody behind it is stranded', async () => {
    const { device, disk, submit } = world('DRAIN', strict);
    const all = submit('w0 b1 r2 b3 r4');
    await all[3]?.cancel();
    expect(disk.stats().barriersPending).toBe(1);
    await device.drain();
    expect(device.log).toBe('w0 w1 r2 r4');
    expect(outcomes(all)).toBe('w0:done b1:done r2:done b3:cancelled r4:done');
  });

  test('case 39: given requests that left the post-barrier queue, when one is cancelled before it is issued, then the others are served', async () => {
    const { device, submit } = world('DRAIN', { ...strict, depth: 1 });
    const all = submit('b0 w1 w1 w2 b3 w4');
    await device.answer('w0');
    expect(device.inFlight).toBe('w1');
    await all[2]?.cancel();
    await device.drain();
    expect(device.log).toBe('w0 w1 w2 w3 w4');
    expect(outcomes(all)).toBe('b0:done w1:done w1:cancelled w2:done b3:done w4:done');
  });

  test('case 40: given a barrier that waits for idle, when it is cancelled, then it is cancelled and never written', async () => {
    const { device, submit } = world('DRAIN_FLUSH');
    const all = submit('w0 b1 w2');
    await all[1]?.cancel();
    expect(all[1]?.outcome).toBe('cancelled');
    await device.drain();
    expect(device.log).toBe('w0 F w2');
  });

  test('case 40: given a barrier whose write is at the device, when it is cancelled, then its real outcome comes', async () => {
    const { device, submit } = world('DRAIN_FLUSH');
    const all = submit('b1');
    await device.answer('F');
    await all[0]?.cancel();
    expect(outcomes(all)).toBe('b1:pending');
    await device.drain();
    expect(outcomes(all)).toBe('b1:done');
  });

  test('case 41: given an executing request, when it is cancelled, then its normal completion follows exactly once', async () => {
    const { device, disk, submit } = world('DRAIN', strict);
    const all = submit('w0');
    await all[0]?.cancel();
    await device.answer('w0');
    expect(outcomes(all)).toBe('w0:done');
    expect(disk.stats().settled).toBe(1);
  });

  test('case 42: given a finished request, when it is cancelled, then its result is unchanged', async () => {
    const { device, disk, submit } = world('DRAIN', strict);
    const all = submit('w0');
    await device.answer('w0');
    await all[0]?.cancel();
    expect(outcomes(all)).toBe('w0:done');
    expect(disk.stats().settled).toBe(1);
  });

  test('case 43: given N requests behind a barrier and W free places, when it completes, then min(N, W) start together', async () => {
    const { device, submit } = world('DRAIN', { ...strict, depth: 3 });
    submit('b0 w1 w2 w3 w4 w5');
    await device.answer('w0');
    expect(device.inFlight).toBe('w1 w2 w3');
  });

  test('case 44: given one command at a time, when barriers come, then nothing locks up', async () => {
    for (const mode of ['DRAIN_FLUSH', 'DRAIN_FUA', 'TAG_FLUSH', 'TAG_FUA'] as const) {
      const { device, submit } = world(mode, { depth: 1 });
      const all = submit('w0 b1 f r2 b b3! fw4! d5 z6 b7');
      await device.drain();
      expect(all.map(({ outcome }) => outcome)).toEqual(all.map(() => 'done'));
    }
  });

  test('case 45: given two devices, when a barrier runs on one, then the other goes on', () => {
    const a = world('DRAIN', strict);
    const b = world('DRAIN', strict);
    a.submit('w0 b1 w2');
    b.submit('w0 w1');
    expect(b.device.inFlight).toBe('w0 w1');
  });

  test('case 46: given a barrier whose own write fails, when it completes, then those behind it go on and only its owner hears', async () => {
    const { device, submit } = world('DRAIN', strict);
    const all = submit('b0 w1 r2');
    await device.fail('w0');
    await device.drain();
    expect(outcomes(all)).toBe('b0:IO_FAILED w1:done r2:done');
  });
});

describe('flush and FUA', () => {
  test('case 47: given a write-through device, when PREFLUSH|FUA is written, then it is one plain write, and an empty flush completes at once', async () => {
    const { device, submit } = world('DRAIN', { device: STABLE });
    const flush = submit('f');
    await settled();
    expect(outcomes(flush)).toBe('f:done');
    submit('fw0!');
    await device.drain();
    expect(device.log).toBe('w0');
  });

  test('case 48: given a cache without FUA, when a FUA write comes, then write, flush, and completion after the flush', async () => {
    const { device, submit } = world('DRAIN_FLUSH', { device: NO_FUA });
    const all = submit('w0!');
    expect(device.inFlight).toBe('w0');
    await device.answer('w0');
    expect(outcomes(all)).toBe('w0!:pending');
    expect(device.inFlight).toBe('F');
    await device.answer('F');
    expect(outcomes(all)).toBe('w0!:done');
  });

  test('case 49: given a flush in flight, when others come, then it serves none of them and one more serves all', async () => {
    const { device, disk, submit } = world('DRAIN_FLUSH');
    const first = submit('f');
    const later = submit('f f f');
    await device.answer('F');
    expect(outcomes([...first, ...later])).toBe('f:done f:pending f:pending f:pending');
    await device.answer('F');
    expect(outcomes(later)).toBe('f:done f:done f:done');
    expect(device.log).toBe('F F');
    expect(disk.stats().flushesCoalesced).toBe(2);
  });

  test('case 50: given k flushes that wait for the same write, when it completes, then one device flush completes all', async () => {
    const { device, submit } = world('DRAIN_FLUSH');
    const [, ...flushes] = submit('w0 f f f f');
    await device.answer('w0');
    expect(device.inFlight).toBe('F');
    await device.answer('F');
    expect(flushes.every(({ outcome }) => outcome === 'done')).toBe(true);
  });

  test('case 52: given a flush that fails, when it served several, then all hear it and no data follows', async () => {
    const { device, submit } = world('DRAIN_FLUSH');
    const all = submit('w0 f f fw1');
    await device.answer('w0');
    await device.fail('F');
    expect(outcomes(all)).toBe('w0:done f:FLUSH_FAILED f:FLUSH_FAILED fw1:FLUSH_FAILED');
    expect(device.log).toBe('w0 F');
  });

  test('case 53: given a write in flight, when flush is called, then the device flush waits for it', async () => {
    const { device, submit } = world('DRAIN_FLUSH');
    submit('w0 f');
    expect(device.inFlight).toBe('w0');
    submit('w1');
    await device.answer('w0');
    expect(device.inFlight).toBe('w1 F');
  });

  test('case 54: given FUA made of write and flush, when a flush runs as the write ends, then another follows for it', async () => {
    const { device, submit } = world('DRAIN_FLUSH', { device: NO_FUA });
    const [write, flush] = submit('w0! f');
    expect(device.inFlight).toBe('w0');
    submit('w1');
    await device.answer('w0');
    expect(device.inFlight).toBe('w1 F');
    await device.answer('F');
    expect([write?.outcome, flush?.outcome]).toEqual(['done', 'done']);
    const [, second] = submit('f w2!');
    expect(device.inFlight).toBe('w1 w2');
    await device.answer('w1');
    expect(device.inFlight).toBe('w2 F');
    await device.answer('w2');
    await device.answer('F');
    expect(second?.outcome).toBe('pending');
    expect(device.inFlight).toBe('F');
    await device.answer('F');
    expect(second?.outcome).toBe('done');
  });

  test('case 55: given no write since the last flush, when flush is called, then it still reaches the layer below', async () => {
    const { device, submit } = world('DRAIN_FLUSH');
    submit('f');
    await device.answer('F');
    submit('f');
    expect(device.inFlight).toBe('F');
  });

  test('case 56: given a failed flush, when the next one comes after recovery, then the device is asked anew', async () => {
    const { device, disk, submit } = world('DRAIN_FLUSH');
    submit('w0');
    await device.answer('w0');
    submit('f');
    await device.fail('F');
    await disk.recover();
    const again = submit('f');
    expect(device.inFlight).toBe('F');
    await device.fail('F');
    expect(again[0]?.error).toMatchObject({ atRisk: [{ start: 0, end: 4096 }] });
  });
});

test('case 45: given one scheduler above another, when the upper one has a barrier, then the lower one orders it', async () => {
  const device = new ManualStorage({ orderedTags: false });
  const host = new IoScheduler(device, { mode: 'DRAIN_FLUSH' });
  const guest = new IoScheduler(host.asStorage(), { mode: 'TAG_FLUSH' });
  const written = track(guest, { kind: 'write', offset: 0, length: 4096, barrier: true });
  await settled();
  await device.drain();
  expect(written.outcome).toBe('done');
  expect(device.log).toBe('F F w0 F F');
});

function world(
  mode: ModeName,
  options: Omit<NonNullable<ConstructorParameters<typeof World>[0]>, 'mode'> = {},
) {
  const made = new World({ mode, ...options });
  return { device: made.device, disk: made.disk, submit: made.submit.bind(made) };
}
