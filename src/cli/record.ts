// Loaded by `node --import` before a program whose files `write-barrier crash-files` records: the record begins before the program's
// first line, so that modules which take functions out of node:fs when they are loaded are seen, too.
//
// The record ends when the program has nothing left to do. A program that calls process.exit, or throws, has no such moment, because
// nothing that waits runs after it: then the file of the record is missing, and a file beside it says why.
//
// A mark is a question for a file that is not there, as under strace: `existsSync('/write-barrier-mark/' + encodeURIComponent(json))`.
//
// Workers and children of the program inherit its options, but not the order to record, because it is taken out of the environment.

import fs from 'node:fs';
import { syncBuiltinESMExports } from 'node:module';
import { serialize } from 'node:v8';
import { isMainThread } from 'node:worker_threads';
import { recordFiles } from 'write-barrier/testing/files';

/** What the command asks for. */
export interface RecordOrder {
  /** The folder to record. */
  readonly root: string;
  /** Where the record goes. */
  readonly file: string;
}

const VARIABLE = 'WRITE_BARRIER_RECORD';
const MARK_PATH = '/write-barrier-mark/';

const order = process.env[VARIABLE];
delete process.env[VARIABLE];
if (order !== undefined && isMainThread) record(JSON.parse(order) as RecordOrder);

function record({ root, file }: RecordOrder): void {
  // The originals, because what is written here is no part of the record.
  const { writeFileSync } = fs;
  let why = 'it called process.exit, or an error ended it';
  process.once('exit', () => {
    if (why !== '') writeFileSync(`${file}.why`, why);
  });
  const run = async (_: string, mark: (value: unknown) => void): Promise<void> => {
    const deaf = hear(mark);
    await new Promise((resolve) => process.once('beforeExit', resolve));
    deaf();
  };
  recordFiles({ root, run }).then(
    (trace) => {
      writeFileSync(file, serialize(trace));
      why = '';
    },
    (error: unknown) => {
      why = error instanceof Error ? error.message : String(error);
    },
  );
}

/** Hears marks; the answer ends that. */
function hear(mark: (value: unknown) => void): () => void {
  const { existsSync } = fs;
  const heard: typeof existsSync = (path) => {
    if (typeof path === 'string' && path.startsWith(MARK_PATH)) {
      mark(JSON.parse(decodeURIComponent(path.slice(MARK_PATH.length))));
    }
    return existsSync(path);
  };
  fs.existsSync = heard;
  syncBuiltinESMExports();
  return () => {
    // The recorder puts back what it finds as it has left it.
    fs.existsSync = existsSync;
    syncBuiltinESMExports();
  };
}
