// @ts-check
// Saves a setting: readers see the old file or the new one. Also after a power cut?

import { renameSync, writeFileSync } from 'node:fs';

const [, , folder, flush] = process.argv;
writeFileSync(`${folder}/settings.tmp`, '{"theme":"dark"}\n', { flush: flush !== undefined });
renameSync(`${folder}/settings.tmp`, `${folder}/settings`);
