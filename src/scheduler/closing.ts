// The limit of time for an end: of a scheduler, and of a group.

import type { DeviceCommand } from '../model/index.js';

/** A command as the error for a storage that does not answer names it. */
export type Hanging = Pick<DeviceCommand, 'op' | 'offset' | 'length'>;

/** Waits for `work`, at most `timeoutMs` if there is a limit; then it rejects with what `giveUp` answers. */
export function within<T>(
  timeoutMs: number | undefined,
  work: Promise<T>,
  giveUp: (timeoutMs: number) => unknown,
): Promise<T> {
  if (timeoutMs === undefined) return work;
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(giveUp(timeoutMs)), timeoutMs);
  });
  return Promise.race([work, late]).finally(() => clearTimeout(timer));
}

/** A condition for those that wait only for the driver to be abandoned. */
export function never(): boolean {
  return false;
}
