import { expect, test } from 'vitest';
import { formatTimeline, IoScheduler, MemoryStorage, TraceRecorder, tracing } from 'write-barrier';
import { VOLATILE, World } from '../scheduler/world.js';

test('given a run, when its trace is drawn, then requests and commands stand in rows from start to end', async () => {
  const recorder = new TraceRecorder();
  const world = new World({ mode: 'DRAIN_FLUSH', observer: recorder.observer });
  const [, , last] = world.submit('w0 b1 w2');
  await last?.cancel();
  await world.device.answer('w0');
  await world.device.answer('F');
  await world.device.fail('w1');
  await world.device.answer('F');
  world.submit('w3');
  expect(formatTimeline(recorder.events).split('\n')).toEqual([
    '0 w0    ||-----.         |',
    '  #0 w0 | [===]          |',
    '1 b1    |  |----------x  |',
    '2 w2    |   |/           |',
    '  #1 F  |       []       |',
    '  #2 w1 |         [x     |',
    '  #3 F  |           []   |',
    '3 w3    |              |>|',
    '  #4 w3 |               >|',
  ]);
});

test('given a bound, when more events come, then the oldest go and are counted', () => {
  const recorder = new TraceRecorder({ eventsMax: 3 });
  for (let request = 0; request < 10; request++) {
    recorder.observer({ kind: 'settle', request, outcome: 'done' });
  }
  expect(recorder.events.map((event) => (event.kind === 'settle' ? event.request : -1))).toEqual([
    7, 8, 9,
  ]);
  expect(recorder.dropped).toBe(7);
});

test('given a traced storage, when a scheduler uses it, then the trace of the storage is that of its commands', async () => {
  const [above, below] = [new TraceRecorder(), new TraceRecorder()];
  const storage = new MemoryStorage(8 * 4096, { capabilities: { ...VOLATILE, fua: false } });
  const disk = new IoScheduler(tracing(storage, below.observer), {
    mode: 'DRAIN_FUA',
    observer: above.observer,
  });
  await disk.write(0, new Uint8Array(4096), { barrier: true });
  await disk.close();
  const commands = (recorder: TraceRecorder): string[] =>
    recorder.events.flatMap((event) => (event.kind === 'dispatch' ? [event.what.op] : []));
  expect(commands(below)).toEqual(['flush', 'write', 'flush', 'flush']);
  expect(commands(above)).toEqual(commands(below));
});
