// Block devices: what sysfs says about them, from a tree made by hand. Real ones are in test/interop.

import * as fs from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { blockDevice, deviceNumber } from '../../src/node/platform.js';
import { codeThrown } from '../storage/contract.js';
import { temporaryDirectory } from './support.js';

describe('a device number', () => {
  // Made with makedev(3).
  test.each<[bigint, number, number]>([
    [0x700n, 7, 0],
    [0x811n, 8, 17],
    [0x10305n, 259, 5],
    [0x100823n, 8, 291],
    [0x1200abcd345efn, 74565, 11259375],
  ])('%d is device %d:%d', (rdev, major, minor) => {
    expect(deviceNumber(rdev)).toEqual({ major, minor });
  });

  test.skipIf(process.platform !== 'linux')('of the null device is 1:3', () => {
    expect(deviceNumber(fs.statSync('/dev/null', { bigint: true }).rdev)).toEqual({
      major: 1,
      minor: 3,
    });
  });
});

describe('sysfs', () => {
  /** A disk 8:0 with blocks of 4096 bytes that makes zeroes itself, and its partition 8:1; 9:0 that does not; an empty drive 11:0. */
  function tree(): string {
    const root = fs.realpathSync(temporaryDirectory());
    const write = (path: string, text: string): void => {
      fs.mkdirSync(join(root, path, '..'), { recursive: true });
      fs.writeFileSync(join(root, path), text);
    };
    write('devices/sda/size', '2048\n');
    write('devices/sda/queue/logical_block_size', '4096\n');
    write('devices/sda/queue/write_zeroes_max_bytes', '33553920\n');
    write('devices/sda/sda1/size', '1024\n');
    write('devices/sda/sda1/partition', '1\n');
    write('devices/md0/size', '64\n');
    write('devices/md0/queue/logical_block_size', '512\n');
    write('devices/md0/queue/write_zeroes_max_bytes', '0\n');
    write('devices/sr0/size', '0\n');
    write('devices/sr0/queue/logical_block_size', '2048\n');
    write('devices/odd/size', 'large\n');
    fs.mkdirSync(join(root, 'dev/block'), { recursive: true });
    for (const [name, device] of Object.entries({
      '8:0': 'sda',
      '8:1': 'sda/sda1',
      '9:0': 'md0',
      '11:0': 'sr0',
      '12:0': 'odd',
    })) {
      fs.symlinkSync(`../../devices/${device}`, join(root, 'dev/block', name));
    }
    return root;
  }

  test('tells the size of a disk, in sectors of 512 bytes whatever its blocks are', async () => {
    expect(await blockDevice(0x0800n, tree())).toEqual({
      size: 2048 * 512,
      logicalBlockSize: 4096,
      zeroesItself: true,
    });
  });

  test('tells the size of a partition, and its disk tells the blocks', async () => {
    expect(await blockDevice(0x0801n, tree())).toEqual({
      size: 1024 * 512,
      logicalBlockSize: 4096,
      zeroesItself: true,
    });
  });

  test('tells whether the disk makes zeroes itself; a kernel that does not say so has disks that do not', async () => {
    const root = tree();
    expect((await blockDevice(0x0900n, root)).zeroesItself).toBe(false);
    fs.rmSync(join(root, 'devices/sda/queue/write_zeroes_max_bytes'));
    expect((await blockDevice(0x0801n, root)).zeroesItself).toBe(false);
  });

  test('a drive without a medium is refused', async () => {
    expect(await codeThrown(() => blockDevice(0x0b00n, tree()))).toBe('INVALID_ARGUMENT');
  });

  test('what sysfs does not know, or says in words, is an error and no size', async () => {
    expect(await codeThrown(() => blockDevice(0x0a00n, tree()))).toBe('IO_FAILED');
    expect(await codeThrown(() => blockDevice(0x0c00n, tree()))).toBe('IO_FAILED');
  });
});
