import {
  checkOptions,
  FUNCTION,
  type Observer,
  rule,
  type TraceEvent,
  wholeNumber,
} from '../model/index.js';
import { withText } from '../model/show.js';

/** An event, with its time if the recorder has a clock. */
export type TimedEvent = TraceEvent & {
  /** When it was recorded, in milliseconds of the recorder's clock; absent without one. */
  readonly atMs?: number;
};

const RECORDER_OPTIONS = {
  now: FUNCTION,
  eventsMax: /* @__PURE__ */ rule(
    (value) => value === Number.POSITIVE_INFINITY || wholeNumber(1).holds(value),
    'a whole number of at least 1, or Infinity',
  ),
};

/** Keeps the events of a scheduler, or of a storage under `tracing`: pass its `observer` to either. */
export class TraceRecorder {
  /** The `observer` option of a scheduler, or the second argument of `tracing`. */
  readonly observer: Observer;
  readonly #eventsMax: number;
  #events: TimedEvent[] = [];
  #dropped = 0;

  /** @throws `INVALID_ARGUMENT` for an unknown option, or one out of range */
  constructor(
    options: {
      /**
       * Maximum events to keep, at least 1; older ones are dropped.
       *
       * @defaultValue no limit
       */
      readonly eventsMax?: number;
      /**
       * The clock, in milliseconds, such as `() => performance.now()`. With it each event that is kept has the time, `atMs`.
       *
       * @defaultValue none, because the core has no clock
       */
      readonly now?: () => number;
    } = {},
  ) {
    checkOptions(options, RECORDER_OPTIONS, 'TraceRecorder');
    this.#eventsMax = options.eventsMax ?? Number.POSITIVE_INFINITY;
    const { now } = options;
    this.observer = (event) => {
      this.#events.push(now ? { ...event, atMs: now() } : event);
      // Cut rarely, so that the cost of an event does not depend on how many are kept.
      if (this.#events.length >= 2 * this.#eventsMax) this.#cut();
    };
    withText(
      this,
      () => `TraceRecorder { ${this.events.length} events, ${this.#dropped} dropped }`,
    );
  }

  /** The events that are kept, oldest first. */
  get events(): readonly TimedEvent[] {
    this.#cut();
    return [...this.#events];
  }

  /** How many events were dropped. */
  get dropped(): number {
    this.#cut();
    return this.#dropped;
  }

  #cut(): void {
    const excess = this.#events.length - this.#eventsMax;
    if (excess <= 0) return;
    this.#dropped += excess;
    this.#events = this.#events.slice(excess);
  }
}
