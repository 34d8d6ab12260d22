// Requests that are longer than one call of any system moves, through the real node:fs: memory and a disk are needed.

import * as fs from 'node:fs';
import { freemem } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import type { WriteFlags } from 'write-barrier';
import { FileStorage } from 'write-barrier/node';
import { temporaryDirectory } from '../node/support.js';

const PLAIN: WriteFlags = { fua: false, tag: 'simple' };
const BLOCK = 512;
const GIB = 2 ** 30;
const room = fs.statfsSync('/tmp');
const hasRoom = room.bavail * room.bsize > 8 * GIB && freemem() > 4 * GIB;

test.skipIf(!hasRoom)(
  'given more than 2 GiB in one request, then all of it arrives (skipped without 8 GiB of disk and 4 of memory)',
  async () => {
    const path = join(temporaryDirectory(), 'disk.img');
    await using storage = await FileStorage.open(path, { size: 3 * GIB });
    // Zeroes but for what stands around the places where calls meet.
    const marks = [0, GIB - BLOCK, GIB, 2 * GIB - BLOCK, 2 * GIB, 2 * GIB + 512 * BLOCK];
    const data = new Uint8Array(2 * GIB + 1024 * BLOCK);
    for (const [i, at] of marks.entries()) data.fill(i + 1, at, at + BLOCK);
    const expectMarks = (): void => {
      for (const [i, at] of marks.entries()) {
        expect([data[at], data[at + BLOCK - 1]]).toEqual([i + 1, i + 1]);
      }
    };
    await storage.write(BLOCK, data, PLAIN);
    data.fill(0);
    await storage.read(BLOCK, data);
    expectMarks();
    await storage.writev(0, [data.subarray(0, 7), data.subarray(7)], PLAIN);
    data.fill(0);
    await storage.read(0, data);
    expectMarks();
  },
);
