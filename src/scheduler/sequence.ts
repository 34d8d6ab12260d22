import {
  type DeviceTraits,
  initialState,
  lowerSteps,
  type ModeName,
  type Step,
  transition,
} from '../model/index.js';
import type { Entry } from './entry.js';

/** One barrier on its way: the steps that its mode made of it, and how far they are. */
export class Sequence<C> {
  /** The barrier, or what stands for it once it is cancelled. */
  entry: Entry<C>;
  /** The mode that it follows to its end. */
  readonly mode: ModeName;
  #steps: readonly Step[];
  #index = 0;
  /** Its commands at the device. */
  outstanding = 0;
  payloadIssued = false;
  /** The first thing that went wrong. */
  error: unknown = undefined;

  private constructor(entry: Entry<C>, steps: readonly Step[], mode: ModeName) {
    this.entry = entry;
    this.#steps = steps;
    this.mode = mode;
  }

  /** Undefined where the mode refuses the barrier. */
  static of<C>(entry: Entry<C>, mode: ModeName, device: DeviceTraits): Sequence<C> | undefined {
    // The scheduler knows what is in flight, so no drain is left out on the ground of what was issued.
    const { steps } = transition({ ...initialState(mode), drained: false }, entry.request);
    if (steps[0]?.kind === 'refuse') return undefined;
    return new Sequence(entry, lowerSteps(steps, device), mode);
  }

  /** The step that comes next; undefined when all have been issued or passed. */
  get step(): Step | undefined {
    return this.#steps[this.#index];
  }

  /** The first step is still to come. */
  get atStart(): boolean {
    return this.#index === 0;
  }

  /** It waits for the device before it issues, so a failure can stop it. */
  get drains(): boolean {
    return this.#steps[0]?.kind === 'drain';
  }

  /** A command has been issued. */
  get begun(): boolean {
    return this.#steps.slice(0, this.#index).some((step) => step.kind === 'command');
  }

  /** Nothing is left to issue, nothing is at the device. */
  get ended(): boolean {
    return this.step === undefined && this.outstanding === 0;
  }

  advance(): void {
    this.#index += 1;
  }

  /** Without its payload a barrier still orders: its drains and its preflush remain. */
  dropPayload(): void {
    this.#steps = this.#steps.filter(
      (step, i) => i < this.#index || step.kind !== 'command' || step.stage === 'preflush',
    );
  }

  /** Nothing further is issued. */
  cut(): void {
    this.#steps = this.#steps.slice(0, this.#index);
  }
}
