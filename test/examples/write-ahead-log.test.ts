import { join } from 'node:path';
import { expect, test } from 'vitest';
import {
  type CommandEvent,
  IoScheduler,
  MemoryStorage,
  MODE_NAMES,
  type Storage,
  tracing,
  withFaults,
} from 'write-barrier';
import { FileStorage } from 'write-barrier/node';
import { WriteAheadLog } from '../../examples/02-write-ahead-log/log.mjs';
import { emptyFolder } from './folder.js';

const BLOCK = 512;
const bytes = (text: string) => new TextEncoder().encode(text);
const texts = (log: WriteAheadLog) => log.records.map((record) => new TextDecoder().decode(record));
const cached = (medium: number | Uint8Array) =>
  new MemoryStorage(medium, { capabilities: { cache: 'volatile', orderedTags: false } });
const openLog = (storage: Storage) => WriteAheadLog.open(new IoScheduler(storage));

/** A storage whose flushes end when they are told to. */
function gated(storage: Storage): {
  storage: Storage;
  release: () => void;
  flushing: () => Promise<void>;
} {
  const gates: (() => void)[] = [];
  let started = () => {};
  return {
    storage: {
      ...storage,
      size: storage.size,
      capabilities: { ...storage.capabilities, writev: false, discard: false, writeZeroes: false },
      read: (offset, into) => storage.read(offset, into),
      write: (offset, data, flags) => storage.write(offset, data, flags),
      flush: () =>
        new Promise((resolve) => {
          gates.push(resolve);
          started();
        }),
      close: () => storage.close(),
    },
    release: () => gates.shift()?.(),
    flushing: () =>
      new Promise((resolve) => {
        started = resolve;
      }),
  };
}

test('given an empty medium, when a log is opened, then it has no records and no torn tail', async () => {
  const log = await openLog(cached(4 * BLOCK));
  expect([log.records, log.torn]).toEqual([[], false]);
});

test('given a hundred appends in one turn, then they share one flush', async () => {
  const disk = new IoScheduler(cached(100 * BLOCK));
  const log = await WriteAheadLog.open(disk);
  await Promise.all(Array.from({ length: 100 }, (_, i) => log.append(bytes(`record ${i}`))));
  expect(disk.stats().commands.flush).toBe(1);
});

test('given appends while a flush runs, then they wait and share the next one', async () => {
  const { storage, release, flushing } = gated(cached(100 * BLOCK));
  const disk = new IoScheduler(storage);
  const log = await WriteAheadLog.open(disk);
  let begun = flushing();
  const first = log.append(bytes('first'));
  await begun;
  const settled: string[] = [];
  const later = Array.from({ length: 9 }, () =>
    log.append(bytes('later')).then(() => void settled.push('later')),
  );
  begun = flushing();
  release();
  await first;
  await begun;
  expect(settled).toEqual([]);
  release();
  await Promise.all(later);
  expect(disk.stats().commands.flush).toBe(2);
});

test('given an append, then it settles after its bytes were written and then flushed', async () => {
  const happened: string[] = [];
  const names = new Map<number, string>();
  const observe = (event: CommandEvent) => {
    if (event.kind === 'dispatch') names.set(event.command, event.what.op);
    else happened.push(`${names.get(event.command)}`);
  };
  const log = await openLog(tracing(cached(8 * BLOCK), observe));
  happened.length = 0;
  await log.append(bytes('record'));
  expect([...happened, 'settled']).toEqual(['write', 'flush', 'settled']);
});

test('given records of any length, when the file is opened again, then they come back in order', async () => {
  const path = join(await emptyFolder(), 'wal.img');
  const payloads = [0, 1, 503, 504, 505, 2000, 0].map((length, i) => Buffer.alloc(length, i + 1));
  const log = await openLog(await FileStorage.open(path, { size: 1 << 16 }));
  await Promise.all(payloads.slice(0, 4).map((payload) => log.append(payload)));
  for (const payload of payloads.slice(4)) await log.append(payload);
  await log.close();

  const again = await openLog(await FileStorage.open(path));
  expect(again.records.map((record) => Buffer.from(record))).toEqual(payloads);
  await again.append(bytes('more'));
  await again.close();

  const third = await openLog(await FileStorage.open(path));
  expect(third.records).toHaveLength(payloads.length + 1);
  await third.close();
});

// Goal: what was acknowledged survives, whatever a power cut leaves of the batch after it. Method: write one
// durable record and a batch of two, keep every possible prefix of the batch in bytes, and open that.
test('given any prefix of the last batch, then the log holds the durable record and a prefix of it', async () => {
  const medium = new Uint8Array(8 * BLOCK);
  const log = await openLog(cached(medium));
  await log.append(bytes('durable'));
  const before = medium.slice();
  await Promise.all([log.append(Buffer.alloc(700, 'b')), log.append(bytes('c'))]);
  const after = medium.slice();

  const batchStart = BLOCK;
  const batchLength = 3 * BLOCK;
  for (let kept = 0; kept <= batchLength; kept++) {
    const cut = before.slice();
    cut.set(after.subarray(batchStart, batchStart + kept), batchStart);
    const found = await openLog(cached(cut));
    const whole = Number(kept >= 8 + 700) + Number(kept >= 2 * BLOCK + 8 + 1);
    expect(texts(found)).toEqual(['durable', 'b'.repeat(700), 'c'].slice(0, 1 + whole));
    await found.append(bytes('next'));
    const again = await openLog(cached(cut));
    expect(texts(again)).toEqual([...texts(found), 'next']);
    expect(again.torn).toBe(false);
  }
});

test('given a whole record behind a torn one, when appending goes on, then it never comes back', async () => {
  const medium = new Uint8Array(8 * BLOCK);
  const log = await openLog(cached(medium));
  await Promise.all(['a', 'torn', 'stale'].map((text) => log.append(bytes(text))));
  medium[BLOCK + 8] = 0;

  const found = await openLog(cached(medium));
  expect([texts(found), found.torn]).toEqual([['a'], true]);
  await found.append(bytes('torn'));
  expect(texts(await openLog(cached(medium)))).toEqual(['a', 'torn']);
});

test.each(['write', 'flush'] as const)(
  'given a %s that fails, then its batch and all later appends reject, and older records survive',
  async (on) => {
    const medium = new Uint8Array(8 * BLOCK);
    const log = await openLog(withFaults(cached(medium), [{ on, nth: 1, fault: 'fail' }]));
    await log.append(bytes('durable'));
    const batch = await Promise.allSettled([log.append(bytes('x')), log.append(bytes('y'))]);
    expect(batch.map(({ status }) => status)).toEqual(['rejected', 'rejected']);
    await expect(log.append(bytes('z'))).rejects.toThrow();
    expect(texts(await openLog(cached(medium)))[0]).toBe('durable');
  },
);

test('given a log without room for the record, then the append rejects and smaller ones go on', async () => {
  const medium = new Uint8Array(3 * BLOCK);
  const log = await openLog(cached(medium));
  const [first, tooLong, last, oneMore] = await Promise.allSettled([
    log.append(bytes('a')),
    log.append(Buffer.alloc(3 * BLOCK)),
    log.append(Buffer.alloc(2 * BLOCK - 8)),
    log.append(bytes('b')),
  ]);
  expect([first, tooLong, last, oneMore].map(({ status }) => status)).toEqual([
    'fulfilled',
    'rejected',
    'fulfilled',
    'rejected',
  ]);
  expect((await openLog(cached(medium))).records).toHaveLength(2);
});

test('given a mode whose empty barrier is not durable here, then the log does not open', async () => {
  for (const mode of ['NONE', 'DRAIN', 'TAG'] as const) {
    const storage = new MemoryStorage(4 * BLOCK, {
      capabilities: { cache: 'volatile', orderedTags: true },
    });
    const disk = new IoScheduler(storage, { mode, allowUnsafe: true });
    await expect(WriteAheadLog.open(disk)).rejects.toThrow(`promises nothing in ${mode}`);
  }
});

test.each(MODE_NAMES.filter((mode) => mode !== 'NONE'))(
  'given a device without a cache in mode %s, then the log appends and replays',
  async (mode) => {
    const medium = new Uint8Array(8 * BLOCK);
    const capabilities = { cache: 'none', orderedTags: true } as const;
    const storage = new MemoryStorage(medium, { capabilities });
    const log = await WriteAheadLog.open(new IoScheduler(storage, { mode }));
    await Promise.all([log.append(bytes('a')), log.append(bytes('b'))]);
    await log.append(bytes('c'));
    expect(texts(await openLog(new MemoryStorage(medium)))).toEqual(['a', 'b', 'c']);
  },
);
