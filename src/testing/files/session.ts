// A folder below which the calls of node:fs are seen while something runs.
//
//   N1  A call has its effect at once, on the real folder and in the order of the calls, whether it is synchronous or not.
//   N2  A caller of an asynchronous call has its answer later, and after the answers of all earlier calls, so that a program
//       that is run twice does the same twice.
//   N3  What no path and no descriptor of the folder occurs in goes to the original.
//   N4  With a seed a call has its effect when it is drawn among those that wait, and its answer then. Calls of one descriptor keep
//       their order, because a handle closes after what it was asked before.
//
// With a shadow the session is a recording. With a folder to recover in, paths are laid down there before they are used.

import { AsyncLocalStorage } from 'node:async_hooks';
import { resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { type Random, seededRandom } from '../choices.js';
import { BOOT, BOOT_PATH } from './asks.js';
import { real, shared } from './originals.js';
import { insideOf, type Place, type ShadowTree } from './shadow.js';

/**
 * How much of a path a call needs: that it is there; its size, too; its bytes, too. Of a folder: the names in it; all names below
 * it; all names and bytes.
 */
export type Need = 'name' | 'size' | 'data' | 'names' | 'shape' | 'tree';

/** Lays down what a recovery looks at, before it looks. Paths are those of the folder, `/` for the folder itself. */
export interface Landing {
  touch(path: string, need: Need, follow: boolean): void;
  /** A name was removed, or what it stood for was replaced. */
  removed(path: string): void;
  moved(from: string, to: string): void;
  /** The file has no bytes of the crash state any more. */
  emptied(path: string): void;
}

/** What is known of an open descriptor. */
export interface OpenFile {
  readonly inode: number;
  readonly isAppending: boolean;
  /** What follows each write. */
  readonly sync: 'fsync' | 'fdatasync' | undefined;
  /** Where the next write or read without a position is, in bytes. */
  at: number;
}

/** The number of the call site of the call that goes on in callbacks. */
const callSites = new AsyncLocalStorage<number>();
export const outerSite = (): number | undefined => callSites.getStore();

interface SessionOptions {
  readonly shadow?: ShadowTree | undefined;
  readonly landing?: Landing;
  readonly seed?: number;
  readonly asked?: Set<string> | undefined;
}

/** A call that waits for its turn. */
interface Waiting {
  readonly descriptor: unknown;
  run(): Promise<void>;
}

/** See the essay above. */
export class Session {
  /** The real path of the folder. */
  readonly root: string;
  /** The path that it was given by, which the program may use as well. */
  readonly #alias: string;
  readonly shadow: ShadowTree | undefined;
  readonly landing: Landing | undefined;
  /** By descriptor. */
  readonly files: Map<number, OpenFile> = new Map();
  readonly asked: Set<string> | undefined;
  #answers: Promise<void> = Promise.resolve();
  readonly #random: Random | undefined;
  #waiting: readonly Waiting[] = [];

  /**
   * @param seed the order in which calls that wait at the same time take effect: with 0 that of the calls (N1), else drawn (N4)
   * @param asked gets what a recovery asks that a crash state does not have
   */
  constructor(root: string, { shadow, landing, seed = 0, asked }: SessionOptions) {
    this.asked = asked;
    this.#random = seed === 0 ? undefined : seededRandom(seed);
    this.#alias = resolve(root);
    this.root = real.realpathSync(root);
    this.shadow = shadow;
    this.landing = landing;
  }

  /** A path as one of the folder; undefined for what is no path, or one outside. */
  inside(path: unknown): string | undefined {
    const text = textOf(path);
    if (text === undefined) return undefined;
    const full = resolve(text);
    return insideOf(this.root, full) ?? insideOf(this.#alias, full);
  }

  /** Before a call uses a path. */
  touch(path: unknown, need: Need, follow = true): void {
    const inside = this.inside(path);
    if (inside !== undefined) this.landing?.touch(inside, need, follow);
  }

  /** After a call has removed or replaced a name, or emptied a file. */
  changed(path: unknown, how: 'removed' | 'emptied'): void {
    const inside = this.inside(path);
    if (inside !== undefined) this.landing?.[how](inside);
  }

  /** After a rename. */
  moved(from: unknown, to: unknown): void {
    const [source, target] = [this.inside(from), this.inside(to)];
    if (source !== undefined && target !== undefined) this.landing?.moved(source, target);
    else this.changed(source === undefined ? to : from, 'removed');
  }

  /** Where a path leads to in the shadow; undefined without one, and for a path that leads out. */
  place(path: unknown, follow: boolean): Place | undefined {
    const inside = this.inside(path);
    return inside === undefined ? undefined : this.shadow?.place(inside, follow);
  }

  /** The file of a descriptor, if it is one of the folder. */
  file(descriptor: unknown): OpenFile | undefined {
    return typeof descriptor === 'number' ? this.files.get(descriptor) : undefined;
  }

  /** A synchronous call: its effect, its answer. */
  now<T>(effect: () => T): T {
    this.shadow?.beginCall();
    try {
      return effect();
    } finally {
      this.shadow?.end(this.shadow.current);
    }
  }

  /**
   * An asynchronous call: its effect at once (N1), its answer when it is its turn (N2).
   *
   * @param effect may return a promise of what the system does later, and then the answer waits for that
   * @param descriptor calls with the same one keep their order
   * @throws what Node throws at once: that arguments are not of their type
   */
  later<T>(
    effect: () => T | Promise<T>,
    answer: (outcome: Outcome<T>) => void,
    descriptor?: unknown,
  ): void {
    if (this.#random) {
      this.#wait(effect, answer, descriptor, this.#random);
      return;
    }
    this.shadow?.beginCall();
    const outcome = outcomeOf(effect);
    if ('error' in outcome && isMisuse(outcome.error)) throw outcome.error;
    const operation = this.shadow?.current;
    const settled = 'value' in outcome ? settledOf(outcome.value) : outcome;
    this.#answers = this.#answers
      .then(() => settled)
      .then(
        (told) =>
          new Promise((next) => {
            shared.setImmediate(() => {
              this.shadow?.end(operation);
              next();
              answer(told);
            });
          }),
      );
  }

  /** Effect and answer when it is drawn among those that wait (N4). */
  #wait<T>(
    effect: () => T | Promise<T>,
    answer: (outcome: Outcome<T>) => void,
    descriptor: unknown,
    random: Random,
  ): void {
    const site = this.shadow?.callSite();
    const run = async (): Promise<void> => {
      this.shadow?.beginCall();
      const made = (): Outcome<T | Promise<T>> => outcomeOf(effect);
      const outcome = site === undefined ? made() : callSites.run(site, made);
      const operation = this.shadow?.current;
      const told = 'value' in outcome ? await settledOf(outcome.value) : outcome;
      this.shadow?.end(operation);
      answer(told);
    };
    this.#waiting = [...this.#waiting, { descriptor, run }];
    if (this.#waiting.length > 1) return;
    const next = (): void => {
      const isFirst = ({ descriptor: own }: Waiting, n: number): boolean =>
        typeof own !== 'number' || this.#waiting.findIndex((one) => one.descriptor === own) === n;
      const ready = this.#waiting.filter(isFirst);
      const drawn = ready[Math.floor(random() * ready.length)];
      drawn?.run().finally(() => {
        this.#waiting = this.#waiting.filter((one) => one !== drawn);
        if (this.#waiting.length > 0) shared.setImmediate(next);
      });
    };
    shared.setImmediate(next);
  }

  /** The same with a promise, which is rejected for wrong arguments too. */
  promise<T>(effect: () => T | Promise<T>, descriptor?: unknown): Promise<T> {
    return new Promise((resolvePromise, reject) => {
      const answer = (outcome: Outcome<T>): void =>
        'error' in outcome ? reject(outcome.error) : resolvePromise(outcome.value);
      this.later(effect, answer, descriptor);
    });
  }

  /** Runs what makes calls later on, in callbacks of its own: they have the call site of the current call. */
  onBehalf<T>(run: () => T): T {
    if (!this.shadow) return run();
    return callSites.run(this.shadow.callSite(), run);
  }
}

/** What a call has returned or thrown. */
export type Outcome<T> = { readonly value: T } | { readonly error: unknown };

function outcomeOf<T>(effect: () => T): Outcome<T> {
  try {
    return { value: effect() };
  } catch (error) {
    return { error };
  }
}

async function settledOf<T>(value: T | Promise<T>): Promise<Outcome<T>> {
  try {
    return { value: await value };
  } catch (error) {
    return { error };
  }
}

const isMisuse = (error: unknown): boolean =>
  /^ERR_(?:INVALID_ARG|OUT_OF_RANGE|INVALID_THIS)/.test(
    String((error as { code?: unknown })?.code),
  );

function textOf(path: unknown): string | undefined {
  if (typeof path === 'string') return path;
  if (path instanceof Uint8Array) return Buffer.from(path).toString();
  return path instanceof URL && path.protocol === 'file:' ? fileURLToPath(path) : undefined;
}

/** Those of other copies of this code are of the same shape. */
const sessions = shared.sessions as Set<Session>;

export const openSession = (session: Session): void => void sessions.add(session);
export const closeSession = (session: Session): void => void sessions.delete(session);

/** The session that has one of these paths or descriptors. */
export function sessionOf(...pathsOrDescriptors: readonly unknown[]): Session | undefined {
  if (sessions.size === 0 || shared.quiet > 0) return undefined;
  for (const session of sessions) {
    if (session.asked && pathsOrDescriptors[0] === BOOT_PATH)
      session.asked.add(`the recovery reads what a crash state does not have: ${BOOT}`);
    const isItsOwn = (at: unknown): boolean =>
      typeof at === 'number' ? session.files.has(at) : session.inside(at) !== undefined;
    if (pathsOrDescriptors.some(isItsOwn)) return session;
  }
  return undefined;
}
