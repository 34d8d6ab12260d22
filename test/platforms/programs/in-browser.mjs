// What a page and a worker run.

import { CORE } from './core.mjs';
import { findings } from './findings.mjs';

/** The doors that need Node: their import fails, and the error says why. */
const DOORS = {
  node: () => import('write-barrier/node'),
  nbd: () => import('write-barrier/nbd'),
};

export const found = await findings({ ...CORE, ...DOORS });
