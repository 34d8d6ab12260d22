// From twenty lines of a user to a verdict: run a workload on a simulated disk, then its recovery on every state that a
// power cut may have left, and ask the user's check about each.
//
//   workload   uses the disk and tells a journal what it begins and what it acknowledges to its own users
//   recover    opens what the power cut left; the answer is what a user would see
//   check      compares that with what must be there and what may be there
//
// One recovery stands for all images that it cannot tell apart (explore.ts), so few runs cover many images, and the
// report says how many of how many. Only when all are covered it says `proved`; what is proved is this workload, in
// the order in which this seed made the disk answer, on this device.
//
// What was acknowledged at the latest moment when the power can have been cut must be there; what had not begun at the
// earliest such moment must not.
//
// A failure is made small: every lost sector that need not be lost is given back. It is reported by the number of its
// image, which brings it back: `replay`.

import { inWords } from '../model/error.js';
import { WriteBarrierError } from '../model/index.js';
import { MemoryStorage, type Storage } from '../storage/index.js';
import { type CrashSpace, CrashState, crashSpace } from './crash-space.js';
import type { DiskCommand, DiskTrace } from './disk-trace.js';
import { type Crash, UnsteadyRecoveryError } from './explore.js';
import type { DeviceProfile } from './profile.js';
import { newestUntil, type Sector, type Version } from './versions.js';
import { type DiskFault, VolatileDisk } from './volatile-disk.js';

/** What a workload tells about itself. `A` is whatever names one of its operations. */
export interface Journal<A> {
  /** The operation may have an effect from here on. */
  begin(operation: A): void;
  /** The operation's user was told that it is safe. */
  acknowledge(operation: A): void;
}

/** What a check may hold a recovery to. */
export interface Expected<A> {
  /** Must be there, in the order of their acknowledgement. */
  readonly acknowledged: readonly A[];
  /** Nothing else may be there, in the order in which they began. */
  readonly begun: readonly A[];
}

/** What is tested, and how hard. */
export interface CrashTest<A, R> {
  /** The size of the disk in bytes. */
  readonly size: number;
  /** The disk before the workload; zeroes unless given. */
  readonly initial?: Uint8Array;
  /** What goes wrong while the workload runs; nothing unless given. */
  readonly faults?: readonly DiskFault[];
  /** Uses the disk. It must be done with it when it returns. */
  readonly workload: (disk: VolatileDisk, journal: Journal<A>) => void | Promise<void>;
  /** A trace to take in place of a run of the workload: one of a report, or changed. */
  readonly trace?: DiskTrace;
  /**
   * Opens what is left, on a disk that answers at once. It must read the same on the same disk, and be done with it
   * when it returns.
   */
  recover(disk: Storage): R | Promise<R>;
  /** Throws, or answers false, where the recovered state is wrong. */
  check(recovered: R, expected: Expected<A>): void | boolean | Promise<void> | Promise<boolean>;
  /** The fields that differ from an honest disk with a volatile cache. */
  readonly profile?: Partial<DeviceProfile>;
  /** Which order of answers the disk picks; 0 unless given. */
  readonly seed?: number;
  /** `later` unless given; `at-once` for workloads that cannot wait. */
  readonly answers?: 'later' | 'at-once';
  /** Recoveries at the most; 100,000 unless given. Those of `nested` count, too. */
  readonly recoveriesMax?: number;
  /**
   * Also cuts the power during each recovery that writes, at every moment, and recovers again: what is told must be
   * the same. Of the images that a first recovery stands for one is taken.
   */
  readonly nested?: boolean;
  /** Only the image of a failure, as its report names it. */
  readonly replay?: string;
  /** What a user calls the bytes from this offset on. */
  label?(offset: number): string;
}

/** A power cut that the code under test does not survive. */
export interface CrashFailure {
  /** What recovery or check said. */
  readonly message: string;
  /** What they threw. */
  readonly cause: unknown;
  /** Pass it as `replay` to see the same again. */
  readonly replay: string;
  /** As few as possible: what the power cut took, each with its sector and its command. */
  readonly lost: readonly Loss[];
  /** The picture, in text. */
  readonly text: string;
}

/** A sector that was written and is as before. */
export interface Loss {
  /** In bytes. */
  readonly offset: number;
  /** The number of the command whose bytes are gone. */
  readonly command: number;
}

/** What a crash test came to. */
export interface CrashReport {
  /** `proved`: every image is covered and passes. `passed`: those that were tried do. `failed`: one does not. */
  readonly verdict: 'proved' | 'passed' | 'failed';
  /** How many images a power cut may leave. */
  readonly images: bigint;
  /** How many of them were covered. */
  readonly covered: bigint;
  /** How many recoveries that took. */
  readonly recoveries: number;
  /** The first one, made small. */
  readonly failure?: CrashFailure;
  /** What makes the verdict worth less than it seems. */
  readonly warnings: readonly string[];
  /** The device, as it was taken to be. */
  readonly profile: DeviceProfile;
  /** Which order of answers the disk picked. */
  readonly seed: number;
  /** What the disk was asked. */
  readonly trace: DiskTrace;
}

type Told<A> = { readonly kind: 'begin' | 'acknowledge'; readonly operation: A };

/**
 * Runs the test. The first failure ends it.
 *
 * @throws what the workload throws; `INVALID_ARGUMENT` for a workload that goes on after it has returned, for a recovery
 *   that reads otherwise in a second run, and for a `replay` that is no image
 */
export async function crashTest<A, R>(test: CrashTest<A, R>): Promise<CrashReport> {
  const { seed = 0, recoveriesMax = 100_000 } = test;
  const trace = test.trace ?? (await traceOf(test, seed));
  const space = crashSpace(trace, test.profile);
  const report = { images: space.count, profile: space.profile, seed, trace };
  if (test.replay !== undefined) {
    const state = replayed(test.replay, space, seed);
    const failure = await failureOf(test, space, trace, state);
    const verdict = failure ? 'failed' : 'passed';
    return {
      ...report,
      verdict,
      covered: 1n,
      recoveries: 1,
      warnings: [],
      ...(failure && { failure }),
    };
  }

  let covered = 0n;
  let recoveries = 0;
  let looked = false;
  let cutShort = false;
  for (const crash of space.explore()) {
    if (recoveries >= recoveriesMax) break;
    recoveries += 1;
    const failed = await judge(test, crash.disk, () => expectedAt(trace, crash));
    looked ||= crash.decided.size > 0;
    covered += crash.images;
    if (!failed && test.nested) {
      const left = recoveriesMax - recoveries;
      const { tried, whole, failure } = await recoverTwice(test, space, trace, crash, left);
      recoveries += tried;
      if (!whole) cutShort = true;
      if (failure)
        return { ...report, verdict: 'failed', covered, recoveries, failure, warnings: [] };
    }
    if (!failed) continue;
    const state = await smallest(test, space, trace, await completed(test, space, trace, crash));
    const failure = await failureOf(test, space, trace, state);
    const warnings = failure ? [] : [UNSTEADY];
    const told = failure ?? describe(test, space, trace, state, crash.after, failed.cause);
    return { ...report, verdict: 'failed', covered, recoveries, failure: told, warnings };
  }
  const warnings: string[] = [];
  if (!looked) warnings.push('the recovery never read anything that the workload had written');
  if (space.count === 1n) warnings.push('the workload wrote nothing');
  if (covered < space.count) warnings.push(`${covered} of ${space.count} images are covered`);
  if (cutShort) warnings.push('not every second power cut was tried');
  const whole = covered === space.count && !cutShort;
  const verdict = whole && looked ? 'proved' : 'passed';
  return { ...report, verdict, covered, recoveries, warnings };
}

const UNSTEADY = 'the same image did not fail when it was tried again';

/** The report in words. */
export function formatCrashReport(report: CrashReport): string {
  const { verdict, images, covered, recoveries, seed, failure, warnings } = report;
  const found = `found by recovery ${recoveries}, among ${images} images`;
  const share = covered === images ? 'all' : `${covered} of`;
  const tried = `${recoveries} recoveries cover ${share} ${images} images`;
  const lines = [
    `${verdict}: ${failure ? found : tried}, seed ${seed}`,
    ...warnings.map((warning) => `warning: ${warning}`),
  ];
  return [...lines, ...(failure ? [failure.text] : [])].join('\n');
}

// Workload

async function traceOf<A, R>(test: CrashTest<A, R>, seed: number): Promise<DiskTrace> {
  const { size, profile = {}, answers = 'later', faults = [], initial } = test;
  const how = { size, profile, seed, answers, faults, ...(initial && { initial }) };
  const disk = new VolatileDisk(how);
  const tell = (kind: Told<A>['kind']) => (operation: A) =>
    disk.mark({ kind, operation } satisfies Told<A>);
  await test.workload(disk, { begin: tell('begin'), acknowledge: tell('acknowledge') });
  const { trace } = disk;
  const open = trace.commands.filter(({ completed }) => completed === Number.POSITIVE_INFINITY);
  await new Promise((resolve) => setTimeout(resolve, 0));
  const late = disk.trace.commands.length - trace.commands.length;
  disk.powerCut();
  if (open.length + late === 0) return trace;
  throw new WriteBarrierError(
    'INVALID_ARGUMENT',
    `the workload has returned and is not done: ${open.length} commands were at the disk, ${late} came later`,
  );
}

function expectedAt<A>(
  { marks }: DiskTrace,
  { after, before }: { readonly after: number; readonly before: number },
): Expected<A> {
  const told = (kind: Told<A>['kind'], until: number): A[] =>
    marks
      .filter(({ time, value }) => time < until && (value as Told<A>).kind === kind)
      .map(({ value }) => (value as Told<A>).operation);
  return { acknowledged: told('acknowledge', before), begun: told('begin', after) };
}

// Verdicts

/** What is wrong with the recovery from this disk; undefined for nothing. */
async function judge<A, R>(
  test: CrashTest<A, R>,
  disk: Storage,
  expected: () => Expected<A>,
): Promise<{ readonly cause: unknown } | undefined> {
  try {
    const recovered = await test.recover(disk);
    // Only now it is known what was read, and so when the power can have been cut.
    const verdict = await test.check(recovered, expected());
    return verdict === false ? { cause: new Error('the check answered false') } : undefined;
  } catch (cause) {
    if (cause instanceof UnsteadyRecoveryError) throw cause;
    return { cause };
  }
}

async function judgeState<A, R>(
  test: CrashTest<A, R>,
  space: CrashSpace,
  trace: DiskTrace,
  state: CrashState,
  before: number = state.before,
): Promise<{ readonly cause: unknown } | undefined> {
  const { atomicWriteUnit } = space.profile;
  const capabilities = { blockSize: atomicWriteUnit, cache: 'none' } as const;
  const disk = new MemoryStorage(state.image(), { capabilities });
  return judge(test, disk, () => expectedAt(trace, { after: state.after, before }));
}

/**
 * When the power was cut, as far as the report goes: as early as possible if it fails then, too, otherwise at the
 * last moment, when more had been acknowledged.
 */
async function cutOf<A, R>(
  test: CrashTest<A, R>,
  space: CrashSpace,
  trace: DiskTrace,
  state: CrashState,
): Promise<number> {
  const early = await judgeState(test, space, trace, state, state.after);
  return early ? state.after : state.before;
}

/** A state that agrees with what the recovery has read: with as much as possible of what it has not. */
async function completed<A, R>(
  test: CrashTest<A, R>,
  space: CrashSpace,
  trace: DiskTrace,
  crash: Crash,
): Promise<CrashState> {
  const { sectors } = space.map;
  const ordered = [...crash.decided].map(
    ([place, version]) => sectors[place]?.orderedFrom[version] ?? 0,
  );
  const bound = Math.min(Number.POSITIVE_INFINITY, ...ordered);
  const latest = agreeing(space, crash, bound, false);
  const failed = await judgeState(test, space, trace, latest);
  return failed ? latest : agreeing(space, crash, crash.after, true);
}

/** Power cuts during the recovery from one image of a crash, each with a recovery of its own. */
async function recoverTwice<A, R>(
  test: CrashTest<A, R>,
  space: CrashSpace,
  trace: DiskTrace,
  crash: Crash,
  recoveriesMax: number,
): Promise<{ readonly tried: number; readonly whole: boolean; readonly failure?: CrashFailure }> {
  const state = agreeing(space, crash, crash.after, true);
  const { size, profile = {} } = test;
  const initial = state.image();
  const disk = new VolatileDisk({ size, profile, initial, answers: 'at-once' });
  await test.recover(disk);
  const inner = crashSpace(disk.trace, profile);
  let tried = 0;
  for (const second of inner.explore()) {
    if (tried === recoveriesMax) return { tried, whole: false };
    tried += 1;
    const failed = await judge(test, second.disk, () => expectedAt(trace, crash));
    if (!failed) continue;
    const failure = describe(test, space, trace, state, crash.after, failed.cause);
    const cut = agreeing(inner, second, second.after, true);
    const text = [
      failure.text,
      '  then the recovery is cut short as well:',
      ...picture(
        inner,
        disk.trace,
        cut,
        second.after,
        (offset) => test.label?.(offset) ?? `offset ${offset}`,
      ),
    ].join('\n');
    return { tried, whole: false, failure: { ...failure, text } };
  }
  return { tried, whole: true };
}

/** The state of a space that agrees with what was read, and elsewhere has the newest from before `time`, or `at` it. */
function agreeing({ map }: CrashSpace, { decided }: Crash, time: number, at: boolean): CrashState {
  const versions = map.sectors.map(
    (sector, place) => decided.get(place) ?? newestUntil(sector, time, at),
  );
  return new CrashState(map, Int32Array.from(versions));
}

/** Gives back one lost sector after the other, as long as the failure stays. */
async function smallest<A, R>(
  test: CrashTest<A, R>,
  space: CrashSpace,
  trace: DiskTrace,
  failing: CrashState,
): Promise<CrashState> {
  let state = failing;
  const cut = await cutOf(test, space, trace, failing);
  for (const { place } of lossesOf(space, failing, cut)) {
    const versions = state.versions.slice();
    versions[place] = newestUntil(space.map.sectors[place] as Sector, cut, true);
    const milder = new CrashState(space.map, versions);
    if (milder.isPossible && (await judgeState(test, space, trace, milder))) state = milder;
  }
  return state;
}

interface Lost extends Loss {
  readonly place: number;
}

/** The sectors whose newest content before the cut is gone. */
function lossesOf({ map }: CrashSpace, state: CrashState, cut: number): Lost[] {
  return map.sectors.flatMap((sector, place) => {
    const newest = newestUntil(sector, cut, true);
    if (state.versions[place] === newest) return [];
    const { command } = sector.versions[newest - 1] as Version;
    return [{ place, offset: sector.offset, command }];
  });
}

// Reports

async function failureOf<A, R>(
  test: CrashTest<A, R>,
  space: CrashSpace,
  trace: DiskTrace,
  state: CrashState,
): Promise<CrashFailure | undefined> {
  const failed = await judgeState(test, space, trace, state);
  if (!failed) return undefined;
  const cut = await cutOf(test, space, trace, state);
  return describe(test, space, trace, state, cut, failed.cause);
}

function describe<A, R>(
  test: CrashTest<A, R>,
  space: CrashSpace,
  trace: DiskTrace,
  state: CrashState,
  cut: number,
  cause: unknown,
): CrashFailure {
  const lost = lossesOf(space, state, cut).map(({ offset, command }) => ({ offset, command }));
  const replay = `seed ${test.seed ?? 0} image ${space.indexOf(state)}`;
  const message = inWords(cause);
  const label = (offset: number): string => test.label?.(offset) ?? `offset ${offset}`;
  const text = [
    `after this power cut: ${message}`,
    ...picture(space, trace, state, cut, label),
    ...lost.map(({ offset, command }) => `  lost: ${label(offset)}, written by #${command}`),
    advice(space, state, cut),
    `  replay: '${replay}'`,
  ].join('\n');
  return { message, cause, replay, lost, text };
}

/** How many commands on either side of the cut are shown. */
const SHOWN = 6;

/** The commands around the cut, each with what became of it, and what the journal said in between. */
function picture<A>(
  space: CrashSpace,
  { commands, marks }: DiskTrace,
  state: CrashState,
  cut: number,
  label: (offset: number) => string,
): string[] {
  const isLost = new Set(lossesOf(space, state, cut).map(({ command }) => command));
  const next = commands.findIndex(({ dispatched }) => dispatched > cut);
  const end = next < 0 ? commands.length : next;
  const from = Math.max(0, Math.min(end, ...isLost, end - SHOWN));
  const since = commands[from]?.dispatched ?? 0;
  const told = marks
    .filter(({ time }) => time > since && time <= cut)
    .map(({ time, value }) => {
      const { kind, operation } = value as Told<A>;
      return {
        time,
        line: `        ${kind === 'begin' ? 'begun' : 'acknowledged'}: ${shown(operation)}`,
      };
    });
  const asked = commands.slice(from, end).map((command, i) => {
    const open = command.completed > cut ? ', not answered' : '';
    const fate = isLost.has(from + i) ? 'LOST ' : 'kept ';
    return {
      time: command.dispatched,
      line: `  ${fate} #${from + i} ${inShort(command, label)}${open}`,
    };
  });
  const later = commands
    .slice(end, end + 2)
    .map((command, i) => `  later #${end + i} ${inShort(command, label)}`);
  return [
    ...(from > 0 ? [`  kept  #0 to #${from - 1}`] : []),
    ...[...told, ...asked].sort((a, b) => a.time - b.time).map(({ line }) => line),
    '  ----- the power is cut',
    ...later,
  ];
}

function shown(operation: unknown): string {
  return typeof operation === 'object' ? JSON.stringify(operation) : String(operation);
}

function inShort(
  { op, offset, length, fua, tag }: DiskCommand,
  label: (offset: number) => string,
): string {
  const flags = `${tag === 'ordered' ? ', ordered' : ''}${fua ? ', FUA' : ''}`;
  return op === 'flush' ? `flush${flags}` : `${op} of ${length} bytes at ${label(offset)}${flags}`;
}

/** The one barrier that would have kept this from happening. */
function advice(space: CrashSpace, state: CrashState, cut: number): string {
  const lost = new Set(lossesOf(space, state, cut).map(({ command }) => command));
  if (lost.size === 0) return '  nothing was lost: the recovery fails on what was written in order';
  const there = new Set(
    space.map.sectors.flatMap(({ versions }, place) => {
      const visible = versions[(state.versions[place] as number) - 1];
      return visible ? [visible.command] : [];
    }),
  );
  // A command that outlived one before it: the closest pair, so that the barrier forbids no more than it must.
  for (const command of [...lost].sort((x, y) => y - x)) {
    const later = [...there].filter((other) => other > command);
    if (later.length > 0) {
      return `  a barrier between #${command} and #${Math.min(...later)} would have forbidden it`;
    }
  }
  const last = Math.max(...lost);
  if (there.has(last)) {
    return `  #${last} is torn: no barrier keeps one write whole, a checksum or a second copy would tell`;
  }
  return `  a flush behind #${last} would have kept it: wait for it before you acknowledge`;
}

function replayed(text: string, space: CrashSpace, seed: number): CrashState {
  const [, ofSeed, image] = /^seed (\d+) image (\d+)$/.exec(text) ?? [];
  if (image === undefined || Number(ofSeed) !== seed) {
    const wanted = `'seed ${seed} image N'`;
    throw new WriteBarrierError('INVALID_ARGUMENT', `${JSON.stringify(text)} is not ${wanted}`);
  }
  return space.at(BigInt(image));
}
