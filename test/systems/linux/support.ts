// The machines of the Linux block layer, driven in the text notation. A request is named by its word, so words must
// differ within a test; `B` in front makes a barrier of what the notation has no barrier for, a read or a discard.
// Commands are named as the notation shows them, the flushes of a sequence by their stage: `pre`, `^post`.

import {
  formatSteps,
  type ModeName,
  parseProgram,
  type Request,
  type Storage,
  WriteBarrierError,
} from 'write-barrier';
import type { Machine } from 'write-barrier/kit';
import type { Bio } from '../../../src/systems/linux/elevator.js';
import {
  BARRIER_ERAS,
  type BarrierEra,
  type BarrierEraName,
  FLUSH_ERAS,
  type FlushEra,
  type FlushEraName,
} from '../../../src/systems/linux/eras.js';
import { FlushMachine } from '../../../src/systems/linux/flush-machine.js';
import { OrderedQueue } from '../../../src/systems/linux/ordered-queue.js';
import type { BlockCommand } from '../../../src/systems/requests.js';
import { memoized } from '../../kit/explore.js';

/** The era of 2.6.36 without the defect that makes TAG_FLUSH hang. */
export const REPAIRED: BarrierEra = { ...BARRIER_ERAS['2.6.36'], flushProxies: 'packet' };

export const BARRIER_ERA_NAMES: readonly BarrierEraName[] = Object.keys(
  BARRIER_ERAS,
) as BarrierEraName[];
export const FLUSH_ERA_NAMES: readonly FlushEraName[] = Object.keys(FLUSH_ERAS) as FlushEraName[];

/** The request that a word is. */
export const requestOf: (word: string) => Request = memoized(
  (word) => (parseProgram(word) as [Request])[0],
);

/** What a word asks of a queue with barriers. */
export const bioOf: (word: string) => Bio = memoized((word) => {
  const flagged = word.startsWith('B');
  const request = requestOf(flagged ? word.slice(1) : word);
  if (request.kind === 'barrier') return { op: 'write', offset: 0, length: 0, barrier: true };
  if (request.kind === 'flush' || request.kind === 'writeZeroes') throw new Error(`no ${word}`);
  const { kind, offset, length } = request;
  const barrier = flagged || (request.kind === 'write' && request.barrier === true);
  return { op: kind, offset, length, barrier };
});

/** `w3`, `^w3!`, `pre`, `^post`, and `F` for a flush of no sequence. */
export function wordOf({ what }: BlockCommand<unknown>): string {
  const tag = what.tag === 'ordered' ? '^' : '';
  if (what.stage === 'preflush') return `${tag}pre`;
  if (what.stage === 'postflush') return `${tag}post`;
  const { op, offset, length, fua } = what;
  const key = `${tag}${op} ${offset} ${length} ${fua}`;
  const word = words.get(key) ?? formatSteps([what]);
  words.set(key, word);
  return word;
}

const words = new Map<string, string>();

/** A machine, and a device that does nothing until it is told to. */
type Played = Omit<Machine<string, BlockCommand<string>>, 'submit'>;

/** The time of a play. */
export interface Clock {
  nowMs: number;
}

export class Play {
  readonly machine: Played;
  /** Everything that was taken, in order. */
  readonly taken: string[] = [];
  /** `w0`, or `w0:EIO`, in the order in which they came about. */
  readonly answers: string[] = [];
  readonly #clock: Clock;
  readonly #commands: BlockCommand<string>[] = [];

  constructor(machine: Played, clock: Clock = { nowMs: 0 }) {
    this.machine = machine;
    this.#clock = clock;
  }

  set nowMs(nowMs: number) {
    this.#clock.nowMs = nowMs;
  }

  /** What is with the device, oldest first. */
  get atDevice(): string {
    return this.#commands.map(wordOf).join(' ');
  }

  /** Takes all commands that there are; answers with their words. */
  pump(max: number = Number.POSITIVE_INFINITY): string {
    const words: string[] = [];
    while (words.length < max) {
      const command = this.machine.next();
      if (!command) break;
      this.#commands.push(command);
      words.push(wordOf(command));
    }
    this.taken.push(...words);
    this.#listen();
    return words.join(' ');
  }

  /** The device answers these one after the other; answers with what could be taken then. */
  complete(...words: string[]): string {
    const taken = words.map((word) => {
      this.answer(word);
      return this.pump();
    });
    return taken.filter(Boolean).join(' ');
  }

  /** The device answers, and nothing is taken. */
  answer(word: string): void {
    this.machine.complete(this.find(word), undefined);
  }

  /** The device answers what it has had longest. */
  drainOne(): void {
    this.complete(this.atDevice.split(' ')[0] as string);
  }

  /** The device answers until it has nothing. */
  drain(): void {
    while (this.#commands.length > 0) this.drainOne();
  }

  fail(word: string, error = 'EIO'): string {
    this.machine.complete(this.find(word), error);
    return this.pump();
  }

  /** Takes the command out of the device's hands. */
  find(word: string): BlockCommand<string> {
    const at = this.#commands.findIndex((command) => wordOf(command) === word);
    const [command] = at < 0 ? [] : this.#commands.splice(at, 1);
    if (!command) throw new Error(`${word} is not at the device: ${this.atDevice}`);
    return command;
  }

  #listen(): void {
    for (let a = this.machine.takeSettled(); a; a = this.machine.takeSettled()) {
      this.answers.push('error' in a ? `${a.client}:${codeOf(a.error)}` : a.client);
    }
  }
}

export function codeOf(error: unknown): string {
  return WriteBarrierError.is(error) ? error.code : String(error);
}

/** A queue with barriers in play. */
export class QueuePlay extends Play {
  readonly queue: OrderedQueue<string>;

  constructor(mode: ModeName, era: BarrierEraName | BarrierEra = '2.6.36', mergeBytesMax = 0) {
    const queue = new OrderedQueue<string>({
      era: typeof era === 'string' ? BARRIER_ERAS[era] : era,
      mode,
      mergeBytesMax,
    });
    super(queue);
    this.queue = queue;
  }

  /** Submits without taking anything. */
  queueUp(program: string): this {
    for (const word of program.split(/\s+/)) this.queue.submit(bioOf(word), word);
    return this;
  }

  /** Submits one after the other, and takes what there is after each. */
  submit(program: string): string {
    const before = this.taken.length;
    for (const word of program.split(/\s+/)) {
      this.queueUp(word);
      this.pump();
    }
    return this.taken.slice(before).join(' ');
  }

  requeue(word: string): this {
    this.queue.requeue(this.find(word));
    return this;
  }

  /** The dispatch list in words, its head first. */
  get list(): string {
    return this.queue.list
      .map(({ stage, fua, clients }) => {
        if (stage === 'preflush') return 'pre';
        if (stage === 'postflush') return 'post';
        return stage === 'bar' ? `bar${fua ? '!' : ''}` : clients.join('+');
      })
      .join(' ');
  }
}

/** A flush machine in play. */
export class FlushPlay extends Play {
  readonly flushes: FlushMachine<string>;

  constructor(
    era: FlushEraName | FlushEra,
    device: { cache?: 'none' | 'volatile' | 'protected'; flush?: boolean; fua?: boolean } = {},
  ) {
    const clock = { nowMs: 0 };
    const flushes = new FlushMachine<string>({
      nowMs: () => clock.nowMs,
      era: typeof era === 'string' ? FLUSH_ERAS[era] : era,
      device: { cache: 'volatile', flush: true, fua: false, ...device },
    });
    super(flushes, clock);
    this.flushes = flushes;
  }

  queueUp(program: string): this {
    for (const word of program.split(/\s+/)) {
      const [request] = parseProgram(word.replace(/#.*/, '')) as [Request];
      this.flushes.submit(request, word);
    }
    return this;
  }

  submit(program: string): string {
    const before = this.taken.length;
    for (const word of program.split(/\s+/)) {
      this.queueUp(word);
      this.pump();
    }
    return this.taken.slice(before).join(' ');
  }
}

/** A submission as a queue over a storage takes it. */
export function dataFor(request: Request, fill = 1): Uint8Array | undefined {
  return request.kind === 'write' ? new Uint8Array(request.length).fill(fill) : undefined;
}

/** The code that a promise rejects with, or `done`. */
export async function outcomeOf(promise: Promise<unknown>): Promise<string> {
  return promise.then(
    () => 'done',
    (error) => codeOf(error),
  );
}

/** The same storage with other capabilities stated. */
export function stating(storage: Storage, capabilities: Partial<Storage['capabilities']>): Storage {
  const stated = Object.create(storage, {
    capabilities: { value: { ...storage.capabilities, ...capabilities } },
  }) as Storage;
  return stated;
}
