// A part of a storage keeps the contract, and touches nothing outside of itself.

import { describe, expect, test } from 'vitest';
import { MemoryStorage } from '../../src/index.js';
import { slice } from '../../src/kit.js';
import { storageContract } from './contract.js';

const SECTOR = 512;
const sector = (fill: number): Uint8Array => new Uint8Array(SECTOR).fill(fill);
const can = {
  blockSize: SECTOR,
  cache: 'volatile',
  flush: true,
  fua: true,
  orderedTags: true,
} as const;

storageContract('a slice', can, () => {
  const whole = new MemoryStorage(48 * SECTOR, { capabilities: can });
  const part = (of: MemoryStorage) => slice(of, 8 * SECTOR, 32 * SECTOR);
  return {
    storage: part(whole),
    reopen: () => part(new MemoryStorage(whole.bytes, { capabilities: can })),
  };
});

describe('a slice of a storage', () => {
  test('is the bytes that it was given, and no others', async () => {
    const whole = new MemoryStorage(8 * SECTOR);
    const part = slice(whole, 2 * SECTOR, 4 * SECTOR);
    part.write(SECTOR, sector(7), { fua: false, tag: 'simple' });
    expect(whole.bytes.indexOf(7)).toBe(3 * SECTOR);
    const into = new Uint8Array(SECTOR);
    part.read(SECTOR, into);
    expect(into[0]).toBe(7);
    for (const at of [-SECTOR, 4 * SECTOR]) {
      expect(() => part.read(at, into)).toThrow('not inside');
      expect(() => part.write(at, into, { fua: false, tag: 'simple' })).toThrow('not inside');
    }
    await part.close();
    expect(() => whole.flush({ tag: 'simple' })).not.toThrow();
  });

  test('of bytes that are not there, or of no whole blocks, is refused before anybody uses it', () => {
    const whole = new MemoryStorage(8 * SECTOR);
    for (const [offset, size] of [
      [-SECTOR, SECTOR],
      [7 * SECTOR, 2 * SECTOR],
      [0, Number.NaN],
    ] as const) {
      expect(() => slice(whole, offset, size)).toThrow('not inside');
    }
    expect(() => slice(whole, SECTOR, SECTOR / 2)).toThrow('not whole blocks');
  });

  test('has what every scheduler needs and nothing that it would not pass on', () => {
    const { writev, discard, capabilities } = slice(new MemoryStorage(SECTOR), 0, SECTOR);
    expect([writev, discard, capabilities.writev]).toEqual([undefined, undefined, undefined]);
  });
});
