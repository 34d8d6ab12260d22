// A storage at the other end of a message port: the same contract on both sides, and ends in which nothing waits for ever.

import { inspect } from 'node:util';
import { describe, expect, test } from 'vitest';
import {
  IoFailedError,
  IoScheduler,
  MemoryStorage,
  type MemoryStorageOptions,
  type Storage,
  WriteBarrierError,
  withFaults,
} from 'write-barrier';
import { type Port, PortStorage, serveStorage } from 'write-barrier/opfs';
import { storageContract, VolatileDisk } from 'write-barrier/testing';

const SIZE = 64 * 512;
const PLAIN = { fua: false, tag: 'simple' } as const;
const bytes = (value: number): Uint8Array => new Uint8Array(512).fill(value);

interface Pair {
  readonly far: PortStorage;
  /** The port of the worker. */
  readonly near: MessagePort;
}

async function served(storage: Storage | Promise<Storage>): Promise<Pair> {
  const { port1, port2 } = new MessageChannel();
  serveStorage(storage, port1 as Port);
  return { far: await PortStorage.open(port2 as Port), near: port1 };
}

const ended = async (work: Promise<unknown>): Promise<string> =>
  work.then(
    () => 'works',
    ({ code }) => code,
  );

const EVERYTHING: MemoryStorageOptions = {
  capabilities: { orderedTags: true, fastZeroes: true },
};

describe('with every capability', () => {
  storageContract(
    { describe, test },
    {
      name: 'PortStorage',
      capabilities: new MemoryStorage(512, EVERYTHING).capabilities,
      open: async () => {
        let memory = new MemoryStorage(SIZE, EVERYTHING);
        const { far } = await served(memory);
        const reopen = async (): Promise<PortStorage> => {
          memory = new MemoryStorage(memory.bytes, EVERYTHING);
          return (await served(memory)).far;
        };
        return { storage: far, reopen };
      },
      runs: 5,
    },
  );
});

describe('with few capabilities', () => {
  const { capabilities } = new VolatileDisk({ size: SIZE });
  storageContract(
    { describe, test },
    {
      name: 'PortStorage over a VolatileDisk',
      capabilities,
      open: async () => {
        let disk = new VolatileDisk({ size: SIZE });
        const { far } = await served(disk);
        const reopen = async (): Promise<PortStorage> => {
          const initial = disk.powerCut();
          disk = new VolatileDisk({ size: initial.length, initial });
          return (await served(disk)).far;
        };
        return { storage: far, reopen };
      },
      runs: 5,
    },
  );
});

describe('a storage behind a port', () => {
  test('has the size, the capabilities and the methods of the storage', async () => {
    const memory = new MemoryStorage(SIZE, { capabilities: { discard: false, writev: false } });
    const { far } = await served(memory);
    expect(far.size).toBe(SIZE);
    expect(far.capabilities).toEqual(memory.capabilities);
    expect([far.writev, far.discard]).toEqual([undefined, undefined]);
    expect(inspect(far)).toMatch(/^PortStorage \{ 32768 bytes in blocks of 512/);
    await far.close();
    expect(inspect(far)).toContain(', closed');
  });

  test('given a resize that fails, then the size is that of the storage, whichever it is', async () => {
    const memory = new MemoryStorage(SIZE);
    const half: Storage = {
      get size() {
        return memory.size;
      },
      capabilities: memory.capabilities,
      read: (offset, into) => memory.read(offset, into),
      write: (offset, data, flags) => memory.write(offset, data, flags),
      flush: (flags) => memory.flush(flags),
      close: () => memory.close(),
      resize: (size) => {
        if (size > SIZE) memory.resize?.(size);
        throw new Error('no');
      },
    };
    const { far } = await served(half);
    expect(await ended(Promise.resolve(far.resize?.(512)))).toBe('IO_FAILED');
    expect(far.size).toBe(SIZE);
    expect(await ended(Promise.resolve(far.resize?.(2 * SIZE)))).toBe('IO_FAILED');
    expect(far.size).toBe(2 * SIZE);
  });

  test('carries a scheduler, and a buffer may change when its write is answered', async () => {
    const memory = new MemoryStorage(SIZE);
    const disk = new IoScheduler((await served(memory)).far);
    const data = bytes(1);
    await disk.write(512, data, { barrier: true });
    expect(data).toEqual(bytes(1));
    data.fill(9);
    await disk.write(1024, [bytes(2), bytes(3)]);
    await disk.flush();
    expect(await disk.read(512, 1536)).toEqual(
      new Uint8Array(Buffer.concat([bytes(1), bytes(2), bytes(3)])),
    );
    await disk.close();
    expect(() => memory.read(0, bytes(0))).toThrow('closed');
  });

  test('keeps the code, the message and the cause of an error', async () => {
    const cause = new Error('the disk is gone');
    const faulty: Storage = {
      size: SIZE,
      capabilities: new MemoryStorage(SIZE, { capabilities: { writev: false } }).capabilities,
      read: () => Promise.reject(new IoFailedError('reading failed', { cause })),
      write: () => {
        throw new TypeError('a defect');
      },
      flush: () => {},
      discard: () => {},
      writeZeroes: () => {},
      close: () => {},
    };
    const { far } = await served(faulty);
    await expect(far.read(0, bytes(0))).rejects.toMatchObject({
      code: 'IO_FAILED',
      message: 'reading failed',
      cause: { message: 'the disk is gone' },
    });
    await expect(far.write(0, bytes(0), PLAIN)).rejects.toMatchObject({ message: 'a defect' });
  });

  test('answers with an error where the storage answers with what no message can hold', async () => {
    const odd: Storage = {
      size: SIZE,
      capabilities: { blockSize: 512, cache: 'none', flush: true, fua: true, orderedTags: false },
      read: () => (() => {}) as never,
      write: () => Symbol('odd') as never,
      flush: () => {},
      close: () => (() => {}) as never,
    };
    const { far } = await served(odd);
    expect(await ended(far.write(0, bytes(0), PLAIN))).toBe('IO_FAILED');
    await far.flush({ tag: 'simple' });
    expect(await ended(far.close())).toBe('IO_FAILED');
  });

  test('refuses data that is no Uint8Array, and changes nothing', async () => {
    const memory = new MemoryStorage(SIZE);
    const { far } = await served(memory);
    for (const wrong of ['text', new Float64Array(512), undefined] as never[]) {
      expect(await ended(far.write(0, wrong, PLAIN))).toBe('INVALID_ARGUMENT');
      expect(await ended(far.read(0, wrong))).toBe('INVALID_ARGUMENT');
    }
    expect(memory.bytes.every((byte) => byte === 0)).toBe(true);
    await far.close();
  });

  test('tells which bytes a failed flush puts at risk', async () => {
    const memory = withFaults(new MemoryStorage(SIZE), [{ on: 'flush', nth: 0, fault: 'fail' }]);
    const disk = new IoScheduler(memory);
    const { far } = await served({
      size: SIZE,
      capabilities: {
        blockSize: 512,
        cache: 'volatile',
        flush: true,
        fua: false,
        orderedTags: false,
      },
      read: () => {},
      write: async (offset, data) => {
        await disk.write(offset, data);
      },
      flush: () => disk.flush(),
      close: () => {},
    });
    await far.write(512, bytes(1), PLAIN);
    await expect(far.flush({ tag: 'simple' })).rejects.toMatchObject({
      code: 'FLUSH_FAILED',
      atRisk: [{ start: 512, end: 1024 }],
    });
  });

  test('refuses what is outside of it or not aligned without asking', async () => {
    const { far } = await served(new MemoryStorage(SIZE));
    expect(await ended(far.read(1, bytes(0)))).toBe('UNALIGNED');
    expect(await ended(far.write(SIZE, bytes(0), PLAIN))).toBe('OUT_OF_RANGE');
  });

  test('serves one port at a time', async () => {
    const memory = new MemoryStorage(SIZE);
    const { near } = await served(memory);
    expect(await ended(served(memory))).toBe('STORAGE_IN_USE');
    const gone = new Promise((resolve) => near.addEventListener('close', resolve));
    near.close();
    await gone;
    expect((await served(memory)).far.size).toBe(SIZE);
  });

  // In some browsers a port never tells that its other end is gone, as this one does not.
  test('may be served again without the event of a closed port, when nothing is under way', async () => {
    let answer = (): void => {};
    const slow = withFaults(new MemoryStorage(SIZE), []);
    const storage: Storage = Object.assign(Object.create(slow), {
      flush: () => new Promise<void>((resolve) => (answer = resolve)),
    });
    const { port1, port2 } = new MessageChannel();
    const silent: Port = {
      postMessage: (message, transfer) => port1.postMessage(message, transfer),
      addEventListener: (type, listener) => {
        if (type === 'message') port1.addEventListener(type, listener as EventListener);
      },
      start: () => port1.start(),
      close: () => port1.close(),
    };
    const stop = serveStorage(storage, silent);
    const far = await PortStorage.open(port2 as Port);
    const flushing = ended(far.flush({ tag: 'simple' }));
    await far.read(0, bytes(0)); // the flush has arrived before it
    const stopped = stop();
    expect(await flushing).toBe('CONNECTION_LOST');
    expect(await ended(served(storage))).toBe('STORAGE_IN_USE');
    answer();
    await stopped;
    const again = await served(storage);
    expect(again.far.size).toBe(SIZE);
    await stop(); // of no use any more, and it takes nothing from the port that serves now
    expect(await ended(served(storage))).toBe('STORAGE_IN_USE');
  });

  test('is not served by a port that was closed before it was open', async () => {
    const memory = new MemoryStorage(SIZE);
    const { port1, port2 } = new MessageChannel();
    let open = (_: Storage): void => {};
    const stop = serveStorage(new Promise<Storage>((resolve) => (open = resolve)), port1 as Port);
    const opening = ended(PortStorage.open(port2 as Port));
    await stop();
    open(memory);
    expect(await opening).toBe('CONNECTION_LOST');
    expect((await served(memory)).far.size).toBe(SIZE);
  });

  test('may be opened while the other end waits, and its failure is that of the opening', async () => {
    const later = new Promise<Storage>((resolve) => setTimeout(resolve, 5, new MemoryStorage(512)));
    expect((await served(later)).far.size).toBe(512);
    const refused = Promise.reject(new WriteBarrierError('STORAGE_LOCKED', 'another tab has it'));
    await expect(served(refused)).rejects.toMatchObject({
      code: 'STORAGE_LOCKED',
      message: 'another tab has it',
    });
  });
});

describe('the end of a port', () => {
  test('rejects what waits with CONNECTION_LOST, and what comes later', async () => {
    const never = new Promise<void>(() => {});
    const memory = new MemoryStorage(SIZE);
    const { far, near } = await served({
      ...{ size: SIZE, capabilities: { ...memory.capabilities, writev: false, discard: false } },
      read: () => never,
      write: () => never,
      flush: () => never,
      writeZeroes: () => never,
      close: () => {},
    });
    const waiting = [ended(far.read(0, bytes(0))), ended(far.write(0, bytes(1), PLAIN))];
    const opening = ended(
      served(memory).then(({ far: other, near: end }) => {
        end.close();
        return other.flush({ tag: 'simple' });
      }),
    );
    near.close();
    expect(await Promise.all(waiting)).toEqual(['CONNECTION_LOST', 'CONNECTION_LOST']);
    expect(await ended(far.read(0, bytes(0)))).toBe('CONNECTION_LOST');
    expect(await opening).toBe('CONNECTION_LOST');
  });

  test('ends an opening that nothing answers', async () => {
    const { port1, port2 } = new MessageChannel();
    const opening = ended(PortStorage.open(port2 as Port));
    port1.close();
    expect(await opening).toBe('CONNECTION_LOST');
  });

  test('comes with an opening that fails, so that neither end waits for the other', async () => {
    const { port1, port2 } = new MessageChannel();
    const gone = new Promise<string>((resolve) =>
      port1.addEventListener('close', () => resolve('closed')),
    );
    serveStorage(Promise.reject(new WriteBarrierError('STORAGE_LOCKED', 'no')), port1 as Port);
    expect(await ended(PortStorage.open(port2 as Port))).toBe('STORAGE_LOCKED');
    expect(await gone).toBe('closed');
  });

  test('is refused for what is no port', async () => {
    expect(await ended(PortStorage.open({} as Port))).toBe('INVALID_ARGUMENT');
  });

  test('comes once: close answers the same again, and commands are refused', async () => {
    const { far } = await served(new MemoryStorage(SIZE));
    const first = far.close();
    expect(far.close()).toBe(first);
    await far[Symbol.asyncDispose]();
    expect(await ended(far.flush({ tag: 'simple' }))).toBe('CLOSED');
  });
});
