import type { CommandEvent, Observer } from '../model/index.js';
import type { Storage } from './storage.js';
import { overheard, wrap } from './wrappers.js';

/**
 * Tells `observer` of every command that the storage is given, and of its answer. Commands are
 * numbered from 0 in the order of their calls; whom they serve cannot be seen from here, so
 * `requests` is empty and the stage is `plain`. A `writev` is seen as the one write that it is.
 */
export function tracing(storage: Storage, observer: Observer<CommandEvent>): Storage {
  let commands = 0;
  return wrap(storage, (what, run) => {
    const command = commands++;
    observer({ kind: 'dispatch', command, what: { ...what, stage: 'plain' }, requests: [] });
    return overheard(what, run, (error) =>
      observer({ kind: 'complete', command, ...(error !== undefined && { error }) }),
    );
  });
}
