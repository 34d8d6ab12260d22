// Checks a trace of an I/O scheduler against the promises of its mode: the events of IoScheduler's observer, or a log from
// the field. TRACE_RULES are the rules.
//
// The commands that a request needs come from the model, from the steps that the scheduler executes, because no mode may be
// described a second time. All other state is kept apart from the scheduler (trace-account.ts), so the rules hold for any
// scheduler that writes such traces.
//
// The checker reads one event after the other and remembers what is open. A trace that breaks C1 is checked up to that event,
// because the rest has no certain meaning. After a violation of another rule it continues as if the event had been right.
//
// Not here: changes of the mode within a trace; whether a device does what it claims, ordered tags included; whether reads
// return the right bytes.
//
// Source: start_ordered() and blk_do_ordered() in Linux 2.6.36 block/blk-barrier.c; Documentation/block/barrier.txt;
// the patch for barriers in QEMU's posix-aio (May 2009), for what a cancelled barrier must not do.

import {
  checkOptions,
  type DeviceCommand,
  type DeviceTraits,
  type DispatchEvent,
  formatRequest,
  formatSteps,
  type KnownOptions,
  type ModeName,
  modeOf,
  type SettleEvent,
  type Stage,
  type TraceEvent,
} from '../../model/index.js';
import { type Asked, type CommandWhat, NEVER, TraceAccount } from './trace-account.js';
import { misshapen } from './trace-shape.js';

/** The rules for traces, by their numbers. */
export const TRACE_RULES: Readonly<Record<Violation['rule'], string>> = Object.freeze({
  C1: 'Requests and commands are numbered from 0 in order; every event names a known request or command; a command completes once.',
  C2: 'The commands of a request are exactly those that its mode makes of it, in order.',
  C3:
    'Before each stage of a barrier everything submitted earlier is over (by drain) or dispatched (by tag), ' +
    'and by drain the stage before has completed.',
  C4:
    'Nothing submitted after a barrier is dispatched before the barrier releases it, except a read that ' +
    'overlaps nothing earlier, if reads may bypass barriers or a flush has failed; a cancelled barrier keeps its place.',
  C5: 'The stages of a barrier carry the tag of its mode; everything else carries the simple tag.',
  C6: 'The sequences of two barriers never run at the same time.',
  C7: 'A request is answered only after its last command.',
  C8: 'The answer to a request says what its commands did: success hides no failure, and a failure is not invented.',
  C9: 'A request is answered once.',
  C10:
    'Of two overlapping requests, one of which writes, the later is dispatched only after the earlier has ' +
    'completed, unless an ordered tag separates them; a resize overlaps everything from the smaller size on, ' +
    'and no tag is enough.',
  C11:
    'A flush, or the preflush of a write, is done when everything written earlier has completed and a flush ' +
    'of the device, dispatched after that or tagged to follow it, has succeeded.',
  C12: 'A FUA write is done when it is on the medium: forced by its own command, or by a flush that covers it as in C11.',
  C13: 'A request that was cancelled, refused or answered is not dispatched.',
  C14: 'At the end every request is answered and every command has completed, also after cancellations and failures.',
  C15:
    "By drain, with the error policy 'abort': a barrier's own write is not dispatched if its preflush has " +
    'failed, or an earlier write whose failure had not been answered when the barrier was ' +
    'submitted and that has not been overwritten since.',
});

/** A violation of a rule by a trace. Plain JSON. */
export interface Violation {
  /** The number of the rule, a key of `TRACE_RULES`. */
  readonly rule: `C${1 | 2 | 3 | 4 | 5 | 6 | 7 | 8 | 9 | 10 | 11 | 12 | 13 | 14 | 15}`;
  /** What happened, in words; requests in the text notation, with their numbers. */
  readonly text: string;
  /**
   * The index of the earlier of the two events that contradict each other. It equals `second` if there is only one, or if the
   * earlier event is about something that has ended.
   */
  readonly first: number;
  /** The index of the event that shows the violation; of the last event, if something is missing at the end. */
  readonly second: number;
}

/** The conditions of a trace. */
export interface CheckOptions {
  /** The mode of the whole trace. */
  readonly mode: ModeName;
  /**
   * The device, as the scheduler was told of it (`capabilities`).
   *
   * @defaultValue a volatile cache with flush, FUA and ordered tags. A flush after a forced write is accepted then, because the
   * FUA may have been slow; for a device that is given only where it has none or a slow one (`slowFua`)
   */
  readonly device?: DeviceTraits;
  /** Whether reads that overlap no earlier request may bypass a barrier. @defaultValue true */
  readonly readsPass?: boolean;
  /**
   * The error policy of the scheduler. With `abort` rule C15 is checked, with `kernel` it is not.
   *
   * @defaultValue `'kernel'`, because a trace does not say which policy was meant
   */
  readonly errorPolicy?: 'abort' | 'kernel';
  /** Whether the trace goes to the end of the run, so that nothing may be open. @defaultValue true */
  readonly ended?: boolean;
}

/**
 * Checks the trace of a scheduler, and returns its violations in the order in which they show; an empty list for a correct
 * trace. Each rule is reported once for a request. Malformed events are violations, too; nothing is thrown for them.
 *
 * Takes time in proportion to the number of events, and memory in proportion to what is open at once.
 *
 * @param events all events of one scheduler from its start: `submit`, `dispatch`, `complete` and `settle`
 * @param options the mode, or the mode with other conditions
 * @throws `EINVAL` for a mode that is none of the seven, `INVALID_ARGUMENT` for unknown options
 */
export function checkTrace(
  events: Iterable<TraceEvent>,
  options: ModeName | CheckOptions,
): readonly Violation[] {
  if (typeof options !== 'string') checkOptions(options, OPTIONS, 'checkTrace');
  const conditions = typeof options === 'string' ? { mode: options } : options;
  modeOf(conditions.mode);
  const checker = new Checker(conditions);
  checker.read(events);
  return checker.violations;
}

const OPTIONS: KnownOptions<CheckOptions> = {
  mode: 0,
  device: 0,
  readsPass: 0,
  errorPolicy: 0,
  ended: 0,
};

const DEVICE: DeviceTraits = { cache: 'volatile', flush: true, fua: true, orderedTags: true };

/** Reports a violation of one request by the event under check; `fault` ends the sentence. */
type Blame = (rule: Violation['rule'], first: number, fault: string) => void;

class Checker {
  readonly violations: Violation[] = [];
  readonly #reported = new Set<string>();
  readonly #options: CheckOptions;
  readonly #account: TraceAccount;
  /** A request was answered with CLOSE_TIMEOUT, so commands may stay open. */
  #timedOut = false;

  constructor(options: CheckOptions) {
    this.#options = options;
    this.#account = new TraceAccount(options.mode, options.device ?? DEVICE);
  }

  read(events: Iterable<unknown>): void {
    const account = this.#account;
    if (typeof events?.[Symbol.iterator] !== 'function') {
      account.at = 0;
      this.#report('C1', undefined, 0, 'the trace is not iterable');
      return;
    }
    for (const event of events) {
      account.at += 1;
      const fault = misshapen(event) ?? this.#misplaced(event as TraceEvent);
      if (fault !== undefined) {
        this.#report('C1', undefined, account.at, `event ${account.at}: ${fault}`);
        return;
      }
      this.#take(event as TraceEvent);
    }
    if (this.#options.ended ?? true) this.#end();
  }

  /** C1: what makes the event meaningless here; undefined if nothing does. */
  #misplaced(event: TraceEvent): string | undefined {
    const { submitted, issued, commands } = this.#account;
    if (event.kind === 'complete') {
      const { command } = event;
      if (commands.has(command)) return undefined;
      const why = command < issued ? 'has already completed' : 'was never dispatched';
      return `command ${command} completes, but ${why}`;
    }
    if (event.kind === 'dispatch') {
      const { command, requests } = event;
      if (command !== issued)
        return `command ${command} is dispatched, but the next number is ${issued}`;
      const unknown = requests.find((request) => request >= submitted);
      if (unknown === undefined) return undefined;
      return `a dispatch for request ${unknown}, which has not been submitted`;
    }
    const { kind, request } = event;
    if (kind === 'settle' && request >= submitted)
      return `request ${request} is answered, but was never submitted`;
    if (kind === 'settle' || request === submitted) return undefined;
    return `request ${request} is submitted, but the next number is ${submitted}`;
  }

  #take(event: TraceEvent): void {
    const { kind } = event;
    if (kind === 'submit') this.#account.submit(event.what);
    else if (kind === 'dispatch') this.#dispatch(event);
    else if (kind === 'complete') this.#account.complete(event.command, event.error === undefined);
    else this.#settle(event);
  }

  #dispatch({ what, requests }: DispatchEvent): void {
    this.#account.resume(what);
    const serves = requests.flatMap((request) => this.#served(request, what));
    const alone = serves.length === 1;
    for (const asked of serves) {
      const blame = this.#blamer(asked, () => dispatched(what, nameOf(asked)));
      if (asked.barrier) this.#checkStage(asked, what, alone, blame);
      else this.#checkPlain(asked, what, alone, blame);
    }
    this.#account.dispatch(what, serves);
  }

  #settle({ request, outcome }: SettleEvent): void {
    const account = this.#account;
    const asked = account.requests.get(request);
    if (!asked || asked.settled !== NEVER) {
      const name = asked ? nameOf(asked) : `request ${request}`;
      this.#report('C9', request, asked?.settled ?? account.at, `${name} is answered again`);
      return;
    }
    const blame = this.#blamer(asked, () => `${nameOf(asked)} is answered as ${outcome}`);
    if (outcome === 'done') this.#checkSuccess(asked, blame);
    else this.#checkFailure(asked, outcome, blame);
    account.settle(asked, outcome);
  }

  // Dispatch

  /** C13. Empty if the request must not have this command. */
  #served(request: number, what: CommandWhat): Asked[] {
    const asked = this.#account.requests.get(request);
    const owed = asked !== undefined && what.op === 'flush' && this.#account.isOwed(asked);
    if (asked && (asked.settled === NEVER || owed)) return [asked];
    const name = asked ? nameOf(asked) : `request ${request}`;
    const text = `${dispatched(what, name)}, which has ended`;
    this.#report('C13', request, asked?.settled ?? this.#account.at, text);
    return [];
  }

  /** A command of a sequence. */
  #checkStage(asked: Asked, what: CommandWhat, alone: boolean, blame: Blame): void {
    const due = asked.stagesDue[asked.stages];
    if (!alone) {
      blame('C2', asked.submitted, ' together with other requests');
    } else if (!due || !isSame(due, what)) {
      const next = due
        ? `its next stage is ${formatSteps([due])} (${due.stage})`
        : 'no stage is left';
      blame('C2', asked.submitted, ` as its ${what.stage} stage, but ${next}`);
    }
    this.#checkTurn(asked, blame);
    this.#checkFences(asked, what, blame);
    if (due && due.tag !== what.tag) blame('C5', asked.submitted, ` with a ${what.tag} tag`);
    const { sequence } = this.#account;
    if (sequence && sequence !== asked && !sequence.over) {
      blame('C6', sequence.dispatched, ` while the sequence of ${nameOf(sequence)} runs`);
    }
    if (what.op === 'flush') return;
    this.#checkOverlap(asked, what, blame);
    const aborts = this.#options.errorPolicy === 'abort';
    if (aborts && asked.expected.drains) this.#checkCertified(asked, blame);
  }

  /** C15. */
  #checkCertified({ number, failed, submitted, start, end }: Asked, blame: Blame): void {
    const { failure } = this.#account;
    // A failed write that the barrier itself overwrites does not count.
    const beyond = failure && (failure.start < start || failure.end > end);
    const covered = beyond && failure.number < number && failure.settled > submitted;
    if (failed !== NEVER) {
      blame('C15', failed, ' although its preflush has failed');
    } else if (covered) {
      blame('C15', failure.failed, ` although ${nameOf(failure)}, which it covers, has failed`);
    }
  }

  /** C3. */
  #checkTurn(asked: Asked, blame: Blame): void {
    const { open, undispatched } = this.#account;
    const { drains } = asked.expected;
    const older = (drains ? open : undispatched).before(asked);
    if (older && drains) blame('C3', older.touched, ` before ${nameOf(older)} is over`);
    else if (older) {
      blame('C3', older.submitted, ` ahead of ${nameOf(older)}, which is not dispatched`);
    } else if (drains && asked.inFlight > 0) {
      blame('C3', asked.dispatched, ' before its previous stage has completed');
    }
  }

  /** A command outside of a sequence: data, or a shared flush. */
  #checkPlain(asked: Asked, what: CommandWhat, alone: boolean, blame: Blame): void {
    const isFlush = what.op === 'flush';
    const fault = isFlush ? flushFault(asked, this.#options.device) : dataFault(asked, what, alone);
    if (fault) blame('C2', asked.touched, `, ${fault}`);
    this.#checkFences(asked, what, blame);
    if (what.tag !== 'simple') blame('C5', asked.submitted, ' with an ordered tag');
    if (isFlush) return;
    this.#checkOverlap(asked, what, blame);
    if (asked.expected.commands[0]?.op === 'flush') this.#checkCovered(asked, blame);
  }

  /** C4. */
  #checkFences(asked: Asked, what: CommandWhat, blame: Blame): void {
    const fence = this.#account.fenceBefore(asked, what);
    if (!fence) return;
    // After a failed flush barriers are refused, and reads bypass what is left of them.
    const readsPass = (this.#options.readsPass ?? true) || this.#account.halted;
    const passes = what.op === 'read' && readsPass;
    const met = passes ? this.#account.meets(asked, () => true) : undefined;
    if (passes && !met) return;
    const over = met && met !== fence ? `, and it overlaps ${nameOf(met)}` : '';
    blame('C4', (met ?? fence).touched, ` before ${nameOf(fence)} has released it${over}`);
  }

  /** C10. */
  #checkOverlap(asked: Asked, { tag }: CommandWhat, blame: Blame): void {
    const { lastOrdered } = this.#account;
    const separated = ({ data, dataDispatched, isResize }: Asked): boolean =>
      !(isResize || asked.isResize) &&
      data === 'issued' &&
      (tag === 'ordered' || dataDispatched <= lastOrdered);
    const met = this.#account.meets(asked, (other) => !separated(other));
    if (met) blame('C10', met.touched, ` before ${nameOf(met)}, which it overlaps, has completed`);
  }

  /** C11. */
  #checkCovered(asked: Asked, blame: Blame): void {
    const late = this.#account.writing.before(asked);
    const cached = this.#account.coverage.notDurableBefore(asked);
    if (late) {
      blame('C11', late.touched, ` before ${nameOf(late)} has completed`);
    } else if (cached) {
      const fault = `, but no flush that was dispatched after ${nameOf(cached)} had completed has succeeded`;
      blame('C11', cached.completed, fault);
    }
  }

  // Ends

  #checkSuccess(asked: Asked, blame: Blame): void {
    const { what, expected, failed } = asked;
    if (asked.barrier) this.#checkBarrierDone(asked, blame);
    if (asked.inFlight > 0) blame('C7', asked.dispatched, ' before its command has completed');
    const wantsFlush = what.kind === 'flush' && expected.commands.length > 0;
    const undone = asked.data === 'waiting' || (wantsFlush && !asked.flushed && failed === NEVER);
    if (undone && asked.inFlight === 0 && !asked.barrier) {
      blame('C7', asked.submitted, ', but its command was never dispatched');
    }
    if (failed !== NEVER) blame('C8', failed, ' although a command of it has failed');
    if (what.kind === 'flush') this.#checkCovered(asked, blame);
    const written = asked.completed !== NEVER && failed === NEVER;
    const forced = what.kind === 'write' && what.fua && written;
    if (forced && !this.#account.coverage.isDurable(asked)) {
      blame('C12', asked.completed, ', but nothing has forced it to the medium');
    }
  }

  #checkBarrierDone(asked: Asked, blame: Blame): void {
    const { expected, stagesDue, stages } = asked;
    const missing = stagesDue[stages];
    if (missing) {
      blame('C2', asked.touched, ` without its ${formatSteps([missing])} (${missing.stage})`);
    } else if (expected.refused) {
      blame('C2', asked.submitted, ' in a mode that refuses it');
    }
    const older = expected.drains ? this.#account.open.before(asked) : undefined;
    if (older) blame('C3', older.touched, ` before ${nameOf(older)} is over`);
  }

  #checkFailure(asked: Asked, outcome: SettleEvent['outcome'], blame: Blame): void {
    const { failed, dataDispatched } = asked;
    if (outcome === 'CLOSE_TIMEOUT') {
      this.#timedOut = true;
      return;
    }
    // A request that waits for a shared flush may be answered before the flush has completed.
    const leaves = outcome === 'cancelled' || outcome === 'FAILED' || outcome === 'READ_AT_RISK';
    if ((leaves ? asked.dataInFlight : asked.inFlight) > 0) {
      blame('C7', asked.dispatched, ' before its command has completed');
    }
    if (OWN_FAILURES.has(outcome) && failed === NEVER) {
      blame('C8', asked.touched, ', but none of its commands has failed');
    } else if (FLUSH_FAILURES.has(outcome) && failed === NEVER && !this.#account.flushFailed) {
      blame('C8', asked.touched, ', but no flush has failed');
    }
    if (UNTOUCHED.has(outcome) && dataDispatched !== NEVER) {
      blame('C13', dataDispatched, ' although it was dispatched');
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
      const text = `${formatSteps([what])} (command ${command}) never completed`;
      this.#report('C14', serves[0]?.number, dispatched, text);
    }
  }

  /** `event`: the beginning of the sentence, made only for a violation. */
  #blamer({ number }: Asked, event: () => string): Blame {
    return (rule, first, fault) => this.#report(rule, number, first, `${event()}${fault}`);
  }

  #report(rule: Violation['rule'], request: number | undefined, first: number, text: string): void {
    const key = `${rule} ${request}`;
    if (this.#reported.has(key)) return;
    this.#reported.add(key);
    this.violations.push({ rule, text, first, second: this.#account.at });
  }
}

function dispatched(what: CommandWhat, name: string): string {
  return `${formatSteps([what])} is dispatched for ${name}`;
}

const OWN_FAILURES: ReadonlySet<string> = new Set(['IO_FAILED', 'SHORT_TRANSFER']);
const FLUSH_FAILURES: ReadonlySet<string> = new Set(['FLUSH_FAILED', 'FAILED', 'READ_AT_RISK']);
/** These outcomes say that nothing was written. */
const UNTOUCHED: ReadonlySet<string> = new Set(['cancelled', 'EOPNOTSUPP', 'BARRIER_ABORTED']);

/** The tag is a rule of its own. */
function isSame(due: DeviceCommand & { readonly stage: Stage }, what: CommandWhat): boolean {
  const { op, stage, fua, offset, length, size } = what;
  if (size !== due.size) return false;
  if (op !== due.op || stage !== due.stage || fua !== due.fua) return false;
  return op === 'flush' || (offset === due.offset && length === due.length);
}

function flushFault({ what, expected, data }: Asked, device?: DeviceTraits): string | undefined {
  // A device without FUA, or whose FUA is slow, gets a forced write so, and a trace by itself does not say which device it was.
  const mayShare = !device && what.kind === 'write' && what.fua === true;
  if (!mayShare && !expected.commands.some(({ op }) => op === 'flush')) return 'which needs none';
  return what.kind === 'flush' || data !== 'issued' ? undefined : 'whose data is at the device';
}

/** `alone`: the command serves one request; adjacent requests may be merged into one command. */
function dataFault(asked: Asked, command: CommandWhat, alone: boolean): string | undefined {
  const { what, data, start, end, expected, flushed } = asked;
  const { op, offset, length, stage, fua } = command;
  const size = 'size' in what ? what.size : undefined;
  if (size !== command.size) return 'which asks for another size';
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
