// The backend: what each request becomes at the disk, what is refused and how, and that a barrier is a whole one.

import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { IoScheduler, MemoryStorage, type SchedulerOptions } from 'write-barrier';
import { type BlkBackendOptions, blkback } from '../../../src/systems/xen/backend.js';
import { type GrantTable, grantTable } from '../../../src/systems/xen/grants.js';
import { blkBackRing, initialiseRing, ringView } from '../../../src/systems/xen/ring.js';
import {
  BLKIF_OP,
  type BlkifRequest,
  type BlkifResponse,
  type BlkifTransfer,
  decodeBlkifResponse,
  encodeBlkifRequest,
  encodeBlkifSegments,
  worstBlkifStatus,
} from '../../../src/systems/xen/wire.js';
import { ManualStorage } from '../../scheduler/world.js';
import { ask, LAYOUTS, messageOf, settled, statuses } from './support.js';

/** A backend over a disk that answers when the test says so. */
function manual(
  options: SchedulerOptions = {},
  capabilities: ManualStorage['capabilities'] = NO_TAGS,
) {
  const device = new ManualStorage(capabilities);
  const disk = new IoScheduler(device, options);
  const grants = grantTable(64);
  const backend = blkback(disk, { page: grants.page });
  const send = (program: string) => ask(backend.serve, grants, program);
  return { device, disk, grants, backend, send };
}

const NO_TAGS = { ...new ManualStorage().capabilities, orderedTags: false };

/** A backend over memory. */
function memory(options: Partial<BlkBackendOptions> = {}, pages = 64) {
  const medium = new MemoryStorage(64 * 4096);
  const grants = grantTable(pages);
  const backend = blkback(new IoScheduler(medium), { page: grants.page, ...options });
  return { medium, grants, backend, serve: backend.serve };
}

const transfer = (fields: Partial<BlkifTransfer>): BlkifTransfer => {
  const { segments = [] } = fields;
  const rest = { nrSegments: segments.length, handle: 0, id: 3n, sector: 0n, segments };
  return { kind: 'transfer', operation: BLKIF_OP.WRITE, ...rest, ...fields };
};

describe('given a request, when it is served', () => {
  test.each([
    ['r0', 'r0'],
    ['w1', 'w1'],
    ['b2', 'F w2! '],
    ['b', 'F'],
    ['f', 'F'],
    ['f3', 'F w3'],
    ['d4', 'd4'],
    ['w0+3', 'w0+3'],
  ])('%s becomes %s at the disk, and OKAY', async (text, commands) => {
    const { device, send } = manual();
    const asked = send(`w9 ${text}`);
    await device.drain();
    expect(device.log.trim()).toBe(`w9 ${commands}`.trim());
    expect(statuses(asked)).toBe(`w9:0 ${text}:0`);
  });

  test('the response has its id and its operation, and for an indirect one the operation inside', async () => {
    const { serve, grants } = memory();
    const { request } = messageOf('b1', grants);
    expect(await serve({ ...request, id: 2n ** 64n - 1n })).toEqual({
      id: 2n ** 64n - 1n,
      operation: BLKIF_OP.WRITE_BARRIER,
      status: 0,
    });
    const indirect = indirectOf(grants, 20);
    expect(await serve(indirect)).toEqual({ id: 9n, operation: BLKIF_OP.WRITE, status: 0 });
    expect(await serve({ kind: 'other', operation: 77, id: 5n })).toEqual({
      id: 5n,
      operation: 77,
      status: -2,
    });
  });
});

/** A write of so many whole pages at the start of the disk. */
function indirectOf(
  grants: GrantTable,
  pages: number,
): Extract<BlkifRequest, { kind: 'indirect' }> {
  const data = grants.lend(pages) as readonly number[];
  const [list] = grants.lend(1) as readonly [number];
  for (const [at, gref] of data.entries()) grants.page(gref)?.fill(at + 1);
  const segments = data.map((gref) => ({ gref, first: 0, last: 7 }));
  encodeBlkifSegments(grants.page(list) as Uint8Array, segments);
  const common = { handle: 0, id: 9n, sector: 0n, wraps: BLKIF_OP.WRITE, nrSegments: pages };
  const lists = [list, 0, 0, 0, 0, 0, 0, 0];
  return { kind: 'indirect', operation: BLKIF_OP.INDIRECT, ...common, pages: lists };
}

describe('given data, when it is moved', () => {
  test('segments are runs of sectors in pages, one behind the other on the disk', async () => {
    const { serve, grants, medium } = memory();
    const [a, b] = grants.lend(2) as readonly [number, number];
    grants.page(a)?.fill(1);
    grants.page(b)?.fill(2, 512 * 3, 512 * 4);
    const segments = [
      { gref: a, first: 2, last: 3 },
      { gref: b, first: 3, last: 3 },
    ];
    expect((await serve(transfer({ sector: 5n, segments }))).status).toBe(0);
    const sectors = Array.from({ length: 10 }, (_, at) => medium.bytes[at * 512]);
    expect(sectors).toEqual([0, 0, 0, 0, 0, 1, 1, 2, 0, 0]);

    grants.page(a)?.fill(0xee);
    const read = transfer({ operation: BLKIF_OP.READ, sector: 6n, segments });
    expect((await serve(read)).status).toBe(0);
    const page = Array.from({ length: 8 }, (_, at) => grants.page(a)?.[at * 512]);
    expect(page).toEqual([0xee, 0xee, 1, 2, 0xee, 0xee, 0xee, 0xee]);
    expect(grants.page(b)?.[512 * 3]).toBe(0);
  });

  test('an indirect request moves as many pages as its list says', async () => {
    const { serve, grants, medium } = memory();
    expect((await serve(indirectOf(grants, 20))).status).toBe(0);
    const first = Array.from({ length: 21 }, (_, at) => medium.bytes[at * 4096]);
    expect(first).toEqual([...Array.from({ length: 20 }, (_, at) => at + 1), 0]);
  });

  test('what the guest does to its page after the request was taken changes nothing', async () => {
    const { device, send } = manual();
    const seen: Uint8Array[] = [];
    const write = device.write.bind(device);
    device.write = (offset, data, flags) => {
      seen.push(data);
      return write(offset, data, flags);
    };
    const [asked] = send('w0');
    asked?.loan.fill([new Uint8Array(4096).fill(9)]);
    await device.drain();
    expect(seen[0]?.every((byte) => byte === 1)).toBe(true);
  });

  test('a page that is taken away while it is read into makes it an ERROR', async () => {
    const page = new Uint8Array(4096);
    const device = new ManualStorage(NO_TAGS);
    const backend = blkback(new IoScheduler(device), { page: () => page });
    const segments = [{ gref: 1, first: 0, last: 7 }];
    const answer = backend.serve(transfer({ operation: BLKIF_OP.READ, segments }));
    structuredClone(page, { transfer: [page.buffer] });
    await device.drain();
    expect((await answer).status).toBe(-1);
  });
});

// What a guest may get wrong. Each is answered at once, and nothing of it reaches the disk.
describe('given a malformed request, when it is served, then it is refused and nothing is touched', () => {
  const soundly = { first: 0, last: 7 };
  const CASES: readonly (readonly [
    what: string,
    status: number,
    (gref: number) => BlkifRequest,
  ])[] = [
    ['a write without segments', -1, () => transfer({})],
    ['a read without segments', -1, () => transfer({ operation: BLKIF_OP.READ })],
    ['first behind last', -1, (gref) => transfer({ segments: [{ gref, first: 3, last: 2 }] })],
    ['an eighth sector', -1, (gref) => transfer({ segments: [{ gref, first: 0, last: 8 }] })],
    ['sector 255', -1, (gref) => transfer({ segments: [{ gref, first: 255, last: 255 }] })],
    ['a page that is not granted', -1, () => transfer({ segments: [{ gref: 999, ...soundly }] })],
    [
      'twelve segments',
      -1,
      (gref) => transfer({ nrSegments: 12, segments: Array(11).fill({ gref, ...soundly }) }),
    ],
    [
      'twelve segments that are there',
      -1,
      (gref) => transfer({ segments: Array(12).fill({ gref, ...soundly }) }),
    ],
    [
      'more segments than there are',
      -1,
      (gref) => transfer({ nrSegments: 2, segments: [{ gref, ...soundly }] }),
    ],
    [
      'a barrier of twelve',
      -1,
      () => transfer({ operation: BLKIF_OP.WRITE_BARRIER, nrSegments: 12 }),
    ],
    [
      'the sector behind the last',
      -1,
      (gref) => transfer({ sector: 512n, segments: [{ gref, first: 0, last: 0 }] }),
    ],
    [
      'a range across the end',
      -1,
      (gref) => transfer({ sector: 508n, segments: [{ gref, ...soundly }] }),
    ],
    [
      'a sector number that wraps',
      -1,
      (gref) => transfer({ sector: 2n ** 64n - 4n, segments: [{ gref, ...soundly }] }),
    ],
    [
      'a negative sector',
      -1,
      (gref) => transfer({ sector: -8n, segments: [{ gref, ...soundly }] }),
    ],
    ['an unknown operation', -2, () => ({ kind: 'other', operation: 200, id: 1n })],
    ['the reserved operation', -2, () => ({ kind: 'other', operation: 4, id: 1n })],
    ['a discard of nothing', -1, () => discard(0n, 0n)],
    ['a discard across the end', -1, () => discard(511n, 2n)],
    ['a discard whose length overflows', -1, () => discard(2n, 2n ** 64n - 1n)],
    ['a discard whose place overflows', -1, () => discard(2n ** 64n - 1n, 2n)],
    ['a secure discard', -2, () => discard(0n, 1n, 1)],
    ['a discard with other flags', -1, () => discard(0n, 1n, 2)],
    ['an indirect barrier', -1, (gref) => indirect({ wraps: BLKIF_OP.WRITE_BARRIER }, gref)],
    ['an indirect discard', -1, (gref) => indirect({ wraps: BLKIF_OP.DISCARD }, gref)],
    ['an indirect indirect one', -1, (gref) => indirect({ wraps: BLKIF_OP.INDIRECT }, gref)],
    ['an indirect one without segments', -1, (gref) => indirect({ nrSegments: 0 }, gref)],
    ['an indirect one with too many', -1, (gref) => indirect({ nrSegments: 257 }, gref)],
    ['an indirect one whose list is not granted', -1, () => indirect({}, 999)],
  ];
  const discard = (sector: bigint, sectors: bigint, flag = 0): BlkifRequest => {
    return {
      kind: 'discard',
      operation: BLKIF_OP.DISCARD,
      flag,
      handle: 0,
      id: 1n,
      sector,
      sectors,
    };
  };
  const indirect = (fields: object, gref: number): BlkifRequest => {
    const pages = Array(8).fill(gref) as number[];
    const wraps = BLKIF_OP.WRITE;
    const rest = { handle: 0, id: 1n, sector: 0n, wraps, nrSegments: 1, pages };
    return { kind: 'indirect', operation: BLKIF_OP.INDIRECT, ...rest, ...fields };
  };

  test.each(CASES)('%s: %d', async (_, status, make) => {
    const refused: unknown[] = [];
    const options = { refused: (...told: unknown[]) => void refused.push(told) };
    const { medium, grants, serve } = memory(options);
    medium.bytes.fill(0x5a);
    const [gref] = grants.lend(1) as readonly [number];
    // As a list of segments, too, the page is sound: whatever is wrong is in the request.
    const segments = Array(512).fill({ gref, first: 0, last: 0 });
    encodeBlkifSegments(grants.page(gref) as Uint8Array, segments);
    const request = make(gref);
    expect(await serve(request)).toMatchObject({ id: request.id, status });
    expect(medium.bytes.every((byte) => byte === 0x5a)).toBe(true);
    expect(refused).toEqual([[request, expect.stringMatching(/^(malformed|not supported): /)]]);
  });

  test('a page of another size is no page', async () => {
    const segments = [{ gref: 1, first: 0, last: 0 }];
    for (const length of [0, 512, 4095, 8192]) {
      const { serve } = memory({ page: () => new Uint8Array(length) });
      expect((await serve(transfer({ segments }))).status).toBe(-1);
    }
  });

  test('a host whose table of pages fails answers ERROR', async () => {
    const page = (): never => {
      throw new Error('no table');
    };
    const { serve } = memory({ page });
    expect((await serve(transfer({ segments: [{ gref: 1, first: 0, last: 0 }] }))).status).toBe(-1);
  });

  test('half a block of a disk with larger blocks is an ERROR', async () => {
    const { device, grants, backend } = manual();
    const [gref] = grants.lend(1) as readonly [number];
    const half = transfer({ segments: [{ gref, first: 0, last: 3 }] });
    expect((await backend.serve(half)).status).toBe(-1);
    expect(device.log).toBe('');
  });
});

// The counter-example is blkback of Linux since 3.2, which waits before a barrier and not after it.
describe('given a barrier that was issued and is not complete', () => {
  test('case 61: when later writes come, then none of them is issued', async () => {
    const { device, send } = manual();
    const asked = send('w0 b1 w2 b w3');
    await device.answer('w0');
    expect(device.inFlight).toBe('F');
    await device.answer('F');
    expect(device.inFlight).toBe('w1!');
    await device.answer('w1!');
    expect(statuses(asked)).toBe('w0:0 b1:0 w2:- b:- w3:-');
    expect(device.inFlight).toBe('w2');
    await device.drain();
    expect(device.log).toBe('w0 F w1! w2 F w3');
  });

  test('when later writes come over another ring, then none of them is issued either', async () => {
    const { device, backend, grants } = manual();
    const first = ask(backend.serve, grants, 'b1');
    const second = ask(backend.serve, grants, 'w2');
    await settled();
    expect(device.inFlight).toBe('F');
    await device.answer('F');
    expect(device.inFlight).toBe('w1!');
    await device.drain();
    expect(statuses([...first, ...second])).toBe('b1:0 w2:0');
  });

  test('when it is answered, then its payload is durable: by FUA, or by a flush where there is none', async () => {
    const { device, send } = manual({}, { ...NO_TAGS, fua: false });
    const [asked] = send('b1');
    await device.answer('F');
    await device.answer('w1');
    expect(asked?.status).toBeUndefined();
    await device.answer('F');
    expect(asked?.status).toBe(0);
  });
});

describe('given a failure at the disk', () => {
  test('when a write fails, then it is ERROR, and so is the barrier that covers it, which is not written', async () => {
    const { device, send } = manual();
    const asked = send('w0 b1 w2');
    await device.fail('w0');
    await device.drain();
    expect(statuses(asked)).toBe('w0:-1 b1:-1 w2:0');
    expect(device.log).not.toContain('w1');
  });

  test('when a flush fails, then everything is ERROR until the owner has recovered', async () => {
    const { device, disk, send } = manual();
    const [first] = send('w0');
    await device.drain();
    const flushed = send('f');
    await settled();
    await device.fail('F');
    const later = send('w1 r0 b');
    await settled();
    expect(statuses([first as never, ...flushed, ...later])).toBe('w0:0 f:-1 w1:-1 r0:-1 b:-1');
    await disk.recover();
    const after = send('w1');
    await device.drain();
    expect(statuses(after)).toBe('w1:0');
  });
});

describe('given a request that was split below, when its parts fail differently', () => {
  const parts = fc.array(fc.constantFrom(0, -1, -2), { maxLength: 6 });

  test('case 60: then an error wins over a refusal, and a refusal over success, in any order', () => {
    expect(worstBlkifStatus([])).toBe(0);
    expect(worstBlkifStatus([-2, 0])).toBe(-2);
    expect([worstBlkifStatus([-1, -2]), worstBlkifStatus([-2, -1])]).toEqual([-1, -1]);
    const steady = fc.property(parts, (list) => {
      expect(worstBlkifStatus([...list].reverse())).toBe(worstBlkifStatus(list));
      expect(worstBlkifStatus([...list].sort())).toBe(worstBlkifStatus(list));
    });
    fc.assert(steady);
  });

  test('then a status that nobody knows counts as an error', () => {
    expect(worstBlkifStatus([0, 7, -2])).toBe(-1);
  });
});

describe('given features that are taken back while they are used', () => {
  test('when requests come later, then they are EOPNOTSUPP and write nothing, and the nodes say so', async () => {
    const { medium, grants, backend } = memory();
    expect(backend.nodes).toMatchObject({ 'feature-barrier': '1', 'feature-flush-cache': '1' });
    backend.offer({ barrier: false, flush: false, discard: false, indirectSegments: 0 });
    const asked = ask(backend.serve, grants, 'b1 b f d0 w2');
    await settled();
    expect(statuses(asked)).toBe('b1:-2 b:-2 f:-2 d0:-2 w2:0');
    expect(medium.bytes[4096]).toBe(0);
    expect((await backend.serve(indirectOf(grants, 12))).status).toBe(-2);
    expect(backend.nodes).toMatchObject({ 'feature-barrier': '0', 'feature-flush-cache': '0' });
    backend.offer({ barrier: true });
    const again = ask(backend.serve, grants, 'b1');
    await settled();
    expect(statuses(again)).toBe('b1:0');
  });

  // Before the barrier reaches the head of the queue the mode becomes one that refuses.
  test('when the mode changes to NONE under a barrier that waits, then it is EOPNOTSUPP and the rest goes on', async () => {
    const { device, disk, send } = manual({ allowUnsafe: true });
    const asked = send('b0 b1 w2');
    await settled();
    disk.setMode('NONE');
    await device.drain();
    expect(statuses(asked)).toBe('b0:0 b1:-2 w2:0');
    expect(device.log).toBe('F w0! w2');
  });
});

describe.each(LAYOUTS)('given a ring of the layout %s', (layout) => {
  function ringed(serve?: (request: BlkifRequest) => Promise<BlkifResponse>) {
    const shared = new Uint8Array(4096);
    initialiseRing(shared);
    const view = ringView(shared, layout);
    const { medium, grants, backend } = memory();
    const broken: string[] = [];
    let events = 0;
    const ring = blkBackRing(shared, {
      layout,
      serve: serve ?? backend.serve,
      notify: () => {
        events += 1;
      },
      broken: (reason) => broken.push(reason),
    });
    const put = (request: BlkifRequest): void => {
      view.slot(view.reqProd).set(encodeBlkifRequest(request, layout));
      view.reqProd = (view.reqProd + 1) >>> 0;
    };
    const answers = (): BlkifResponse[] =>
      Array.from({ length: view.rspProd }, (_, at) => decodeBlkifResponse(view.slot(at), layout));
    return { view, ring, put, answers, grants, medium, broken, events: () => events };
  }

  test('when requests are put there, then each is answered with its id', async () => {
    const { ring, put, view, answers, grants, medium, events } = ringed();
    put({ ...messageOf('w1', grants).request, id: 11n });
    put({ kind: 'other', operation: 99, id: 12n });
    ring.notified();
    expect(ring.inFlight).toBe(2);
    expect(view.reqEvent).toBe(3);
    await settled();
    expect(answers().sort((a, b) => Number(a.id - b.id))).toEqual([
      { id: 11n, operation: 1, status: 0 },
      { id: 12n, operation: 99, status: -2 },
    ]);
    expect(medium.bytes[4096]).toBe(1);
    expect([ring.inFlight, events() > 0]).toEqual([0, true]);
  });

  test('when a request changes after it was taken, then what was taken counts', async () => {
    const { ring, put, view, grants, medium } = ringed();
    put(messageOf('w1', grants).request);
    ring.notified();
    view.slot(0).fill(0xff);
    await settled();
    expect(medium.bytes[4096]).toBe(1);
  });

  test('when the ring goes round many times, then nothing is lost', async () => {
    const { ring, put, view, grants } = ringed();
    for (let round = 0; round < 100; round += 1) {
      for (let at = 0; at < 7; at += 1) {
        const { request, loan } = messageOf(`w${at}`, grants);
        put(request);
        loan.end();
      }
      ring.notified();
      await settled();
    }
    expect([view.rspProd, ring.inFlight, ring.state]).toEqual([700, 0, 'serving']);
  });

  test.each([
    ['more than a ring ahead', 34],
    ['behind what was taken', 0],
    ['anywhere', 0x8000_0000],
  ])(
    'when the producer is %s, then it is broken, once, and answers nothing more',
    async (_, at) => {
      const pending: (() => void)[] = [];
      const { ring, put, view, broken } = ringed(
        ({ id }) =>
          new Promise((resolve) => pending.push(() => resolve({ id, operation: 1, status: 0 }))),
      );
      put({ kind: 'other', operation: 99, id: 1n });
      ring.notified();
      expect(pending).toHaveLength(1);
      view.reqProd = at;
      ring.notified();
      ring.notified();
      expect([ring.state, broken.length]).toEqual(['broken', 1]);
      expect(broken[0]).toContain(`${at}`);
      for (const answer of pending) answer();
      await settled();
      expect(view.rspProd).toBe(0);
      view.reqProd = 2;
      ring.notified();
      expect(pending).toHaveLength(1);
    },
  );

  test('when one ring is broken, then another one of the same backend goes on', async () => {
    const { backend, grants } = memory();
    const rings = [0, 1].map(() => {
      const shared = new Uint8Array(4096);
      initialiseRing(shared);
      const ring = blkBackRing(shared, { layout, serve: backend.serve, notify: () => {} });
      return { view: ringView(shared, layout), ring };
    });
    const [bad, good] = rings as [(typeof rings)[0], (typeof rings)[0]];
    bad.view.reqProd = 1000;
    bad.ring.notified();
    good.view.slot(0).set(encodeBlkifRequest(messageOf('w1', grants).request, layout));
    good.view.reqProd = 1;
    good.ring.notified();
    await settled();
    expect([bad.ring.state, good.ring.state, good.view.rspProd]).toEqual(['broken', 'serving', 1]);
  });

  test('when it is closed, then nothing is taken and nothing is answered', async () => {
    const { ring, put, view, grants } = ringed();
    put(messageOf('w1', grants).request);
    ring.notified();
    ring.close();
    await settled();
    put(messageOf('w2', grants).request);
    ring.notified();
    await settled();
    expect([ring.state, view.rspProd, ring.inFlight]).toEqual(['closed', 0, 1]);
  });

  test('when its event channel throws, then the ring is given up, and nobody else hears of it', async () => {
    const { backend, grants } = memory();
    const shared = new Uint8Array(4096);
    initialiseRing(shared);
    const view = ringView(shared, layout);
    const broken: string[] = [];
    const notify = (): void => {
      throw new Error('no such port');
    };
    const { serve } = backend;
    const ring = blkBackRing(shared, { layout, serve, notify, broken: (why) => broken.push(why) });
    for (const [at, text] of ['w1', 'w2'].entries()) {
      view.slot(at).set(encodeBlkifRequest(messageOf(text, grants).request, layout));
    }
    view.reqProd = 2;
    ring.notified();
    await settled();
    expect([ring.state, view.rspProd]).toEqual(['broken', 1]);
    expect(broken).toEqual(['its event channel has failed: Error: no such port']);
  });

  test('when the frontend wants no events, then none are sent', async () => {
    const { ring, put, view, events, grants } = ringed();
    view.rspEvent = 1000;
    put(messageOf('w1', grants).request);
    ring.notified();
    await settled();
    expect([view.rspProd, events()]).toEqual([1, 0]);
  });
});
