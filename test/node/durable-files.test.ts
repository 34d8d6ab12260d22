// Whole files that are replaced, and files of records. What a power cut leaves of them is tested with the crash kit for files.

import { existsSync } from 'node:fs';
import {
  appendFile,
  chmod,
  mkdir,
  mkdtemp,
  readdir,
  readFile,
  readlink,
  rm,
  stat,
  symlink,
  writeFile,
} from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import fc from 'fast-check';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { appendRecord, readRecords, replaceFile } from 'write-barrier/node';

let root = '';
let folder = '';
let file = '';
let number = 0;
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), 'durable-files-'));
});
beforeEach(async () => {
  number += 1;
  folder = join(root, `${number}`);
  file = join(folder, 'file');
  await mkdir(folder);
});
afterAll(() => rm(root, { recursive: true }));

describe('replaceFile', () => {
  test('makes a file, and replaces it by text or bytes, and leaves nothing else', async () => {
    await replaceFile(file, 'one');
    expect(await readFile(file, 'utf8')).toBe('one');
    await replaceFile(pathToFileURL(file), new Uint8Array([1, 2]));
    expect([...(await readFile(file))]).toEqual([1, 2]);
    await replaceFile(file, '');
    expect(await readFile(file, 'utf8')).toBe('');
    expect(await readdir(folder)).toEqual(['file']);
  });

  test('keeps permissions, and a symbolic link with its target', async () => {
    await writeFile(file, 'old');
    await chmod(file, 0o600);
    const link = join(folder, 'link');
    await symlink('file', link);
    await replaceFile(link, 'new');
    expect(await readlink(link)).toBe('file');
    expect(await readFile(file, 'utf8')).toBe('new');
    expect((await stat(file)).mode & 0o777).toBe(0o600);
  });

  test('called many times at once leaves one of the contents, whole', async () => {
    const contents = Array.from({ length: 20 }, (_, i) => `${i}`.repeat(10_000));
    await Promise.all(contents.map((content) => replaceFile(file, content)));
    expect(contents).toContain(await readFile(file, 'utf8'));
    expect(await readdir(folder)).toEqual(['file']);
  });

  test('that fails leaves the old content and no other file', async () => {
    await mkdir(file);
    await expect(replaceFile(file, 'new')).rejects.toMatchObject({
      code: 'IO_FAILED',
      cause: { code: expect.stringMatching(/EISDIR|ENOTEMPTY|EPERM|EEXIST/) },
    });
    expect(await readdir(folder)).toEqual(['file']);
    const missing = replaceFile(join(folder, 'missing', 'file'), 'new');
    await expect(missing).rejects.toMatchObject({ code: 'IO_FAILED', cause: { code: 'ENOENT' } });
  });

  test.each([[''], ['file://x'], [5], ['a\0b']])('refuses the path %j', async (path) => {
    await expect(replaceFile(path as string, '')).rejects.toMatchObject({
      code: 'INVALID_ARGUMENT',
    });
  });

  test.each([[undefined], [5], [[1]]])('refuses the data %j, and changes nothing', async (data) => {
    await writeFile(file, 'old');
    await expect(replaceFile(file, data as never)).rejects.toMatchObject({
      code: 'INVALID_ARGUMENT',
    });
    expect(await readFile(file, 'utf8')).toBe('old');
  });
});

describe('a file of records', () => {
  test('has none when it is missing or empty', async () => {
    expect(await readRecords(file)).toEqual([]);
    await writeFile(file, '');
    expect(await readRecords(file)).toEqual([]);
  });

  test('gives back any texts in order, however they were appended', async () => {
    const text = fc.oneof(
      fc.string({ unit: 'grapheme' }),
      fc.constant('x'.repeat(100_000)),
      fc.constant(''),
    );
    await fc.assert(
      fc.asyncProperty(fc.array(text, { maxLength: 6 }), async (texts) => {
        const records = texts.map((one) => one.replaceAll('\n', ' '));
        await rm(file, { force: true });
        await Promise.all(records.map((record) => appendRecord(file, record)));
        expect(await readRecords(file)).toEqual(records);
      }),
      { numRuns: 50 },
    );
  });

  test('refuses a record of several lines, and no text', async () => {
    for (const record of ['one\ntwo', 5, undefined]) {
      await expect(appendRecord(file, record as string)).rejects.toMatchObject({
        code: 'INVALID_ARGUMENT',
      });
    }
    expect(existsSync(file)).toBe(false);
  });

  test('goes on after a record that failed', async () => {
    await mkdir(file);
    await expect(appendRecord(file, 'one')).rejects.toMatchObject({ code: 'IO_FAILED' });
    await rm(file, { recursive: true });
    await appendRecord(file, 'two');
    expect(await readRecords(file)).toEqual(['two']);
  });

  test('given any rest of a record that was cut off, when one is appended, then that one is behind the whole ones', async () => {
    const size = fc.nat({ max: 200 });
    await fc.assert(
      fc.asyncProperty(
        fc.array(size, { maxLength: 3 }),
        size,
        fc.nat(),
        fc.nat(),
        async (sizes, last, to, lost) => {
          await rm(file, { force: true });
          const records = sizes.map((length, i) => `${i}`.repeat(length));
          for (const record of records) await appendRecord(file, record);
          const start = existsSync(file) ? (await stat(file)).size : 0;
          await appendRecord(file, 'z'.repeat(last));
          const bytes = await readFile(file);
          // The file system has the size, and zeroes in place of some of the bytes.
          const end = start + (to % (bytes.length - start));
          const from = start + (lost % (end - start + 1));
          bytes.fill(0, from, end);
          await writeFile(file, bytes.subarray(0, end));
          expect(await readRecords(file)).toEqual(records);
          await appendRecord(file, 'new');
          expect(await readRecords(file)).toEqual([...records, 'new']);
        },
      ),
      { numRuns: 200 },
    );
  });

  test('whose last line came without its middle reads as if that record were not there', async () => {
    await appendRecord(file, 'one');
    await appendRecord(file, 'x'.repeat(300_000));
    const bytes = await readFile(file);
    bytes.fill(0, 4096, 8192);
    await writeFile(file, bytes);
    expect(await readRecords(file)).toEqual(['one']);
    await appendRecord(file, 'two');
    expect(await readRecords(file)).toEqual(['one', 'two']);
  });

  test('takes no lone surrogate, because what is read back would be another text', async () => {
    for (const text of ['\ud800', 'a\udc00b', '\udc00\ud800'])
      await expect(appendRecord(file, text)).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
    await expect(replaceFile(file, '\ud800')).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
    await expect(readFile(file)).rejects.toMatchObject({ code: 'ENOENT' });
    await appendRecord(file, '\u{1f600}');
    expect(await readRecords(file)).toEqual(['\u{1f600}']);
  });

  test.each([
    ['a text without a line feed', 'hello world'],
    ['a line', 'hello world\n'],
    ['lines', 'one\ntwo\nthree\n'],
    ['a long line', 'x'.repeat(200_000)],
    ['bytes', '\x7fELF\x02\x01\x01'],
  ])('is not made of %s: it is refused and not changed', async (_, content) => {
    await writeFile(file, content);
    await expect(appendRecord(file, 'one')).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
    expect(await readFile(file, 'utf8')).toBe(content);
  });

  test('is refused when something else was appended to it', async () => {
    await appendRecord(file, 'one');
    await appendFile(file, 'something\nelse\n');
    await expect(appendRecord(file, 'two')).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
    expect(await readRecords(file)).toEqual(['one']);
  });
});
