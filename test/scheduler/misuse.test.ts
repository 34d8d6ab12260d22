// Bad input is told at once, by a stable code, and changes nothing: the queue goes on.

import { describe, expect, test } from 'vitest';
import { IoScheduler, MemoryStorage, type Storage, WriteBarrierError } from 'write-barrier';
import { BLOCK, ManualStorage, outcomes, settled, World } from './world.js';

const block = (length = BLOCK): Uint8Array => new Uint8Array(length);

async function codeOf(promise: Promise<unknown>): Promise<string> {
  try {
    await promise;
  } catch (error) {
    return WriteBarrierError.is(error) ? error.code : `no code: ${String(error)}`;
  }
  return 'no error';
}

function codeThrown(run: () => unknown): string {
  try {
    run();
  } catch (error) {
    return WriteBarrierError.is(error) ? error.code : `no code: ${String(error)}`;
  }
  return 'no error';
}

const wrong = (value: unknown): never => value as never;

describe('given a wrong request, then it is refused at once and the queue goes on', () => {
  const cases: Record<string, [string, (disk: IoScheduler) => Promise<unknown>]> = {
    'an offset behind the end': ['OUT_OF_RANGE', (disk) => disk.write(disk.size, block())],
    'a range across the end': ['OUT_OF_RANGE', (disk) => disk.read(disk.size - BLOCK, 2 * BLOCK)],
    'a negative offset': ['OUT_OF_RANGE', (disk) => disk.write(-BLOCK, block())],
    'a negative length': ['OUT_OF_RANGE', (disk) => disk.read(0, -BLOCK)],
    'an unaligned offset': ['UNALIGNED', (disk) => disk.write(1, block())],
    'an unaligned length': ['UNALIGNED', (disk) => disk.write(0, block(BLOCK + 1))],
    'a fractional offset': ['INVALID_ARGUMENT', (disk) => disk.write(0.5, block())],
    'a fractional length': ['INVALID_ARGUMENT', (disk) => disk.read(0, 0.5)],
    'an offset that is not a number': [
      'INVALID_ARGUMENT',
      (disk) => disk.write(Number.NaN, block()),
    ],
    'an infinite length': ['INVALID_ARGUMENT', (disk) => disk.discard(0, Number.POSITIVE_INFINITY)],
    'an offset beyond 2^53': ['INVALID_ARGUMENT', (disk) => disk.write(2 ** 53, block())],
    'an offset and a length that leave 2^53 together': [
      'OUT_OF_RANGE',
      (disk) => disk.writeZeroes(Number.MAX_SAFE_INTEGER - BLOCK + 1, BLOCK * 2),
    ],
    'a bigint': ['INVALID_ARGUMENT', (disk) => disk.write(wrong(0n), block())],
    'a string for an offset': ['INVALID_ARGUMENT', (disk) => disk.write(wrong('0'), block())],
    'a string for data': ['INVALID_ARGUMENT', (disk) => disk.write(0, wrong('data'))],
    'no data': ['INVALID_ARGUMENT', (disk) => disk.write(0, wrong(undefined))],
    'a list with a hole': [
      'INVALID_ARGUMENT',
      (disk) => disk.write(0, wrong([block(), undefined])),
    ],
    // biome-ignore lint/suspicious/noSparseArray: that is what is tested
    'a sparse list': ['INVALID_ARGUMENT', (disk) => disk.write(0, wrong([block(), , block()]))],
    'a Uint16Array': ['INVALID_ARGUMENT', (disk) => disk.write(0, wrong(new Uint16Array(BLOCK)))],
    'zero bytes': ['ZERO_LENGTH', (disk) => disk.write(0, block(0))],
    'an empty list': ['ZERO_LENGTH', (disk) => disk.write(0, [])],
    'a read of nothing': ['ZERO_LENGTH', (disk) => disk.read(0, 0)],
    'a discard of nothing': ['ZERO_LENGTH', (disk) => disk.discard(0, 0)],
    'no length': ['INVALID_ARGUMENT', (disk) => disk.read(0, wrong(undefined))],
    'options that are none': ['INVALID_ARGUMENT', (disk) => disk.flush(wrong(null))],
    'a flag that is no boolean': [
      'INVALID_ARGUMENT',
      (disk) => disk.write(0, block(), { barrier: wrong(1) }),
    ],
    'a signal that is none': ['INVALID_ARGUMENT', (disk) => disk.barrier({ signal: wrong({}) })],
  };

  test.each(Object.entries(cases))('%s', async (_, [code, call]) => {
    const { device, disk, submit } = worldOf();
    const before = submit('w0 b1 w2');
    expect(await codeOf(call(disk))).toBe(code);
    const after = submit('w3');
    await device.drain();
    expect(outcomes([...before, ...after])).toBe('w0:done b1:done w2:done w3:done');
    expect(device.log).toBe('w0 F w1 F w2 w3');
    expect(disk.stats().submitted).toBe(4);
  });

  test('any use after close', async () => {
    const { device, disk } = worldOf();
    const closing = disk.close();
    await device.drain();
    await closing;
    const calls = [
      disk.read(0, BLOCK),
      disk.write(0, block()),
      disk.flush(),
      disk.barrier(),
      disk.discard(0, BLOCK),
      disk.writeZeroes(0, BLOCK),
      disk.recover(),
    ];
    expect(await Promise.all(calls.map(codeOf))).toEqual(calls.map(() => 'CLOSED'));
    expect(disk.state).toBe('closed');
    await disk.close();
  });

  test('a signal that was aborted before', async () => {
    const { device, disk } = worldOf();
    const reason = new Error('changed my mind');
    await expect(disk.write(0, block(), { signal: AbortSignal.abort(reason) })).rejects.toBe(
      reason,
    );
    expect(device.log).toBe('');
  });
});

describe('given a storage that lies about lengths, then the request fails and the queue goes on', () => {
  const lying = (moved: number): Storage => {
    const memory = new MemoryStorage(16 * BLOCK, { capabilities: { blockSize: BLOCK } });
    return {
      size: memory.size,
      capabilities: memory.capabilities,
      read: () => moved,
      write: async () => moved,
      flush: () => {},
      close: () => {},
    };
  };

  test.each([0, 1, BLOCK - 1, BLOCK + 1, -1, Number.NaN])('%d bytes of a block', async (moved) => {
    const disk = new IoScheduler({ ...lying(moved), capabilities: bare() }, { mode: 'DRAIN' });
    expect(await codeOf(disk.read(0, BLOCK))).toBe('SHORT_TRANSFER');
    expect(await codeOf(disk.write(0, block()))).toBe('SHORT_TRANSFER');
    expect(await codeOf(disk.writeZeroes(BLOCK, BLOCK))).toBe('SHORT_TRANSFER');
    expect(disk.stats()).toMatchObject({ inFlight: 0, queued: 0, settled: 3 });
  });

  const bare = () =>
    new ManualStorage({ cache: 'none', writev: false, discard: false, writeZeroes: false })
      .capabilities;

  test.each([
    ['a size that is not whole blocks', { size: BLOCK + 1 }],
    ['a fractional size', { size: 0.5 }],
    ['a size that is not a number', { size: Number.NaN }],
    ['a negative size', { size: -BLOCK }],
    ['no capabilities', { capabilities: undefined }],
    ['a block size of zero', { capabilities: { ...bare(), blockSize: 0 } }],
    ['a cache of a kind that does not exist', { capabilities: { ...bare(), cache: 'write-back' } }],
    ['a capability that is not a boolean', { capabilities: { ...bare(), flush: 'yes' } }],
    [
      'a method that it declares and does not have',
      { capabilities: { ...bare(), discard: true }, discard: undefined },
    ],
    ['no read', { read: undefined }],
  ])('%s is refused before the first request', (_, lie) => {
    const storage = { ...lying(BLOCK), ...lie };
    expect(codeThrown(() => new IoScheduler(wrong(storage)))).toBe('INVALID_STORAGE');
  });
});

describe('given wrong options, then no scheduler is made', () => {
  test.each([
    ['INVALID_ARGUMENT', { depth: 0 }],
    ['INVALID_ARGUMENT', { depth: 1.5 }],
    ['INVALID_ARGUMENT', { maxQueued: -1 }],
    ['INVALID_ARGUMENT', { maxQueuedBytes: Number.NaN }],
    ['INVALID_ARGUMENT', { errorPolicy: 'retry' }],
    ['INVALID_ARGUMENT', { observer: 'console' }],
    ['EINVAL', { mode: 'DRAIN_TAG' }],
    ['UNSAFE_MODE', { mode: 'DRAIN' }],
  ])('%s for %j', (code, options) => {
    expect(codeThrown(() => new IoScheduler(new ManualStorage(), wrong(options)))).toBe(code);
  });

  test('given an unsafe mode, when it is set later, then it is refused and the old one stays', async () => {
    const { disk } = worldOf();
    expect(codeThrown(() => disk.setMode('TAG'))).toBe('UNSAFE_MODE');
    expect(disk.mode).toBe('DRAIN_FLUSH');
    await settled();
  });
});

function worldOf() {
  const made = new World({ mode: 'DRAIN_FLUSH' });
  return { device: made.device, disk: made.disk, submit: made.submit.bind(made) };
}
