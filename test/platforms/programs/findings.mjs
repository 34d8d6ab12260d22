// What a platform can do, as data: each feature 'works', or the error that says why it does not.

/**
 * @param {Readonly<Record<string, () => unknown>>} features each throws where it does not work
 * @returns {Promise<Record<string, string>>}
 */
export async function findings(features) {
  const found = /** @type {Record<string, string>} */ ({});
  for (const [name, use] of Object.entries(features)) {
    try {
      await use();
      found[name] = 'works';
    } catch (error) {
      found[name] = String(error instanceof Error ? (error.stack ?? error) : error);
    }
  }
  return found;
}

/** @param {unknown} found @param {unknown} expected @param {string} what */
export function same(found, expected, what) {
  const [one, other] = [JSON.stringify(found), JSON.stringify(expected)];
  if (one !== other) throw new Error(`${what}: found ${one} instead of ${other}`);
}
