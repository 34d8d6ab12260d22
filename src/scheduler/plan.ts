// Plans: the stages of a request, as data. A plan depends only on the mode, on the device, and on the kind and the flags of the
// request; so there are ten plans for a mode on a device, and they are made once. The steps come from model/transform.ts, and
// what the device understands of them from model/flush-policy.ts. A plan adds what each stage waits for, because the
// scheduler, unlike the model, runs many requests at once.
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
//   PL3  Two requests may become one command only where the plan of each is one stage of plain data, and neither has a flag. (On
//        a device without a cache the plan of a FUA write is plain, but what the client asked for stays apart.)
//
// Not here: the walk through a plan, and when a wait is over (ordering.ts).

import {
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
  readonly #plans: readonly (Plan | undefined)[];
  /** The device flush that a flush group shares; undefined if there is nothing to flush. */
  readonly groupFlush: StagedCommand | undefined;

  constructor(mode: ModeName, device: DeviceTraits) {
    this.#plans = SAMPLES.map((sample) => planOf(sample, mode, device));
    const [flush] = lowerSteps(transition(initialState(mode), { kind: 'flush' }).steps, device);
    this.groupFlush = flush?.kind === 'command' ? commandOf(flush) : undefined;
  }

  /** The plan of a request; undefined if the mode or the device refuses it. */
  of(request: Request): Plan | undefined {
    return this.#plans[indexOf(request)];
  }
}

/**
 * Whether two requests that follow each other in the queue may become one command (PL3): both are plain data, of the same
 * kind, and the second begins where the first ends. A barrier has stages of its own, so nothing merges across one.
 */
export function mayMerge(plans: Plans, earlier: Request, later: Request): boolean {
  if (!isPlainData(plans.of(earlier)) || !isPlainData(plans.of(later))) return false;
  if (isFlagged(earlier) || isFlagged(later)) return false;
  if (!('offset' in earlier) || !('offset' in later) || earlier.kind !== later.kind) return false;
  return earlier.offset + earlier.length === later.offset;
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

/** One request of each kind, at the index of its plan. */
const SAMPLES: readonly Request[] = [
  ...Array.from(
    { length: 8 },
    (_, flags): Request => ({
      kind: 'write',
      offset: 0,
      length: 1,
      barrier: (flags & 1) > 0,
      preflush: (flags & 2) > 0,
      fua: (flags & 4) > 0,
    }),
  ),
  { kind: 'flush' },
  { kind: 'barrier' },
];

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
    ? lowerSteps(steps, device).map(orderedStage)
    : steps.flatMap((step) => unorderedStages(step, device));
  invariant(plan.length > 0, 'plan.PL2');
  return plan;
}

function orderedStage(step: Step): PlanStage {
  if (step.kind !== 'command') return { waits: 'drain', issues: undefined };
  return { waits: step.tag === 'ordered' ? 'tag' : 'own', issues: commandOf(step) };
}

/** A flush that the device does not need issues nothing, but still waits for what it covers. */
function unorderedStages(step: Step, device: DeviceTraits): PlanStage[] {
  const lowered = lowerSteps([step], device).flatMap((command) =>
    command.kind === 'command' ? [commandOf(command)] : [],
  );
  if (step.kind === 'command' && step.op === 'flush') {
    return [{ waits: 'group', issues: lowered[0] }];
  }
  return lowered.map((command) => ({
    waits: command.op === 'flush' ? 'group' : 'overlap',
    issues: command,
  }));
}

function commandOf({ op, tag, fua, stage }: StagedCommand): StagedCommand {
  return { kind: 'command', op, offset: 0, length: 0, tag, fua, stage };
}

function isPlainData(plan: Plan | undefined): boolean {
  return plan?.length === 1 && plan[0]?.waits === 'overlap' && !plan[0].issues?.fua;
}

function isFlagged(request: Request): boolean {
  return indexOf(request) !== 0;
}
