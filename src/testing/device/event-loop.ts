// Turns of the event loop, and real time. Test runners replace `setTimeout`, `setImmediate`, `queueMicrotask`,
// `process.nextTick`, `Date` and `performance` by fake clocks, often before this file is loaded. So none of them is used here,
// but what exists in Node, browsers and workers, and what no fake clock replaces:
//
//   a turn    A message that passes through two channels. When it arrives, all microtasks have run, however many. Two
//             channels, because a message to the channel that is being served may be delivered at once: of two messages
//             at least one waits for the next round of the loop, and due immediates and timers run before it.
//   a delay   `Atomics.waitAsync` on memory that nothing changes. Where there is none (a page that is not isolated),
//             `setTimeout` as it was when this file was loaded.
//   a moment  The time stamp of a new event, which the platform takes from its own clock.
//
// None of them keeps a process alive. `hold` does, until `release` has been called as often.

const { MessageChannel: Channel, setTimeout: later, Event: Stamped } = globalThis;

type Port = MessagePort & { ref?(): void; unref?(): void };

/** The entry of the first channel and the exit of the second one. */
interface Crossing {
  readonly into: Port;
  readonly out: Port;
}

let crossing: Crossing | undefined;
let waiting: (() => void)[] = [];
let holders = 0;
let count = 0;

/** How many turns have been taken in this realm: two moments with the same count have no turn between them. */
export function turnsTaken(): number {
  return count;
}

/** Calls back at the end of a turn, with no microtask waiting. The process may end before. */
export function nextTurn(then: () => void): void {
  if (waiting.push(then) > 1) return;
  const channels = crossed();
  if (channels) channels.into.postMessage(0);
  else later(run, 0);
}

/** The channels; undefined where the platform has none. */
function crossed(): Crossing | undefined {
  if (crossing || typeof Channel !== 'function') return crossing;
  const [first, second] = [new Channel(), new Channel()] as const;
  first.port1.onmessage = () => second.port2.postMessage(0);
  second.port1.onmessage = run;
  // A listener keeps a Node process alive.
  for (const port of [first.port1, second.port1] as Port[]) port.unref?.();
  crossing = { into: first.port2, out: second.port1 };
  return crossing;
}

function run(): void {
  const due = waiting;
  waiting = [];
  count += 1;
  for (const then of due) then();
  endIfIdle();
}

/** The process stays alive until `release` has been called as often. */
export function hold(): void {
  holders += 1;
  if (holders === 1) crossed()?.out.ref?.();
}

/** See `hold`. */
export function release(): void {
  holders -= 1;
  if (holders === 0) crossing?.out.unref?.();
  endIfIdle();
}

/** Deno waits for a port that has had a message, whatever `unref` said before. So channels last there only while they are used. */
function endIfIdle(): void {
  if (!('Deno' in globalThis) || holders > 0 || waiting.length > 0) return;
  crossing?.into.close();
  crossing?.out.close();
  crossing = undefined;
}

/** Real milliseconds since some moment; always 0 where the platform has no events. */
export function momentMs(): number {
  return typeof Stamped === 'function' ? new Stamped('moment').timeStamp : 0;
}

type WaitAsync = (
  memory: Int32Array,
  index: number,
  value: number,
  ms: number,
) => { readonly async: boolean; readonly value: string | Promise<string> };

const { waitAsync } = Atomics as { waitAsync?: WaitAsync };

/** Calls back after so much real time. */
export function delay(ms: number, then: () => void): void {
  if (typeof waitAsync !== 'function' || typeof SharedArrayBuffer !== 'function') later(then, ms);
  else {
    const memory = new Int32Array(new SharedArrayBuffer(4));
    void Promise.resolve(waitAsync(memory, 0, 0, Math.max(1, ms)).value).then(then);
  }
}
