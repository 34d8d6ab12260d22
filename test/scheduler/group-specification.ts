// What a group must do, said a second time and in other words: rules over the events of a run. It shares no code with the
// group (types only), and finds out by brute force which flush of the storage has covered which write: it remembers when
// each was issued and answered, and compares.
//
//   C1  A command settles once, with the outcome that its own commands had; a closed member's, if not all of it was issued, as
//       CLOSED. (sharing.G1)
//   C2  Data of a member is issued in the order of submission; nothing of it passes an ordered command in either direction. The
//       storage gets simple tags. (sharing.G2)
//   C3  Of two overlapping commands of which one writes, never both are between their first issue and their last answer, whichever
//       members they are of. (sharing.G3)
//   C4  At most `depth` commands, and `depthBytes` bytes where more than one command moves any. (sharing.G4)
//   C5  A flush that succeeds leaves durable every write of every member that was answered before it was submitted: a good flush
//       of the storage was issued after the answer. One flush at a time, and none if all that was written is durable. (sharing.G5)
//   C6  After a failed flush no flush of a member with bytes in doubt succeeds before one of its flushes has failed; and no flush
//       fails for another reason. (sharing.G6)
//   C7  What may be issued is issued, and when the storage has answered everything, every command is settled. (sharing.G7)

import type { Request, StagedCommand } from 'write-barrier';
import { Violation } from './specification.js';

/** What a world is. */
export interface GroupSetting {
  readonly depth: number;
  readonly depthBytes: number;
  readonly isVolatile: boolean;
}

interface Known {
  readonly n: number;
  readonly member: number;
  readonly what: Request;
  readonly ordered: boolean;
  readonly start: number;
  readonly end: number;
  readonly writes: boolean;
  readonly submittedAt: number;
  /** The first byte that has not been issued. */
  at: number;
  atStorage: number;
  hasFailed: boolean;
  answeredAt: number;
  outcome: string | undefined;
  /** For a flush: a flush of the storage that serves it has failed, or it was waiting when its member's bytes came in doubt. */
  mayFail: boolean;
}

interface StorageFlush {
  readonly issuedAt: number;
  readonly served: readonly Known[];
  endedAt: number;
  isGood: boolean;
}

/** Watches a run of the machine of a group. */
export class GroupSpecification {
  readonly #setting: GroupSetting;
  readonly #known: Known[] = [];
  readonly #commands = new Map<
    number,
    { readonly what: StagedCommand; readonly of: Known | StorageFlush }
  >();
  readonly #flushes: StorageFlush[] = [];
  /** Members that have bytes in doubt and do not know. */
  readonly #untold = new Set<number>();
  readonly #closed = new Set<number>();
  #now = 0;

  constructor(setting: GroupSetting) {
    this.#setting = setting;
  }

  submitted(n: number, member: number, what: Request, ordered: boolean): void {
    const ranged = what.kind !== 'flush' && what.kind !== 'barrier';
    const start = ranged ? what.offset : 0;
    this.#known[n] = {
      ...{ n, member, what, ordered, start, end: ranged ? start + what.length : 0 },
      writes: ranged && what.kind !== 'read',
      submittedAt: this.#now++,
      ...{ at: start, atStorage: 0, hasFailed: false, answeredAt: -1 },
      ...{ outcome: undefined, mayFail: false },
    };
  }

  closed(member: number): void {
    this.#closed.add(member);
  }

  dispatched(id: number, what: StagedCommand, requests: readonly number[]): void {
    this.#now += 1;
    if (what.tag !== 'simple') violated('C2', 'the storage gets a tag');
    const served = requests.map((n) => this.#get(n));
    for (const { n, outcome } of served) {
      if (outcome !== undefined) violated('C1', `${n} is issued after its end`);
    }
    if (what.op === 'flush') this.#flushIssued(id, what, served);
    else this.#dataIssued(id, what, served);
    if (this.#commands.size > this.#setting.depth) violated('C4', 'too many commands');
    const moving = [...this.#commands.values()].filter(({ what: { length } }) => length > 0);
    const bytes = moving.reduce((sum, { what: { length } }) => sum + length, 0);
    if (moving.length > 1 && bytes > this.#setting.depthBytes) violated('C4', `${bytes} bytes`);
  }

  completed(id: number, ok: boolean): void {
    const now = this.#now++;
    const { of } = this.#commands.get(id) as { of: Known | StorageFlush };
    this.#commands.delete(id);
    if (!('served' in of)) {
      of.atStorage -= 1;
      if (!ok) of.hasFailed = true;
      // The answer is given when all of it has ended.
      if (of.atStorage === 0 && (of.at === of.end || of.hasFailed)) of.answeredAt = now;
      return;
    }
    of.endedAt = now;
    of.isGood = ok;
    for (const flush of of.served) flush.mayFail = !ok;
    if (ok) return;
    const inDoubt = new Set(
      this.#known.filter((one) => this.#isInDoubt(one)).map(({ member }) => member),
    );
    for (const one of this.#known) {
      if (one.what.kind === 'flush' && inDoubt.has(one.member)) one.mayFail = true;
    }
    for (const member of inDoubt) this.#untold.add(member);
  }

  settled(n: number, outcome: string): void {
    const one = this.#get(n);
    if (one.outcome !== undefined) violated('C1', `${n} settles twice`);
    one.outcome = outcome;
    const isWhole = one.at === one.end;
    if (outcome === 'CLOSED') {
      if (!this.#closed.has(one.member)) violated('C1', `${n} is closed without a reason`);
      if (one.atStorage > 0) violated('C1', `${n} is closed while it is at the storage`);
      if (isWhole && one.start < one.end) violated('C1', `${n} is closed although it was issued`);
      if (one.at > one.start) one.answeredAt = this.#now;
      return;
    }
    if (one.what.kind === 'flush') this.#flushSettled(one, outcome);
    else if (one.atStorage > 0) violated('C1', `${n} settles before its last answer`);
    else if ((outcome === 'done') !== (isWhole && !one.hasFailed)) {
      violated('C1', `${n} ends as ${outcome}`);
    }
  }

  /** To be asked when the group wants to issue nothing more for now. */
  quiet(): void {
    if (this.#commands.size >= this.#setting.depth || this.#setting.depthBytes < 1e9) return;
    const isFlushing = [...this.#commands.values()].some(({ what }) => what.op === 'flush');
    for (const one of this.#known) {
      if (one.outcome !== undefined || one.atStorage > 0 || this.#closed.has(one.member)) continue;
      const isFlush = one.what.kind === 'flush';
      if (isFlush && isFlushing) continue;
      if (this.#isFree(one)) violated('C7', `${one.n} could go and does not`);
    }
  }

  /** To be asked at the end. */
  atRest(): void {
    for (const { n, outcome } of this.#known) {
      if (outcome === undefined) violated('C7', `${n} is stranded`);
    }
  }

  #dataIssued(id: number, what: StagedCommand, [one]: readonly Known[]): void {
    if (!one || what.offset !== one.at || what.offset + what.length > one.end) {
      violated('C1', 'bytes that were not asked for, or twice');
    }
    const isFirst = one.at === one.start;
    for (const other of this.#known) {
      if (other === one) continue;
      if (other.member === one.member) this.#inOrder(other, one);
      const meet = other.start < one.end && one.start < other.end && (other.writes || one.writes);
      if (isFirst && meet && this.#isUnderWay(other)) violated('C3', `${one.n} meets ${other.n}`);
    }
    one.at += what.length;
    one.atStorage += 1;
    this.#commands.set(id, { what, of: one });
  }

  /** C2: `one` is being issued. */
  #inOrder(other: Known, one: Known): void {
    const isOver = other.outcome !== undefined;
    if (other.n < one.n) {
      if (!isOver && (other.ordered || one.ordered)) violated('C2', `${one.n} passes ${other.n}`);
      const isWaiting = !isOver && other.what.kind !== 'flush' && other.at < other.end;
      if (isWaiting && !other.hasFailed) violated('C2', `${one.n} passes ${other.n}`);
    } else if (this.#isUnderWay(other) && (other.ordered || one.ordered)) {
      violated('C2', `${one.n} comes after ${other.n}`);
    }
  }

  #flushIssued(id: number, what: StagedCommand, served: readonly Known[]): void {
    if ([...this.#commands.values()].some((command) => command.what.op === 'flush')) {
      violated('C5', 'two flushes');
    }
    const isFirst = !this.#flushes.some(({ isGood }) => isGood);
    if (!isFirst && !this.#known.some((one) => this.#isVolatile(one))) {
      violated('C5', 'a flush for nothing');
    }
    for (const flush of served)
      for (const other of this.#known) {
        const isOther = other.member === flush.member && other !== flush && other.n < flush.n;
        if (isOther && other.outcome === undefined && (other.ordered || flush.ordered)) {
          violated('C2', `${flush.n} passes ${other.n}`);
        }
      }
    const flush = { issuedAt: this.#now, served, endedAt: -1, isGood: false };
    this.#flushes.push(flush);
    this.#commands.set(id, { what, of: flush });
  }

  #flushSettled(flush: Known, outcome: string): void {
    const { n, member, mayFail, submittedAt } = flush;
    if (outcome === 'done') {
      if (this.#untold.has(member)) violated('C6', `${n} succeeds, and its member does not know`);
      for (const one of this.#known) {
        const isBefore = one.answeredAt >= 0 && one.answeredAt < submittedAt;
        if (isBefore && this.#isVolatile(one)) violated('C5', `${n} does not cover ${one.n}`);
      }
      if (!this.#flushes.some(({ isGood }) => isGood)) violated('C5', `${n} without any flush`);
      return;
    }
    if (!mayFail && !this.#untold.has(member)) violated('C6', `${n} fails without a reason`);
    this.#untold.delete(member);
  }

  /** Answered, and in no good flush. */
  #isVolatile(one: Known): boolean {
    if (!this.#setting.isVolatile || !one.writes || one.answeredAt < 0) return false;
    const isForced = one.what.kind === 'write' && one.what.fua === true;
    if (isForced && !one.hasFailed && one.outcome !== 'CLOSED') return false;
    return !this.#flushes.some(({ isGood, issuedAt }) => isGood && issuedAt > one.answeredAt);
  }

  #isInDoubt(one: Known): boolean {
    if (this.#isVolatile(one)) return true;
    const isForced = one.what.kind === 'write' && one.what.fua === true;
    return (
      this.#setting.isVolatile &&
      one.writes &&
      !isForced &&
      this.#isUnderWay(one) &&
      one.answeredAt < 0
    );
  }

  #isUnderWay(one: Known): boolean {
    return one.outcome === undefined && (one.at > one.start || one.atStorage > 0);
  }

  #isFree(one: Known): boolean {
    return this.#known.every((other) => {
      if (other === one || other.outcome !== undefined) return true;
      const isSame = other.member === one.member && other.n < one.n;
      if (isSame && (other.ordered || one.ordered)) return false;
      if (one.what.kind === 'flush') return true;
      if (isSame && other.what.kind !== 'flush') return false;
      return !(other.start < one.end && one.start < other.end && (other.writes || one.writes));
    });
  }

  #get(n: number): Known {
    return this.#known[n] as Known;
  }
}

function violated(rule: string, what: string): never {
  throw new Violation(`${rule}: ${what}`);
}
