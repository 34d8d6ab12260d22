// Goal: no table that the sources can tell is written by hand. Method: generate it and compare with what the page says.
// `npx vitest run --project unit test/systems/xen -u` writes the pages anew.

import { join } from 'node:path';
import { expect, test } from 'vitest';
import { IoScheduler, type Storage, tracing } from 'write-barrier';
import { VolatileDisk } from 'write-barrier/testing';
import { blkback } from '../../../src/systems/xen/backend.js';
import { grantTable } from '../../../src/systems/xen/grants.js';
import { BLKBACK_ERAS } from '../../../src/systems/xen/old-backend.js';
import { BLKFRONT_ERAS, type BlkfrontChoice } from '../../../src/systems/xen/old-frontend.js';
import { SolarisDisk, type SolarisOptions } from '../../../src/systems/xen/solaris.js';
import { BLKIF_OP } from '../../../src/systems/xen/wire.js';
import { ROOT, read, table, withSection } from '../../docs/pages.js';

// What the frontends made of the nodes

function choiceInWords({ mode, flush, fua, operation }: BlkfrontChoice): string {
  if (operation === undefined) return mode;
  const flags = [flush && 'flush', fua && 'FUA'].filter(Boolean).join(' and ');
  const word = operation === BLKIF_OP.WRITE_BARRIER ? 'WRITE_BARRIER' : 'FLUSH_DISKCACHE';
  return `${flags || mode} by \`${word}\``;
}

function frontends(): string {
  const rows = Object.values(BLKFRONT_ERAS).map((era) => [
    era.name,
    choiceInWords(era.absent),
    choiceInWords(era.barrierOff),
    choiceInWords(era.barrierOn),
    era.flushOn ? choiceInWords(era.flushOn) : 'not read',
    era.unsupported,
  ]);
  const head = ['era', 'no feature-barrier', 'feature-barrier 0', 'feature-barrier 1'];
  return table([...head, 'feature-flush-cache 1', 'EOPNOTSUPP becomes'], rows);
}

// What the backends made of a barrier

function backends(): string {
  const rows = Object.values(BLKBACK_ERAS).map(({ name, barrier, emptyBarrier, flush }) => {
    const empty = emptyBarrier === 'taken' ? 'OKAY' : 'ERROR';
    const known = flush ? 'a flush' : 'EOPNOTSUPP';
    if (barrier.by === 'hard-barrier') {
      return [name, 'the queue below', 'the queue below', 'the queue below', empty, known];
    }
    const { waitsFor, holdsLater, payload } = barrier;
    const after = holdsLater ? 'the backend' : '**no side**';
    const forced = { nothing: '**no side**', fua: 'FUA', flush: 'a flush' }[payload];
    const before = waitsFor === 'device' ? 'the backend' : 'the backend, for **its own ring**';
    return [name, before, after, forced, empty, known];
  });
  const head = ['era', 'waits for what is older', 'holds what is younger', 'forces the payload'];
  return table([...head, 'empty barrier', '`FLUSH_DISKCACHE`'], rows);
}

// What the ways of Solaris cost

const WRITES = 4;

interface Cost {
  ring: number;
  writes: number;
  flushes: number;
}

/** Runs the program, and counts what went over the ring and what reached the disk. */
async function costOf(options: Partial<SolarisOptions>, fua: boolean): Promise<Cost> {
  const cost: Cost = { ring: 0, writes: 0, flushes: 0 };
  const device = new VolatileDisk({ size: 65_536, profile: { fua, orderedTags: false } });
  const counted: Storage = tracing(device, (event) => {
    if (event.kind !== 'dispatch') return;
    if (event.what.op === 'write') cost.writes += 1;
    if (event.what.op === 'flush') cost.flushes += 1;
  });
  const grants = grantTable(32);
  const { nodes, serve } = blkback(new IoScheduler(counted), { page: grants.page });
  const send: SolarisOptions['send'] = (request) => {
    cost.ring += 1;
    return serve(request);
  };
  const disk = await SolarisDisk.attach({ nodes, send, grants, ...options });
  Object.assign(cost, { ring: 0, writes: 0, flushes: 0 });
  for (let n = 0; n < WRITES; n += 1) await disk.write(n * 4096, new Uint8Array(512));
  if (disk.writeCache) await disk.flushWriteCache();
  return cost;
}

async function costs(): Promise<string> {
  const ways: readonly (readonly [cache: string, way: string, Partial<SolarisOptions>])[] = [
    ['enabled', '(c) flush operation', { ways: ['flush operation'] }],
    ['enabled', '(b) empty barrier', { ways: ['empty barrier'] }],
    ['enabled', '(a) old write', { ways: ['old write'] }],
    ['disabled', 'none is needed', { writeCache: false }],
  ];
  const rows: string[][] = [];
  for (const [cache, way, options] of ways) {
    const { ring, writes, flushes } = await costOf(options, false);
    const forced = await costOf(options, true);
    const numbers = [ring, writes, flushes, forced.writes, forced.flushes];
    rows.push([cache, way, ...numbers.map(String)]);
  }
  const head = ['write cache', 'way to flush', 'ring', 'writes', 'flushes'];
  return table([...head, 'writes (FUA)', 'flushes (FUA)'], rows);
}

type Sections = Readonly<Record<string, () => string | Promise<string>>>;

test.each<[string, Sections]>([
  ['docs/systems/xen.md', { frontends, backends }],
  ['docs/systems/solaris.md', { costs }],
])('%s: its tables are what the sources say', async (path, sections) => {
  let page = read(path);
  for (const [name, make] of Object.entries(sections)) {
    page = withSection(page, name, await make());
  }
  await expect(page).toMatchFileSnapshot(join(ROOT, path));
});
