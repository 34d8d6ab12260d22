import { describe } from 'vitest';
import { exploreAll } from './exploration.js';

describe.each([
  ['DRAIN', 'stable'],
  ['DRAIN_FLUSH', 'volatile'],
  ['DRAIN_FUA', 'volatile'],
  ['DRAIN_FUA', 'volatile without FUA'],
  ['DRAIN_FUA', 'gathering'],
] as const)('given %s on a %s device, every run keeps the rules with', exploreAll);
