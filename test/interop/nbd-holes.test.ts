// Goal: holes are what others take them for. Method: the programs that ask for them (nbdinfo, nbdcopy, qemu-img, nbdsh) map and copy
// sparse exports, and those that make them (qemu-io, fstrim of a guest's kernel) free blocks of the file. The first group is libnbd's
// own tests for holes, written anew: info/info-map-base-allocation.sh, info/info-map-totals.sh, copy/copy-nbd-to-sparse-file.sh and
// copy/copy-sparse.sh.

import { mkdtempSync, rmSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { open, readFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeEach, describe, expect, test } from 'vitest';
import { FileStorage } from 'write-barrier/node';
import { NbdServer, type NbdServerOptions, NbdStorage } from '../../src/nbd/index.js';
import { temporaryFolder } from '../nbd/support.js';
import { boot, GUEST_PROGRAMS, kernelPackage, machineFor } from './guest.js';
import { missing, PYTHON, run, succeeds, titled } from './nbd-programs.js';

const KIB = 1024;
const MIB = 1024 * KIB;
const GIB = 1024 * MIB;
const PLAIN = { fua: false, tag: 'simple' } as const;

let folder: Awaited<ReturnType<typeof temporaryFolder>>;
let socket = '';
let uri = '';
let image = '';
const ends: (() => Promise<unknown>)[] = [];

beforeEach(async () => {
  folder = await temporaryFolder();
  socket = join(folder.path, 's');
  image = join(folder.path, 'disk.img');
  uri = `nbd+unix:///?socket=${socket}`;
});
afterEach(async () => {
  for (const end of ends.splice(0).reverse()) await end();
  await folder.remove();
});

async function serving(exports: NbdServerOptions['exports']): Promise<void> {
  const server = new NbdServer({ exports });
  await server.listen({ path: socket });
  ends.push(() => server.close());
}

/** A file that is all hole, at the socket. */
async function sparse(size: number): Promise<FileStorage> {
  const storage = await FileStorage.open(image, { size });
  ends.push(() => storage.close());
  await serving({ '': storage });
  return storage;
}

const ones = (length: number): Uint8Array => new Uint8Array(length).fill(1);
/** The space that a file takes, in bytes. */
const spaceOf = (path: string): number => statSync(path).blocks * 512;

interface Run {
  readonly offset: number;
  readonly length: number;
  readonly type: number;
}

const libnbd = missing('nbdinfo', 'nbdcopy');
const map = async (): Promise<readonly Run[]> =>
  JSON.parse(await succeeds('nbdinfo', ['--map', '--json', uri])) as Run[];

describe.skipIf(libnbd.length > 0)(titled("libnbd's tests for holes", libnbd), () => {
  test('map-base-allocation: nbdinfo --map has data where was written, zeroes where was zeroed, holes elsewhere', async () => {
    const storage = await sparse(MIB);
    await storage.write(0, ones(64 * KIB), PLAIN);
    await storage.write(256 * KIB, ones(128 * KIB), PLAIN);
    await storage.discard?.(320 * KIB, 64 * KIB);
    expect(await map()).toMatchObject([
      { offset: 0, length: 64 * KIB, type: 0 },
      { offset: 64 * KIB, length: 192 * KIB, type: 3 },
      { offset: 256 * KIB, length: 64 * KIB, type: 0 },
      { offset: 320 * KIB, length: 704 * KIB, type: 3 },
    ]);
    expect(await succeeds('nbdinfo', ['--map', uri])).toMatch(/65536\s+196608\s+3\s+hole,zero/);
  });

  test('map-totals: nbdinfo --map --totals adds them up', async () => {
    const storage = await sparse(MIB);
    await storage.write(512 * KIB, ones(256 * KIB), PLAIN);
    const totals = JSON.parse(await succeeds('nbdinfo', ['--map', '--totals', '--json', uri]));
    expect(totals).toMatchObject([
      { size: 256 * KIB, percent: 25, type: 0 },
      { size: 768 * KIB, percent: 75, type: 3 },
    ]);
  });

  test('sparse-to-stream: nbdcopy sends a sparse export to a pipe as it is', async () => {
    const storage = await sparse(8 * MIB);
    await storage.write(3 * MIB, ones(MIB), PLAIN);
    const target = join(folder.path, 'stream');
    await succeeds('sh', ['-c', `nbdcopy '${uri}' - | cat > '${target}'`]);
    const expected = new Uint8Array(8 * MIB).fill(1, 3 * MIB, 4 * MIB);
    expect(Buffer.compare(await readFile(target), expected)).toBe(0);
  });

  test('copy-nbd-to-sparse-file: a copy has the holes of the export, and its bytes', async () => {
    const storage = await sparse(64 * MIB);
    await storage.write(0, ones(MIB), PLAIN);
    await storage.write(33 * MIB, ones(MIB), PLAIN);
    const target = join(folder.path, 'copy');
    await succeeds('nbdcopy', [uri, target]);
    expect(spaceOf(target)).toBe(2 * MIB);
    expect(Buffer.compare(await readFile(target), await readFile(image))).toBe(0);
  });

  test('copy-sparse: a sparse file that is copied to the export makes holes of what was there', async () => {
    writeFileSync(image, ones(16 * MIB));
    const storage = await FileStorage.open(image);
    ends.push(() => storage.close());
    await serving({ '': storage });
    const source = join(folder.path, 'source');
    writeFileSync(source, ones(MIB));
    truncateSync(source, 16 * MIB);
    await succeeds('nbdcopy', ['--flush', source, uri]);
    expect(spaceOf(image)).toBeLessThan(2 * MIB);
    expect(Buffer.compare(await readFile(image), await readFile(source))).toBe(0);
  });

  test('8 GiB of holes are copied without being read', async () => {
    const storage = await sparse(8 * GIB);
    await storage.write(5 * GIB, ones(MIB), PLAIN);
    const target = join(folder.path, 'copy');
    await succeeds('nbdcopy', [uri, target]);
    expect([statSync(target).size, spaceOf(target)]).toEqual([8 * GIB, MIB]);
    const file = await open(target);
    ends.push(() => file.close());
    const { buffer } = await file.read(new Uint8Array(MIB + 2), 0, MIB + 2, 5 * GIB - 1);
    expect([buffer[0], buffer[1], buffer[MIB], buffer[MIB + 1]]).toEqual([0, 1, 1, 0]);
    expect(await map()).toMatchObject([
      { offset: 0, length: 5 * GIB, type: 3 },
      { offset: 5 * GIB, length: MIB, type: 0 },
      { offset: 5 * GIB + MIB, length: 3 * GIB - MIB, type: 3 },
    ]);
  });
});

const noModule = missing(PYTHON).length > 0 || (await run(PYTHON, ['-c', 'import nbd'])).code !== 0;

describe.skipIf(noModule)(
  titled('the Python shell of libnbd', noModule ? ['python3-libnbd'] : []),
  () => {
    const shell = (program: string): Promise<string> =>
      succeeds(PYTHON, [
        ...['-m', 'nbd', '-c', 'h.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION)'],
        ...['-c', `h.connect_uri("${uri}")`, '-c', program],
      ]);

    test('gets holes in structured reads, none with DF, and one extent with REQ_ONE', async () => {
      const storage = await sparse(MIB);
      await storage.write(256 * KIB, ones(64 * KIB), PLAIN);
      const program = `
kinds = {nbd.READ_DATA: "data", nbd.READ_HOLE: "hole"}
def pieces(flags):
    found = []
    h.pread_structured(1048576, 0, lambda b, o, s, e: found.append((o // 1024, kinds[s])) or 0, flags)
    return found
def extents(flags):
    found = []
    h.block_status(1048576, 0, lambda m, o, e, err: found.extend(e) or 0, flags)
    return found
print(pieces(0), len(pieces(nbd.CMD_FLAG_DF)))
print(extents(0), extents(nbd.CMD_FLAG_REQ_ONE))`;
      const [reads, statuses] = (await shell(program)).trim().split('\n');
      expect(reads).toBe("[(0, 'hole'), (256, 'data'), (320, 'hole')] 1");
      expect(statuses).toBe('[262144, 3, 65536, 0, 720896, 3] [262144, 3]');
    });

    test('lists and chooses the context', async () => {
      await sparse(MIB);
      const program = 'print(h.can_meta_context("base:allocation"), h.can_meta_context("qemu:x"))';
      expect((await shell(program)).trim()).toBe('True False');
      const found = await succeeds('nbdinfo', ['--json', uri]);
      expect(JSON.parse(found).exports[0].contexts).toEqual(['base:allocation']);
    });
  },
);

const qemu = missing('qemu-img', 'qemu-io');

describe.skipIf(qemu.length > 0)(titled("QEMU's tools", qemu), () => {
  test('qemu-img map and convert take 8 GiB of holes for what they are', async () => {
    const storage = await sparse(8 * GIB);
    await storage.write(GIB, ones(MIB), PLAIN);
    const mapped = JSON.parse(
      await succeeds('qemu-img', ['map', '--output=json', '-f', 'raw', `nbd:unix:${socket}`]),
    ) as { start: number; length: number; zero: boolean; data: boolean }[];
    expect(mapped.map(({ start, length, zero, data }) => [start, length, zero, data])).toEqual([
      [0, GIB, true, false],
      [GIB, MIB, false, true],
      [GIB + MIB, 7 * GIB - MIB, true, false],
    ]);
    const target = join(folder.path, 'copy.qcow2');
    const convert = ['convert', '-f', 'raw', '-O', 'qcow2', `nbd:unix:${socket}`, target];
    await succeeds('qemu-img', convert);
    expect(spaceOf(target)).toBeLessThan(4 * MIB);
    const compare = ['compare', '-f', 'raw', '-F', 'qcow2', `nbd:unix:${socket}`, target];
    expect(await succeeds('qemu-img', compare)).toContain('identical');
  });

  test('qemu-io discard and write -z -u free blocks of the file, which read as zero', async () => {
    writeFileSync(image, ones(16 * MIB));
    const storage = await FileStorage.open(image);
    ends.push(() => storage.close());
    await serving({ '': storage });
    const before = spaceOf(image);
    const commands = ['discard 1M 4M', 'write -z -u 8M 2M', 'write -z -n -u 12M 1M', 'flush'];
    await succeeds('qemu-io', [
      ...['--image-opts', '-t', 'writeback', '-d', 'unmap'],
      ...commands.flatMap((command) => ['-c', command]),
      `driver=nbd,path=${socket}`,
    ]);
    expect(before - spaceOf(image)).toBe(7 * MIB);
    const expected = ones(16 * MIB);
    for (const [start, end] of [
      [1, 5],
      [8, 10],
      [12, 13],
    ] as const) {
      expected.fill(0, start * MIB, end * MIB);
    }
    expect(Buffer.compare(await readFile(image), expected)).toBe(0);
  });
});

const servers = missing('qemu-nbd', 'nbdkit', 'qemu-img');

describe.skipIf(servers.length > 0)(titled('our client', servers), () => {
  test('hears of the holes of qemu-nbd and of nbdkit, and reads around them', async () => {
    const source = join(folder.path, 'source');
    writeFileSync(source, ones(MIB));
    truncateSync(source, 64 * MIB);
    const options = [
      ...['-f', 'raw', '--discard=unmap', '--persistent'],
      '--fork',
      '-k',
      socket,
      '--pid-file',
      `${socket}.pid`,
    ];
    await succeeds('qemu-nbd', [...options, source]);
    ends.push(async () => process.kill(Number(await readFile(`${socket}.pid`, 'utf8'))));
    const kit = join(folder.path, 'kit');
    await succeeds('nbdkit', ['-U', kit, '-P', `${kit}.pid`, 'file', source]);
    ends.push(async () => process.kill(Number(await readFile(`${kit}.pid`, 'utf8'))));
    for (const path of [socket, kit]) {
      await using storage = await NbdStorage.connect({ path });
      expect(await storage.blockStatus?.(0, 64 * MIB)).toEqual([
        { length: MIB, hole: false, zero: false },
        { length: 63 * MIB, hole: true, zero: true },
      ]);
      const into = new Uint8Array(2 * MIB).fill(9);
      await storage.read(0, into);
      expect(Buffer.compare(into, new Uint8Array(2 * MIB).fill(1, 0, MIB))).toBe(0);
      await storage.discard?.(0, MIB / 2);
      await storage.flush({ tag: 'simple' });
      const [first] = (await storage.blockStatus?.(0, 64 * MIB)) ?? [];
      expect(first).toEqual({ length: MIB / 2, hole: true, zero: true });
      await storage.write(0, ones(MIB), PLAIN);
    }
  });
});

const kernel = await kernelPackage();
const absent = [
  ...missing(...GUEST_PROGRAMS, 'e2fsck', 'apt-get', 'dpkg-deb'),
  ...(kernel === undefined ? ['package of a kernel in apt'] : []),
];

describe.skipIf(absent.length > 0)(titled('fstrim in a guest with a real kernel', absent), () => {
  const home = mkdtempSync(join(tmpdir(), 'write-barrier-fstrim-'));
  afterAll(() => rmSync(home, { recursive: true, force: true }));

  test('frees the blocks of the file that a deleted file of the guest took', async () => {
    const script = `
mount -t ext4 /dev/vda /disk || { echo "no disk"; poweroff -f; }
dd if=/dev/urandom of=/disk/large bs=64k count=128 conv=fsync 2> /dev/null
echo "written"
sleep 2
rm /disk/large
sync
fstrim -v /disk && echo "trimmed"
umount /disk
echo "done"
poweroff -f
`;
    const machine = await machineFor(kernel ?? '', home, { modules: [], script, entries: [] });
    const layout = ['-b', '4096', '-J', 'size=4', '-E', 'lazy_itable_init=0'];
    await succeeds('mkfs.ext4', ['-q', '-F', ...layout, image, '32M']);
    const storage = await FileStorage.open(image);
    ends.push(() => storage.close());
    await serving({ '': storage });
    const empty = spaceOf(image);
    const guest = boot(machine, [socket]);
    ends.push(() => guest.kill());
    expect(await guest.says('written'), guest.lines.join('\n')).toBe(true);
    expect(spaceOf(image)).toBeGreaterThan(empty + 7 * MIB);
    expect(await guest.says('done'), guest.lines.join('\n')).toBe(true);
    expect(guest.lines).toContain('trimmed');
    expect(spaceOf(image)).toBeLessThan(empty + 2 * MIB);
    await guest.off;
    await succeeds('e2fsck', ['-fn', image]);
  }, 240_000);
});
