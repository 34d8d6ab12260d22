// A rung of the ladder: one setting of SQLite on a directory on the simulated disk, and what a power cut makes of it.
//
// The workload inserts rows, the same number in each transaction, into a table with an index. After a recovery the rows must be those
// of the first k transactions, all of each, the index must say the same, and SQLite must find nothing wrong. Then the database is
// consistent. It is durable if k is at least the number of transactions that were acknowledged.
//
// The schema is there before the trace starts. Setup, workload and recovery have different random numbers, as real runs have.

import { IoScheduler, MemoryStorage, type Storage } from 'write-barrier';
import { Directory, type DirectoryOptions } from 'write-barrier/directory';
import { type CrashReport, type CrashTest, crashTest } from 'write-barrier/testing';
import { EXHAUSTIVE } from '../kit/amount.js';
import { type Database, type Engine, SeededVfs, TornVfs } from './engine.js';

export interface Rung {
  readonly journal: 'DELETE' | 'TRUNCATE' | 'PERSIST' | 'MEMORY' | 'WAL';
  readonly synchronous: 'OFF' | 'NORMAL' | 'FULL' | 'EXTRA';
  /** What SQLite is told instead of the truth. */
  readonly claims?: number;
  /** Batches are no batches. */
  readonly isTorn?: boolean;
  /** Move the WAL into the database after each transaction. */
  readonly checkpoint?: boolean;
  /** SQLite has room for so few pages that it writes some of them before it commits, behind a second head of the journal. */
  readonly spills?: boolean;
  /** The log of the directory holds fewer blocks than a transaction changes. */
  readonly overflows?: boolean;
  /** @defaultValue 2, and 3 in the exhaustive run */
  readonly transactions?: number;
}

/** The number of transactions that are there, whole; or what is wrong. */
export type Found = number | string;

const BLOCK = 512;
const SIZE = 400 * BLOCK;
const madeFor = ({ overflows }: Rung): DirectoryOptions => ({
  ...{ create: true, blockSize: BLOCK, filesMax: 4 },
  logSize: (overflows ? 14 : 60) * BLOCK,
});
const ROWS = 3;

/** What a transaction costs in device flushes, after the first one. */
export async function flushesOf(engine: Engine, rung: Rung): Promise<number> {
  // So large that its log is not emptied.
  const scheduler = new IoScheduler(new MemoryStorage(1 << 20));
  const files = await Directory.open(scheduler, { create: true, blockSize: BLOCK });
  return engine.connect(vfsOf(engine, files, 1, rung), async (database) => {
    await prepare(database, rung);
    await insert(database, 1, rung);
    const before = scheduler.stats().commands.flush;
    await insert(database, 2, rung);
    return scheduler.stats().commands.flush - before;
  });
}

/** `durable`: an acknowledged transaction must be there; `consistent`: what is there must be right. */
export async function crashed(
  engine: Engine,
  rung: Rung,
  asked: 'durable' | 'consistent',
  more: Partial<CrashTest<number, Found>> = {},
): Promise<CrashReport> {
  const { transactions = EXHAUSTIVE ? 3 : 2 } = rung;
  const initial = await setUp(engine, rung);
  return crashTest<number, Found>({
    size: SIZE,
    initial,
    async workload(disk, journal) {
      const files = await Directory.open(new IoScheduler(disk));
      await engine.connect(vfsOf(engine, files, 2, rung), async (database) => {
        await configure(database, rung);
        for (let n = 1; n <= transactions; n++) {
          journal.begin(n);
          await insert(database, n, rung);
          journal.acknowledge(n);
        }
      });
      await files.writeOut();
    },
    recover: (disk) => recover(engine, rung, disk),
    check: (found, { acknowledged, begun }) => {
      if (typeof found === 'string') throw new Error(found);
      return found <= begun.length && (asked === 'consistent' || found >= acknowledged.length);
    },
    ...more,
  });
}

async function recover(engine: Engine, rung: Rung, disk: Storage): Promise<Found> {
  const files = await Directory.open(new IoScheduler(disk));
  try {
    return await engine.connect(vfsOf(engine, files, 3, rung), async (database) => {
      if (rung.journal === 'WAL') await database(EXCLUSIVE);
      const table = await database('SELECT body FROM t NOT INDEXED');
      const index = await database('SELECT body FROM t INDEXED BY i ORDER BY body');
      const verdict = await database('PRAGMA integrity_check');
      const rows = rowsPer(rung);
      const transactions = Math.floor(table.length / rows);
      const expected = Array.from({ length: transactions }, (_, n) => bodiesOf(n + 1, rung)).flat();
      if (String(verdict) !== 'ok') return String(verdict);
      if (String(table) !== String(expected)) return 'the rows are not whole transactions';
      return String(index) === String(expected)
        ? transactions
        : 'the index is not that of the table';
    });
  } catch (error) {
    return String(error);
  }
}

function vfsOf({ module }: Engine, files: Directory, seed: number, rung: Rung): SeededVfs {
  const Vfs = rung.isTorn ? TornVfs : SeededVfs;
  return new Vfs(module, files, seed, rung.claims);
}

const EXCLUSIVE = 'PRAGMA locking_mode = EXCLUSIVE';

async function setUp(engine: Engine, rung: Rung): Promise<Uint8Array> {
  const disk = new MemoryStorage(SIZE);
  const files = await Directory.open(new IoScheduler(disk), madeFor(rung));
  await engine.connect(vfsOf(engine, files, 1, rung), (database) => prepare(database, rung));
  await files.close();
  return disk.bytes;
}

async function prepare(database: Database, rung: Rung): Promise<void> {
  await database(`PRAGMA page_size = ${BLOCK}`);
  await configure(database, rung);
  await database('CREATE TABLE t (body TEXT); CREATE INDEX i ON t (body)');
}

async function configure(
  database: Database,
  { journal, synchronous, spills }: Rung,
): Promise<void> {
  if (journal === 'WAL') await database(EXCLUSIVE);
  await database(`PRAGMA journal_mode = ${journal}; PRAGMA synchronous = ${synchronous}`);
  if (spills) await database('PRAGMA cache_size = 1; PRAGMA cache_spill = 1');
}

async function insert(database: Database, transaction: number, rung: Rung): Promise<void> {
  const values = bodiesOf(transaction, rung).map((body) => `('${body}')`);
  await database(`INSERT INTO t VALUES ${values.join(', ')}`);
  if (rung.checkpoint) await database('PRAGMA wal_checkpoint');
}

function rowsPer({ spills, overflows }: Rung): number {
  return spills || overflows ? 8 * ROWS : ROWS;
}

/** The bodies ascend with the rows, and no byte of one transaction is a byte of another. */
function bodiesOf(transaction: number, rung: Rung): string[] {
  const letter = String.fromCharCode(96 + transaction);
  return Array.from({ length: rowsPer(rung) }, (_, nr) => letter.repeat(100 + nr));
}
