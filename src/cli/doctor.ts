// `write-barrier doctor FILE`: what a storage on this file can promise, what that costs, and what nothing can find out.
//
//   H1  The bytes of FILE are never changed, and nothing that was made here stays: its lock is taken and given back, and what is
//       measured is measured on another file in the same folder, which is removed, also after SIGINT and SIGTERM. A block device has no
//       folder, so of it only the flush is measured.
//   H2  What is known, what was measured and what is only claimed by others are told apart. A device that lies about its flushes
//       cannot be told from one with a protected cache by any program that does not cut the power, so that is said and no verdict is
//       given on it.
//
// The exit code is 1 where something that is known loses flushed data at a power cut: a file system in memory, or one that sends no
// flushes. It says nothing of what is not known.

import { randomBytes } from 'node:crypto';
import { rmSync, statSync, utimesSync } from 'node:fs';
import { release } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import {
  chooseMode,
  type DeviceTraits,
  guarantees,
  IoScheduler,
  MODE_NAMES,
  type ModeName,
  type Verdict,
  WriteBarrierError,
} from 'write-barrier';
import { FileStorage } from 'write-barrier/node';
import {
  type Command,
  countOf,
  Ends,
  operandIn,
  readWords,
  tableOf,
  UsageError,
} from './command.js';
import { type Device, deviceOf, type Mount, mountOf } from './doctor-system.js';

const OPTIONS = {
  rounds: {
    value: 'N',
    text: 'how often each thing is measured, by default 30; 0 measures nothing',
  },
  json: { text: 'prints the findings as JSON, times in microseconds' },
} as const;

export const command: Command = {
  usage: 'FILE [options]',
  about:
    'Says what a storage on this file or block device can promise: the file system and the device below, flush ' +
    'and FUA and what they cost, the lock, and a verdict for each mode. FILE need not exist. Its bytes are never ' +
    'changed; the times are those of another file in the same folder, which is removed.',
  groups: { Options: OPTIONS },
  run: async (words) => {
    const { values, operands } = readWords(words, OPTIONS, 1);
    const rounds = countOf('--rounds', values.rounds ?? '30', 0, 10_000);
    const findings = await examine(operandIn(operands, 'FILE'), rounds);
    console.log(values.json ? JSON.stringify(findings, null, 2) : reportOf(findings));
    return findings.problems.length > 0 ? 1 : 0;
  },
};

/** A time in microseconds: the middle one of all, and the longest. */
interface Cost {
  readonly medianUs: number;
  readonly worstUs: number;
}

/** What is said of a mode. */
interface ModeFinding {
  readonly mode: ModeName;
  readonly verdict: Verdict;
  readonly reason: string;
  /** Of a record and its mark, as a barrier or in NONE by waiting. */
  readonly commit?: Cost;
}

interface Findings {
  readonly path: string;
  readonly kind: 'file' | 'block device' | 'absent';
  /** In bytes. */
  readonly size?: number;
  readonly mount?: Mount;
  readonly device?: Device;
  readonly lock?: string;
  readonly node: string;
  readonly capabilities?: DeviceTraits & { readonly blockSize: number };
  readonly costs: Readonly<Record<string, Cost>>;
  readonly chosen?: ModeName;
  readonly modes: readonly ModeFinding[];
  /** What loses flushed data at a power cut, for certain. */
  readonly problems: readonly string[];
  /** What was not found out, and why. */
  readonly unknown: readonly string[];
}

async function examine(path: string, rounds: number): Promise<Findings> {
  const stats = statSync(path, { throwIfNoEntry: false, bigint: true });
  if (stats && !stats.isFile() && !stats.isBlockDevice()) {
    throw new UsageError(`${path} is neither a file nor a block device`);
  }
  const folder = dirname(resolve(path));
  if (!statSync(folder, { throwIfNoEntry: false }))
    throw new UsageError(`${folder} does not exist`);
  const kind = !stats ? 'absent' : stats.isFile() ? 'file' : 'block device';
  const isDevice = kind === 'block device';
  const mount = isDevice ? undefined : await mountOf(stats ? path : folder);
  const device = deviceOf(isDevice ? (stats?.rdev ?? 0n) : statSync(folder, { bigint: true }).dev);
  const unknown: string[] = [];
  const own = stats && (await opened(path, unknown));
  const tried = isDevice
    ? await triedDevice(path, rounds, unknown)
    : await triedIn(folder, rounds, unknown);
  const capabilities = own?.capabilities ?? tried.capabilities;
  const lock = own?.lock ?? tried.lock;
  const size = own?.size ?? (kind === 'file' ? Number(stats?.size) : undefined);
  return {
    path,
    kind,
    ...(size !== undefined && { size }),
    ...(mount && { mount }),
    ...(device && { device }),
    ...(lock !== undefined && { lock }),
    node: `Node ${process.versions.node}, ${process.platform} ${release()}`,
    ...(capabilities && { capabilities, chosen: chooseMode(capabilities) }),
    costs: tried.costs,
    modes: capabilities ? modesOn(capabilities, tried.commits) : [],
    problems: problemsOf(mount, device),
    unknown: [...unknown, ...doubtsOf(mount, device, tried.costs)],
  };
}

type Opened = Pick<FileStorage, 'size'> & {
  readonly lock: string;
  readonly capabilities: Findings['capabilities'] & object;
};

/**
 * What the file itself gives. It is opened for writing and locked, and nothing is written. Where the opening has changed its times
 * (`FileStorage.open` says where), they are put back.
 */
async function opened(path: string, unknown: string[]): Promise<Opened | undefined> {
  const { atimeMs, mtimeMs } = statSync(path);
  const found = await openedAnyway(path, unknown);
  if (statSync(path).mtimeMs === mtimeMs) return found;
  try {
    // In seconds, because a `Date` would round to milliseconds.
    utimesSync(path, atimeMs / 1000, mtimeMs / 1000);
  } catch {
    unknown.push(`${path} has a new time of its last change, because its owner is another user`);
  }
  return found;
}

async function openedAnyway(path: string, unknown: string[]): Promise<Opened | undefined> {
  for (const readOnly of [false, true]) {
    try {
      await using file = await FileStorage.open(path, { readOnly });
      return found(file);
    } catch (error) {
      if (!WriteBarrierError.is(error)) throw error;
      unknown.push(
        `${path} could not be opened for ${readOnly ? 'reading' : 'writing'}: ${error.message}`,
      );
      // Beside another writer there is nothing more to learn from a reader, who takes no lock.
      if (error.code === 'STORAGE_LOCKED') return undefined;
    }
  }
  return undefined;
}

function found({ size, lock, lockReason, capabilities }: FileStorage): Opened {
  const { blockSize, cache, flush, fua, orderedTags } = capabilities;
  return {
    size,
    lock: `${lock}: ${lockReason}`,
    capabilities: { blockSize, cache, flush, fua, orderedTags },
  };
}

/** What was tried, and what it took. */
interface Tried {
  readonly lock?: string;
  readonly capabilities?: Opened['capabilities'];
  readonly costs: Findings['costs'];
  readonly commits: Readonly<Partial<Record<ModeName, Cost>>>;
}

const BLOCK = 4096;
const PROBE_BYTES = 1 << 20;
/** No row takes longer, except for a single round. */
const ROW_MS = 2000;
const PLAIN = { fua: false, tag: 'simple' } as const;
const FORCED = { fua: true, tag: 'simple' } as const;

/** Measures on a new file in the folder. */
async function triedIn(folder: string, rounds: number, unknown: string[]): Promise<Tried> {
  const ends = new Ends();
  try {
    return await triedOn(await probeIn(folder, ends), rounds);
  } catch (error) {
    if (!WriteBarrierError.is(error)) throw error;
    unknown.push(`nothing was measured: ${error.message}`);
    return { costs: {}, commits: {} };
  } finally {
    await ends.end();
  }
}

/** A new file that goes at the end, also by SIGINT and SIGTERM (H1). */
async function probeIn(folder: string, ends: Ends): Promise<FileStorage> {
  const path = join(folder, `.write-barrier-doctor-${randomBytes(6).toString('hex')}`);
  const remove = (): void => rmSync(path, { force: true });
  const stop = (): never => {
    remove();
    rmSync(`${path}.lock`, { recursive: true, force: true });
    process.exit(2);
  };
  for (const signal of ['SIGINT', 'SIGTERM'] as const) {
    process.once(signal, stop);
    ends.defer(() => process.off(signal, stop));
  }
  ends.defer(remove);
  const file = await FileStorage.open(path, { size: PROBE_BYTES });
  ends.defer(() => file.close());
  return file;
}

async function triedOn(file: FileStorage, rounds: number): Promise<Tried> {
  const { lock, capabilities } = found(file);
  const data = new Uint8Array(BLOCK).fill(1);
  // The blocks of the file are allocated before anything is measured, because that happens once in its life.
  for (let at = 0; at < PROBE_BYTES; at += BLOCK) await file.write(at, data, PLAIN);
  await file.flush(PLAIN);
  let next = 0;
  const place = (): number => (next++ * BLOCK) % PROBE_BYTES;
  const write = (): Promise<void> => file.write(place(), data, PLAIN);
  const rows: Record<string, () => Promise<void>> = {
    'a write, into memory': write,
    'a flush with nothing to write': () => file.flush(PLAIN),
    'a write and a flush': () => write().then(() => file.flush(PLAIN)),
    ...(capabilities.fua && { 'a forced write': () => file.write(place(), data, FORCED) }),
  };
  const costs: Record<string, Cost> = {};
  for (const [name, row] of Object.entries(rows)) {
    const cost = await costOf(row, rounds);
    if (cost) costs[name] = cost;
    await file.flush(PLAIN);
  }
  const commits: Partial<Record<ModeName, Cost>> = {};
  for (const mode of MODE_NAMES) {
    const { verdict } = guarantees(mode, capabilities);
    if (verdict === 'unsafe' && mode !== 'NONE') continue;
    const cost = await costOf(await committing(file, mode, place, data), rounds);
    if (cost) commits[mode] = cost;
  }
  return { lock, capabilities, costs, commits };
}

/** A record and its mark: in NONE by waiting and flushing, in the other modes with a barrier. */
async function committing(
  file: FileStorage,
  mode: ModeName,
  place: () => number,
  data: Uint8Array,
): Promise<() => Promise<void>> {
  const scheduler = new IoScheduler(file, { mode, allowUnsafe: true });
  if (mode === 'NONE') {
    return async () => {
      await scheduler.write(place(), data);
      await scheduler.write(place(), data, { preflush: true, fua: true });
    };
  }
  return async () => {
    const record = scheduler.write(place(), data);
    await Promise.all([record, scheduler.write(place(), data, { barrier: true })]);
  };
}

/** Of a device that must not be changed only this is measured. */
async function triedDevice(path: string, rounds: number, unknown: string[]): Promise<Tried> {
  try {
    await using file = await FileStorage.open(path);
    const cost = await costOf(() => file.flush(PLAIN), rounds);
    unknown.push('what a write takes: a write would change bytes of the device');
    return { costs: cost ? { 'a flush with nothing to write': cost } : {}, commits: {} };
  } catch (error) {
    if (!WriteBarrierError.is(error)) throw error;
    unknown.push(`nothing was measured: ${error.message}`);
    return { costs: {}, commits: {} };
  }
}

async function costOf(action: () => Promise<void>, rounds: number): Promise<Cost | undefined> {
  const times: number[] = [];
  const end = performance.now() + ROW_MS;
  while (times.length < rounds) {
    const start = performance.now();
    await action();
    const now = performance.now();
    times.push(Math.round((now - start) * 1000));
    if (now > end) break;
  }
  times.sort((a, b) => a - b);
  const [medianUs, worstUs] = [times[times.length >> 1], times.at(-1)];
  return medianUs === undefined || worstUs === undefined ? undefined : { medianUs, worstUs };
}

function modesOn(capabilities: DeviceTraits, commits: Tried['commits']): ModeFinding[] {
  return MODE_NAMES.map((mode) => {
    const { verdict, reason } = guarantees(mode, capabilities);
    const commit = commits[mode];
    return { mode, verdict, reason, ...(commit && { commit }) };
  });
}

/** Options of mounts with which no flush is sent. */
const NO_FLUSHES = /^(?:nobarrier|barrier=0|barrier=none|volatile)$/;
const IN_MEMORY: ReadonlySet<string> = new Set(['tmpfs', 'ramfs', 'devtmpfs']);

function problemsOf(mount: Mount | undefined, device: Device | undefined): string[] {
  const off = mount?.options.find((option) => NO_FLUSHES.test(option));
  return [
    ...(mount && IN_MEMORY.has(mount.type)
      ? [`${mount.type} is in memory: nothing survives a power cut`]
      : []),
    ...(off === undefined ? [] : [`mounted with ${off}: no flush reaches the device`]),
    ...(device && /^(?:ram|zram)\d/.test(device.name)
      ? [`${device.name} is in memory: nothing survives a power cut`]
      : []),
  ];
}

/** Below it a flush can hardly have reached a medium: flash takes some tens of microseconds for a page, a spindle milliseconds. */
const QUICK_US = 50;

function doubtsOf(
  mount: Mount | undefined,
  device: Device | undefined,
  costs: Findings['costs'],
): string[] {
  const { type } = mount ?? {};
  const flush = costs['a write and a flush']?.medianUs;
  const network = /^(?:nfs|cifs|smb|fuse|9p|virtiofs|ceph)/.test(type ?? '');
  const isInMemory = type !== undefined && IN_MEMORY.has(type);
  const quick = flush !== undefined && flush < QUICK_US && !isInMemory;
  return [
    ...(network
      ? [`what ${type} does with a flush: that is decided where the files are kept`]
      : []),
    ...(!device && !network && !isInMemory
      ? ['which device is below, and what it says of its cache: the system does not say']
      : []),
    ...(device && device.below.length > 0
      ? [
          `what ${device.below.join(' and ')} below ${device.name} does with a flush: ask the doctor there`,
        ]
      : []),
    ...(quick
      ? [
          `why a write and a flush take ${flush} us: a protected cache, a hypervisor that ignores flushes, or a device that lies`,
        ]
      : []),
    'whether the device, and everything between it and this system, does what it says: a device that ignores ' +
      'flushes looks the same to every program until the power is cut',
  ];
}

function reportOf(findings: Findings): string {
  const { path, kind, size, mount, device, lock, node, capabilities, chosen } = findings;
  const whole =
    kind === 'absent'
      ? 'does not exist yet'
      : `a ${kind}${size === undefined ? '' : ` of ${size} bytes`}`;
  const facts: [string, string | undefined][] = [
    [path, whole],
    ['file system', mount && mountInWords(mount)],
    ['device', device && deviceInWords(device)],
    ['system', node],
    ['lock', lock],
    ['gives', capabilities && capabilitiesInWords(capabilities)],
    ['mode', chosen && `${chosen} is what a scheduler takes by itself`],
  ];
  return [
    ...facts.flatMap(([name, text]) => (text === undefined ? [] : [`${name}: ${text}`])),
    ...costLines(findings),
    ...modeLines(findings),
    ...listed('This loses data at a power cut, also in a mode that is safe:', findings.problems),
    ...listed('Not known:', findings.unknown),
  ].join('\n');
}

function mountInWords({ type, source, at, options }: Mount): string {
  return at === '' ? type : `${type} on ${source}, mounted at ${at} with ${options.join(',')}`;
}

function deviceInWords({ name, model, cache, fua, rotational, logicalBlockSize }: Device): string {
  const said: Readonly<Record<string, string | undefined>> = {
    'write back': 'says that its cache is volatile',
    'write through': 'says that nothing of it is volatile, so it is sent no flushes',
  };
  return [
    model === undefined ? name : `${name} (${model})`,
    (cache && said[cache]) ?? 'says nothing of its cache',
    ...(fua === undefined
      ? []
      : [fua ? 'has FUA' : 'has no FUA, so a forced write is a write and a flush']),
    ...(rotational === undefined
      ? []
      : [rotational ? 'says that it rotates' : 'says that it does not rotate']),
    ...(logicalBlockSize === undefined ? [] : [`blocks of ${logicalBlockSize} bytes`]),
  ].join(', ');
}

function capabilitiesInWords({ cache, flush, fua, blockSize }: Opened['capabilities']): string {
  return [
    `cache ${cache} (the memory of the system is one, whatever the device has)`,
    flush ? 'flush by fdatasync' : 'no flush',
    fua ? 'FUA by O_DSYNC' : 'no FUA',
    `blocks of ${blockSize} bytes`,
  ].join(', ');
}

function costLines({ costs }: Findings): string[] {
  const rows = Object.entries(costs).map(([name, { medianUs, worstUs }]) => [
    name,
    medianUs,
    worstUs,
  ]);
  if (rows.length === 0) return [];
  return ['', ...tableOf([['of 4 KiB, in microseconds', 'median', 'worst'], ...rows])];
}

function modeLines({ modes }: Findings): string[] {
  if (modes.length === 0) return [];
  const rows = modes.map(({ mode, verdict, reason, commit }) => [
    mode,
    verdict,
    commit?.medianUs ?? '-',
    reason,
  ]);
  return ['', ...tableOf([['mode', 'verdict', 'a record and its mark, us', 'why'], ...rows])];
}

function listed(heading: string, lines: readonly string[]): string[] {
  return lines.length === 0 ? [] : ['', heading, ...lines.map((line) => `- ${line}`)];
}
