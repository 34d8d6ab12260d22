// The scheduler executes the steps of the model and describes no mode a second time. Shown here: what reaches the
// device, and when, is a legal execution of transformer(mode)(requests), for random programs and latencies.
//
// Legal: every command step is issued once (a shared flush may stand for several plain ones), no step behind a
// drain before every step in front of it has completed, and nothing crosses an ordered command in either
// direction, flushes that order nothing excepted. A read may pass a drain where no write in front of it that
// it overlaps is unfinished.

import fc from 'fast-check';
import { expect, test } from 'vitest';
import {
  type CommandStep,
  formatProgram,
  formatSteps,
  IoScheduler,
  MODE_NAMES,
  parseProgram,
  type Request,
  type Step,
  type TraceEvent,
  transformer,
} from 'write-barrier';
import { share } from '../kit/amount.js';
import { PROGRAM_BLOCKS, requests } from '../model/arbitraries.js';
import { type Choose, VirtualDevice } from './virtual-device.js';
import { settled, submit, VOLATILE } from './world.js';

interface Life {
  issued: number;
  completed: number;
}

test.each(MODE_NAMES)(
  'given any program in %s, when it runs, then its commands are a legal execution of the steps',
  async (mode) => {
    const programs = fc
      .array(requests, { minLength: 1, maxLength: 25 })
      .map((all) => formatProgram(all));
    await fc.assert(
      fc.asyncProperty(
        programs,
        fc.array(fc.nat(), { minLength: 50 }),
        fc.integer({ min: 1, max: 6 }),
        async (text, draws, depth) => {
          let drawn = 0;
          const choose: Choose = (of) => (draws[drawn++ % draws.length] as number) % of;
          const program = parseProgram(text);
          const events: TraceEvent[] = [];
          const device = new VirtualDevice(VOLATILE, PROGRAM_BLOCKS, choose, false);
          const observer = (event: TraceEvent): void => void events.push(event);
          const disk = new IoScheduler(device, { mode, depth, observer, allowUnsafe: true });
          const answers = program.map((request) => submit(disk, request).catch(() => {}));
          for (await settled(); device.inFlight > 0; await settled()) device.answerOne();
          expect(disk.stats().settled).toBe(program.length);
          await Promise.all(answers);
          expectLegal([...transformer(mode)(program)], program, events);
        },
      ),
      { numRuns: share(500) },
    );
  },
);

test('given an execution that crosses a drain, when it is checked, then it is found', () => {
  const program = parseProgram('w0 b1');
  const dispatch = (command: number, request: number): TraceEvent => ({
    kind: 'dispatch',
    command,
    requests: [request],
    what: {
      kind: 'command',
      op: 'write',
      offset: request * 4096,
      length: 4096,
      tag: 'simple',
      fua: false,
      stage: request === 0 ? 'plain' : 'bar',
    },
  });
  const done = (command: number): TraceEvent => ({ kind: 'complete', command });
  const steps = [...transformer('DRAIN')(program)];
  expectLegal(steps, program, [dispatch(0, 0), done(0), dispatch(1, 1), done(1)]);
  expect(() =>
    expectLegal(steps, program, [dispatch(0, 0), dispatch(1, 1), done(0), done(1)]),
  ).toThrow();
});

function expectLegal(
  steps: readonly Step[],
  program: readonly Request[],
  events: readonly TraceEvent[],
): void {
  const lives = steps.map((step) =>
    step.kind === 'command' ? lifeOf(step, program, events) : undefined,
  );
  for (const [i, step] of steps.entries()) {
    const life = lives[i];
    if (step.kind === 'drain') {
      const before = lives.slice(0, i).map((other) => other?.completed ?? -1);
      for (let j = i + 1; j < steps.length; j++) {
        const later = steps[j] as Step;
        if (later.kind !== 'command' || passes(steps, lives, j)) continue;
        expect((lives[j] as Life).issued, told(steps, j)).toBeGreaterThan(Math.max(-1, ...before));
      }
    } else if (life && step.kind === 'command' && step.tag === 'ordered') {
      for (const [j, other] of lives.entries()) {
        const command = steps[j] as CommandStep;
        if (
          !other ||
          j === i ||
          (command.op === 'flush' && command.stage === 'plain') ||
          isShared(command)
        )
          continue;
        if (command.op === 'read' && j > i) continue;
        expect(Math.sign(other.issued - life.issued), told(steps, j)).toBe(Math.sign(j - i));
      }
    }
  }
  const commands = events.filter(({ kind }) => kind === 'dispatch').length;
  expect(commands).toBeLessThanOrEqual(lives.filter(Boolean).length);
}

/** Flushes of plain requests are shared, so one may come later than its place. */
function isShared({ op, request }: CommandStep): boolean {
  return (
    op === 'flush' && !(request.kind === 'barrier' || (request.kind === 'write' && request.barrier))
  );
}

/** Whether every write in front of this read that it overlaps had completed when the read was issued. */
function passes(steps: readonly Step[], lives: readonly (Life | undefined)[], at: number): boolean {
  const read = steps[at] as CommandStep;
  if (read.op !== 'read') return false;
  return steps.slice(0, at).every((step, i) => {
    if (step.kind !== 'command' || step.op === 'read' || step.op === 'flush') return true;
    const apart =
      step.offset >= read.offset + read.length || read.offset >= step.offset + step.length;
    return apart || (lives[i] as Life).completed < (lives[at] as Life).issued;
  });
}

/** When the step's command was issued and when it completed, as positions in the trace. */
function lifeOf(
  step: CommandStep,
  program: readonly Request[],
  events: readonly TraceEvent[],
): Life {
  const request = program.indexOf(step.request);
  const stage = isShared(step) ? 'plain' : step.stage;
  const issued = events.findIndex(
    (event) =>
      event.kind === 'dispatch' &&
      event.requests.includes(request) &&
      event.what.op === step.op &&
      event.what.stage === stage &&
      event.what.tag === step.tag &&
      event.what.fua === step.fua,
  );
  expect(issued, `${formatSteps([step])} was never issued`).toBeGreaterThanOrEqual(0);
  const dispatch = events[issued];
  const id = dispatch?.kind === 'dispatch' ? dispatch.command : -1;
  const completed = events.findIndex((event) => event.kind === 'complete' && event.command === id);
  return { issued, completed };
}

function told(steps: readonly Step[], at: number): string {
  return `step ${at} of ${formatSteps(steps)}`;
}
