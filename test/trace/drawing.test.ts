// Goal: a drawn timeline has the rows of the text, and a trace for viewers keeps to the Trace Event Format.

import fc from 'fast-check';
import { expect, test } from 'vitest';
import {
  chromeTrace,
  drawTimeline,
  formatTimeline,
  IoScheduler,
  MemoryStorage,
  type TraceEvent,
  TraceRecorder,
  tracing,
} from 'write-barrier';
import { elementsOf, parseXml } from '../kit/xml.js';
import { World } from '../scheduler/world.js';

/** A run with a failure, a cancellation, and a write that is open at the end. */
async function run(recorder = new TraceRecorder()): Promise<TraceRecorder> {
  const world = new World({ mode: 'DRAIN_FLUSH', observer: recorder.observer });
  const [, , last] = world.submit('w0 b1 w2');
  await last?.cancel();
  await world.device.answer('w0');
  await world.device.answer('F');
  await world.device.fail('w1');
  await world.device.answer('F');
  world.submit('w3');
  return recorder;
}

// Blocks of 512 bytes are not those of the notation, so words that were right only by default would show.
test('given a disk with other blocks, when its trace is drawn, then all words count in these, and an option wins', async () => {
  const [above, below] = [new TraceRecorder({ eventsMax: 6 }), new TraceRecorder()];
  const disk = tracing(new MemoryStorage(1 << 14), below.observer);
  const scheduler = new IoScheduler(disk, { mode: 'DRAIN_FLUSH', observer: above.observer });
  const block = new Uint8Array(512);
  await scheduler.write(512, block);
  await scheduler.write(3 * 512, block, { barrier: true });
  const { events } = above;
  expect(above.dropped).toBeGreaterThan(0);
  const labels = (of: readonly TraceEvent[], options?: { blockSize: number }): string[] =>
    formatTimeline(of, options)
      .split('\n')
      .map((row) => row.slice(0, row.indexOf('|')).trim());
  expect(labels(below.events)).toEqual(['#0 w1', '#1 F', '#2 w3', '#3 F']);
  expect(labels(events)).toEqual(['#2 w3', '#3 F']);
  expect(labels(JSON.parse(JSON.stringify(events)))).toEqual(labels(events));
  expect(labels(events, { blockSize: 256 })).toEqual(['#2 w6+2', '#3 F']);
  expect(chromeTrace(events)).toContain('"w3"');
  expect(drawTimeline(events)).toContain('#2 w3');
  const old = below.events.map((event) => {
    if (event.kind !== 'dispatch') return event;
    const { blockSize: _, ...what } = event.what;
    return { ...event, what };
  });
  expect(labels(old)).toEqual(['#0 w@512+512', '#1 F', '#2 w@1536+512', '#3 F']);
});

interface ViewerEvent {
  readonly ph: 'M' | 'b' | 'e';
  readonly name: string;
  readonly cat: string;
  readonly id: string;
  readonly pid: number;
  readonly tid: number;
  readonly ts: number;
  readonly args: Readonly<Record<string, unknown>>;
}

/** The events of a trace for viewers, checked against the format. */
function checked(json: string): ViewerEvent[] {
  const events: ViewerEvent[] = JSON.parse(json);
  const open = new Map<string, ViewerEvent>();
  const ids = new Set<string>();
  for (const event of events) {
    const { ph, name, cat, id, pid, tid, ts, args } = event;
    expect([typeof name, typeof pid, typeof tid, typeof args]).toEqual([
      'string',
      'number',
      'number',
      'object',
    ]);
    if (ph === 'M') continue;
    expect(Number.isFinite(ts)).toBe(true);
    if (ph === 'b') {
      expect(ids).not.toContain(id);
      ids.add(id);
      open.set(id, event);
      continue;
    }
    expect(ph).toBe('e');
    const begun = open.get(id);
    expect(begun).toMatchObject({ name, cat, pid, tid });
    expect(ts).toBeGreaterThanOrEqual(begun?.ts ?? Number.NaN);
    open.delete(id);
  }
  expect([...open.keys()]).toEqual([]);
  return events;
}

test('given a run, when its timeline is drawn, then it has the rows of the text', async () => {
  const { events } = await run();
  const root = parseXml(drawTimeline(events));
  const rows = formatTimeline(events).split('\n');
  const labels = rows.map((row) => row.slice(0, row.indexOf('|')).trim());
  expect(elementsOf(root, 'text').map(({ text }) => text)).toEqual(labels);
  const outcomes = elementsOf(root, 'rect').flatMap(({ inner }) => inner.map(({ text }) => text));
  expect(outcomes).toEqual([
    '0 w0: done',
    '#0 w0: done',
    '1 b1: failed',
    '2 w2: cancelled',
    '#1 F: done',
    '#2 w1: failed',
    '#3 F: done',
    '3 w3: open',
    '#4 w3: open',
  ]);
});

test('given no events, when they are drawn, then the pictures are empty', () => {
  expect(elementsOf(parseXml(drawTimeline([])), 'text')).toEqual([]);
  expect(checked(chromeTrace([]))).toHaveLength(2);
});

test('given a run without times, when it is written for viewers, then each event comes a microsecond later', async () => {
  const { events } = await run();
  const written = checked(chromeTrace(events)).filter(({ ph }) => ph !== 'M');
  expect(written.map(({ ph, cat, name, ts }) => `${ts} ${ph} ${cat} ${name}`)).toEqual([
    '0 b request w0',
    '1 b command w0',
    '2 b request b1',
    '3 b request w2',
    '4 e request w2',
    '5 e command w0',
    '6 e request w0',
    '7 b command F',
    '8 e command F',
    '9 b command w1',
    '10 e command w1',
    '11 b command F',
    '12 e command F',
    '13 e request b1',
    '14 b request w3',
    '15 b command w3',
    '15 e request w3',
    '15 e command w3',
  ]);
  expect(written.slice(-2).map(({ args }) => args)).toEqual([{ open: true }, { open: true }]);
});

test('given a recorder with a clock, when it records, then the trace for viewers has its times', async () => {
  let now = 100;
  const { events } = await run(new TraceRecorder({ now: () => now++ }));
  expect(events.map(({ atMs }) => atMs)).toEqual([...events.keys()].map((at) => 100 + at));
  const times = checked(chromeTrace(events)).flatMap(({ ph, ts }) => (ph === 'b' ? [ts] : []));
  expect(times).toEqual([0, 1, 2, 3, 7, 9, 11, 14, 15].map((at) => 1000 * (100 + at)));
  expect(formatTimeline(events)).toBe(formatTimeline((await run()).events));
});

test.each([[[1, undefined]], [[1, Number.NaN]], [[Number.POSITIVE_INFINITY]]])(
  'given the times %j, when they are written for viewers, then they are refused',
  (times) => {
    const events = times.map((atMs, request) => ({
      ...({ kind: 'settle', request, outcome: 'done' } as const),
      ...(atMs !== undefined && { atMs }),
    }));
    expect(() => chromeTrace(events)).toThrow(
      expect.objectContaining({
        code: 'INVALID_ARGUMENT',
        message: expect.stringContaining('time'),
      }),
    );
  },
);

test('given a clock that is none, when a recorder is made, then it is refused', () => {
  expect(() => new TraceRecorder({ now: 5 as never })).toThrow(/now must be a function, not 5/);
});

// Method: any events in any order, as a recorder that drops the oldest ones may leave them, and with any error.
test('given any events, when they are drawn or written, then both are well-formed', () => {
  const number = fc.nat(3);
  const write = { kind: 'write', offset: 0, length: 4096 } as const;
  const command = {
    ...({ kind: 'command', op: 'write', offset: 0, length: 4096 } as const),
    ...({ tag: 'simple', fua: false, stage: 'plain' } as const),
  };
  const event: fc.Arbitrary<TraceEvent> = fc.oneof(
    number.map((request): TraceEvent => ({ kind: 'submit', request, what: write })),
    number.map((request): TraceEvent => ({ kind: 'settle', request, outcome: 'done' })),
    number.map((n): TraceEvent => ({ kind: 'dispatch', command: n, what: command, requests: [] })),
    fc
      .tuple(number, fc.string({ unit: 'binary' }))
      .map(([n, error]): TraceEvent => ({ kind: 'complete', command: n, error })),
  );
  fc.assert(
    fc.property(fc.array(event), (events) => {
      parseXml(drawTimeline(events));
      checked(chromeTrace(events));
    }),
    { seed: 1 },
  );
});
