// Goal: the server keeps to the protocol as others understand it. Method: clients that nobody here wrote do what they
// are made for: libnbd's tools, QEMU's, fio, and a file system through nbdfuse. What they wrote is looked at in the
// storage itself, not only through the server.

import { spawn } from 'node:child_process';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { mkdir, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { IoScheduler, MemoryStorage, type TraceEvent } from 'write-barrier';
import { FileStorage } from 'write-barrier/node';
import { NbdServer, type NbdServerOptions } from '../../src/nbd/index.js';
import { serve } from '../cli/server.js';
import { temporaryFolder } from '../nbd/support.js';
import { missing, PYTHON, run, succeeds, titled } from './nbd-programs.js';

const SIZE = 16 << 20;

let folder: Awaited<ReturnType<typeof temporaryFolder>>;
let socket = '';
let uri = '';
let server: NbdServer | undefined;

beforeEach(async () => {
  folder = await temporaryFolder();
  socket = join(folder.path, 's');
  uri = `nbd+unix:///?socket=${socket}`;
});

afterEach(async () => {
  await server?.close();
  server = undefined;
  await folder.remove();
});

async function serving(
  exports: NbdServerOptions['exports'],
  options: Omit<NbdServerOptions, 'exports'> = {},
): Promise<NbdServer> {
  server = new NbdServer({ exports, ...options });
  await server.listen({ path: socket });
  return server;
}

/** Waits until `holds`; the test's own time limit is the limit. */
async function until(holds: () => boolean): Promise<void> {
  while (!holds()) await new Promise((resolve) => setTimeout(resolve, 5));
}

/** Bytes that are not zero and do not repeat soon. */
function noise(length: number): Uint8Array {
  let state = 1;
  return Uint8Array.from({ length }, () => {
    state = (Math.imul(state, 1103515245) + 12345) >>> 0;
    return state >>> 16;
  });
}

const libnbd = missing('nbdinfo', 'nbdcopy');

describe.skipIf(libnbd.length > 0)(titled('libnbd', libnbd), () => {
  interface Info {
    readonly protocol: string;
    readonly TLS: boolean;
    readonly structured: boolean;
    readonly exports: readonly Record<string, unknown>[];
  }
  const info = async (...args: string[]): Promise<Info> =>
    JSON.parse(await succeeds('nbdinfo', ['--json', ...args])) as Info;

  test('nbdinfo reads what the capabilities say, of every export', async () => {
    const volatile = { cache: 'volatile', fua: false, discard: false, writeZeroes: false } as const;
    await serving({
      '': new MemoryStorage(SIZE, { capabilities: { fastZeroes: true } }),
      cached: new MemoryStorage(SIZE, { capabilities: volatile }),
      lost: new MemoryStorage(SIZE, { capabilities: { ...volatile, flush: false } }),
      archive: { storage: new MemoryStorage(SIZE), readOnly: true, description: 'of last year' },
      large: new MemoryStorage(SIZE, { capabilities: { blockSize: 4096 } }),
    });
    const { protocol, structured, exports } = await info('--list', uri);
    expect({ protocol, structured }).toEqual({ protocol: 'newstyle-fixed', structured: true });
    const can = exports.map((one) => [
      one['export-name'],
      ...['can_flush', 'can_fua', 'can_trim', 'can_zero', 'can_fast_zero', 'is_read_only'].map(
        (name) => (one[name] === true ? name.slice(name.indexOf('_') + 1) : '-'),
      ),
    ]);
    expect(can).toEqual([
      ['', 'flush', 'fua', 'trim', 'zero', 'fast_zero', '-'],
      ['cached', 'flush', 'fua', '-', 'zero', '-', '-'],
      ['lost', '-', '-', '-', 'zero', '-', '-'],
      ['archive', 'flush', 'fua', '-', '-', '-', 'read_only'],
      ['large', 'flush', 'fua', 'trim', 'zero', '-', '-'],
    ]);
    for (const one of exports)
      expect(one).toMatchObject({ can_multi_conn: true, 'export-size': SIZE });
    expect(exports[3]).toMatchObject({ description: 'of last year' });
    expect(exports[4]).toMatchObject({ block_size_minimum: 4096, block_size_maximum: 32 << 20 });
    expect(JSON.parse(await succeeds('nbdinfo', ['--map', '--json', uri]))).toMatchObject([
      { offset: 0, length: SIZE, type: 3 },
    ]);
  });

  test('nbdcopy --flush brings data in and out, and they are the same', async () => {
    const [image, source, target] = ['disk', 'source', 'target'].map((name) =>
      join(folder.path, name),
    );
    const data = noise(SIZE);
    data.fill(0, 1 << 20, 3 << 20);
    writeFileSync(source as string, data);
    const events: TraceEvent[] = [];
    const storage = await FileStorage.open(image as string, { size: SIZE });
    const disk = new IoScheduler(storage, { observer: (event) => events.push(event) });
    await serving({ '': disk });
    await succeeds('nbdcopy', ['--flush', source as string, uri]);
    expect(Buffer.compare(await readFile(image as string), data)).toBe(0);
    await succeeds('nbdcopy', [uri, target as string]);
    expect(Buffer.compare(await readFile(target as string), data)).toBe(0);
    // Each of its connections flushes once it has its replies, and the last thing the disk did was a flush.
    const commands = events.flatMap((event) => (event.kind === 'dispatch' ? [event.what.op] : []));
    expect(commands.filter((op) => op !== 'read').at(-1)).toBe('flush');
    await server?.close();
    await disk.close();
  });

  test('a server that is closed leaves the clients with an error, and no socket', async () => {
    const closing = await serving({ '': new MemoryStorage(SIZE) });
    await closing.close();
    expect(existsSync(socket)).toBe(false);
    expect((await run('nbdinfo', [uri])).code).not.toBe(0);
  });
});

const python = missing(PYTHON);
const noModule = python.length > 0 || (await run(PYTHON, ['-c', 'import nbd'])).code !== 0;

describe.skipIf(noModule)(
  titled('the Python shell of libnbd', noModule ? ['python3-libnbd'] : []),
  () => {
    const shell = async (program: string): Promise<string> =>
      (await succeeds(PYTHON, ['-m', 'nbd', '-u', uri, '-c', program])).trim();

    test('FUA is a write that the device forces', async () => {
      const events: TraceEvent[] = [];
      const storage = new MemoryStorage(SIZE, { capabilities: { cache: 'volatile' } });
      await serving({ '': new IoScheduler(storage, { observer: (event) => events.push(event) }) });
      await shell(
        'h.pwrite(b"x" * 512, 0, nbd.CMD_FLAG_FUA); h.pwrite(b"y" * 512, 512); h.flush()',
      );
      const commands = events.flatMap((event) => (event.kind === 'dispatch' ? [event.what] : []));
      expect(commands.map(({ op, fua }) => (fua ? `${op}!` : op)).slice(0, 3)).toEqual([
        'write!',
        'write',
        'flush',
      ]);
      expect(Buffer.from(storage.bytes.subarray(510, 514)).toString()).toBe('xxyy');
    });

    test('sixty-four requests at once are all answered', async () => {
      await serving({ '': new MemoryStorage(SIZE) });
      const program = `
buffers = []
cookies = []
for i in range(64):
    data = nbd.Buffer.from_bytearray(bytearray([i]) * 65536)
    cookies.append(h.aio_pwrite(data, i * 65536, flags=nbd.CMD_FLAG_FUA if i % 3 == 0 else 0))
    buffers.append(data)
while h.aio_in_flight() > 0:
    h.poll(-1)
for cookie in cookies:
    assert h.aio_command_completed(cookie)
h.flush()
print(all(h.pread(65536, i * 65536) == bytes([i]) * 65536 for i in range(64)))`;
      expect(await shell(program)).toBe('True');
    });

    test('an illegal request has the error of the protocol, and the next one is served', async () => {
      await serving({ '': new MemoryStorage(SIZE) });
      const program = `
h.set_strict_mode(0)
def said(f):
    try:
        f()
        return "ok"
    except nbd.Error as e:
        return e.errno
size = h.get_size()
print(*[said(f) for f in [
    lambda: h.pread(100, 0),
    lambda: h.pread(512, 100),
    lambda: h.pread(512, size),
    lambda: h.pwrite(b"a" * 512, size),
    lambda: h.zero(512, size),
    lambda: h.trim(512, size),
    lambda: h.pread(512, 0, 0x40),
    lambda: h.pwrite(b"a" * 512, 0, nbd.CMD_FLAG_DF),
    lambda: h.pread(33 * 1024 * 1024, 0),
    lambda: h.pwrite(bytearray(33 * 1024 * 1024), 0),
    lambda: h.zero(512, 0, nbd.CMD_FLAG_FAST_ZERO | nbd.CMD_FLAG_NO_HOLE),
    lambda: h.pread(512, 0),
]])`;
      const [EINVAL, ENOSPC] = ['EINVAL', 'ENOSPC'];
      const first = [
        EINVAL,
        EINVAL,
        EINVAL,
        ENOSPC,
        ENOSPC,
        EINVAL,
        EINVAL,
        EINVAL,
        EINVAL,
        EINVAL,
      ];
      expect((await shell(program)).split(' ')).toEqual([...first, 'ENOTSUP', 'ok']);
    });

    test('a client that does not ask for block sizes is let in only where they are the usual ones', async () => {
      await serving({
        '': new MemoryStorage(SIZE),
        large: new MemoryStorage(SIZE, { capabilities: { blockSize: 4096 } }),
      });
      const opens = (name: string, asks: boolean): string =>
        [
          'h = nbd.NBD()',
          `h.set_request_block_size(${asks ? 'True' : 'False'})`,
          'try:',
          `    h.connect_uri(${JSON.stringify(uri.replace('///', `///${name}`))})`,
          '    print("in")',
          'except nbd.Error as ex:',
          '    print("out")',
        ].join('\n');
      const program = [opens('', false), opens('large', false), opens('large', true)].join('\n');
      expect((await shell(program)).split(/\s+/)).toEqual(['in', 'out', 'in']);
      expect(server?.stats().refusedOptions).toBeGreaterThan(0);
    });

    test('a read-only export refuses to be written', async () => {
      await serving({ '': { storage: new MemoryStorage(SIZE), readOnly: true } });
      const program = `
h.set_strict_mode(0)
try:
    h.pwrite(b"a" * 512, 0)
except nbd.Error as e:
    print(e.errno)`;
      expect(await shell(program)).toBe('EPERM');
    });
  },
);

const qemu = missing('qemu-io', 'qemu-img');

describe.skipIf(qemu.length > 0)(titled('QEMU', qemu), () => {
  const io = (...commands: string[]): Promise<string> =>
    succeeds('qemu-io', ['-f', 'raw', ...commands.flatMap((command) => ['-c', command]), uri]);

  test('qemu-io writes with FUA, discards, zeroes and reads back', async () => {
    const storage = new MemoryStorage(SIZE);
    await serving({ '': storage });
    const said = await io(
      'write -f -P 5 0 64k',
      'read -P 5 0 64k',
      'write -z 4k 8k',
      'write -z -u 16k 8k',
      'read -P 0 4k 8k',
      'read -P 0 16k 8k',
      'read -P 5 12k 4k',
      'discard 32k 8k',
      'flush',
    );
    expect(said).not.toMatch(/fail|error/i);
    expect(storage.bytes[32 << 10]).toBe(MemoryStorage.DISCARDED);
  });

  test('overlapping asynchronous writes leave one of the two, block by block', async () => {
    const storage = new MemoryStorage(SIZE);
    await serving({ '': storage });
    const writes = Array.from({ length: 20 }, (_, i) => `aio_write -P ${i + 1} ${i * 4}k 64k`);
    await io(...writes, 'aio_flush', 'flush');
    for (let at = 0; at < 140; at += 4) {
      const byte = storage.bytes[at << 10] as number;
      expect(storage.bytes.subarray(at << 10, (at + 4) << 10).every((one) => one === byte)).toBe(
        true,
      );
      expect(byte - 1).toBeGreaterThanOrEqual((at - 60) / 4);
      expect(byte - 1).toBeLessThanOrEqual(at / 4);
    }
  });

  test('qemu-img convert writes an image, and compare finds it the same', async () => {
    const source = join(folder.path, 'source');
    writeFileSync(source, noise(SIZE));
    await serving({ '': new MemoryStorage(SIZE) });
    await succeeds('qemu-img', ['convert', '-n', '-f', 'raw', '-O', 'raw', source, uri]);
    expect(
      await succeeds('qemu-img', ['compare', source, '-f', 'raw', '-F', 'raw', uri]),
    ).toContain('identical');
  });
});

const fio = missing('fio');

describe.skipIf(fio.length > 0)(titled('fio', fio), () => {
  test.each(['fsync', 'fdatasync'])(
    'random writes at depth 32 with %s, verified by crc32c',
    async (_sync) => {
      const storage = await FileStorage.open(join(folder.path, 'disk'), { size: SIZE });
      const running = await serving({ '': storage });
      const said = await succeeds(
        'fio',
        [
          '--name=t',
          '--ioengine=nbd',
          `--uri=${uri}`,
          '--rw=randwrite',
          '--bs=4k',
          `--size=${SIZE}`,
          '--iodepth=32',
          '--fsync=8',
          '--verify=crc32c',
          '--verify_fatal=1',
        ],
        folder.path,
      );
      expect(said).toMatch(/err= 0/);
      const { failed, flushes, bytesWritten, bytesRead } = running.stats();
      expect({ failed, bytesWritten, bytesRead }).toEqual({
        failed: 0,
        bytesWritten: SIZE,
        bytesRead: SIZE,
      });
      expect(flushes).toBeGreaterThan(SIZE / 4096 / 8 / 2);
      await running.close();
      await storage.close();
    },
  );
});

const fuse = [
  ...missing('nbdfuse', 'mkfs.ext4', 'e2fsck', 'umount', 'debugfs'),
  ...(existsSync('/dev/fuse') ? [] : ['/dev/fuse']),
];

describe.skipIf(fuse.length > 0)(titled('nbdfuse', fuse), () => {
  test('carries a file system that its own tools find clean', async () => {
    const storage = new MemoryStorage(SIZE);
    await serving({ '': storage });
    const mount = join(folder.path, 'mount');
    await mkdir(mount);
    const child = spawn('nbdfuse', [mount, uri], { stdio: 'ignore' });
    const over = new Promise((resolve) => child.once('exit', resolve));
    try {
      const disk = join(mount, 'nbd');
      while (!existsSync(disk)) {
        if (child.exitCode !== null) throw new Error('nbdfuse has ended');
        await new Promise((resolve) => setTimeout(resolve, 20));
      }
      const file = join(folder.path, 'file');
      writeFileSync(file, noise(1 << 20));
      await succeeds('mkfs.ext4', ['-q', '-F', disk]);
      await succeeds('debugfs', ['-w', '-R', `write ${file} copy`, disk]);
      await succeeds('e2fsck', ['-fn', disk]);
      const back = join(folder.path, 'back');
      await succeeds('debugfs', ['-R', `dump copy ${back}`, disk]);
      expect(Buffer.compare(readFileSync(back), readFileSync(file))).toBe(0);
    } finally {
      await run('umount', [mount]);
      child.kill();
      await over;
    }
    // The same from outside: what the storage holds is a file system.
    const image = join(folder.path, 'image');
    writeFileSync(image, storage.bytes);
    await succeeds('e2fsck', ['-fn', image]);
  });
});

const keys = missing('openssl', 'nbdinfo');

describe.skipIf(keys.length > 0)(titled('TLS', keys), () => {
  const HEX = '0f1e2d3c4b5a69788796a5b4c3d2e1f00f1e2d3c4b5a69788796a5b4c3d2e1f0';
  let pki = '';

  /** A little authority, and a server's and a client's certificate of its making. */
  async function makeKeys(): Promise<void> {
    pki = join(folder.path, 'pki');
    await mkdir(pki);
    const openssl = (line: string): Promise<string> => succeeds('openssl', line.split(' '), pki);
    writeFileSync(join(pki, 'names'), 'subjectAltName=DNS:localhost,IP:127.0.0.1\n');
    await openssl(
      'req -x509 -newkey rsa:2048 -nodes -keyout ca-key.pem -out ca-cert.pem -days 2 -subj /CN=ca',
    );
    for (const who of ['server', 'client']) {
      await openssl(
        `req -newkey rsa:2048 -nodes -keyout ${who}-key.pem -out ${who}.csr -subj /CN=localhost`,
      );
      await openssl(
        `x509 -req -in ${who}.csr -CA ca-cert.pem -CAkey ca-key.pem -CAcreateserial -days 2 -out ${who}-cert.pem -extfile names`,
      );
    }
    writeFileSync(join(pki, 'keys.psk'), `alice:${HEX}\n`);
  }
  const pem = (name: string): Uint8Array => readFileSync(join(pki, name));
  const certificates = (): NonNullable<NbdServerOptions['tls']> => ({
    key: pem('server-key.pem'),
    cert: pem('server-cert.pem'),
    ca: pem('ca-cert.pem'),
  });
  const secure = (): string =>
    `nbds+unix:///?socket=${socket}&tls-certificates=${pki}&tls-hostname=localhost`;
  const psk = (who = 'alice'): string =>
    `nbds+unix://${who}@/?socket=${socket}&tls-psk-file=${join(pki, 'keys.psk')}`;

  test('nbdinfo comes in with a certificate, and not without TLS where it is required', async () => {
    await makeKeys();
    await serving({ '': new MemoryStorage(SIZE) }, { tls: certificates() });
    expect(await succeeds('nbdinfo', [secure()])).toContain('newstyle-fixed with TLS');
    expect((await run('nbdinfo', [uri])).code).not.toBe(0);
    writeFileSync(join(pki, 'client-cert.pem'), '');
    writeFileSync(join(pki, 'client-key.pem'), '');
    expect((await run('nbdinfo', [secure()])).code).not.toBe(0);
    await until(() => server?.stats().connections === 0);
  });

  test('a certificate of another authority is none', async () => {
    await makeKeys();
    const tls = certificates();
    const good = pem('ca-cert.pem');
    await rm(pki, { recursive: true });
    await makeKeys();
    await serving({ '': new MemoryStorage(SIZE) }, { tls });
    // The client takes the server's, so that it is the server that refuses.
    writeFileSync(join(pki, 'ca-cert.pem'), good);
    expect((await run('nbdinfo', [secure()])).code).not.toBe(0);
    expect(server?.stats()).toMatchObject({ accepted: 1, requests: 0 });
    await until(() => server?.stats().connections === 0);
  });

  test('each export has its policy', async () => {
    await makeKeys();
    const policies = ['off', 'optional', 'required'] as const;
    const exports = policies.map(
      (tls) => [tls, { storage: new MemoryStorage(SIZE), tls }] as const,
    );
    await serving(Object.fromEntries(exports), { tls: certificates() });
    const opens = async (base: string, name: string): Promise<boolean> =>
      (await run('nbdinfo', [base.replace(':///', `:///${name}`)])).code === 0;
    const open = await Promise.all(
      policies.map(async (name) => [await opens(uri, name), await opens(secure(), name)]),
    );
    expect(open).toEqual([
      [true, false],
      [true, true],
      [false, true],
    ]);
  });

  test('nbdinfo comes in with a pre-shared key, and not as a stranger', async () => {
    await makeKeys();
    await serving(
      { '': new MemoryStorage(SIZE) },
      { tls: { psk: { alice: Buffer.from(HEX, 'hex') } } },
    );
    expect(await succeeds('nbdinfo', [psk()])).toContain('newstyle-fixed with TLS');
    writeFileSync(join(pki, 'keys.psk'), `alice:${HEX.replace('0', '1')}\nbob:${HEX}\n`);
    expect((await run('nbdinfo', [psk()])).code).not.toBe(0);
    expect((await run('nbdinfo', [psk('bob')])).code).not.toBe(0);
  });

  test.skipIf(qemu.length > 0)('qemu-io writes and reads through both', async () => {
    await makeKeys();
    const tls = { ...certificates(), psk: { alice: Buffer.from(HEX, 'hex') } };
    await serving({ '': new MemoryStorage(SIZE) }, { tls });
    const address = await server?.listen({ host: '127.0.0.1', port: 0 });
    const port = address && 'port' in address ? address.port : 0;
    const commands = ['-c', 'write -f -P 3 0 1M', '-c', 'read -P 3 0 1M', '-c', 'flush'];
    const drive = `driver=raw,file.driver=nbd,file.tls-creds=t,file.server.type=inet,file.server.host=localhost,file.server.port=${port}`;
    for (const credentials of [
      `tls-creds-x509,id=t,dir=${pki},endpoint=client`,
      `tls-creds-psk,id=t,dir=${pki},endpoint=client,username=alice`,
    ]) {
      const said = await succeeds('qemu-io', [
        '--object',
        credentials,
        '--image-opts',
        drive,
        ...commands,
      ]);
      expect(said).toContain('read 1048576/1048576');
    }
  });

  test('the example server takes its keys from files, of both kinds', async () => {
    await makeKeys();
    const image = [join(folder.path, 'disk'), '--size', '64K'];
    const files = ['cert', 'key'].flatMap((kind) => [
      `--tls-${kind}`,
      join(pki, `server-${kind}.pem`),
    ]);
    const others = ['--tls-ca', join(pki, 'ca-cert.pem'), '--tls-psk', join(pki, 'keys.psk')];
    const example = await serve(...image, '--socket', socket, ...files, ...others);
    expect(await succeeds('nbdinfo', [secure()])).toContain('newstyle-fixed with TLS');
    expect(await succeeds('nbdinfo', [psk()])).toContain('newstyle-fixed with TLS');
    expect((await run('nbdinfo', [uri])).code).not.toBe(0);
    expect(await example.kill('SIGTERM')).toBe(0);
  });

  test.skipIf(missing('nbdcopy').length > 0)('data go through TLS and back unharmed', async () => {
    await makeKeys();
    const storage = new MemoryStorage(SIZE);
    await serving({ '': storage }, { tls: certificates() });
    const [source, target] = [join(folder.path, 'source'), join(folder.path, 'target')];
    writeFileSync(source, noise(SIZE));
    await succeeds('nbdcopy', ['--flush', source, secure()]);
    expect(Buffer.compare(storage.bytes, readFileSync(source))).toBe(0);
    await succeeds('nbdcopy', [secure(), target]);
    expect(Buffer.compare(readFileSync(target), readFileSync(source))).toBe(0);
  });
});
