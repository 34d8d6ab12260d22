// All trace events are made here: those of schedulers, of the other machines under a driver, and of `tracing`.

import { messageOf } from '../model/error.js';
import {
  type CommandEvent,
  checkArgument,
  FUNCTION,
  NOTATION_BLOCK_SIZE,
  type Observer,
  type Request,
  type SettleEvent,
  type StagedCommand,
  type TraceEvent,
} from '../model/index.js';
import { withText } from '../model/show.js';
import { checkStorage } from './checks.js';
import { type Storage, textOf } from './storage.js';
import { overheard, wrap } from './wrappers.js';

/**
 * The trace of one disk: numbers its requests in the order of submission and its commands in the order of issue, both from
 * 0, and reports what happens to them. An observer that throws must not change what it observes, so its errors are counted,
 * and the first one is reported by `console.error`.
 */
export class Tracer {
  readonly #name: string;
  readonly #disk: { readonly blockSize?: number };
  readonly #observer: Observer<never> | undefined;
  #requests = 0;
  #commands = 0;
  /** How often the observer has thrown. */
  errors = 0;

  /**
   * @param name what is observed, for the report of an observer that throws: `a scheduler`
   * @param blockSize of the disk, for the events
   */
  constructor(
    observer: Observer<never> | undefined,
    name: string,
    blockSize: number = NOTATION_BLOCK_SIZE,
  ) {
    this.#observer = observer;
    this.#name = name;
    this.#disk = blockSize === NOTATION_BLOCK_SIZE ? {} : { blockSize };
  }

  /** It has an observer that listens. */
  get isWatched(): boolean {
    return this.#observer !== undefined && this.#observer.isListening !== false;
  }

  /** A request was submitted; returns its number. */
  submit(what: Request): number {
    const request = this.#requests++;
    if (this.isWatched) this.#report({ kind: 'submit', request, what: { ...what, ...this.#disk } });
    return request;
  }

  /** A command is issued for these requests; returns its number. */
  dispatch(command: StagedCommand, requests: readonly number[]): number {
    const number = this.#commands++;
    this.#report({
      kind: 'dispatch',
      command: number,
      what: { ...command, ...this.#disk },
      requests,
    });
    return number;
  }

  /** A command has completed; `error` if it failed. */
  complete(command: number, error?: unknown): void {
    const text = error === undefined ? {} : { error: messageOf(error) };
    this.#report({ kind: 'complete', command, ...text });
  }

  /** A request has settled. */
  settle(request: number, outcome: SettleEvent['outcome']): void {
    this.#report({ kind: 'settle', request, outcome });
  }

  #report(event: TraceEvent): void {
    try {
      const answer: unknown = this.#observer?.(event as never);
      // An async observer throws later, and an unhandled rejection would end the program.
      if (answer instanceof Promise) answer.catch((error) => this.#failed(error));
    } catch (error) {
      this.#failed(error);
    }
  }

  #failed(error: unknown): void {
    if (this.errors++ > 0) return;
    try {
      console.error(`write-barrier: the observer of ${this.#name} threw`, error);
    } catch {
      // Test runners may replace console.error by a function that throws.
    }
  }
}

/**
 * Calls `observer` for every command of the storage, and for its answer. Commands are numbered from 0 in the order of their
 * calls. The requests that they serve cannot be seen from here, so `requests` is empty and the stage is `plain`. A `writev` is one
 * write. If the observer throws, that is reported once by `console.error`, and the command goes on.
 *
 * @throws `INVALID_ARGUMENT` for an observer that is not a function; `INVALID_STORAGE` for what is no storage
 */
export function tracing(storage: Storage, observer: Observer<CommandEvent>): Storage {
  checkArgument('the observer', observer, FUNCTION);
  checkStorage(storage);
  const tracer = new Tracer(observer, 'a storage', storage.capabilities.blockSize);
  const traced = wrap(storage, (what, run) => {
    const command = tracer.dispatch({ ...what, stage: 'plain' }, []);
    return overheard(what, run, (error) => tracer.complete(command, error));
  });
  return withText(traced, () => `tracing(${textOf(storage)})`);
}
