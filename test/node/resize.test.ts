// Resizes of real files: file-storage.F9, and the map of holes across them. The clauses of the contract are tested with those of
// the storage (file-storage.test.ts).

import fs from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { FileStorage, type FileStorageOptions } from '../../src/node/index.js';
import { codeThrown, errorThrown } from '../storage/contract.js';
import { temporaryDirectory } from './support.js';

const CHUNK = 64 * 1024;
const PLAIN = { fua: false, tag: 'simple' } as const;
const SIMPLE = { tag: 'simple' } as const;
const newPath = (): string => join(temporaryDirectory(), 'disk.img');
const ones = (length: number): Uint8Array => new Uint8Array(length).fill(1);
const error = (code: string): NodeJS.ErrnoException => Object.assign(new Error(code), { code });
const opened = (path: string, given: FileStorageOptions['fs'] = {}): Promise<FileStorage> =>
  FileStorage.open(path, { size: 2 * CHUNK, fs: given });

async function map(storage: FileStorage): Promise<string> {
  const extents = (await storage.blockStatus?.(0, storage.size)) ?? [];
  return extents.map(({ length, hole }) => (hole ? '.' : 'x').repeat(length / CHUNK)).join('');
}

describe('file-storage.F9: a resize', () => {
  test('is one ftruncate, which the next flush covers by one fdatasync', async () => {
    const calls: string[] = [];
    const path = newPath();
    await using storage = await opened(path, {
      ftruncate: (fd, size, done) => {
        calls.push(`ftruncate ${size}`);
        fs.ftruncate(fd, size, done);
      },
      fdatasync: (fd, done) => {
        calls.push('fdatasync');
        fs.fdatasync(fd, done);
      },
    });
    calls.length = 0;
    await storage.resize?.(CHUNK);
    await storage.resize?.(CHUNK);
    expect(fs.statSync(path).size).toBe(CHUNK);
    await storage.resize?.(3 * CHUNK);
    await storage.write(2 * CHUNK, ones(512), PLAIN);
    await storage.flush(SIMPLE);
    expect(calls).toEqual([`ftruncate ${CHUNK}`, `ftruncate ${3 * CHUNK}`, 'fdatasync']);
  });

  test('that the system interrupts is called again', async () => {
    let interruptions = 2;
    await using storage = await opened(newPath(), {
      ftruncate: (fd, size, done) => {
        if (size !== 0 || interruptions-- === 0) fs.ftruncate(fd, size, done);
        else done(error('EINTR'));
      },
    });
    await storage.resize?.(0);
    expect([storage.size, interruptions]).toEqual([0, -1]);
  });

  test('that fails leaves the size that the system tells, and says why', async () => {
    const path = newPath();
    await using storage = await opened(path, {
      ftruncate: (fd, size, done) => {
        if (size === CHUNK) fs.ftruncateSync(fd, size);
        if (size <= CHUNK || size > 2 * CHUNK) done(error('EIO'));
        else fs.ftruncate(fd, size, done);
      },
    });
    const failure = await errorThrown(() => storage.resize?.(4 * CHUNK));
    expect(failure).toMatchObject({ code: 'IO_FAILED', cause: { code: 'EIO' } });
    expect(storage.size).toBe(2 * CHUNK);
    expect(await codeThrown(() => storage.resize?.(CHUNK))).toBe('IO_FAILED');
    expect([storage.size, fs.statSync(path).size]).toEqual([CHUNK, CHUNK]);
    expect(await codeThrown(() => storage.write(CHUNK, ones(512), PLAIN))).toBe('OUT_OF_RANGE');
  });

  test('to more than a file can have fails, and the storage goes on', async () => {
    await using storage = await opened(newPath());
    const failure = await errorThrown(() => storage.resize?.(2 ** 53 - 512));
    expect(failure).toMatchObject({ code: 'IO_FAILED' });
    expect(storage.size).toBe(2 * CHUNK);
    await storage.write(0, ones(512), PLAIN);
  });

  test('is not there where the file cannot be written, and after close it is refused', async () => {
    const path = newPath();
    const storage = await opened(path);
    await storage.close();
    expect(await codeThrown(() => storage.resize?.(0))).toBe('CLOSED');
    await using reader = await FileStorage.open(path, { readOnly: true });
    expect([reader.capabilities.resize, reader.resize]).toEqual([false, undefined]);
  });
});

test('file-storage.F8: what a resize adds is a hole until it is written, also where it was cut off', async () => {
  await using storage = await opened(newPath());
  await storage.write(0, ones(2 * CHUNK), PLAIN);
  await storage.resize?.(CHUNK);
  expect(await map(storage)).toBe('x');
  await storage.resize?.(4 * CHUNK);
  expect(await map(storage)).toBe('x...');
  await storage.write(2 * CHUNK, ones(512), PLAIN);
  expect(await map(storage)).toBe('x.x.');
  await storage.resize?.(200 * CHUNK);
  expect(await map(storage)).toBe(`x.x${'.'.repeat(197)}`);
});
