import { randomAt, seededRandom } from '../../choices.js';
import { newestUntil, possibleAt, type RegionMap, regionOf } from '../regions.js';
import type { Guide, Strategy, Target } from './strategy.js';

/** Each choice of the recovery by chance. */
export function randomChoices(): Guide {
  const random = seededRandom(1);
  return {
    order: 'random choices',
    choose: (_, { length }) => Math.floor(random() * length),
  };
}

/** Some chance of loss for every place in doubt at a moment. */
export function randomMoments(map: RegionMap, moments: readonly number[]): Strategy {
  const random = seededRandom(2);
  function* targets(): Generator<Target, void> {
    for (;;) {
      const time = moments[Math.floor(random() * moments.length)] ?? Number.NEGATIVE_INFINITY;
      const loss = random();
      const seed = Math.floor(random() * 2 ** 32);
      yield (place) => {
        const region = regionOf(map, place);
        const versions = possibleAt(region, time);
        if (randomAt(seed, 2 * place) >= loss) return newestUntil(region, time, true);
        return versions[Math.floor(randomAt(seed, 2 * place + 1) * versions.length)] as number;
      };
    }
  }
  return { order: 'random moment', targets: targets() };
}
