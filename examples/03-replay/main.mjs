// @ts-check
import { fileURLToPath } from 'node:url';
import { command } from '../command.mjs';

// The words of the example may name another trace, as an operand.
const isOption = (/** @type {string | undefined} */ word) =>
  word === undefined || word.startsWith('-');
const own = fileURLToPath(new URL('ext4-ordered', import.meta.url));
await command('replay', ...(isOption(process.argv[2]) ? [own] : []));
