import type { Storage } from '../../storage/index.js';
import { overheard, wrap } from '../../storage/wrappers.js';
import type { DiskRecorder } from './disk-trace.js';

/**
 * The same storage; whatever it is asked, and what it answers, is told to a `DiskRecorder` or a `TraceWriter`. So the
 * crash kit can judge a run on a real disk. A command is told before the storage gets it, and an answer before the
 * caller does.
 */
export function recording(
  storage: Storage,
  recorder: Pick<DiskRecorder, 'dispatch' | 'complete'>,
): Storage {
  return wrap(storage, (what, run, data) => {
    const { op, offset, length, tag, fua } = what;
    const command = recorder.dispatch({ op, offset, length, tag, fua }, data?.());
    return overheard(what, run, (error) => recorder.complete(command, error !== undefined));
  });
}
