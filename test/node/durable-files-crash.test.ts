// What a power cut may leave of replaced files and of files of records, on every model of a file system.

import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { appendRecord, readRecords, replaceFile } from 'write-barrier/node';
import { crashFiles } from '../../src/testing/files/crash-files.js';

const MODELS = ['strict', 'ext4', 'xfs', 'btrfs', 'posix'] as const;

describe.each(MODELS)('on %s', (model) => {
  test('a replaced file has the old content or the new one, and the new one when the call was answered', async () => {
    const contents = ['first', 'x'.repeat(10_000), '', 'last'];
    const report = await crashFiles<number, string>({
      models: [model],
      before: (folder) => replaceFile(join(folder, 'file'), 'first'),
      workload: async (folder, journal) => {
        for (const [n, content] of contents.entries()) {
          if (n === 0) continue;
          journal.begin(n);
          await replaceFile(join(folder, 'file'), content);
          journal.acknowledge(n);
        }
      },
      recover: (folder) => readFile(join(folder, 'file'), 'utf8'),
      check: (found, { acknowledged, begun }) => {
        const at = contents.indexOf(found);
        return at >= Math.max(0, ...acknowledged) && at <= Math.max(0, ...begun);
      },
    });
    expect([report.verdict, report.warnings], report.failure?.message).toEqual(['proved', []]);
  });

  test('a file of records has all that were answered, in order, and goes on with another', async () => {
    const records = ['one', 'y'.repeat(5000), 'three', 'z'.repeat(100)];
    const report = await crashFiles<number, string[]>({
      models: [model],
      workload: async (folder, journal) => {
        for (const [n, record] of records.entries()) {
          journal.begin(n);
          await appendRecord(join(folder, 'log'), record);
          journal.acknowledge(n);
        }
      },
      recover: async (folder) => {
        const file = join(folder, 'log');
        const found = await readRecords(file);
        await appendRecord(file, 'next');
        const after = await readRecords(file);
        if (after.join() !== [...found, 'next'].join())
          throw new Error('the next one is not there');
        return found;
      },
      check: (found, { acknowledged, begun }) =>
        found.length >= acknowledged.length &&
        found.length <= begun.length &&
        found.every((record, n) => record === records[n]),
    });
    expect([report.verdict, report.warnings], report.failure?.message).toEqual(['proved', []]);
  });
});
