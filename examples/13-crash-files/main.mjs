// @ts-check
import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { command } from '../command.mjs';

const path = (/** @type {string} */ name) => fileURLToPath(new URL(name, import.meta.url));

if (process.argv.length > 2) await command('crash-files');
else {
  const check = ['--from', path('before'), '--check', 'grep -q theme {}/settings'];
  const save = ['--', 'node', path('save.mjs'), '{}'];
  const cli = path('../../dist/cli.js');
  const words = [cli, 'crash-files', ...check, ...save];
  spawnSync(process.execPath, words, { stdio: 'inherit' });
  console.log('\nThe same, with an fsync:\n');
  await command('crash-files', ...check, ...save, 'flush');
}
