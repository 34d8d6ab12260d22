// A member of a group keeps the clauses of the contract, alone and beside others, over a storage of any kind.

import { describe } from 'vitest';
import { MemoryStorage, SchedulerGroup } from 'write-barrier';
import { storageContract } from './contract.js';

const CACHED = new MemoryStorage(512).capabilities;

describe('a member of a group', () => {
  for (const [kind, capabilities] of [
    ['with a cache', CACHED],
    ['with ordered tags', { ...CACHED, orderedTags: true }],
    ['without a cache', { ...CACHED, cache: 'none' as const, fastZeroes: true }],
    [
      'that can do little',
      { ...CACHED, fua: false, writev: false, discard: false, writeZeroes: false },
    ],
  ] as const) {
    storageContract(`a member over a storage ${kind},`, capabilities, () => {
      const storage = new MemoryStorage(64 * 512, { capabilities });
      const group = new SchedulerGroup(storage);
      group.member();
      return { storage: group.member() };
    });
  }
});
