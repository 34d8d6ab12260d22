// What a scheduler must do, said a second time and in other words: rules over the events of a run. It shares no
// code with the scheduler (types only) and keeps its own account of what is where and what is durable. Each rule names the
// invariants that it checks.
//
//   R1  A request settles once, and with the outcome that its own commands had. (ordering.I1, ordering.I6)
//   R2  Data is at the device once, and never after its request was cancelled, refused or settled. (ordering.I6)
//   R3  A barrier's commands are those of its mode, in order; by drain one after another, when everything older
//       has finished and nothing younger is at the device, save reads that bypassed it. (ordering.I2, ordering.I3,
//       transform.T2)
//   R4  By drain, nothing younger than a barrier is issued before everything older is finished and, on a volatile
//       cache with a flush mode, durable: the older writes and the barrier's own. This holds for a barrier
//       that was cancelled or aborted, too. (ordering.I2)
//   R5  By tag, an ordered command separates the two sides in the order of issue, or the older side is finished.
//       (ordering.I3, transform.T4)
//   R6  One sequence at a time. (ordering.I3)
//   R7  Overlapping requests, one of which writes, are issued in order, each when the older has finished, unless
//       a tag orders the younger. (ordering.I4, ordering.I5, scheduler-in-flight.W1)
//   R8  A flush that succeeds, and a barrier of a flush mode, leave everything older durable. (flush-group.F1, storage.S5)
//   R9  FUA means durable at its answer; a preflush means that everything older was durable at the issue. (transform.T7)
//   R10 Under `abort` and by drain, no barrier is written while a write that it covers has failed and no barrier has
//       answered for it, or when it was submitted before an older barrier failed. (ordering.I7)
//   R11 Under `abort`, nothing is issued between a failed flush and recovery but reads of bytes that are not at risk,
//       those are issued, and everything settles. (ordering.I8)
//   R12 At most `depth` commands, at most one shared flush. (flush-group.F2)
//   R13 When the device has answered everything, every request is settled. (ordering.I1, flush-group.F3)
//   R14 What may be issued is issued: a plain request whose way is free is at the device. (scheduler-in-flight.W2)
//   R15 A command for several requests is a write of all their bytes, in their order, and none of them is a barrier.
//       (ordering.I9, plan.PL3)

import type { DeviceCommand, DeviceTraits, ModeName, Request, Stage } from 'write-barrier';

/** A rule that a run broke. */
export class Violation extends Error {}

export interface Setting {
  readonly mode: ModeName;
  readonly device: DeviceTraits;
  readonly depth: number;
  readonly abort: boolean;
  readonly readsPass: boolean;
}

interface Known {
  readonly n: number;
  readonly what: Request;
  readonly start: number;
  readonly end: number;
  readonly writes: boolean;
  readonly barrier: boolean;
  /** The commands of a barrier, as text. */
  readonly sequence: string;
  /** The texts of the sequence's commands so far. */
  issued: string[];
  atDevice: number;
  data: 'waiting' | 'issued' | 'done' | 'failed';
  /** The position of its data among all commands; later is larger. */
  position: number;
  ordered: boolean;
  durable: boolean;
  /**
   * Durable without a tag that says so: it was forced, or it had ended when a flush was issued, and no flush that was at the
   * device with that one has failed, because the device may have dropped the bytes in the failed one. (durability.U1)
   */
  settled: boolean;
  outcome: string | undefined;
}

interface Issued {
  readonly what: DeviceCommand & { readonly stage: Stage };
  readonly requests: readonly number[];
  /** For a flush: whom it makes durable. */
  readonly covers: readonly Known[];
  /** Those of them that had ended when it was issued. */
  readonly settles: readonly Known[];
}

const SEQUENCES: Readonly<Record<ModeName, { readonly data: string; readonly empty: string }>> = {
  NONE: { data: 'refused', empty: 'refused' },
  DRAIN: { data: 'w', empty: '' },
  DRAIN_FLUSH: { data: 'F w F', empty: 'F' },
  DRAIN_FUA: { data: 'F w!', empty: 'F' },
  TAG: { data: '^w', empty: '' },
  TAG_FLUSH: { data: '^F ^w ^F', empty: '^F' },
  TAG_FUA: { data: '^F ^w!', empty: '^F' },
};

export class Specification {
  readonly #setting: Setting;
  readonly #volatile: boolean;
  readonly #drains: boolean;
  readonly #known: Known[] = [];
  readonly #commands = new Map<number, Issued>();
  #position = 0;
  #lastOrdered = -1;
  #failed = false;
  #flushFailed = false;
  /** What was not durable when a flush was issued, since the last time that none was at the device. */
  readonly #unsettled = new Set<Known>();
  /** What flushes have made durable since then, if none of those that were at the device with them fails. */
  readonly #settling = new Set<Known>();
  /** None of those flushes has failed. */
  #trusted = true;
  /** Since a flush failed: blocks whose content is certainly in doubt, and blocks of which one may say so. */
  readonly #doubted = new Set<number>();
  readonly #doubtable = new Set<number>();
  /** Requests before this one belong to a time before the last recovery. */
  #base = 0;
  /** Blocks of failed writes for which nobody has answered, with the request. */
  readonly #unanswered: { readonly by: Known; start: number; end: number }[] = [];
  #taintedBefore = 0;
  /** A barrier has failed, and whoever submits now may not know it. */
  #untold = false;
  readonly #unaware = new Set<number>();

  constructor(setting: Setting) {
    this.#setting = setting;
    this.#volatile = setting.device.cache === 'volatile';
    this.#drains = setting.mode.startsWith('DRAIN');
  }

  submitted(n: number, what: Request): void {
    if (this.#untold) this.#unaware.add(n);
    const ranged = what.kind !== 'flush' && what.kind !== 'barrier';
    const barrier = what.kind === 'barrier' || (what.kind === 'write' && what.barrier === true);
    this.#known.push({
      n,
      what,
      start: ranged ? what.offset : 0,
      end: ranged ? what.offset + what.length : 0,
      writes: ranged && what.kind !== 'read',
      barrier,
      sequence: barrier ? this.#sequenceOf(what) : '',
      issued: [],
      atDevice: 0,
      data: 'waiting',
      position: -1,
      ordered: false,
      durable: false,
      settled: false,
      outcome: undefined,
    });
  }

  dispatched(id: number, what: Issued['what'], requests: readonly number[]): void {
    if (this.#failed) {
      const { offset, length } = what;
      const read = what.op === 'read' && !touches(this.#doubted, offset, offset + length);
      if (!read) this.#violated('R11', `${what.op} after a failed flush`);
    }
    const position = this.#position++;
    const served = requests.map((n) => this.#get(n));
    const [first] = served;
    if (what.op !== 'flush') {
      for (const request of served) this.#dataIssued(request, what, position);
      this.#gathersRightly(served, what);
    }
    if (what.op === 'flush' && what.stage === 'plain') this.#sharedFlushIssued(served);
    if (first?.barrier && what.stage !== 'plain') this.#stepIssued(first, what);
    if (what.tag === 'ordered') this.#lastOrdered = position;
    for (const request of served) request.atDevice += 1;
    if (what.op === 'flush') {
      for (const request of this.#known) if (isUnsettled(request)) this.#unsettled.add(request);
    }
    const covers = what.op === 'flush' ? this.#covered(what) : [];
    this.#commands.set(id, { what, requests, covers, settles: covers.filter(hasEnded) });
    if (this.#commands.size > this.#setting.depth) this.#violated('R12', 'too many commands');
  }

  completed(id: number, ok: boolean): void {
    const command = this.#commands.get(id) as Issued;
    this.#commands.delete(id);
    const served = command.requests.map((n) => this.#get(n));
    for (const request of served) request.atDevice -= 1;
    if (command.what.op === 'flush') {
      this.#flushEnded(command, ok);
      return;
    }
    for (const request of served) this.#dataEnded(request, command, ok);
  }

  #dataEnded(request: Known, command: Issued, ok: boolean): void {
    request.data = ok ? 'done' : 'failed';
    if (!request.writes) return;
    const forced = ok && (command.what.fua || !this.#volatile);
    if (forced) request.durable = true;
    if (forced) request.settled = true;
    each(request, (block) => {
      if (this.#failed) {
        // A forced write may be older than what the failed flush lost, so it takes nothing out.
        if (!forced) this.#doubtable.add(block);
        if (!request.durable) this.#doubted.add(block);
      } else if (ok) {
        for (const set of [this.#doubted, this.#doubtable]) set.delete(block);
      }
    });
    if (ok) this.#rewritten(request.start, request.end);
    else this.#unanswered.push({ by: request, start: request.start, end: request.end });
  }

  /** R15. */
  #gathersRightly(served: readonly Known[], { op, offset, length }: Issued['what']): void {
    if (served.length <= 1) return;
    let end = offset;
    for (const { n, start, barrier, what, end: next } of served) {
      if (start !== end || barrier || op !== 'write' || what.kind !== op) {
        this.#violated('R15', `${n} is gathered with what it does not follow`);
      }
      end = next;
    }
    if (end !== offset + length) this.#violated('R15', 'other bytes than asked for');
    if (served.some(({ n }, i) => n <= (served[i - 1]?.n ?? -1)))
      this.#violated('R15', 'out of order');
  }

  #flushEnded({ covers, settles }: Issued, ok: boolean): void {
    if (ok) {
      for (const covered of covers) covered.durable = true;
      for (const covered of settles) this.#settling.add(covered);
    } else {
      this.#flushFailed = true;
      this.#trusted = false;
      if (this.#setting.abort) this.#doubt();
    }
    if ([...this.#commands.values()].some(({ what }) => what.op === 'flush')) return;
    if (this.#trusted) for (const covered of this.#settling) covered.settled = true;
    this.#trusted = true;
    this.#settling.clear();
    this.#unsettled.clear();
  }

  settled(n: number, outcome: string): void {
    const request = this.#get(n);
    if (request.outcome !== undefined) this.#violated('R1', `${n} settles twice`);
    request.outcome = outcome;
    if (outcome === 'done') this.#mayBeDone(request);
    else this.#mayFail(request, outcome);
  }

  /** Everybody knows of the failures so far. */
  told(): void {
    this.#untold = false;
  }

  recovered(): void {
    this.#failed = false;
    this.#base = this.#known.length;
  }

  /** To be asked when the scheduler wants to issue nothing more for now. */
  quiet(): void {
    if (this.#commands.size >= this.#setting.depth) return;
    for (const request of this.#known) {
      const served = request.what.kind === 'read' && !this.#mayDoubt(request);
      if (this.#failed && !served) continue;
      if (request.outcome === undefined && request.data === 'waiting' && this.#free(request)) {
        this.#violated('R14', `${request.n} could go and does not`);
      }
    }
  }

  /** To be asked at the end. */
  atRest(): void {
    for (const request of this.#known) {
      if (request.outcome === undefined) this.#violated('R13', `${request.n} is stranded`);
    }
  }

  // Issue

  #dataIssued(request: Known, what: Issued['what'], position: number): void {
    if (request.data !== 'waiting') this.#violated('R2', `${request.n} is issued twice`);
    if (request.outcome !== undefined) this.#violated('R2', `${request.n} is issued after its end`);
    request.ordered = what.tag === 'ordered';
    for (const other of this.#known) {
      if (other === request || !(other.writes || request.writes) || !overlaps(other, request))
        continue;
      const younger = other.n > request.n;
      if (younger && other.data !== 'waiting' && !request.ordered && !other.ordered) {
        this.#violated('R7', `${request.n} comes after ${other.n}`);
      }
      if (!younger && this.#comes(other) && !request.ordered)
        this.#violated('R7', `${request.n} meets ${other.n}`);
    }
    this.#sideKept(request);
    const { what: asked } = request;
    if (asked.kind === 'write' && asked.preflush && !request.barrier) {
      if (!this.#olderDurable(request)) this.#violated('R9', `${request.n} before its preflush`);
    }
    request.data = 'issued';
    request.position = position;
  }

  /** R4, R5: the barriers that are older than this data. */
  #sideKept(request: Known): void {
    for (const barrier of this.#barriersBefore(request)) {
      const older = this.#known.slice(0, barrier.n);
      const ended = older.every(isOver) && isOver(barrier);
      // After a failed flush the barriers are cut off or refused, and reads go past what is left of them.
      if (request.what.kind === 'read' && (this.#setting.readsPass || this.#failed)) {
        const meets = (other: Known): boolean =>
          other.writes && overlaps(other, request) && this.#comes(other);
        if (!ended && [...older, barrier].some(meets))
          this.#violated('R3', `${request.n} passes what it meets`);
        continue;
      }
      if (this.#drains) {
        if (!ended) this.#violated('R4', `${request.n} before barrier ${barrier.n} is over`);
        if (!this.#orderedOnMedium(barrier))
          this.#violated('R4', `${request.n} before ${barrier.n} is durable`);
        continue;
      }
      const carrier = barrier.data === 'waiting' ? this.#lastOrdered : barrier.position;
      // A plain flush orders nothing, so nobody with a tag waits for it.
      const behind = older.every(
        (other) =>
          other.what.kind === 'flush' ||
          !isPending(other) ||
          (other.position >= 0 && other.position < carrier),
      );
      const barred =
        barrier.what.kind === 'barrier' ||
        barrier.data !== 'waiting' ||
        barrier.outcome !== undefined;
      if (!ended && !(behind && barred))
        this.#violated('R5', `${request.n} overtakes barrier ${barrier.n}`);
    }
  }

  /** Its data is at the device, or may still come there: after a failed flush no write does. */
  #comes(other: Known): boolean {
    return isPending(other) && (other.data === 'issued' || !this.#failed);
  }

  #orderedOnMedium(barrier: Known): boolean {
    if (!this.#volatile || this.#setting.mode === 'DRAIN' || this.#flushFailed) return true;
    return this.#known.every(
      (other) => other.n > barrier.n || !other.writes || other.data !== 'done' || other.durable,
    );
  }

  #stepIssued(barrier: Known, what: Issued['what']): void {
    barrier.issued.push(textOf(what));
    const expected = barrier.sequence;
    const soFar = barrier.issued.join(' ');
    const cut = ['cancelled', 'BARRIER_ABORTED'].includes(barrier.outcome ?? '')
      ? expected.replace(/\^?w.*$/, '').trim()
      : expected;
    if (!`${cut} `.startsWith(`${soFar} `)) this.#violated('R3', `${soFar} instead of ${cut}`);
    for (const other of this.#barriersBefore(barrier)) {
      if (other.outcome === undefined || other.atDevice > 0)
        this.#violated('R6', `${other.n} and ${barrier.n}`);
    }
    if (what.op !== 'flush') this.#mayBeWritten(barrier);
    if (what.tag === 'ordered') {
      for (const { n, what: asked, data, outcome } of this.#known) {
        const late = n < barrier.n && data === 'waiting' && outcome === undefined;
        if (late && asked.kind !== 'flush')
          this.#violated('R5', `${n} is overtaken by ${barrier.n}`);
      }
      return;
    }
    if (barrier.atDevice > 0) this.#violated('R3', `two steps of ${barrier.n} at once`);
    for (const other of this.#known) {
      if (other.n < barrier.n && !isOver(other))
        this.#violated('R3', `${barrier.n} before ${other.n} is over`);
      const intrudes = other.n > barrier.n && other.atDevice > 0;
      if (intrudes && other.what.kind !== 'read')
        this.#violated('R3', `${other.n} during ${barrier.n}`);
    }
  }

  /** R10. */
  #mayBeWritten(barrier: Known): void {
    if (!this.#setting.abort || !this.#drains) return;
    const owed = this.#unanswered.find(({ by, start, end }) => {
      const rewrites = barrier.start <= start && end <= barrier.end;
      return by.n < barrier.n && !rewrites;
    });
    if (owed) this.#violated('R10', `${barrier.n} is written although ${owed.by.n} failed`);
    if (barrier.n < this.#taintedBefore)
      this.#violated('R10', `${barrier.n} is written after a failed barrier`);
  }

  /** A flush has failed: of two at the device nobody knows which came first, so none of them is to be trusted. */
  #doubt(): void {
    this.#failed = true;
    const ended = this.#known.filter((request) => request.writes && hasEnded(request));
    for (const request of [...ended.filter(isUnsettled), ...this.#unsettled]) {
      if (request.data !== 'issued') each(request, (block) => this.#doubtable.add(block));
    }
    for (const request of ended.filter(({ durable }) => !durable)) {
      each(request, (block) => {
        const newer = ended.some(
          (other) => other.durable && other.position > request.position && has(other, block),
        );
        if (!newer) this.#doubted.add(block);
      });
    }
  }

  #mayDoubt({ start, end }: Known): boolean {
    return touches(this.#doubtable, start, end);
  }

  #sharedFlushIssued(served: readonly Known[]): void {
    const running = [...this.#commands.values()];
    if (running.some(({ what }) => what.op === 'flush' && what.stage === 'plain')) {
      this.#violated('R12', 'two shared flushes');
    }
    for (const request of served) {
      if (request.outcome !== undefined)
        this.#violated('R2', `a flush for ${request.n}, which has ended`);
    }
  }

  #covered(what: Issued['what']): Known[] {
    return this.#known.filter(
      ({ writes, data }) =>
        writes &&
        // What a failed write has left in the cache is flushed as well.
        (data === 'done' || data === 'failed' || (data === 'issued' && what.tag === 'ordered')),
    );
  }

  // Ends

  #mayBeDone(request: Known): void {
    const { what } = request;
    const flushes = this.#volatile && !['NONE', 'DRAIN', 'TAG'].includes(this.#setting.mode);
    if (what.kind !== 'flush' && what.kind !== 'barrier' && request.data !== 'done') {
      this.#violated('R1', `${request.n} is done without its data`);
    }
    if (what.kind === 'flush' && !this.#olderDurable(request))
      this.#violated('R8', `flush ${request.n}`);
    if (what.kind === 'write' && what.fua && !request.durable)
      this.#violated('R9', `${request.n} is not durable`);
    if (!request.barrier) return;
    const { sequence } = request;
    if (request.issued.join(' ') !== sequence)
      this.#violated('R3', `${request.n} without ${sequence}`);
    if (this.#drains) {
      const unfinished = this.#known.find((other) => other.n < request.n && !isOver(other));
      if (unfinished) this.#violated('R3', `${request.n} ends before ${unfinished.n}`);
    }
    const owed = this.#unanswered.find(({ by }) => by.n < request.n);
    const answers = this.#setting.abort && (this.#drains || sequence === '');
    if (answers && owed)
      this.#violated('R10', `${request.n} succeeds although ${owed.by.n} failed`);
    if (!flushes || this.#flushFailed) return;
    if (!this.#olderDurable(request)) this.#violated('R8', `barrier ${request.n}: older writes`);
    if (request.writes && !request.durable)
      this.#violated('R8', `barrier ${request.n}: its own write`);
  }

  #mayFail(request: Known, outcome: string): void {
    const { n, data } = request;
    const issued = data !== 'waiting';
    const reasons: Record<string, boolean> = {
      cancelled: !issued,
      EOPNOTSUPP: !issued && request.barrier && this.#setting.mode === 'NONE',
      IO_FAILED: data === 'failed',
      SHORT_TRANSFER: data === 'failed',
      FLUSH_FAILED: this.#flushFailed,
      FAILED:
        this.#failed && !issued && request.issued.length === 0 && request.what.kind !== 'read',
      READ_AT_RISK: this.#failed && !issued && this.#mayDoubt(request),
      BARRIER_ABORTED: !issued && this.#mayAbort(request),
    };
    if (!reasons[outcome]) this.#violated('R1', `${n} ends as ${outcome} without a reason`);
    if (!request.barrier || outcome === 'cancelled' || !this.#setting.abort) return;
    const drained = this.#drains || request.sequence === '';
    if (drained && outcome !== 'EOPNOTSUPP') {
      this.#taintedBefore = this.#known.length;
      this.#untold = true;
    }
    if (outcome !== 'BARRIER_ABORTED') return;
    const left = this.#unanswered.filter(({ by }) => by.n > n);
    this.#unanswered.splice(0, Number.POSITIVE_INFINITY, ...left);
  }

  #mayAbort(barrier: Known): boolean {
    if (!this.#setting.abort) return false;
    if (this.#unaware.has(barrier.n) || barrier.n < this.#taintedBefore) return true;
    if (!this.#drains && barrier.sequence !== '') return false;
    return this.#unanswered.some(({ by }) => by.n < barrier.n);
  }

  /** R14: nothing that this request has to wait for. */
  #free(request: Known): boolean {
    const { what, n } = request;
    if (request.barrier || what.kind === 'flush' || (what.kind === 'write' && what.preflush))
      return false;
    // At most `depth` requests wait in front of it: the scheduler looks no further ahead.
    const older = this.#known.slice(0, n);
    const waiting = older.filter((other) => other.data === 'waiting' && isPending(other));
    if (waiting.length >= this.#setting.depth) return false;
    return older.every((other) => {
      // What a cancelled or aborted barrier leaves behind may still be draining.
      const leaves = ['cancelled', 'BARRIER_ABORTED'].includes(other.outcome ?? '');
      if (other.barrier && (leaves || !isOver(other))) return false;
      return !(overlaps(other, request) && (other.writes || request.writes) && isPending(other));
    });
  }

  #olderDurable(request: Known): boolean {
    return this.#known.every((other) => {
      if (other.n >= request.n || !other.writes || other.n < this.#base) return true;
      if (other.data === 'failed' || (other.data === 'waiting' && other.outcome !== undefined))
        return true;
      return other.durable;
    });
  }

  #barriersBefore(request: Known): Known[] {
    return this.#known.filter(
      ({ n, barrier, outcome }) =>
        barrier && n < request.n && n >= this.#base && outcome !== 'EOPNOTSUPP',
    );
  }

  #rewritten(start: number, end: number): void {
    const left = this.#unanswered.flatMap(({ by, start: from, end: to }) => {
      if (to <= start || from >= end) return [{ by, start: from, end: to }];
      const parts = [
        { by, start: from, end: start },
        { by, start: end, end: to },
      ];
      return parts.filter((part) => part.start < part.end);
    });
    this.#unanswered.splice(0, Number.POSITIVE_INFINITY, ...left);
  }

  #sequenceOf(what: Request): string {
    const { mode, device } = this.#setting;
    if (what.kind !== 'write') return this.#volatile ? SEQUENCES[mode].empty : '';
    let text = SEQUENCES[mode].data;
    if (what.fua && !text.includes('!')) text = text.replace('w', 'w!');
    if (what.preflush && !/F \^?w/.test(text)) text = text.replace(/(\^?)w/, '$1F $1w');
    if (!this.#volatile)
      return text
        .replace('!', '')
        .replace(/\^?F ?/g, '')
        .trim();
    return device.fua ? text : text.replace(/(\^?)w!(?! \^?F)/, '$1w $1F').replace('!', '');
  }

  #get(n: number): Known {
    const request = this.#known[n];
    if (!request) throw new Violation(`R1: request ${n} was never submitted`);
    return request;
  }

  #violated(rule: string, what: string): never {
    throw new Violation(`${rule}: ${what}`);
  }
}

/** Answered, and nothing of it at the device any more. */
function isOver(request: Known): boolean {
  return request.outcome !== undefined && request.atDevice === 0;
}

/** Its data is at the device, or may still come there. */
function isPending({ data, outcome }: Known): boolean {
  return data === 'issued' || (data === 'waiting' && outcome === undefined);
}

function overlaps(a: Known, b: Known): boolean {
  return a.start < b.end && b.start < a.end;
}

function textOf({ op, tag, fua }: DeviceCommand): string {
  const letter = op === 'flush' ? 'F' : 'w';
  return `${tag === 'ordered' ? '^' : ''}${letter}${fua ? '!' : ''}`;
}

/** In which pieces doubt is counted, in bytes. */
const GRAIN = 4096;

function each({ start, end }: Known, visit: (block: number) => void): void {
  for (let block = Math.floor(start / GRAIN); block * GRAIN < end; block++) visit(block);
}

function has({ start, end }: Known, block: number): boolean {
  return start <= block * GRAIN && (block + 1) * GRAIN <= end;
}

function touches(blocks: ReadonlySet<number>, start: number, end: number): boolean {
  for (let block = Math.floor(start / GRAIN); block * GRAIN < end; block++) {
    if (blocks.has(block)) return true;
  }
  return false;
}

function hasEnded({ data }: Known): boolean {
  return data === 'done' || data === 'failed';
}

function isUnsettled({ writes, data, settled }: Known): boolean {
  return writes && data !== 'waiting' && !settled;
}
