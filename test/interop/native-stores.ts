// What is known of SQLite and LevelDB: whether what they leave after a power cut is consistent, and whether what they have answered is
// there. A test compares their own calls with it, and a page shows it.
//
// Source: the manual of SQLite on `pragma synchronous` (sqlite.org/pragma.html), and that of LevelDB on synchronous writes.

/** Of `crashFiles`, on ext4, xfs and btrfs. */
type Verdict = 'proved' | 'failed';

/** A store as native-stores.py takes it: its kind, and pragmas or options. */
export interface NativeStore {
  readonly name: string;
  readonly store: string;
  readonly consistent: Verdict;
  readonly durable: Verdict;
}

const sqlite = (pragmas: string, consistent: Verdict, durable: Verdict): NativeStore => {
  const [journal = '', synchronous = ''] = pragmas.split(' ');
  // Alone with its database it maps no file in WAL mode, so nothing is missing in the record.
  const alone = journal === 'wal' ? 'locking_mode=exclusive;' : '';
  return {
    name: `SQLite, journal_mode=${journal}, synchronous=${synchronous}`,
    store: `sqlite;${alone}journal_mode=${journal};synchronous=${synchronous}`,
    ...{ consistent, durable },
  };
};

export const NATIVE_STORES: readonly NativeStore[] = [
  sqlite('delete off', 'failed', 'failed'),
  sqlite('delete normal', 'failed', 'failed'),
  sqlite('delete full', 'proved', 'failed'),
  sqlite('delete extra', 'proved', 'proved'),
  sqlite('truncate full', 'proved', 'proved'),
  sqlite('wal normal', 'proved', 'failed'),
  sqlite('wal full', 'proved', 'proved'),
  { name: 'LevelDB, put', store: 'level', consistent: 'proved', durable: 'failed' },
  { name: 'LevelDB, put with sync', store: 'level;sync', consistent: 'proved', durable: 'proved' },
];
