// What a scheduler must do, said a second time and in other words: rules over the events of a run. It shares no
// code with the scheduler (types only) and keeps its own account of what is where and what is durable.
//
//   S1  A request settles once, and with the outcome that its own commands had.
//   S2  Data is at the device once, and never after its request was cancelled, refused or settled.
//   S3  A barrier's commands are those of its mode, in order; by drain one after another, when everything older
//       has finished and nothing younger is at the device, save reads that passed.
//   S4  By drain, nothing younger than a barrier is issued before everything older is finished and, on a volatile
//       cache with a flush mode, durable: the older writes and the barrier's own. This holds for a barrier
//       that was cancelled or aborted, too.
//   S5  By tag, an ordered command separates the two sides in the order of issue, or the older side is finished.
//   S6  One sequence at a time.
//   S7  Overlapping requests, one of which writes, are issued in order, each when the older has finished, unless
//       a tag orders the younger.
//   S8  A flush that succeeds, and a barrier of a flush mode, leave everything older durable.
//   S9  FUA means durable at its answer; a preflush means that everything older was durable at the issue.
//   S10 Under `abort` and by drain, no barrier is written while a write that it covers has failed and nobody has
//       answered for it, or when it was submitted before an older barrier failed.
//   S11 Under `abort`, nothing is issued between a failed flush and recovery, and everything settles.
//   S12 At most `depth` commands, at most one shared flush.
//   S13 When the device has answered everything, everybody is settled.
//   S14 What may be issued is issued: a plain request whose way is free is at the device.

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
  /** The texts of the sequence's commands so far. */
  issued: string[];
  atDevice: number;
  data: 'waiting' | 'issued' | 'done' | 'failed';
  /** The position of its data among all commands; later is larger. */
  position: number;
  ordered: boolean;
  durable: boolean;
  outcome: string | undefined;
}

interface Issued {
  readonly what: DeviceCommand & { readonly stage: Stage };
  readonly requests: readonly number[];
  /** For a flush: whom it makes durable. */
  readonly covers: readonly Known[];
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
    this.#known.push({
      n,
      what,
      start: ranged ? what.offset : 0,
      end: ranged ? what.offset + what.length : 0,
      writes: ranged && what.kind !== 'read',
      barrier: what.kind === 'barrier' || (what.kind === 'write' && what.barrier === true),
      issued: [],
      atDevice: 0,
      data: 'waiting',
      position: -1,
      ordered: false,
      durable: false,
      outcome: undefined,
    });
  }

  dispatched(id: number, what: Issued['what'], requests: readonly number[]): void {
    if (this.#failed) this.#violated('S11', `${what.op} after a failed flush`);
    const position = this.#position++;
    const served = requests.map((n) => this.#get(n));
    const [first] = served;
    if (first && what.op !== 'flush') this.#dataIssued(first, what, position);
    else if (what.stage === 'plain') this.#sharedFlushIssued(served);
    if (first?.barrier && what.stage !== 'plain') this.#stepIssued(first, what);
    if (what.tag === 'ordered') this.#lastOrdered = position;
    for (const request of served) request.atDevice += 1;
    this.#commands.set(id, {
      what,
      requests,
      covers: what.op === 'flush' ? this.#covered(what) : [],
    });
    if (this.#commands.size > this.#setting.depth) this.#violated('S12', 'too many commands');
  }

  completed(id: number, ok: boolean): void {
    const command = this.#commands.get(id) as Issued;
    this.#commands.delete(id);
    const served = command.requests.map((n) => this.#get(n));
    for (const request of served) request.atDevice -= 1;
    if (command.what.op === 'flush') {
      if (ok) for (const covered of command.covers) covered.durable = true;
      else this.#flushFailed = true;
      if (!ok && this.#setting.abort) this.#failed = true;
      return;
    }
    const [request] = served as [Known];
    request.data = ok ? 'done' : 'failed';
    if (!request.writes) return;
    if (ok && (command.what.fua || !this.#volatile)) request.durable = true;
    if (ok) this.#rewritten(request.start, request.end);
    else this.#unanswered.push({ by: request, start: request.start, end: request.end });
  }

  settled(n: number, outcome: string): void {
    const request = this.#get(n);
    if (request.outcome !== undefined) this.#violated('S1', `${n} settles twice`);
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
    if (this.#failed || this.#commands.size >= this.#setting.depth) return;
    for (const request of this.#known) {
      if (request.outcome === undefined && request.data === 'waiting' && this.#free(request)) {
        this.#violated('S14', `${request.n} could go and does not`);
      }
    }
  }

  /** To be asked at the end. */
  atRest(): void {
    for (const request of this.#known) {
      if (request.outcome === undefined) this.#violated('S13', `${request.n} is stranded`);
    }
  }

  // Issue

  #dataIssued(request: Known, what: Issued['what'], position: number): void {
    if (request.data !== 'waiting') this.#violated('S2', `${request.n} is issued twice`);
    if (request.outcome !== undefined) this.#violated('S2', `${request.n} is issued after its end`);
    request.ordered = what.tag === 'ordered';
    for (const other of this.#known) {
      if (other === request || !(other.writes || request.writes) || !overlaps(other, request))
        continue;
      const younger = other.n > request.n;
      if (younger && other.data !== 'waiting' && !request.ordered && !other.ordered) {
        this.#violated('S7', `${request.n} comes after ${other.n}`);
      }
      if (!younger && isPending(other) && !request.ordered)
        this.#violated('S7', `${request.n} meets ${other.n}`);
    }
    this.#sideKept(request);
    const { what: asked } = request;
    if (asked.kind === 'write' && asked.preflush && !request.barrier) {
      if (!this.#olderDurable(request)) this.#violated('S9', `${request.n} before its preflush`);
    }
    request.data = 'issued';
    request.position = position;
  }

  /** S4, S5: the barriers that are older than this data. */
  #sideKept(request: Known): void {
    for (const barrier of this.#barriersBefore(request)) {
      const older = this.#known.slice(0, barrier.n);
      const ended = older.every(isOver) && isOver(barrier);
      if (request.what.kind === 'read' && this.#setting.readsPass) {
        const meets = (other: Known): boolean =>
          other.writes && overlaps(other, request) && isPending(other);
        if (!ended && [...older, barrier].some(meets))
          this.#violated('S3', `${request.n} passes what it meets`);
        continue;
      }
      if (this.#drains) {
        if (!ended) this.#violated('S4', `${request.n} before barrier ${barrier.n} is over`);
        if (!this.#orderedOnMedium(barrier))
          this.#violated('S4', `${request.n} before ${barrier.n} is durable`);
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
        this.#violated('S5', `${request.n} overtakes barrier ${barrier.n}`);
    }
  }

  #orderedOnMedium(barrier: Known): boolean {
    if (!this.#volatile || this.#setting.mode === 'DRAIN' || this.#flushFailed) return true;
    return this.#known.every(
      (other) => other.n > barrier.n || !other.writes || other.data !== 'done' || other.durable,
    );
  }

  #stepIssued(barrier: Known, what: Issued['what']): void {
    barrier.issued.push(textOf(what));
    const expected = this.#sequenceOf(barrier.what);
    const soFar = barrier.issued.join(' ');
    const cut = ['cancelled', 'BARRIER_ABORTED'].includes(barrier.outcome ?? '')
      ? expected.replace(/\^?w.*$/, '').trim()
      : expected;
    if (!`${cut} `.startsWith(`${soFar} `)) this.#violated('S3', `${soFar} instead of ${cut}`);
    for (const other of this.#barriersBefore(barrier)) {
      if (other.outcome === undefined || other.atDevice > 0)
        this.#violated('S6', `${other.n} and ${barrier.n}`);
    }
    if (what.op !== 'flush') this.#mayBeWritten(barrier);
    if (what.tag === 'ordered') {
      for (const { n, what: asked, data, outcome } of this.#known) {
        const late = n < barrier.n && data === 'waiting' && outcome === undefined;
        if (late && asked.kind !== 'flush')
          this.#violated('S5', `${n} is overtaken by ${barrier.n}`);
      }
      return;
    }
    if (barrier.atDevice > 0) this.#violated('S3', `two steps of ${barrier.n} at once`);
    for (const other of this.#known) {
      if (other.n < barrier.n && !isOver(other))
        this.#violated('S3', `${barrier.n} before ${other.n} is over`);
      const intrudes = other.n > barrier.n && other.atDevice > 0;
      if (intrudes && other.what.kind !== 'read')
        this.#violated('S3', `${other.n} during ${barrier.n}`);
    }
  }

  /** S10. */
  #mayBeWritten(barrier: Known): void {
    if (!this.#setting.abort || !this.#drains) return;
    const owed = this.#unanswered.find(({ by, start, end }) => {
      const rewrites = barrier.start <= start && end <= barrier.end;
      return by.n < barrier.n && !rewrites;
    });
    if (owed) this.#violated('S10', `${barrier.n} is written although ${owed.by.n} failed`);
    if (barrier.n < this.#taintedBefore)
      this.#violated('S10', `${barrier.n} is written after a failed barrier`);
  }

  #sharedFlushIssued(served: readonly Known[]): void {
    const running = [...this.#commands.values()];
    if (running.some(({ what }) => what.op === 'flush' && what.stage === 'plain')) {
      this.#violated('S12', 'two shared flushes');
    }
    for (const request of served) {
      if (request.outcome !== undefined)
        this.#violated('S2', `a flush for ${request.n}, which has ended`);
    }
  }

  #covered(what: Issued['what']): Known[] {
    return this.#known.filter(
      ({ writes, data }) =>
        writes && (data === 'done' || (data === 'issued' && what.tag === 'ordered')),
    );
  }

  // Ends

  #mayBeDone(request: Known): void {
    const { what } = request;
    const flushes = this.#volatile && !['NONE', 'DRAIN', 'TAG'].includes(this.#setting.mode);
    if (what.kind !== 'flush' && what.kind !== 'barrier' && request.data !== 'done') {
      this.#violated('S1', `${request.n} is done without its data`);
    }
    if (what.kind === 'flush' && !this.#olderDurable(request))
      this.#violated('S8', `flush ${request.n}`);
    if (what.kind === 'write' && what.fua && !request.durable)
      this.#violated('S9', `${request.n} is not durable`);
    if (!request.barrier) return;
    const expected = this.#sequenceOf(what);
    if (request.issued.join(' ') !== expected)
      this.#violated('S3', `${request.n} without ${expected}`);
    if (this.#drains) {
      const unfinished = this.#known.find((other) => other.n < request.n && !isOver(other));
      if (unfinished) this.#violated('S3', `${request.n} ends before ${unfinished.n}`);
    }
    const owed = this.#unanswered.find(({ by }) => by.n < request.n);
    const answers = this.#setting.abort && (this.#drains || expected === '');
    if (answers && owed)
      this.#violated('S10', `${request.n} succeeds although ${owed.by.n} failed`);
    if (!flushes || this.#flushFailed) return;
    if (!this.#olderDurable(request)) this.#violated('S8', `barrier ${request.n}: older writes`);
    if (request.writes && !request.durable)
      this.#violated('S8', `barrier ${request.n}: its own write`);
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
      FAILED: this.#failed && !issued && request.issued.length === 0,
      BARRIER_ABORTED: !issued && this.#mayAbort(request),
    };
    if (!reasons[outcome]) this.#violated('S1', `${n} ends as ${outcome} without a reason`);
    if (!request.barrier || outcome === 'cancelled' || !this.#setting.abort) return;
    const drained = this.#drains || this.#sequenceOf(request.what) === '';
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
    if (!this.#drains && this.#sequenceOf(barrier.what) !== '') return false;
    return this.#unanswered.some(({ by }) => by.n < barrier.n);
  }

  /** S14: nothing that this request has to wait for. */
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
    if (!request) throw new Violation(`S1: request ${n} was never submitted`);
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
