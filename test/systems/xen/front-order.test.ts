// The order of a frontend, in every order of answers and with every answer.
//
// Goal: O1 to O6. Method: all small worlds. A world is a program, a set of features and a little room; in each the state
// machine is asked for all that may be sent, then one of the requests that are out gets one of three answers, and so on
// until nothing is out. Every path is replayed from the start, and the rules are checked at every step.
//
// Programs: w0 r1 f d2 as in the notation of requests; a ^ in front is an ordered tag; w0+3 has three blocks.

import { describe, expect, test } from 'vitest';
import { parseProgram, type Request } from 'write-barrier';
import {
  type BlkAbilities,
  type Command,
  FrontOrder,
  type Part,
  type Wanted,
} from '../../../src/systems/xen/front-order.js';
import { BLKIF_OP } from '../../../src/systems/xen/wire.js';

const BLOCK = 512;
/** A direct request carries two blocks, an indirect one four. */
const SIZES = { direct: 2 * BLOCK, indirect: 4 * BLOCK };
const STATUSES = [0, -1, -2] as const;

function wantedOf(text: string): Wanted {
  const ordered = text.startsWith('^');
  const [request] = parseProgram(ordered ? text.slice(1) : text, { blockSize: BLOCK });
  const { kind } = request as Request;
  const { offset, length } = request && 'offset' in request ? request : { offset: 0, length: 0 };
  return { op: kind as Wanted['op'], offset, length, ordered };
}

interface Sent {
  readonly part: Part<number>;
  readonly command: number;
  status?: number;
}

/** One path through a world: choices are numbers, and new ones are added as they are met. */
class Path {
  readonly order: FrontOrder<number>;
  readonly wanted: readonly Wanted[];
  readonly #slots: number;
  readonly #choices: { of: number; chosen: number }[];
  #position = 0;
  readonly sent: Sent[] = [];
  /** What each command was told, in order. */
  readonly ended = new Map<number, string>();
  readonly log: string[] = [];

  constructor(
    program: string,
    abilities: BlkAbilities,
    slots: number,
    choices: { of: number; chosen: number }[],
  ) {
    this.order = new FrontOrder(abilities, SIZES);
    this.wanted = program.split(' ').map(wantedOf);
    this.#slots = slots;
    this.#choices = choices;
  }

  get out(): Sent[] {
    return this.sent.filter(({ status }) => status === undefined);
  }

  run(): void {
    for (const [at, wanted] of this.wanted.entries()) this.order.submit(wanted, at);
    for (this.#pump(); this.out.length > 0; this.#pump()) this.#answerOne();
    this.#atEnd();
  }

  #choose(of: number): number {
    const choice = this.#choices[this.#position] ?? { of, chosen: 0 };
    this.#choices[this.#position] = choice;
    this.#position += 1;
    if (choice.of !== of) throw new Error('the world is not the same twice');
    return choice.chosen;
  }

  #pump(): void {
    const fits = (): boolean => this.out.length < this.#slots;
    for (let part = this.order.next(fits); part; part = this.order.next(fits)) {
      this.#takeEnded();
      this.#checkSend(part);
      this.sent.push({ part, command: part.command.client });
      this.log.push(`>${nameOf(part)}`);
    }
    this.#takeEnded();
  }

  #takeEnded(): void {
    for (let end = this.order.takeEnded(); end; end = this.order.takeEnded()) {
      this.#checkEnd(end.command, end.error?.code);
    }
  }

  #answerOne(): void {
    const { out } = this;
    const sent = out[this.#choose(out.length)] as Sent;
    const status = STATUSES[this.#choose(STATUSES.length)] as number;
    sent.status = status;
    this.log.push(`.${nameOf(sent.part)}=${status}`);
    const before = this.order.abilities;
    this.order.complete(sent.part, status);
    this.#checkAbilities(before, sent.part, status);
  }

  #rule(holds: boolean, rule: string): void {
    if (!holds) throw new Error(`${rule} is broken: ${this.log.join(' ')}`);
  }

  #checkSend(part: Part<number>): void {
    const number = part.command.client;
    const wanted = this.wanted[number] as Wanted;
    this.#rule(!this.ended.has(number), 'O1, sent after its end');
    const byHand = wanted.ordered && part.operation !== BLKIF_OP.WRITE_BARRIER;
    const isData = wanted.op === 'read' || wanted.op === 'write';
    this.#checkTry(part, wanted.ordered && isData);
    for (const [other, { op, ordered, ...range }] of this.wanted.entries()) {
      const isOver = this.ended.has(other);
      const passed = op === 'read' && wanted.ordered && overlap(range, part);
      if (other < number && passed) this.#rule(isOver, 'O3, ahead of a read');
      if (other < number && ordered) this.#rule(isOver, 'O2');
      if (other < number && byHand) this.#rule(isOver, 'O3, by hand');
      const begun = this.sent.some(({ command }) => command === other);
      if (other > number && ordered && isData) this.#rule(!begun, 'O3, an older one comes back');
    }
  }

  #checkTry(part: Part<number>, orderedData: boolean): void {
    const mine = this.sent.filter(({ command }) => command === part.command.client);
    const { flush, barrier } = this.order.abilities;
    if (orderedData && mine.length === 0) this.#rule(flush || barrier, 'O5, an ordered write');
    this.#rule(!mine.some(({ status }) => status === -1), 'a part is sent behind one that failed');
    const again = mine.some((sent) => sent.status === 0 && overlap(sent.part, part));
    this.#rule(!again, 'a part is sent again that was answered OKAY');
  }

  /** O4: a feature goes when it is refused, and only then, and never comes back. */
  #checkAbilities(before: BlkAbilities, part: Part<number>, status: number): void {
    const lost = status === -2 ? featureOf(part) : undefined;
    const now = this.order.abilities;
    for (const feature of ['barrier', 'flush', 'discard', 'indirect'] as const) {
      this.#rule(now[feature] === (before[feature] && feature !== lost), `O4, ${feature}`);
    }
  }

  #checkEnd({ client, wanted }: Command<number>, code: string | undefined): void {
    this.#rule(!this.ended.has(client), 'O1, ends twice');
    this.ended.set(client, code ?? 'done');
    const mine = this.sent.filter(({ command }) => command === client);
    const open = mine.some(({ status }) => status === undefined);
    this.#rule(!open, 'O1, ends with something out');
    if (wanted.op === 'read' || wanted.op === 'write') this.#checkData(wanted, mine, code);
    else this.#checkBare(wanted, mine.at(-1)?.status, code);
  }

  #checkBare({ op }: Wanted, last: number | undefined, code: string | undefined): void {
    const { flush, barrier } = this.order.abilities;
    const told = last === -1 ? 'IO_FAILED' : undefined;
    if (op === 'discard') this.#rule(code === told, 'O6');
    else if (last === 0 || last === -1) this.#rule(code === told, 'O1, a flush');
    else this.#rule(code === 'EOPNOTSUPP' && !flush && !barrier, 'O5, a flush');
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
    this.#rule((code === undefined) === done, 'O1, success');
    const failed = mine.some(({ status }) => status === -1);
    if (failed) this.#rule(code === 'IO_FAILED', 'O1, an error wins');
    const { flush, barrier } = this.order.abilities;
    if (mine.length === 0) this.#rule(ordered && !flush && !barrier, 'O5, refused unsent');
    else if (code === 'EOPNOTSUPP') {
      const plain = featureOf((mine.at(-1) as Sent).part) === undefined;
      this.#rule(plain, 'O4, a payload is given up for want of a feature');
    }
  }

  #atEnd(): void {
    this.#rule(this.ended.size === this.wanted.length && this.order.idle, 'O1, stranded');
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
  const choices: { of: number; chosen: number }[] = [];
  for (let paths = 1; ; paths += 1) {
    new Path(program, abilities, slots, choices).run();
    for (let last = choices.at(-1); last && last.chosen + 1 === last.of; last = choices.at(-1)) {
      choices.pop();
    }
    const last = choices.at(-1);
    if (!last) return paths;
    last.chosen += 1;
  }
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
    const path = new Path(program, abilities, 8, []);
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
