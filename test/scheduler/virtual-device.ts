// A device for property tests: what it does with a command, and when, is drawn from a stream of choices, so that a
// run is repeated by its seed alone. Data takes effect at the call or at the answer, whichever is drawn; with ordered
// tags always at the call, because that is what a tag promises.

import type {
  Capabilities,
  DeviceCommand,
  FlushFlags,
  Storage,
  Transfer,
  WriteFlags,
} from 'write-barrier';
import { BLOCK } from './world.js';

/** Numbers from 0 up to, not including, `of`. */
export type Choose = (of: number) => number;

interface Pending {
  readonly resolve: (moved: void | number) => void;
  readonly reject: (error: unknown) => void;
  readonly effect: () => void;
  readonly length: number;
}

export class VirtualDevice implements Storage {
  readonly capabilities: Capabilities;
  readonly medium: Uint8Array;
  readonly #choose: Choose;
  readonly #failures: boolean;
  #pending: Pending[] = [];

  constructor(capabilities: Capabilities, blocks: number, choose: Choose, failures: boolean) {
    this.capabilities = capabilities;
    this.medium = new Uint8Array(blocks * BLOCK);
    this.#choose = choose;
    this.#failures = failures;
  }

  get size(): number {
    return this.medium.length;
  }

  get inFlight(): number {
    return this.#pending.length;
  }

  /** Answers one of the pending commands, well or badly. */
  answerOne(): void {
    const [command] = this.#pending.splice(this.#choose(this.#pending.length), 1);
    if (!command) return;
    const fate = this.#failures ? this.#choose(12) : 3;
    if (fate === 0) command.reject(new Error('EIO'));
    else if (fate === 1) command.reject(undefined);
    else if (fate === 2 && command.length > 0) command.resolve(command.length - BLOCK);
    else {
      command.effect();
      command.resolve(fate % 2 === 0 ? undefined : command.length);
    }
  }

  read(offset: number, into: Uint8Array): Transfer {
    return this.#command(into.length, 'simple', () =>
      into.set(this.medium.subarray(offset, offset + into.length)),
    );
  }

  write(offset: number, data: Uint8Array, flags: WriteFlags): Transfer {
    return this.#command(data.length, flags.tag, () => this.medium.set(data, offset));
  }

  writev(offset: number, data: readonly Uint8Array[], flags: WriteFlags): Transfer {
    return this.write(offset, Buffer.concat(data), flags);
  }

  flush(flags: FlushFlags): void | Promise<void> {
    return this.#command(0, flags.tag, () => {}) as void | Promise<void>;
  }

  discard(offset: number, length: number): void | Promise<void> {
    return this.writeZeroes(offset, length);
  }

  writeZeroes(offset: number, length: number): void | Promise<void> {
    const effect = () => void this.medium.fill(0, offset, offset + length);
    return this.#command(length, 'simple', effect) as void | Promise<void>;
  }

  close(): void {}

  #command(length: number, tag: DeviceCommand['tag'], effect: () => void): Transfer {
    const fate = this.#choose(this.#failures ? 16 : 15);
    if (fate === 15) throw new Error('thrown at once');
    const early = this.capabilities.orderedTags || tag === 'ordered' || fate % 2 === 0;
    if (early) effect();
    if (fate === 14) {
      if (!early) effect();
      return undefined;
    }
    return new Promise((resolve, reject) => {
      this.#pending.push({ resolve, reject, effect: early ? () => {} : effect, length });
    });
  }
}
