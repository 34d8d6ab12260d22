// Goal: the models of file systems have every tree that a real kernel leaves after a power cut. Method: little programs run on ext4,
// xfs and btrfs over a disk of ours that records; images of power cuts are mounted, so that the kernel recovers them, and each tree
// that is found has to be one that the model has at that moment. Models of other file systems have to be refuted, because a
// comparison that refutes nothing says nothing.
//
// The programs are those of test/testing/files/programs.ts and a sample of all sequences of up to three calls (kernel-programs.ts). Many
// run together, because each image then shows all of them. Those with a sync run again in small groups, because what a sync leaves
// out is to be seen only if no other program's sync brings it.
//
//   KERNELS=whole   all sequences, on ext4, xfs and btrfs with default options; several hours
//   KERNELS=more    four times the sample
//   KERNELS=write   what was seen is written to test/interop/kernels-seen.json, of which the page docs/file-systems.md is made;
//                   that has ext4 of `more,write`, and the others of `write`
//   SEED=7          another sample, other cuts, other pauses; 1 without it
//
// The seed does not decide all, because a kernel has times of its own. The share of a model that was seen is printed. What is missing
// in the rest may be impossible, or these disks and pauses do not bring it about.

import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { release } from 'node:os';
import { describe, expect, test } from 'vitest';
import { seededRandom } from 'write-barrier/testing';
import type { FileModelName } from 'write-barrier/testing/files';
import { PROGRAMS, type Program } from '../testing/files/programs.js';
import { absentFor, BTRFS, EXT4, type FileSystem, KernelDisk, XFS } from './kernel-disk.js';
import { compare, type Seen, type Tally, tallyOf } from './kernel-models.js';
import { sequences } from './kernel-programs.js';
import { titled } from './nbd-programs.js';

interface Subject {
  readonly system: FileSystem;
  /** The one that has to have all. */
  readonly model: FileModelName;
  /** Those that lack something. */
  readonly refuted: readonly FileModelName[];
  /** Whether only default options are set. */
  readonly isPlain: boolean;
}

const ext4With = (option: string, model: FileModelName = 'ext4'): Subject => {
  const options = [...EXT4.options, option];
  return { system: { ...EXT4, options }, model, refuted: ['strict'], isPlain: false };
};

const SUBJECTS: Readonly<Record<string, Subject>> = {
  ext4: { system: EXT4, model: 'ext4', refuted: ['strict', 'xfs', 'btrfs'], isPlain: true },
  xfs: { system: XFS, model: 'xfs', refuted: ['strict', 'btrfs'], isPlain: true },
  btrfs: { system: BTRFS, model: 'btrfs', refuted: ['strict', 'xfs', 'ext4'], isPlain: true },
  'ext4, data=journal': ext4With('data=journal', 'ext4-journal'),
  'ext4, data=writeback': ext4With('data=writeback'),
  'ext4, noauto_da_alloc': ext4With('noauto_da_alloc'),
};

const { KERNELS = '', SEED = '1' } = process.env;
const isWhole = KERNELS.includes('whole');
const seed = Number(SEED);
/** Without what a build adds to it. */
const VERSION = release().split('-')[0] as string;
const SEEN = new URL('kernels-seen.json', import.meta.url);

/** Programs that run at the same time, and how many images of power cuts are mounted then. */
interface Group {
  readonly programs: readonly Program[];
  readonly images: number;
}

/** How many programs are in a sample, how many of them run together, and the images of each group. */
const TIMES = KERNELS.includes('more') ? 4 : 1;
const TOGETHER = { sample: 150 * TIMES, size: 150, images: 30 };
const LITTLE_IMAGES = 25 * TIMES;
const APART = { sample: 20 * TIMES, size: 4, images: 8 };

const LITTLE: readonly Program[] = Object.values(PROGRAMS);

/** Those in which the file systems differ. They run alone, because on btrfs a commit for others would bring what an fsync does not. */
const TELLING = [
  'two files, fsync of the second',
  'directory rename, fsync of a file in it',
  'write over the end',
].map((name) => PROGRAMS[name] as Program);

function* groups(isPlain: boolean): Generator<Group, void> {
  yield { programs: TELLING, images: 24 };
  yield { programs: LITTLE, images: LITTLE_IMAGES };
  if (isPlain) yield* drawn(LITTLE, { sample: LITTLE.length, size: APART.size, images: 12 });
  if (isWhole && !isPlain) return;
  const all = [...sequences()];
  const synced = all.filter(({ calls }) => calls.some(([op]) => op.includes('sync')));
  yield* drawn(all, TOGETHER);
  if (isPlain) yield* drawn(synced, APART);
}

function* drawn(
  from: readonly Program[],
  { sample, size, images }: typeof TOGETHER,
): Generator<Group, void> {
  const random = seededRandom(seed);
  const left = [...from];
  const draw = (): Program => left.splice(Math.floor(random() * left.length), 1)[0] as Program;
  const end = isWhole ? 0 : Math.max(0, left.length - sample);
  while (left.length > end) {
    yield { programs: Array.from({ length: Math.min(size, left.length) }, draw), images };
  }
}

async function compared({ system, model, refuted, isPlain }: Subject): Promise<{
  readonly images: number;
  readonly own: Tally;
  readonly others: readonly Tally[];
}> {
  await using disk = new KernelDisk(system);
  const own = tallyOf(model);
  const others = refuted.map(tallyOf);
  let images = 0;
  for (const { programs, images: count } of groups(isPlain)) {
    // Of all sequences others lack so much that it is of no use.
    const isOfAll = isWhole && !programs.some((program) => LITTLE.includes(program));
    const tallies = isOfAll ? [own] : [own, ...others];
    images += await compare(disk, programs, { seed, images: count }, tallies);
  }
  return { images, own, others };
}

function write(name: string, seen: Seen): void {
  const before = existsSync(SEEN) ? JSON.parse(readFileSync(SEEN, 'utf8')) : {};
  writeFileSync(SEEN, `${JSON.stringify({ ...before, [name]: seen }, undefined, 2)}\n`);
}

const subjects = await Promise.all(
  Object.entries(SUBJECTS).map(async ([name, subject]) => {
    const absent = await absentFor(subject.system);
    return { title: titled(name, absent), name, subject, absent };
  }),
);

describe.each(subjects)('the kernel with $title', ({ name, subject, absent }) => {
  test.skipIf(absent.length > 0)(
    'leaves after power cuts only what its model has, and other models lack some of it',
    async () => {
      const { images, own, others } = await compared(subject);
      const { model, programs, states, seen, misses } = own;
      console.log(
        `${name} on Linux ${VERSION}, seed ${seed}: ${programs} programs, ${images} images, model ${model}: ${seen} of ${states} trees seen; ` +
          others.map((other) => `${other.model} lacks ${other.misses.size}`).join(', '),
      );
      expect([...misses.values()]).toEqual([]);
      expect(images).toBeGreaterThanOrEqual(40);
      for (const other of others) {
        expect([other.model, other.misses.size]).not.toEqual([other.model, 0]);
      }
      if (!KERNELS.includes('write')) return;
      const refuted = others.map(({ model: of, misses: all }) => [of, [...all.values()][0]]);
      const what = { kernel: VERSION, model, programs, images, states, seen };
      write(name, { ...what, refuted: Object.fromEntries(refuted) });
    },
    36_000_000,
  );
});
