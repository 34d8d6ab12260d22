import { cp, open, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { gunzipSync, gzipSync } from 'node:zlib';
import fc from 'fast-check';
import { beforeAll, describe, expect, test } from 'vitest';
import { MODE_NAMES } from 'write-barrier';
import { DiskRecorder, encodeTrace, writeLogWrites } from 'write-barrier/testing/lab';
import { replay } from '../../src/cli/replay-run.js';
import { loadTrace } from '../../src/cli/replay-trace.js';
import { blocksOf, read } from '../docs/pages.js';
import { emptyFolder } from '../examples/folder.js';
import { type Finished, runExample } from '../examples/run.js';
import { runCommand } from './run.js';

const RECORDED = fileURLToPath(new URL('../../examples/03-replay/ext4-ordered', import.meta.url));
const SECTOR = 512;

/** The rows of the table by mode, each by column. */
function tableOf({ stdout }: Finished): Record<string, Record<string, string>> {
  const lines = stdout.split('\n');
  const start = lines.findIndex((line) => line.startsWith('mode '));
  const cells = (line: string) => line.split(/ {2,}/).map((cell) => cell.trim());
  const [titles, ...rows] = lines.slice(start, lines.indexOf('', start)).map(cells);
  return Object.fromEntries(
    rows.map((row) => [
      row[0]?.split(' ')[0],
      Object.fromEntries((titles ?? []).map((title, i) => [title, row[i]])),
    ]),
  );
}

/** A folder with the trace of a small disk: what is asked of options needs no large one. */
async function smallTrace(): Promise<string> {
  const folder = await emptyFolder();
  await writeTrace(folder, small());
  return folder;
}

/** One column of the table, by mode. */
function column(result: Finished, title: string): Record<string, string | undefined> {
  const rows = Object.entries(tableOf(result));
  return Object.fromEntries(rows.map(([mode, row]) => [mode, row[title]]));
}

interface Parts {
  base: Buffer;
  final: Buffer;
  data: Buffer;
  lines: (string | object)[];
}

async function writeTrace(folder: string, { base, final, data, lines }: Parts): Promise<void> {
  const text = lines.map((line) => (typeof line === 'string' ? line : JSON.stringify(line)));
  await writeFile(join(folder, 'base.img.gz'), gzipSync(base));
  await writeFile(join(folder, 'final.img.gz'), gzipSync(final));
  await writeFile(join(folder, 'data.bin.gz'), gzipSync(data));
  await writeFile(join(folder, 'trace.jsonl'), `${text.join('\n')}\n`);
}

/** Eight sectors, into which the guest writes one. */
function small(): Parts {
  const base = Buffer.alloc(8 * SECTOR);
  const data = Buffer.alloc(SECTOR, 7);
  const final = Buffer.from(base);
  final.set(data, SECTOR);
  const write = { e: 'submit', n: 0, x: 'd', op: 'write', off: SECTOR, len: SECTOR, d: 0, at: 1 };
  return { base, final, data, lines: [write, { e: 'complete', n: 0, at: 2 }] };
}

async function overwrite(path: string, at: number): Promise<void> {
  const file = await open(path, 'r+');
  await file.write(Buffer.of(255), 0, 1, at);
  await file.close();
}

describe('the recorded trace', () => {
  let result: Finished;
  beforeAll(async () => {
    result = await runExample(['03-replay']);
  });

  test('it is replayed in all seven modes, and all images are identical', () => {
    expect(result.code).toBe(0);
    expect(Object.keys(tableOf(result))).toEqual(MODE_NAMES);
    expect(new Set(Object.values(column(result, 'images')))).toEqual(new Set(['identical']));
    expect(result.stderr.match(/^replayed \w+: images identical$/gm)).toHaveLength(7);
  });

  test('every mode sends each read and each write of the guest to the file once', () => {
    expect(result.stdout).toContain('78 reads, 249 writes and 126 flushes of a guest');
    expect(new Set(Object.values(column(result, 'reads')))).toEqual(new Set(['78']));
    expect(new Set(Object.values(column(result, 'writes')))).toEqual(new Set(['249']));
  });

  test('the flush and FUA modes and NONE flush once for each flush of the guest, the others never', () => {
    expect(column(result, 'flushes')).toEqual({
      NONE: '126',
      DRAIN: '0',
      DRAIN_FLUSH: '126',
      DRAIN_FUA: '126',
      TAG: '0',
      TAG_FLUSH: '126',
      TAG_FUA: '126',
    });
  });

  test('NONE never drains, through modes drain once for each barrier, the others before and after', () => {
    expect(column(result, 'drains')).toEqual({
      NONE: '0',
      DRAIN: '126',
      DRAIN_FLUSH: '252',
      DRAIN_FUA: '252',
      TAG: '126',
      TAG_FLUSH: '252',
      TAG_FUA: '252',
    });
  });

  test('the verdicts are those of a volatile cache, and the unsafe modes say that they were allowed', () => {
    expect(column(result, 'verdict')).toEqual({
      NONE: 'unsafe *',
      DRAIN: 'unsafe *',
      DRAIN_FLUSH: 'safe',
      DRAIN_FUA: 'safe',
      TAG: 'unsafe *',
      TAG_FLUSH: 'safe-without-errors',
      TAG_FUA: 'safe-without-errors',
    });
    expect(result.stdout).toContain('with allowUnsafe');
    expect(result.stdout).toContain('DRAIN        Only completions are in order');
    expect(result.stdout).toContain('How to read this');
  });

  test.runIf(process.platform === 'linux')(
    'README.md: the extract of the main job is what it prints, but for the times',
    () => {
      const shown = blocksOf(read('README.md')).find(
        ({ text }) => text.startsWith('mode ') && text.includes('verdict'),
      );
      const timeless = (line: string): string => line.replace(/\d+(?= {2,}identical)/, '..');
      const said = result.stdout.split('\n').map((line) => timeless(line).replaceAll(/ +/g, ' '));
      const lines = (shown?.text ?? '').trimEnd().split('\n');
      expect(lines.length).toBeGreaterThan(7);
      for (const line of lines) expect(said).toContain(line.replaceAll(/ +/g, ' '));
    },
  );
});

describe('options', () => {
  test('--mode picks modes in the given order, in any case', async () => {
    const folder = await emptyFolder();
    const args = ['--mode', 'tag_flush', '--mode', 'DRAIN', '--depth', '1'];
    const result = await runCommand(['replay', await smallTrace(), ...args], folder);
    expect(result.code).toBe(0);
    expect(Object.keys(tableOf(result))).toEqual(['TAG_FLUSH', 'DRAIN']);
    expect(await readdir(folder)).toEqual([]);
  });

  test('--file and --keep leave the image where it was asked for, and without --keep it goes', async () => {
    const folder = await emptyFolder();
    const file = join(folder, 'disk.img');
    const args = ['--mode', 'DRAIN', '--file', file];
    expect((await runCommand(['replay', await smallTrace(), ...args])).code).toBe(0);
    expect(await readdir(folder)).toEqual([]);
    expect((await runCommand(['replay', RECORDED, ...args, '--keep'])).stdout).toContain(
      `Kept: ${file}, ${file}.marks`,
    );
    expect((await readdir(folder)).sort()).toEqual(['disk.img', 'disk.img.marks']);
    const final = gunzipSync(await readFile(join(RECORDED, 'final.img.gz')));
    expect(final.equals(await readFile(file))).toBe(true);
    expect((await readFile(`${file}.marks`)).toString('latin1', 0, 6)).toBe('mark 0');
  });

  test.each(['disk.img', 'disk.img.marks'])(
    'given an existing %s, then nothing is touched',
    async (name) => {
      const folder = await emptyFolder();
      await writeFile(join(folder, name), 'precious');
      const args = [await smallTrace(), '--file', join(folder, 'disk.img')];
      const { code, stderr } = await runCommand(['replay', ...args]);
      expect(code).toBe(2);
      expect(stderr).toMatch(/^write-barrier replay: EEXIST: file already exists.*\n$/);
      expect(await readdir(folder)).toEqual([name]);
      expect(await readFile(join(folder, name), 'utf8')).toBe('precious');
    },
  );

  test('--help names every option', async () => {
    const { code, stdout } = await runCommand(['replay', '--help']);
    expect(code).toBe(0);
    for (const name of ['size', 'file', 'mode', 'depth', 'keep'])
      expect(stdout).toContain(`--${name}`);
  });

  test.each([
    [['--mode', 'FUA'], '--mode must be one of NONE, DRAIN, '],
    [[], 'TRACE is missing'],
    [['nowhere'], 'ENOENT'],
    [['README.md'], 'README.md is neither a trace of write-barrier nor a log of dm-log-writes'],
    [['--depth', '0'], '--depth takes a whole number from 1 to 65536, not 0'],
    [['--colour'], "Unknown option '--colour'"],
  ])('%j is answered in one line', async (args, message) => {
    const { code, stderr } = await runCommand(['replay', ...args]);
    expect(code).toBe(2);
    expect(stderr).toContain(`write-barrier replay: ${message}`);
    expect(stderr.trim().split('\n')).toHaveLength(1);
  });
});

describe('verification', () => {
  test('given a final image with one wrong byte, then the run fails and says where and whose fault', async () => {
    const folder = await emptyFolder();
    await cp(RECORDED, folder, { recursive: true });
    const final = gunzipSync(await readFile(join(folder, 'final.img.gz')));
    final[123_456] = (final[123_456] as number) ^ 1;
    await writeFile(join(folder, 'final.img.gz'), gzipSync(final, { level: 1 }));
    const result = await runCommand(['replay', folder, '--mode', 'DRAIN_FLUSH']);
    expect(result.code).toBe(1);
    expect(column(result, 'images')).toEqual({ DRAIN_FLUSH: 'WRONG' });
    expect(result.stderr).toContain('replayed DRAIN_FLUSH: WRONG');
    expect(result.stderr).toMatch(
      /^write-barrier replay: DRAIN_FLUSH: final\.img\.gz: expected \d+, found \d+ at byte 123456; .* does not belong to it$/m,
    );
  });

  test('given wrong marks, then the second disk is reported, too', async () => {
    const folder = await emptyFolder();
    await writeTrace(folder, small());
    const trace = await loadTrace(folder);
    const { base, final } = trace.images.m as { base: Uint8Array; final: Uint8Array };
    const wrong = Buffer.from(final);
    wrong[700] = 9;
    const images = { ...trace.images, m: { base, final: wrong } };
    const { problems } = await replay({ ...trace, images }, 'DRAIN', {
      paths: { d: join(folder, 'd'), m: join(folder, 'm') },
      depth: 1,
      onRequest: () => {},
    });
    expect(problems).toEqual([
      'the expected marks: expected 9, found 0 at byte 700; ' +
        'the replay did what the trace says, so this final image does not belong to it',
    ]);
  });

  test('given a file that somebody else changes, then the read and the image tell', async () => {
    const folder = await emptyFolder();
    const paths = { d: join(folder, 'd'), m: join(folder, 'm') };
    const read = { e: 'submit', n: 1, x: 'd', op: 'read', off: 0, len: 4 * SECTOR, at: 3 };
    const parts = small();
    await writeTrace(folder, { ...parts, lines: [...parts.lines, read] });
    const trace = await loadTrace(folder);
    async function* events(): ReturnType<typeof trace.events> {
      for await (const event of trace.events()) {
        if (event.n === 1) await overwrite(paths.d, SECTOR + 5);
        yield event;
      }
    }
    const { problems } = await replay({ ...trace, events }, 'DRAIN', {
      paths,
      depth: 1,
      onRequest: () => {},
    });
    expect(problems).toEqual([
      'request 1, a read: expected 7, found 255 at byte 517',
      'final.img.gz: expected 7, found 255 at byte 517; the replay did not do what the trace says',
    ]);
  });

  // Goal: any guest, not just the recorded one. Method: traces of overlapping reads, writes, FUA writes and
  // flushes, complete in any order, on both disks; the expected image follows from the order of submission.
  test('given any trace, then every mode returns the right reads and leaves the right image', async () => {
    const folder = await emptyFolder();
    const paths = { d: join(folder, 'd'), m: join(folder, 'm') };
    const property = fc.asyncProperty(generatedTraces, async (parts) => {
      await writeTrace(folder, parts);
      const trace = await loadTrace(folder);
      for (const mode of MODE_NAMES) {
        const outcome = await replay(trace, mode, { paths, depth: 4, onRequest: () => {} });
        expect([mode, outcome.problems]).toEqual([mode, []]);
        // On a file a forced write that is no barrier is a write and a flush.
        const forces = parts.lines.some((line) => 'fua' in Object(line));
        const { fua, flush } = outcome.commands;
        if (forces) expect(fua + flush).toBeGreaterThan(0);
      }
    });
    await fc.assert(property, { numRuns: 12, seed: 20100 });
  });

  test('given two flushes in flight together, then NONE coalesces and the barrier modes do not', async () => {
    const folder = await emptyFolder();
    const parts = small();
    const flush = (n: number) => ({ e: 'submit', n, x: 'd', op: 'flush', at: 3 });
    parts.lines.splice(1, 0, flush(1), flush(2), flush(3));
    await writeTrace(folder, parts);
    const result = await runCommand(['replay', folder]);
    expect(result.code).toBe(0);
    expect(column(result, 'coalesced')).toMatchObject({
      NONE: '2',
      DRAIN_FLUSH: '0',
      TAG_FLUSH: '0',
    });
    expect(column(result, 'flushes')).toMatchObject({
      NONE: '1',
      DRAIN_FLUSH: '3',
      TAG_FLUSH: '3',
    });
  });
});

describe('a trace of a disk', () => {
  /** A disk of eight sectors that begins with content, in whose trace writes, zeroes and a flush are in flight together. */
  function recorded(): DiskRecorder {
    const recorder = new DiskRecorder(8 * SECTOR, new Uint8Array(8 * SECTOR).fill(9));
    const plain = { tag: 'simple', fua: false } as const;
    const at = (sector: number, sectors = 1) => ({
      offset: sector * SECTOR,
      length: sectors * SECTOR,
    });
    const sent = [
      recorder.dispatch({ op: 'write', ...at(1), ...plain }, new Uint8Array(SECTOR).fill(1)),
      recorder.dispatch({ op: 'writeZeroes', ...at(2, 2), ...plain }),
    ];
    for (const one of sent) recorder.complete(one);
    recorder.complete(recorder.dispatch({ op: 'read', ...at(0, 4), ...plain }));
    recorder.complete(recorder.dispatch({ op: 'flush', offset: 0, length: 0, ...plain }));
    recorder.complete(recorder.dispatch({ op: 'discard', ...at(5), ...plain }));
    const last = { op: 'write', ...at(4), tag: 'ordered', fua: true } as const;
    recorder.complete(recorder.dispatch(last, new Uint8Array(SECTOR).fill(2)));
    return recorder;
  }

  test('it is replayed in all modes, and the image is what its writes have left', async () => {
    const folder = await emptyFolder();
    await writeFile(join(folder, 'disk.trace'), encodeTrace(recorded().trace));
    const file = join(folder, 'disk.img');
    const result = await runCommand(['replay', 'disk.trace', '--file', file, '--keep'], folder);
    expect(result.code).toBe(0);
    expect(result.stdout).toContain('Trace disk.trace: 1 read, 3 writes and 1 flush');
    expect(result.stdout).toContain('1 discards and failed commands are left out');
    expect(new Set(Object.values(column(result, 'images')))).toEqual(new Set(['identical']));
    const image = await readFile(file);
    const sectors = Array.from({ length: 8 }, (_, n) => image[n * SECTOR]);
    expect(sectors).toEqual([9, 1, 0, 0, 2, 9, 9, 9]);
  });

  test('a log of dm-log-writes is replayed if the size of the disk is said, and refused without', async () => {
    const folder = await emptyFolder();
    const { trace } = recorded();
    const plain = trace.commands.filter(({ op }) => op === 'write' || op === 'flush');
    await writeFile(
      join(folder, 'log'),
      writeLogWrites({ size: trace.size, commands: plain, marks: [] }),
    );
    const refused = await runCommand(['replay', 'log'], folder);
    expect(refused).toMatchObject({ code: 2 });
    expect(refused.stderr).toContain('--size');
    const { code, stdout } = await runCommand(['replay', 'log', '--size', '4K'], folder);
    expect({ code, said: stdout.includes('0 reads, 2 writes') }).toEqual({ code: 0, said: true });
  });
});

describe('a malformed trace', () => {
  const write = small().lines[0] as Record<string, unknown>;
  const bad: [string, string | object, string][] = [
    ['a line that is not JSON', '{"e":', 'not a line of JSON'],
    ['a line that is no object', '42', 'not a JSON object'],
    ['an unknown event', { e: 'start', n: 1 }, 'no such event: "start"'],
    ['no number', { e: 'complete' }, 'no request number: nothing'],
    ['an unknown disk', { ...write, n: 1, x: 'q' }, 'no such disk: "q"'],
    ['an unknown op', { ...write, n: 1, op: 'trim' }, 'no such op: "trim"'],
    [
      'a complete without submit',
      { e: 'complete', n: 9 },
      'request 9 completes, but it was not submitted',
    ],
    ['a request twice', write, 'request 0 is submitted again before it has completed'],
    ['no range', { ...write, n: 1, len: 0 }, 'no range of bytes: offset 512, length 0'],
    [
      'a range outside',
      { ...write, n: 1, off: 8 * SECTOR },
      '512 bytes at 4096 are outside disk d, which has 4096',
    ],
    [
      'half a sector',
      { ...write, n: 1, len: 256 },
      '256 bytes at 512 are not whole sectors of 512',
    ],
    ['no payload', { ...write, n: 1, d: null }, 'no place of the payload in data.bin: null'],
    [
      'a payload outside',
      { ...write, n: 1, d: 512 },
      'a payload of 512 bytes at 512 is outside data.bin, which has 512',
    ],
  ];

  test.each(bad)('given %s, then one line says so with its number', async (_, line, message) => {
    const folder = await emptyFolder();
    const parts = small();
    parts.lines.splice(1, 0, line);
    await writeTrace(folder, parts);
    await expect(loadTrace(folder)).rejects.toThrow(`trace.jsonl, line 2: ${message}`);
  });

  test('it ends the run with exit code 2 and without a stack trace', async () => {
    const folder = await emptyFolder();
    const parts = small();
    parts.lines.push('oops');
    await writeTrace(folder, parts);
    const { code, stdout, stderr } = await runCommand(['replay', folder]);
    expect(code).toBe(2);
    expect(stdout).toBe('');
    expect(stderr).toBe('write-barrier replay: trace.jsonl, line 3: not a line of JSON\n');
  });

  test.each(['base.img.gz', 'final.img.gz', 'trace.jsonl', 'data.bin.gz'])(
    'given no %s, then one line says so and the exit code is 2',
    async (name) => {
      const folder = await emptyFolder();
      await writeTrace(folder, small());
      await rm(join(folder, name));
      const { code, stderr } = await runCommand(['replay', folder]);
      expect(code).toBe(2);
      expect(stderr).toBe(
        `write-barrier replay: a trace needs ${join(folder, name)}, which cannot be read\n`,
      );
    },
  );

  test('given images that cannot be those of one disk, then it says so', async () => {
    const folder = await emptyFolder();
    await writeTrace(folder, { ...small(), final: Buffer.alloc(SECTOR) });
    await expect(loadTrace(folder)).rejects.toThrow(
      'base.img.gz holds 4096 bytes, final.img.gz 512',
    );
    await writeTrace(folder, { ...small(), base: Buffer.alloc(100), final: Buffer.alloc(100) });
    await expect(loadTrace(folder)).rejects.toThrow('100 bytes, which are not whole sectors');
    await writeFile(join(folder, 'base.img.gz'), 'not packed');
    await expect(loadTrace(folder)).rejects.toThrow('base.img.gz is not a gzip file');
  });
});

/** Requests on 16 sectors of both disks; each request completes up to eight submissions later. */
const generatedTraces: fc.Arbitrary<Parts> = fc
  .array(
    fc.record({
      x: fc.constantFrom('d', 'd', 'd', 'm'),
      op: fc.constantFrom('read', 'write', 'write', 'fua', 'flush'),
      first: fc.nat(13),
      sectors: fc.integer({ min: 1, max: 3 }),
      lag: fc.nat(8),
    }),
    { minLength: 1, maxLength: 60 },
  )
  .map((requests) => {
    const base = Buffer.alloc(16 * SECTOR, 0xee);
    const final = Buffer.from(base);
    const payloads: Buffer[] = [];
    const submits: object[] = [];
    let d = 0;
    requests.forEach(({ x, op, first, sectors }, n) => {
      const off = first * SECTOR;
      const len = sectors * SECTOR;
      const at = n;
      if (op === 'flush') submits.push({ e: 'submit', n, x, op, at });
      else if (op === 'read') submits.push({ e: 'submit', n, x, op, off, len, at });
      else {
        const payload = Buffer.alloc(len, n + 1);
        const fua = op === 'fua' ? { fua: 1 } : {};
        submits.push({ e: 'submit', n, x, op: 'write', off, len, d, ...fua, at });
        payloads.push(payload);
        if (x === 'd') final.set(payload, off);
        d += len;
      }
    });
    const lines = submits.flatMap((submit, n) => [
      submit,
      ...requests.flatMap(({ lag }, m) => (m + lag === n ? [{ e: 'complete', n: m, at: n }] : [])),
    ]);
    return { base, final, data: Buffer.concat(payloads), lines };
  });
