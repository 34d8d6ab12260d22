// Goal: what a group promises holds for real members with real promises, on a device that answers at once, later, in any order, badly,
// or throws, while members come, go, and are closed with commands in their queues; on a group by itself and on a group over a group.
// Method: programs from a seed. The device compares by brute force: what is at it at once (sharing.G3, G4), and which write a flush
// that was answered well has covered (sharing.G5). The state machine by itself, in every order, is in exhaustive-group.test.ts.

import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { type GroupMember, SchedulerGroup, type Storage, type WriteFlags } from 'write-barrier';
import { share } from '../kit/amount.js';
import { settled, VOLATILE } from './world.js';

const BLOCK = 4096;
const BLOCKS = 8;

interface Flight {
  readonly op: string;
  readonly start: number;
  readonly end: number;
  readonly writes: boolean;
  readonly settle: (ok: boolean) => void;
}

/** A device that keeps an account. What it does with a command is drawn. */
class Judge implements Storage {
  readonly size = BLOCKS * BLOCK;
  readonly capabilities = {
    ...VOLATILE,
    orderedTags: false,
    writeZeroes: false,
    discard: false,
    writev: false,
  };
  readonly flights = new Set<Flight>();
  readonly faults: string[] = [];
  readonly #depth: number;
  readonly #draw: (of: number) => number;
  now = 0;
  /** When the plain writes of these buffers were done. */
  readonly doneAt = new Map<Uint8Array, number>();
  goodFlushes: number[] = [];
  closed = false;
  /** Called in some of its commands. */
  during: (() => void) | undefined;

  constructor(depth: number, draw: (of: number) => number) {
    this.#depth = depth;
    this.#draw = draw;
  }

  read(offset: number, into: Uint8Array) {
    return this.#command('read', offset, into.length, false, () => {});
  }

  write(offset: number, data: Uint8Array, { fua, tag }: WriteFlags) {
    if (tag !== 'simple') this.faults.push('an ordered tag');
    return this.#command('write', offset, data.length, true, () => {
      if (!fua) this.doneAt.set(data, this.now);
    });
  }

  flush() {
    const issuedAt = ++this.now;
    return this.#command('flush', 0, 0, false, () => this.goodFlushes.push(issuedAt));
  }

  close() {
    if (this.closed || this.flights.size > 0) this.faults.push('closed at the wrong time');
    this.closed = true;
  }

  answerOne(): void {
    const all = [...this.flights];
    all[this.#draw(all.length)]?.settle(this.#draw(5) > 0);
  }

  #command(op: string, start: number, length: number, writes: boolean, done: () => void) {
    const end = start + length;
    if (this.closed) this.faults.push(`${op} after the end`);
    for (const other of this.flights) {
      const meets = other.start < end && start < other.end && (writes || other.writes);
      if (meets) this.faults.push(`${op} of ${start} meets ${other.op} of ${other.start}`);
      if (op === 'flush' && other.op === 'flush') this.faults.push('two flushes');
    }
    if (this.flights.size >= this.#depth) this.faults.push('too many commands');
    let settle: Flight['settle'] = () => {};
    const flight: Flight = { op, start, end, writes, settle: (ok) => settle(ok) };
    this.flights.add(flight);
    // A storage may call its caller, for all that a group knows.
    if (this.#draw(8) === 0) this.during?.();
    const fate = this.#draw(8);
    if (fate < 4) {
      this.flights.delete(flight);
      this.now += 1;
      if (fate === 0) throw new Error('EIO');
      done();
      return undefined;
    }
    return new Promise<void>((resolve, reject) => {
      settle = (ok) => {
        this.flights.delete(flight);
        this.now += 1;
        if (ok) done();
        if (ok) resolve();
        else reject(new Error('EIO'));
      };
    });
  }
}

interface Action {
  readonly kind: 'write' | 'read' | 'flush' | 'forced' | 'come' | 'go' | 'answer' | 'rest';
  readonly member: number;
  readonly block: number;
  readonly blocks: number;
}

const KINDS = [
  ...[
    'write',
    'write',
    'write',
    'read',
    'flush',
    'forced',
    'come',
    'go',
    'answer',
    'answer',
    'answer',
    'answer',
    'answer',
    'rest',
  ],
] as Action['kind'][];
const actions = fc.array(
  fc.record<Action>({
    kind: fc.constantFrom(...KINDS),
    member: fc.nat(7),
    block: fc.nat(BLOCKS - 2),
    blocks: fc.integer({ min: 1, max: 2 }),
  }),
  { minLength: 1, maxLength: 60 },
);
const setting = fc.record({
  depth: fc.integer({ min: 1, max: 4 }),
  stacked: fc.boolean(),
  draws: fc.infiniteStream(fc.nat(1 << 20)),
});

describe('members that come, go and fail', () => {
  test('sharing.G1, sharing.G3 to sharing.G5: each command is answered once, and a good flush covers what was answered before it', async () => {
    await fc.assert(
      fc.asyncProperty(actions, setting, async (program, { depth, stacked, draws }) => {
        const judge = new Judge(depth, (of) => (draws.next().value as number) % of);
        const lower = new SchedulerGroup(judge, { depth });
        const groups = stacked
          ? [new SchedulerGroup(lower.member(), { depth: 2 }), lower]
          : [lower];
        const newMember = (at: number): GroupMember =>
          (groups[at % groups.length] as SchedulerGroup).member({ weight: 1 + (at % 3) });
        const members = [newMember(0), newMember(1)];
        const ends: Promise<string>[] = [];
        const ended = async (call: () => unknown): Promise<string> => {
          try {
            await call();
            return 'done';
          } catch (error) {
            return (error as { code?: string }).code ?? (error as Error).message;
          }
        };
        let inside = 0;
        judge.during = () => {
          if (inside > 2) return;
          inside += 1;
          const member = members[judge.now % members.length] as GroupMember;
          const offset = (judge.now % BLOCKS) * BLOCK;
          const bytes = new Uint8Array(BLOCK);
          ends.push(ended(() => write(member, offset, bytes, false)));
          inside -= 1;
        };
        /** Plain writes whose callers have the answer. */
        const answered: number[] = [];
        const write = async (
          member: GroupMember,
          offset: number,
          bytes: Uint8Array,
          fua: boolean,
        ): Promise<void> => {
          const answer = member.write(offset, bytes, { fua, tag: 'simple' });
          if (answer) await answer;
          const doneAt = judge.doneAt.get(bytes);
          if (doneAt !== undefined) answered.push(doneAt);
        };
        for (const { kind, member: at, block, blocks } of program) {
          const member = members[at % members.length] as GroupMember;
          const bytes = new Uint8Array(blocks * BLOCK);
          if (kind === 'write' || kind === 'forced') {
            ends.push(ended(() => write(member, block * BLOCK, bytes, kind === 'forced')));
          } else if (kind === 'read') ends.push(ended(() => member.read(block * BLOCK, bytes)));
          else if (kind === 'flush') {
            const calledAt = judge.now;
            const known = answered.slice();
            const flush = ended(() => member.flush({ tag: 'simple' }));
            ends.push(
              flush.then((outcome) => {
                const isCovered = (doneAt: number): boolean =>
                  judge.goodFlushes.some((issuedAt) => issuedAt > doneAt);
                if (outcome === 'done' && !known.every(isCovered)) {
                  judge.faults.push(`the flush called at ${calledAt} covers too little`);
                }
                return outcome;
              }),
            );
          } else if (kind === 'come') members.push(newMember(members.length));
          else if (kind === 'go') ends.push(ended(() => member.close()));
          else if (kind === 'answer') judge.answerOne();
          else await settled();
        }
        const close = async (): Promise<string[]> => {
          const outcomes: string[] = [];
          for (const group of groups) outcomes.push(await ended(() => group.close()));
          return outcomes;
        };
        const all = Promise.all([...ends, close()]).then((outcomes) => outcomes.flat());
        let isOver = false;
        void all.then(() => {
          isOver = true;
        });
        for (let n = 0; !isOver && n < 1000; n++) {
          judge.answerOne();
          await settled();
        }
        expect(isOver).toBe(true);
        expect(judge.faults).toEqual([]);
        expect(judge.closed).toBe(true);
        const known = ['done', 'CLOSED', 'EIO', 'FLUSH_FAILED'];
        for (const end of await all) expect(known).toContain(end);
        for (const group of groups) {
          const { queued, queuedBytes, inFlight, bytesInFlight } = group.stats();
          expect([queued, queuedBytes, inFlight, bytesInFlight]).toEqual([0, 0, 0, 0]);
        }
      }),
      { numRuns: share(3000, 120) },
    );
  });
});
