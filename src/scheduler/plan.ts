// Plans: the stages of a request, as data. A plan depends only on the mode, on the device, and on the kind and the flags of the
// request; so there are ten plans for a mode on a device, and each is made once, for the first request that needs it. The steps
// come from model/transform.ts, and what the device understands of them from model/flush-policy.ts. A plan adds what each stage
// waits for, because the scheduler, unlike the model, runs many requests at once.
//
//   read, write, discard, zeroes    overlap: data
//   write with preflush             group: flush -> overlap: data
//   write with FUA, on a device
//   without FUA                     overlap: data -> group: flush
//   flush                           group: flush
//   barrier by drain                drain -> own: flush -> drain -> own: data -> drain -> own: flush -> drain
//   barrier by tag                  tag: flush -> tag: data -> tag: flush
//
// Before the colon stands what the stage waits for (`Wait`), after it the command that it issues. A stage `own` waits for the
// earlier commands of its own request only.
//
//   PL1  A barrier has stages of the kinds drain, tag and own only; any other request has stages of the kinds overlap and
//        group only. So a barrier needs nothing from the flush group, and no other request waits for a drain.
//   PL2  A plan that is not refused has a stage.
//   PL3  Two requests may become one command only where they have the same plan, and it begins with plain data. So they have
//        the same flags, neither is a barrier, and neither waits for a preflush.
//
// Not here: the walk through a plan, and when a wait is over (ordering.ts).

import {
  type ByteRange,
  canHonour,
  type DeviceTraits,
  initialState,
  invariant,
  isBarrier,
  lowerSteps,
  type ModeName,
  type Request,
  type StagedCommand,
  type Step,
  transition,
} from '../model/index.js';

/**
 * What a stage waits for before it issues its command:
 *
 * - `overlap`: requests before it that overlap it have left the device;
 * - `group`: a device flush that is issued after everything that the request covers has completed;
 * - `drain`: everything before it has left the device and is settled;
 * - `tag`: everything before it is at the device, which keeps the order from there on;
 * - `own`: the request's own commands before it have completed.
 */
export type Wait = 'overlap' | 'group' | 'drain' | 'tag' | 'own';

/** A part of a plan. */
export interface PlanStage {
  readonly waits: Wait;
  /** The command that it issues; data gets the range of the request. Undefined if the stage only waits. */
  readonly issues: StagedCommand | undefined;
}

/** The stages of a request, in their order. */
export type Plan = readonly PlanStage[];

/** The plans of a mode on a device. */
export class Plans {
  readonly #mode: ModeName;
  readonly #device: DeviceTraits;
  /** At the index of their requests. */
  readonly #plans: (Plan | undefined)[] = [];
  /** The device flush that a flush group shares; undefined if there is nothing to flush. */
  readonly groupFlush: StagedCommand | undefined;

  constructor(mode: ModeName, device: DeviceTraits) {
    this.#mode = mode;
    this.#device = device;
    this.groupFlush = this.of({ kind: 'flush' })?.[0]?.issues;
  }

  /** The plan of a request; undefined if the mode or the device refuses it. */
  of(request: Request): Plan | undefined {
    const index = indexOf(request);
    this.#plans[index] ??= planOf(request, this.#mode, this.#device);
    return this.#plans[index];
  }
}

/**
 * Whether two requests that follow each other in the queue may become one command (PL3): they are of the same kind, and the
 * second begins where the first ends. A barrier has stages of its own, so nothing merges across one.
 */
export function mayMerge(earlier: Planned, later: Planned): boolean {
  const [stage] = earlier.plan;
  return (
    later.plan === earlier.plan &&
    later.request.kind === earlier.request.kind &&
    later.start === earlier.end &&
    stage?.waits === 'overlap' &&
    !stage.issues?.fua
  );
}

interface Planned extends ByteRange {
  readonly request: Request;
  readonly plan: Plan;
}

/** A plan as text: `drain -> own: flush -> drain`. */
export function formatPlan(plan: Plan | undefined): string {
  if (!plan) return 'refused';
  const stages = plan.map(({ waits, issues }) => {
    if (!issues) return waits;
    const { op, fua } = issues;
    return `${waits}: ${op === 'flush' ? 'flush' : 'data'}${fua ? ' with FUA' : ''}`;
  });
  return stages.join(' -> ');
}

/** Requests with the same index have the same plan. */
function indexOf(request: Request): number {
  switch (request.kind) {
    case 'write':
      return (request.barrier ? 1 : 0) | (request.preflush ? 2 : 0) | (request.fua ? 4 : 0);
    case 'flush':
      return 8;
    case 'barrier':
      return 9;
    default: // Without flags all data is alike.
      return 0;
  }
}

function planOf(request: Request, mode: ModeName, device: DeviceTraits): Plan | undefined {
  if (!canHonour(request, device)) return undefined;
  // The scheduler knows what is in flight, so the model must not leave out a drain because of what was issued.
  const { steps } = transition({ ...initialState(mode), drained: false }, request);
  if (steps[0]?.kind === 'refuse') return undefined;
  const plan = isBarrier(request)
    ? stagesOf(steps, device, ({ tag }) => (tag === 'ordered' ? 'tag' : 'own'))
    : steps.flatMap((step) => unorderedStages(step, device));
  invariant(plan.length > 0, 'plan.PL2');
  return plan;
}

/** A flush that the device does not need issues nothing, but still waits for what it covers. */
function unorderedStages(step: Step, device: DeviceTraits): Plan {
  const stages = stagesOf([step], device, ({ op }) => (op === 'flush' ? 'group' : 'overlap'));
  return stages.length > 0 ? stages : [{ waits: 'group', issues: undefined }];
}

function stagesOf(
  steps: readonly Step[],
  device: DeviceTraits,
  waitOf: (command: StagedCommand) => Wait,
): Plan {
  return lowerSteps(steps, device).map((step) => {
    if (step.kind !== 'command') return { waits: 'drain', issues: undefined };
    // The plan serves other requests as well.
    const { request, size, ...command } = step;
    return { waits: waitOf(step), issues: { ...command, offset: 0, length: 0 } };
  });
}
