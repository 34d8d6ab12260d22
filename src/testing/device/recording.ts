import type { Storage, Transfer } from '../../storage/index.js';
import { isPending, wrap } from '../../storage/wrappers.js';
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
  return wrap(storage, ({ op, offset, length, tag, fua }, run, data) => {
    const command = recorder.dispatch({ op, offset, length, tag, fua }, data?.());
    const succeed = (moved: void | number): void | number => {
      // S3: a short transfer is a failure, though nothing is thrown.
      recorder.complete(command, typeof moved === 'number' && moved !== length);
      return moved;
    };
    const fail = (error: unknown): never => {
      recorder.complete(command, true);
      throw error;
    };
    let answer: Transfer;
    try {
      answer = run();
    } catch (error) {
      return fail(error);
    }
    return isPending(answer) ? answer.then(succeed, fail) : succeed(answer);
  });
}
