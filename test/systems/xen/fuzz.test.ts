// Goal: whatever a guest writes into its ring, the backend answers it as the protocol says and touches nothing that it may
// not touch. Method: 100,000 requests that are not what they were, in both layouts: sound ones with a few bits or fields
// changed, and some that are noise, over a disk and a table of pages that watch every access. What each must be answered
// is read from its bytes a second time, by nobody's code but this. Each round ends with a sound request.
//
// And the same for the frontend: a backend that answers noise gets its ring broken, and nobody waits for ever.

import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { IoScheduler, MemoryStorage, type Storage, WriteBarrierError } from 'write-barrier';
import { seededRandom } from 'write-barrier/testing';
import { blkback } from '../../../src/systems/xen/backend.js';
import { BlkFrontend } from '../../../src/systems/xen/frontend.js';
import { grantTable } from '../../../src/systems/xen/grants.js';
import {
  BlkFrontRing,
  blkBackRing,
  initialiseRing,
  ringView,
} from '../../../src/systems/xen/ring.js';
import {
  BLKIF_OP,
  type BlkifLayout,
  type BlkifRequest,
  decodeBlkifRequest,
  decodeBlkifResponse,
  encodeBlkifRequest,
  encodeBlkifResponse,
  encodeBlkifSegments,
  requestBytes,
} from '../../../src/systems/xen/wire.js';
import { share } from '../../kit/amount.js';
import { LAYOUTS, settled } from './support.js';

const MUTATED_PER_LAYOUT = share(50_000);
const SECTORS = 256;
const GRANTED = [8, 9, 10, 11];
const GUARD = 4096;

type Random = () => number;
const below = (random: Random, limit: number): number => Math.floor(random() * limit);
const oneOf = <T>(random: Random, list: readonly T[]): T => list[below(random, list.length)] as T;

/** A disk that lets nobody past its ends, whatever a scheduler lets through. */
function watchedDisk() {
  const memory = new MemoryStorage(SECTORS * 512);
  const outside: string[] = [];
  const watch = (offset: number, length: number): void => {
    const inside = offset >= 0 && length >= 0 && offset + length <= SECTORS * 512;
    if (!inside || offset % 512 !== 0 || length % 512 !== 0) outside.push(`${length} at ${offset}`);
  };
  const storage: Storage = {
    size: memory.size,
    capabilities: memory.capabilities,
    read: (offset, into) => {
      watch(offset, into.length);
      memory.read(offset, into);
    },
    write: (offset, data, flags) => {
      watch(offset, data.length);
      memory.write(offset, data, flags);
    },
    writev: (offset, list, flags) => {
      watch(
        offset,
        list.reduce((sum, { length }) => sum + length, 0),
      );
      memory.writev?.(offset, list, flags);
    },
    discard: (offset, length) => {
      watch(offset, length);
      memory.discard?.(offset, length);
    },
    writeZeroes: (offset, length) => memory.writeZeroes?.(offset, length),
    flush: (flags) => memory.flush(flags),
    close: () => memory.close(),
  };
  return { storage, outside };
}

/** Four granted pages with guards around them, in one buffer, as neighbours in a guest's memory. */
function watchedPages() {
  const memory = new Uint8Array(GRANTED.length * (4096 + GUARD) + GUARD).fill(0xa5);
  const starts = GRANTED.map((_, at) => GUARD + at * (4096 + GUARD));
  const page = (gref: number): Uint8Array | undefined => {
    const start = starts[GRANTED.indexOf(gref)];
    return start === undefined ? undefined : memory.subarray(start, start + 4096);
  };
  const guardsHold = (): boolean => {
    return [0, ...starts.map((start) => start + 4096)].every((from) =>
      memory.subarray(from, from + GUARD).every((byte) => byte === 0xa5),
    );
  };
  return { page, guardsHold };
}

/** A sound request, mostly. */
function soundRequest(random: Random): BlkifRequest {
  const id = BigInt(below(random, 2 ** 30));
  const sector = BigInt(below(random, SECTORS));
  const common = { handle: 0, id, sector };
  const kind = below(random, 10);
  if (kind === 0) {
    const sectors = BigInt(1 + below(random, 8));
    return { kind: 'discard', operation: BLKIF_OP.DISCARD, flag: 0, ...common, sectors };
  }
  if (kind === 1) {
    const pages = Array.from({ length: 8 }, () => oneOf(random, GRANTED));
    const wraps = oneOf(random, [BLKIF_OP.READ, BLKIF_OP.WRITE]);
    const nrSegments = 1 + below(random, 20);
    return { kind: 'indirect', operation: BLKIF_OP.INDIRECT, wraps, nrSegments, ...common, pages };
  }
  const segments = Array.from({ length: below(random, 5) }, () => {
    const first = below(random, 8);
    return { gref: oneOf(random, GRANTED), first, last: first + below(random, 8 - first) };
  });
  const operation = below(random, 4);
  return { kind: 'transfer', operation, nrSegments: segments.length, ...common, segments };
}

/** The bytes of a request that may be anything by now, and whether they are still what they were. */
function mutated(random: Random, layout: BlkifLayout): { bytes: Uint8Array; changed: boolean } {
  const size = requestBytes(layout);
  if (random() < 0.05) {
    return { bytes: Uint8Array.from({ length: size }, () => below(random, 256)), changed: true };
  }
  const sound = encodeBlkifRequest(soundRequest(random), layout);
  const bytes = sound.slice();
  const changes = below(random, 4);
  for (let change = 0; change < changes; change += 1) {
    // The head has more in it than the rest.
    const at = random() < 0.6 ? below(random, 32) : below(random, size);
    const how = below(random, 4);
    const old = bytes[at] as number;
    if (how === 0) bytes[at] = old ^ (1 << below(random, 8));
    else if (how === 1) bytes[at] = oneOf(random, [0, 1, 7, 8, 11, 12, 0x7f, 0x80, 0xff]);
    else if (how === 2) bytes.fill(0xff, at, at + 8);
    else bytes[0] = below(random, 8);
  }
  return { bytes, changed: Buffer.compare(bytes, sound) !== 0 };
}

/** What the protocol says to a request, from its bytes, where the backend offers everything. */
function dueStatus(
  bytes: Uint8Array,
  layout: BlkifLayout,
  page: (gref: number) => Uint8Array | undefined,
): number {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const sectorAt = layout === 'x86-64' ? 16 : 12;
  const bodyAt = sectorAt + 8;
  const sector = view.getBigUint64(sectorAt, true);
  const onDisk = (sectors: bigint): number => (sector + sectors <= BigInt(SECTORS) ? 0 : -1);
  const segments = (list: DataView, count: number): number => {
    let sectors = 0;
    for (let at = 0; at < count * 8; at += 8) {
      const [first, last] = [list.getUint8(at + 4), list.getUint8(at + 5)];
      if (!page(list.getUint32(at, true)) || last > 7 || first > last) return -1;
      sectors += last - first + 1;
    }
    return onDisk(BigInt(sectors));
  };
  const [operation, second] = [bytes[0] as number, bytes[1] as number];
  if (operation <= BLKIF_OP.FLUSH_DISKCACHE) {
    if (second === 0) return operation >= BLKIF_OP.WRITE_BARRIER ? 0 : -1;
    if (second > 11) return -1;
    return segments(new DataView(view.buffer, view.byteOffset + bodyAt), second);
  }
  if (operation === BLKIF_OP.DISCARD) {
    const sectors = view.getBigUint64(bodyAt, true);
    if (second === 1) return -2;
    return second === 0 && sectors > 0n ? onDisk(sectors) : -1;
  }
  if (operation !== BLKIF_OP.INDIRECT) return -2;
  const count = view.getUint16(2, true);
  const list = page(view.getUint32(bodyAt + 4, true));
  if (second > BLKIF_OP.WRITE || count === 0 || count > 256 || !list) return -1;
  return segments(new DataView(list.buffer, list.byteOffset), count);
}

describe.each(LAYOUTS)('given a hostile frontend of the layout %s', (layout) => {
  test('when its requests are anything, then each has the answer that is due and nothing else is touched', async () => {
    const seed = 20_101_103;
    const random = seededRandom(seed);
    const { storage, outside } = watchedDisk();
    const { page, guardsHold } = watchedPages();
    const backend = blkback(new IoScheduler(storage), { page });
    const shared = new Uint8Array(4096);
    initialiseRing(shared);
    const view = ringView(shared, layout);
    const ring = blkBackRing(shared, { layout, serve: backend.serve, notify: () => {} });
    const told = { '0': 0, '-1': 0, '-2': 0 };

    for (let changed = 0; changed < MUTATED_PER_LAYOUT; ) {
      const start = view.rspProd;
      const requests = Array.from({ length: 31 }, () => mutated(random, layout));
      const round = requests.map(({ bytes }) => bytes);
      changed += requests.filter((request) => request.changed).length;
      // Lists of segments lie in pages that other requests write to: noise, at times.
      if (random() < 0.5) {
        const segments = Array.from({ length: 20 }, () => {
          const first = below(random, 9);
          return { gref: oneOf(random, [...GRANTED, 3]), first, last: below(random, 9) };
        });
        encodeBlkifSegments(page(oneOf(random, GRANTED)) as Uint8Array, segments);
      }
      const sound = { handle: 0, id: 424_242n, sector: 0n, operation: BLKIF_OP.READ };
      const segments = [{ gref: 8, first: 0, last: 7 }];
      round.push(
        encodeBlkifRequest({ kind: 'transfer', nrSegments: 1, ...sound, segments }, layout),
      );
      const due = round.map(
        (bytes) => `${decodeBlkifRequest(bytes, layout).id} ${dueStatus(bytes, layout, page)}`,
      );
      for (const bytes of round) {
        view.slot(view.reqProd).set(bytes);
        view.reqProd = (view.reqProd + 1) >>> 0;
      }
      ring.notified();
      await settled();
      const answers = round.map((_, at) =>
        decodeBlkifResponse(view.slot((start + at) >>> 0), layout),
      );
      const where = `seed ${seed}, after ${changed}`;
      expect((view.rspProd - start) >>> 0, where).toBe(round.length);
      expect(answers.map(({ id, status }) => `${id} ${status}`).sort(), where).toEqual(due.sort());
      for (const { status } of answers) told[String(status) as keyof typeof told] += 1;
    }
    expect([ring.state, ring.inFlight, outside]).toEqual(['serving', 0, []]);
    expect(guardsHold()).toBe(true);
    // A fuzzer whose requests are all refused has found out nothing.
    expect(Object.keys(told)).toEqual(['0', '-1', '-2']);
    for (const count of Object.values(told)) expect(count).toBeGreaterThan(share(500));
  });

  test('when its indices are anything, then the ring is served or broken, and nothing is thrown', async () => {
    const hostile = fc.asyncProperty(
      fc.array(
        fc.oneof(fc.nat(40), fc.constantFrom(0xffff_ffff, 0x8000_0000), fc.nat(0xffff_ffff)),
        { minLength: 1, maxLength: 12 },
      ),
      async (indices) => {
        const { storage } = watchedDisk();
        const backend = blkback(new IoScheduler(storage), { page: watchedPages().page });
        const shared = new Uint8Array(4096);
        initialiseRing(shared);
        const view = ringView(shared, layout);
        let broken = 0;
        const ring = blkBackRing(shared, {
          layout,
          serve: backend.serve,
          notify: () => {},
          broken: () => {
            broken += 1;
          },
        });
        for (const index of indices) {
          view.reqProd = index;
          ring.notified();
          expect(ring.inFlight).toBeLessThanOrEqual(32);
          await settled();
        }
        expect(broken).toBe(ring.state === 'broken' ? 1 : 0);
      },
    );
    await fc.assert(hostile, { numRuns: share(300) });
  });

  test('when its backend is hostile, then every command of a frontend ends, or waits for an answer that never came', async () => {
    const noise = fc.record({
      seed: fc.nat(),
      // How many sound answers come before the noise.
      honest: fc.nat(6),
    });
    const hostile = fc.asyncProperty(noise, async ({ seed, honest }) => {
      const random = seededRandom(seed);
      const shared = new Uint8Array(4096);
      const grants = grantTable(64);
      const front = new BlkFrontRing(shared, { layout, notify: () => {} });
      const nodes = { sectors: '64', 'feature-barrier': '1', 'feature-flush-cache': '1' };
      let unanswered = 0;
      const ring = {
        get free() {
          return front.free;
        },
        get state() {
          return front.state;
        },
        send: (request: BlkifRequest) => {
          const response = front.send(request);
          response.catch(() => {
            unanswered += request.kind === 'transfer' ? request.segments.length : 0;
          });
          return response;
        },
      };
      const frontend = new BlkFrontend({ nodes, ring, grants });
      const view = ringView(shared, layout);
      const plain = { fua: false, tag: 'simple' } as const;
      const outcomes: string[] = [];
      const commands = [
        frontend.write(0, new Uint8Array(512), plain),
        frontend.read(512, new Uint8Array(512)),
        frontend.write(1024, new Uint8Array(512), { ...plain, tag: 'ordered' }),
        frontend.flush({ tag: 'simple' }),
        frontend.write(2048, new Uint8Array(512), plain),
      ].map((command) =>
        command.then(
          () => outcomes.push('done'),
          (error) => outcomes.push(WriteBarrierError.is(error) ? error.code : String(error)),
        ),
      );
      for (let turn = 0; turn < 40 && front.state === 'open'; turn += 1) {
        await settled();
        if (view.rspProd === view.reqProd && random() < 0.9) continue;
        const request = decodeBlkifRequest(view.slot(view.rspProd), layout);
        const sound = turn < honest;
        const status = sound ? 0 : oneOf(random, [0, 0, -1, -2, 5, -7]);
        const id = sound || random() < 0.5 ? request.id : BigInt(below(random, 40));
        const operation = sound || random() < 0.8 ? request.operation : below(random, 9);
        view.slot(view.rspProd).set(encodeBlkifResponse({ id, operation, status }, layout));
        const jump = sound || random() < 0.8 ? 1 : below(random, 2 ** 32);
        view.rspProd = (view.rspProd + jump) >>> 0;
        front.notified();
      }
      front.close();
      await Promise.all(commands);
      expect(outcomes).toHaveLength(5);
      expect(grants.free).toBe(64 - unanswered);
      const known = ['done', 'IO_FAILED', 'EOPNOTSUPP', 'CLOSED'];
      for (const outcome of outcomes) expect(known).toContain(outcome);
    });
    await fc.assert(hostile, { numRuns: share(500) });
  });
});
