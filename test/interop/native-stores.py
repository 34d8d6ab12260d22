# Stores with native code: SQLite with its pragmas, and LevelDB.
#
#   workload STORE FOLDER ACKNOWLEDGES   puts 1 and then 2, and says so in marks of an access that fails
#   recoveries                           for each line of JSON, a store and a folder, what is found there, as JSON

import json
import os
import sqlite3
import sys
from urllib.parse import quote

# More than a page of the journal or the log holds.
PADDING = 'x' * 1500
LAST = 2


class Sqlite:
    def __init__(self, folder, pragmas):
        self.db = sqlite3.connect(f'{folder}/a.db', isolation_level=None)
        for pragma in pragmas:
            self.db.execute(f'pragma {pragma}').fetchall()

    def make(self):
        self.db.execute('create table if not exists t(v integer, padding text)')

    def put(self, value):
        self.db.execute('insert into t values(?, ?)', (value, PADDING))

    def values(self):
        (state,) = self.db.execute('pragma integrity_check').fetchone()
        if state != 'ok':
            raise ValueError(state)
        return [value for (value,) in self.db.execute('select v from t order by rowid')]

    def close(self):
        self.db.close()


class Level:
    def __init__(self, folder, options):
        import plyvel

        self.sync = 'sync' in options
        self.db = plyvel.DB(f'{folder}/level', create_if_missing=True)

    def make(self):
        pass

    def put(self, value):
        self.db.put(b'%d' % value, PADDING.encode(), sync=self.sync)

    def values(self):
        return [int(key) for key, _ in self.db]

    def close(self):
        self.db.close()


KINDS = {'sqlite': Sqlite, 'level': Level}


def opened(store, folder):
    kind, *options = store.split(';')
    return KINDS[kind](folder, options)


def mark(value):
    os.access(f'/write-barrier-mark/{quote(json.dumps(value), safe="")}', os.F_OK)


def workload(store, folder, acknowledges):
    db = opened(store, folder)
    db.make()
    db.put(0)
    os.sync()
    os.access('/write-barrier-start', os.F_OK)
    for value in range(1, LAST + 1):
        mark({'kind': 'begin', 'operation': value})
        db.put(value)
        if acknowledges == 'yes':
            mark({'kind': 'acknowledge', 'operation': value})
    # What closing would do comes after what is asked about.
    os._exit(0)


def recovered(store, folder):
    db = opened(store, folder)
    try:
        values = db.values()
    finally:
        db.close()
    if values != list(range(len(values))):
        raise ValueError(f'there are the values {values}')
    return len(values) - 1


def recoveries():
    for line in sys.stdin:
        store, folder = json.loads(line)
        try:
            answer = {'value': recovered(store, folder)}
        except Exception as error:
            answer = {'error': str(error)}
        print(json.dumps(answer), flush=True)


if sys.argv[1] == 'workload':
    workload(*sys.argv[2:])
else:
    recoveries()
