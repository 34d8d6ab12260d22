import type { RegionMap } from '../regions.js';
import { doubtsAt } from './doubt.js';
import type { Strategy, Target } from './strategy.js';

/** A cut at every moment: everything dispatched up to it, and nothing else. */
export function inOrder(map: RegionMap, moments: readonly number[]): Strategy {
  function* targets(): Generator<Target, void> {
    for (const { newest } of doubtsAt(map, moments)) yield newest;
  }
  return { order: 'in order', targets: targets() };
}
