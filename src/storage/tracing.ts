import { inWords } from '../model/error.js';
import type { CommandEvent, Observer } from '../model/index.js';
import type { Storage, Transfer } from './storage.js';
import { isPending, wrap } from './wrappers.js';

/**
 * Tells `observer` of every command that the storage is given, and of its answer. Commands are
 * numbered from 0 in the order of their calls; whom they serve cannot be seen from here, so
 * `requests` is empty and the stage is `plain`. A `writev` is seen as the one write that it is.
 */
export function tracing(storage: Storage, observer: Observer<CommandEvent>): Storage {
  let commands = 0;
  return wrap(storage, (what, run) => {
    const command = commands++;
    const complete = (error?: string): void =>
      observer({ kind: 'complete', command, ...(error !== undefined && { error }) });
    const succeed = (moved: void | number): void | number => {
      complete(shortfall(moved, what.length));
      return moved;
    };
    const fail = (error: unknown): never => {
      complete(inWords(error));
      throw error;
    };

    observer({ kind: 'dispatch', command, what: { ...what, stage: 'plain' }, requests: [] });
    let answer: Transfer;
    try {
      answer = run();
    } catch (error) {
      return fail(error);
    }
    return isPending(answer) ? answer.then(succeed, fail) : succeed(answer);
  });
}

/** S3: a short transfer is a failure, though nothing is thrown. */
function shortfall(moved: void | number, length: number): string | undefined {
  if (typeof moved !== 'number' || moved === length) return undefined;
  return `${moved} of ${length} bytes were moved`;
}
