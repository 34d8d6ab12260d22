// The recorder of node:fs: what it records, what it leaves alone, and what it notices.
//
// That it records what Node does, call by call, is compared with strace in test/interop/files-recorder.test.ts.

import { execFileSync } from 'node:child_process';
import module, * as fs from 'node:fs';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import * as fsp from 'node:fs/promises';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, describe, expect, test } from 'vitest';
import { finalTree } from '../../../src/testing/files/folder.js';
import { recordFiles } from '../../../src/testing/files/record.js';
import { linesOf } from './lines.js';

/** A function that was taken out of the module before anything was replaced. */
const { writeFileSync: takenEarlier } = createRequire(import.meta.url)('node:fs') as typeof fs;
const originals = { ...module };
const promises = { ...fs.promises };

const outside = mkdtempSync(join(tmpdir(), 'outside-'));
afterEach(() => rmSync(outside, { recursive: true, force: true }));

describe('a recording', () => {
  test('has each operation with its inode, in the order of the calls', async () => {
    const trace = await recordFiles({
      before: (root) => writeFileSync(`${root}/a`, 'old'),
      run: async (root) => {
        await fsp.writeFile(`${root}/t`, 'new', { flush: true });
        await fsp.rename(`${root}/t`, `${root}/a`);
      },
    });
    expect(linesOf(trace)).toEqual(['create /t', 'write /t 0..3', 'fsync /t', 'rename /t -> /a']);
    expect(trace.operations.at(-1)).toMatchObject({ inode: 3, replaced: 2 });
    expect(trace.initial.get(2)).toEqual({
      kind: 'file',
      data: Uint8Array.from(Buffer.from('old')),
    });
    expect(trace.gaps).toEqual([]);
  });

  test('takes what is in the folder before for durable, with its links', async () => {
    const trace = await recordFiles({
      before: (root) => {
        fs.mkdirSync(`${root}/d`);
        fs.writeFileSync(`${root}/d/a`, 'one');
        fs.linkSync(`${root}/d/a`, `${root}/b`);
        fs.symlinkSync('d', `${root}/s`);
      },
      run: (root) => fs.writeFileSync(`${root}/s/a`, 'two', { flag: 'r+' }),
    });
    const inodes = [...trace.initial.values()];
    expect(inodes.filter(({ kind }) => kind === 'file')).toHaveLength(1);
    expect(linesOf(trace)).toEqual(['write /b 0..3']);
    expect(
      finalTree(trace).get(trace.operations[0]?.op === 'write' ? trace.operations[0].inode : 0),
    ).toMatchObject({ data: Uint8Array.from(Buffer.from('two')) });
  });

  test('follows a descriptor that was opened before, also to a name that is gone', async () => {
    let descriptor = 0;
    const trace = await recordFiles({
      before: (root) => {
        descriptor = fs.openSync(`${root}/a`, 'a');
        fs.writeSync(descriptor, 'one');
      },
      run: (root) => {
        fs.writeSync(descriptor, 'two');
        fs.unlinkSync(`${root}/a`);
        fs.writeSync(descriptor, 'three');
        fs.closeSync(descriptor);
      },
    });
    expect(linesOf(trace)).toEqual(['write /a 3..6', 'unlink /a', 'write /a 6..11']);
    expect(trace.gaps).toEqual([]);
  });

  test('puts a mark in its place, and leaves without end what was not answered', async () => {
    const trace = await recordFiles({
      run: (root, mark) => {
        const descriptor = fs.openSync(`${root}/a`, 'w');
        mark('before');
        fs.write(descriptor, 'x', () => undefined);
        fs.fsync(descriptor, () => undefined);
        mark('after');
      },
    });
    expect(linesOf(trace)).toEqual([
      'create /a',
      'mark "before"',
      'write /a 0..1',
      'fsync /a',
      'mark "after"',
    ]);
    expect(trace.operations.map(({ end }) => end)).toEqual([1, Infinity, Infinity]);
  });

  test('lets calls overlap: an operation begins when it is called, and ends when it is answered', async () => {
    const trace = await recordFiles({
      run: async (root) => {
        const handles = await Promise.all([fsp.open(`${root}/a`, 'w'), fsp.open(`${root}/b`, 'w')]);
        await Promise.all(handles.map((handle) => handle.write('x')));
        await Promise.all(handles.map((handle) => handle.sync()));
        await Promise.all(handles.map((handle) => handle.close()));
      },
    });
    const spans = trace.operations.map(({ op, begin, end }) => [op, begin, end]);
    expect(spans).toEqual([
      ['create', 0, 2],
      ['create', 1, 3],
      ['write', 4, 6],
      ['write', 5, 7],
      ['fsync', 8, 10],
      ['fsync', 9, 11],
    ]);
  });

  test('shows two writeFile of one file that run into each other', async () => {
    const trace = await recordFiles({
      run: async (root) => {
        await Promise.all([
          fsp.writeFile(`${root}/a`, 'long text'),
          fsp.writeFile(`${root}/a`, 'x'),
        ]);
      },
    });
    expect(linesOf(trace)).toEqual(['create /a', 'write /a 0..9', 'write /a 0..1']);
  });

  test('is the same each time', async () => {
    const record = () =>
      recordFiles({
        run: async (root) => {
          const texts = ['a', 'b', 'c', 'd', 'e'];
          await Promise.all(
            texts.map((name) => fsp.writeFile(`${root}/${name}`, name, { flush: true })),
          );
          await Promise.all(
            texts.map((name) => fsp.rename(`${root}/${name}`, `${root}/to-${name}`)),
          );
          await fsp.rm(`${root}/to-a`);
        },
      });
    const [first, second] = [await record(), await record()];
    expect(second).toEqual(first);
  });

  test('has copies of what was written, because a program may use its buffer again', async () => {
    const buffer = Buffer.from('one');
    const trace = await recordFiles({
      run: (root) => {
        const descriptor = fs.openSync(`${root}/a`, 'w');
        fs.writeSync(descriptor, buffer);
        buffer.fill(0);
        fs.closeSync(descriptor);
      },
    });
    expect(trace.operations[1]).toMatchObject({ data: Uint8Array.from(Buffer.from('one')) });
  });

  test('names the line of the program, also of what Node does later', async () => {
    const trace = await recordFiles({
      run: async function program(root) {
        fs.writeFileSync(`${root}/a`, 'x');
        await new Promise<void>((done) =>
          fs.writeFile(`${root}/b`, Buffer.from('x'), () => done()),
        );
        await fsp.appendFile(`${root}/b`, 'y');
        const stream = fs.createWriteStream(`${root}/c`);
        stream.end('z');
        await new Promise((done) => stream.on('close', () => done(undefined)));
      },
    });
    for (const { site } of trace.operations) expect(site).toMatch(/record\.test\.ts:\d+/);
    const lines = trace.operations.map(({ site }) => Number(/:(\d+)/.exec(site ?? '')?.[1]));
    expect(lines).toEqual([...lines].sort((a, b) => a - b));
    expect(new Set(lines).size).toBe(4);
  });
});

describe('a failure', () => {
  test('of a call is that of Node, and is no operation', async () => {
    const errors: unknown[] = [];
    const trace = await recordFiles({
      run: async (root) => {
        const nothing = `${root}/nothing`;
        for (const call of [
          () => fs.readFileSync(nothing),
          () => fs.renameSync(nothing, `${root}/a`),
          () => fs.unlinkSync(nothing),
          () => fs.rmSync(nothing),
          () => fs.mkdirSync(`${nothing}/a`),
          () => fs.rmSync(root),
          () => fs.cpSync(root, `${root}/inside`),
          () => fs.mkdirSync(root),
          () => fs.openSync(nothing, 'r'),
        ])
          try {
            call();
          } catch (error) {
            errors.push((error as NodeJS.ErrnoException).code);
          }
        await fsp.readFile(nothing).catch((error) => errors.push(error.code));
        await fsp.open(nothing).catch((error) => errors.push(error.code));
        await fsp.writeFile(`${nothing}/a`, 'x').catch((error) => errors.push(error.code));
        fs.stat(nothing, (error) => errors.push(error?.code));
        await fsp.stat(root);
      },
    });
    const ENOENT = Array.from({ length: 5 }, () => 'ENOENT');
    expect(errors).toEqual([
      ...ENOENT,
      'ERR_FS_EISDIR',
      'ERR_FS_CP_EINVAL',
      'EEXIST',
      'ENOENT',
      'ENOENT',
      'ENOENT',
      'ENOENT',
      'ENOENT',
    ]);
    expect(trace.operations).toEqual([]);
  });

  test('of arguments is thrown at once where Node throws at once', async () => {
    await recordFiles({
      run: async (root) => {
        const descriptor = fs.openSync(`${root}/a`, 'w');
        expect(() => fs.write(descriptor, 5 as never, () => undefined)).toThrow(/buffer/);
        expect(() => fs.fsync(descriptor, undefined as never)).toThrow(/cb/);
        await expect(fsp.writeFile(`${root}/b`, 5 as never)).rejects.toThrow(/data/);
        expect(existsSync(`${root}/b`)).toBe(false);
        fs.closeSync(descriptor);
      },
    });
  });

  test('of the program goes through, and everything is put back', async () => {
    const failing = recordFiles({
      run: () => {
        throw new Error('no');
      },
    });
    await expect(failing).rejects.toThrow('no');
    expect({ ...module }).toEqual(originals);
  });
});

describe('what is replaced', () => {
  test('is put back: the functions, those of promises, and those of handles', async () => {
    const handle = await fsp.open(import.meta.filename ?? new URL(import.meta.url));
    const prototype = Object.getPrototypeOf(handle);
    const methods = Object.getOwnPropertyDescriptors(prototype);
    const { write: original } = prototype;
    await recordFiles({
      run: async (root) => {
        expect(module.writeSync).not.toBe(originals.writeSync);
        const own = await fsp.open(`${root}/a`, 'w');
        expect(prototype.write).not.toBe(original);
        await own.close();
      },
    });
    await handle.close();
    expect({ ...module }).toEqual(originals);
    expect({ ...fs.promises }).toEqual(promises);
    expect(Object.getOwnPropertyDescriptors(prototype)).toEqual(methods);
    expect(writeFileSync).toBe(originals.writeFileSync);
  });

  test('keeps the names, the lengths and the symbols of the originals', async () => {
    await recordFiles({
      run: async (root) => {
        for (const [name, original] of Object.entries(originals)) {
          if (typeof original !== 'function') continue;
          const now = module[name as 'open'] as unknown as { name: string; length: number };
          expect(now.name).toBe(original.name);
          expect(now.length).toBe(original.length);
        }
        const { promisify } = await import('node:util');
        const descriptor = await promisify(fs.open)(`${root}/a`, 'w+');
        const written = await promisify(fs.write)(descriptor, 'text');
        expect(written).toEqual({ bytesWritten: 4, buffer: 'text' });
        const read = await promisify(fs.read)(descriptor, Buffer.alloc(4), 0, 4, 0);
        expect(read).toEqual({ bytesRead: 4, buffer: Buffer.from('text') });
        expect(await promisify(fs.exists)(`${root}/a`)).toBe(true);
        fs.closeSync(descriptor);
      },
    });
  });

  test('leaves alone what is outside of the folder', async () => {
    fs.mkdirSync(outside, { recursive: true });
    const trace = await recordFiles({
      run: async (root) => {
        fs.writeFileSync(`${outside}/a`, 'x');
        await fsp.writeFile(`${outside}/b`, 'y');
        const handle = await fsp.open(`${outside}/c`, 'w');
        await handle.write('z');
        await handle.close();
        fs.symlinkSync(outside, `${root}/out`);
        fs.writeFileSync(`${root}/out/d`, 'through a link');
        await fsp.rename(`${outside}/a`, `${outside}/e`);
      },
    });
    expect(linesOf(trace)).toEqual([`symlink /out -> ${outside}`]);
    expect(fs.readdirSync(outside)).toEqual(['b', 'c', 'd', 'e']);
    expect(trace.gaps).toEqual([]);
  });

  test('is one for two recordings at once', async () => {
    const record = (text: string) =>
      recordFiles({
        run: async (root) => {
          for (const name of ['a', 'b', 'c']) await fsp.writeFile(`${root}/${name}`, text);
        },
      });
    const [first, second] = await Promise.all([record('one'), record('three')]);
    expect(linesOf(first)).toContain('write /b 0..3');
    expect(linesOf(second)).toContain('write /b 0..5');
    expect([first.gaps, second.gaps]).toEqual([[], []]);
    expect({ ...module }).toEqual(originals);
  });
});

describe('what got past the recorder', () => {
  const gapsOf = async (run: (root: string) => void | Promise<void>): Promise<readonly string[]> =>
    (await recordFiles({ before: (root) => writeFileSync(`${root}/a`, 'old'), run })).gaps ?? [];

  test('is noticed: another process has written', async () => {
    const gaps = await gapsOf((root) => {
      execFileSync('sh', ['-c', 'echo new > a; echo more > b; mkdir c'], { cwd: root });
    });
    expect(gaps).toHaveLength(1);
    expect(gaps[0]).toMatch(/^\/a, \/b, \/c: not as the recorded calls have left it/);
  });

  test('is noticed: a function that was taken out of the module before', async () => {
    expect(await gapsOf((root) => takenEarlier(`${root}/a`, Buffer.from('new')))).toEqual([]);
    const { openSync, writeSync, closeSync } = originals;
    const gaps = await gapsOf((root) => {
      const descriptor = openSync(`${root}/a`, 'r+');
      writeSync(descriptor, 'new');
      closeSync(descriptor);
    });
    expect(gaps[0]).toMatch(/^\/a: /);
  });

  test('is noticed: a worker', async () => {
    const { Worker } = await import('node:worker_threads');
    const gaps = await gapsOf(async (root) => {
      const code = `require('fs').rmSync(${JSON.stringify(`${root}/a`)})`;
      const worker = new Worker(code, { eval: true });
      await new Promise((done) => worker.on('exit', () => done(undefined)));
    });
    expect(gaps[0]).toMatch(/^\/a: /);
  });

  test('is said of a file that came from outside by rename', async () => {
    const folder = mkdtempSync(join(existsSync('/dev/shm') ? '/dev/shm' : tmpdir(), 'from-'));
    writeFileSync(`${folder}/b`, 'from outside');
    const trace = await recordFiles({ run: (root) => fs.renameSync(`${folder}/b`, `${root}/b`) });
    rmSync(folder, { recursive: true });
    expect(linesOf(trace)).toEqual(['create /b', 'write /b 0..12']);
    expect(trace.gaps).toEqual([expect.stringMatching(/came from outside/)]);
  });

  test('is said of a file that is written both with O_DSYNC and without', async () => {
    const { O_DSYNC, O_WRONLY } = fs.constants;
    const gaps = await gapsOf((root) => {
      const plain = fs.openSync(`${root}/a`, 'r+');
      const synchronous = fs.openSync(`${root}/a`, O_WRONLY | O_DSYNC);
      fs.writeSync(plain, 'n', 0);
      fs.writeSync(synchronous, 'ew', 1);
      for (const descriptor of [plain, synchronous]) fs.closeSync(descriptor);
    });
    expect(gaps[0]).toMatch(/O_SYNC or O_DSYNC/);
  });
});

test('a folder of the caller stays, and its content counts', async () => {
  fs.mkdirSync(outside, { recursive: true });
  writeFileSync(`${outside}/a`, 'mine');
  const trace = await recordFiles({
    root: outside,
    run: (root) => fs.appendFileSync(`${root}/a`, ', too'),
  });
  expect(linesOf(trace)).toEqual(['write /a 4..9']);
  expect(readFileSync(`${outside}/a`, 'utf8')).toBe('mine, too');
});
