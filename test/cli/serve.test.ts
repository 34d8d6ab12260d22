// Goal: `write-barrier serve` is a server that can be used. Method: it runs as a process, as its user starts it, and
// the library's own client is its client; NBD's other programs have a test of their own, with a kernel (test/interop).

import { execFileSync, type StdioOptions, spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readFileSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { type AddressInfo, createServer } from 'node:net';
import { dirname, join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { describe, expect, onTestFinished, test, vi } from 'vitest';
import { IoScheduler, MemoryStorage, type Storage } from 'write-barrier';
import { listExports, NbdStorage } from 'write-barrier/nbd';
import { seededRandom } from 'write-barrier/testing';
import { decodeTrace } from 'write-barrier/testing/lab';
import { ignoringFlushes, volatileCache } from '../../src/cli/disks.js';
import { emptyFolder } from '../examples/folder.js';
import { AUTHORITY, ELSEWHERE } from '../nbd/client-tls-server.js';
import { CLI, runCommand } from './run.js';
import { serve, serveAsService } from './server.js';

const BLOCK = 4096;

/** Also false for one that has ended and was not asked for its end. */
function isRunning(pid: number): boolean {
  try {
    return !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'));
  } catch {
    return false;
  }
}

const block = (fill: number): Uint8Array => new Uint8Array(BLOCK).fill(fill);

test.each(['SIGINT', 'SIGTERM'] as const)(
  'it serves a new file, tells what it did, and after %s everything is in the file',
  async (signal) => {
    const folder = await emptyFolder();
    const [file, path] = [join(folder, 'disk.img'), join(folder, 'sock')];
    const server = await serve(
      ...[file, '--size', '1M', '--socket', path, '--interval', '1', '--mode', 'auto'],
    );
    expect(server.lines[0]).toMatch(/disk\.img: 1048576 bytes in DRAIN_F(UA|LUSH), nbd\+unix:/);
    expect(server.uri).toBe(`nbd+unix:///?socket=${path}`);
    const disk = await NbdStorage.connect({ path });
    await disk.write(BLOCK, block(7), { fua: false, tag: 'simple' });
    await disk.flush({ tag: 'simple' });
    expect(
      await server.says(/^clients 1 of 1; requests 2, failed 0; bytes read 0, written 4096; /),
    ).toMatch(/flushes 1; at the disk: reads 0, writes 1, flushes 1, in flight 0$/);
    await disk.write(0, block(8), { fua: false, tag: 'simple' });
    await disk.close();
    expect(await server.kill(signal)).toBe(0);
    expect(server.lines).toContain(`${signal}: completing what is under way`);
    expect(server.lines.at(-1)).toMatch(/^clients 0 of 1; requests \d+, failed 0; .*writes 2, /);
    expect(
      [...readFileSync(file).subarray(0, 2 * BLOCK)].filter((_, i) => i % BLOCK === 0),
    ).toEqual([8, 7]);
    for (const left of [path, `${file}.lock`]) expect(existsSync(left), left).toBe(false);
  },
);

test('it listens on a port as well, and in the mode that it is told', async () => {
  const folder = await emptyFolder();
  const path = join(folder, 'sock');
  const server = await serve(
    ...[join(folder, 'disk.img'), '--size', '65536', '--mode', 'drain_flush'],
    ...['--socket', path, '--port', '0'],
  );
  const [, port] = /nbd:\/\/127\.0\.0\.1:(\d+)$/.exec(server.lines[0] ?? '') ?? [];
  expect(server.lines[0]).toContain('in DRAIN_FLUSH, ');
  expect(server.lines.join()).not.toContain('unsafe');
  for (const address of [{ path }, { host: '127.0.0.1', port: Number(port) }]) {
    const disk = await NbdStorage.connect(address);
    expect(disk.size).toBe(65536);
    await disk.close();
  }
});

test('it serves on a socket that systemd has opened', async () => {
  const folder = await emptyFolder();
  const socket = createServer().listen(0, '127.0.0.1');
  await once(socket, 'listening');
  const { port } = socket.address() as AddressInfo;
  const words = [join(folder, 'disk.img'), '--size', '64K'];
  const server = await serveAsService(socket, ...words, '--systemd');
  expect(server.lines[0]).toContain(`disk.img: 65536 bytes, nbd://127.0.0.1:${port}`);
  const disk = await NbdStorage.connect({ host: '127.0.0.1', port });
  await disk.write(0, block(5), { fua: true, tag: 'simple' });
  await disk.close();
  expect(await server.kill('SIGTERM')).toBe(0);
  expect(readFileSync(words[0] as string)[0]).toBe(5);
});

test('a mode that is unsafe for barriers is told and taken, and a disk that lies is told', async () => {
  const folder = await emptyFolder();
  const words = [join(folder, 'disk.img'), '--size', '64K', '--ignore-flushes'];
  const server = await serve(...words, '--mode', 'NONE', '--socket', join(folder, 'sock'));
  expect(await server.says(/^NONE is unsafe for barriers: /)).toBeTruthy();
  expect(await server.says(/loses data\.$/)).toBeTruthy();
});

test('with a pre-shared key only those are served who have it', async () => {
  const folder = await emptyFolder();
  const [path, keys] = [join(folder, 'sock'), join(folder, 'keys.psk')];
  writeFileSync(keys, `alice:${'ab'.repeat(32)}\n`);
  const disk = [join(folder, 'disk.img'), '--size', '64K'];
  await serve(...disk, '--socket', path, '--tls-psk', keys);
  const psk = { identity: 'alice', key: Buffer.from('ab'.repeat(32), 'hex') };
  const opened = await NbdStorage.connect({ path, tls: { psk } });
  expect(opened.size).toBe(65536);
  await opened.close();
  await expect(NbdStorage.connect({ path })).rejects.toThrow();
});

test('given SIGKILL, the trace tells all that a client knew, on top of the disk as it was', async () => {
  const folder = await emptyFolder();
  const [file, path, trace] = ['disk.img', 'sock', 'trace'].map((name) => join(folder, name)) as [
    string,
    string,
    string,
  ];
  writeFileSync(file, Buffer.concat([block(3), block(4)]));
  const server = await serve(file, '--socket', path, '--trace', trace);
  const disk = await NbdStorage.connect({ path });
  await disk.write(0, block(1), { fua: false, tag: 'simple' });
  await disk.flush({ tag: 'simple' });
  await disk.write(BLOCK, block(2), { fua: true, tag: 'simple' });
  expect(await server.kill('SIGKILL')).toBe('SIGKILL');
  const { size, initial, commands } = decodeTrace(readFileSync(trace));
  expect([size, initial?.[0], initial?.[BLOCK]]).toEqual([2 * BLOCK, 3, 4]);
  const told = commands.map(({ op, offset, data, fua }) => ({ op, offset, fill: data?.[0], fua }));
  // On a file a forced write is a write and a flush.
  expect(told.slice(0, 4)).toEqual([
    { op: 'write', offset: 0, fill: 1, fua: false },
    { op: 'flush', offset: 0, fill: undefined, fua: false },
    { op: 'write', offset: BLOCK, fill: 2, fua: false },
    { op: 'flush', offset: 0, fill: undefined, fua: false },
  ]);
  expect(commands.every(({ completed }) => completed < Number.POSITIVE_INFINITY)).toBe(true);
  await disk.close().catch(() => {});
});

test('the commands and the code on its page do what the page says', async () => {
  const folder = await emptyFolder();
  const page = readFileSync(
    new URL('../../examples/07-nbd-server/README.md', import.meta.url),
    'utf8',
  );
  const commands = Array.from(
    page.matchAll(/^ {4}npm run example -- nbd-server (.+)$/gm),
    ([, words]) =>
      (words ?? '').split(' ').map((word) => (/^disk\./.test(word) ? join(folder, word) : word)),
  );
  expect(commands.length).toBe(2);
  for (const words of commands) {
    const server = await serve(...words);
    const disk = await NbdStorage.connect({ path: join(folder, 'disk.sock') });
    expect(disk.size).toBe(64 << 20);
    await disk.write(0, block(5), { fua: false, tag: 'simple' });
    await disk.close();
    expect(await server.kill('SIGTERM')).toBe(0);
  }
  const [, code] = /^```js\n([\s\S]*?)^```$/m.exec(page) ?? [];
  mkdirSync(join(folder, 'node_modules'));
  symlinkSync(
    fileURLToPath(new URL('../../', import.meta.url)),
    join(folder, 'node_modules/write-barrier'),
  );
  writeFileSync(join(folder, 'page.mjs'), `${code}\nconsole.log(image.length, image[0]);`);
  const said = execFileSync(process.execPath, ['page.mjs'], { cwd: folder, encoding: 'utf8' });
  expect(said).toBe(`${64 << 20} 5\n`);
});

test('several files are exports by name, and what is set for them holds for each', async () => {
  const folder = await emptyFolder();
  const path = join(folder, 'sock');
  const files = ['one', 'two'].map((name) => `${name}=${join(folder, name)}`);
  const common = ['--size', '64K', '--description', 'of last year', '--max-request', '64K'];
  const server = await serve(...files, ...common, '--socket', path);
  expect(await server.says(/nbd\+unix:\/\/\/two\?socket=/)).toContain(path);
  expect(await listExports({ path })).toEqual([
    { name: 'one', description: 'of last year' },
    { name: 'two', description: 'of last year' },
  ]);
  const two = await NbdStorage.connect({ path, export: 'two' });
  await two.write(0, block(2), { fua: true, tag: 'simple' });
  await two.close();
  expect(await server.kill('SIGTERM')).toBe(0);
  expect([readFileSync(join(folder, 'one'))[0], readFileSync(join(folder, 'two'))[0]]).toEqual([
    0, 2,
  ]);
});

test('a read-only disk takes no lock, and refuses writes', async () => {
  const folder = await emptyFolder();
  const [file, path] = [join(folder, 'disk.img'), join(folder, 'sock')];
  writeFileSync(file, block(6));
  const server = await serve(file, '--read-only', '--socket', path);
  expect(existsSync(`${file}.lock`)).toBe(false);
  const disk = await NbdStorage.connect({ path });
  await expect(disk.write(0, block(1), { fua: false, tag: 'simple' })).rejects.toThrow();
  await disk.close();
  expect(await server.kill('SIGTERM')).toBe(0);
  expect(readFileSync(file)[0]).toBe(6);
});

describe('with a command of its own', () => {
  test('it serves as long as that runs, tells it where, and ends as it ends', async () => {
    const folder = await emptyFolder();
    const tell = `echo "told $uri $exportname"; test -S "$socket" && cat pid && exit 7`;
    const words = ['name=disk.img', '--size', '64K', '--pid-file', 'pid', '--run', tell];
    const { code, stdout, stderr } = await runCommand(['serve', ...words], folder);
    expect({ code, stderr }).toEqual({ code: 7, stderr: '' });
    const [, socket = ''] = /^told nbd\+unix:\/\/\/name\?socket=(\S+) name$/m.exec(stdout) ?? [];
    expect(stdout).toMatch(/^\d+$/m);
    for (const left of [socket, dirname(socket), join(folder, 'pid')])
      expect(existsSync(left), left).toBe(false);
  });

  test('ended by a signal it ends the command, with what that has started', async () => {
    const folder = await emptyFolder();
    const linger = 'echo $$ > shell; sleep 300 & echo $! > child; wait';
    const server = await serve(
      join(folder, 'disk.img'),
      '--size',
      '64K',
      '--run',
      `cd ${folder}; ${linger}`,
    );
    await vi.waitFor(
      () => expect(readFileSync(join(folder, 'child'), 'utf8')).toMatch(/\d/),
      60_000,
    );
    expect(await server.kill('SIGTERM')).toBe(0);
    for (const name of ['shell', 'child']) {
      const pid = Number(readFileSync(join(folder, name), 'utf8'));
      await vi.waitFor(() => expect(isRunning(pid)).toBe(false), 60_000);
    }
  });

  test('an address that is given is the one that it is told', async () => {
    const folder = await emptyFolder();
    const words = ['disk.img', '--size', '64K', '--port', '0', '--run', 'echo "$uri $port"'];
    const { code, stdout } = await runCommand(['serve', ...words], folder);
    expect(code).toBe(0);
    expect(stdout).toMatch(/^nbd:\/\/127\.0\.0\.1:(\d+) \1$/m);
  });
});

test('the lock of a server that was killed keeps no other one out', async () => {
  const folder = await emptyFolder();
  const words = [join(folder, 'disk.img'), '--size', '64K'];
  const path = join(folder, 'sock');
  const first = await serve(...words, '--socket', path);
  await first.kill('SIGKILL');
  const second = await serve(...words, '--socket', path);
  expect(await second.kill('SIGTERM')).toBe(0);
});

describe('serve.E3: what is printed may be lost, and it serves on, until a signal ends it as ever', () => {
  const outputs: Record<string, (folder: string) => StdioOptions> = {
    'if its reader leaves': () => ['ignore', 'pipe', 'pipe'],
    ...(existsSync('/dev/full') && {
      'if its disk is full': () => ['ignore', openSync('/dev/full', 'w'), 'pipe'],
    }),
  };
  test.each(Object.entries(outputs))('%s', async (_, stdioIn) => {
    const folder = await emptyFolder();
    const [file, path] = [join(folder, 'disk.img'), join(folder, 'sock')];
    const stdio = stdioIn(folder);
    const words = [CLI, 'serve', file, '--size', '64K', '--socket', path];
    const child = spawn(process.execPath, words, { stdio });
    const ended = once(child, 'close');
    onTestFinished(() => void child.kill('SIGKILL'));
    if (typeof stdio[1] === 'number') closeSync(stdio[1]);
    child.stdout?.once('data', () => child.stdout?.destroy());
    let said = '';
    child.stderr?.on('data', (data) => {
      said += data;
    });
    await vi.waitFor(() => expect(existsSync(path)).toBe(true), { timeout: 30_000 });
    // Each client is told of when it opens the disk.
    for (const fill of [1, 2, 3]) {
      const disk = await NbdStorage.connect({ path });
      await disk.write(fill * BLOCK, block(fill), { fua: false, tag: 'simple' });
      await disk.close();
    }
    child.kill('SIGTERM');
    expect(await ended).toEqual([0, null]);
    expect(said).toMatch(/^write-barrier: what it prints is lost: .*\n$/);
    expect([1, 2, 3].map((at) => readFileSync(file)[at * BLOCK])).toEqual([1, 2, 3]);
    expect(existsSync(path)).toBe(false);
  });
});

describe('what makes no sense is told in one line, and nothing is made', () => {
  const disk = ['disk.img', '--size', '64K'];
  const served = [...disk, '--socket', 's'];
  test.each([
    ['FILE is missing', []],
    ["'name=' names no file", ['name=']],
    ['a.img and b.img are both the default export', ['a.img', 'b.img', '--socket', 's']],
    ['--socket, --port, --fd, --systemd or --run is missing', ['disk.img']],
    ['--systemd: systemd has opened no socket for this process', [...disk, '--systemd']],
    ['--run needs --socket or --port beside', [...disk, '--fd', '3', '--run', 'true']],
    ['--fd takes a whole number from 0 to 65535', [...disk, '--fd', 'x']],
    ["Unknown option '--sise'", ['disk.img', '--sise', '1M']],
    ['--size takes bytes, as 1048576 or 64M, at least 1, not 12X', [...served, '--size', '12X']],
    ['--size takes bytes', [...served, '--size', '0']],
    ['--size makes or extends a file', [...served, '--read-only']],
    ['--mode must be one of NONE', [...served, '--mode', 'LAZY']],
    ['--depth takes a whole number from 1', [...served, '--depth', '0']],
    ['--port takes a whole number from 0 to 65535, not 65536', [...disk, '--port', '65536']],
    ['--interval takes seconds', [...served, '--interval', 'soon']],
    ['--max-connections takes a whole number', [...served, '--max-connections', 'many']],
    [
      '--max-request takes bytes, as 1048576 or 64M, at least 65536',
      [...served, '--max-request', '1K'],
    ],
    [
      '--handshake-timeout takes seconds, at least 0.001, not 0',
      [...served, '--handshake-timeout', '0'],
    ],
    ["Option '--size' argument is ambiguous", ['disk.img', '--size', '-1', '--socket', 's']],
    ['use --block-size 1, which fits every size, or --size 1024', [...served, '--size', '1000']],
    ['listening on descriptor 4 failed', [...disk, '--fd', '4']],
    ['listening on descriptor 9999 failed: EBADF', [...disk, '--fd', '9999']],
    ['--host goes with --port', [...served, '--host', '::1']],
    ['--tls goes with', [...served, '--tls', 'required']],
    ['--tls-cert and --tls-key go together', [...served, '--tls-cert', 'cert.pem']],
    ['--tls-ca goes with --tls-cert', [...served, '--tls-ca', 'ca.pem']],
    ['--trace is of one disk', ['a=a.img', 'b=b.img', '--trace', 't']],
    ['no such file', [...served, '--tls-psk', 'nowhere.psk']],
    [
      "must be a loopback address, not '192.0.2.1'; other machines need --tls-ca",
      [...disk, '--host', '192.0.2.1', '--port', '0'],
    ],
    ['listening on /nowhere/sock failed', [...disk, '--socket', '/nowhere/sock']],
    ['absent.img does not exist; to create it, use --size', ['absent.img', '--socket', 's']],
  ])('%s', async (message, words) => {
    const folder = await emptyFolder();
    const ended = await runCommand(['serve', ...words], folder);
    expect(ended).toMatchObject({ code: 2, stdout: '' });
    expect(ended.stderr.toLowerCase()).toContain(message.toLowerCase());
    expect(ended.stderr).toMatch(/^write-barrier serve: .*\n$/);
    for (const left of ['disk.img', 'disk.img.lock', 's', 't'])
      expect(existsSync(join(folder, left))).toBe(false);
  });

  test('another machine is let in with a key only: a certificate that asks clients for nothing is not enough', async () => {
    const folder = await emptyFolder();
    const file = (name: string, text: string): string => {
      writeFileSync(join(folder, name), text);
      return join(folder, name);
    };
    const pair = ['--tls-cert', file('c', ELSEWHERE.cert), '--tls-key', file('k', ELSEWHERE.key)];
    const psk = ['--tls-psk', file('p', `alice:${'0f'.repeat(32)}\n`)];
    const disk = [join(folder, 'disk.img'), '--size', '64K'];
    const remote = [...disk, '--host', '0.0.0.0', '--port', '0'];
    const refused = await runCommand(['serve', ...remote, ...pair]);
    expect(refused).toMatchObject({ code: 2, stdout: '' });
    expect(refused.stderr).toContain('must be a loopback address');
    for (const keys of [psk, [...pair, '--tls-ca', file('a', AUTHORITY)]]) {
      const server = await serve(...remote, ...keys);
      expect(server.lines.join()).toContain('nbd://0.0.0.0:');
      expect(await server.kill('SIGTERM')).toBe(0);
    }
  });

  test('a disk that another server has, and a trace that is there already, are left alone', async () => {
    const folder = await emptyFolder();
    const [file, trace] = [join(folder, 'disk.img'), join(folder, 'trace')];
    writeFileSync(trace, 'precious');
    const words = [file, '--size', '64K', '--socket', join(folder, 's')];
    const told = await runCommand(['serve', ...words, '--trace', trace]);
    expect(told).toMatchObject({ code: 2 });
    expect(told.stderr).toContain('EEXIST');
    expect(readFileSync(trace, 'utf8')).toBe('precious');
    await serve(...words);
    const other = [file, '--socket', join(folder, 'other')];
    expect(await runCommand(['serve', ...other])).toMatchObject({
      code: 2,
      stderr: expect.stringContaining('write-barrier serve: '),
    });
  });

  test('help is no mistake', async () => {
    const { code, stdout } = await runCommand(['serve', '--help']);
    expect(code).toBe(0);
    for (const option of [
      '--trace',
      '--tls-psk',
      '--max-memory',
      '--systemd',
      '--ignore-flushes',
    ]) {
      expect(stdout).toContain(`  ${option} `);
    }
  });
});

describe('the disks for experiments', () => {
  const SIZE = 16 * BLOCK;
  const SIMPLE = { tag: 'simple', fua: false } as const;
  const medium = (): { bytes: Uint8Array; storage: Storage } => {
    const bytes = new Uint8Array(SIZE);
    return {
      bytes,
      storage: new MemoryStorage(bytes, { capabilities: { cache: 'volatile' } }),
    };
  };

  test('behind the volatile cache a write is read at once, and on the medium after a flush', async () => {
    let [early, late] = [0, 0];
    for (let seed = 0; seed < 20; seed++) {
      const { bytes, storage } = medium();
      const disk = volatileCache(storage, seed);
      for (const version of [1, 2]) {
        await disk.write(BLOCK, block(version), SIMPLE);
        const into = block(0);
        await disk.read(BLOCK, into);
        expect(into).toEqual(block(version));
        if (bytes[BLOCK] === version) early += 1;
        else late += 1;
      }
      await disk.flush({ tag: 'simple' });
      expect(bytes.subarray(BLOCK, 2 * BLOCK)).toEqual(block(2));
    }
    expect(early).toBeGreaterThan(5);
    expect(late).toBeGreaterThan(15);
  });

  /** A disk that answers in any order, and keeps nothing that was not flushed. */
  const lazyDisk = (random: () => number): { medium: () => Uint8Array; storage: Storage } => {
    const content = new Uint8Array(SIZE);
    let medium = content.slice();
    const flags = { flush: true, fua: false, orderedTags: false };
    const storage: Storage = {
      size: SIZE,
      capabilities: { blockSize: BLOCK, cache: 'volatile', ...flags },
      read: (offset, into) => into.set(content.subarray(offset, offset + into.length)),
      write: async (offset, data) => {
        await setTimeout(12 * random());
        content.set(data, offset);
      },
      flush: async () => {
        const covered = content.slice();
        await setTimeout(2 * random());
        medium = covered;
      },
      close: () => {},
    };
    return { medium: () => medium, storage };
  };

  // Goal: whatever overtakes what, a flush covers all that was answered before it, and nothing older comes back. Method:
  // four clients, each with two blocks of its own, and a look at the medium whenever a flush returns.
  test('under many clients at once it loses nothing that was flushed', async () => {
    const trial = async (seed: number): Promise<void> => {
      const random = seededRandom(seed);
      const { medium, storage } = lazyDisk(random);
      const scheduler = new IoScheduler(volatileCache(storage, seed));
      const newest = new Array<number>(8).fill(0);
      const work = async (client: number): Promise<void> => {
        for (let version = 1; version <= 12; version++) {
          const place = 2 * client + (version % 2);
          await scheduler.write(place * BLOCK, block(version));
          newest[place] = version;
          if ((version + client) % 3 === 0) {
            const covered = [...newest];
            await scheduler.flush();
            for (const [at, each] of covered.entries()) {
              expect(medium()[at * BLOCK], `seed ${seed}, block ${at}`).toBeGreaterThanOrEqual(
                each,
              );
            }
          }
          const [found] = await scheduler.read(place * BLOCK, BLOCK);
          expect(found, `seed ${seed}, block ${place}`).toBe(version);
          if (random() < 0.4) await setTimeout(6 * random());
        }
      };
      await Promise.all([0, 1, 2, 3].map(work));
      await scheduler.flush();
      expect(newest.map((_, at) => medium()[at * BLOCK])).toEqual(newest);
    };
    await Promise.all(Array.from({ length: 100 }, (_, seed) => trial(seed)));
  });

  test('the liar answers flushes and forced writes, and hands neither on', async () => {
    const asked: string[] = [];
    const { storage } = medium();
    const disk = ignoringFlushes({
      size: SIZE,
      capabilities: storage.capabilities,
      read: (offset, into) => storage.read(offset, into),
      write: (offset, data, { fua }) => {
        asked.push(`write ${fua}`);
        return storage.write(offset, data, SIMPLE);
      },
      flush: () => void asked.push('flush'),
      close: () => storage.close(),
    });
    expect(disk.capabilities).toMatchObject({ flush: true, fua: true, cache: 'volatile' });
    await disk.write(0, block(1), { tag: 'simple', fua: true });
    await disk.flush({ tag: 'simple' });
    expect(asked).toEqual(['write false']);
  });
});
