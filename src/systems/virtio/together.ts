/** Waits for all, so that nothing runs on when one has failed; throws the first failure. */
export async function together(calls: readonly Promise<unknown>[]): Promise<void> {
  for (const end of await Promise.allSettled(calls)) {
    if (end.status === 'rejected') throw end.reason;
  }
}
