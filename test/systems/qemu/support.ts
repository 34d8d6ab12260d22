// A process of QEMU 2009 over disks that answer when the test says so, driven in the text notation.

import {
  type Capabilities,
  parseProgram,
  type Storage,
  type TraceEvent,
  WriteBarrierError,
} from 'write-barrier';
import { checkTrace } from 'write-barrier/testing';
import type { CancelAnswer } from '../../../src/systems/qemu/aio.js';
import type { AioHandle } from '../../../src/systems/qemu/posix-aio.js';
import {
  type QemuDiskOptions,
  type QemuOptions,
  QemuProcess,
} from '../../../src/systems/qemu/process.js';
import { BLOCK, ManualStorage, settled } from '../../scheduler/world.js';

/** Whatever takes requests and has them back: the model's disks, and our adapter. */
export interface Aio {
  submit(...args: Parameters<ReturnType<QemuProcess['open']>['submit']>): AioHandle;
  cancel(handle: AioHandle): CancelAnswer;
}

/** A submitted request and how it ended. */
export interface Told {
  readonly text: string;
  readonly handle: AioHandle;
  /** `pending`, `done`, `canceled`, or the code of its error. */
  outcome: string;
}

/** A disk, its trace, and what became of the requests. */
export class Guest {
  readonly events: TraceEvent[];
  readonly aio: Aio;
  readonly told: Told[] = [];

  constructor(aio: Aio, events: TraceEvent[]) {
    this.aio = aio;
    this.events = events;
  }

  /** Submits a program, one request after the other without waiting. */
  submit(program: string): void {
    const words = program.split(' ');
    for (const [i, request] of parseProgram(program).entries()) {
      const data = request.kind === 'write' ? new Uint8Array(request.length).fill(1) : undefined;
      const handle = this.aio.submit(request, data);
      const told: Told = { text: words[i] as string, handle, outcome: 'pending' };
      this.told.push(told);
      handle.result.then(
        () => {
          told.outcome = 'done';
        },
        (error) => {
          const canceled = error instanceof DOMException && error.name === 'AbortError';
          const code = WriteBarrierError.is(error) ? error.code : String(error);
          told.outcome = canceled ? 'canceled' : code;
        },
      );
    }
  }

  cancel(text: string): CancelAnswer {
    const found = this.told.find((told) => told.text === text);
    if (!found) throw new Error(`${text} was not submitted`);
    return this.aio.cancel(found.handle);
  }

  /** `w0:done b1:pending` and so on. */
  get outcomes(): string {
    return this.told.map(({ text, outcome }) => `${text}:${outcome}`).join(' ');
  }

  /** The rules that the trace breaks, with the requests. */
  get broken(): string[] {
    return checkTrace(this.events, 'DRAIN_FLUSH').map(({ rule, text }) => `${rule} ${text}`);
  }
}

/** The disk of a guest in a process of its own. */
export function qemu(
  options: QemuOptions = {},
  capabilities: Partial<Capabilities> = {},
): { readonly device: ManualStorage; readonly guest: Guest; readonly process: QemuProcess } {
  const process = new QemuProcess(options);
  const device = new ManualStorage(capabilities);
  return { device, guest: open(process, device), process };
}

/** One more disk of the process. */
export function open(process: QemuProcess, storage: Storage, more: QemuDiskOptions = {}): Guest {
  const events: TraceEvent[] = [];
  const observer = (event: TraceEvent): void => void events.push(event);
  return new Guest(process.open(storage, { ...more, observer }), events);
}

export { BLOCK, settled };
