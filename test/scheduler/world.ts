// A scheduler over a device that answers only when the test says so, both driven in the text notation.

import {
  type Capabilities,
  type DeviceCommand,
  type FlushFlags,
  formatRequest,
  formatSteps,
  IoScheduler,
  type ModeName,
  parseProgram,
  type Request,
  type SchedulerOptions,
  type Storage,
  WriteBarrierError,
  type WriteFlags,
} from 'write-barrier';

export const BLOCK = 4096;

export const VOLATILE: Capabilities = {
  blockSize: BLOCK,
  cache: 'volatile',
  flush: true,
  fua: true,
  orderedTags: true,
  writev: true,
  discard: true,
  writeZeroes: true,
};

/** Every microtask that is due has run. */
export function settled(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

interface Pending {
  readonly text: string;
  readonly resolve: () => void;
  readonly reject: (error: Error) => void;
}

/** A device whose commands wait for the test. */
export class ManualStorage implements Storage {
  readonly size: number = 1024 * BLOCK;
  readonly capabilities: Capabilities;
  readonly issued: string[] = [];
  closed = false;
  #pending: Pending[] = [];

  constructor(capabilities: Partial<Capabilities> = {}) {
    this.capabilities = { ...VOLATILE, ...capabilities };
  }

  /** The commands that wait for an answer, oldest first. */
  get inFlight(): string {
    return this.#pending.map(({ text }) => text).join(' ');
  }

  /** All commands so far. */
  get log(): string {
    return this.issued.join(' ');
  }

  /** Answers the oldest command of each text; without one, all that are in flight. */
  async answer(...texts: string[]): Promise<void> {
    const wanted = texts.length > 0 ? texts : this.#pending.map(({ text }) => text);
    for (const text of wanted) this.#take(text).resolve();
    await settled();
  }

  async fail(text: string, message = 'EIO'): Promise<void> {
    this.#take(text).reject(new Error(message));
    await settled();
  }

  /** Answers until nothing is in flight. */
  async drain(): Promise<void> {
    while (this.#pending.length > 0) await this.answer();
  }

  read(offset: number, into: Uint8Array): Promise<void> {
    return this.#command('read', offset, into.byteLength);
  }

  write(offset: number, data: Uint8Array, flags: WriteFlags): Promise<void> {
    return this.#command('write', offset, data.byteLength, flags);
  }

  writev(offset: number, data: readonly Uint8Array[], flags: WriteFlags): Promise<void> {
    const length = data.reduce((sum, part) => sum + part.byteLength, 0);
    return this.#command('write', offset, length, flags);
  }

  flush(flags: FlushFlags): Promise<void> {
    return this.#command('flush', 0, 0, { fua: false, tag: flags.tag });
  }

  discard(offset: number, length: number): Promise<void> {
    return this.#command('discard', offset, length);
  }

  writeZeroes(offset: number, length: number): Promise<void> {
    return this.#command('writeZeroes', offset, length);
  }

  close(): void {
    this.closed = true;
  }

  #command(
    op: DeviceCommand['op'],
    offset: number,
    length: number,
    { fua, tag }: WriteFlags = { fua: false, tag: 'simple' },
  ): Promise<void> {
    const text = formatSteps([{ kind: 'command', op, offset, length, tag, fua }]);
    this.issued.push(text);
    return new Promise((resolve, reject) => this.#pending.push({ text, resolve, reject }));
  }

  #take(text: string): Pending {
    const index = this.#pending.findIndex((command) => command.text === text);
    const [command] = index < 0 ? [] : this.#pending.splice(index, 1);
    if (!command) throw new Error(`${text} is not in flight; in flight: ${this.inFlight}`);
    return command;
  }
}

/** A submitted request and how it ended. */
export interface Tracked {
  readonly text: string;
  readonly cancel: () => Promise<void>;
  /** `pending`, `done`, `cancelled`, or the code of its error. */
  outcome: string;
  error: unknown;
}

/** A scheduler with `program` submitted at once, and its device. */
export class World {
  readonly device: ManualStorage;
  readonly disk: IoScheduler;

  constructor(
    {
      device: traits,
      ...options
    }: SchedulerOptions & { readonly device?: Partial<Capabilities> } = {},
    device: ManualStorage = new ManualStorage(traits),
  ) {
    this.device = device;
    this.disk = new IoScheduler(device, options);
  }

  /** Submits a program, one request after the other without waiting. */
  submit(program: string): Tracked[] {
    return parseProgram(program).map((request) => track(this.disk, request));
  }

  /** Submits a single request. */
  one(request: string): Tracked {
    const [tracked] = this.submit(request);
    if (!tracked) throw new Error(`${request} is not a request`);
    return tracked;
  }
}

/** A world in any mode, safe or not, in pieces. */
export function worldOf(
  mode: ModeName,
  options: SchedulerOptions = {},
): {
  readonly device: ManualStorage;
  readonly disk: IoScheduler;
  readonly one: (text: string) => Tracked;
} {
  const world = new World({ mode, allowUnsafe: true, ...options });
  const { device, disk } = world;
  return { device, disk, one: (text: string) => world.one(text) };
}

/** `w0:done b1:pending` and so on. */
export function outcomes(tracked: readonly Tracked[]): string {
  return tracked.map(({ text, outcome }) => `${text}:${outcome}`).join(' ');
}

/** Submits a request and watches how it ends. */
export function track(disk: IoScheduler, request: Request, fill = 1): Tracked {
  const controller = new AbortController();
  const tracked: Tracked = {
    text: formatRequest(request),
    outcome: 'pending',
    error: undefined,
    cancel: () => {
      controller.abort();
      return settled();
    },
  };
  submit(disk, request, controller.signal, fill).then(
    () => {
      tracked.outcome = 'done';
    },
    (error) => {
      tracked.error = error;
      const code = WriteBarrierError.is(error) ? error.code : String(error);
      tracked.outcome = error === controller.signal.reason ? 'cancelled' : code;
    },
  );
  return tracked;
}

/** Calls the method of the scheduler that a request stands for. */
export function submit(
  disk: IoScheduler,
  request: Request,
  signal?: AbortSignal,
  fill = 1,
): Promise<Uint8Array | void> {
  switch (request.kind) {
    case 'read':
      return disk.read(request.offset, request.length, { signal });
    case 'write': {
      const { offset, length, barrier, preflush, fua } = request;
      const data = new Uint8Array(length).fill(fill);
      return disk.write(offset, data, { barrier, preflush, fua, signal });
    }
    case 'flush':
      return disk.flush({ signal });
    case 'barrier':
      return disk.barrier({ signal });
    case 'discard':
      return disk.discard(request.offset, request.length, { signal });
    case 'writeZeroes':
      return disk.writeZeroes(request.offset, request.length, { signal });
  }
}
