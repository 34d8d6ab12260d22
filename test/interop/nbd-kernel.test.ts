// Goal: what the server promises to a real kernel survives. Method: an unmodified Debian kernel in QEMU mounts ext4 on
// the example server, from which nothing is left but a process and a file, and reports each file once its fsync has
// returned. QEMU is killed, or the server is, at moments that are spread over the run by the guest's own reports; then
// the journal is recovered, e2fsck has to find nothing, and every file that was reported has to be there. A killed
// process loses nothing that the host's page cache has, so the server that is killed keeps a volatile cache of its own.
// Last, the trace that the server wrote goes through the crash kit. What ignores flushes must be found out, both ways.

import { mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs';
import { copyFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { DiskTrace } from 'write-barrier/testing';
import { crashSpace, decodeTrace } from 'write-barrier/testing/lab';
import { type Server, serve } from '../cli/server.js';
import { BLOCK, type Judged, judgeCuts } from './ext4.js';
import { judgeDisk, type Verdict } from './ext4-judge.js';
import {
  boot,
  filesOf,
  GUEST_PROGRAMS,
  type Guest,
  kernelPackage,
  type Machine,
  machineFor,
} from './guest.js';
import { missing, succeeds, titled } from './nbd-programs.js';

const FILES = 120;
const CUTS = 20;
/** The fractional parts of its multiples are spread evenly. */
const GOLDEN = (Math.sqrt(5) - 1) / 2;

const kernel = await kernelPackage();
const absent = [
  ...missing(...GUEST_PROGRAMS, 'e2fsck', 'debugfs', 'apt-get', 'dpkg-deb'),
  ...(kernel === undefined ? ['package of a kernel in apt'] : []),
];

describe.skipIf(absent.length > 0)(
  titled("Debian's kernel with ext4 on the server", absent),
  () => {
    const folder = mkdtempSync(join(tmpdir(), 'write-barrier-kernel-test-'));
    const template = join(folder, 'template.img');
    let machine: Machine;

    beforeAll(async () => {
      machine = await machineFor(kernel ?? '', folder, filesOf(FILES));
      const layout = ['-b', String(BLOCK), '-J', 'size=4', '-E', 'lazy_itable_init=0'];
      await succeeds('mkfs.ext4', ['-q', '-F', ...layout, template, '16M']);
    }, 120_000);
    afterAll(() => rmSync(folder, { recursive: true, force: true }));

    /** A guest on a server of its own, with a fresh disk. */
    const started = async (
      name: string,
      words: readonly string[],
      onSynced?: (file: number) => void,
    ): Promise<Run> => {
      const [image, socket] = [join(folder, `${name}.img`), join(folder, `${name}.sock`)];
      await copyFile(template, image);
      const server = await serve(image, '--socket', socket, '--interval', '0', ...words);
      return { image, server, guest: boot(machine, [socket], onSynced) };
    };

    /** The guest works until the `cut`th of so many moments; then `strike` comes. */
    const struck = async (
      cut: number,
      words: readonly string[],
      strike: (run: Run) => Promise<void>,
    ): Promise<Outcome> => {
      const run = await started(`cut-${words.join('')}-${cut}`, words);
      const { guest, image, server } = run;
      try {
        const mounted = await guest.says('mounted');
        const reports = Math.round(((cut + 0.5) / CUTS) * (FILES - 10));
        const reached = mounted && (cut === 0 || (await guest.reports(reports)));
        if (!reached) throw new Error(`the guest ended: ${guest.lines.join('\n')}`);
        // At once, so that an fsync which returned too early is found out, or anywhere between two reports: in the
        // journal, at its commit block, or in a flush.
        if (cut % 2 === 1) await setTimeout(((cut * GOLDEN) % 1) * 20);
        await strike(run);
      } finally {
        await guest.kill();
        await server.kill('SIGKILL');
      }
      const safe = new Set(guest.synced);
      const verdict = await judgeDisk(image, FILES, (file) => safe.has(file));
      rmSync(image);
      return { cut, verdict, safe: safe.size, ended: guest.lines.includes('done') };
    };

    test('QEMU is killed at 20 moments, and every file that was fsynced is there', async () => {
      const outcomes = await twoAtATime(CUTS, (cut) =>
        struck(cut, [], async ({ guest, server }) => {
          await guest.kill();
          // The server is none the worse for it: it takes its leave as ever.
          expect(await server.kill('SIGTERM')).toBe(0);
          expect(server.lines.at(-1)).toMatch(/^clients 0 of 1; requests \d+, failed 0;/);
        }),
      );
      expect(harmed(outcomes)).toEqual([]);
      expectSpread(outcomes);
    });

    test('the server is killed at 20 moments with what it has cached, and they are there too', async () => {
      const outcomes = await twoAtATime(CUTS, (cut) =>
        struck(cut, ['--volatile-cache'], async ({ server }) => {
          expect(await server.kill('SIGKILL')).toBe('SIGKILL');
        }),
      );
      expect(harmed(outcomes)).toEqual([]);
      expectSpread(outcomes);
    });

    test('a server that ignores flushes is found out by the same', async () => {
      const outcomes = await twoAtATime(4, (nth) =>
        struck(
          5 * nth + 4,
          ['--volatile-cache', '--mode', 'NONE', '--ignore-flushes'],
          async (run) => {
            await run.server.kill('SIGKILL');
          },
        ),
      );
      expect(harmed(outcomes).length).toBeGreaterThanOrEqual(2);
    });

    /** The whole run, until the guest switches itself off; a mark where a report of a file had come. */
    const traced = async (words: readonly string[]): Promise<DiskTrace> => {
      const path = join(folder, `trace${words.join('')}`);
      const known: { readonly file: number; readonly bytes: number }[] = [];
      const { guest, server, image } = await started(
        `trace${words.join('')}-disk`,
        ['--trace', path, ...words],
        // Every event is in the file before the client hears of it.
        (file) => known.push({ file, bytes: statSync(path).size }),
      );
      await guest.off;
      await server.kill('SIGKILL');
      expect(guest.lines).toContain('done');
      expect(guest.synced.length).toBe(FILES);
      const bytes = readFileSync(path);
      const trace = decodeTrace(bytes);
      expect(Buffer.compare(trace.initial ?? new Uint8Array(), readFileSync(template))).toBe(0);
      rmSync(image);
      const marks = known.map(({ file, bytes: length }) => {
        return { time: lastAnswer(decodeTrace(bytes.subarray(0, length))) + 0.5, value: file };
      });
      return { ...trace, marks };
    };

    const DISK = { cache: 'volatile', sectorSize: BLOCK } as const;

    test('given the trace of the server, no power cut does any harm', async () => {
      const trace = await traced([]);
      expect(trace.commands.filter(({ op }) => op === 'flush').length).toBeGreaterThan(FILES / 2);
      const judged = await judgeCuts({
        ...{ trace, space: crashSpace(trace, DISK), seed: 1, count: 300, files: FILES },
        knownUntil: ({ state }) => state.before,
      });
      expect(judged.length).toBe(300);
      expect(
        judged.flatMap(({ verdict, text }) => (verdict.kind === 'sound' ? [] : [text])),
      ).toEqual([]);
    });

    test('given the trace of a server that ignores flushes, much is damaged and much is lost', async () => {
      const trace = await traced(['--mode', 'NONE', '--ignore-flushes']);
      expect(trace.commands.filter(({ op }) => op === 'flush')).toEqual([]);
      const judged = await judgeCuts({
        ...{ trace, space: crashSpace(trace, DISK), seed: 1, count: 60, files: FILES },
        knownUntil: ({ time }) => time,
      });
      const count = (kind: Judged['verdict']['kind']): number =>
        judged.filter(({ verdict }) => verdict.kind === kind).length;
      expect(count('damaged')).toBeGreaterThan(0);
      expect(count('lost')).toBeGreaterThan(0);
    });
  },
);

interface Run {
  readonly image: string;
  readonly server: Server;
  readonly guest: Guest;
}

interface Outcome {
  readonly cut: number;
  readonly verdict: Verdict;
  /** How many files were reported. */
  readonly safe: number;
  /** The guest had made all of its files. */
  readonly ended: boolean;
}

function harmed(outcomes: readonly Outcome[]): string[] {
  return outcomes.flatMap(({ cut, verdict, safe }) =>
    verdict.kind === 'sound'
      ? []
      : [`cut ${cut}, ${safe} files safe: ${verdict.kind}: ${verdict.why}`],
  );
}

/** The cuts fell into the run, all over it. */
function expectSpread(outcomes: readonly Outcome[]): void {
  expect(outcomes.length).toBe(CUTS);
  // On a busy machine the last one may come too late.
  expect(outcomes.filter(({ ended }) => ended).length).toBeLessThanOrEqual(2);
  const safe = outcomes.map((outcome) => outcome.safe);
  for (let part = 0; part < 4; part++) {
    const within = safe.filter((count) => Math.floor((4 * count) / FILES) === part);
    expect(within.length, `of ${safe.join()}`).toBeGreaterThanOrEqual(2);
  }
}

/** As many as this has cores to be sure of. */
async function twoAtATime<T>(
  count: number,
  each: (index: number) => Promise<T>,
): Promise<readonly T[]> {
  const done: T[] = [];
  let next = 0;
  const work = async (): Promise<void> => {
    while (next < count) done.push(await each(next++));
  };
  await Promise.all([work(), work()]);
  return done;
}

/** The moment of the last answer. */
function lastAnswer({ commands }: DiskTrace): number {
  return commands.reduce(
    (last, { completed }) =>
      completed < Number.POSITIVE_INFINITY ? Math.max(last, completed) : last,
    0,
  );
}
