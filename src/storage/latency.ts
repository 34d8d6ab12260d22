import { checkArgument, checkOptions, type DeviceCommand, FUNCTION, rule } from '../model/index.js';
import { withText } from '../model/show.js';
import { type Storage, textOf } from './storage.js';
import { wrap } from './wrappers.js';

/**
 * Delays the answer to every command. A command is called at once, and only its answer comes later. So the order of effects,
 * and with it an ordered tag, is the storage's, even if answers overtake each other.
 *
 * @param latency milliseconds, at least 0; or a function from a command to milliseconds
 * @throws `INVALID_ARGUMENT` for an unknown option, and for a latency that is not such a number. If a function returned it,
 *   the command fails with this error and does not reach the storage; `INVALID_STORAGE` for what is no storage
 */
export function withLatency(
  storage: Storage,
  latency: number | ((command: DeviceCommand) => number),
  options: {
    /**
     * Resolves `ms` milliseconds later. Replace it to test without timers.
     *
     * @defaultValue a promise around `setTimeout`
     */
    readonly sleep?: (ms: number) => Promise<void>;
  } = {},
): Storage {
  const latencyOf = typeof latency === 'function' ? latency : constant(checked(latency));
  checkOptions(options, LATENCY_OPTIONS, 'withLatency');
  const { sleep = timeout } = options;
  const slow = wrap(storage, async (command, run) => {
    const ms = checked(latencyOf(command));
    try {
      return await run();
    } finally {
      await sleep(ms);
    }
  });
  const delay = typeof latency === 'function' ? 'by command' : `${latency} ms`;
  return withText(slow, () => `withLatency(${textOf(storage)}, ${delay})`);
}

const MILLISECONDS = /* @__PURE__ */ rule(
  (ms) => Number.isFinite(ms) && (ms as number) >= 0,
  'a finite number of milliseconds, at least 0',
);
const LATENCY_OPTIONS = { sleep: FUNCTION };

function constant(ms: number): () => number {
  return () => ms;
}

function checked(ms: number): number {
  checkArgument('the latency', ms, MILLISECONDS);
  return ms;
}

function timeout(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
