// Draws the pictures of the pages anew: docs/pictures/*.svg.
//
//   node scripts/pictures.mjs
//
// What draws them is the test that compares them (test/docs/pictures.test.ts), so that there is one list of pictures, and the
// sources are read as the tests read them, without a build.

import { execFileSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';

const run = ['vitest', 'run', '--project', 'unit', 'test/docs/pictures.test.ts', '--update'];
execFileSync('npx', run, { cwd: fileURLToPath(new URL('..', import.meta.url)), stdio: 'inherit' });
