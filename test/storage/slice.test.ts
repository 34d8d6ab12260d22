// A part of a storage keeps the contract, and touches nothing outside of itself.

import { describe, expect, test } from 'vitest';
import {
  FlushFailedError,
  IoScheduler,
  MemoryStorage,
  WriteBarrierError,
} from '../../src/index.js';
import { slice } from '../../src/kit.js';
import { errorThrown, storageContract } from './contract.js';

const SECTOR = 512;
const sector = (fill: number): Uint8Array => new Uint8Array(SECTOR).fill(fill);
const can = {
  blockSize: SECTOR,
  cache: 'volatile',
  flush: true,
  fua: true,
  orderedTags: true,
  writev: true,
  discard: true,
  writeZeroes: true,
  blockStatus: true,
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

  test('has the optional methods of the whole, and no others', () => {
    const names = ['writev', 'discard', 'writeZeroes', 'blockStatus'] as const;
    const none = { writev: false, discard: false, writeZeroes: false, blockStatus: false };
    for (const capabilities of [{}, none]) {
      const whole = new MemoryStorage(SECTOR, { capabilities });
      const part = slice(whole, 0, SECTOR);
      expect(part.capabilities).toEqual({ ...whole.capabilities, resize: false });
      for (const name of names) expect(name in part).toBe(whole.capabilities[name]);
    }
  });

  test('discards, zeroes and gives the status of its own bytes', async () => {
    const whole = new MemoryStorage(8 * SECTOR);
    whole.bytes.fill(1);
    const part = slice(whole, 2 * SECTOR, 4 * SECTOR);
    await part.writeZeroes?.(SECTOR, SECTOR);
    await part.discard?.(2 * SECTOR, SECTOR);
    const first = Array.from({ length: 8 }, (_, at) => whole.bytes[at * SECTOR]);
    expect(first).toEqual([1, 1, 1, 0, MemoryStorage.DISCARDED, 1, 1, 1]);
    expect(await part.blockStatus?.(SECTOR, 3 * SECTOR)).toEqual([
      { length: SECTOR, hole: true, zero: true },
    ]);
    expect(await part.blockStatus?.(0, SECTOR)).toEqual([
      { length: SECTOR, hole: false, zero: false },
    ]);
    for (const name of ['discard', 'writeZeroes', 'blockStatus'] as const) {
      expect(() => part[name]?.(3 * SECTOR, 2 * SECTOR)).toThrow('not inside');
    }
  });

  test('tells which of its own bytes are at risk, in its own offsets', async () => {
    const ranges = [
      { start: 0, end: 3 * SECTOR },
      { start: 4 * SECTOR, end: 5 * SECTOR },
      { start: 7 * SECTOR, end: 8 * SECTOR },
    ];
    const failure = new FlushFailedError(ranges, new Error('EIO'));
    for (const fail of [
      () => Promise.reject(failure),
      () => {
        throw failure;
      },
    ]) {
      const whole = Object.assign(new MemoryStorage(8 * SECTOR), { flush: fail });
      const part = slice(whole, 2 * SECTOR, 4 * SECTOR);
      const error = await errorThrown(() => part.flush({ tag: 'simple' }));
      expect(error).toBeInstanceOf(FlushFailedError);
      expect(WriteBarrierError.is(error)).toBe(true);
      expect(error).toMatchObject({ code: 'FLUSH_FAILED', cause: failure });
      expect((error as FlushFailedError).atRisk).toEqual([
        { start: 0, end: SECTOR },
        { start: 2 * SECTOR, end: 3 * SECTOR },
      ]);
      const other = slice(whole, 0, SECTOR);
      const scheduler = new IoScheduler(other);
      await scheduler.write(0, sector(1));
      await expect(scheduler.flush()).rejects.toThrow('flush failed');
      expect(scheduler.atRisk).toEqual([{ start: 0, end: SECTOR }]);
    }
    expect(failure.atRisk).toEqual(ranges);
  });

  test('passes on an error that names no bytes as it is', async () => {
    const failure = new Error('odd');
    const whole = Object.assign(new MemoryStorage(SECTOR), {
      flush: () => Promise.reject(failure),
    });
    const error = await errorThrown(() => slice(whole, 0, SECTOR).flush({ tag: 'simple' }));
    expect(error).toBe(failure);
  });
});
