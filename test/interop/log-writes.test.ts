// Goal: a log that the kernel's own dm-log-writes has made is a crash space of a size that people have. Method: an
// unmodified Debian kernel in QEMU puts dm-log-writes over an NBD export with TRIM, and its log on a second one. It makes
// ext4 there, which discards the whole disk, mounts it with `-o discard`, makes files with fsync and a mark for each, and
// deletes others. The log is read, counted, sampled and explored; images of power cuts after mkfs are judged by e2fsck, and
// every file with a mark has to be there. The first of our readers that no program of ours has written for.

import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { IoScheduler, MemoryStorage } from 'write-barrier';
import { NbdServer } from 'write-barrier/nbd';
import { type DiskTrace, seededRandom } from 'write-barrier/testing';
import { crashSpace, readLogWrites } from 'write-barrier/testing/lab';
import { BLOCK, judgeCuts } from './ext4.js';
import {
  boot,
  contentsOf,
  type Entry,
  entry,
  foldersOf,
  GUEST_PROGRAMS,
  kernelPackage,
  machineFor,
  type Work,
} from './guest.js';
import { missing, succeeds, titled } from './nbd-programs.js';

const FILES = 40;
const DISK_BYTES = 32 << 20;
const LOG_BYTES = 64 << 20;
/** In the log, after all of mkfs. */
const MADE = 'made';
/** What a discarded sector reads as is left open, so that a discard which comes too early does harm. */
const DEVICE = { cache: 'volatile', sectorSize: BLOCK, discard: 'arbitrary' } as const;

const TOOLS = ['dmsetup', 'mkfs.ext4'] as const;

const SCRIPT = `
export DM_DISABLE_UDEV=1 PATH=/bin:/sbin
mount -t proc none /proc
mount -t sysfs none /sys
fail() { echo "failed: $1"; poweroff -f; }
echo "0 ${DISK_BYTES / 512} log-writes /dev/vda /dev/vdb" | dmsetup create logged || fail create
mark() { dmsetup message logged 0 mark $1 || fail mark; }
mkfs.ext4 -q -b ${BLOCK} -J size=4 -E lazy_itable_init=0,discard /dev/mapper/logged || fail mkfs
mark ${MADE}
mount -t ext4 -o discard /dev/mapper/logged /disk || fail mount
mkdir -p ${foldersOf(FILES).join(' ')}
n=0
while [ $n -lt ${FILES} ]; do
  read first second < /files/$n.names
  dd if=/files/$n of=/disk/spare$n bs=64k seek=$((n % 3)) count=1 conv=fsync 2> /dev/null || fail "spare $n"
  dd if=/files/$n of=/disk$first bs=64k conv=fsync 2> /dev/null || fail "file $n"
  mark $n
  [ -n "$second" ] && mv /disk$first /disk$second
  [ $n -ge 3 ] && rm /disk/spare$((n - 3))
  n=$((n + 1))
done
umount /disk || fail umount
dmsetup remove logged || fail remove
echo "done"
poweroff -f
`;

const kernel = await kernelPackage();
const absent = [
  ...missing(...GUEST_PROGRAMS, ...TOOLS, 'ldd', 'e2fsck', 'debugfs', 'apt-get', 'dpkg-deb'),
  ...(kernel === undefined ? ['package of a kernel in apt'] : []),
];

describe.skipIf(absent.length > 0)(titled("a log of the kernel's dm-log-writes", absent), () => {
  const folder = mkdtempSync(join(tmpdir(), 'write-barrier-log-writes-'));
  let trace: DiskTrace;

  beforeAll(async () => {
    trace = readLogWrites(await logOf(folder), DISK_BYTES);
  }, 600_000);
  afterAll(() => rmSync(folder, { recursive: true, force: true }));

  test('it has the writes, discards, flushes and marks of the whole life of a file system', () => {
    const count = (op: string): number => trace.commands.filter((each) => each.op === op).length;
    expect(count('write')).toBeGreaterThan(10 * FILES);
    expect(count('flush')).toBeGreaterThan(FILES);
    const discarded = trace.commands.filter(({ op }) => op === 'discard');
    expect(discarded.length).toBeGreaterThan(2);
    // mkfs discards all of the disk, in as many pieces as the kernel makes of it.
    const [made] = trace.marks.filter(({ value }) => value === MADE);
    const byMkfs = discarded.filter(({ completed }) => completed < (made?.time ?? 0));
    expect(byMkfs.reduce((sum, { length }) => sum + length, 0)).toBeGreaterThanOrEqual(DISK_BYTES);
    expect(trace.marks.length).toBeGreaterThanOrEqual(FILES + 1);
  });

  test('it is counted, sampled and explored, with sectors of 512 bytes as well', () => {
    for (const sectorSize of [512, BLOCK]) {
      const space = crashSpace(trace, { ...DEVICE, sectorSize });
      expect(space.count).toBeGreaterThan(10n ** 10n);
      const random = seededRandom(1);
      for (let i = 0; i < 20; i++) expect(space.sample(random).isPossible).toBe(true);
      const into = new Uint8Array(BLOCK);
      let recoveries = 0;
      for (const { disk, images } of space.explore({ recoveriesMax: 200 })) {
        for (const { offset } of trace.commands.slice(-10)) disk.read(offset, into);
        if (images > 0n) recoveries += 1;
      }
      expect(recoveries).toBeGreaterThan(10);
    }
  });

  test('given power cuts after mkfs, e2fsck finds no damage and every file with a mark', async () => {
    const lived = after(trace, MADE);
    const judged = await judgeCuts({
      ...{ trace: lived, space: crashSpace(lived, DEVICE), seed: 1, count: 60, files: FILES },
      knownUntil: ({ state }) => state.before,
    });
    expect(judged.length).toBe(60);
    expect(judged.flatMap(({ verdict, text }) => (verdict.kind === 'sound' ? [] : [text]))).toEqual(
      [],
    );
  });

  test('given the same log without its flushes, much is damaged and much is lost', async () => {
    const { commands, ...rest } = after(trace, MADE);
    const hasty = { ...rest, commands: commands.filter(({ op }) => op !== 'flush') };
    const profile = { ...DEVICE, lies: ['ignoreFua'] } as const;
    const judged = await judgeCuts({
      ...{ trace: hasty, space: crashSpace(hasty, profile), seed: 1, count: 40, files: FILES },
      knownUntil: ({ time }) => time,
    });
    const kinds = new Set(judged.map(({ verdict }) => verdict.kind));
    expect(kinds).toContain('damaged');
    expect(kinds).toContain('lost');
  });
});

/** Lets the guest do its work, and answers with the bytes of its log. */
async function logOf(folder: string): Promise<Uint8Array> {
  const work: Work = {
    modules: ['md/dm-mod', 'md/dm-log-writes'],
    script: SCRIPT,
    entries: [...contentsOf(FILES), ...(await toolsOf())],
  };
  const machine = await machineFor(kernel ?? '', folder, work);
  const disks = [DISK_BYTES, LOG_BYTES].map((size) => new MemoryStorage(size));
  const sockets = disks.map((_, n) => join(folder, `${n}.sock`));
  const servers = disks.map((disk) => new NbdServer({ exports: { '': new IoScheduler(disk) } }));
  try {
    for (const [n, server] of servers.entries())
      await server.listen({ path: sockets[n] as string });
    const guest = boot(machine, sockets);
    await guest.off;
    if (!guest.lines.includes('done')) throw new Error(guest.lines.join('\n'));
    const log = new Uint8Array(LOG_BYTES);
    disks[1]?.read(0, log);
    return log;
  } finally {
    for (const server of servers) await server.close();
  }
}

/** Programs with the libraries that they need. */
async function toolsOf(): Promise<readonly Entry[]> {
  const found = new Map<string, Entry>();
  const folders = new Set(['proc', 'sys', 'sbin']);
  for (const tool of TOOLS) {
    found.set(tool, entry(`sbin/${tool}`, 0o100755, readFileSync(`/sbin/${tool}`)));
    const told = await succeeds('ldd', [`/sbin/${tool}`]);
    for (const [, path] of told.matchAll(/(?:=> |\t)(\/\S+) \(/g)) {
      const name = (path as string).slice(1);
      found.set(name, entry(name, 0o100755, readFileSync(path as string)));
      for (let up = dirname(name); up !== '.'; up = dirname(up)) folders.add(up);
    }
  }
  const above = [...folders].sort().map((path) => entry(path, 0o40755));
  return [...above, ...found.values()];
}

/** The trace from a mark on, on the disk as it was then. */
function after(trace: DiskTrace, mark: string): DiskTrace {
  const time = trace.marks.find(({ value }) => value === mark)?.time ?? Number.NaN;
  return {
    size: trace.size,
    initial: crashSpace(trace, { ...DEVICE, discard: 'zero' })
      .inOrder(time)
      .image(),
    commands: trace.commands.filter(({ dispatched }) => dispatched > time),
    marks: trace.marks
      .filter((each) => each.time > time)
      .map(({ time: at, value }) => ({ time: at, value: Number(value) })),
  };
}
