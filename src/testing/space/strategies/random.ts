import { type Random, randomAt, seededRandom } from '../../choices.js';
import type { PlaceMap } from '../places.js';
import { type Doubt, doubtsAt, type Guide, type Target } from './strategy.js';

/** Each choice of the recovery by chance. */
export function randomChoices(): Guide {
  const random = seededRandom(1);
  return {
    order: 'random choices',
    choose: (_, { length }) => Math.floor(random() * length),
  };
}

/** Some chance of loss for every place in doubt at a moment. */
export function* randomMoments(map: PlaceMap, moments: readonly number[]): Generator<Target, void> {
  const random = seededRandom(2);
  for (;;) {
    const time = moments[Math.floor(random() * moments.length)] ?? Number.NEGATIVE_INFINITY;
    for (const doubt of doubtsAt(map, time)) yield byChance(doubt, random);
  }
}

/** Each place loses its newest content with a chance that is drawn for all of them. */
export function byChance({ newest, versions }: Doubt, random: Random): Target {
  const loss = random();
  const seed = Math.floor(random() * 2 ** 32);
  return (place) => {
    if (randomAt(seed, 2 * place) >= loss) return newest(place);
    const all = versions(place);
    return all[Math.floor(randomAt(seed, 2 * place + 1) * all.length)] as number;
  };
}
