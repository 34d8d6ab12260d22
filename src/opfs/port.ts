// A storage at the other end of a message port: a page uses what its worker holds.
//
// The worker calls `serveStorage(storage, port)`, the page `PortStorage.open(port)`. A port delivers in order, so commands reach
// the storage in the order in which the page called them, and its capabilities, ordered tags included, hold on both sides.
//
//   P1  Each command is answered once: with the storage's answer, or with CONNECTION_LOST when the port is closed.
//   P2  The bytes of a write are copied before the call returns, because a message is sent with whole buffers.
//   P3  The page's end makes a storage that ends with the port; `close` closes the storage of the worker as well.
//   P4  An error keeps its `code` and message on its way. Its cause is a text, because an error does not survive a message.
//
// A port does not always tell that its other end is gone: what was terminated is silent in some browsers. If it was the worker,
// commands wait for ever, and a scheduler's `close({ timeoutMs })` is the way out. If it was the page, the storage stays served, and
// the function that `serveStorage` returns is the way out.
//
// Not here: several users of one storage (a port has one), orders between ports.

import {
  type ByteRange,
  type Capabilities,
  type Extent,
  FlushFailedError,
  type FlushFlags,
  IoFailedError,
  type Storage,
  WriteBarrierError,
  type WriteFlags,
} from 'write-barrier';
import {
  checkArgument,
  checkRange,
  checkSize,
  describeStorage,
  isBytes,
  messageOf,
  rule,
  withText,
} from 'write-barrier/kit';

/** A `MessagePort`, of a browser or of Node. */
export interface Port {
  /** Sends a message; the buffers of the list move with it. */
  postMessage(message: unknown, transfer: ArrayBuffer[]): void;
  /** Listens for messages, and for the end of the port. */
  addEventListener(type: 'message' | 'close', listener: (event: { data?: unknown }) => void): void;
  /** Begins to deliver messages. */
  start(): void;
  /** Ends the port. */
  close(): void;
}

/** Commands that name a range, and are optional. */
const RANGED = ['discard', 'writeZeroes', 'blockStatus'] as const;
type Ranged = (typeof RANGED)[number];

/** What a page asks, without the number of the command. */
type Ask =
  | { readonly op: 'open' | 'close' }
  | { readonly op: 'read'; readonly offset: number; readonly length: number }
  | {
      readonly op: 'write';
      readonly offset: number;
      readonly data: Uint8Array<ArrayBuffer>[];
      readonly flags: WriteFlags;
    }
  | { readonly op: 'flush'; readonly flags: FlushFlags }
  | { readonly op: 'resize'; readonly size: number }
  | { readonly op: Ranged; readonly offset: number; readonly length: number };

type Question = Ask & { readonly id: number };

/** What a worker answers. */
interface Answer {
  readonly id: number;
  /** Of a read its bytes, as far as it got; of a write the number of bytes; of `open` the storage. */
  readonly value?: unknown;
  readonly error?: Told;
  /** Of a resize, whether it failed or not: the size now. */
  readonly size?: number;
}

/** P4 */
interface Told {
  readonly code: WriteBarrierError['code'];
  readonly message: string;
  /** The text of the cause; empty without one. */
  readonly cause: string;
  /** Of a failed flush. */
  readonly atRisk: readonly ByteRange[];
}

const BYTES = rule(isBytes, 'a Uint8Array');

const PORT = rule((value) => {
  const { postMessage, addEventListener, start, close } = Object(value);
  return [postMessage, addEventListener, start, close].every((one) => typeof one === 'function');
}, 'a MessagePort, of a MessageChannel');
const STORAGE = rule(
  (value) => typeof value === 'object' && value !== null,
  'a storage, or a promise of one',
);

const served = new WeakSet<Storage>();

/**
 * Answers the commands of one `PortStorage` with a storage, until the port is closed.
 *
 * @param storage the storage, or a promise of it: if that rejects, `PortStorage.open` rejects with the same error
 * @param port a `MessagePort`, which belongs to the storage from now on. A storage that is served at another port already
 *   makes `PortStorage.open` reject with `STORAGE_IN_USE`
 * @returns a function that closes the port, for browsers in which a port does not tell that its other end is gone. Its promise
 *   resolves when no command is under way; then the storage, which stays open, may be served at another port
 * @throws `INVALID_ARGUMENT` for what is no storage and no promise, and for what is no port; then nothing is served
 */
export function serveStorage(storage: Storage | Promise<Storage>, port: Port): () => Promise<void> {
  checkArgument('the storage', storage, STORAGE);
  checkArgument('the port', port, PORT);
  const underWay = new Set<Promise<void>>();
  let isOver = false;
  let held: Storage | undefined;
  const ready = Promise.resolve(storage).then((found) => {
    if (served.has(found)) {
      throw new WriteBarrierError(
        'STORAGE_IN_USE',
        'the storage is served at another port already',
      );
    }
    if (isOver) throw lost();
    served.add(found);
    held = found;
    return found;
  });
  // Its error is the answer to each command.
  ready.catch(() => {});
  const end = async (): Promise<void> => {
    isOver = true;
    port.close();
    while (underWay.size > 0) await Promise.all(underWay);
    if (held) served.delete(held);
    held = undefined;
  };
  port.addEventListener('close', end);
  port.addEventListener('message', ({ data }) => {
    if (isOver) return;
    const work = answering(ready, data as Question, port).finally(() => underWay.delete(work));
    underWay.add(work);
  });
  port.start();
  return end;
}

/** P1 */
async function answering(
  ready: Promise<Storage>,
  { id, ...ask }: Question,
  port: Port,
): Promise<void> {
  const answer = await ready
    .then((found) => answered(found, ask as Ask))
    .then(
      (value): Answer => ({ id, value }),
      (error): Answer => ({ id, error: told(error) }),
    );
  const { value } = answer;
  try {
    // The page asks only what a storage has that could be opened.
    const size = ask.op === 'resize' ? { size: (await ready).size } : {};
    const moved = value instanceof Uint8Array ? [value.buffer as ArrayBuffer] : [];
    port.postMessage({ ...answer, ...size }, moved);
  } catch (error) {
    // What the storage has answered is no message, a function for example; without this the page would wait for ever.
    port.postMessage({ id, error: told(error) } satisfies Answer, []);
  }
}

async function answered(storage: Storage, ask: Ask): Promise<unknown> {
  switch (ask.op) {
    case 'open': {
      const { size, capabilities } = storage;
      return { size, capabilities };
    }
    case 'close':
      return storage.close();
    case 'read': {
      const into = new Uint8Array(ask.length);
      const moved = await storage.read(ask.offset, into);
      return typeof moved === 'number' ? into.subarray(0, moved) : into;
    }
    case 'write': {
      const { offset, data, flags } = ask;
      const [only] = data;
      if (only && data.length === 1) return storage.write(offset, only, flags);
      return storage.writev?.(offset, data, flags);
    }
    case 'flush':
      return storage.flush(ask.flags);
    case 'resize':
      return storage.resize?.(ask.size);
    default:
      return storage[ask.op]?.(ask.offset, ask.length);
  }
}

function told(error: unknown): Told {
  const code = WriteBarrierError.is(error) ? error.code : 'IO_FAILED';
  const cause = error instanceof Error ? error.cause : undefined;
  return {
    code,
    message: messageOf(error),
    cause: cause === undefined ? '' : messageOf(cause),
    atRisk: error instanceof FlushFailedError ? error.atRisk : [],
  };
}

function heard({ code, message, cause: text, atRisk }: Told): WriteBarrierError {
  const options = text === '' ? {} : { cause: new Error(text) };
  if (code === 'FLUSH_FAILED') return new FlushFailedError(atRisk, options.cause, message);
  if (code === 'IO_FAILED') return new IoFailedError(message, options);
  return new WriteBarrierError(code, message, options);
}

interface Waiting {
  /** Of a resize: hears the size. */
  readonly sized: ((size: number) => void) | undefined;
  readonly resolve: (value: never) => void;
  readonly reject: (error: unknown) => void;
}

/** A storage that a worker serves at the other end of a port (`serveStorage`). */
export class PortStorage implements Storage, AsyncDisposable {
  readonly capabilities: Capabilities;

  declare readonly writev?: (
    offset: number,
    data: readonly Uint8Array[],
    flags: WriteFlags,
  ) => Promise<number | void>;
  declare readonly discard?: (offset: number, length: number) => Promise<void>;
  declare readonly writeZeroes?: (offset: number, length: number) => Promise<void>;
  declare readonly blockStatus?: (offset: number, length: number) => Promise<readonly Extent[]>;
  declare readonly resize?: (size: number) => Promise<void>;

  #size: number;
  readonly #line: Line;
  #closed: Promise<void> | undefined;

  /**
   * Asks the other end for its storage.
   *
   * @param port a `MessagePort` whose other end a worker serves with `serveStorage`; it belongs to the storage from now on
   * @throws `CONNECTION_LOST` if the port is closed before it answers; what the opening of the storage at the other end throws
   */
  static async open(port: Port): Promise<PortStorage> {
    checkArgument('the port', port, PORT);
    const line = new Line(port);
    try {
      const { size, capabilities } = await line.ask<Pick<Storage, 'size' | 'capabilities'>>({
        op: 'open',
      });
      return new PortStorage(line, size, Object.freeze(capabilities));
    } catch (error) {
      // A port that is left open keeps a process of Node alive, and the other end waiting.
      line.end();
      throw error;
    }
  }

  private constructor(line: Line, size: number, capabilities: Capabilities) {
    this.#line = line;
    this.#size = size;
    this.capabilities = capabilities;
    if (capabilities.writev) {
      this.writev = (offset, data, flags) => this.#write(offset, data, flags);
    }
    for (const op of RANGED) {
      if (capabilities[op]) {
        this[op] = (offset: number, length: number) => this.#range<never>(op, offset, length);
      }
    }
    if (capabilities.resize) this.resize = (bytes) => this.#resize(bytes);
    withText(this, () => {
      const end = this.#closed ? ', closed' : '';
      return `PortStorage { ${describeStorage(this)}${end} }`;
    });
  }

  /** In bytes. */
  get size(): number {
    return this.#size;
  }

  /** @throws `INVALID_ARGUMENT`, `CLOSED`, `OUT_OF_RANGE`, `UNALIGNED`, `CONNECTION_LOST`; what the storage throws */
  async read(offset: number, into: Uint8Array): Promise<number> {
    checkArgument('into', into, BYTES);
    const length = into.byteLength;
    this.#check(offset, length);
    const data = await this.#line.ask<Uint8Array>({ op: 'read', offset, length });
    into.set(data);
    return data.byteLength;
  }

  /** @throws as `read` */
  write(offset: number, data: Uint8Array, flags: WriteFlags): Promise<number | void> {
    return this.#write(offset, [data], flags);
  }

  /** @throws `CLOSED`, `CONNECTION_LOST`; what the storage throws */
  async flush(flags: FlushFlags): Promise<void> {
    this.#check(0, 0);
    await this.#line.ask({ op: 'flush', flags });
  }

  /** Closes the storage of the worker, and the port. Later calls answer the same. */
  close(): Promise<void> {
    this.#closed ??= this.#line.ask<void>({ op: 'close' }).finally(() => this.#line.end());
    return this.#closed;
  }

  /** The same as `close`. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #write(
    offset: number,
    data: readonly Uint8Array[],
    { fua, tag }: WriteFlags,
  ): Promise<number | void> {
    for (const bytes of data) checkArgument('data', bytes, BYTES);
    this.#check(
      offset,
      data.reduce((sum, { byteLength }) => sum + byteLength, 0),
    );
    const copies = data.map((bytes) => new Uint8Array(bytes));
    return this.#line.ask({ op: 'write', offset, data: copies, flags: { fua, tag } });
  }

  async #range<T>(op: Ranged, offset: number, length: number): Promise<T> {
    this.#check(offset, length);
    return this.#line.ask<T>({ op, offset, length });
  }

  async #resize(size: number): Promise<void> {
    this.#check(0, 0);
    checkSize(this, size);
    await this.#line.ask({ op: 'resize', size }, (now) => {
      this.#size = now;
    });
  }

  #check(offset: number, length: number): void {
    if (this.#closed) throw new WriteBarrierError('CLOSED', 'the storage is closed');
    checkRange(this, offset, length);
  }
}

/** Questions and their answers (P1). */
class Line {
  readonly #port: Port;
  readonly #waiting = new Map<number, Waiting>();
  #next = 0;
  #ended = false;

  constructor(port: Port) {
    this.#port = port;
    port.addEventListener('message', ({ data }) => this.#hear(data as Answer));
    port.addEventListener('close', () => this.end());
    port.start();
  }

  async ask<T>(ask: Ask, sized?: (size: number) => void): Promise<T> {
    if (this.#ended) throw lost();
    const id = this.#next;
    this.#next += 1;
    return new Promise<T>((resolve, reject) => {
      this.#waiting.set(id, { sized, resolve, reject });
      const buffers = ask.op === 'write' ? ask.data.map(({ buffer }) => buffer) : [];
      this.#port.postMessage({ id, ...ask }, buffers);
    });
  }

  #hear({ id, value, error, size }: Answer): void {
    const waiting = this.#waiting.get(id);
    this.#waiting.delete(id);
    if (size !== undefined) waiting?.sized?.(size);
    if (error) waiting?.reject(heard(error));
    else waiting?.resolve(value as never);
  }

  end(): void {
    this.#ended = true;
    this.#port.close();
    for (const { reject } of this.#waiting.values()) reject(lost());
    this.#waiting.clear();
  }
}

function lost(): WriteBarrierError {
  return new WriteBarrierError(
    'CONNECTION_LOST',
    'the port to the storage was closed; whether the command took effect is not known',
  );
}
