// Runs litmus tests: against the state machine of the scheduler, exactly, or against any host, by trying.
//
// `runLitmus` plays every order in which the requests of a test may be submitted and its commands may be answered, and takes
// for every such run every state that a power cut may leave. The verdict is exact for the axioms (intervals.ts): `never` means
// that no legal run shows the outcome. The machine is that of the scheduler for the seven modes, and a few lines for Linux
// since 2.6.37, where no request waits for another. Answers may come in any order, even for ordered tags, because a tag orders
// when commands take effect and not when they are answered. The axioms enforce the order of effects. A fault may happen or not.
//
// `tryLitmus` takes anything that takes requests: a scheduler over a storage of your own, a driver, a protocol with both of
// its ends. The host gets a simulated disk and the lines of a program, under one order of answers after the other, and every
// power cut of every run is examined. An outcome that is found has a witness. An outcome that is not found may still be
// possible, because a host cannot be made to do all that it may do.
//
// Most runs make the trace of an earlier run, which leaves the same states. So only the first run of each trace is examined.

import type { Command, Machine, Settled } from '../../machine/index.js';
import {
  checkArgument,
  checkOptions,
  type DeviceTraits,
  initialState,
  type KnownOptions,
  lowerSteps,
  misuse,
  STRING,
  type StagedCommand,
  transition,
} from '../../model/index.js';
import { Ordering } from '../../scheduler/ordering.js';
import { Plans } from '../../scheduler/plan.js';
import { Chooser } from '../choices.js';
import { HangError, Watch } from '../crash-test/watch.js';
import type { DiskFault } from '../device/disk-faults.js';
import { DiskRecorder, type DiskTrace } from '../device/disk-trace.js';
import {
  DEVICE_PROFILES,
  type DeviceName,
  type DeviceProfile,
  deviceProfile,
  fieldsOf,
} from '../device/profile.js';
import { VolatileDisk } from '../device/volatile-disk.js';
import { CrashSpace } from '../space/crash-space.js';
import type { CrashState } from '../space/crash-state.js';
import { isTaggedBehind } from '../space/intervals.js';
import { regionsOf } from '../space/regions.js';
import {
  type Answered,
  LETTERS,
  type Line,
  type LitmusColumn,
  type LitmusFault,
  type LitmusTest,
  outcomeOf,
  programOf,
  SECTOR,
} from './litmus.js';

/** The result of a litmus test. */
export interface LitmusResult {
  /** `never`: no run shows the outcome. `sometimes`: one does. `always`: every power cut of every run does. */
  readonly verdict: 'never' | 'sometimes' | 'always';
  /** How many runs there were. */
  readonly runs: number;
  /** A run that shows the outcome, and the state that the power cut left. */
  readonly witness?: {
    /** What the device was asked and answered. */
    readonly trace: DiskTrace;
    /** What the power cut left. */
    readonly state: CrashState;
  };
}

/** The mode and the device of a litmus test. */
export interface LitmusOptions {
  /** One of the seven, or `modern`. */
  readonly mode: LitmusColumn;
  /**
   * A device of `DEVICE_PROFILES`, or the fields that differ from one with ordered tags: the TAG modes need them. Its
   * sectors are those of the test.
   *
   * @defaultValue `'scsi-tags'`
   */
  readonly device?: DeviceName | Partial<DeviceProfile>;
}

const OPTIONS: KnownOptions<LitmusOptions> = { mode: 0, device: 0 };

/**
 * Runs a litmus test: every run of the scheduler's state machine, and every power cut of every run.
 *
 * @throws `SYNTAX` for a malformed program or outcome, `INVALID_ARGUMENT` for what is no test and for unknown options
 */
export function runLitmus(test: LitmusTest, options: LitmusOptions): LitmusResult {
  checkOptions(options, OPTIONS, 'runLitmus');
  checkTest(test);
  const profile = litmusDevice(options.device);
  const program = programOf(test.program, options.mode);
  if (options.mode === 'modern' && program.some(({ request }) => request && 'size' in request)) {
    throw misuse(
      'modern: no request waits for another there, and a resize must, so it has no answer',
    );
  }
  const isShown = outcomeOf(test.outcome);
  const isNew = newTraces();
  let runs = 0;
  let witness: LitmusResult['witness'];
  let always = true;
  for (const trace of runsOf(program, test, options.mode, profile)) {
    runs += 1;
    const isDecided = witness && !always;
    if (isDecided || !isNew(trace)) continue;
    for (const state of new CrashSpace(regionsOf(trace, profile), profile)) {
      const shown = isShown(state, trace);
      if (shown) witness ??= { trace, state };
      else always = false;
    }
  }
  const verdict = witness === undefined ? 'never' : always ? 'always' : 'sometimes';
  return { verdict, runs, ...(witness && { witness }) };
}

function checkTest(test: LitmusTest): void {
  checkArgument('program', test?.program, STRING);
  checkArgument('outcome', test.outcome, STRING);
}

/** The device of a test: by default with ordered tags, and always with the sector size of the tests. */
export function litmusDevice(device: DeviceName | Partial<DeviceProfile> = {}): DeviceProfile {
  // No real device has both, and both are asked of it.
  const tagged = { ...DEVICE_PROFILES['scsi-tags'], resize: true, ...fieldsOf(device) };
  return deviceProfile({ ...tagged, sectorSize: SECTOR, atomicWriteUnit: SECTOR });
}

/** Makes a function that says whether a trace is another one than those that it was asked about before. */
export function newTraces(): (trace: DiskTrace) => boolean {
  const known = new Set<string>();
  return ({ commands, marks }) => {
    const text = JSON.stringify([commands, marks], (name, value) =>
      name === 'data' ? changesIn(value) : value,
    );
    if (known.has(text)) return false;
    known.add(text);
    return true;
  };
}

/** The bytes of a write, in short: the data of a litmus test is one byte over and over. */
function changesIn(data: Uint8Array): string {
  let text = '';
  for (let i = 0; i < data.length; i++) if (data[i] !== data[i - 1]) text += `${i}:${data[i]} `;
  return text;
}

// Every run of the state machine

/** The trace of every run that a program may have. A trace is never changed after it has been yielded. */
export function* runsOf(
  program: readonly Line[],
  { fault, policy = 'abort' }: Pick<LitmusTest, 'fault' | 'policy'>,
  mode: LitmusColumn,
  profile: DeviceProfile,
): Generator<DiskTrace, void> {
  const chooser = new Chooser();
  const host = hostOf(mode, profile, policy);
  // Of Linux since 2.6.37 only what it does without faults is known here.
  const known = mode === 'modern' ? undefined : fault;
  do yield play(program, known, profile, chooser, host());
  while (chooser.advance());
}

function play(
  program: readonly Line[],
  fault: LitmusFault | undefined,
  profile: DeviceProfile,
  chooser: Chooser,
  machine: Host,
): DiskTrace {
  const recorder = new DiskRecorder(LETTERS.length * SECTOR);
  const answered = new Set<string>();
  /** All commands, by their numbers in the trace, and those at the device. */
  const sent: Command<Line>[] = [];
  const running = new Set<number>();
  const answer = ({ label }: Line, ok: boolean): void => {
    answered.add(label);
    recorder.mark({ label, ok } satisfies Answered);
  };
  const answerSettled = (): void => {
    for (let end = machine.takeSettled(); end; end = machine.takeSettled()) {
      answer(end.client, end.error === undefined);
    }
  };
  // Not the driver, because here a command completes when the chooser says so, and a run must not wait for a promise.
  const issueAll = (): void => {
    for (let command = machine.next(); command; command = machine.next()) {
      answerSettled(); // driver.D2
      const what = command.what as StagedCommand;
      const data = new Uint8Array(what.length).fill(command.clients[0]?.fill ?? 0);
      running.add(recorder.dispatch(what, what.op === 'write' ? data : undefined));
      sent.push(command);
    }
    answerSettled();
  };
  const complete = (number: number, fails: boolean, kind?: 'lost' | 'drop'): void => {
    running.delete(number);
    recorder.complete(number, fails, kind && { kind });
    machine.complete(sent[number] as Command<Line>, fails ? new Error('EIO') : undefined);
    machine.acknowledge?.();
  };
  const isBehind = (number: number, later: number): boolean =>
    later > number && isTaggedBehind(recorder.trace.commands, number, later, profile);
  const aborts = profile.onTagError === 'abort-queue';
  /** What was carried out behind a command says that it has not failed. */
  const isVouchedFor = (number: number): boolean =>
    recorder.trace.commands.some(({ completed, failed }, later) => {
      const isDone = completed < Number.POSITIVE_INFINITY && !failed;
      return isDone && isBehind(number, later);
    });

  let mayFail = fault !== undefined;
  const end = (number: number): void => {
    const isHit = mayFail && fault !== undefined && isHitBy(fault, sent, number);
    const fails = isHit && !(aborts && isVouchedFor(number)) && chooser.choose(2) === 1;
    if (fails) mayFail = false;
    const isFlush = sent[number]?.what?.op === 'flush';
    complete(number, fails, fails && isFlush && fault?.flush === 'drop' ? 'drop' : undefined);
    if (!fails || !aborts) return;
    // A command that tags order after a failed command fails, too, and is not carried out.
    for (const later of running) if (isBehind(number, later)) complete(later, true, 'lost');
  };

  /** Empty barriers that are not sent are nevertheless answered at some moment. */
  const unsent = new Set<Line>();
  for (let next = 0; ; ) {
    const line = program[next];
    const canGo = line && !(line.waits && !answered.has(line.label));
    const moves = [...running, ...unsent, ...(canGo ? [line] : [])];
    if (moves.length === 0) return recorder.trace;
    const move = moves[chooser.choose(moves.length)] as number | Line;
    if (typeof move === 'number') end(move);
    else if (unsent.delete(move)) answer(move, true);
    else {
      next += 1;
      if (move.request) machine.submit(move.request, move);
      else if (!move.waits) unsent.add(move);
    }
    issueAll();
  }
}

/** Whether the fault means this command. */
function isHitBy({ fails }: LitmusFault, sent: readonly Command<Line>[], number: number): boolean {
  const { op, stage, offset } = (sent[number] as Command<Line>).what as StagedCommand;
  if (fails === 'write x') return op === 'write' && offset === 0;
  if (fails === 'postflush') return stage === 'postflush';
  return sent.findIndex(({ what }) => what?.op === 'flush') === number;
}

/** A machine whose clients hear of a failure at once, if it wants to know. */
type Host = Machine<Line> & { acknowledge?(): void };

/** Makes a host for each run; all of them have the same plans. */
function hostOf(
  mode: LitmusColumn,
  device: DeviceTraits,
  errorPolicy: 'abort' | 'kernel',
): () => Host {
  if (mode === 'modern') return () => modern(device);
  const plans = new Plans(mode, device);
  const options = { mode, device, plans, errorPolicy, depth: 16, readsPassBarriers: true };
  return () => new Ordering(options);
}

/** Linux since 2.6.37: each request has its own flushes around its own data, and no request waits for another. */
function modern(device: DeviceTraits): Machine<Line, Chained> {
  const due: Chained[] = [];
  const settled: Settled<Line>[] = [];
  const goOn = (client: Line, [what, ...rest]: readonly StagedCommand[]): void => {
    if (what) due.push({ what, clients: [client], rest });
    else settled.push({ client });
  };
  return {
    submit(request, client) {
      const { steps } = transition(initialState('NONE'), request);
      goOn(
        client,
        lowerSteps(steps, device).filter((step) => step.kind === 'command'),
      );
    },
    next: () => due.shift(),
    complete: ({ clients: [client], rest }) => goOn(client as Line, rest),
    takeSettled: () => settled.shift(),
  };
}

/** A command, and those of its request that follow it. */
interface Chained extends Command<Line> {
  readonly rest: readonly StagedCommand[];
}

// Trying a host

/** The host under test, for example an `IoScheduler`. */
export interface LitmusHost {
  /** Resolves when the write is answered. */
  write(
    offset: number,
    data: Uint8Array,
    options: { readonly barrier: boolean; readonly fua: boolean },
  ): Promise<unknown>;
  /** An empty barrier. */
  barrier(): Promise<unknown>;
  /** A new size, in bytes. Only needed for the programs of `GROWTH_LITMUS`. */
  resize?(size: number): Promise<unknown>;
}

/** Options of `tryLitmus`. */
export interface LitmusTrialOptions extends Pick<LitmusOptions, 'device'> {
  /** Makes a new host over the disk of each run. */
  readonly host: (disk: VolatileDisk) => LitmusHost | Promise<LitmusHost>;
  /** The number of orders of answers. @defaultValue 200 */
  readonly seeds?: number;
  /** How long a run may take before its open requests count as unanswered, in real milliseconds. @defaultValue 1000 */
  readonly timeoutMs?: number;
}

/** The result of `tryLitmus`. */
export interface LitmusTrial {
  /** Whether a power cut of a run shows the outcome. */
  readonly seen: boolean;
  /** The number of runs. */
  readonly runs: number;
  /** The first one that shows it. */
  readonly witness?: NonNullable<LitmusResult['witness']> & {
    /** The seed of the disk. */
    readonly seed: number;
  };
}

/**
 * Looks for the outcome of a litmus test in what a host does. The fault of a test happens in every second run.
 *
 * @throws `SYNTAX` for a malformed program or outcome; `INVALID_ARGUMENT` for what is no test and for unknown options; what `host` throws
 */
export async function tryLitmus(
  test: LitmusTest,
  options: LitmusTrialOptions,
): Promise<LitmusTrial> {
  checkOptions(options, TRIAL, 'tryLitmus');
  checkTest(test);
  const { host, device, seeds = 200, timeoutMs = 1000 } = options;
  const profile = litmusDevice(device);
  const isShown = outcomeOf(test.outcome);
  const program = programOf(test.program, 'TAG');
  const isNew = newTraces();
  for (let seed = 0; seed < seeds; seed++) {
    const faults = test.fault && seed % 2 === 0 ? [faultOf(test.fault)] : [];
    const disk = new VolatileDisk({ size: LETTERS.length * SECTOR, profile, seed, faults });
    await playOn(program, await host(disk), disk, timeoutMs);
    const { trace } = disk;
    disk.powerCut();
    if (!isNew(trace)) continue;
    for (const state of new CrashSpace(regionsOf(trace, profile), profile)) {
      if (isShown(state, trace)) {
        return { seen: true, runs: seed + 1, witness: { seed, trace, state } };
      }
    }
  }
  return { seen: false, runs: seeds };
}

const TRIAL: KnownOptions<LitmusTrialOptions> = { host: 0, device: 0, seeds: 0, timeoutMs: 0 };

async function playOn(
  program: readonly Line[],
  host: LitmusHost,
  disk: VolatileDisk,
  timeoutMs: number,
): Promise<void> {
  const asked = new Map<string, Promise<void>>();
  const run = async (): Promise<void> => {
    for (const { label, request, waits, fill } of program) {
      if (waits) {
        await asked.get(label);
        continue;
      }
      const answer =
        request?.kind === 'write'
          ? host.write(request.offset, new Uint8Array(request.length).fill(fill), {
              barrier: request.barrier ?? false,
              fua: request.fua ?? false,
            })
          : request && 'size' in request
            ? resized(host, request.size as number)
            : host.barrier();
      const tell = (ok: boolean) => (): void => disk.mark({ label, ok } satisfies Answered);
      asked.set(label, answer.then(tell(true), tell(false)));
    }
    await Promise.all(asked.values());
  };
  // Real time: neither the timers of a test runner nor the disk's own patience with timers may be in the way.
  try {
    await new Watch(timeoutMs).run('workload', run);
  } catch (error) {
    if (!(error instanceof HangError)) throw error;
  }
}

function resized(host: LitmusHost, size: number): Promise<unknown> {
  if (host.resize) return host.resize(size);
  throw misuse('the host has no resize, and the program of the litmus test asks for one');
}

/** The same fault in the words of the disk: x is written first, and a postflush is the second flush. */
function faultOf({ fails, flush = 'keep' }: LitmusFault): DiskFault {
  if (fails === 'write x') return { on: 'write', nth: 0, fault: 'fail' };
  const nth = (['first flush', 'postflush'] as const).indexOf(fails);
  if (nth < 0) throw misuse(`no litmus test lets a ${fails} fail`);
  return { on: 'flush', nth, fault: flush };
}
