// A recovery, and the disk on which it can be cut short.
//
// The disk of a recovery answers before a call returns. Where the power may fail again during a recovery (`nested`), the recovery is
// recorded, and its disk is slow instead: it answers a write or a flush when the recovery rests (host-rest.ts), one command at a
// time. So what the recovery sends together is in flight together, and a flush covers only what was answered before it was sent.
// Reads are answered at once all the same, because a power cut takes nothing of them, so a recovery need not wait for them.
//
// The trace that comes of this has a crash space like that of a workload.

import { type Storage, wrap } from '../../storage/index.js';
import { overheard } from '../../storage/wrappers.js';
import { recoveryPaceOf } from '../device/disk-options.js';
import { DiskRecorder } from '../device/disk-trace.js';
import { HostRest } from '../device/host-rest.js';
import type { CrashTest } from './types.js';
import type { Watch } from './watch.js';

/**
 * Runs the recovery on a disk.
 *
 * @throws `HangError` if it does not end; what the recovery throws
 */
export function recoverOn<R>(
  test: { recover(disk: Storage): R | Promise<R> },
  disk: Storage,
  watch: Watch,
): R | Promise<R> {
  return watch.run('recovery', () => test.recover(disk));
}

/** A recovery that is recorded. */
export interface Recorded {
  readonly disk: Storage;
  readonly rest: HostRest;
  /** Records what it does. */
  readonly recorder: DiskRecorder;
  /** Answers nothing more, because the recovery is over. */
  end(): void;
}

/**
 * The disk of a recovery that is recorded.
 *
 * @param disk answers before a call returns
 * @param sent is called for each command
 */
export function recorded(
  { answers }: Pick<CrashTest<unknown, unknown>, 'answers'>,
  seed: number,
  disk: Storage,
  sent: () => void = () => {},
): Recorded {
  const recorder = new DiskRecorder(disk.size);
  const { newestFirst, timersMs } = recoveryPaceOf(seed);
  const rest = new HostRest(timersMs, false);
  const open: (() => void)[] = [];
  let isOver = false;
  const answerOne = (): void => {
    const answer = isOver ? undefined : newestFirst ? open.pop() : open.shift();
    if (!answer) return;
    answer();
    rest.answered();
    rest.wait(answerOne);
  };
  const slow = wrap(disk, (command, run, data) => {
    sent();
    const number = recorder.dispatch(command, data?.());
    const isAtOnce = answers === 'at-once' || command.op === 'read';
    overheard(command, run, (error) => {
      // A disk of recoveries fails a command only by refusing it, so nothing of it reaches the medium.
      if (error !== undefined) recorder.complete(number, true, { kind: 'lost' });
      else if (isAtOnce) recorder.complete(number);
    });
    if (isAtOnce) return;
    rest.called();
    return new Promise<void>((resolve) => {
      open.push(() => {
        recorder.complete(number);
        resolve();
      });
      rest.wait(answerOne);
    });
  });
  return {
    ...{ disk: slow, rest, recorder },
    end: () => {
      isOver = true;
    },
  };
}
