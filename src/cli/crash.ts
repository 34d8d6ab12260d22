// `write-barrier crash TRACE`: the disks that a power cut during a recorded trace may leave, and what a program says to each.
//
// It is `crashTest` with the trace in place of a workload. The recovery writes the whole disk to a file, and the check is a command of
// the user, such as fsck. So each crash state is an outcome of its own, and all of them are covered only where the trace is short;
// otherwise the strategies of the crash test pick the first ones, and the verdict is `passed` at most.
//
//   R1  Each command gets a file of its own bytes: what the one before has changed is not there any more.
//   R2  Several checks of one disk see the same file, because the journal of a trace may say several things about one power cut. So a
//       check must not write, and what writes is `--recover`.

import { createHash } from 'node:crypto';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Storage } from 'write-barrier';
import {
  type CrashReport,
  type CrashTest,
  crashPage,
  crashPicture,
  crashTest,
  DEVICE_PROFILES,
  type DeviceName,
  type DeviceProfile,
  type DiskTrace,
  deviceProfile,
  formatCrashReport,
  seededRandom,
} from 'write-barrier/testing';
import { crashSpace } from 'write-barrier/testing/lab';
import {
  bytesOf,
  type Command,
  choiceOf,
  counted,
  countOf,
  Ends,
  type Given,
  operandIn,
  readWords,
  UsageError,
} from './command.js';
import { type Judges, judgesIn } from './shell.js';
import { isTold, TRACE_OPTIONS, traceIn } from './trace-file.js';

const LIES: DeviceProfile['lies'] = ['ignoreFlush', 'ignoreFua', 'ignoreTags', 'claimWriteThrough'];

const CHECK = {
  check: {
    value: 'COMMAND',
    text: 'of the shell, for each disk: {} is a file with its bytes. Exit code 0 says that the disk is right. It must not write to it',
  },
  recover: {
    value: 'COMMAND',
    text: 'runs before the check and may write to {}, as a mount or fsck -y does; another exit code than 0 is a failure',
  },
  recoveries: { value: 'N', text: 'so many disks at most, by default 1000' },
  timeout: { value: 'SECONDS', text: 'for a command; by default 60' },
  replay: { value: 'TEXT', text: 'checks only one disk: the replay that a failure has printed' },
} as const;

const DEVICE = {
  device: {
    value: 'NAME',
    text: `what the disk is like: ${Object.keys(DEVICE_PROFILES).join(', ')}; by default file`,
  },
  'sector-size': {
    value: 'BYTES',
    text: 'what it writes as a whole; by default that of the device',
  },
  lie: { value: 'NAME', many: true, text: `what it claims and does not do: ${LIES.join(', ')}` },
  ...TRACE_OPTIONS,
} as const;

const OUTPUT = {
  picture: { value: 'PATH', text: 'draws the failure, SVG' },
  page: { value: 'PATH', text: 'a page with the failure and its picture, HTML' },
  image: { value: 'PATH', text: 'the disk of the failure, before anything ran on it' },
  out: { value: 'FOLDER', text: 'with --images: where they go; it is made' },
  images: { value: 'N', text: 'writes so many disks, drawn with equal chances, and checks none' },
  seed: { value: 'N', text: 'of that draw; by default 0' },
} as const;

const OPTIONS = { ...CHECK, ...DEVICE, ...OUTPUT };
type Values = Given<typeof OPTIONS>;

export const command: Command = {
  usage: 'TRACE [--check COMMAND] [options]',
  about:
    'Says which disks a power cut during a trace may leave, and runs a check on them: all of them, or as many as ' +
    'you have time for. TRACE is what serve --trace has written, or a log of dm-log-writes. Without a check it counts them.',
  groups: {
    'The check': CHECK,
    'The disk': DEVICE,
    'What it writes': OUTPUT,
  },
  epilogue: `Exit codes: 0 proved or passed, 1 failed or hung, 2 could not be run. In the environment of a command $DISK is the file,
$ACKNOWLEDGED and $BEGUN are lists in JSON: what the journal of the trace says must be there, and may be there. Its marks are
{ kind: 'begin' or 'acknowledge', operation }.`,
  run: async (words) => {
    const { values, operands } = readWords(words, OPTIONS, 1);
    const recorded = traceIn(operandIn(operands, 'TRACE'), values.size);
    // Other marks are for other readers.
    const trace = { ...recorded, marks: recorded.marks.filter(({ value }) => isTold(value)) };
    const device = deviceIn(values);
    const checks = judgesIn(values, 'DISK');
    if (values.images !== undefined) return drawn(trace, device, values);
    return checks ? checked(trace, device, values, checks) : summarized(trace, device);
  },
};

/** The named device, with what differs. */
function deviceIn({ device = 'file', 'sector-size': size, lie = [] }: Values): DeviceProfile {
  const name = choiceOf('--device', device, Object.keys(DEVICE_PROFILES) as DeviceName[]);
  const named = deviceProfile(name);
  const sectorSize = size === undefined ? named.sectorSize : bytesOf('--sector-size', size);
  return deviceProfile({
    ...named,
    sectorSize,
    atomicWriteUnit: Math.max(sectorSize, named.atomicWriteUnit),
    lies: lie.map((one) => choiceOf('--lie', one, LIES)),
  });
}

function countedIn({ size, commands, marks }: DiskTrace, count: bigint): string {
  const [writes = 0, flushes = 0] = ['write', 'flush'].map(
    (op) => commands.filter((command) => command.op === op).length,
  );
  const told = marks.length === 0 ? '' : `, ${counted(marks.length, 'mark')}`;
  const digits = String(count);
  const states = digits.length > 18 ? `about 10^${digits.length - 1}` : digits;
  return (
    `A disk of ${size} bytes, ${counted(writes, 'write')}, ${counted(flushes, 'flush', 'flushes')}${told}: ` +
    `a power cut may leave ${states} different ${count === 1n ? 'disk' : 'disks'}.`
  );
}

function summarized(trace: DiskTrace, device: DeviceProfile): number {
  console.log(countedIn(trace, crashSpace(trace, device).count));
  return 0;
}

function drawn(
  trace: DiskTrace,
  device: DeviceProfile,
  { images, out, seed = '0' }: Values,
): number {
  const most = countOf('--images', images ?? '', 1, 1_000_000);
  if (out === undefined) throw new UsageError('--images goes with --out FOLDER');
  const space = crashSpace(trace, device);
  const random = seededRandom(countOf('--seed', seed, 0, 2 ** 31));
  mkdirSync(out, { recursive: true });
  for (let n = 0; n < most; n++) {
    const path = join(out, `disk-${String(n).padStart(String(most - 1).length, '0')}.img`);
    writeFileSync(path, space.sample(random).image(), { flag: 'wx' });
  }
  console.log(countedIn(trace, space.count));
  console.log(`${most} of them are in ${out}.`);
  return 0;
}

async function checked(
  trace: DiskTrace,
  profile: DeviceProfile,
  values: Values,
  checks: Judges,
): Promise<number> {
  const { recoveries = '1000', replay } = values;
  const recoveriesMax = countOf('--recoveries', recoveries, 1, 1_000_000_000);
  const ends = new Ends();
  try {
    const folder = folderFor(ends);
    const run = async (again: string | undefined, keep?: (image: Uint8Array) => void) => {
      const test = testOf({ trace, profile, recoveriesMax, folder, checks, keep });
      const report = await crashTest({ ...test, ...(again !== undefined && { replay: again }) });
      for (const each of Object.values(checks)) if (each?.broken) throw each.broken;
      return report;
    };
    const report = await run(replay);
    console.log(formatCrashReport(report));
    await written(report, values, (keep) => run(report.failure?.replay, keep));
    return report.verdict === 'proved' || report.verdict === 'passed' ? 0 : 1;
  } finally {
    await ends.end();
  }
}

/** In memory where the system has a file system for that, because each disk is written anew. */
function folderFor(ends: Ends): string {
  const make = (place: string): string => mkdtempSync(join(place, 'write-barrier-'));
  let folder: string;
  try {
    folder = make('/dev/shm');
  } catch {
    folder = make(tmpdir());
  }
  ends.defer(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

interface Tested extends Pick<CrashTest<unknown, string>, 'recoveriesMax'> {
  readonly trace: DiskTrace;
  readonly profile: DeviceProfile;
  readonly folder: string;
  readonly checks: Judges;
  /** Gets each disk before anything runs on it. */
  readonly keep: ((image: Uint8Array) => void) | undefined;
}

function testOf({
  trace,
  profile,
  recoveriesMax,
  folder,
  checks,
  keep,
}: Tested): CrashTest<unknown, string> {
  const path = join(folder, 'disk.img');
  return {
    size: trace.size,
    ...(trace.initial && { initial: trace.initial }),
    trace,
    profile,
    ...(recoveriesMax !== undefined && { recoveriesMax }),
    // The commands have a limit of their own, which ends them.
    hangMs: Number.POSITIVE_INFINITY,
    workload: () => {},
    recover: async (disk) => {
      const image = await wholeOf(disk);
      keep?.(image);
      writeFileSync(path, image); // R1
      await checks.recover?.succeed(path);
      // A name for the bytes, by which the crash test sees whether two disks are the same.
      return `disk ${createHash('sha256').update(image).digest('hex').slice(0, 12)}`;
    },
    check: async (_, { acknowledged, begun }) => {
      const journal = {
        ACKNOWLEDGED: JSON.stringify(acknowledged),
        BEGUN: JSON.stringify(begun),
      };
      await checks.check?.succeed(path, journal);
      return true;
    },
  };
}

const CHUNK_BYTES = 1 << 20;
/** What a sector that cannot be read has in a file, which has no such sectors. */
const GARBAGE = 0xa5;

async function wholeOf(disk: Storage): Promise<Uint8Array> {
  const bytes = new Uint8Array(disk.size);
  const { blockSize } = disk.capabilities;
  const read = async (at: number, length: number): Promise<void> => {
    const part = bytes.subarray(at, at + length);
    try {
      await disk.read(at, part);
    } catch (_error) {
      if (part.length <= blockSize) part.fill(GARBAGE);
      else for (let each = at; each < at + length; each += blockSize) await read(each, blockSize);
    }
  };
  for (let at = 0; at < bytes.length; at += CHUNK_BYTES) await read(at, CHUNK_BYTES);
  return bytes;
}

/** Writes what was asked for, never over another file. */
async function written(
  report: CrashReport,
  { picture, page, image }: Values,
  again: (keep: (image: Uint8Array) => void) => Promise<unknown>,
): Promise<void> {
  const make = (path: string, data: string | Uint8Array): void => {
    writeFileSync(path, data, { flag: 'wx' });
    console.log(`written: ${path}`);
  };
  if (picture !== undefined) make(picture, crashPicture(report));
  if (page !== undefined) make(page, crashPage(report));
  if (image === undefined || !report.failure) return;
  let bytes: Uint8Array | undefined;
  await again((one) => {
    bytes ??= one;
  });
  if (bytes) make(image, bytes);
}
