// The store on files: repaired it survives every power cut on every model, and each bug is found on the file systems that the
// page names.

import { expect, test } from 'vitest';
import { crashFiles, FILE_MODELS, type FileModelName } from 'write-barrier/testing/files';
import { BUGS, storeTest } from '../../examples/11-files/store.mjs';
import { blocksOf, read } from '../docs/pages.js';
import { runExample } from './run.js';

const MODELS = Object.keys(FILE_MODELS) as FileModelName[];
const SURVIVES: Readonly<Record<(typeof BUGS)[number], readonly FileModelName[]>> = {
  'no fsync of the log': ['strict'],
  'no fsync of the snapshot': ['strict', 'ext4-journal'],
  'no fsync of the folder': ['strict', 'ext4', 'ext4-journal', 'xfs'],
};

test('the store is proved on every model', async () => {
  const { verdict, warnings } = await crashFiles({ ...storeTest(), models: MODELS });
  expect({ verdict, warnings }).toEqual({ verdict: 'proved', warnings: [] });
});

test.each(BUGS)('%s is found where it does harm', async (bug) => {
  for (const model of MODELS) {
    const { verdict } = await crashFiles({ ...storeTest(bug), models: [model] });
    expect([model, verdict]).toEqual([model, SURVIVES[bug].includes(model) ? 'proved' : 'failed']);
  }
});

test('the example prints what its page shows', async () => {
  const [shown] = blocksOf(read('examples/11-files/README.md'));
  expect(await runExample(['files'])).toEqual({ code: 0, stdout: shown?.text, stderr: '' });
});
