// The client against servers that nobody here wrote. Each is started by the test, on a Unix socket.

import { execFileSync } from 'node:child_process';
import { readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, onTestFinished, test } from 'vitest';
import { IoScheduler, type ModeName } from '../../src/index.js';
import { NbdLostError, NbdStorage, type NbdStorageOptions } from '../../src/nbd/index.js';
import { crashSpace, DiskRecorder } from '../../src/testing/lab/index.js';
import { errorThrown, storageContract } from '../storage/contract.js';
import { has, type Server, scratch, server } from './nbd-client-servers.js';
import { BLOCK, killUnderLoad, stamped, stampsOf } from './nbd-kills.js';

const PLAIN = { fua: false, tag: 'simple' } as const;
const SIMPLE = { tag: 'simple' } as const;

const nbdkit = has('nbdkit');

async function started(...args: readonly string[]): Promise<Server> {
  const one = server((socket) => ['nbdkit', '-f', '-U', socket, ...args]);
  await one.start();
  return one;
}

async function connected(
  path: string,
  options: Partial<NbdStorageOptions> = {},
): Promise<NbdStorage> {
  const storage = await NbdStorage.connect({ path, ...options } as NbdStorageOptions);
  onTestFinished(() => storage.close());
  return storage;
}

describe.skipIf(!nbdkit)('nbdkit (skipped unless it is installed)', () => {
  storageContract(
    'NbdStorage over nbdkit memory',
    {
      blockSize: 512,
      cache: 'volatile',
      flush: true,
      fua: true,
      orderedTags: false,
      writev: true,
      discard: true,
      writeZeroes: true,
    },
    async () => {
      const { path } = await started('memory', '1M');
      const open = (): Promise<NbdStorage> => NbdStorage.connect({ path });
      return { storage: await open(), reopen: open };
    },
  );

  test('its memory reads as it was written', async () => {
    const { path } = await started('memory', '64M');
    const storage = await connected(path);
    const data = new Uint8Array(40 << 20).map((_, at) => at % 251);
    await storage.write(4096, data, PLAIN);
    await storage.flush(SIMPLE);
    const into = new Uint8Array(data.length);
    await storage.read(4096, into);
    expect(Buffer.compare(into, data)).toBe(0);
  });
});

const MIB = 1024 * 1024;

/** An image of zeroes in a directory of its own. */
function image(size: number): string {
  const path = join(scratch(), 'disk.img');
  writeFileSync(path, '');
  truncateSync(path, size);
  return path;
}

type Volatile = (socket: string, path: string) => readonly string[];

const nbdkitCache: Volatile = (socket, path) => [
  ...['nbdkit', '-f', '-U', socket, '--filter=cache', 'file', path, 'cache=writeback'],
];

const exampleServer: Volatile = (socket, path) => [
  ...[process.execPath, 'dist/cli.js', 'serve', path, '--volatile-cache', '--socket', socket],
];

describe('a server with a volatile cache that is killed under load', () => {
  test.skipIf(!nbdkit)('nbdkit: loses nothing at 50 moments, and keeps the order', () =>
    killed(nbdkitCache, 'DRAIN_FLUSH', 1),
  );

  test.each([
    ['DRAIN_FLUSH', 1],
    ['DRAIN_FUA', 4],
  ] as const)(
    'ours, %s, %i connections: loses nothing at 50 moments, and keeps the order',
    (mode, connections) => killed(exampleServer, mode, connections),
  );

  async function killed(program: Volatile, mode: ModeName, connections: number): Promise<void> {
    const path = image(16 * MIB);
    const one = server((socket) => program(socket, path));
    await one.start();
    // As many tries as a busy machine takes to start the server again.
    const patient = { delayMs: 5, delayMsMax: 20, triesMax: Infinity };
    const storage = await connected(one.path, { ...patient, connections });
    expect(storage.connections).toBe(connections);
    const medium = (): Uint8Array => readFileSync(path);
    const kills = { server: one, medium, mode, kills: 50 };
    const { written, lossy } = await killUnderLoad({ storage, ...kills });
    expect(written).toBeGreaterThan(100);
    expect(lossy).toBeGreaterThan(0);
    expect(storage.state).toBe('connected');
  }
});

const PROGRAMS = {
  'nbdkit file': (socket: string, path: string) => [
    ...['nbdkit', '-f', '-U', socket, '--filter=blocksize-policy', 'file', path],
    'blocksize-minimum=4096',
    'blocksize-maximum=64K',
    'blocksize-error-policy=error',
  ],
  'nbdkit file, delayed': (socket: string, path: string) => [
    ...['nbdkit', '-f', '-U', socket, '--filter=delay', 'file', path],
    ...['delay-write=3ms', 'delay-read=1ms'],
  ],
  'qemu-nbd': (socket: string, path: string) => [
    ...['qemu-nbd', '-t', '-f', 'raw', '--cache=writeback', '-e', '8', '-k', socket, path],
  ],
  'nbd-server': (socket: string, path: string) => {
    const config = `${path}.conf`;
    const generic = `[generic]\nallowlist=true\nunixsock=${socket}\n`;
    writeFileSync(
      config,
      `${generic}[disk]\nexportname=${path}\nflush=true\nfua=true\ntrim=true\n`,
    );
    return ['nbd-server', '-C', config, '-p', `${socket}.pid`];
  },
} as const;

describe.each(Object.entries(PROGRAMS))('%s (skipped unless it is installed)', (name, command) => {
  const [program = ''] = name.split(' ');
  const exportName = program === 'nbd-server' ? 'disk' : '';

  test.skipIf(!has(program))('holds what was written in any order, killed in between', async () => {
    const path = image(4 * MIB);
    const one = server((socket) => command(socket, path));
    await one.start();
    const options = { export: exportName, connections: 3, delayMs: 5, triesMax: Infinity };
    const storage = await connected(one.path, options);
    expect(storage.size).toBe(4 * MIB);
    expect(storage.capabilities).toMatchObject({ flush: true, fua: true, cache: 'volatile' });
    const expected = new Uint8Array(4 * MIB);
    for (let round = 1; round <= 5; round += 1) {
      const writes = Array.from({ length: 64 }, (_, i) => {
        const at = ((i * 37 + round * 11) % 512) * 8192;
        const data = stamped(round * 1000 + i);
        expected.set(data, at);
        return storage.write(at, data, { fua: i % 8 === 0, tag: 'simple' });
      });
      const dying = round % 2 === 0 ? one.kill().then(() => one.start()) : undefined;
      await Promise.all(writes);
      await storage.writeZeroes?.(round * 65536, 65536);
      expected.fill(0, round * 65536, (round + 1) * 65536);
      await dying;
      await storage.flush(SIMPLE);
    }
    const into = new Uint8Array(4 * MIB).fill(1);
    await storage.read(0, into);
    expect(Buffer.compare(into, expected)).toBe(0);
    expect(Buffer.compare(readFileSync(path), expected)).toBe(0);
  });
});

describe.skipIf(!nbdkit)('the filters of nbdkit (skipped unless it is installed)', () => {
  // What comes of a plain write, a forced one and a flush, as the plugin below sees it.
  test.each([
    ['no', [], { fua: false, flush: true }, ['write', 'write', 'flush', 'flush']],
    [
      'emulate',
      ['fuamode=emulate'],
      { fua: true, flush: true },
      ['write', 'write', 'flush', 'flush'],
    ],
    ['native', ['fuamode=native'], { fua: true, flush: true }, ['write', 'write!', 'flush']],
    ['pass', ['fuamode=pass'], { fua: true, flush: true }, ['write', 'write!', 'flush']],
    ['force', ['fuamode=force'], { fua: true, flush: true }, ['write!', 'write!']],
    ['discard', ['fuamode=discard'], { fua: true, flush: true }, ['write', 'write']],
  ])('fua, mode %s: says what it can, and a scheduler gets by', async (_mode, mode, can, below) => {
    const log = join(scratch(), 'log');
    const filters = ['--filter=fua', '--filter=log', 'memory', '1M', `logfile=${log}`];
    const { path } = await started(...filters, ...mode);
    const storage = await connected(path);
    expect(storage.capabilities).toMatchObject(can);
    const scheduler = new IoScheduler(storage, { mode: 'DRAIN_FLUSH' });
    await scheduler.write(0, stamped(1));
    await scheduler.write(4096, stamped(2), { fua: true });
    await scheduler.flush();
    const seen = readFileSync(log, 'utf8')
      .split('\n')
      .filter((line) => /Write|Flush/.test(line) && !line.includes('return'))
      .map((line) => (line.includes('Flush') ? 'flush' : /fua=1/.test(line) ? 'write!' : 'write'));
    expect(seen).toEqual(below);
  });

  test('error: what fails is told, and the rest goes on', async () => {
    const args = ['--filter=error', 'memory', '1M', 'error-pwrite=ENOSPC', 'error-pwrite-rate=50%'];
    const { path } = await started(...args);
    const storage = await connected(path);
    const outcomes = await Promise.all(
      Array.from({ length: 100 }, (_, i) =>
        errorThrown(() => storage.write(i * BLOCK, stamped(i), PLAIN)),
      ),
    );
    const errors = outcomes.filter((error) => error !== undefined);
    expect(errors.length).toBeGreaterThan(10);
    expect(errors.length).toBeLessThan(90);
    for (const error of errors) {
      expect(error).toMatchObject({ code: 'IO_FAILED', cause: { code: 'ENOSPC' } });
    }
    await storage.flush(SIMPLE);
    const into = new Uint8Array(100 * BLOCK);
    await storage.read(0, into);
    for (const [i, stamp] of stampsOf(into).entries()) if (!outcomes[i]) expect(stamp).toBe(i);
  });

  test.each([
    ['disable', 1],
    ['emulate', 4],
  ])('multi-conn, mode %s: %i connections', async (mode, connections) => {
    const { path } = await started(
      '--filter=multi-conn',
      'memory',
      '1M',
      `multi-conn-mode=${mode}`,
    );
    const storage = await connected(path, { connections: 4 });
    expect(storage.connections).toBe(connections);
    await Promise.all(
      Array.from({ length: 64 }, (_, i) => storage.write(i * BLOCK, stamped(i), PLAIN)),
    );
    await storage.flush(SIMPLE);
    const into = new Uint8Array(64 * BLOCK);
    await storage.read(0, into);
    expect(stampsOf(into)).toEqual(Array.from({ length: 64 }, (_, i) => i));
  });

  test('cache: without the log, a killed server loses what it accepted, and it is said', async () => {
    const file = image(1 * MIB);
    const one = server((socket) => [
      ...['nbdkit', '-f', '-U', socket, '--filter=cache', 'file', file, 'cache=writeback'],
    ]);
    await one.start();
    const storage = await connected(one.path, { resendBytesMax: 0 });
    await storage.write(0, stamped(7), PLAIN);
    await storage.flush(SIMPLE);
    await storage.write(0, stamped(8), PLAIN);
    await one.kill();
    await one.start();
    const error = await errorThrown(() => storage.read(0, new Uint8Array(BLOCK)));
    expect(error).toBeInstanceOf(NbdLostError);
    expect(error).toMatchObject({ atRisk: [{ start: 0, end: BLOCK }] });
    expect(stampsOf(readFileSync(file))[0]).toBe(7);
  });
});

// Goal: a disk that lies is found out. Method: what qemu-nbd asks of its file is watched (strace) and taken down as the
// trace of a disk with a volatile cache; the crash space of that trace has every image that a power cut may leave. A record,
// a flush, a commit: no image may have the commit without the record.
const watched = has('qemu-nbd') && has('strace') && mayTrace();
describe.skipIf(!watched)('qemu-nbd on a file (skipped unless it and strace are installed)', () => {
  async function imagesWithoutRecord(cache: string): Promise<{ broken: number; all: number }> {
    const path = image(65536);
    const log = `${path}.log`;
    const one = server((socket) => [
      ...['strace', '-f', '-y', '-e', 'trace=pwrite64,fdatasync', '-o', log],
      ...['qemu-nbd', '-t', '-f', 'raw', `--cache=${cache}`, '-k', socket, path],
    ]);
    await one.start();
    const storage = await connected(one.path);
    expect(storage.capabilities).toMatchObject({ cache: 'volatile', flush: true, fua: true });
    const scheduler = new IoScheduler(storage, { mode: 'DRAIN_FLUSH' });
    await scheduler.write(0, stamped(1));
    await scheduler.flush();
    await scheduler.write(8192, stamped(2));
    await scheduler.flush();
    await storage.close();
    await one.kill('SIGTERM');

    const recorder = new DiskRecorder(65536);
    for (const line of readFileSync(log, 'utf8').split('\n')) {
      const [, length, offset] = /pwrite64\(\d+<.*disk\.img>.*, (\d+), (\d+)/.exec(line) ?? [];
      const place = { tag: 'simple', fua: false, offset: Number(offset ?? 0) } as const;
      if (offset !== undefined) {
        const data = stamped(place.offset === 0 ? 1 : 2).subarray(0, Number(length));
        const request = { op: 'write', length: data.length, ...place } as const;
        recorder.complete(recorder.dispatch(request, data));
      } else if (/fdatasync\(\d+<.*disk\.img>/.test(line)) {
        recorder.complete(recorder.dispatch({ op: 'flush', length: 0, ...place }));
      }
    }
    let [broken, all] = [0, 0];
    for (const state of crashSpace(recorder.trace, { atomicWriteUnit: BLOCK })) {
      const stamps = stampsOf(state.image());
      all += 1;
      if (stamps[2] === 2 && stamps[0] !== 1) broken += 1;
    }
    return { broken, all };
  }

  test('given cache=writeback, then no power cut leaves a commit without its record', async () => {
    const { broken, all } = await imagesWithoutRecord('writeback');
    expect([broken, all]).toEqual([0, 3]);
  });

  test('given cache=unsafe, which says that it flushes, then a power cut leaves just that', async () => {
    const { broken, all } = await imagesWithoutRecord('unsafe');
    expect([broken, all]).toEqual([1, 4]);
  });
});

/** Some containers do not let anybody watch anybody. */
function mayTrace(): boolean {
  try {
    execFileSync('strace', ['-o', '/dev/null', 'true']);
    return true;
  } catch {
    return false;
  }
}
