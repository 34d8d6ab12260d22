import { describe, expect, test } from 'vitest';
import { type Capabilities, MemoryStorage, type WriteFlags } from '../../src/index.js';
import { codeThrown, storageContract } from './contract.js';

const PLAIN: WriteFlags = { fua: false, tag: 'simple' };
const EVERYTHING: Capabilities = {
  blockSize: 512,
  cache: 'none',
  flush: true,
  fua: true,
  orderedTags: true,
  writev: true,
  discard: true,
  writeZeroes: true,
  fastZeroes: false,
  slowFua: false,
  gathers: false,
  blockStatus: true,
  resize: true,
};
const LEAST: Capabilities = {
  blockSize: 1,
  cache: 'volatile',
  flush: false,
  fua: false,
  orderedTags: false,
  writev: false,
  discard: false,
  writeZeroes: false,
  blockStatus: false,
  resize: false,
};

const DEFAULT: Capabilities = { ...EVERYTHING, cache: 'volatile', orderedTags: false };

for (const [name, capabilities] of Object.entries({ EVERYTHING, LEAST, DEFAULT })) {
  storageContract(`MemoryStorage, able to do ${name},`, capabilities, () => {
    let storage = new MemoryStorage(32 * capabilities.blockSize, { capabilities });
    const reopen = (): MemoryStorage => {
      storage = new MemoryStorage(storage.bytes, { capabilities });
      return storage;
    };
    return { storage, reopen };
  });
}

describe('a MemoryStorage', () => {
  test('is what a file is, by default: a volatile cache with flush and FUA, and no ordered tags', () => {
    expect(new MemoryStorage(512).capabilities).toEqual(DEFAULT);
  });

  test('refuses an option or a capability that is not known', () => {
    expect(() => new MemoryStorage(512, { capability: {} } as never)).toThrow(
      "MemoryStorage has no option 'capability'; did you mean 'capabilities'?",
    );
    const capabilities = { cach: 'none' } as never;
    expect(() => new MemoryStorage(512, { capabilities })).toThrow("did you mean 'cache'?");
  });

  test('states another device where single capabilities are replaced', () => {
    const { capabilities } = new MemoryStorage(8192, {
      capabilities: { blockSize: 4096, cache: 'volatile', fua: false },
    });
    expect(capabilities).toEqual({ ...DEFAULT, blockSize: 4096, cache: 'volatile', fua: false });
    expect(Object.isFrozen(capabilities)).toBe(true);
  });

  test('answers at once: nothing that it answers is a promise', () => {
    const storage = new MemoryStorage(1024);
    const answers = [
      storage.write(0, new Uint8Array(512), PLAIN),
      storage.writev?.(0, [new Uint8Array(512)], PLAIN),
      storage.read(0, new Uint8Array(512)),
      storage.flush({ tag: 'simple' }),
      storage.discard?.(0, 512),
      storage.writeZeroes?.(0, 512),
      storage.close(),
    ];
    expect(answers).toEqual(answers.map(() => undefined));
  });

  test('shows its bytes, live, and after close', () => {
    const storage = new MemoryStorage(1024);
    const { bytes } = storage;
    storage.write(512, new Uint8Array(512).fill(7), PLAIN);
    storage.close();
    expect([bytes[511], bytes[512], bytes[1023]]).toEqual([0, 7, 7]);
  });

  test('uses bytes that it is given in place', () => {
    const bytes = new Uint8Array(1024).fill(3);
    const storage = new MemoryStorage(bytes);
    expect(storage.size).toBe(1024);
    storage.write(0, new Uint8Array(512).fill(4), PLAIN);
    expect(bytes[0]).toBe(4);
  });

  test('fills what is discarded with a value that nobody takes for zero', () => {
    const storage = new MemoryStorage(1024);
    storage.discard?.(512, 512);
    expect(storage.bytes[511]).toBe(0);
    expect(new Set(storage.bytes.subarray(512))).toEqual(new Set([MemoryStorage.DISCARDED]));
  });

  test('refuses what it does not declare, and has then done nothing', async () => {
    const storage = new MemoryStorage(512, { capabilities: LEAST });
    const one = new Uint8Array(512).fill(1);
    const forced: WriteFlags = { fua: true, tag: 'simple' };
    const ordered: WriteFlags = { fua: false, tag: 'ordered' };
    expect(await codeThrown(() => storage.write(0, one, forced))).toBe('EOPNOTSUPP');
    expect(await codeThrown(() => storage.write(0, one, ordered))).toBe('EOPNOTSUPP');
    expect(await codeThrown(() => storage.flush({ tag: 'simple' }))).toBe('EOPNOTSUPP');
    expect(storage.bytes).toEqual(new Uint8Array(512));
    for (const name of ['writev', 'discard', 'writeZeroes']) expect(name in storage).toBe(false);
  });

  test.each([-512, 0.5, 100, Number.NaN, Number.POSITIVE_INFINITY, 2 ** 53, 2 ** 60])(
    'cannot have a size of %d bytes',
    async (size) => {
      expect(await codeThrown(() => new MemoryStorage(size))).toBe('INVALID_STORAGE');
    },
  );

  test.each<[string, object]>([
    ['blocks of no bytes', { blockSize: 0 }],
    ['half a byte to a block', { blockSize: 0.5 }],
    ['blocks that do not divide its size', { blockSize: 768 }],
    ['an unknown kind of cache', { cache: 'cold' }],
    ['a flag that is no boolean', { fua: 1 }],
    ['a method declared in words', { writev: 'yes' }],
  ])('cannot have %s', async (_, capabilities) => {
    expect(await codeThrown(() => new MemoryStorage(1024, { capabilities }))).toBe(
      'INVALID_STORAGE',
    );
  });

  test('may have a size of 0 bytes, and any size later', () => {
    for (const storage of [new MemoryStorage(0), new MemoryStorage(new Uint8Array(0))]) {
      expect(storage.size).toBe(0);
      storage.resize?.(1024);
      expect(storage.bytes).toEqual(new Uint8Array(1024));
    }
  });

  test('uses the bytes that it was given as long as it does not grow', () => {
    const medium = new Uint8Array(1024).fill(1);
    const storage = new MemoryStorage(medium);
    storage.resize?.(512);
    storage.write(0, new Uint8Array(512).fill(2), PLAIN);
    expect(medium[511]).toBe(2);
    storage.resize?.(1024);
    storage.write(512, new Uint8Array(512).fill(3), PLAIN);
    expect(medium[1023]).toBe(1);
    expect(storage.bytes.buffer).not.toBe(medium.buffer);
  });

  test('given no memory for a size, then it keeps the one that it has', async () => {
    const storage = new MemoryStorage(512);
    expect(await codeThrown(() => storage.resize?.(2 ** 52))).toBe('NO_SPACE');
    expect(storage.size).toBe(512);
  });

  test('cannot be made from anything but a size or bytes', async () => {
    for (const medium of ['512', null, [0], new Uint16Array(512)]) {
      const make = (): unknown => Reflect.construct(MemoryStorage, [medium]);
      expect(await codeThrown(make)).toBe('INVALID_STORAGE');
    }
  });
});
