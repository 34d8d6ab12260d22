// @ts-check
// The command of the package, as `npx write-barrier` runs it, for examples that show a subcommand.

/**
 * Runs a subcommand with the words that the example was given.
 *
 * @param {string[]} words before those of the example
 */
export async function command(...words) {
  process.argv.splice(2, 0, ...words);
  await import(new URL('../dist/cli.js', import.meta.url).href);
}
