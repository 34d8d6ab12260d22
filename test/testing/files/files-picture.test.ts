// The picture of a crash test of files, and recoveries that are commands.

import * as fs from 'node:fs';
import { expect, test } from 'vitest';
import { byCommand } from '../../../src/testing/files/by-command.js';
import { crashFiles } from '../../../src/testing/files/crash-files.js';
import { filesPicture } from '../../../src/testing/files/files-picture.js';
import type { CrashFilesTest } from '../../../src/testing/files/files-test.js';
import { parseXml } from '../../kit/xml.js';

/** A file that is replaced; its name has what markup must escape. */
const replacing = (flush: boolean): CrashFilesTest<string, string> => ({
  before: (root) => fs.writeFileSync(`${root}/a<b>&"`, 'old'),
  workload(root) {
    fs.writeFileSync(`${root}/t`, Buffer.from('new'), { flush });
    fs.renameSync(`${root}/t`, `${root}/a<b>&"`);
  },
  recover: (root) => fs.readFileSync(`${root}/a<b>&"`, 'utf8'),
  check: (text) => text === 'old' || text === 'new',
});

test('a picture has the files, the operations with their fates, the cut, and what would have helped', async () => {
  const report = await crashFiles(replacing(false));
  const svg = filesPicture(report);
  parseXml(svg);
  expect(svg).toContain('/t, then /a&lt;b&gt;&amp;&quot;');
  expect(svg).toMatch(/class="lost"><title>#1 write \/t 0\.\.3: lost/);
  expect(svg).toMatch(/class="there"><title>#2 rename .*: is there/);
  expect(svg).toContain('the power is cut');
  expect(svg).toContain('This would prevent it: fsync /t after #1');
});

test('a report without a power cut has the picture of its trace', async () => {
  const svg = filesPicture(await crashFiles(replacing(true)));
  parseXml(svg);
  expect(svg).toMatch(/class="flush"><title>#2 fsync \/t/);
  expect(svg).not.toContain('the power is cut');
  const idle = await crashFiles({ ...replacing(true), workload: () => undefined });
  parseXml(filesPicture(idle));
});

test('a long trace has a picture of a screen, and what is lost is in it', async () => {
  const many = await crashFiles({
    ...replacing(false),
    workload(root) {
      const { workload } = replacing(false);
      void workload(root, { begin: () => undefined, acknowledge: () => undefined }, [], {
        number: 1,
      });
      for (let n = 0; n < 100; n += 1) fs.mkdirSync(`${root}/${n}`);
    },
    recover(root) {
      // Only after all of them.
      if (!fs.existsSync(`${root}/99`)) return 'old';
      return replacing(false).recover(root);
    },
  });
  expect(many.verdict).toBe('failed');
  const svg = filesPicture(many);
  parseXml(svg);
  expect(svg).toMatch(/class="lost"><title>#1 write/);
  expect(svg).toMatch(/not shown: \d+ operations before/);
});

test('a recovery may be a command, whose crash is an error and whose output is what was recovered', async () => {
  const native = { ...replacing(true), wholeTree: true };
  const reading = byCommand('cat', 'a<b>&"');
  const { verdict, warnings } = await crashFiles({ ...native, recover: reading });
  expect([verdict, warnings]).toEqual(['proved', []]);
  const dying = byCommand('sh', '-c', 'echo not good >&2; kill -SEGV $$');
  const { failure } = await crashFiles({ ...native, recover: dying });
  expect(failure?.message).toBe('sh ended with SIGSEGV: not good');
  const missing = await crashFiles({ ...native, recover: byCommand('there-is-no-such-program') });
  expect(missing.failure?.message).toMatch(/there-is-no-such-program: .*ENOENT/);
});
