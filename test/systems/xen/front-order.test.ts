// The order of a frontend, in every order of answers and with every answer.
//
// Goal: front-order.O1 to front-order.O6. Method: all small worlds. A world is a program, a set of features and a little room; in each the
// state machine is asked for all that may be sent, then one of the requests that are out gets one of three answers, and so on
// until nothing is out. Every path is replayed from the start, and the rules are checked at every step.
//
// Programs: w0 r1 f d2 as in the notation of requests; a ^ in front is an ordered tag; w0+3 has three blocks.

import { describe, expect, test } from 'vitest';
import { parseProgram, type Request, type WriteBarrierError } from 'write-barrier';
import {
  type BlkAbilities,
  FrontOrder,
  type Part,
  type Wanted,
  wantedOf,
} from '../../../src/systems/xen/front-order.js';
import { BLKIF_OP, StatusError } from '../../../src/systems/xen/wire.js';
import { Chooser, everyWay } from '../../kit/explore.js';

const BLOCK = 512;
/** A direct request carries two blocks, an indirect one four. */
const SIZES = { direct: 2 * BLOCK, indirect: 4 * BLOCK };
const STATUSES = [0, -1, -2] as const;

function requestOf(text: string): Request {
  const ordered = text.startsWith('^');
  const [request] = parseProgram(ordered ? text.slice(1) : text, { blockSize: BLOCK });
  if (!ordered) return request as Request;
  return request?.kind === 'write' ? { ...request, barrier: true } : { kind: 'barrier' };
}

/** What a part is answered. */
const answerOf = (status: number): StatusError | undefined =>
  status === 0 ? undefined : new StatusError(status);

interface Sent {
  readonly part: Part<number>;
  readonly command: number;
  status?: number;
}

/** One path through a world. */
class Path {
  readonly order: FrontOrder<number>;
  readonly wanted: readonly Wanted[];
  readonly #chooser: Chooser;
  readonly #program: readonly Request[];
  readonly sent: Sent[] = [];
  /** What each command was told, in order. */
  readonly ended = new Map<number, string>();
  readonly log: string[] = [];

  constructor(program: string, abilities: BlkAbilities, slots: number, chooser: Chooser) {
    this.order = new FrontOrder(abilities, SIZES, () => this.out.length < slots);
    this.#program = program.split(' ').map(requestOf);
    this.wanted = this.#program.map(wantedOf);
    this.#chooser = chooser;
  }

  get out(): Sent[] {
    return this.sent.filter(({ status }) => status === undefined);
  }

  run(): void {
    for (const [at, request] of this.#program.entries()) this.order.submit(request, at);
    for (this.#pump(); this.out.length > 0; this.#pump()) this.#answerOne();
    this.#atEnd();
  }

  #pump(): void {
    for (let part = this.order.next(); part; part = this.order.next()) {
      this.#takeEnded();
      this.#checkSend(part);
      this.sent.push({ part, command: part.command.client });
      this.log.push(`>${nameOf(part)}`);
    }
    this.#takeEnded();
  }

  #takeEnded(): void {
    for (let end = this.order.takeSettled(); end; end = this.order.takeSettled()) {
      this.#checkEnd(end.client, (end.error as WriteBarrierError | undefined)?.code);
    }
  }

  #answerOne(): void {
    const { out } = this;
    const sent = out[this.#chooser.choose(out.length)] as Sent;
    const status = STATUSES[this.#chooser.choose(STATUSES.length)] as number;
    sent.status = status;
    this.log.push(`.${nameOf(sent.part)}=${status}`);
    const before = this.order.abilities;
    this.order.complete(sent.part, answerOf(status));
    this.#checkAbilities(before, sent.part, status);
  }

  #rule(holds: boolean, rule: string): void {
    if (!holds) throw new Error(`${rule} is broken: ${this.log.join(' ')}`);
  }

  #checkSend(part: Part<number>): void {
    const number = part.command.client;
    const wanted = this.wanted[number] as Wanted;
    this.#rule(!this.ended.has(number), 'front-order.O1, sent after its end');
    const byHand = wanted.ordered && part.operation !== BLKIF_OP.WRITE_BARRIER;
    const isData = wanted.op === 'read' || wanted.op === 'write';
    this.#checkTry(part, wanted.ordered && isData);
    for (const [other, { op, ordered, ...range }] of this.wanted.entries()) {
      const isOver = this.ended.has(other);
      const passed = op === 'read' && wanted.ordered && overlap(range, part);
      if (other < number && passed) this.#rule(isOver, 'front-order.O3, ahead of a read');
      if (other < number && ordered) this.#rule(isOver, 'front-order.O2');
      if (other < number && byHand) this.#rule(isOver, 'front-order.O3, by hand');
      const begun = this.sent.some(({ command }) => command === other);
      if (other > number && ordered && isData)
        this.#rule(!begun, 'front-order.O3, an older one comes back');
    }
  }

  #checkTry(part: Part<number>, orderedData: boolean): void {
    const mine = this.sent.filter(({ command }) => command === part.command.client);
    const { flush, barrier } = this.order.abilities;
    if (orderedData && mine.length === 0)
      this.#rule(flush || barrier, 'front-order.O5, an ordered write');
    this.#rule(!mine.some(({ status }) => status === -1), 'a part is sent behind one that failed');
    const again = mine.some((sent) => sent.status === 0 && overlap(sent.part, part));
    this.#rule(!again, 'a part is sent again that was answered OKAY');
  }

  /** front-order.O4: a feature goes when it is refused, and only then, and never comes back. */
  #checkAbilities(before: BlkAbilities, part: Part<number>, status: number): void {
    const lost = status === -2 ? featureOf(part) : undefined;
    const now = this.order.abilities;
    for (const feature of ['barrier', 'flush', 'discard', 'indirect'] as const) {
      this.#rule(
        now[feature] === (before[feature] && feature !== lost),
        `front-order.O4, ${feature}`,
      );
    }
  }

  #checkEnd(client: number, code: string | undefined): void {
    const wanted = this.wanted[client] as Wanted;
    this.#rule(!this.ended.has(client), 'front-order.O1, ends twice');
    this.ended.set(client, code ?? 'done');
    const mine = this.sent.filter(({ command }) => command === client);
    const open = mine.some(({ status }) => status === undefined);
    this.#rule(!open, 'front-order.O1, ends with something out');
    if (wanted.op === 'read' || wanted.op === 'write') this.#checkData(wanted, mine, code);
    else this.#checkBare(wanted, mine.at(-1)?.status, code);
  }

  #checkBare({ op }: Wanted, last: number | undefined, code: string | undefined): void {
    const { flush, barrier } = this.order.abilities;
    const told = last === -1 ? 'IO_FAILED' : undefined;
    if (op === 'discard') this.#rule(code === told, 'front-order.O6');
    else if (last === 0 || last === -1) this.#rule(code === told, 'front-order.O1, a flush');
    else this.#rule(code === 'EOPNOTSUPP' && !flush && !barrier, 'front-order.O5, a flush');
  }

  #checkData({ ordered, offset, length }: Wanted, mine: Sent[], code: string | undefined): void {
    const last = new Map<number, number>();
    for (const { part, status } of mine) {
      for (let at = part.offset; at < part.offset + part.length; at += BLOCK) {
        last.set(at, status as number);
      }
    }
    const offsets = Array.from({ length: length / BLOCK }, (_, at) => offset + at * BLOCK);
    const done = offsets.every((at) => last.get(at) === 0);
    this.#rule((code === undefined) === done, 'front-order.O1, success');
    const failed = mine.some(({ status }) => status === -1);
    if (failed) this.#rule(code === 'IO_FAILED', 'front-order.O1, an error wins');
    const { flush, barrier } = this.order.abilities;
    if (mine.length === 0)
      this.#rule(ordered && !flush && !barrier, 'front-order.O5, refused unsent');
    else if (code === 'EOPNOTSUPP') {
      const plain = featureOf((mine.at(-1) as Sent).part) === undefined;
      this.#rule(plain, 'front-order.O4, a payload is given up for want of a feature');
    }
  }

  #atEnd(): void {
    this.#rule(
      this.ended.size === this.wanted.length && this.order.next() === undefined,
      'front-order.O1, stranded',
    );
  }
}

interface Range {
  readonly offset: number;
  readonly length: number;
}

function overlap(a: Range, b: Range): boolean {
  return a.offset < b.offset + b.length && b.offset < a.offset + a.length;
}

function featureOf({ operation, indirect }: Part<number>): keyof BlkAbilities | undefined {
  if (indirect) return 'indirect';
  const features = { 2: 'barrier', 3: 'flush', 5: 'discard' } as const;
  return features[operation as 2 | 3 | 5];
}

function nameOf({ command, operation, indirect, length }: Part<number>): string {
  return `${command.client}:${operation}${indirect ? 'i' : ''}/${length / BLOCK}`;
}

/** All paths through a world; answers with their number. */
function explore(program: string, abilities: BlkAbilities, slots: number): number {
  return everyWay((chooser) => new Path(program, abilities, slots, chooser).run());
}

const ALL: BlkAbilities = { barrier: true, flush: true, discard: true, indirect: true };
const FEATURES: readonly (readonly [name: string, BlkAbilities])[] = [
  ['all features', ALL],
  ['barriers alone', { ...ALL, flush: false, discard: false, indirect: false }],
  ['flushes alone', { ...ALL, barrier: false, discard: false, indirect: false }],
  ['no feature', { barrier: false, flush: false, discard: false, indirect: false }],
];
const PROGRAMS = [
  'w0 ^w1 w2',
  'w0 ^f ^w1',
  '^f ^w1 ^f w2',
  'w0+3 ^w4 w5',
  'w0 ^w1+3 r0',
  'r0 ^w0 r0',
  'f ^w0+3',
  'f ^w1 f',
  'w0 f ^w1',
  'd0 ^w1 d2',
  'r0+5 ^w0',
  'w0+5 ^f',
  '^w0 ^w1 ^w2',
];

describe.each(FEATURES)('with %s', (_, abilities) => {
  test.each(PROGRAMS)('the program %s keeps the rules, whatever is answered when', (program) => {
    let paths = 0;
    for (const slots of [1, 2, 8]) paths += explore(program, abilities, slots);
    expect(paths).toBeGreaterThanOrEqual(3);
  });
});

test('a longer program has worlds enough to be called all', () => {
  expect(explore('w0 w1 ^w2 w3', ALL, 8)).toBeGreaterThan(500);
});

describe('the operations that are chosen', () => {
  const sent = (program: string, abilities: BlkAbilities): string => {
    const path = new Path(program, abilities, 8, new Chooser());
    path.run();
    return path.log.filter((entry) => entry.startsWith('>')).join(' ');
  };

  test('a flush is FLUSH_DISKCACHE where there is one, and otherwise an empty WRITE_BARRIER', () => {
    expect(sent('f', ALL)).toBe('>0:3/0');
    expect(sent('f', { ...ALL, flush: false })).toBe('>0:2/0');
    expect(sent('f', { ...ALL, flush: false, barrier: false })).toBe('');
  });

  test('an ordered write is WRITE_BARRIER where it fits, and otherwise plain writes, alone', () => {
    expect(sent('w9 ^w0 w1', ALL)).toBe('>0:1/1 >1:2/1 >2:1/1');
    expect(sent('w9 ^w0+5 w1', ALL)).toBe('>0:1/1 >1:1i/4 >1:1/1 >2:1/1');
    expect(sent('w9 ^w0 w1', { ...ALL, barrier: false })).toBe('>0:1/1 >1:1/1 >2:1/1');
  });

  test('a large request is indirect where that is offered, and otherwise many', () => {
    expect(sent('w0+7', ALL)).toBe('>0:1i/4 >0:1i/3');
    expect(sent('w0+5', ALL)).toBe('>0:1i/4 >0:1/1');
    expect(sent('r0+5', { ...ALL, indirect: false })).toBe('>0:0/2 >0:0/2 >0:0/1');
  });
});

test('given a write of 4 PiB and requests of two blocks, then parts are made one by one, whatever is refused of them', () => {
  const abilities = { barrier: false, flush: true, discard: false, indirect: true };
  const order = new FrontOrder<string>(abilities, SIZES, () => true);
  order.submit({ kind: 'write', offset: 0, length: 2 ** 52 }, 'long');
  const [first, second] = [order.next(), order.next()] as [Part<string>, Part<string>];
  expect([first.indirect, first.offset, second.offset]).toEqual([true, 0, SIZES.indirect]);
  order.complete(first, answerOf(-2)); // Indirect requests are not taken any more.
  order.complete(second, undefined);
  const again = [order.next(), order.next(), order.next()];
  expect(again.map((part) => [part?.indirect, part?.offset, part?.length])).toEqual([
    [false, 0, SIZES.direct],
    [false, SIZES.direct, SIZES.direct],
    [false, 2 * SIZES.indirect, SIZES.direct],
  ]);
});
