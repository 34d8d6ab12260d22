// Checks what an I/O scheduler did against what its mode promises, from the trace alone: the events of IoScheduler's
// observer, or a log from the field that somebody reads back. TRACE_RULES are the rules.
//
// What a request becomes is asked of the model, the same steps that the scheduler executes: no mode is described here
// a second time. Everything else is kept in an account of its own (trace-account.ts), so the rules hold for any
// scheduler that writes such traces.
//
// The checker reads one event after the other and remembers what is open. A trace that breaks C1 is checked up to
// there: what follows would be guesswork. A trace that breaks another rule is read on as if it had been right.
//
// Not here: changes of the mode within a trace; whether a device keeps its word, ordered tags included; whether reads
// return the right bytes.
//
// Source: start_ordered() and blk_do_ordered() in Linux 2.6.36 block/blk-barrier.c; Documentation/block/barrier.txt;
// the patch for barriers in QEMU's posix-aio (May 2009), for what a cancelled barrier must not do.

import {
  type CompleteEvent,
  type DeviceCommand,
  type DeviceTraits,
  type DispatchEvent,
  formatRequest,
  formatSteps,
  type ModeName,
  type SettleEvent,
  type Stage,
  type SubmitEvent,
  type TraceEvent,
} from '../../model/index.js';
import { type CommandWhat, TraceAccount } from './trace-account.js';
import { misshapen } from './trace-shape.js';
import { type Asked, NEVER } from './trace-state.js';

/** The number of a rule. */
export type TraceRule =
  | 'C1'
  | 'C2'
  | 'C3'
  | 'C4'
  | 'C5'
  | 'C6'
  | 'C7'
  | 'C8'
  | 'C9'
  | 'C10'
  | 'C11'
  | 'C12'
  | 'C13'
  | 'C14'
  | 'C15';

/** What a trace must keep to, by the number of the rule. */
export const TRACE_RULES: Readonly<Record<TraceRule, string>> = Object.freeze({
  C1: 'Requests and commands are numbered from 0 in order; every event is about one that is known; a command completes once.',
  C2: 'The commands of a request are exactly those that its mode makes of it, in order.',
  C3: 'Before each stage of a barrier everything submitted earlier is over (by drain) or dispatched (by tag), and by drain the stage before has completed.',
  C4: 'Nothing submitted after a barrier is dispatched before the barrier releases it, save reads that overlap nothing earlier; a cancelled barrier keeps its place.',
  C5: 'The stages of a barrier carry the tag of its mode; everything else carries the simple tag.',
  C6: 'The sequences of two barriers never run at the same time.',
  C7: 'A request is answered only after its last command.',
  C8: 'The answer to a request tells what its commands did: success hides no failure, and a failure is not invented.',
  C9: 'A request is answered once.',
  C10: 'Of two overlapping requests, one of which writes, the later is dispatched when the earlier has completed, unless an ordered tag separates them.',
  C11: 'A flush, or the preflush of a write, is done when everything written earlier has completed and a flush of the device, dispatched after that or tagged to follow it, has succeeded.',
  C12: 'A FUA write is done when it is on the medium: forced by its own command, or by a flush that covers it as in C11.',
  C13: 'What is cancelled, refused or answered is not dispatched.',
  C14: 'At the end every request is answered, whoever was cancelled or has failed, and so is every command.',
  C15: 'By drain, where failures abort: the own write of a barrier is not dispatched when its preflush has failed, or a write before it whose failure had not been answered when the barrier was submitted, and over which nobody has written since.',
});

/** A rule that a trace breaks, and where. Plain JSON. */
export interface Violation {
  /** Which of `TRACE_RULES`. */
  readonly rule: TraceRule;
  /** What happened, in words; requests in the text notation, with their numbers. */
  readonly text: string;
  /**
   * The index of the earlier of the two events that contradict each other; that of `second` where there is only one,
   * or the earlier one is about something that has ended.
   */
  readonly first: number;
  /** The index of the event at which it shows; for what is missing at the end, of the last event. */
  readonly second: number;
}

/** What the trace was made under. */
export interface CheckOptions {
  /** The mode of the whole trace. */
  readonly mode: ModeName;
  /** A volatile cache with flush, FUA and ordered tags unless given. */
  readonly device?: DeviceTraits;
  /** Whether reads that overlap nothing earlier may go ahead of a barrier; true unless given. */
  readonly readsPass?: boolean;
  /**
   * What a failure means to a barrier that covers it, as for a scheduler: with `abort` C15 holds, with `kernel` nothing is
   * said. `kernel` unless given: a trace does not tell what was wanted.
   */
  readonly errorPolicy?: 'abort' | 'kernel';
  /** The trace goes to the end of the run, so nothing may be open; true unless given. */
  readonly ended?: boolean;
}

/**
 * The rules that a trace breaks, in the order in which it shows: none for a good trace. Each rule is reported once for
 * a request. Whatever the events are, they are judged and nothing is thrown.
 *
 * Reads the events once, in a time that is proportional to their number; remembers only what is open.
 *
 * @param events all events of one scheduler from its start, `submit`, `dispatch`, `complete` and `settle`
 * @throws `EINVAL` for a mode that is none of the seven
 */
export function checkTrace(
  events: Iterable<TraceEvent>,
  options: ModeName | CheckOptions,
): readonly Violation[] {
  const checker = new Checker(typeof options === 'string' ? { mode: options } : options);
  checker.read(events);
  return checker.violations;
}

const DEVICE: DeviceTraits = { cache: 'volatile', flush: true, fua: true, orderedTags: true };

class Checker {
  readonly violations: Violation[] = [];
  readonly #reported = new Set<string>();
  readonly #readsPass: boolean;
  readonly #aborts: boolean;
  readonly #ended: boolean;
  readonly #account: TraceAccount;
  /** Somebody was told that the device did not answer. */
  #timedOut = false;

  constructor({
    mode,
    device = DEVICE,
    readsPass = true,
    errorPolicy,
    ended = true,
  }: CheckOptions) {
    this.#account = new TraceAccount(mode, device);
    this.#readsPass = readsPass;
    this.#aborts = errorPolicy === 'abort';
    this.#ended = ended;
  }

  read(events: Iterable<unknown>): void {
    const account = this.#account;
    if (typeof events?.[Symbol.iterator] !== 'function') {
      account.at = 0;
      this.#report('C1', undefined, 0, 'the trace is no list of events');
      return;
    }
    for (const event of events) {
      account.at += 1;
      const fault = misshapen(event) ?? this.#take(event as TraceEvent);
      if (fault === undefined) continue;
      this.#report('C1', undefined, account.at, `event ${account.at}: ${fault}`);
      return;
    }
    if (this.#ended) this.#end();
  }

  /** C1: what makes the event meaningless here; undefined otherwise. */
  #take(event: TraceEvent): string | undefined {
    switch (event.kind) {
      case 'submit':
        return this.#submit(event);
      case 'dispatch':
        return this.#dispatch(event);
      case 'complete':
        return this.#complete(event);
      case 'settle':
        return this.#settle(event);
    }
  }

  #submit({ request, what }: SubmitEvent): string | undefined {
    const next = this.#account.submitted;
    if (request !== next) return `request ${request} is submitted where ${next} comes next`;
    this.#account.submit(what);
    return undefined;
  }

  #dispatch({ command, what, requests }: DispatchEvent): string | undefined {
    const { issued, submitted } = this.#account;
    if (command !== issued) return `command ${command} is dispatched where ${issued} comes next`;
    const unknown = requests.find((request) => request >= submitted);
    if (unknown !== undefined) return `a dispatch for request ${unknown}, which is not submitted`;
    const serves = requests.flatMap((request) => this.#served(request, what));
    const alone = serves.length === 1;
    for (const asked of serves) {
      const told = `${formatSteps([what])} is dispatched for ${nameOf(asked)}`;
      if (asked.barrier) this.#checkStage(asked, what, told, alone);
      else this.#checkPlain(asked, what, told, alone);
    }
    this.#account.dispatch(what, serves);
    return undefined;
  }

  #complete({ command, error }: CompleteEvent): string | undefined {
    if (this.#account.complete(command, error === undefined)) return undefined;
    const known = command < this.#account.issued;
    return `command ${command} completes, which ${known ? 'has completed' : 'is not dispatched'}`;
  }

  #settle({ request, outcome }: SettleEvent): string | undefined {
    const account = this.#account;
    if (request >= account.submitted) return `request ${request} is answered and not submitted`;
    const asked = account.requests.get(request);
    if (!asked || asked.settled !== NEVER) {
      const name = asked ? nameOf(asked) : `request ${request}`;
      this.#report('C9', request, asked?.settled ?? account.at, `${name} is answered again`);
      return undefined;
    }
    const told = `${nameOf(asked)} is answered as ${outcome}`;
    if (outcome === 'done') this.#checkSuccess(asked, told);
    else this.#checkFailure(asked, outcome, told);
    account.settle(asked, outcome);
    return undefined;
  }

  // Dispatch

  /** C13. The answer is empty where the request must not have this command. */
  #served(request: number, what: CommandWhat): Asked[] {
    const asked = this.#account.requests.get(request);
    const owed = asked !== undefined && what.op === 'flush' && this.#account.isOwed(asked);
    if (asked && (asked.settled === NEVER || owed)) return [asked];
    const name = asked ? nameOf(asked) : `request ${request}`;
    const text = `${formatSteps([what])} is dispatched for ${name}, which has ended`;
    this.#report('C13', request, asked?.settled ?? this.#account.at, text);
    return [];
  }

  /** A command of a sequence. */
  #checkStage(asked: Asked, what: CommandWhat, told: string, alone: boolean): void {
    const due = asked.stagesDue[asked.stages];
    if (!alone) {
      this.#report('C2', asked.number, asked.submitted, `${told} and for others`);
    } else if (!due || !isSame(due, what)) {
      const instead = due ? `${formatSteps([due])} (${due.stage})` : 'nothing';
      const text = `${told} as its ${what.stage}, where ${instead} comes next`;
      this.#report('C2', asked.number, asked.submitted, text);
    }
    if (asked.expected.drains) this.#checkDrained(asked, told);
    else this.#checkOvertaken(asked, told);
    this.#checkFences(asked, what, told);
    if (due && due.tag !== what.tag) {
      this.#report('C5', asked.number, asked.submitted, `${told} with a ${what.tag} tag`);
    }
    const { sequence } = this.#account;
    if (sequence && sequence !== asked && !sequence.over) {
      const text = `${told} while the sequence of ${nameOf(sequence)} runs`;
      this.#report('C6', asked.number, sequence.dispatched, text);
    }
    if (what.op === 'flush') return;
    this.#checkOverlap(asked, what, told);
    if (this.#aborts && asked.expected.drains) this.#checkCertified(asked, told);
  }

  /** C15. */
  #checkCertified(asked: Asked, told: string): void {
    const { number, failed, submitted, start, end } = asked;
    const { failure } = this.#account;
    // What it writes itself it mends, or fails to.
    const beyond = failure && (failure.start < start || failure.end > end);
    const covered = beyond && failure.number < number && failure.settled > submitted;
    if (failed !== NEVER) {
      this.#report('C15', number, failed, `${told} although its preflush has failed`);
    } else if (covered) {
      const text = `${told} although ${nameOf(failure)}, which it covers, has failed`;
      this.#report('C15', number, failure.failed, text);
    }
  }

  /** C3 by drain. */
  #checkDrained(asked: Asked, told: string): void {
    const older = this.#account.open.before(asked);
    if (older) {
      const text = `${told} before ${nameOf(older)} is over`;
      this.#report('C3', asked.number, older.touched, text);
    } else if (asked.inFlight > 0) {
      const text = `${told} before its previous stage has completed`;
      this.#report('C3', asked.number, asked.dispatched, text);
    }
  }

  /** C3 by tag. */
  #checkOvertaken(asked: Asked, told: string): void {
    const late = this.#account.undispatched.before(asked);
    if (!late) return;
    const text = `${told} ahead of ${nameOf(late)}, which is not dispatched`;
    this.#report('C3', asked.number, late.submitted, text);
  }

  /** A command of no sequence: data, or a flush for whoever wants one. */
  #checkPlain(asked: Asked, what: CommandWhat, told: string, alone: boolean): void {
    const isFlush = what.op === 'flush';
    const fault = isFlush ? flushFault(asked) : dataFault(asked, what, alone);
    if (fault) this.#report('C2', asked.number, asked.touched, `${told}, ${fault}`);
    this.#checkFences(asked, what, told);
    if (what.tag !== 'simple') {
      this.#report('C5', asked.number, asked.submitted, `${told} with an ordered tag`);
    }
    if (isFlush) return;
    this.#checkOverlap(asked, what, told);
    if (asked.expected.commands[0]?.op === 'flush') this.#checkCovered(asked, told);
  }

  /** C4. */
  #checkFences(asked: Asked, what: CommandWhat, told: string): void {
    const fence = this.#account.fenceBefore(asked, what);
    if (!fence) return;
    const passes = what.op === 'read' && this.#readsPass;
    const met = passes ? this.#account.claims.older(asked, () => true) : undefined;
    if (passes && !met) return;
    const over = met && met !== fence ? `, and it overlaps ${nameOf(met)}` : '';
    const text = `${told} before ${nameOf(fence)} has released it${over}`;
    this.#report('C4', asked.number, (met ?? fence).touched, text);
  }

  /** C10. */
  #checkOverlap(asked: Asked, { tag }: CommandWhat, told: string): void {
    const { claims, lastOrdered } = this.#account;
    const separated = ({ data, dataDispatched }: Asked): boolean =>
      data === 'issued' && (tag === 'ordered' || dataDispatched <= lastOrdered);
    const met = claims.older(asked, (other) => !separated(other));
    if (!met) return;
    const text = `${told} before ${nameOf(met)} has completed, which it overlaps`;
    this.#report('C10', asked.number, met.touched, text);
  }

  /** C11. */
  #checkCovered(asked: Asked, told: string): void {
    const { writing, coverage } = this.#account;
    const late = writing.before(asked);
    const cached = coverage.notDurableBefore(asked);
    if (late) {
      const text = `${told} before ${nameOf(late)} has completed`;
      this.#report('C11', asked.number, late.touched, text);
    } else if (cached) {
      const text = `${told}, and no flush has succeeded that was dispatched after ${nameOf(cached)} had completed`;
      this.#report('C11', asked.number, cached.completed, text);
    }
  }

  // Ends

  #checkSuccess(asked: Asked, told: string): void {
    const { number, what, expected, failed } = asked;
    if (asked.barrier) this.#checkBarrierDone(asked, told);
    if (asked.inFlight > 0) {
      this.#report('C7', number, asked.dispatched, `${told} before its command has completed`);
    }
    const wantsFlush = what.kind === 'flush' && expected.commands.length > 0;
    const undone = asked.data === 'waiting' || (wantsFlush && !asked.flushed && failed === NEVER);
    if (undone && asked.inFlight === 0 && !asked.barrier) {
      this.#report('C7', number, asked.submitted, `${told}, and its command was not dispatched`);
    }
    if (failed !== NEVER) {
      this.#report('C8', number, failed, `${told} although a command of it has failed`);
    }
    if (what.kind === 'flush') this.#checkCovered(asked, told);
    const written = asked.completed !== NEVER && failed === NEVER;
    const forced = what.kind === 'write' && what.fua && written;
    if (forced && !this.#account.coverage.isDurable(asked)) {
      this.#report('C12', number, asked.completed, `${told}, and nothing forces it to the medium`);
    }
  }

  #checkBarrierDone(asked: Asked, told: string): void {
    const { number, expected, stagesDue, stages } = asked;
    const missing = stagesDue[stages];
    if (missing) {
      const text = `${told} without its ${formatSteps([missing])} (${missing.stage})`;
      this.#report('C2', number, asked.touched, text);
    } else if (expected.refused) {
      this.#report('C2', number, asked.submitted, `${told} in a mode that refuses it`);
    }
    const older = expected.drains ? this.#account.open.before(asked) : undefined;
    if (older) this.#report('C3', number, older.touched, `${told} before ${nameOf(older)} is over`);
  }

  #checkFailure(asked: Asked, outcome: SettleEvent['outcome'], told: string): void {
    const { number, failed, dataDispatched } = asked;
    if (outcome === 'CLOSE_TIMEOUT') {
      this.#timedOut = true;
      return;
    }
    // Who waits for a flush that others share may leave before it has completed.
    const leaves = outcome === 'cancelled' || outcome === 'FAILED';
    if ((leaves ? asked.dataInFlight : asked.inFlight) > 0) {
      this.#report('C7', number, asked.dispatched, `${told} before its command has completed`);
    }
    if (OWN_FAILURES.has(outcome) && failed === NEVER) {
      this.#report('C8', number, asked.touched, `${told}, and no command of it has failed`);
    } else if (FLUSH_FAILURES.has(outcome) && !this.#account.flushFailed) {
      this.#report('C8', number, asked.touched, `${told}, and no flush has failed`);
    }
    if (UNTOUCHED.has(outcome) && dataDispatched !== NEVER) {
      this.#report('C13', number, dataDispatched, `${told} although it was dispatched`);
    }
  }

  /** C14. */
  #end(): void {
    const { requests, commands } = this.#account;
    for (const asked of requests.values()) {
      if (asked.settled !== NEVER) continue;
      const text = `${nameOf(asked)} is stranded: ${whereabouts(asked)}, and it is not answered`;
      this.#report('C14', asked.number, asked.submitted, text);
    }
    if (this.#timedOut) return;
    for (const [command, { what, serves, dispatched }] of commands) {
      const text = `${formatSteps([what])} (command ${command}) does not complete`;
      this.#report('C14', serves[0]?.number, dispatched, text);
    }
  }

  #report(rule: TraceRule, request: number | undefined, first: number, text: string): void {
    const key = `${rule} ${request}`;
    if (this.#reported.has(key)) return;
    this.#reported.add(key);
    this.violations.push({ rule, text, first, second: this.#account.at });
  }
}

const OWN_FAILURES: ReadonlySet<string> = new Set(['IO_FAILED', 'SHORT_TRANSFER']);
const FLUSH_FAILURES: ReadonlySet<string> = new Set(['FLUSH_FAILED', 'FAILED']);
/** They say that nothing was written. */
const UNTOUCHED: ReadonlySet<string> = new Set(['cancelled', 'EOPNOTSUPP', 'BARRIER_ABORTED']);

/** The tag is a rule of its own. */
function isSame(due: DeviceCommand & { readonly stage: Stage }, what: CommandWhat): boolean {
  const { op, stage, fua, offset, length } = what;
  if (op !== due.op || stage !== due.stage || fua !== due.fua) return false;
  return op === 'flush' || (offset === due.offset && length === due.length);
}

function flushFault({ what, expected, data }: Asked): string | undefined {
  if (!expected.commands.some(({ op }) => op === 'flush')) return 'which needs none';
  return what.kind === 'flush' || data !== 'issued' ? undefined : 'whose data is at the device';
}

/** `alone`: the command serves nobody else; neighbours may be merged into one. */
function dataFault(asked: Asked, command: CommandWhat, alone: boolean): string | undefined {
  const { what, data, start, end, expected, flushed } = asked;
  const { op, offset, length, stage, fua } = command;
  if (what.kind !== op) return 'which asks for something else';
  if (data !== 'waiting') return 'which was dispatched before';
  const inside = offset <= start && end <= offset + length;
  if (!inside || (alone && end - start < length)) return 'which asks for other bytes';
  if (stage !== 'plain') return `which has no ${stage} stage`;
  if (expected.commands[0]?.op === 'flush' && !flushed) return 'before its preflush';
  return fua && !expected.commands.some((due) => due.fua) ? 'which has no FUA' : undefined;
}

function nameOf({ what, number }: Asked): string {
  return `${formatRequest(what)} (request ${number})`;
}

function whereabouts({ dispatched, inFlight }: Asked): string {
  if (inFlight > 0) return 'it is at the device';
  return dispatched === NEVER ? 'it was never dispatched' : 'nothing of it is at the device';
}
