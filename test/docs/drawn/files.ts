// A file that is replaced without an fsync, as on the page about crash tests of files.

import { readFileSync, writeFileSync } from 'node:fs';
import { rename, writeFile } from 'node:fs/promises';
import { crashFiles, filesPicture } from 'write-barrier/testing/files';

async function replace(path: string, text: string): Promise<void> {
  await writeFile(`${path}.tmp`, text);
  await rename(`${path}.tmp`, path);
}

export async function files(): Promise<string> {
  const report = await crashFiles({
    before: (root) => writeFileSync(`${root}/settings`, '{"theme":"light"}'),
    workload: (root) => replace(`${root}/settings`, '{"theme":"dark"}'),
    recover: (root) => JSON.parse(readFileSync(`${root}/settings`, 'utf8')).theme as string,
    check: (theme) => ['light', 'dark'].includes(theme),
  });
  return filesPicture(report);
}
