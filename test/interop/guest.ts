// A machine with a real kernel whose disk is an NBD export: QEMU without KVM, Debian's kernel as it is, and a memory file
// system with busybox. The package of the kernel is fetched with apt-get once and kept in the folder for temporary files.
//
// What it does is a `Work`. `filesOf` is one: the guest mounts ext4 and makes files, three workers at a time: worker w writes the files w,
// w + 3, ..., calls fsync on each, and then says "synced N" on the serial line. Some are renamed later, without fsync. In the end it says
// "done", unmounts and switches itself off. So a file is safe when its line is seen, whatever happens afterwards.
//
// Not here: what the files are called and what is in them (ext4-judge.ts).

import { execFile, spawn } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, renameSync } from 'node:fs';
import { rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { createInterface } from 'node:readline';
import { promisify } from 'node:util';
import { gzipSync } from 'node:zlib';
import { contentOf, namesOf } from './ext4-judge.js';
import { succeeds } from './nbd-programs.js';

/** What the guest needs besides its kernel. */
export const GUEST_PROGRAMS = ['qemu-system-x86_64', 'busybox', 'mkfs.ext4'] as const;

/** Depends on the newest one. */
const PACKAGE = 'linux-image-cloud-amd64';
const WORKERS = 3;

/** Debian's package of the kernel; undefined where apt knows none. */
export async function kernelPackage(): Promise<string | undefined> {
  const asked = promisify(execFile)('apt-cache', ['depends', PACKAGE]);
  const { stdout } = await asked.catch(() => ({ stdout: '' }));
  return /Depends: (linux-image-\S+-cloud-amd64)/.exec(stdout)?.[1];
}

/** A kernel and the memory file system that it begins with. */
export interface Machine {
  readonly kernel: string;
  readonly initrd: string;
}

/** What a guest does. */
export interface Work {
  /** Modules besides those of the disk, by their paths below `drivers`, in the order in which they need each other. */
  readonly modules: readonly string[];
  /** For busybox, once the modules are there. It ends with `poweroff -f`. */
  readonly script: string;
  /** Folders come before what is in them. */
  readonly entries: readonly Entry[];
}

/** Fetches the kernel, if it is not there, and packs what the guest runs into `folder`. */
export async function machineFor(name: string, folder: string, work: Work): Promise<Machine> {
  const root = await unpacked(name);
  const boot = join(root, 'boot');
  const kernel = readdirSync(boot).find((file) => file.startsWith('vmlinuz-'));
  if (kernel === undefined) throw new Error(`${name} holds no kernel`);
  const initrd = join(folder, 'initrd.gz');
  await writeFile(initrd, gzipSync(archive(entriesFor(root, work)), { level: 1 }));
  return { kernel: join(boot, kernel), initrd };
}

async function unpacked(name: string): Promise<string> {
  const cache = join(tmpdir(), 'write-barrier-kernel');
  const root = join(cache, name);
  if (existsSync(root)) return root;
  mkdirSync(cache, { recursive: true });
  const work = mkdtempSync(join(cache, 'unpacking-'));
  try {
    await succeeds('apt-get', ['download', name], work);
    const fetched = readdirSync(work).find((file) => file.endsWith('.deb'));
    await succeeds('dpkg-deb', ['-x', join(work, fetched ?? ''), join(work, 'root')]);
    if (!existsSync(root)) renameSync(join(work, 'root'), root);
  } finally {
    await rm(work, { recursive: true });
  }
  return root;
}

/** In the order in which they need each other; ext4 is built in. */
const MODULES = [
  'virtio/virtio_ring',
  'virtio/virtio',
  'virtio/virtio_pci_legacy_dev',
  'virtio/virtio_pci_modern_dev',
  'virtio/virtio_pci',
  'block/virtio_blk',
];

const INIT = (modules: readonly string[], script: string): string => `#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t devtmpfs none /dev
for module in ${modules.map((path) => basename(path)).join(' ')}; do insmod /$module.ko; done
${script}`;

/** Makes files, and says so. */
export function filesOf(files: number): Work {
  return { modules: [], script: scriptOf(files), entries: contentsOf(files) };
}

const scriptOf = (files: number): string => `
mount -t ext4 /dev/vda /disk || { echo "no disk"; poweroff -f; }
echo "mounted"
mkdir -p ${foldersOf(files).join(' ')}
worker() {
  n=$1
  while [ $n -lt ${files} ]; do
    read first second < /files/$n.names
    dd if=/files/$n of=/disk$first bs=64k conv=fsync 2> /dev/null || { echo "failed $n"; return; }
    echo "synced $n"
    [ -n "$second" ] && mv /disk$first /disk$second
    n=$((n + ${WORKERS}))
  done
}
${Array.from({ length: WORKERS }, (_, first) => `worker ${first} &`).join(' ')}
wait
echo "done"
umount /disk
poweroff -f
`;

/** The folders of the guest's files, where the guest has its disk. */
export function foldersOf(files: number): readonly string[] {
  const folders = Array.from({ length: files }, (_, file) => namesOf(file).map(dirname)).flat();
  return [...new Set(folders)].map((path) => `/disk${path}`);
}

/** Each file's content, and its names. */
export function contentsOf(files: number): readonly Entry[] {
  return Array.from({ length: files }, (_, file) => [
    entry(`files/${file}`, 0o100644, contentOf(file)),
    entry(`files/${file}.names`, 0o100644, `${namesOf(file).join(' ')}\n`),
  ]).flat();
}

function entriesFor(root: string, { modules: more, script, entries }: Work): Entry[] {
  const folder = join(root, 'lib', 'modules');
  const drivers = join(folder, readdirSync(folder)[0] ?? '', 'kernel', 'drivers');
  const modules = [...MODULES, ...more];
  return [
    ...['bin', 'dev', 'disk', 'files'].map((path) => entry(path, 0o40755)),
    entry('bin/busybox', 0o100755, readFileSync('/bin/busybox')),
    entry('init', 0o100755, INIT(modules, script)),
    ...modules.map((path) =>
      entry(`${basename(path)}.ko`, 0o100644, readFileSync(join(drivers, `${path}.ko`))),
    ),
    ...entries,
  ];
}

/** Of the memory file system. */
export interface Entry {
  readonly path: string;
  readonly mode: number;
  readonly data: Buffer;
}

/** @param mode as stat(2) has it: a folder is 0o40755 */
export function entry(path: string, mode: number, data: string | Buffer = ''): Entry {
  return { path, mode, data: Buffer.from(data) };
}

/** A cpio archive, "newc": what a kernel takes. Source: Documentation/driver-api/early-userspace/buffer-format.rst. */
function archive(entries: readonly Entry[]): Buffer {
  const end = entry('TRAILER!!!', 0);
  return Buffer.concat(
    [...entries, end].flatMap(({ path, mode, data }, index) => {
      const name = Buffer.from(`${path}\0`);
      const fields = [index + 1, mode, 0, 0, 1, 0, data.length, 0, 0, 0, 0, name.length, 0];
      const words = fields.map((field) => field.toString(16).padStart(8, '0'));
      return [padded(Buffer.concat([Buffer.from(`070701${words.join('')}`), name])), padded(data)];
    }),
  );
}

function padded(bytes: Buffer): Buffer {
  return Buffer.concat([bytes, Buffer.alloc(-bytes.length & 3)]);
}

/** A machine that runs. */
export interface Guest {
  /** Files whose fsync had returned, in the order of the reports. */
  readonly synced: readonly number[];
  /** All that it has said. */
  readonly lines: readonly string[];
  /** Settles when it has said so, or is off; the answer is which. */
  says(line: string): Promise<boolean>;
  /** Settles when so many files are reported, or the machine is off. */
  reports(count: number): Promise<boolean>;
  /** SIGKILL for QEMU; settles when it is gone, and all that it said was heard. */
  kill(): Promise<void>;
  readonly off: Promise<void>;
}

/**
 * `no_timer_check`: the kernel panics if its timer does not tick in time while it starts, and an emulated timer of a busy
 * machine may not.
 */
const ARGUMENTS = 'console=ttyS0 quiet panic=-1 no_timer_check';

/** Switches a machine on, with the exports at those sockets for disks: vda, vdb and so on. */
export function boot(
  { kernel, initrd }: Machine,
  sockets: readonly string[],
  onSynced: (file: number) => void = () => {},
): Guest {
  const child = spawn(
    'qemu-system-x86_64',
    [
      ...['-M', 'pc', '-cpu', 'max', '-accel', 'tcg', '-m', '256', '-no-reboot', '-nodefaults'],
      ...['-display', 'none', '-monitor', 'none', '-serial', 'stdio'],
      ...['-kernel', kernel, '-initrd', initrd, '-append', ARGUMENTS],
      ...sockets.flatMap((path, n) => [
        ...[
          '-blockdev',
          `driver=nbd,node-name=n${n},discard=unmap,server.type=unix,server.path=${path}`,
        ],
        ...['-device', `virtio-blk-pci,drive=n${n}`],
      ]),
    ],
    { stdio: ['ignore', 'pipe', 'pipe'] },
  );
  const synced: number[] = [];
  const lines: string[] = [];
  const watchers = new Set<() => void>();
  let isOff = false;
  const heard = (line: string): void => {
    lines.push(line);
    const file = /^synced (\d+)$/.exec(line)?.[1];
    if (file !== undefined) {
      synced.push(Number(file));
      onSynced(Number(file));
    }
    for (const watcher of watchers) watcher();
  };
  createInterface({ input: child.stdout }).on('line', (line) => heard(line.trim()));
  createInterface({ input: child.stderr }).on('line', (line) => lines.push(`qemu: ${line}`));
  const off = new Promise<void>((resolve, reject) => {
    child.once('error', reject);
    child.once('close', () => {
      isOff = true;
      resolve();
      for (const watcher of watchers) watcher();
    });
  });
  const until = (holds: () => boolean): Promise<boolean> =>
    new Promise((resolve) => {
      const watcher = (): void => {
        if (!holds() && !isOff) return;
        watchers.delete(watcher);
        resolve(holds());
      };
      watchers.add(watcher);
      watcher();
    });
  return {
    synced,
    lines,
    off,
    says: (line) => until(() => lines.includes(line)),
    reports: (count) => until(() => synced.length >= count),
    kill: async () => {
      child.kill('SIGKILL');
      await off;
    },
  };
}
