// Every options object of `write-barrier` and of `write-barrier/node`: a key that is not known is refused, because an
// option that is misspelt is one that is not set; and a value that is refused is shown with its type.

import { readdirSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import {
  formatProgram,
  formatRequest,
  formatSteps,
  formatTimeline,
  IoScheduler,
  MemoryStorage,
  parseProgram,
  parseSteps,
  SchedulerGroup,
  TraceRecorder,
  withLatency,
} from 'write-barrier';
import { Directory } from 'write-barrier/directory';
import { FileStorage } from 'write-barrier/node';
import { OpfsStorage } from 'write-barrier/opfs';

// biome-ignore lint/suspicious/noExplicitAny: options of programs that no compiler has seen
type Options = any;

interface Taker {
  /** The interface that declares the options. */
  readonly of: string;
  readonly by: string;
  /** A misspelt key, and what the message takes it for. */
  readonly misspelt: readonly [string, string];
  /** A wrong value, and how it is shown. */
  readonly wrong: readonly [name: string, value: unknown, shown: string];
  readonly take: (options: Options) => unknown;
}

const memory = (): MemoryStorage => new MemoryStorage(64 * 512);
const disk = (): IoScheduler => new IoScheduler(memory());
const block = new Uint8Array(512);

const request = (by: string, take: (options: Options) => unknown): Taker => ({
  of: 'RequestOptions',
  by,
  misspelt: ['singal', 'signal'],
  wrong: ['signal', '4', "'4'"],
  take,
});

const notation = (by: string, take: (options: Options) => unknown): Taker => ({
  of: 'NotationOptions',
  by,
  misspelt: ['blocksize', 'blockSize'],
  wrong: ['blockSize', 512n, '512n'],
  take,
});

const TAKERS: readonly Taker[] = [
  {
    of: 'SchedulerOptions',
    by: 'IoScheduler',
    misspelt: ['maxQueue', 'maxQueued'],
    wrong: ['depth', '4', "'4'"],
    take: (options) => new IoScheduler(memory(), options),
  },
  {
    of: 'WriteOptions',
    by: 'write',
    misspelt: ['barier', 'barrier'],
    wrong: ['fua', 1n, '1n'],
    take: (options) => disk().write(0, block, options),
  },
  {
    of: 'CloseOptions',
    by: 'close',
    misspelt: ['timeout', 'timeoutMs'],
    wrong: ['timeoutMs', '4', "'4'"],
    take: (options) => disk().close(options),
  },
  request('read', (options) => disk().read(0, 512, options)),
  request('barrier', (options) => disk().barrier(options)),
  request('flush', (options) => disk().flush(options)),
  request('discard', (options) => disk().discard(0, 512, options)),
  request('writeZeroes', (options) => disk().writeZeroes(0, 512, options)),
  {
    of: 'MemoryStorageOptions',
    by: 'MemoryStorage',
    misspelt: ['capability', 'capabilities'],
    wrong: ['capabilities', '4', "'4'"],
    take: (options) => new MemoryStorage(512, options),
  },
  {
    of: 'LatencyOptions',
    by: 'withLatency',
    misspelt: ['slep', 'sleep'],
    wrong: ['sleep', 4n, '4n'],
    take: (options) => withLatency(memory(), 5, options),
  },
  {
    of: 'RecorderOptions',
    by: 'TraceRecorder',
    misspelt: ['eventMax', 'eventsMax'],
    wrong: ['eventsMax', '4', "'4'"],
    take: (options) => new TraceRecorder(options),
  },
  notation('parseProgram', (options) => parseProgram('', options)),
  notation('formatProgram', (options) => formatProgram([], options)),
  notation('formatRequest', (options) => formatRequest({ kind: 'flush' }, options)),
  notation('parseSteps', (options) => parseSteps('', options)),
  notation('formatSteps', (options) => formatSteps([], options)),
  notation('formatTimeline', (options) => formatTimeline([], options)),
  {
    of: 'FileStorageOptions',
    by: 'FileStorage.open',
    misspelt: ['readonly', 'readOnly'],
    wrong: ['size', 4096n, '4096n'],
    take: (options) => FileStorage.open('/never/looked/for', options),
  },
  {
    of: 'OpfsStorageOptions',
    by: 'OpfsStorage.open',
    misspelt: ['blocksize', 'blockSize'],
    wrong: ['size', 4096n, '4096n'],
    take: (options) => OpfsStorage.open('never/looked/for', options),
  },
  {
    of: 'DirectoryOptions',
    by: 'Directory.open',
    misspelt: ['filesmax', 'filesMax'],
    wrong: ['logSize', 4096n, '4096n'],
    take: (options) => Directory.open(disk(), options),
  },
  {
    of: 'SchedulerGroupOptions',
    by: 'SchedulerGroup',
    misspelt: ['dept', 'depth'],
    wrong: ['depth', '4', "'4'"],
    take: (options) => new SchedulerGroup(new MemoryStorage(512), options),
  },
];

async function said(taker: Taker, options: unknown): Promise<string> {
  try {
    await taker.take(options);
  } catch (error) {
    expect(error).toMatchObject({ code: 'INVALID_ARGUMENT' });
    return Object(error).message;
  }
  return 'accepted';
}

describe.each(TAKERS)('$of of $by', (taker) => {
  test('a key that is not known is refused, with the nearest known one', async () => {
    const [key, nearest] = taker.misspelt;
    expect(await said(taker, { [key]: undefined })).toContain(
      `has no option '${key}'; did you mean '${nearest}'?`,
    );
  });

  test('what is no object is refused', async () => {
    expect(await said(taker, null)).toContain('must be an object, not null');
    expect(await said(taker, '4')).toContain("must be an object, not '4'");
  });

  test('a wrong value is shown with its type', async () => {
    const [name, value, shown] = taker.wrong;
    expect(await said(taker, { [name]: value })).toContain(`not ${shown}`);
  });
});

test('the list has every interface that is called options, but those of the state machines, which nobody outside hands in', () => {
  const listed = new Set(['OrderingOptions', 'SharingOptions', ...TAKERS.map(({ of }) => of)]);
  const missing = ['directory', 'model', 'node', 'opfs', 'scheduler', 'sqlite', 'storage', 'trace']
    .flatMap(sources)
    .flatMap((source) => [...source.matchAll(/export interface (\w+Options)\b/g)])
    .map(([, name]) => name)
    .filter((name) => !listed.has(String(name)));
  expect(missing).toEqual([]);
});

function sources(folder: string): string[] {
  const root = fileURLToPath(new URL(`../../src/${folder}/`, import.meta.url));
  return readdirSync(root)
    .filter((name) => name.endsWith('.ts'))
    .map((name) => readFileSync(root + name, 'utf8'));
}
