// What a subscriber of node:diagnostics_channel learns.

import { channel, subscribe, unsubscribe } from 'node:diagnostics_channel';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import {
  IoScheduler,
  MemoryStorage,
  type TraceEvent,
  TraceRecorder,
  tracing,
  withFaults,
  withLatency,
} from 'write-barrier';
import { type DiagnosticsMessage, diagnosticsObserver, FileStorage } from 'write-barrier/node';
import { codeThrown } from '../storage/contract.js';
import { temporaryDirectory } from './support.js';

const KINDS = ['submit', 'dispatch', 'complete', 'settle'] as const;
const BLOCK = new Uint8Array(4096);
const SIMPLE = { tag: 'simple' } as const;

/** What is published in a channel until the test ends. */
function messagesOf<T>(name: string): T[] {
  const messages: T[] = [];
  const listen = (message: unknown): void => void messages.push(message as T);
  subscribe(name, listen);
  onTestFinished(() => void unsubscribe(name, listen));
  return messages;
}

test('each event of a scheduler is published once, under the name, in the channel of its kind', async () => {
  const heard = KINDS.map((kind) => messagesOf<DiagnosticsMessage>(`write-barrier:${kind}`));
  const recorder = new TraceRecorder();
  const publish = diagnosticsObserver('the log');
  const observer = (event: TraceEvent): void => {
    recorder.observer(event);
    publish(event);
  };
  const storage = withFaults(new MemoryStorage(1 << 16), [{ on: 'flush', nth: 0, fault: 'fail' }]);
  const disk = new IoScheduler(storage, { observer });
  await disk.write(0, BLOCK);
  expect(await codeThrown(() => disk.flush())).toBe('FLUSH_FAILED');
  for (const [at, kind] of KINDS.entries()) {
    const events = recorder.events.filter((event) => event.kind === kind);
    expect(events.length).toBeGreaterThan(0);
    expect(heard[at]).toEqual(events.map((event) => ({ name: 'the log', event })));
  }
  const outcomes = heard[3]?.map(({ event }) => event.kind === 'settle' && event.outcome);
  expect(outcomes).toEqual(['done', 'FLUSH_FAILED']);
});

test('it observes a storage without a scheduler', () => {
  const dispatched = messagesOf<DiagnosticsMessage>('write-barrier:dispatch');
  const storage = tracing(new MemoryStorage(1 << 16), diagnosticsObserver('a disk'));
  storage.write(4096, BLOCK, { fua: false, tag: 'simple' });
  expect(dispatched).toMatchObject([{ name: 'a disk', event: { what: { op: 'write' } } }]);
});

// Goal: an observer at rest costs a request nothing. Method: the scheduler asks it once for each event, and is counted.
test('without subscribers no event is made, and a late subscriber learns of what happens from then on', async () => {
  const publish = diagnosticsObserver('a disk');
  const made: string[] = [];
  const counting = (event: TraceEvent): void => {
    made.push(event.kind);
    publish(event);
  };
  Object.defineProperty(counting, 'isListening', { get: () => publish.isListening });
  const storage = withLatency(new MemoryStorage(1 << 16), 1);
  const disk = new IoScheduler(storage, { observer: counting });
  await disk.write(0, BLOCK);
  expect(made).toEqual([]);

  const early = disk.write(0, BLOCK);
  const settled = messagesOf<DiagnosticsMessage>('write-barrier:settle');
  await early;
  await disk.write(0, BLOCK);
  expect(made).toEqual(['settle', 'submit', 'dispatch', 'complete', 'settle']);
  const requests = settled.map(({ event }) => event.kind === 'settle' && event.request);
  expect(requests).toEqual([1, 2]);
});

test('in a channel without subscribers nothing is published', () => {
  const settle = channel('write-barrier:settle');
  const published: unknown[] = [];
  const publish = (message: unknown): void => void published.push(message);
  Object.defineProperty(settle, 'publish', { value: publish, configurable: true });
  onTestFinished(() => void Reflect.deleteProperty(settle, 'publish'));
  const observer = diagnosticsObserver('a disk');
  const event = { kind: 'settle', request: 0, outcome: 'done' } as const;
  observer(event);
  expect(published).toEqual([]);
  messagesOf('write-barrier:settle');
  observer(event);
  expect(published).toEqual([{ name: 'a disk', event }]);
});

test('the first flush of a file that fails is published, and no later one', async () => {
  const failed = messagesOf<{ path: string; error: Error }>('write-barrier:flush-failed');
  const path = join(temporaryDirectory(), 'disk.img');
  const cause = Object.assign(new Error('EIO: as the test wants it'), { code: 'EIO' });
  const storage = await FileStorage.open(path, {
    size: 4096,
    fs: { fdatasync: (_, done) => done(cause) },
  });
  onTestFinished(() => storage.close());
  const flush = (): Promise<void> => storage.flush(SIMPLE);
  const codes = await Promise.all([flush, flush].map((call) => codeThrown(call)));
  expect(codes).toEqual(['FLUSH_FAILED', 'FLUSH_FAILED']);
  expect(await codeThrown(flush)).toBe('FLUSH_FAILED');
  expect(failed).toMatchObject([{ path: storage.path, error: { code: 'FLUSH_FAILED', cause } }]);
});

test('a name that is no string is refused', () => {
  expect(() => diagnosticsObserver(7 as never)).toThrow(/the name must be a string, not 7/);
});
