import { describe } from 'vitest';
import { exploreAll } from './exploration.js';

describe.each([
  ['NONE', 'volatile'],
  ['TAG', 'stable'],
  ['TAG_FLUSH', 'volatile'],
  ['TAG_FUA', 'volatile'],
] as const)('given %s on a %s device, every run keeps the rules with', exploreAll);
