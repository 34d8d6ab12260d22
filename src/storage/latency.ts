import { type DeviceCommand, WriteBarrierError } from '../model/index.js';
import type { Storage } from './storage.js';
import { wrap } from './wrappers.js';

/** Options of `withLatency`. */
export interface LatencyOptions {
  /** Resolves `ms` milliseconds later; `setTimeout` by default. Replace it to test without. */
  readonly sleep?: (ms: number) => Promise<void>;
}

/**
 * Delays the answer to every command. A command takes effect when it is called, and only its answer
 * comes later: so the order of effects, and with it an ordered tag, is what the storage makes of
 * it, however the answers overtake each other.
 *
 * @param latency milliseconds, at least 0; or a function that says them for a command
 * @throws `INVALID_ARGUMENT` for a latency that is not such a number; where a function gave it, the
 *   command fails with it and has not reached the storage
 */
export function withLatency(
  storage: Storage,
  latency: number | ((command: DeviceCommand) => number),
  { sleep = timeout }: LatencyOptions = {},
): Storage {
  const latencyOf = typeof latency === 'number' ? constant(checked(latency)) : latency;
  return wrap(storage, async (command, run) => {
    const ms = checked(latencyOf(command));
    try {
      return await run();
    } finally {
      await sleep(ms);
    }
  });
}

function constant(ms: number): () => number {
  return () => ms;
}

function checked(ms: number): number {
  if (Number.isFinite(ms) && ms >= 0) return ms;
  throw new WriteBarrierError('INVALID_ARGUMENT', `${ms} is not a latency in milliseconds`);
}

function timeout(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
