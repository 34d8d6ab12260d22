// A real kernel's block devices: a loop device, and a medium behind one that can run full.

import { execFileSync } from 'node:child_process';
import * as fs from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, onTestFinished, test } from 'vitest';
import { WriteBarrierError, type WriteFlags } from 'write-barrier';
import { FileStorage } from 'write-barrier/node';
import { temporaryDirectory } from '../node/support.js';
import { codeThrown, errorThrown, storageContract } from '../storage/contract.js';

const PLAIN: WriteFlags = { fua: false, tag: 'simple' };
const FORCED: WriteFlags = { fua: true, tag: 'simple' };
const SIMPLE = { tag: 'simple' } as const;
const KIB = 1024;
const MIB = 1024 * KIB;

const root = process.platform === 'linux' && process.getuid?.() === 0;
const loop = root && works('losetup', '--find');
const mayMount = loop && tryMount();
const trims = loop && (await hasPackage());

describe.skipIf(!loop)(
  'a loop device (skipped unless this is Linux, and root, with losetup)',
  () => {
    test('has the size and the blocks of the device', async () => {
      const device = loopDevice(backing(256 * KIB));
      await using storage = await FileStorage.open(device);
      expect(storage.size).toBe(256 * KIB);
      expect(storage.capabilities).toMatchObject({ blockSize: 512, fua: true });
    });

    test('takes its default block size from the device, and goes no lower', async () => {
      const device = loopDevice(backing(256 * KIB), '--sector-size', '4096');
      await using storage = await FileStorage.open(device);
      expect(storage.capabilities.blockSize).toBe(4096);
      const small = { blockSize: 512, lock: 'none' } as const;
      expect(await codeThrown(() => FileStorage.open(device, small))).toBe('INVALID_ARGUMENT');
    });

    test('reads and writes, and what is flushed or forced is in what lies behind it', async () => {
      const file = backing(256 * KIB);
      await using storage = await FileStorage.open(loopDevice(file));
      await storage.write(4096, new Uint8Array(4096).fill(1), PLAIN);
      await storage.flush(SIMPLE);
      await storage.write(8192, new Uint8Array(4096).fill(2), FORCED);
      expect(new Set(fs.readFileSync(file).subarray(4096, 8192))).toEqual(new Set([1]));
      expect(new Set(fs.readFileSync(file).subarray(8192, 12288))).toEqual(new Set([2]));
    });

    test('is held by the kernel: a second writer is refused, and /dev stays as it is', async () => {
      const device = loopDevice(backing(256 * KIB));
      const first = await FileStorage.open(device);
      expect([first.lock, first.lockReason]).toEqual([
        'platform',
        'the kernel has claimed the device',
      ]);
      const error = await errorThrown(() => FileStorage.open(device));
      expect(error).toMatchObject({
        code: 'STORAGE_LOCKED',
        message: expect.stringContaining('kernel'),
      });
      expect(error).toMatchObject({ name: 'StorageLockedError', holder: undefined });
      expect(fs.existsSync(`${device}.lock`)).toBe(false);
      // The claim is on the device, and not on the node that names it.
      const other = join(temporaryDirectory(), 'other');
      execFileSync('cp', ['--archive', device, other]);
      expect(await codeThrown(() => FileStorage.open(other))).toBe('STORAGE_LOCKED');
      await (await FileStorage.open(device, { lock: 'none' })).close();
      await (await FileStorage.open(device, { readOnly: true })).close();
      await first.close();
      await (await FileStorage.open(device)).close();
    });

    test('is neither extended nor cut', async () => {
      const device = loopDevice(backing(256 * KIB));
      for (const size of [128 * KIB, 512 * KIB]) {
        expect(await codeThrown(() => FileStorage.open(device, { size }))).toBe('INVALID_ARGUMENT');
      }
      await (await FileStorage.open(device, { size: 256 * KIB })).close();
    });

    test.skipIf(!trims).each(['discard', 'writeZeroes'] as const)(
      'file-storage.F7: %s gives space of the file behind it back, and the bytes read as zero, from either side',
      async (op) => {
        const file = backing(4 * MIB, 1);
        const storage = await FileStorage.open(loopDevice(file));
        const before = spaceOf(file);
        await storage.write(0, new Uint8Array(MIB).fill(2), PLAIN);
        await storage[op]?.(512, 2 * MIB);
        const expected = new Uint8Array(4 * MIB).fill(1).fill(2, 0, 512);
        expected.fill(0, 512, 512 + 2 * MIB);
        const into = new Uint8Array(4 * MIB);
        await storage.read(0, into);
        expect(Buffer.compare(into, expected)).toBe(0);
        await storage.flush(SIMPLE);
        await storage.close();
        expect(Buffer.compare(fs.readFileSync(file), expected)).toBe(0);
        expect(before - spaceOf(file)).toBeGreaterThan(MIB);
      },
    );

    test.skipIf(!trims)(
      'a trim beside writes in the same page takes nothing from them',
      async () => {
        const device = loopDevice(backing(4 * KIB, 1));
        await using storage = await FileStorage.open(device);
        const into = new Uint8Array(4 * KIB);
        for (let round = 1; round <= 40; round += 1) {
          await storage.write(0, new Uint8Array(4 * KIB).fill(255), PLAIN);
          // Half of the rounds find the page on the device alone.
          if (round % 2 === 0) {
            await storage.flush(SIMPLE);
            execFileSync('blockdev', ['--flushbufs', device]);
          }
          const value = round % 255;
          await Promise.all([
            storage.write(0, new Uint8Array(512).fill(value), PLAIN),
            storage.discard?.(512, 1024),
            storage.write(1536, new Uint8Array(512).fill(value), PLAIN),
          ]);
          const expected = new Uint8Array(4 * KIB)
            .fill(255)
            .fill(value, 0, 2048)
            .fill(0, 512, 1536);
          await storage.read(0, into);
          expect(Buffer.compare(into, expected)).toBe(0);
        }
      },
    );

    test.skipIf(!trims || !mayMount)(
      'a device that makes no zeroes itself is not trimmed, and keeps its bytes',
      async () => {
        // ramfs frees no blocks, so a loop device on it has no zeroes to offer.
        const file = join(mounted('ramfs'), 'disk.img');
        fs.writeFileSync(file, new Uint8Array(256 * KIB).fill(1));
        await using storage = await FileStorage.open(loopDevice(file));
        const { discard, writeZeroes, fastZeroes } = storage.capabilities;
        expect([discard, writeZeroes, fastZeroes]).toEqual([false, false, false]);
        const into = new Uint8Array(256 * KIB);
        await storage.read(0, into);
        expect(new Set(into)).toEqual(new Set([1]));
      },
    );

    storageContract(
      'FileStorage on a loop device',
      {
        blockSize: 512,
        cache: 'volatile',
        flush: true,
        fua: true,
        orderedTags: false,
        writev: true,
        discard: trims,
        writeZeroes: trims,
        fastZeroes: trims,
      },
      async () => {
        const file = join(fs.mkdtempSync(join(tmpdir(), 'write-barrier-')), 'disk.img');
        fs.writeFileSync(file, new Uint8Array(256 * KIB));
        const device = attach(file);
        return {
          storage: await FileStorage.open(device),
          reopen: () => FileStorage.open(device),
          cleanUp: () => {
            execFileSync('losetup', ['--detach', device]);
            fs.rmSync(join(file, '..'), { recursive: true });
          },
        };
      },
    );
  },
);

describe.skipIf(!mayMount)('a medium that is full (skipped unless root can mount a tmpfs)', () => {
  test('fails a write to a file, with ENOSPC from the kernel', async () => {
    const directory = smallFileSystem();
    await using storage = await FileStorage.open(join(directory, 'disk.img'), { size: 1024 * KIB });
    const error = await errorThrown(() =>
      storage.write(0, new Uint8Array(1024 * KIB).fill(1), PLAIN),
    );
    expect(error).toMatchObject({ code: 'IO_FAILED' });
    expect(causeOf(error)).toMatchObject({ code: 'ENOSPC' });
    await storage.write(0, new Uint8Array(4096).fill(2), PLAIN);
  });

  // The kernel's own behaviour, which F2 exists for: a raw descriptor is told once and then hears
  // of success, though nothing of what was lost has come back.
  test('fails a flush of a device once in the kernel, and for good here', async () => {
    const file = join(smallFileSystem(), 'disk.img');
    fs.writeFileSync(file, '');
    fs.truncateSync(file, 1024 * KIB);
    const device = loopDevice(file);
    const raw = fs.openSync(device, 'r+');
    onTestFinished(() => fs.closeSync(raw));
    const storage = await FileStorage.open(device);
    onTestFinished(() => storage.close());

    await storage.write(0, new Uint8Array(1024 * KIB).fill(1), PLAIN);
    const error = await errorThrown(() => storage.flush(SIMPLE));
    expect(error).toMatchObject({ code: 'FLUSH_FAILED' });
    expect(causeOf(error)).toMatchObject({ code: expect.stringMatching(/^(EIO|ENOSPC)$/) });
    expect(await codeThrown(() => storage.flush(SIMPLE))).toBe('FLUSH_FAILED');
    expect(() => fs.fdatasyncSync(raw)).toThrow();
    expect(() => fs.fdatasyncSync(raw)).not.toThrow();
  });
});

/** An image of that many bytes. */
function backing(bytes: number, value = 0): string {
  const file = join(temporaryDirectory(), 'disk.img');
  fs.writeFileSync(file, new Uint8Array(bytes).fill(value));
  return file;
}

/** The space that a file takes, in bytes. */
function spaceOf(file: string): number {
  return fs.statSync(file).blocks * 512;
}

/** Whether fs-native-extensions is there, which has the call that trims. */
async function hasPackage(): Promise<boolean> {
  return import('fs-native-extensions' as string).then(
    () => true,
    () => false,
  );
}

function attach(file: string, ...options: string[]): string {
  const output = execFileSync('losetup', ['--find', '--show', ...options, file], {
    encoding: 'utf8',
  });
  return output.trim();
}

/** A device over the file, until the test ends. */
function loopDevice(file: string, ...options: string[]): string {
  const device = attach(file, ...options);
  onTestFinished(() => void execFileSync('losetup', ['--detach', device]));
  return device;
}

/** A file system of 128 KiB, until the test ends. */
function smallFileSystem(): string {
  return mounted('tmpfs', '-o', 'size=128k');
}

/** A file system in memory, until the test ends. */
function mounted(type: string, ...options: string[]): string {
  const directory = fs.mkdtempSync(join(tmpdir(), 'write-barrier-mounted-'));
  execFileSync('mount', ['-t', type, ...options, 'none', directory]);
  onTestFinished(() => {
    execFileSync('umount', ['--lazy', directory]);
    fs.rmdirSync(directory);
  });
  return directory;
}

/** Root in a container often may not. */
function tryMount(): boolean {
  const directory = fs.mkdtempSync(join(tmpdir(), 'write-barrier-mount-'));
  const may = works('mount', '-t', 'tmpfs', '-o', 'size=4k', 'none', directory);
  if (may) execFileSync('umount', [directory]);
  fs.rmdirSync(directory);
  return may;
}

function works(command: string, ...words: string[]): boolean {
  try {
    execFileSync(command, words, { stdio: 'ignore' });
    return true;
  } catch {
    return false;
  }
}

function causeOf(error: unknown): unknown {
  return WriteBarrierError.is(error) ? error.cause : undefined;
}
