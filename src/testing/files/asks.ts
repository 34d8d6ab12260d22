// What a recovery asks that a crash state does not have: the times of files, which processes run, whether the machine was started
// again. Its answer is that of this machine, now, so what follows from it proves nothing about a power cut.
//
// Native code is not heard; a trace of strace says when a program asks for the boot.

import type { BigIntStats, Stats } from 'node:fs';

const TIMES =
  'the recovery asks for the times of files, which a crash state does not have: it sees when this test has laid them down';
const PROCESSES =
  'the recovery asks whether a process runs (process.kill), and after a power cut none of those from before does';
/** For a trace of strace, too. */
export const BOOT =
  'it asks which boot this is (boot_id), and may trust what a power cut has taken, because there was none';

/** Where Linux says which boot this is. */
export const BOOT_PATH = '/proc/sys/kernel/random/boot_id';

/** Notices questions about processes until the answer is called. */
export function listen(asked: Set<string>): () => void {
  const { kill } = process;
  const heard: typeof kill = (pid, signal) => {
    if (signal === 0) asked.add(PROCESSES);
    return kill.call(process, pid, signal);
  };
  process.kill = heard;
  return () => {
    if (process.kill === heard) process.kill = kill;
  };
}

const KINDS = ['atime', 'mtime', 'ctime', 'birthtime'] as const;

/** The same status, which tells when one of its times is read. */
export function withHeardTimes<T extends Stats | BigIntStats | undefined>(
  status: T,
  asked: Set<string> | undefined,
): T {
  if (!status || !asked) return status;
  const fields = status as unknown as Readonly<Record<string, unknown>>;
  for (const name of KINDS.flatMap((kind) => [kind, `${kind}Ms`, `${kind}Ns`])) {
    if (!(name in status)) continue;
    // Later versions of Node make a date when it is asked for, in the prototype.
    const { enumerable = false } = Object.getOwnPropertyDescriptor(status, name) ?? {};
    let value = fields[name];
    Object.defineProperty(status, name, {
      ...{ configurable: true, enumerable },
      get: () => {
        asked.add(TIMES);
        return value;
      },
      set: (other: unknown) => {
        value = other;
      },
    });
  }
  return status;
}
