// Runs a litmus test: every order in which its requests may be submitted and its commands may be answered, through the
// real state machine of the scheduler, and for every such run every state that a power cut may leave.
//
// The verdict is exact for the axioms (intervals.ts): `never` means that no legal run shows the outcome.
//
// The host is the state machine of the scheduler for the seven modes, and a few lines for Linux since 2.6.37, where
// every request is on its own. The device may answer in any order: what tags forbid is done before it is answered,
// and the axioms see to that. A fault may happen or not.

import {
  type DeviceTraits,
  initialState,
  lowerSteps,
  type ModeName,
  plainCommand,
  type Request,
  transition,
} from '../../model/index.js';
import type { Command } from '../../scheduler/entry.js';
import { Ordering } from '../../scheduler/ordering.js';
import {
  type DiskCommand,
  DiskRecorder,
  type DiskRequest,
  type DiskTrace,
} from '../device/disk-trace.js';
import { type DeviceProfile, deviceProfile } from '../device/profile.js';
import { cellsOf } from '../space/cells.js';
import { Chooser } from '../space/chooser.js';
import { CrashSpace, type CrashState } from '../space/crash-space.js';
import { isTaggedBehind } from '../space/intervals.js';
import type { LitmusColumn, LitmusFault, LitmusTest } from './litmus.js';
import {
  isShown,
  LETTERS,
  type Line,
  outcomeOf,
  programOf,
  SECTOR,
  type Settled,
} from './litmus-text.js';

/** What a litmus test came to. */
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

/** On what a litmus test runs. */
export interface LitmusOptions {
  /** One of the seven, or `modern`. */
  readonly mode: LitmusColumn;
  /** The fields that differ from an honest disk with a volatile cache. */
  readonly device?: Partial<DeviceProfile>;
}

/** @throws `SYNTAX` for a program or an outcome that is none */
export function runLitmus(test: LitmusTest, options: LitmusOptions): LitmusResult {
  const profile = deviceProfile({ ...options.device, sectorSize: SECTOR, atomicWriteUnit: SECTOR });
  const program = programOf(test.program, options.mode);
  const outcome = outcomeOf(test.outcome);
  const chooser = new Chooser();
  let runs = 0;
  let witness: LitmusResult['witness'];
  let always = true;
  do {
    runs += 1;
    const trace = play(program, test, options.mode, profile, chooser);
    for (const state of new CrashSpace(cellsOf(trace, profile), profile)) {
      const shown = isShown(outcome, state, trace);
      if (shown) witness ??= { trace, state };
      else always = false;
    }
  } while (chooser.advance());
  const verdict = witness === undefined ? 'never' : always ? 'always' : 'sometimes';
  return { verdict, runs, ...(witness && { witness }) };
}

/**
 * Everything that a program may leave, as text: what each sector holds, and with `answers` also who had heard of what
 * when the power was cut.
 */
export function outcomesOf(
  text: string,
  { mode, device }: LitmusOptions,
  answers: boolean,
): Set<string> {
  const profile = deviceProfile({ ...device, sectorSize: SECTOR, atomicWriteUnit: SECTOR });
  const program = programOf(text, mode);
  const chooser = new Chooser();
  const found = new Set<string>();
  do {
    const trace = play(program, {}, mode, profile, chooser);
    const moments = trace.marks.map(({ time }) => time);
    for (const state of new CrashSpace(cellsOf(trace, profile), profile)) {
      const image = state.image();
      const holds = Array.from(LETTERS, (_, i) => image[i * SECTOR]).join(' ');
      if (!answers) found.add(holds);
      // Between two answers nothing changes for the host.
      for (const moment of answers ? [state.after, ...moments] : []) {
        if (moment < state.after || moment >= state.before) continue;
        const heard = trace.marks.filter(({ time }) => time <= moment);
        const labels = heard.map(({ value }) => (value as Settled).label).sort();
        found.add(`${holds} | ${labels.join(' ')}`);
      }
    }
  } while (chooser.advance());
  return found;
}

// Runs

function play(
  program: readonly Line[],
  { fault, policy = 'abort' }: Pick<LitmusTest, 'fault' | 'policy'>,
  mode: LitmusColumn,
  profile: DeviceProfile,
  chooser: Chooser,
): DiskTrace {
  const recorder = new DiskRecorder(LETTERS.length * SECTOR);
  const host: Host = mode === 'modern' ? new Modern(profile) : new Scheduled(mode, profile, policy);
  const settled = new Set<string>();
  const running = new Map<number, number>();
  const settle = (line: Line, ok: boolean): void => {
    settled.add(line.label);
    recorder.mark({ label: line.label, ok } satisfies Settled);
  };
  const tell = (): void => {
    for (let end = host.settled(); end; end = host.settled()) {
      settle(program[end.line] as Line, end.ok);
    }
  };
  const pump = (): void => {
    for (let issued = host.next(); issued; issued = host.next()) {
      // As the scheduler's driver: whoever is done hears of it before the next command goes.
      tell();
      const { what } = issued;
      const line = program[issued.line];
      const data =
        what.op === 'write' ? new Uint8Array(what.length).fill(line?.fill ?? 0) : undefined;
      running.set(issued.id, recorder.dispatch(what, data));
    }
    tell();
  };

  /** What tags put behind a command that failed fails, too, and is not carried out. */
  const abortBehind = (failed: number): void => {
    const { commands } = recorder.trace;
    for (const [id, number] of [...running]) {
      if (number < failed || !isTaggedBehind(commands, failed, number, profile)) continue;
      running.delete(id);
      recorder.complete(number, true, { kind: 'lost' });
      host.complete(id, false);
    }
  };

  /** What was carried out behind a command says that it has not failed. */
  const isVouchedFor = (number: number): boolean => {
    if (profile.onTagError === 'continue') return false;
    const { commands } = recorder.trace;
    return commands.some(
      ({ completed, failed }, later) =>
        later > number &&
        completed < Number.POSITIVE_INFINITY &&
        !failed &&
        isTaggedBehind(commands, number, later, profile),
    );
  };

  /** What nobody sends is answered at some moment all the same. */
  const unsent: Line[] = [];
  let next = 0;
  let faults = fault ? 1 : 0;
  for (;;) {
    const line = program[next];
    const canGo = line !== undefined && !(line.waits && !settled.has(line.label));
    const ids = [...running.keys()];
    const moves = ids.length + unsent.length + (canGo ? 1 : 0);
    if (moves === 0) return recorder.trace;
    const move = chooser.choose(moves);
    const id = ids[move];
    const [answered] = unsent.splice(move - ids.length, id === undefined ? 1 : 0);
    if (answered) {
      settle(answered, true);
    } else if (id === undefined) {
      next += 1;
      if (line?.request) host.submit(line.request, next - 1);
      else if (line && !line.waits) unsent.push(line);
    } else {
      const number = running.get(id) as number;
      running.delete(id);
      const command = recorder.trace.commands[number] as DiskCommand;
      const hit =
        faults > 0 && fault !== undefined && host.isHit(id, fault) && !isVouchedFor(number);
      const fails = hit && chooser.choose(2) === 1;
      if (fails) faults = 0;
      const drops = fails && command.op === 'flush' && fault?.flush === 'drop';
      recorder.complete(number, fails, drops ? { kind: 'drop' } : undefined);
      host.complete(id, !fails);
      if (fails && profile.onTagError === 'abort-queue') abortBehind(number);
    }
    pump();
  }
}

interface Issued {
  readonly id: number;
  readonly what: Omit<DiskRequest, 'data'>;
  /** The line of the program that it serves. */
  readonly line: number;
}

/** Whoever turns requests into commands. */
interface Host {
  submit(request: Request, line: number): void;
  next(): Issued | undefined;
  complete(id: number, ok: boolean): void;
  settled(): { readonly line: number; readonly ok: boolean } | undefined;
  /** Whether the fault means this command. */
  isHit(id: number, fault: LitmusFault): boolean;
}

/** The scheduler's own state machine. */
class Scheduled implements Host {
  readonly #ordering: Ordering<number>;
  readonly #commands = new Map<number, Command<number>>();

  constructor(mode: ModeName, device: DeviceTraits, errorPolicy: 'abort' | 'kernel') {
    const how = { mode, device, errorPolicy } as const;
    this.#ordering = new Ordering({ ...how, depth: 16, readsPassBarriers: true });
  }

  submit(request: Request, line: number): void {
    this.#ordering.submit(request, line);
  }

  next(): Issued | undefined {
    const command = this.#ordering.next();
    if (!command) return undefined;
    const { id, what, serves } = command;
    this.#commands.set(id, command);
    const line = serves instanceof Set ? undefined : serves.client;
    return { id, what, line: line ?? -1 };
  }

  complete(id: number, ok: boolean): void {
    this.#ordering.complete(
      this.#commands.get(id) as Command<number>,
      ok ? undefined : new Error('EIO'),
    );
    this.#ordering.acknowledge();
  }

  settled(): { readonly line: number; readonly ok: boolean } | undefined {
    const entry = this.#ordering.takeSettled();
    return entry && { line: entry.client as number, ok: entry.error === undefined };
  }

  isHit(id: number, { fails }: LitmusFault): boolean {
    const { op, stage, offset } = (this.#commands.get(id) as Command<number>).what;
    if (fails === 'write x') return op === 'write' && offset === 0;
    if (fails === 'postflush') return stage === 'postflush';
    return (
      op === 'flush' &&
      ![...this.#commands.values()].some((c) => c.id < id && c.what.op === 'flush')
    );
  }
}

/** Linux since 2.6.37: each request's own flushes around its own data, and nobody waits for anybody else. */
class Modern implements Host {
  readonly #device: DeviceTraits;
  readonly #due: Issued[] = [];
  readonly #rest = new Map<number, Issued[]>();
  readonly #lineOf = new Map<number, number>();
  readonly #ends: { readonly line: number; readonly ok: boolean }[] = [];
  #next = 0;

  constructor(device: DeviceTraits) {
    this.#device = device;
  }

  submit(request: Request, line: number): void {
    const { steps } = transition(initialState('NONE'), request);
    const commands = lowerSteps(steps, this.#device).flatMap((step) =>
      step.kind === 'command' ? [{ id: this.#next++, what: step, line }] : [],
    );
    const all =
      commands.length > 0 || request.kind === 'flush' ? commands : [this.#plain(request, line)];
    this.#goOn(line, all);
  }

  next(): Issued | undefined {
    return this.#due.shift();
  }

  complete(id: number): void {
    const rest = this.#rest.get(id) as Issued[];
    this.#rest.delete(id);
    this.#goOn(this.#lineOf.get(id) as number, rest);
  }

  settled(): { readonly line: number; readonly ok: boolean } | undefined {
    return this.#ends.shift();
  }

  isHit(): boolean {
    return false;
  }

  #plain(request: Request, line: number): Issued {
    return { id: this.#next++, what: plainCommand(request), line };
  }

  #goOn(line: number, [first, ...rest]: Issued[]): void {
    if (!first) {
      this.#ends.push({ line, ok: true });
      return;
    }
    this.#lineOf.set(first.id, line);
    this.#rest.set(first.id, rest);
    this.#due.push(first);
  }
}
