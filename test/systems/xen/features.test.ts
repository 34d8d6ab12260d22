// The nodes of xenstore: what a backend promises with them, and what the frontends of each era made of them.

import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  type Capabilities,
  guarantees,
  IoScheduler,
  MemoryStorage,
  MODE_NAMES,
  type ModeName,
} from 'write-barrier';
import { blkback } from '../../../src/systems/xen/backend.js';
import { blkFeaturesOf, readXenNodes, xenNodes } from '../../../src/systems/xen/features.js';
import {
  BLKFRONT_ERAS,
  type BlkfrontEraName,
  chooseBlkfront,
} from '../../../src/systems/xen/old-frontend.js';
import { BLKIF_OP } from '../../../src/systems/xen/wire.js';
import { share } from '../../kit/amount.js';
import { codeThrown } from '../../storage/contract.js';

const CACHES: Readonly<Record<string, Partial<Capabilities>>> = {
  'a cache with a flush': { cache: 'volatile', fua: false },
  'a cache with FUA': { cache: 'volatile', fua: true },
  'a cache without a flush': { cache: 'volatile', flush: false, fua: false },
  'a protected cache': { cache: 'protected', flush: false, fua: false },
  'no cache': { cache: 'none', flush: false, fua: false },
};

function schedulerOf(capabilities: Partial<Capabilities>, mode?: ModeName): IoScheduler {
  const storage = new MemoryStorage(64 * 4096, { capabilities });
  return new IoScheduler(storage, { ...(mode && { mode }), allowUnsafe: true });
}

describe('what a backend announces', () => {
  test.each([
    ['a cache with a flush', true, true],
    ['a cache with FUA', true, true],
    ['a cache without a flush', false, false],
    ['a protected cache', true, true],
    ['no cache', true, true],
  ])('over %s: barriers %s, flushes %s', (name, barrier, flush) => {
    const disk = schedulerOf({ ...CACHES[name], orderedTags: false });
    expect(blkFeaturesOf(disk)).toMatchObject({ barrier, flush, discard: true });
  });

  test('barriers in any mode that keeps their promise, and in no other', () => {
    for (const capabilities of Object.values(CACHES)) {
      for (const mode of MODE_NAMES) {
        const disk = schedulerOf(capabilities, mode);
        const promise = guarantees(mode, disk.capabilities);
        const { preBeforeBarrier, barrierBeforePost, barrierDurable, coveredDurable } = promise;
        const order = [preBeforeBarrier, barrierBeforePost];
        const durable = [barrierDurable, coveredDurable, promise.emptyBarrierFlushes];
        const kept = [...order, ...durable].every((answer) => answer === 'yes');
        expect(blkFeaturesOf(disk).barrier, `${mode} ${promise.reason}`).toBe(kept);
      }
    }
  });

  test('discards where the disk has them, and what its owner holds back it does not', () => {
    const disk = schedulerOf({ discard: false });
    expect(blkFeaturesOf(disk).discard).toBe(false);
    const backend = blkback(schedulerOf({}), {
      page: () => undefined,
      offer: { barrier: false, indirectSegments: 0 },
    });
    expect(backend.nodes).toEqual({
      sectors: '512',
      'sector-size': '512',
      'feature-barrier': '0',
      'feature-flush-cache': '1',
      'feature-discard': '1',
    });
  });

  test('no more segments than the pages of an indirect request hold, whatever its owner says', () => {
    const backend = blkback(schedulerOf({}), {
      page: () => undefined,
      offer: { indirectSegments: 1_000_000 },
    });
    expect(backend.nodes['feature-max-indirect-segments']).toBe('4096');
  });

  test('whole sectors: the blocks of the disk where they are larger than 512 bytes', async () => {
    const disk = schedulerOf({ blockSize: 4096 });
    const { nodes } = blkback(disk, { page: () => undefined });
    expect(nodes).toMatchObject({ sectors: '512', 'sector-size': '4096' });
    const odd = new IoScheduler(new MemoryStorage(1000, { capabilities: { blockSize: 100 } }));
    expect(await codeThrown(() => blkback(odd, { page: () => undefined }))).toBe(
      'INVALID_ARGUMENT',
    );
    const bytes = new IoScheduler(new MemoryStorage(1300, { capabilities: { blockSize: 1 } }));
    expect(blkback(bytes, { page: () => undefined }).nodes).toMatchObject({ sectors: '2' });
  });

  test('given any features, what is written is read again', () => {
    const features = fc.record({
      barrier: fc.boolean(),
      flush: fc.boolean(),
      discard: fc.boolean(),
      indirectSegments: fc.nat(4096),
    });
    const roundTrip = fc.property(features, (told) => {
      const { size, sectorSize, ...read } = readXenNodes(xenNodes(schedulerOf({}), told));
      expect(read).toEqual(told);
      expect([size, sectorSize]).toEqual([64 * 4096, 512]);
    });
    fc.assert(roundTrip);
  });
});

describe('given nodes that anybody may have written', () => {
  test('when a feature is no number, then it is as good as absent', () => {
    for (const text of ['', 'yes', '-1', '0x1', '1e3', ' 1', '9'.repeat(40)]) {
      const nodes = {
        sectors: '8',
        'feature-barrier': text,
        'feature-max-indirect-segments': text,
      };
      expect(readXenNodes(nodes)).toMatchObject({ barrier: undefined, indirectSegments: 0 });
    }
    const many = { sectors: '8', 'feature-max-indirect-segments': '100000' };
    expect(readXenNodes(many).indirectSegments).toBe(4096);
  });

  test.each([
    [{}],
    [{ sectors: '0' }],
    [{ sectors: '-8' }],
    [{ sectors: '9'.repeat(15) }],
    [{ sectors: '8', 'sector-size': '0' }],
    [{ sectors: '8', 'sector-size': '520' }],
    [{ sectors: '8', 'sector-size': '-4096' }],
    [{ sectors: '8', 'sector-size': '0x1000' }],
    [{ sectors: '8', 'sector-size': ' 4096' }],
    [{ sectors: '8', 'sector-size': '' }],
    [{ sectors: '9', 'sector-size': '4096' }],
  ])('when they describe no disk, %j, then they are refused', async (nodes) => {
    expect(await codeThrown(() => readXenNodes(nodes))).toBe('INVALID_ARGUMENT');
  });

  test('when they are anything at all, then they are read or refused, and nothing else is thrown', async () => {
    const names = ['sectors', 'sector-size', 'feature-barrier', 'feature-flush-cache'];
    const nodes = fc.dictionary(
      fc.constantFrom(...names),
      fc.oneof(fc.string(), fc.nat().map(String)),
    );
    const judged = fc.asyncProperty(nodes, async (text) => {
      expect([undefined, 'INVALID_ARGUMENT']).toContain(await codeThrown(() => readXenNodes(text)));
    });
    await fc.assert(judged, { numRuns: share(500) });
  });
});

const NODES = {
  absent: { barrier: undefined, flush: undefined },
  off: { barrier: false, flush: false },
  on: { barrier: true, flush: undefined },
  flush: { barrier: undefined, flush: true },
  both: { barrier: true, flush: true },
} as const;
const { WRITE_BARRIER, FLUSH_DISKCACHE } = BLKIF_OP;

describe('given what the backend announces, a frontend chooses', () => {
  const chosen = (era: BlkfrontEraName, nodes: keyof typeof NODES): string => {
    const { mode, flush, fua, operation } = chooseBlkfront(BLKFRONT_ERAS[era], NODES[nodes]);
    const flags = [flush && 'flush', fua && 'fua'].filter(Boolean).join('+');
    const word = operation === undefined ? '' : ` by ${operation}`;
    return `${mode}${flags && ` ${flags}`}${word}`;
  };

  // Without the node the backend may be one that writes synchronously. Some waited, some gave up, some believed it.
  test.each<[BlkfrontEraName, string]>([
    ['linux-2.6.36', `DRAIN by ${WRITE_BARRIER}`],
    ['linux-2.6.32', 'NONE'],
    ['xenlinux-2006', 'NONE'],
    ['fork-2.6.37', 'NONE'],
    ['linux-3.x', 'NONE'],
    ['linux-5.x', 'NONE'],
  ])('case 57: %s without feature-barrier: %s', (era, choice) => {
    expect(chosen(era, 'absent')).toBe(choice);
  });

  test.each<[BlkfrontEraName, string]>([
    ['linux-2.6.36', `TAG by ${WRITE_BARRIER}`],
    ['linux-2.6.32', `DRAIN by ${WRITE_BARRIER}`],
    ['xenlinux-2006', `DRAIN by ${WRITE_BARRIER}`],
    ['fork-2.6.37', 'NONE'],
    ['linux-3.x', `NONE flush+fua by ${WRITE_BARRIER}`],
    ['linux-5.x', `NONE flush+fua by ${WRITE_BARRIER}`],
  ])('%s with feature-barrier: %s', (era, choice) => {
    expect(chosen(era, 'on')).toBe(choice);
    expect(chosen(era, 'off')).toBe('NONE');
  });

  test('case 58: since 2.6.37 a flush where both are there, and then it marks no write as forced', () => {
    for (const era of ['linux-3.x', 'linux-5.x'] as const) {
      expect(chosen(era, 'both')).toBe(`NONE flush by ${FLUSH_DISKCACHE}`);
      expect(chosen(era, 'flush')).toBe(`NONE flush by ${FLUSH_DISKCACHE}`);
    }
    expect(chosen('linux-2.6.36', 'both')).toBe(`TAG by ${WRITE_BARRIER}`);
  });

  test('and every era says where it can be read', () => {
    for (const [name, era] of Object.entries(BLKFRONT_ERAS)) {
      expect(era.name).toBe(name);
      expect(era.witness.length).toBeGreaterThan(10);
    }
  });
});
