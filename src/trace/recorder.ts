import type { Observer, TraceEvent } from '../model/index.js';

/** Options of a recorder. */
export interface RecorderOptions {
  /** Events to keep, 1 or more; the oldest go first. Without it all are kept. */
  readonly eventsMax?: number;
}

/** Keeps the events of a scheduler or of a traced storage: pass `observer` where one is asked for. */
export class TraceRecorder {
  /** The `observer` option of a scheduler, or the second argument of `tracing`. */
  readonly observer: Observer;
  readonly #eventsMax: number;
  #events: TraceEvent[] = [];
  #dropped = 0;

  constructor(options: RecorderOptions = {}) {
    this.#eventsMax = options.eventsMax ?? Number.POSITIVE_INFINITY;
    this.observer = (event) => {
      this.#events.push(event);
      // Cut rarely, so that an event costs the same however many are kept.
      if (this.#events.length >= 2 * this.#eventsMax) this.#cut();
    };
  }

  /** The events that are kept, oldest first. */
  get events(): readonly TraceEvent[] {
    this.#cut();
    return [...this.#events];
  }

  /** How many have gone. */
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
