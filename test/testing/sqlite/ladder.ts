// A rung of the ladder: one way to set up SQLite, run on the simulated disk, and what a power cut makes of it.
//
// The workload inserts a few rows per transaction. A table of known rows and an index on it tell everything: after a
// recovery the rows must be those of the first k transactions, all of each, the index must say the same, and SQLite
// itself must find nothing wrong. Then
//
//   corrupt   SQLite fails, or there is no such k, or a transaction is there that had not begun
//   lost      k is less than what had been acknowledged when the power was cut
//   clean     neither
//
// The schema is on the disk before the trace starts, and the machine went down while the database was open: what
// the journal modes keep from one transaction to the next (an empty journal, the head of the WAL) is there.
//
// Setup, workload and recovery have different random numbers. With the same ones, the first journal of the workload
// would have the nonce of the setup's last, and a mixture of both could be valid, which no real run would show.

import * as SQLite from '@journeyapps/wa-sqlite/src/sqlite-constants.js';
import { MemoryStorage, type Storage } from 'write-barrier';
import {
  type CrashTest,
  type DeviceProfile,
  type DiskTrace,
  type Journal,
  VolatileDisk,
} from 'write-barrier/testing';
import { type CrashSpace, crashSpace } from 'write-barrier/testing/lab';
import { type Database, type Engine, SqliteError } from './engine.js';
import { type Claim, type Policy, SECTOR, SectorFiles } from './files.js';

/** How SQLite is set up, and on what. */
export interface Rung {
  readonly journal: 'DELETE' | 'TRUNCATE' | 'PERSIST' | 'WAL';
  readonly synchronous: 'OFF' | 'NORMAL' | 'FULL' | 'EXTRA';
  /** `fresh` unless given. */
  readonly policy?: Policy;
  /** None unless given. */
  readonly claims?: readonly Claim[];
  /** The fields that differ from an honest disk with a volatile cache. */
  readonly profile?: Partial<DeviceProfile>;
  /** Move the WAL into the database after each transaction, so that the next one starts the WAL anew. */
  readonly checkpoint?: boolean;
  /** SQLite has room for so few pages that it writes some before it commits, and the journal gets a second head. */
  readonly spills?: boolean;
  /** 3 unless given. */
  readonly transactions?: number;
}

/** What the workload did. */
export interface Run {
  readonly rung: Rung;
  readonly trace: DiskTrace;
  readonly space: CrashSpace;
}

/** What a recovery came to. */
export type Outcome = 'clean' | 'corrupt' | 'lost';

/** When an exploration stops. */
export interface Limits {
  /** Recoveries at the most; no limit unless given. */
  readonly leavesMax?: number;
  /** After the first of these. */
  readonly until?: readonly Outcome[];
}

/** What an exploration came to. */
export interface Survey {
  /** How many images there are. */
  readonly count: bigint;
  /** How many of them were covered; `count` where nothing is left. */
  readonly covered: bigint;
  /** How many recoveries that took. */
  readonly leaves: number;
  /** How many of the recoveries came to that. */
  readonly corrupt: number;
  readonly lost: number;
}

/** What a recovery shows: the first transactions, all of each and nothing else, or something that no run leaves. */
export type Found =
  | { readonly kind: 'state'; readonly transactions: number }
  | { readonly kind: 'damage'; readonly reason: string };

/** Of the disk. */
const SECTORS = 1024;
/** In each transaction. */
const ROWS = 5;
/** In characters, of the shortest body. */
const BODY = 100;
const SEEDS = { setup: 1, workload: 2, recovery: 3 } as const;

type Told = { readonly kind: keyof Journal<number>; readonly transaction: number };

/** Runs the workload on a disk of its own. The trace ends while the database is open. */
export function runOf(engine: Engine, rung: Rung): Run {
  const { profile = {} } = rung;
  const initial = setUp(engine, rung);
  const disk = new VolatileDisk({ size: initial.length, initial, profile, answers: 'at-once' });
  const tell = (kind: Told['kind']) => (transaction: number) =>
    disk.mark({ kind, transaction } satisfies Told);
  const journal = { begin: tell('begin'), acknowledge: tell('acknowledge') };
  const trace = work(engine, rung, disk, journal);
  return { rung, trace, space: crashSpace(trace, profile) };
}

/** The same for `crashTest`, whose trace ends when the database has been closed. */
export function crashTestOf(engine: Engine, rung: Rung): CrashTest<number, Found> {
  const initial = setUp(engine, rung);
  return {
    size: initial.length,
    initial,
    ...(rung.profile && { profile: rung.profile }),
    answers: 'at-once',
    workload: (disk, journal) => {
      work(engine, rung, disk, journal);
    },
    recover: (disk) => recover(engine, rung, disk),
    check: (found, { acknowledged, begun }) => {
      if (found.kind === 'damage') throw new Error(found.reason);
      const outcome = outcomeOf(found, begun.length, acknowledged.length);
      if (outcome !== 'clean') throw new Error(`${found.transactions} transactions are there`);
    },
  };
}

function work(
  engine: Engine,
  rung: Rung,
  disk: VolatileDisk,
  { begin, acknowledge }: Journal<number>,
): DiskTrace {
  const { transactions = 3, checkpoint = false } = rung;
  return engine.connect(filesOf(rung, disk), SEEDS.workload, (database) => {
    configure(database, rung);
    for (let n = 1; n <= transactions; n++) {
      begin(n);
      insert(database, n);
      acknowledge(n);
      if (checkpoint) database('PRAGMA wal_checkpoint');
    }
    return disk.trace;
  });
}

function filesOf({ policy, claims }: Rung, disk: Storage): SectorFiles {
  return new SectorFiles(disk, policy, claims);
}

/** The same run on a disk that has not heard a flush. `nth` counts the flushes from 0. */
export function withoutFlush({ rung, trace }: Run, nth: number): Run {
  const deaf = flushesOf(trace)[nth];
  const commands = trace.commands.map((command, number) =>
    number === deaf ? { ...command, fault: { kind: 'hollow' } as const } : command,
  );
  const mutant = { ...trace, commands };
  return { rung, trace: mutant, space: crashSpace(mutant, rung.profile) };
}

/** The numbers of the commands that are flushes. */
export function flushesOf({ commands }: DiskTrace): number[] {
  return commands.flatMap(({ op }, number) => (op === 'flush' ? [number] : []));
}

/** Recovers from every state that a power cut during the run may have left, or from as many as the limits allow. */
export function survey(engine: Engine, { rung, trace, space }: Run, limits: Limits = {}): Survey {
  const { leavesMax = Number.POSITIVE_INFINITY, until = [] } = limits;
  const found = { clean: 0, corrupt: 0, lost: 0 };
  let covered = 0n;
  let leaves = 0;
  for (const crash of space.explore()) {
    const shown = recover(engine, rung, crash.disk);
    const begun = toldBefore(trace, 'begin', crash.after);
    const outcome = outcomeOf(shown, begun, toldBefore(trace, 'acknowledge', crash.before));
    leaves += 1;
    covered += crash.images;
    found[outcome] += 1;
    if (leaves === leavesMax || until.includes(outcome)) break;
  }
  const { corrupt, lost } = found;
  return { count: space.count, covered, leaves, corrupt, lost };
}

function toldBefore({ marks }: DiskTrace, kind: Told['kind'], end: number): number {
  return marks.filter(({ time, value }) => time < end && (value as Told).kind === kind).length;
}

/** Opens what is left, reads all of it, and closes it again. */
export function recover(engine: Engine, rung: Rung, disk: Storage): Found {
  try {
    return engine.connect(filesOf(rung, disk), SEEDS.recovery, (database) => {
      if (rung.journal === 'WAL') database(EXCLUSIVE);
      const table = database('SELECT txn, nr, body FROM t NOT INDEXED').map(String);
      const index = database('SELECT body FROM t INDEXED BY i ORDER BY body').map(String);
      const verdict = database('PRAGMA integrity_check').map(String);
      return judge(table, index, verdict);
    });
  } catch (error) {
    if (!(error instanceof SqliteError) || !DAMAGE.has(error.code)) throw error;
    return damage(error.message);
  }
}

/** The codes of a database that is no database: damaged, not one at all, or without the table. */
const DAMAGE: ReadonlySet<number> = new Set([
  SQLite.SQLITE_CORRUPT,
  SQLite.SQLITE_NOTADB,
  SQLite.SQLITE_ERROR,
]);

function judge(
  table: readonly string[],
  index: readonly string[],
  verdict: readonly string[],
): Found {
  const transactions = Math.floor(table.length / ROWS);
  const rows = rowsUpTo(transactions);
  const bodies = rows.map(([, , body]) => body);
  if (!same(table, rows.map(String))) return damage('the rows are not whole transactions');
  if (!same(index, bodies)) return damage('the index is not that of the table');
  if (!same(verdict, ['ok'])) return damage(verdict.join('; '));
  return { kind: 'state', transactions };
}

function damage(reason: string): Found {
  return { kind: 'damage', reason };
}

function outcomeOf(found: Found, begun: number, acknowledged: number): Outcome {
  if (found.kind === 'damage' || found.transactions > begun) return 'corrupt';
  return found.transactions < acknowledged ? 'lost' : 'clean';
}

// The database

const EXCLUSIVE = 'PRAGMA locking_mode = EXCLUSIVE';

/** A disk with the schema on it, whose power was cut while all was quiet. */
function setUp(engine: Engine, rung: Rung): Uint8Array {
  const disk = new MemoryStorage(new Uint8Array(SECTORS * SECTOR));
  return engine.connect(filesOf(rung, disk), SEEDS.setup, (database) => {
    database(`PRAGMA page_size = ${SECTOR}`);
    configure(database, rung);
    database('CREATE TABLE t (txn INTEGER, nr INTEGER, body TEXT)');
    database('CREATE INDEX i ON t (body)');
    const image = new Uint8Array(disk.size);
    disk.read(0, image);
    return image;
  });
}

function configure(database: Database, { journal, synchronous, spills }: Rung): void {
  if (journal === 'WAL') database(EXCLUSIVE);
  const [mode] = database(`PRAGMA journal_mode = ${journal}`).flat();
  if (mode !== journal.toLowerCase()) throw new Error(`SQLite is in journal mode ${mode}`);
  database(`PRAGMA synchronous = ${synchronous}`);
  if (spills) database('PRAGMA cache_size = 1');
}

function insert(database: Database, transaction: number): void {
  const values = rowsOf(transaction).map(([txn, nr, body]) => `(${txn}, ${nr}, '${body}')`);
  database(`INSERT INTO t VALUES ${values.join(', ')}`);
}

/** The rows of the first transactions: txn, nr, body. */
function rowsUpTo(transactions: number): (readonly [number, number, string])[] {
  return Array.from({ length: transactions }, (_, i) => rowsOf(i + 1)).flat();
}

/** The bodies ascend with the rows, and no byte of one transaction is a byte of another. */
function rowsOf(transaction: number): (readonly [number, number, string])[] {
  const letter = String.fromCharCode(96 + transaction);
  return Array.from({ length: ROWS }, (_, nr) => [transaction, nr, letter.repeat(BODY + nr)]);
}

function same(a: readonly string[], b: readonly string[]): boolean {
  return a.length === b.length && a.every((value, i) => value === b[i]);
}
