// What becomes of a request, as a table, and the laws of plans.

import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  type ByteRange,
  formatProgram,
  isBarrier,
  MODE_NAMES,
  parseProgram,
  type Request,
  transformer,
} from 'write-barrier';
import { formatPlan, mayMerge, type Plan, Plans } from '../../src/scheduler/plan.js';
import { programs } from '../model/arbitraries.js';

const VOLATILE = { cache: 'volatile', flush: true, fua: true, orderedTags: true } as const;
const DEVICES = {
  volatile: VOLATILE,
  'volatile, without FUA': { ...VOLATILE, fua: false },
  'volatile, without flush': { ...VOLATILE, flush: false, fua: false },
  stable: { ...VOLATILE, cache: 'none' },
} as const;
const BLOCK = 4096;
const REQUESTS = 'w0 fw0 w0! fw0! b0 fb0 b0! fb0! f b r0 d0 z0'.split(' ');

const allPlans = MODE_NAMES.flatMap((mode) =>
  Object.entries(DEVICES).map(([name, device]) => ({
    name: `${mode}, ${name}`,
    plans: new Plans(mode, device),
  })),
);
const only = (text: string): Request => parseProgram(text)[0] as Request;

describe('a plan', () => {
  test.each([
    [
      'DRAIN_FLUSH',
      'b0',
      'drain -> own: flush -> drain -> own: data -> drain -> own: flush -> drain',
    ],
    ['DRAIN_FUA', 'b0', 'drain -> own: flush -> drain -> own: data with FUA -> drain'],
    ['TAG_FLUSH', 'b0', 'tag: flush -> tag: data -> tag: flush'],
    ['TAG', 'b', 'drain'],
    ['NONE', 'b', 'refused'],
    ['NONE', 'fw0!', 'group: flush -> overlap: data with FUA'],
    ['NONE', 'f', 'group: flush'],
    ['NONE', 'r0', 'overlap: data'],
  ] as const)('in %s of %s is %s', (mode, text, plan) => {
    expect(formatPlan(new Plans(mode, VOLATILE).of(only(text)))).toBe(plan);
  });

  test('of a forced write on a device without FUA ends with the flush of a group', () => {
    const plans = new Plans('NONE', DEVICES['volatile, without FUA']);
    expect(formatPlan(plans.of(only('w0!')))).toBe('overlap: data -> group: flush');
  });

  test('on a device without a volatile cache keeps the wait of a flush that it does not issue', () => {
    const plans = new Plans('NONE', DEVICES.stable);
    expect(formatPlan(plans.of(only('f')))).toBe('group');
    expect(formatPlan(plans.of(only('fw0')))).toBe('group -> overlap: data');
    expect(plans.groupFlush).toBeUndefined();
  });

  test.each(allPlans)(
    'waits for the whole only in a barrier, and has a stage: plan.PL1, plan.PL2 ($name)',
    ({ plans }) => {
      for (const text of REQUESTS) {
        const request = only(text);
        const plan = plans.of(request);
        if (!plan) continue;
        expect(plan.length).toBeGreaterThan(0);
        const ordered = plan.map(({ waits }) => ['drain', 'tag', 'own'].includes(waits));
        expect(new Set(ordered), text).toEqual(new Set([isBarrier(request)]));
      }
    },
  );
});

function rangeOf(request: Request): ByteRange {
  const { offset: start, length } = { offset: 0, length: 0, ...request };
  return { start, end: start + length };
}

describe('merging', () => {
  const mergeable = (plans: Plans, earlier: Request, later: Request): boolean => {
    const [before, after] = [plans.of(earlier), plans.of(later)];
    if (!before || !after) return false;
    const planned = (request: Request, plan: Plan) => ({ ...rangeOf(request), request, plan });
    return mayMerge(planned(earlier, before), planned(later, after));
  };

  /** The program with all neighbours merged that may be. */
  const merged = (plans: Plans, program: readonly Request[]): Request[] => {
    const left: Request[] = [];
    for (const request of program) {
      const last = left.at(-1);
      if (last && mergeable(plans, last, request) && 'offset' in last && 'offset' in request) {
        left[left.length - 1] = { ...last, length: last.length + request.length };
      } else {
        left.push(request);
      }
    }
    return left;
  };

  /** What each epoch between two barriers writes, reads and flushes, byte ranges joined. */
  const epochs = (program: readonly Request[]): string[] => {
    const all: string[][] = [[]];
    for (const request of program) {
      // FUA orders nothing, so it is no border; but the bytes are forced ones, which plain bytes are not.
      const forced = request.kind === 'write' && request.fua ? ' forced' : '';
      const isFlagged = request.kind === 'write' && request.preflush;
      if (isBarrier(request) || request.kind === 'flush' || isFlagged) {
        all.push([formatProgram([request])], []);
      } else {
        const { offset, length } = request as { offset: number; length: number };
        for (let at = offset; at < offset + length; at += BLOCK)
          all.at(-1)?.push(`${request.kind}${forced} ${at}`);
      }
    }
    return all.map((epoch) => epoch.join(' '));
  };

  test('case 9: given any program and mode, then nothing merges across a barrier or a flag: plan.PL3', () => {
    fc.assert(
      fc.property(fc.constantFrom(...allPlans), programs, ({ plans }, program) => {
        expect(epochs(merged(plans, program))).toEqual(epochs(program));
        // What merges has the plan of plain data, in each mode and on each device.
        for (const [i, later] of program.entries()) {
          const earlier = program[i - 1];
          if (!earlier || !mergeable(plans, earlier, later)) continue;
          expect(formatPlan(plans.of(later))).toMatch(/^overlap: data(?: -> group: flush)?$/);
        }
      }),
    );
  });

  test('joins writes that follow each other, so that the law above is about something', () => {
    const plans = new Plans('DRAIN_FLUSH', VOLATILE);
    expect(formatProgram(merged(plans, parseProgram('w0 w1 w2 b3 w4 w5 r6 r7')))).toBe(
      'w0+3 b3 w4+2 r6+2',
    );
  });

  test('leaves a write with FUA apart on a device that needs none, because the client asked for it', () => {
    const plans = new Plans('DRAIN_FLUSH', { ...VOLATILE, cache: 'none' });
    expect(formatProgram(merged(plans, parseProgram('w0 w1! w2 fw3 w4')))).toBe('w0 w1! w2 fw3 w4');
  });

  test('joins forced writes where they share the flush after them, and leaves those apart that the device forces', () => {
    const program = parseProgram('w0 w1! w2! w3 b4! fw5! fw6!');
    const forces = new Plans('DRAIN_FUA', VOLATILE);
    const shares = new Plans('DRAIN_FUA', { ...VOLATILE, slowFua: true });
    expect(formatProgram(merged(forces, program))).toBe('w0 w1! w2! w3 b4! fw5! fw6!');
    expect(formatProgram(merged(shares, program))).toBe('w0 w1+2! w3 b4! fw5! fw6!');
    expect(formatPlan(shares.of(only('w1!')))).toBe('overlap: data -> group: flush');
    expect(formatPlan(shares.of(only('b1')))).toContain('own: data with FUA');
  });

  test.each(MODE_NAMES)('changes no step of a barrier in %s', (mode) => {
    const plans = new Plans(mode, VOLATILE);
    const steps = (program: readonly Request[]): number =>
      [...transformer(mode)(program)].filter(
        (step) => step.kind !== 'command' || step.stage !== 'plain',
      ).length;
    fc.assert(
      fc.property(programs, (program) => {
        expect(steps(merged(plans, program))).toBe(steps(program));
      }),
    );
  });
});
