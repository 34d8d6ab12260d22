// Goal: the doctor finds what is there, changes nothing, and claims nothing that it cannot know. Method: it runs as a process on files
// of this machine; what a machine says of itself is tested on texts of other machines.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  closeSync,
  existsSync,
  openSync,
  readdirSync,
  readFileSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { describe, expect, test } from 'vitest';
import { MODE_NAMES } from 'write-barrier';
import { FileStorage } from 'write-barrier/node';
import { mountFor } from '../../src/cli/doctor-system.js';
import { emptyFolder } from '../examples/folder.js';
import { CLI, runCommand } from './run.js';

const QUICK = ['--rounds', '2'];
const isLinux = process.platform === 'linux';

test('of a file it says size, lock, gifts and modes, and neither its bytes nor its mtime change', async () => {
  const folder = await emptyFolder();
  const file = join(folder, 'disk.img');
  writeFileSync(file, Buffer.alloc(4096, 7));
  const before = statSync(file);
  const { code, stdout, stderr } = await runCommand(['doctor', file, '--json', ...QUICK]);
  expect(stderr).toBe('');
  const found = JSON.parse(stdout);
  expect(code).toBe(found.problems.length > 0 ? 1 : 0);
  const after = statSync(file);
  // `utimes` of Node takes seconds as a number, which is not exact to the nanosecond.
  expect(Math.abs(after.mtimeMs - before.mtimeMs)).toBeLessThan(1);
  expect(after.ino).toBe(before.ino);
  await using storage = await FileStorage.open(file);
  expect(found).toMatchObject({ path: file, kind: 'file', size: 4096, chosen: expect.any(String) });
  expect(found.lock).toBe(`${storage.lock}: ${storage.lockReason}`);
  expect(found.capabilities.fua).toBe(storage.capabilities.fua);
  expect(found.modes.map(({ mode }: { mode: string }) => mode)).toEqual(MODE_NAMES);
  expect(Object.values<{ medianUs: number; worstUs: number }>(found.costs).length).toBeGreaterThan(
    2,
  );
  for (const { medianUs, worstUs } of Object.values<{ medianUs: number; worstUs: number }>(
    found.costs,
  ))
    expect(worstUs).toBeGreaterThanOrEqual(medianUs);
  expect(readFileSync(file)).toEqual(Buffer.alloc(4096, 7));
});

test('of a file that does not exist it says what one would be, and makes none', async () => {
  const folder = await emptyFolder();
  const { stdout } = await runCommand(['doctor', 'disk.img', ...QUICK], folder);
  expect(stdout).toMatch(/^disk\.img: does not exist yet\n/);
  expect(stdout).toMatch(/^a write and a flush +\d+ +\d+$/m);
  expect(stdout).toMatch(/^DRAIN_FLUSH {2}safe +\d+ {2}The queue drains/m);
  expect(stdout).toContain('a device that ignores flushes looks the same to every program');
  expect(readdirSync(folder)).toEqual([]);
});

test('without rounds nothing is measured, and the rest is said', async () => {
  const folder = await emptyFolder();
  const { stdout } = await runCommand(['doctor', 'disk.img', '--rounds', '0'], folder);
  expect(stdout).not.toContain('microseconds');
  expect(stdout).toMatch(/^DRAIN_FLUSH {2}safe/m);
});

test('a file that another writer has is told, with who has it, and the folder is measured nevertheless', async () => {
  const folder = await emptyFolder();
  const file = join(folder, 'disk.img');
  await using _ = await FileStorage.open(file, { size: 4096 });
  const { stdout } = await runCommand(['doctor', file, ...QUICK]);
  expect(stdout).toMatch(
    /^- .*disk\.img could not be opened for writing: .* is held by process \d+/m,
  );
  expect(stdout).toMatch(/^a write and a flush +\d+/m);
});

// Also for root, who may write where others may not.
test.runIf(isLinux)(
  'a folder in which nothing can be made is told, and nothing is measured',
  async () => {
    const { stdout } = await runCommand(['doctor', '/proc/absent.img', ...QUICK]);
    expect(stdout).toContain('- nothing was measured: ');
    expect(stdout).not.toContain('microseconds');
    expect(stdout).toContain('which device is below');
  },
);

test.runIf(isLinux && existsSync('/dev/shm'))(
  'a file system in memory loses data for certain: exit code 1',
  async () => {
    const { code, stdout } = await runCommand(['doctor', '/dev/shm/absent.img', ...QUICK]);
    expect(code).toBe(1);
    expect(stdout).toContain('file system: tmpfs on ');
    expect(stdout).toContain(
      '\nThis loses data at a power cut, also in a mode that is safe:\n- tmpfs is in memory',
    );
    expect(existsSync('/dev/shm/absent.img')).toBe(false);
  },
);

test.runIf(isLinux)('ended by SIGTERM in the middle it leaves nothing', async () => {
  const folder = await emptyFolder();
  const words = [CLI, 'doctor', join(folder, 'disk.img'), '--rounds', '10000'];
  const child = spawn(process.execPath, words, { stdio: 'ignore' });
  const ended = new Promise((resolve) => child.once('close', resolve));
  while (!readdirSync(folder).some((name) => /doctor-\w+$/.test(name))) await setTimeout(5);
  child.kill('SIGTERM');
  await ended;
  expect(readdirSync(folder)).toEqual([]);
});

test.runIf(existsSync('/dev/full'))(
  'findings that cannot be printed are told in one line: exit code 2',
  async () => {
    const folder = await emptyFolder();
    const full = openSync('/dev/full', 'w');
    const words = [CLI, 'doctor', join(folder, 'disk.img'), '--rounds', '1'];
    const child = spawn(process.execPath, words, { stdio: ['ignore', full, 'pipe'] });
    closeSync(full);
    let said = '';
    child.stderr?.on('data', (data) => {
      said += data;
    });
    const [code] = await once(child, 'close');
    expect([code, said]).toEqual([2, expect.stringMatching(/^write-barrier: .*ENOSPC.*\n$/)]);
    expect(readdirSync(folder)).toEqual([]);
  },
);

test.each([
  [[], 'FILE is missing'],
  [['.'], '. is neither a file nor a block device'],
  [['nowhere/disk.img'], 'nowhere does not exist'],
  [['a', 'b'], "'b' is one operand too many"],
  [['a', '--rounds', 'some'], '--rounds takes a whole number'],
])('%j is answered in one line', async (words, message) => {
  const folder = await emptyFolder();
  const ended = await runCommand(['doctor', ...words], folder);
  expect(ended).toMatchObject({ code: 2, stdout: '' });
  expect(ended.stderr).toMatch(/^write-barrier doctor: .*\n$/);
  expect(ended.stderr).toContain(message);
});

describe('where a path is mounted', () => {
  const MOUNTS = String.raw`22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw,errors=remount-ro
23 22 8:2 / /data rw,noatime - xfs /dev/sda2 rw,nobarrier
24 22 0:40 / /my\040disk rw - tmpfs tmpfs rw
25 23 8:3 / /data rw - ext4 /dev/sda3 rw,barrier=0
26 22 0:30 /@home /home rw - btrfs /dev/sda4 rw,subvol=/@home`;

  test.each([
    ['/etc/passwd', '8:1', 'ext4', '/'],
    ['/database', '8:1', 'ext4', '/'],
    ['/my disk/x', '0:40', 'tmpfs', '/my disk'],
    // What is mounted over another one is what is seen there, though the older one has as long a name.
    ['/data/x', '8:3', 'ext4', '/data'],
    // btrfs has a number for each subvolume, which mountinfo does not have.
    ['/home/me', '0:99', 'btrfs', '/home'],
  ])('%s on %s is on %s, mounted at %s', (path, number, type, at) => {
    expect(mountFor(MOUNTS, path, number)).toMatchObject({ type, at });
  });

  test('its options are those of the mount and of the file system', () => {
    expect(mountFor(MOUNTS, '/data/x', '8:3')?.options).toEqual(['rw', 'barrier=0']);
    expect(mountFor('', '/x', '8:1')).toBeUndefined();
  });
});
