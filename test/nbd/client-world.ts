// The inFlight against the worst server that keeps its promises: it carries out what is in flight in any order, answers
// in any order, destages nothing before it must, lets a flush cover only what it has answered, and may lose its cache and
// its connections at any moment. It may also fail a flush or a forced write, and then forgets to write all that it had;
// its next flush may succeed, but what has failed is answered first.
//
// A program is groups of commands, a group being submitted when the one before is answered: `w0 w1 | f | w0! r1`. Cells
// are one byte; every write has a value of its own. What is checked, after every step:
//
//   - whatever a power cut could leave in a cell is at least as new as what was promised for it;
//   - a read answers what was written last;
// and in the end, when a last flush is answered, that the medium has the last value of every cell.
//
// A run is a function of its choices, so all runs can be enumerated, and a random one can be shrunk. One that fails is run
// once more with the same choices, and tells what happens.

import { InFlight } from '../../src/nbd/client/in-flight.js';
import type { ClientRequest } from '../../src/nbd/client/replies.js';
import { Unflushed } from '../../src/nbd/client/unflushed.js';
import { COMMAND, COMMAND_FLAG } from '../../src/nbd/wire/index.js';
import { everyWay, type Tell, withoutStacks } from '../kit/explore.js';

export interface WorldOptions {
  /** How often the server is lost, at the most. */
  readonly crashes?: number;
  /** How many flushes and forced writes fail, at the most. */
  readonly failures?: number;
  /** Of the log. */
  readonly bytesMax?: number;
  /** The most that a request carries. */
  readonly payloadMax?: number;
  /** How often a command is begun again, at the most. */
  readonly restartsMax?: number;
}

/** Which of so many. */
export type Choose = (count: number) => number;

interface Op {
  readonly op: 'write' | 'writeZeroes' | 'discard' | 'read' | 'flush';
  readonly cell: number;
  readonly cells: number;
  readonly fua: boolean;
}

const INITIAL = 255;
const CELLS = 4;
const CHOICES: Readonly<Record<string, Op['op']>> = {
  w: 'write',
  z: 'writeZeroes',
  d: 'discard',
  r: 'read',
  f: 'flush',
};

export function parse(program: string): readonly (readonly Op[])[] {
  return program.split('|').map((group) =>
    group
      .trim()
      .split(/\s+/)
      .map((word) => {
        const [, op = '', cell = '0', , cells = '1', fua] =
          /^([wzdrf])(\d)?(\+(\d))?(!)?$/.exec(word) ?? [];
        const kind = CHOICES[op];
        if (!kind) throw new Error(`no command: ${word}`);
        return { op: kind, cell: Number(cell), cells: Number(cells), fua: fua === '!' };
      }),
  );
}

/** What a cell was given, in order; undefined is anything. */
interface History {
  readonly values: (number | undefined)[];
  /** The last one that was answered well. */
  answered: number;
  /** Nothing older than this may be left. */
  floor: number;
}

interface Version {
  readonly value: number;
  readonly cookie: bigint;
  replied: boolean;
  /** A failed flush has forgotten it: it can be read and is never written. */
  dropped: boolean;
}

class FakeServer {
  readonly medium: number[] = Array(CELLS).fill(INITIAL);
  pending: Version[][] = this.medium.map(() => []);

  read(cell: number): number {
    return this.pending[cell]?.at(-1)?.value ?? (this.medium[cell] as number);
  }

  write(cookie: bigint, cell: number, value: number, fua: boolean): void {
    if (fua) {
      this.medium[cell] = value;
      this.pending[cell] = [];
    } else {
      this.pending[cell]?.push({ value, cookie, replied: false, dropped: false });
    }
  }

  flush(): void {
    for (const [cell, versions] of this.pending.entries()) {
      const flushed = versions.map(({ replied, dropped }) => replied && !dropped);
      const last = flushed.lastIndexOf(true);
      if (last < 0) continue;
      this.medium[cell] = versions[last]?.value as number;
      versions.splice(0, last + 1);
    }
  }

  failFlush(): void {
    for (const version of this.pending.flat()) version.dropped = true;
  }

  replied(cookie: bigint): void {
    for (const version of this.pending.flat())
      if (version.cookie === cookie) version.replied = true;
  }

  /** What may be left of a cell. */
  leaves(cell: number): number[] {
    return [this.medium[cell] as number, ...(this.pending[cell] ?? []).map(({ value }) => value)];
  }

  crash(choose: Choose): void {
    for (const [cell] of this.medium.entries()) {
      const left = this.leaves(cell);
      this.medium[cell] = left[choose(left.length)] as number;
      this.pending[cell] = [];
    }
  }
}

/** Whether it waits for the medium, and so may be told of its failures. */
function syncs({ command, flags }: ClientRequest): boolean {
  return command === COMMAND.FLUSH || (flags & COMMAND_FLAG.FUA) !== 0;
}

/** Runs a program once. Throws at what must not be, and tells what led there. */
export function run(program: string, options: WorldOptions, choose: Choose): void {
  const chosen: number[] = [];
  const groups = parse(program);
  try {
    withoutStacks(() => {
      play(groups, options, (count) => {
        const choice = choose(count);
        chosen.push(choice);
        return choice;
      });
    });
  } catch (error) {
    const story: string[] = [];
    try {
      play(
        groups,
        options,
        () => chosen.shift() ?? 0,
        (event) => story.push(event),
      );
    } catch {}
    throw new Error([String(error), program, ...story].join('\n  '), { cause: error });
  }
}

function play(
  program: readonly (readonly Op[])[],
  options: WorldOptions,
  choose: Choose,
  tell?: Tell,
): void {
  const { bytesMax = 1 << 20, payloadMax = 1 << 20 } = options;
  const { restartsMax = Number.POSITIVE_INFINITY } = options;
  let { crashes = 0, failures = 0 } = options;
  const traits = { volatile: true, payloadMax, depth: 16, restartsMax };
  const inFlight = new InFlight(new Unflushed(bytesMax), traits);
  const server = new FakeServer();
  const history: History[] = server.medium.map(() => ({
    values: [INITIAL],
    answered: 0,
    floor: 0,
  }));
  const groups = [...program];
  let lost = 0;
  let failed = false;
  const flying: { readonly out: ClientRequest; done: boolean; failed: boolean }[] = [];
  const waiting = new Map<number, Submitted>();
  let values = 0;
  let finishing = false;

  interface Submitted {
    readonly op: Op;
    readonly into?: Uint8Array;
    /** The length of each history when it was submitted. */
    readonly places: readonly number[];
    /** For a flush: what it will have covered. */
    readonly covers: readonly number[];
  }

  const fail = (what: string): never => {
    throw new Error(what);
  };
  const cellsOf = ({ cell, cells }: Op): number[] =>
    Array.from({ length: cells }, (_, i) => cell + i);

  const submit = (op: Op): void => {
    const places: number[] = [];
    values += 1;
    const value = op.op === 'writeZeroes' ? 0 : values;
    const changes = op.op === 'write' || op.op === 'writeZeroes' || op.op === 'discard';
    for (const cell of changes ? cellsOf(op) : []) {
      history[cell]?.values.push(op.op === 'discard' ? undefined : value);
      places.push((history[cell]?.values.length ?? 0) - 1);
    }
    const covers = history.map(({ answered }) => answered);
    const [offset, length] = [op.cell, op.cells];
    const into = new Uint8Array(length);
    const number = inFlight.submit(
      op.op === 'flush'
        ? { op: 'flush' }
        : op.op === 'read'
          ? { op: 'read', offset, length, into }
          : op.op === 'write'
            ? {
                op: 'write',
                offset,
                length,
                data: new Uint8Array(length).fill(value),
                fua: op.fua,
              }
            : { op: op.op, offset, length },
    );
    tell?.(`${number}: ${op.op} ${offset}+${length}${op.fua ? '!' : ''} = ${value}`);
    waiting.set(number, { op, places, covers, into });
  };

  const settle = (list: ReturnType<InFlight['refusals']>): void => {
    for (const { command, error } of list) {
      const one = waiting.get(command) ?? fail(`${command} is answered twice`);
      waiting.delete(command);
      tell?.(`${command} is answered ${error ? error.message : 'well'}`);
      const { op } = one;
      if (error) {
        if (!failed && lost <= restartsMax) fail('failed for nothing');
        // Whoever hears of a failure does it again.
        submit(op);
        continue;
      }
      if (op.op === 'flush') {
        for (const [cell, place] of one.covers.entries()) {
          const { floor } = history[cell] as History;
          (history[cell] as History).floor = Math.max(floor, place);
        }
      }
      for (const [i, cell] of cellsOf(op).entries()) {
        const past = history[cell] as History;
        const { values } = past;
        past.answered = Math.max(past.answered, one.places[i] ?? 0);
        if (op.op === 'write' && op.fua) past.floor = Math.max(past.floor, one.places[i] ?? 0);
        const last = values.at(-1);
        if (op.op === 'read' && last !== undefined && one.into?.[i] !== last) {
          fail(`cell ${cell} reads as ${one.into?.[i]} and not as ${last}`);
        }
      }
    }
  };

  const execute = ({
    command,
    flags,
    offset,
    length,
    payload,
    into,
    cookie,
  }: ClientRequest): void => {
    const bytes = payload ? payload.flatMap((part) => [...part]) : [];
    for (let i = 0; i < length; i += 1) {
      const cell = offset + i;
      if (command === COMMAND.READ && into) into[i] = server.read(cell);
      const fua = (flags & COMMAND_FLAG.FUA) !== 0;
      if (command === COMMAND.WRITE) server.write(cookie, cell, bytes[i] as number, fua);
      if (command === COMMAND.WRITE_ZEROES) server.write(cookie, cell, 0, false);
      if (command === COMMAND.TRIM) server.write(cookie, cell, 0xdd, false);
    }
    if (command === COMMAND.FLUSH) server.flush();
  };

  /** What a power cut may leave is not older than what was promised. */
  const check = (): void => {
    for (const [cell, { values, floor }] of history.entries()) {
      const recent = values.slice(floor);
      if (recent.includes(undefined)) continue;
      for (const left of server.leaves(cell)) {
        if (!recent.includes(left))
          fail(`cell ${cell} may be left as ${left}, not one of ${recent}`);
      }
    }
  };

  inFlight.connected(traits);
  for (let steps = 0; ; steps += 1) {
    if (steps > 2000) fail('it never ends');
    settle(inFlight.refusals());
    for (let out = inFlight.next(); out; out = inFlight.next()) {
      tell?.(`  sent ${out.cookie}: command ${out.command} ${out.offset}+${out.length}`);
      flying.push({ out, done: false, failed: false });
    }
    check();
    if (waiting.size === 0) {
      const group = groups.shift();
      if (!group && finishing) break;
      finishing = !group;
      for (const op of group ?? (parse('f')[0] as Op[])) submit(op);
      continue;
    }
    if (inFlight.phase === 'down') {
      tell?.('  connected');
      inFlight.connected(traits);
      continue;
    }
    const actions: (() => void)[] = [];
    for (const flight of flying) {
      const { out, done } = flight;
      if (!done) {
        actions.push(() => {
          tell?.(`  done ${out.cookie}`);
          execute(out);
          flight.done = true;
        });
        if (syncs(out) && failures > 0) {
          actions.push(() => {
            tell?.(`  fails ${out.cookie}`);
            failures -= 1;
            failed = true;
            server.failFlush();
            flight.done = true;
            flight.failed = true;
          });
        }
      } else if (!syncs(out) || flight.failed || !flying.some(({ failed }) => failed)) {
        actions.push(() => {
          tell?.(`  answer ${out.cookie}`);
          flying.splice(flying.indexOf(flight), 1);
          server.replied(out.cookie);
          settle(inFlight.answered(out.cookie, flight.failed ? new Error('EIO') : undefined));
        });
      }
    }
    if (crashes > 0 && actions.length > 0) {
      actions.push(() => {
        tell?.('  crash');
        crashes -= 1;
        lost += 1;
        server.crash(choose);
        flying.length = 0;
        settle(inFlight.lost(new Error('gone')));
      });
    }
    if (actions.length === 0) fail('it waits for nothing');
    actions[choose(actions.length)]?.();
  }
  for (const [cell, { values }] of history.entries()) {
    const last = values.at(-1);
    if (last !== undefined && server.medium[cell] !== last) {
      fail(`cell ${cell} ends as ${server.medium[cell]} and not as ${last}`);
    }
  }
}

/** A program with more runs than this is too large for a test. */
const RUNS_MAX = 2_000_000;

/** Runs a program in every way; how many there are. */
export function everyRun(program: string, options: WorldOptions): number {
  const groups = parse(program);
  let runs = 0;
  return everyWay((chooser, tell) => {
    tell?.(program);
    if (++runs > RUNS_MAX) throw new Error(`more than ${RUNS_MAX} runs`);
    // A choice of one is none.
    play(groups, options, (count) => (count < 2 ? 0 : chooser.choose(count)), tell);
  });
}
