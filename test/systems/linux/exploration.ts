// Every small program through a machine, with every order of answers, with failures and requests put back at every
// point, and requests that come at any time. After every event a specification is asked that knows the rules in its
// own words and sees nothing but what a driver sees.

import type { Machine } from 'write-barrier/kit';
import type { BlockCommand } from '../../../src/systems/requests.js';
import { type Chooser, everyWay, type Tell } from '../../kit/explore.js';
import { codeOf, wordOf } from './support.js';

/** Told of every event; throws where a rule is broken. Requests are numbers, in the order of their submission. */
export interface Watcher {
  submitted(request: number): void;
  taken(command: BlockCommand<number>): void;
  completed(command: BlockCommand<number>, error: string | undefined): void;
  requeued?(command: BlockCommand<number>): void;
  answered(request: number, error: string | undefined): void;
  /** Nothing is left to be taken. */
  quiet(): void;
  /** Everything is over. */
  atRest(): void;
}

/** A machine, asked by `submit` of its world. */
export type Explored = Omit<Machine<number, BlockCommand<number>>, 'submit'>;

/** A world to explore. */
export interface World<M extends Explored> {
  readonly machine: (nowMs: () => number) => M;
  readonly watcher: (machine: M, program: readonly string[]) => Watcher;
  readonly submit: (machine: M, word: string, request: number) => void;
  readonly requeue?: (machine: M, command: BlockCommand<number>) => void;
  /** How many of them a run may have. */
  readonly failures?: number;
  readonly requeues?: number;
  /** How often five seconds may pass. */
  readonly ages?: number;
  /** Requests come at any time, and not only all at the start. */
  readonly interleaved?: boolean;
  /** Commands at the device at once. */
  readonly depth?: number;
}

export { wordsOf as programs } from '../../kit/explore.js';

/** Runs a program in every way; answers in how many. A broken rule is told with its story. */
export function explore<M extends Explored>(world: World<M>, program: readonly string[]): number {
  return everyWay((chooser, tell) => {
    tell?.(program.join(' '));
    play(world, program, chooser, tell);
  });
}

function play<M extends Explored>(
  world: World<M>,
  program: readonly string[],
  chooser: Chooser,
  tell: Tell | undefined,
): void {
  const atDevice = new Set<BlockCommand<number>>();
  let next = 0;
  let nowMs = 0;
  const machine = world.machine(() => nowMs);
  const watcher = world.watcher(machine, program);
  let { failures = 0, requeues = 0, ages = 0 } = world;
  const depth = world.depth ?? Number.POSITIVE_INFINITY;

  const pump = (): void => {
    const listen = (): void => {
      for (let a = machine.takeSettled(); a; a = machine.takeSettled()) {
        const error = 'error' in a ? codeOf(a.error) : undefined;
        tell?.(`answer ${a.client}: ${error ?? 'done'}`);
        watcher.answered(a.client, error);
      }
    };
    while (atDevice.size < depth) {
      const command = machine.next();
      listen();
      if (!command) break;
      tell?.(`take ${wordOf(command)} for ${command.clients}`);
      atDevice.add(command);
      watcher.taken(command);
    }
    listen();
    watcher.quiet();
  };
  const submit = (): void => {
    const request = next++;
    tell?.(`submit ${request}: ${program[request]}`);
    watcher.submitted(request);
    world.submit(machine, program[request] as string, request);
    pump();
  };
  const complete = (command: BlockCommand<number>, error: string | undefined): void => {
    tell?.(`${error ?? 'done'}: ${wordOf(command)}`);
    atDevice.delete(command);
    watcher.completed(command, error);
    machine.complete(command, error);
    pump();
  };

  if (!world.interleaved) while (next < program.length) submit();
  for (;;) {
    const moves: (() => void)[] = [];
    if (next < program.length) moves.push(submit);
    for (const command of atDevice) {
      moves.push(() => complete(command, undefined));
      if (failures > 0) {
        moves.push(() => {
          failures -= 1;
          complete(command, `E${failures}`);
        });
      }
      if (requeues > 0 && world.requeue) {
        moves.push(() => {
          requeues -= 1;
          tell?.(`put back ${wordOf(command)}`);
          atDevice.delete(command);
          watcher.requeued?.(command);
          world.requeue?.(machine, command);
          pump();
        });
      }
    }
    if (moves.length > 0 && ages > 0) {
      moves.push(() => {
        ages -= 1;
        nowMs += 5000;
        tell?.('five seconds pass');
      });
    }
    if (moves.length === 0) break;
    (moves[chooser.choose(moves.length)] as () => void)();
  }
  watcher.atRest();
}

/** Stops a run. */
export function rule(holds: boolean, text: string): asserts holds {
  if (!holds) throw new Error(text);
}
