// Goal: the pictures on the pages are what the code draws today. Method: draw them and compare with the files.
// `node scripts/pictures.mjs` writes the files anew.

import { join } from 'node:path';
import { expect, test } from 'vitest';
import { crashPicture } from 'write-barrier/testing';
import { barrierCosts, modeChoice } from './drawn/barriers.js';
import { cost } from './drawn/cost.js';
import { logReport } from './drawn/crash.js';
import { files } from './drawn/files.js';
import { hero } from './drawn/hero.js';
import { lives } from './drawn/lives.js';
import { modes } from './drawn/modes.js';
import { neighbours } from './drawn/neighbours.js';
import { levels, regions, span, units } from './drawn/space.js';
import { ROOT } from './pages.js';

const PICTURES: Readonly<Record<string, () => Promise<string>>> = {
  'barrier-costs': async () => barrierCosts(),
  cost: async () => cost(),
  crash: async () => crashPicture(await logReport()),
  files,
  hero,
  levels,
  lives,
  'mode-choice': async () => modeChoice(),
  modes,
  neighbours: async () => neighbours(),
  regions,
  span,
  units,
};

test.each(Object.keys(PICTURES))('docs/pictures/%s.svg is what is drawn today', async (name) => {
  const drawn = await PICTURES[name]?.();
  await expect(drawn).toMatchFileSnapshot(join(ROOT, `docs/pictures/${name}.svg`));
});
