// The states of writes against the text of the standard, read by brute force over whole histories; and the device against
// the states: what they call stable is on the medium after a power cut.

import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { IoScheduler } from 'write-barrier';
import { VolatileDisk } from 'write-barrier/testing';
import { VirtioBackend, type VirtioBackendOptions } from '../../../src/systems/virtio/backend.js';
import { VIRTIO_WRITEBACK_AT } from '../../../src/systems/virtio/codec.js';
import {
  hasVirtioFeature,
  type VirtioAgreement,
  type VirtioFeature,
  type VirtioStability,
  type VirtioStabilityEvent,
  virtioFeatureBits,
  virtioWrites,
} from '../../../src/systems/virtio/features.js';
import { share } from '../../kit/amount.js';
import { chainOf, SECTOR, sectors, statusOf } from './support.js';

const WRITE_BACK: VirtioAgreement = {
  offered: virtioFeatureBits('FLUSH', 'CONFIG_WCE'),
  negotiated: virtioFeatureBits('FLUSH', 'CONFIG_WCE'),
  writeback: true,
};
const WRITE_THROUGH: VirtioAgreement = { ...WRITE_BACK, writeback: false };

/**
 * One word for each event: `s1` and `c1` for write 1, `x1` where it fails; `S1`, `C1`, `X1` for flush 1; `b1` and `b0` for
 * the byte. The answer is what may be said of write 1.
 */
function saidAfter(history: string, agreement: VirtioAgreement): VirtioStability {
  const writes = virtioWrites(agreement);
  for (const event of events(history)) writes.take(event);
  return writes.of(1);
}

function events(history: string): VirtioStabilityEvent[] {
  return history.split(' ').map((word): VirtioStabilityEvent => {
    const number = Number(word.slice(1));
    switch (word[0]) {
      case 's':
        return { kind: 'submit', write: number };
      case 'c':
        return { kind: 'complete', write: number };
      case 'x':
        return { kind: 'complete', write: number, failed: true };
      case 'S':
        return { kind: 'submitFlush', flush: number };
      case 'C':
        return { kind: 'completeFlush', flush: number };
      case 'X':
        return { kind: 'completeFlush', flush: number, failed: true };
      default:
        return { kind: 'setWriteback', writeback: number === 1 };
    }
  });
}

describe('in write-back', () => {
  test.each([
    ['is volatile while it is in flight', 's1', 'volatile'],
    ['is volatile when it has completed', 's1 c1', 'volatile'],
    ['is stable when a flush has completed that was sent later', 's1 c1 S1 C1', 'stable'],
    ['is volatile while that flush runs', 's1 c1 S1', 'volatile'],
    ['is volatile when that flush has failed', 's1 c1 S1 X1', 'volatile'],
    ['is stable when the next flush succeeds', 's1 c1 S1 X1 S2 C2', 'stable'],
    ['is not covered by a flush that was sent before it completed', 's1 S1 c1 C1', 'volatile'],
    ['is not covered by a flush that completed before it did', 's1 S1 C1 c1', 'volatile'],
    ['is unknown for good when it has failed', 's1 x1 S1 C1', 'unknown'],
  ] as const)('a write %s', (_, history, state) => {
    expect(saidAfter(history, WRITE_BACK)).toBe(state);
  });
});

describe('the mode byte', () => {
  test('given 0 all the time, a write is stable when it completes', () => {
    expect(saidAfter('s1 c1', WRITE_THROUGH)).toBe('stable');
    expect(saidAfter('b0 s1 b0 c1', WRITE_BACK)).toBe('stable');
  });

  test('case 63: given a change during a write, the write is neither stable nor known to be volatile', () => {
    expect(saidAfter('s1 b1 c1', WRITE_THROUGH)).toBe('unknown');
    expect(saidAfter('s1 b0 c1', WRITE_BACK)).toBe('unknown');
    expect(saidAfter('s1 b1 b0 c1', WRITE_THROUGH)).toBe('unknown');
    expect(saidAfter('s1 b1 c1 S1 C1', WRITE_THROUGH)).toBe('stable');
  });

  test('given a change from 1 to 0 and no flush, what had completed is still volatile', () => {
    expect(saidAfter('s1 c1 b0', WRITE_BACK)).toBe('volatile');
    expect(saidAfter('s1 c1 b0 s2 c2', WRITE_BACK)).toBe('volatile');
    expect(saidAfter('s1 c1 b0 S1 C1', WRITE_BACK)).toBe('stable');
  });

  test('given a change from 0 to 1, what was stable stays so', () => {
    expect(saidAfter('s1 c1 b1', WRITE_THROUGH)).toBe('stable');
  });
});

describe('without the byte', () => {
  const agreed = (offered: VirtioFeature[], negotiated: VirtioFeature[]): VirtioAgreement => ({
    offered: virtioFeatureBits(...offered),
    negotiated: virtioFeatureBits(...negotiated),
    writeback: true,
  });

  test('given FLUSH offered and not taken, a write is stable when it completes', () => {
    expect(saidAfter('s1 c1', agreed(['FLUSH'], []))).toBe('stable');
    expect(saidAfter('s1', agreed(['FLUSH'], []))).toBe('volatile');
  });

  test('given FLUSH taken, only a flush makes a write stable', () => {
    expect(saidAfter('s1 c1', agreed(['FLUSH'], ['FLUSH']))).toBe('volatile');
    expect(saidAfter('s1 c1 S1 C1', agreed(['FLUSH'], ['FLUSH']))).toBe('stable');
  });

  test('given a device that never offered FLUSH, nothing is promised', () => {
    expect(saidAfter('s1 c1', agreed(['BARRIER'], ['BARRIER']))).toBe('volatile');
  });
});

test.each([
  ['s1 s1', 'a write that is submitted twice'],
  ['c1', 'the completion of nothing'],
  ['s1 c1 c1', 'a second completion'],
  ['C1', 'the end of no flush'],
  ['S1 S1', 'a flush that is sent twice'],
])('%s: given %s, it is refused', (history) => {
  expect(() => saidAfter(history, WRITE_BACK)).toThrowError(
    expect.objectContaining({ code: 'INVALID_ARGUMENT' }),
  );
  const unaware = { ...WRITE_BACK, negotiated: virtioFeatureBits('FLUSH') };
  expect(() => saidAfter('s1 b0', unaware)).toThrowError(/CONFIG_WCE/);
  expect(() => virtioWrites(WRITE_BACK).of(1)).toThrowError(/not submitted/);
});

// Histories

const agreements = fc
  .record({
    offered: fc.subarray<VirtioFeature>(['FLUSH', 'CONFIG_WCE', 'BARRIER']),
    declined: fc.subarray<VirtioFeature>(['FLUSH', 'CONFIG_WCE']),
    writeback: fc.boolean(),
  })
  .map(({ offered, declined, writeback }): VirtioAgreement => {
    const bits = virtioFeatureBits(...offered);
    return { offered: bits, negotiated: bits & ~virtioFeatureBits(...declined), writeback };
  });

/** Histories that can happen: every choice is taken of what is possible at its time. */
function histories(agreement: VirtioAgreement): fc.Arbitrary<VirtioStabilityEvent[]> {
  const choices = fc.array(fc.tuple(fc.nat({ max: 6 }), fc.nat(), fc.nat({ max: 9 })), {
    maxLength: 25,
  });
  return choices.map((list) => {
    const [writes, flushes]: number[][] = [[], []];
    const made: VirtioStabilityEvent[] = [];
    let number = 0;
    for (const [what, which, luck] of list) {
      const failed = luck === 0 && { failed: true };
      const take = (open: number[] | undefined): number | undefined =>
        open?.splice(which % Math.max(open.length, 1), 1)[0];
      if (what <= 1) {
        number += 1;
        writes?.push(number);
        made.push({ kind: 'submit', write: number });
      } else if (what <= 3) {
        const write = take(writes);
        if (write !== undefined) made.push({ kind: 'complete', write, ...failed });
      } else if (what === 4) {
        number += 1;
        flushes?.push(number);
        made.push({ kind: 'submitFlush', flush: number });
      } else if (what === 5) {
        const flush = take(flushes);
        if (flush !== undefined) made.push({ kind: 'completeFlush', flush, ...failed });
      } else if (hasVirtioFeature(agreement.negotiated, 'CONFIG_WCE')) {
        made.push({ kind: 'setWriteback', writeback: which % 2 === 1 });
      }
    }
    return made;
  });
}

/** The text of the standard about one write, by looking at all moments. */
function asTheTextSays(
  history: readonly VirtioStabilityEvent[],
  { offered, negotiated, writeback }: VirtioAgreement,
  write: number,
): VirtioStability {
  const at = (wanted: (event: VirtioStabilityEvent) => boolean): number =>
    history.findIndex(wanted);
  const submitted = at((event) => event.kind === 'submit' && event.write === write);
  const completed = at((event) => event.kind === 'complete' && event.write === write);
  if (completed < 0) return 'volatile';
  const end = history[completed];
  if (end?.kind === 'complete' && end.failed) return 'unknown';

  const byteAt = (moment: number): boolean =>
    history
      .slice(0, moment + 1)
      .reduce((byte, event) => (event.kind === 'setWriteback' ? event.writeback : byte), writeback);
  const bytes = history
    .slice(submitted, completed + 1)
    .map((_, index) => byteAt(submitted + index));
  const byte = hasVirtioFeature(negotiated, 'CONFIG_WCE');
  const neither = !byte && !hasVirtioFeature(negotiated, 'FLUSH');

  const first = neither && hasVirtioFeature(offered, 'FLUSH');
  const second = byte && bytes.every((value) => !value);
  const third = history.some((event, sent) => {
    if (sent < completed || event.kind !== 'submitFlush') return false;
    return history
      .slice(sent)
      .some(
        (later) => later.kind === 'completeFlush' && later.flush === event.flush && !later.failed,
      );
  });
  if (first || second || third) return 'stable';
  return byte && new Set(bytes).size > 1 ? 'unknown' : 'volatile';
}

test('given any history, each write is at every moment what the text of the standard says', () => {
  const cases = agreements.chain((agreement) =>
    fc.record({ agreement: fc.constant(agreement), history: histories(agreement) }),
  );
  fc.assert(
    fc.property(cases, ({ agreement, history }) => {
      const writes = virtioWrites(agreement);
      const submitted: number[] = [];
      for (const [index, event] of history.entries()) {
        writes.take(event);
        if (event.kind === 'submit') submitted.push(event.write);
        const past = history.slice(0, index + 1);
        for (const write of submitted) {
          expect(writes.of(write)).toBe(asTheTextSays(past, agreement, write));
        }
      }
    }),
    { numRuns: share(2000) },
  );
});

// The device

const SECTORS = 32;

type Move =
  | { readonly kind: 'write' | 'flush' | 'wait' }
  | { readonly kind: 'byte'; readonly writeback: boolean };

const moves: fc.Arbitrary<Move[]> = fc.array(
  fc.oneof(
    { weight: 4, arbitrary: fc.constant<Move>({ kind: 'write' }) },
    { weight: 2, arbitrary: fc.constant<Move>({ kind: 'flush' }) },
    { weight: 4, arbitrary: fc.constant<Move>({ kind: 'wait' }) },
    { weight: 1, arbitrary: fc.boolean().map((writeback): Move => ({ kind: 'byte', writeback })) },
  ),
  { maxLength: SECTORS },
);

/** Plays a history on a real device and cuts the power; answers with the writes that are stable and gone. */
async function lostThoughStable(
  list: readonly Move[],
  { decline, seed, host }: { decline: VirtioFeature[]; seed: number; host: 'standard' | 'legacy' },
): Promise<number[]> {
  const profile = { orderedTags: true, fua: seed % 2 === 0 };
  const disk = new VolatileDisk({ size: SECTORS * SECTOR, seed, profile });
  const options: VirtioBackendOptions = { host, writeback: seed % 3 === 0 };
  const device = new VirtioBackend(new IoScheduler(disk), options);
  const negotiated = device.features & ~virtioFeatureBits(...decline);
  device.negotiate(negotiated);
  const writeback = device.readConfig()[VIRTIO_WRITEBACK_AT] === 1;
  const writes = virtioWrites({ offered: device.features, negotiated, writeback });
  let [count, flush] = [0, 0];
  for (const move of list) {
    if (move.kind === 'wait') await turns(5);
    if (move.kind === 'byte' && hasVirtioFeature(negotiated, 'CONFIG_WCE')) {
      device.writeConfig(VIRTIO_WRITEBACK_AT, Uint8Array.of(move.writeback ? 1 : 0));
      writes.take({ kind: 'setWriteback', writeback: move.writeback });
    }
    if (move.kind === 'write') {
      const write = count++;
      const chain = chainOf({ type: 'OUT', sector: write, data: sectors(1, write + 1) });
      writes.take({ kind: 'submit', write });
      void device
        .submit(chain)
        .then(() => writes.take({ kind: 'complete', write, failed: statusOf(chain) !== 'OK' }));
    }
    if (move.kind === 'flush') {
      const number = flush++;
      const chain = chainOf({ type: 'FLUSH' });
      writes.take({ kind: 'submitFlush', flush: number });
      void device
        .submit(chain)
        .then(() =>
          writes.take({ kind: 'completeFlush', flush: number, failed: statusOf(chain) !== 'OK' }),
        );
    }
  }
  const stable = Array.from({ length: count }, (_, write) => write).filter(
    (write) => writes.of(write) === 'stable',
  );
  const medium = disk.powerCut();
  return stable.filter((write) => medium[write * SECTOR] !== write + 1);
}

async function turns(count: number): Promise<void> {
  for (let turn = 0; turn < count; turn += 1) await null;
}

const declined = fc.subarray<VirtioFeature>(['FLUSH', 'CONFIG_WCE']);

test('given any history and a power cut, what is stable is on the medium', async () => {
  await fc.assert(
    fc.asyncProperty(moves, declined, fc.nat({ max: 1000 }), async (list, decline, seed) => {
      expect(await lostThoughStable(list, { decline, seed, host: 'standard' })).toEqual([]);
    }),
    { numRuns: share(1000) },
  );
});

test('given a legacy device that does not commit for a driver without FLUSH, stable writes are lost', async () => {
  const list: Move[] = [
    { kind: 'write' },
    ...Array.from({ length: 10 }, () => ({ kind: 'wait' as const })),
  ];
  const decline: VirtioFeature[] = ['FLUSH', 'CONFIG_WCE'];
  const lost = await Promise.all(
    Array.from({ length: 20 }, (_, seed) =>
      lostThoughStable(list, { decline, seed, host: 'legacy' }),
    ),
  );
  expect(lost.flat()).toContain(0);
});
