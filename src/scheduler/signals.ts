/**
 * Who is to be cancelled by which signal. One listener a signal, however many requests share it: all of them are
 * taken out before anything else happens, so a commit mark cannot slip out between its record and itself.
 */
export class Signals<T> {
  readonly #watched = new Map<
    AbortSignal,
    { readonly members: Set<T>; readonly listener: () => void }
  >();
  readonly #onAbort: (members: Iterable<T>) => void;

  constructor(onAbort: (members: Iterable<T>) => void) {
    this.#onAbort = onAbort;
  }

  watch(signal: AbortSignal, member: T): void {
    const known = this.#watched.get(signal);
    if (known) {
      known.members.add(member);
      return;
    }
    const members = new Set([member]);
    const listener = (): void => this.#onAbort(members);
    this.#watched.set(signal, { members, listener });
    signal.addEventListener('abort', listener);
  }

  forget(signal: AbortSignal, member: T): void {
    const known = this.#watched.get(signal);
    if (!known?.members.delete(member) || known.members.size > 0) return;
    this.#watched.delete(signal);
    signal.removeEventListener('abort', known.listener);
  }
}
