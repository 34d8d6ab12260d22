// The frontend as a storage: what it declares, how it fits requests into a small ring, and what a backend that changes
// its mind, or breaks the ring, makes of it.

import { describe, expect, test } from 'vitest';
import { type Storage, WriteBarrierError } from 'write-barrier';
import type { XenNodes } from '../../../src/systems/xen/features.js';
import { BlkFrontend, type BlkFrontendOptions } from '../../../src/systems/xen/frontend.js';
import { grantTable } from '../../../src/systems/xen/grants.js';
import { BlkFrontRing, ringView } from '../../../src/systems/xen/ring.js';
import {
  BLKIF_OP,
  type BlkifRequest,
  decodeBlkifRequest,
  decodeBlkifSegments,
  encodeBlkifResponse,
} from '../../../src/systems/xen/wire.js';
import { codeThrown } from '../../storage/contract.js';
import { settled } from './support.js';

const PLAIN = { fua: false, tag: 'simple' } as const;
const ORDERED = { fua: false, tag: 'ordered' } as const;
const ALL: XenNodes = {
  sectors: '4096',
  'feature-barrier': '1',
  'feature-flush-cache': '1',
  'feature-discard': '1',
};
const WORDS = ['R', 'W', 'B', 'F', '?', 'D', 'I'];

/** A frontend whose backend is the test: requests lie in the ring until they are answered. */
class Bench {
  readonly grants;
  readonly ring;
  readonly frontend: BlkFrontend;
  readonly #view;
  readonly #waiting: BlkifRequest[] = [];
  #taken = 0;

  constructor(
    nodes: XenNodes = ALL,
    { pages = 64, ...options }: Partial<BlkFrontendOptions> & { pages?: number } = {},
  ) {
    const shared = new Uint8Array(4096);
    this.grants = grantTable(pages);
    this.ring = new BlkFrontRing(shared, { layout: 'x86-64', notify: () => {} });
    this.#view = ringView(shared, 'x86-64');
    this.frontend = new BlkFrontend({ nodes, ring: this.ring, grants: this.grants, ...options });
  }

  #look(): void {
    while (this.#taken !== this.#view.reqProd) {
      this.#waiting.push(decodeBlkifRequest(this.#view.slot(this.#taken).slice(), 'x86-64'));
      this.#taken = (this.#taken + 1) >>> 0;
    }
  }

  /** What is out, oldest first, as `W8+2`: an operation, the sector and how many sectors. */
  get out(): string {
    this.#look();
    return this.#waiting.map((request) => this.#nameOf(request)).join(' ');
  }

  get requests(): readonly BlkifRequest[] {
    this.#look();
    return this.#waiting;
  }

  #nameOf(request: BlkifRequest): string {
    const word = WORDS[request.operation];
    if (request.kind === 'discard') return `${word}${request.sector}+${request.sectors}`;
    if (request.kind === 'other') return '?';
    const segments =
      request.kind === 'transfer'
        ? request.segments
        : request.pages.flatMap((gref, at) => {
            const left = Math.min(512, request.nrSegments - at * 512);
            const page = this.grants.page(gref);
            return page && left > 0 ? decodeBlkifSegments(page, left) : [];
          });
    const sectors = segments.reduce((sum, { first, last }) => sum + last - first + 1, 0);
    return sectors === 0 ? `${word}` : `${word}${request.sector}+${sectors}`;
  }

  /** Answers the oldest request of that name. */
  async answer(name: string, status = 0, changed: object = {}): Promise<void> {
    this.#look();
    const at = this.#waiting.findIndex((request) => this.#nameOf(request) === name);
    const [request] = at < 0 ? [] : this.#waiting.splice(at, 1);
    if (!request) throw new Error(`${name} is not out; out: ${this.out}`);
    const operation = request.kind === 'indirect' ? request.wraps : request.operation;
    const response = { id: request.id, operation, status, ...changed };
    this.#view.slot(this.#view.rspProd).set(encodeBlkifResponse(response, 'x86-64'));
    this.#view.rspProd = (this.#view.rspProd + 1) >>> 0;
    this.ring.notified();
    await settled();
  }

  /** How a command ends: `done`, or the code of its error; `-` while it has not. */
  watch(command: unknown): { readonly outcome: string } {
    const watched = { outcome: '-' };
    Promise.resolve(command).then(
      () => {
        watched.outcome = 'done';
      },
      (error) => {
        watched.outcome = WriteBarrierError.is(error) ? error.code : String(error);
      },
    );
    return watched;
  }

  write(sector: number, sectors: number, flags: Parameters<Storage['write']>[2] = PLAIN) {
    return this.watch(this.frontend.write(sector * 512, bytes(sectors, sector + 1), flags));
  }
}

const bytes = (sectors: number, fill = 1): Uint8Array => new Uint8Array(sectors * 512).fill(fill);

describe('given the nodes of a backend, a frontend declares', () => {
  const declared = (nodes: XenNodes, options = {}): unknown => {
    const { cache, flush, fua, orderedTags, discard } = new Bench(nodes, options).frontend
      .capabilities;
    return { cache, flush, fua, orderedTags, discard };
  };
  const NEVER = { fua: false };

  test('a volatile cache and what empties it; FUA never', () => {
    const flush = { sectors: '8', 'feature-flush-cache': '1' };
    const barrier = { sectors: '8', 'feature-barrier': '1' };
    const able = { ...NEVER, cache: 'volatile', flush: true, discard: false };
    expect(declared(flush)).toEqual({ ...able, orderedTags: false });
    expect(declared(barrier)).toEqual({ ...able, orderedTags: true });
    expect(declared(ALL)).toEqual({ ...able, orderedTags: true, discard: true });
  });

  test('without either a cache that nobody can flush, unless its owner knows better', () => {
    const nothing = { sectors: '8', 'feature-barrier': '0' };
    const unable = { ...NEVER, flush: false, orderedTags: false, discard: false };
    expect(declared(nothing)).toEqual({ ...unable, cache: 'volatile' });
    expect(declared(nothing, { withoutFlush: 'none' })).toEqual({ ...unable, cache: 'none' });
  });

  test('and nothing that it was not told: what is not declared is refused and not sent', async () => {
    const bench = new Bench({ sectors: '8' });
    const { frontend } = bench;
    expect(await codeThrown(() => frontend.flush({ tag: 'simple' }))).toBe('EOPNOTSUPP');
    expect(await codeThrown(() => frontend.write(0, bytes(1), ORDERED))).toBe('EOPNOTSUPP');
    const forced = { fua: true, tag: 'simple' } as const;
    expect(await codeThrown(() => frontend.write(0, bytes(1), forced))).toBe('EOPNOTSUPP');
    expect([frontend.discard, bench.out]).toEqual([undefined, '']);
  });

  test('a table of pages that is too small for one sector is misuse', async () => {
    const nodes = { sectors: '64', 'sector-size': '8192' };
    expect(await codeThrown(() => new Bench(nodes, { pages: 1 }))).toBe('INVALID_ARGUMENT');
    expect(await codeThrown(() => grantTable(0))).toBe('INVALID_ARGUMENT');
  });
});

describe('given a transfer', () => {
  test('when it is larger than a request, then it goes out in several, all at once', async () => {
    const bench = new Bench();
    const write = bench.write(0, 200);
    expect(bench.out).toBe('W0+88 W88+88 W176+24');
    await bench.answer('W88+88');
    await bench.answer('W0+88');
    expect(write.outcome).toBe('-');
    await bench.answer('W176+24');
    expect(write.outcome).toBe('done');
  });

  test('when the backend takes indirect requests, then it is one of those', async () => {
    const bench = new Bench({ ...ALL, 'feature-max-indirect-segments': '32' });
    const write = bench.write(0, 300);
    expect(bench.out).toBe('I0+256 W256+44');
    expect(bench.requests[0]).toMatchObject({ kind: 'indirect', wraps: BLKIF_OP.WRITE });
    await bench.answer('I0+256');
    await bench.answer('W256+44');
    expect(write.outcome).toBe('done');
    expect(bench.grants.free).toBe(64);
  });

  test('when an indirect request is answered with its own operation, then that is as good', async () => {
    const bench = new Bench({ ...ALL, 'feature-max-indirect-segments': '32' });
    const write = bench.write(0, 256);
    await bench.answer('I0+256', 0, { operation: BLKIF_OP.INDIRECT });
    expect(write.outcome).toBe('done');
  });

  test('when indirect requests are refused after all, then it is sent again in direct ones', async () => {
    const bench = new Bench({ ...ALL, 'feature-max-indirect-segments': '32' });
    const write = bench.write(0, 256);
    await bench.answer('I0+256', -2);
    expect(bench.out).toBe('W0+88 W88+88 W176+80');
    for (const name of ['W0+88', 'W88+88', 'W176+80']) await bench.answer(name);
    expect([write.outcome, bench.frontend.abilities.indirect]).toEqual(['done', false]);
    bench.write(0, 256);
    expect(bench.out).toBe('W0+88 W88+88 W176+80');
  });

  test('when parts of it fail differently, then the error wins', async () => {
    for (const order of [
      ['W0+88', 'W88+88'],
      ['W88+88', 'W0+88'],
    ]) {
      const bench = new Bench();
      const write = bench.write(0, 176);
      for (const name of order) await bench.answer(name, name === 'W0+88' ? -1 : -2);
      expect(write.outcome).toBe('IO_FAILED');
    }
  });

  test('when its buffers come in pieces of any size, then the pages hold them in a row', async () => {
    const bench = new Bench();
    const data = Uint8Array.from({ length: 512 * 24 }, (_, at) => (at * 7) % 251);
    const list = [data.subarray(0, 1), data.subarray(1, 5000), data.subarray(5000)];
    bench.watch(bench.frontend.writev(0, list, PLAIN));
    const [request] = bench.requests;
    const grefs = request?.kind === 'transfer' ? request.segments.map(({ gref }) => gref) : [];
    const sent = grefs.flatMap((gref) => [...(bench.grants.page(gref) as Uint8Array)]);
    expect(sent).toEqual([...data]);
  });

  test('when it is a read, then the bytes come from the pages, and only after OKAY', async () => {
    const bench = new Bench();
    const into = new Uint8Array(512 * 9);
    const read = bench.watch(bench.frontend.read(0, into));
    const failed = new Uint8Array(512);
    const second = bench.watch(bench.frontend.read(512 * 20, failed));
    for (const request of bench.requests) {
      if (request.kind !== 'transfer') continue;
      for (const { gref } of request.segments) bench.grants.page(gref)?.fill(gref);
    }
    await bench.answer('R0+9');
    await bench.answer('R20+1', -1);
    expect([read.outcome, second.outcome]).toEqual(['done', 'IO_FAILED']);
    expect(new Set(into).size).toBe(2);
    expect(failed.every((byte) => byte === 0)).toBe(true);
  });

  test('when its buffer is transferred away meanwhile, then it fails, and the ring goes on', async () => {
    const bench = new Bench();
    const into = new Uint8Array(512);
    const read = bench.watch(bench.frontend.read(0, into));
    structuredClone(into, { transfer: [into.buffer] });
    await bench.answer('R0+1');
    expect(read.outcome).toBe('INVALID_ARGUMENT');
    const write = bench.write(0, 1);
    await bench.answer('W0+1');
    expect(write.outcome).toBe('done');
  });
});

describe('given a small ring and few pages', () => {
  test('when more is asked for than there are slots, then the rest waits its turn', async () => {
    const bench = new Bench();
    const writes = Array.from({ length: 40 }, (_, at) => bench.write(at, 1));
    expect(bench.requests).toHaveLength(32);
    expect(bench.ring.free).toBe(0);
    for (let at = 0; at < 40; at += 1) await bench.answer(`W${at}+1`);
    expect(writes.every(({ outcome }) => outcome === 'done')).toBe(true);
  });

  test('when the pages run out, then what needs them waits, and all are given back', async () => {
    const bench = new Bench(ALL, { pages: 12 });
    bench.write(0, 88);
    bench.write(88, 8);
    bench.write(96, 8);
    expect(bench.out).toBe('W0+88 W88+8');
    await bench.answer('W88+8');
    expect(bench.out).toBe('W0+88 W96+8');
    await bench.answer('W0+88');
    await bench.answer('W96+8');
    expect(bench.grants.free).toBe(12);
  });

  test('when there are fewer pages than segments, then requests are as large as the pages', async () => {
    const bench = new Bench({ ...ALL, 'feature-max-indirect-segments': '256' }, { pages: 3 });
    const write = bench.write(0, 40);
    expect(bench.out).toBe('W0+24');
    await bench.answer('W0+24');
    await bench.answer('W24+16');
    expect(write.outcome).toBe('done');
  });

  test('when the list of an indirect request needs a page as well, then it is counted', async () => {
    const bench = new Bench({ ...ALL, 'feature-max-indirect-segments': '256' }, { pages: 20 });
    const write = bench.write(0, 20 * 8);
    expect(bench.out).toBe('I0+152');
    await bench.answer('I0+152');
    await bench.answer('W152+8');
    expect(write.outcome).toBe('done');
  });

  test('when a page is not lent, then the backend sees none, and one that is lent shows nothing old', async () => {
    const bench = new Bench(ALL, { pages: 1 });
    bench.write(0, 8);
    await bench.answer('W0+8');
    const grefs = Array.from({ length: 30 }, (_, gref) => gref);
    expect(grefs.filter((gref) => bench.grants.page(gref))).toEqual([]);
    bench.watch(bench.frontend.read(0, bytes(1)));
    const [gref] = grefs.filter((at) => bench.grants.page(at));
    expect(bench.grants.page(gref as number)?.every((byte) => byte === 0)).toBe(true);
  });
});

// The counter-example is the frontend of Linux since 2.6.37, which answers such a request as done (old-frontend.test.ts).
describe('given EOPNOTSUPP at any time', () => {
  test('when it answers a barrier with data, then the data is written, alone, and what follows waits for it', async () => {
    const bench = new Bench();
    const before = bench.write(0, 1);
    const barrier = bench.write(8, 1, ORDERED);
    const after = bench.write(16, 1);
    expect(bench.out).toBe('W0+1 B8+1');
    await bench.answer('B8+1', -2);
    expect([bench.out, barrier.outcome]).toEqual(['W0+1', '-']);
    await bench.answer('W0+1');
    expect(bench.out).toBe('W8+1');
    await bench.answer('W8+1');
    expect(bench.out).toBe('W16+1');
    await bench.answer('W16+1');
    expect([before, barrier, after].map(({ outcome }) => outcome)).toEqual([
      'done',
      'done',
      'done',
    ]);
    const next = bench.write(24, 1, ORDERED);
    expect(bench.out).toBe('W24+1');
    await bench.answer('W24+1', -1);
    expect(next.outcome).toBe('IO_FAILED');
  });

  test('when it answers a flush, then an empty barrier takes its place, and when that goes, too, an error', async () => {
    const bench = new Bench();
    const flush = bench.watch(bench.frontend.flush({ tag: 'simple' }));
    expect(bench.out).toBe('F');
    await bench.answer('F', -2);
    expect([bench.out, flush.outcome]).toEqual(['B', '-']);
    await bench.answer('B', -2);
    expect(flush.outcome).toBe('EOPNOTSUPP');
    expect(bench.frontend.abilities).toMatchObject({ barrier: false, flush: false });
  });

  test('when nothing is left to flush with, then an ordered write is refused and not sent, a plain one is not', async () => {
    const bench = new Bench();
    const flush = bench.watch(bench.frontend.flush({ tag: 'ordered' }));
    const ordered = bench.write(8, 1, ORDERED);
    const plain = bench.write(16, 1);
    await bench.answer('F', -2);
    await bench.answer('B', -2);
    expect([flush.outcome, ordered.outcome]).toEqual(['EOPNOTSUPP', 'EOPNOTSUPP']);
    expect(bench.out).toBe('W16+1');
    await bench.answer('W16+1');
    expect(plain.outcome).toBe('done');
  });

  test('when it answers a discard, then the discard is done with: it was advice', async () => {
    const bench = new Bench();
    const discard = bench.watch(bench.frontend.discard?.(0, 4096));
    expect(bench.out).toBe('D0+8');
    await bench.answer('D0+8', -2);
    expect(discard.outcome).toBe('done');
    expect(bench.watch(bench.frontend.discard?.(0, 4096))).toBeDefined();
    expect(bench.out).toBe('');
  });

  test('when it answers a plain write, then that is an error', async () => {
    const bench = new Bench();
    const write = bench.write(0, 1);
    await bench.answer('W0+1', -2);
    expect(write.outcome).toBe('EOPNOTSUPP');
  });
});

describe('given a backend that breaks the ring', () => {
  test.each<[string, (bench: Bench) => Promise<void>]>([
    ['with an id that is not out', (bench) => bench.answer('W0+1', 0, { id: 5n })],
    ['with another operation', (bench) => bench.answer('W0+1', 0, { operation: 0 })],
  ])(
    'when it answers %s, then whoever waits is told, and nothing more is sent',
    async (_, breakIt) => {
      const bench = new Bench();
      const waiting = [bench.write(0, 1), bench.write(8, 1), bench.write(16, 1, ORDERED)];
      const queued = bench.write(24, 1);
      await breakIt(bench);
      expect(bench.ring.state).toBe('broken');
      const outcomes = [...waiting, queued].map(({ outcome }) => outcome);
      expect(outcomes).toEqual(['IO_FAILED', 'IO_FAILED', 'IO_FAILED', 'IO_FAILED']);
      const later = bench.frontend.write(0, bytes(1), PLAIN);
      await expect(later).rejects.toThrow(/has broken the ring/);
    },
  );

  test('when requests are out, then their pages are never lent again, and other requests keep none', async () => {
    const bench = new Bench(ALL, { pages: 8 });
    const answered = bench.write(0, 8);
    bench.write(8, 16);
    bench.watch(bench.frontend.read(24 * 512, bytes(8)));
    await bench.answer('W0+8');
    const lent = bench.requests.flatMap((request) =>
      request.kind === 'transfer' ? request.segments.map(({ gref }) => gref) : [],
    );
    bench.ring.close();
    await settled();
    expect(answered.outcome).toBe('done');
    await expect(bench.frontend.write(0, bytes(8), PLAIN)).rejects.toThrow('the ring is closed');
    expect([lent.length, bench.grants.free]).toEqual([3, 5]);
    expect(lent.filter((gref) => bench.grants.lend(1)?.includes(gref))).toEqual([]);
  });

  test('when a new ring starts over the same pages, then it makes do with those that are left', async () => {
    const bench = new Bench(ALL, { pages: 3 });
    bench.write(0, 16);
    bench.ring.close();
    await settled();
    const { grants } = bench;
    const ring = new BlkFrontRing(new Uint8Array(4096), { layout: 'x86-64', notify: () => {} });
    const frontend = new BlkFrontend({ nodes: ALL, ring, grants });
    void frontend.write(0, new Uint8Array(16 * 512), PLAIN).catch(() => {});
    expect([grants.free, ring.free]).toEqual([0, 31]);
    ring.close();
    const none = await codeThrown(() => new BlkFrontend({ nodes: ALL, ring, grants }));
    expect(none).toBe('INVALID_ARGUMENT');
  });

  test('when the grant table lends nothing although it could, then that is an error, and no request without data', async () => {
    const ring = new BlkFrontRing(new Uint8Array(4096), { layout: 'x86-64', notify: () => {} });
    const grants = { ...grantTable(8), free: 8, lend: () => undefined };
    const frontend = new BlkFrontend({ nodes: ALL, ring, grants });
    await expect(frontend.write(0, bytes(1), PLAIN)).rejects.toMatchObject({ code: 'QUEUE_FULL' });
    expect(ring.free).toBe(32);
  });

  test('when the grant table throws, then whoever asked is told, and the next request is served', async () => {
    const bench = new Bench();
    const { lend } = bench.grants;
    bench.grants.lend = () => {
      throw new Error('out of references');
    };
    await expect(bench.frontend.write(0, bytes(1), PLAIN)).rejects.toThrow('out of references');
    bench.grants.lend = lend;
    const next = bench.write(8, 1);
    await bench.answer('W8+1');
    expect([next.outcome, bench.grants.free]).toEqual(['done', 64]);
  });

  test('when it answers the same request twice, then the ring is broken', async () => {
    const bench = new Bench();
    const write = bench.write(0, 1);
    bench.write(8, 1);
    const id = bench.requests[0]?.id;
    await bench.answer('W0+1');
    expect(write.outcome).toBe('done');
    await bench.answer('W8+1', 0, { id });
    expect(bench.ring.state).toBe('broken');
  });

  test('when a status is none that there is, then it is an error, and the ring goes on', async () => {
    const bench = new Bench();
    const write = bench.write(0, 1);
    await bench.answer('W0+1', 9);
    expect([write.outcome, bench.ring.state]).toEqual(['IO_FAILED', 'open']);
  });
});
