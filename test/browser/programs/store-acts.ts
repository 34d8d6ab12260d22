// Drives the worker of the store; the act is in the address.

interface Answer {
  readonly values: readonly (readonly [key: string, value: string])[];
  readonly keys: readonly string[];
  readonly verdict: readonly string[] | undefined;
  readonly error?: string;
}

const worker: Worker = new Worker('./worker.js', { type: 'module' });
const send = (found: unknown): Promise<unknown> =>
  fetch('/found', { method: 'POST', body: JSON.stringify(found) });
worker.onerror = ({ message }) => send({ error: message });

const AT_ONCE = 4;
const round: string = location.search.slice(-1);

const acts: Readonly<Record<string, () => void>> = {
  /** Sets keys, some at once, and tells after fifty which were answered; it never ends. */
  flood() {
    let sent = 0;
    let answered = 0;
    const next = (): void => worker.postMessage([`${round}.${++sent}`, `value ${sent}`]);
    worker.onmessage = ({ data }: MessageEvent<Answer>) => {
      answered += 1;
      if (data.error) send(data);
      // Answers come in the order of SQLite's transactions, which is that of the messages.
      else if (answered === 50) send({ answered });
      next();
    };
    for (let n = 0; n < AT_ONCE; n++) next();
  },

  /** All that is there. */
  show() {
    worker.onmessage = ({ data }: MessageEvent<Answer>) => send(data);
    worker.postMessage(null);
  },
};

acts[location.search.slice(1, 5) === 'show' ? 'show' : 'flood']?.();

export {};
