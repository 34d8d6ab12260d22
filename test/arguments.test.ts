// Arguments of a wrong type. Goal: every function and class of every door answers them, or refuses them with an error that has a
// code, before anything changes. Method: each is called with wrong values in the first place, and in the second place after
// each of a few sound values. So a new export is tested without a line here.

import { existsSync, readFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { beforeAll, describe, expect, test } from 'vitest';
import * as core from 'write-barrier';
import * as directory from 'write-barrier/directory';
import * as kit from 'write-barrier/kit';
import * as nbd from 'write-barrier/nbd';
import * as node from 'write-barrier/node';
import * as opfs from 'write-barrier/opfs';
import * as sqlite from 'write-barrier/sqlite';
import * as systems from 'write-barrier/systems';
import * as testing from 'write-barrier/testing';
import * as arbitraries from 'write-barrier/testing/arbitraries';
import * as files from 'write-barrier/testing/files';
import * as lab from 'write-barrier/testing/lab';

/** By their names in package.json. */
const DOORS: Readonly<Record<string, object>> = {
  '.': core,
  './directory': directory,
  './kit': kit,
  './nbd': nbd,
  './node': node,
  './opfs': opfs,
  './sqlite': sqlite,
  './systems': systems,
  './testing': testing,
  './testing/arbitraries': arbitraries,
  './testing/files': files,
  './testing/lab': lab,
};

/** No functions: a description of the package, and a module that is loaded for what it does. */
const NO_DOORS = ['./package.json', './testing/files/register'];

/** What takes any arguments, by the reason. */
const UNCHECKED: Readonly<Record<string, readonly string[]>> = {
  'it is called for each request or command, with values that are checked already, and a check would be in each bundle':
    [
      ...['chooseMode', 'guarantees', 'isBarrier', 'transition', 'flushPolicy', 'lowerSteps'],
      ...[
        'Driver',
        'answerCall',
        'perform',
        'checkRange',
        'checkSize',
        'describeStorage',
        'withText',
      ],
      ...['concatBuffers', 'scatterBytes', 'sliceBuffers', 'totalLength'],
    ],
  'it is what checks are made of': ['checkArgument', 'oneOf', 'invariant'],
};

// The folder /no is not there, so that nothing is made where the string is the name of a file.
const WRONG: readonly unknown[] = [undefined, null, 5, '/no/such', {}, []];

/** What some function takes in the first place. A string is empty, because any other may be the name of a file. */
const SOUND: unknown[] = [
  ...[4096, '', () => undefined, { kind: 'flush' }, fc, { describe, test: () => undefined }],
  [
    { kind: 'submit', request: 0, what: { kind: 'flush' } },
    { kind: 'settle', request: 0, outcome: 'done' },
  ],
];

/** What only one function takes in the first place, because others may take the word for the name of a file. */
const SOUND_FOR: Readonly<Record<string, unknown>> = {
  openSystem: 'linux',
  virtioOrdering: 'specification',
};

type Call = (...args: readonly unknown[]) => unknown;

/** A function or a constructor, with the static functions of a class. */
function callsOf(name: string, value: Call): (readonly [name: string, call: Call])[] {
  if (!/^class\b/.test(Function.prototype.toString.call(value))) return [[name, value]];
  const statics = Object.getOwnPropertyNames(value)
    .map((own) => [`${name}.${own}`, Reflect.get(value, own) as unknown] as const)
    .filter(([own, call]) => typeof call === 'function' && !own.endsWith('.prototype'))
    .map(
      ([own, call]) =>
        [own, (...args: readonly unknown[]) => Reflect.apply(call as Call, value, args)] as const,
    );
  // An error is made where something has failed already. A class with `open` or `connect` has a private constructor.
  const isOpened = Object.hasOwn(value, 'open') || Object.hasOwn(value, 'connect');
  const isPrivate = isOpened || value.prototype instanceof Error;
  return isPrivate ? statics : [[name, (...args) => Reflect.construct(value, args)], ...statics];
}

const CALLS = new Map(
  Object.values(DOORS)
    .flatMap((door) => Object.entries(door))
    .filter(([, value]) => typeof value === 'function')
    .flatMap(([name, value]) => callsOf(name, value as Call)),
);
const EXEMPT = new Set(Object.values(UNCHECKED).flat());

beforeAll(async () => {
  const storage = new core.MemoryStorage(4096);
  const report = await testing.crashTest({
    size: 4096,
    workload: (disk) => disk.write(0, new Uint8Array(512)),
    recover: () => 0,
    check: () => true,
  });
  const filesTrace = await files.recordFiles({ run: () => undefined });
  const filesReport = await files.crashFiles({
    workload: () => undefined,
    recover: () => 0,
    check: () => true,
  });
  SOUND.push(storage, new core.IoScheduler(new core.MemoryStorage(4096)));
  SOUND.push(report, report.trace, filesReport, filesTrace);
});

/** What is wrong with the answer to a call: an error without a code; undefined if nothing is. */
async function fault(call: Call, args: readonly unknown[]): Promise<string | undefined> {
  try {
    await call(...args);
  } catch (error) {
    if (core.WriteBarrierError.is(error) && typeof error.code === 'string') return undefined;
    return `(${args.map(kit.formatValue).join(', ')}): ${String(error)}`;
  }
  return undefined;
}

test('every door of the package is here', () => {
  const { exports } = JSON.parse(readFileSync('package.json', 'utf8'));
  expect([...Object.keys(DOORS), ...NO_DOORS].sort()).toEqual(Object.keys(exports).sort());
});

test('what is not checked is exported', () => {
  expect([...EXEMPT].filter((name) => !CALLS.has(name))).toEqual([]);
});

describe('given arguments of a wrong type, then an error has a code', () => {
  test.each([...CALLS.keys()].filter((name) => !EXEMPT.has(name)))('%s', async (name) => {
    const call = CALLS.get(name) as Call;
    const sound = Object.hasOwn(SOUND_FOR, name) ? [...SOUND, SOUND_FOR[name]] : SOUND;
    const second = sound.flatMap((first) => WRONG.map((wrong) => [first, wrong]));
    const found: (string | undefined)[] = [];
    for (const args of [[], ...WRONG.map((wrong) => [wrong]), ...second]) {
      found.push(await fault(call, args));
    }
    expect(found.filter((one) => one !== undefined)).toEqual([]);
  });
});

describe('given a wrong argument, then the message names it, and what it must be', () => {
  const wrong = 5 as never;
  const storage = new core.MemoryStorage(512);
  const recorder = new lab.DiskRecorder(512);
  test.each<readonly [name: string, message: string, call: () => unknown]>([
    ['parseProgram', 'text must be a string, not 5', () => core.parseProgram(wrong)],
    ['parseSteps', 'text must be a string, not 5', () => core.parseSteps(wrong)],
    [
      'formatProgram',
      'requests must be an iterable of requests, not 5',
      () => core.formatProgram(wrong),
    ],
    ['formatRequest', 'request must be an object, not 5', () => core.formatRequest(wrong)],
    [
      'formatSteps',
      "steps must be an iterable of steps, not 'w0'",
      () => core.formatSteps('w0' as never),
    ],
    [
      'formatTimeline',
      'events must be an iterable of events, not 5',
      () => core.formatTimeline(wrong),
    ],
    ['drawTimeline', 'events must be an iterable of events, not 5', () => core.drawTimeline(wrong)],
    ['chromeTrace', 'events must be an iterable of events, not 5', () => core.chromeTrace(wrong)],
    ['wrap', 'around must be a function, not 5', () => kit.wrap(storage, wrong)],
    ['crashSpace', 'trace must be a trace of a disk', () => lab.crashSpace(wrong)],
    ['encodeTrace', 'trace must be a trace of a disk', () => lab.encodeTrace(wrong)],
    ['writeLogWrites', 'trace must be a trace of a disk', () => lab.writeLogWrites(wrong)],
    [
      'DiskRecorder',
      'size must be a whole number of at least 0',
      () => new lab.DiskRecorder('5' as never),
    ],
    [
      'DiskRecorder, initial',
      'initial must be a Uint8Array, not 5',
      () => new lab.DiskRecorder(512, wrong),
    ],
    ['TraceWriter', 'append must be a function, not 5', () => new lab.TraceWriter(512, wrong)],
    [
      'recording',
      'recorder must be a DiskRecorder or a TraceWriter',
      () => lab.recording(storage, wrong),
    ],
    ['recording, storage', 'the storage is unusable: 5', () => lab.recording(wrong, recorder)],
    ['crashPicture', 'the report of an awaited crashTest', () => testing.crashPicture(wrong)],
    ['crashPage', 'the report of an awaited crashTest', () => testing.crashPage(wrong)],
    ['filesPicture', 'the report of an awaited crashFiles', () => files.filesPicture(wrong)],
    ['recordFiles', 'run must be a function, not undefined', () => files.recordFiles({} as never)],
    [
      'recordFiles, root',
      'root must be a string, not 5',
      () => files.recordFiles({ root: wrong, run: () => undefined }),
    ],
    ['straceFiles', 'root must be a string, not undefined', () => files.straceFiles({} as never)],
    [
      'straceFiles, command',
      'command must be a list of strings',
      () => files.straceFiles({ root: '/no/such', command: [] as never }),
    ],
    ['byCommand', 'an argument must be a string, not 5', () => files.byCommand('sh', wrong)],
    ['arbitraries', 'fc must be fast-check, not 5', () => arbitraries.arbitraries(wrong)],
    [
      'fileStorage',
      'file must be an object with the methods read, write, sync, not 5',
      () => systems.fileStorage(wrong),
    ],
    [
      'VirtioBackend',
      'scheduler must be a scheduler, not [object Object]',
      () => new systems.VirtioBackend(storage as never),
    ],
    ['virtioFeatureBits', 'a feature must be', () => systems.virtioFeatureBits(wrong)],
    ['serveStorage', 'the port must be a MessagePort', () => opfs.serveStorage(storage, wrong)],
  ])('%s: %s', async (_, message, call) => {
    const answer = async (): Promise<unknown> => call();
    await expect(answer()).rejects.toMatchObject({
      code: message.startsWith('the storage') ? 'INVALID_STORAGE' : 'INVALID_ARGUMENT',
      message: expect.stringContaining(message),
    });
  });

  test('recordFiles without a program makes no folder', async () => {
    const root = join(tmpdir(), `write-barrier-arguments-${process.pid}`);
    await expect(files.recordFiles({ root } as never)).rejects.toMatchObject({
      code: 'INVALID_ARGUMENT',
    });
    expect(existsSync(root)).toBe(false);
  });
});
