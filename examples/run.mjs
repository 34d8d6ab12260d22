// @ts-check
// Runs an example: `node examples/run.mjs replay`. Without a name it lists them.

import { readdirSync, readFileSync } from 'node:fs';

const names = readdirSync(new URL('.', import.meta.url))
  .filter((name) => /^\d\d-/.test(name))
  .sort();
const [wanted, ...rest] = process.argv.slice(2);

if (wanted === undefined) {
  console.log('Run one of these with: npm run example -- NAME\n');
  for (const name of names) console.log(`  ${name.padEnd(20)}  ${summaryOf(name)}`);
} else {
  const exact = names.filter((name) => name === wanted || name.slice(3) === wanted);
  const found = exact.length > 0 ? exact : names.filter((name) => matches(name, wanted));
  const [name] = found;
  if (name === undefined || found.length > 1) {
    const which = found.length > 1 ? `more than one example: ${found.join(', ')}` : 'no example';
    console.error(`'${wanted}' names ${which}; there are ${names.join(', ')}`);
    process.exitCode = 1;
  } else {
    await run(name, rest);
  }
}

/**
 * @param {string} name
 * @param {string} part its beginning, with or without the number, or its end
 */
function matches(name, part) {
  return name.startsWith(part) || name.slice(3).startsWith(part) || name.endsWith(part);
}

/** @param {string} name */
function summaryOf(name) {
  const readme = readFileSync(new URL(`${name}/README.md`, import.meta.url), 'utf8');
  return readme.split('\n')[2];
}

/**
 * @param {string} name
 * @param {string[]} args
 */
async function run(name, args) {
  const main = new URL(`${name}/main.mjs`, import.meta.url);
  process.argv.splice(1, process.argv.length, main.pathname, ...args);
  try {
    await import(main.href);
  } catch (error) {
    const missing = error instanceof Error && 'code' in error && error.code;
    if (missing !== 'ERR_MODULE_NOT_FOUND' || !String(error).includes('dist')) throw error;
    console.error('The examples use the built package: run `npm run build` first.');
    process.exitCode = 1;
  }
}
