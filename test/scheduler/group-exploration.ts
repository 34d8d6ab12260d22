// Every small program of two or three members, in every order of submissions and answers, with failures and ends of members at
// every point, through the real state machine of a group and under the eyes of the specification.
//
// A program is text: `w0 f | ^w1 r0`, the commands of one member and then those of the next; `^` is an ordered tag.

import {
  type Operation,
  parseProgram,
  type Request,
  type Tag,
  WriteBarrierError,
  type WriteRequest,
} from 'write-barrier';
import { Entry, type GroupCommand, Member } from '../../src/scheduler/group-entry.js';
import { Sharing } from '../../src/scheduler/sharing.js';
import { type Chooser, everyWay, memoized, type Tell } from '../kit/explore.js';
import { type GroupSetting, GroupSpecification } from './group-specification.js';
import { Violation } from './specification.js';

/** How large a world is. */
export interface GroupWorld {
  /** Commands at the storage at once; all, if it is left out. */
  readonly depth?: number;
  /** Bytes at the storage at once; all, if it is left out. */
  readonly depthBytes?: number;
  /** @defaultValue true */
  readonly isVolatile?: boolean;
  readonly failures?: number;
  readonly closes?: number;
  /** Commands go past the queue where they may; the storage answers them at once, or later. @defaultValue false */
  readonly passes?: boolean;
}

class Sent extends Entry<Sent> {
  readonly n: number;

  constructor(n: number, member: Member<Sent>, { request, tag }: Word) {
    const { kind, offset = 0, length = 0, fua } = request as WriteRequest;
    super(member, kind as Operation, offset, length, fua, tag);
    this.n = n;
  }
}

interface Word {
  readonly request: Request;
  readonly tag: Tag;
}

const wordOf = memoized((text: string): Word => {
  const isOrdered = text.startsWith('^');
  const [request] = parseProgram(isOrdered ? text.slice(1) : text) as [Request];
  return { request, tag: isOrdered ? 'ordered' : 'simple' };
});

/** Runs a program in every way; answers in how many. */
export function exploreGroup(programs: readonly (readonly string[])[], world: GroupWorld): number {
  return everyWay((chooser, tell) => new Run(programs, world, chooser, tell).toTheEnd());
}

class Run {
  readonly #programs: readonly (readonly string[])[];
  readonly #setting: GroupSetting;
  readonly #sharing: Sharing<Sent>;
  readonly #specification: GroupSpecification;
  readonly #members: readonly Member<Sent>[];
  readonly #chooser: Chooser;
  readonly #tell: Tell | undefined;
  readonly #passes: boolean;
  readonly #at: number[];
  readonly #closed = new Set<number>();
  /** A command that went past the queue is its own. */
  readonly #running = new Map<GroupCommand<Sent> | Sent, number>();
  #submitted = 0;
  #issued = 0;
  #failures: number;
  #closes: number;

  constructor(
    programs: readonly (readonly string[])[],
    world: GroupWorld,
    chooser: Chooser,
    tell: Tell | undefined,
  ) {
    const {
      depth = 16,
      depthBytes = 1e12,
      isVolatile = true,
      failures = 0,
      closes = 0,
      passes = false,
    } = world;
    this.#programs = programs;
    this.#setting = { depth, depthBytes, isVolatile };
    this.#sharing = new Sharing({
      ...this.#setting,
      ...{ maxQueued: 1000, maxQueuedBytes: 1e12, fastZeroes: false, blockSize: 4096 },
    });
    this.#specification = new GroupSpecification(this.#setting);
    this.#members = programs.map(() => new Member<Sent>());
    for (const member of this.#members) this.#sharing.members.add(member);
    this.#at = programs.map(() => 0);
    this.#chooser = chooser;
    this.#tell = tell;
    this.#passes = passes;
    this.#failures = failures;
    this.#closes = closes;
  }

  toTheEnd(): void {
    this.#tell?.(this.#programs.map((words) => words.join(' ')).join(' | '));
    for (let moves = this.#moves(); moves.length > 0; moves = this.#moves()) {
      (moves[this.#chooser.choose(moves.length)] as () => void)();
      this.#pump();
    }
    this.#specification.atRest();
    const { inFlight, bytesInFlight, queued, queuedBytes } = this.#sharing;
    const left = [inFlight, bytesInFlight, queued, queuedBytes];
    for (const { underWay, mutating, ordered, flushes, queuedBytes: bytes } of this.#members) {
      left.push(underWay, mutating, ordered, flushes, bytes);
    }
    if (left.some((count) => count !== 0)) throw new Violation(`left in the counts: ${left}`);
  }

  #moves(): (() => void)[] {
    const moves: (() => void)[] = [];
    this.#programs.forEach((words, member) => {
      const word = words[this.#at[member] as number];
      if (word !== undefined && !this.#closed.has(member)) {
        moves.push(() => this.#submit(member, word));
      }
    });
    for (const command of this.#running.keys()) {
      moves.push(() => this.#complete(command, true));
      if (this.#failures > 0) moves.push(() => this.#complete(command, false));
    }
    if (this.#closes === 0) return moves;
    for (const member of this.#members.keys()) {
      if (!this.#closed.has(member)) moves.push(() => this.#close(member));
    }
    return moves;
  }

  #submit(m: number, word: string): void {
    const n = this.#submitted++;
    const { request, tag } = wordOf(word);
    const member = this.#members[m] as Member<Sent>;
    const sent = new Sent(n, member, { request, tag });
    this.#at[m] = (this.#at[m] as number) + 1;
    this.#tell?.(`member ${m} submits ${n}: ${word}`);
    this.#specification.submitted(n, m, request, tag === 'ordered');
    if (this.#passes && this.#sharing.pass(member, sent.op, sent.start, sent.end, tag)) {
      this.#past(sent);
    } else this.#sharing.submit(request, sent);
  }

  /** A storage answers at once, or later. */
  #past(sent: Sent): void {
    const id = this.#issued++;
    const { member, op, offset, length, fua } = sent;
    const what = {
      kind: 'command',
      op,
      offset,
      length,
      fua,
      tag: 'simple',
      stage: 'plain',
    } as const;
    this.#tell?.(`command ${id}: ${op} ${offset} past the queue`);
    this.#specification.dispatched(id, what, [sent.n]);
    if (this.#chooser.choose(2) === 0) {
      this.#sharing.stays(sent);
      this.#running.set(sent, id);
      return;
    }
    const ok = this.#failures === 0 || this.#chooser.choose(2) === 0;
    this.#tell?.(`${ok ? 'complete' : 'fail'} command ${id} at once`);
    if (!ok) this.#failures -= 1;
    this.#specification.completed(id, ok);
    const error = ok ? undefined : new Error('EIO');
    this.#sharing.passed(member, op, length, fua, error);
    this.#specification.settled(sent.n, ok ? 'done' : 'IO_FAILED');
  }

  #complete(command: GroupCommand<Sent> | Sent, ok: boolean): void {
    const id = this.#running.get(command) as number;
    this.#tell?.(`${ok ? 'complete' : 'fail'} command ${id}`);
    if (!ok) this.#failures -= 1;
    this.#running.delete(command);
    this.#specification.completed(id, ok);
    const error = ok ? undefined : new Error('EIO');
    if (!(command instanceof Sent)) this.#sharing.complete(command, error);
    else {
      this.#sharing.ended(command, error);
      this.#specification.settled(command.n, ok ? 'done' : 'IO_FAILED');
    }
  }

  #close(m: number): void {
    this.#closes -= 1;
    this.#closed.add(m);
    this.#tell?.(`member ${m} is closed`);
    this.#specification.closed(m);
    const member = this.#members[m] as Member<Sent>;
    this.#sharing.evict(member, new WriteBarrierError('CLOSED', 'closed'));
    this.#sharing.members.delete(member);
  }

  #pump(): void {
    for (let command = this.#sharing.next(); command; command = this.#sharing.next()) {
      this.#answer();
      const id = this.#issued++;
      const requests = command.clients.map(({ n }) => n);
      this.#tell?.(`command ${id}: ${command.what.op} ${command.what.offset} for ${requests}`);
      this.#specification.dispatched(id, command.what, requests);
      this.#running.set(command, id);
    }
    this.#answer();
    this.#specification.quiet();
  }

  #answer(): void {
    for (let one = this.#sharing.takeSettled(); one; one = this.#sharing.takeSettled()) {
      const { error, client } = one;
      const code = WriteBarrierError.is(error) ? error.code : 'IO_FAILED';
      const outcome = error === undefined ? 'done' : code;
      this.#tell?.(`settle ${client.n}: ${outcome}`);
      this.#specification.settled(client.n, outcome);
    }
  }
}
