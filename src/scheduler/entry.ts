// A request on its way through the scheduler, and a command at the device. The state of a request, and which stage of its
// plan comes next, are assigned in ordering.ts only.
//
//   E1  A tombstone takes the place of a cancelled barrier: it orders as the barrier did, carries no data, and no caller
//       waits for it.
//   E2  A command serves one request, the group that shares its flush, or the writes that it gathers.

import {
  type ByteRange,
  isMutation,
  type Request,
  type Stage,
  type StagedCommand,
  type WriteRequest,
} from '../model/index.js';
import type { ListNode } from './list.js';
import type { Plan, PlanStage } from './plan.js';

/** Where a request is; the head of ordering.ts has the table. */
export type EntryState = 'queued' | 'admitted' | 'issued' | 'ordered' | 'settled';

/** A request on its way through the scheduler, with the cursor that walks its plan. */
export class Entry<C> implements ListNode<Entry<C>> {
  /** Requests are numbered from 0 in the order of submission. */
  readonly ticket: number;
  readonly request: Request;
  /** Its caller. */
  readonly client: C;
  /** It takes the place of a cancelled barrier (E1). */
  readonly isTombstone: boolean;
  /**
   * Its bytes; an empty range for a flush and an empty barrier. A resize has no end, so it overlaps every other one, and all that
   * relies on the size that it makes.
   */
  readonly start: number;
  readonly end: number;
  readonly mutates: boolean;
  state: EntryState = 'queued';
  plan: Plan;
  /** The index of the next stage of the plan. */
  at = 0;
  /** How many of its own commands are at the device. */
  outstanding = 0;
  /** Why it failed or will fail: the first error. */
  error: unknown;
  cancelled = false;
  /** The overlapping request that must complete first. */
  blocker: Entry<C> | undefined;
  /** A read that bypasses a barrier: the barrier does not wait for it. */
  bypasses = false;
  next: Entry<C> | undefined;
  previous: Entry<C> | undefined;

  constructor(
    ticket: number,
    request: Request,
    client: C,
    plan: Plan | undefined,
    isTombstone = false,
  ) {
    this.ticket = ticket;
    this.request = request;
    this.client = client;
    this.plan = plan ?? [];
    this.isTombstone = isTombstone;
    const { offset = 0, length = 0 } = request as Partial<WriteRequest>;
    this.start = offset;
    this.end = 'size' in request ? Infinity : offset + length;
    this.mutates = isMutation(request);
  }

  /** It changes the size of the storage. */
  get isResize(): boolean {
    return this.end === Infinity;
  }

  /** The bytes that it names, which for a resize are those that it adds or cuts off. */
  get bytes(): ByteRange {
    const { start, request } = this;
    return 'size' in request ? { start, end: start + request.length } : this;
  }

  /** The next stage; undefined at the end of the plan. */
  get stage(): PlanStage | undefined {
    return this.plan[this.at];
  }

  /** A command of its plan has been issued: any, or that of a stage. */
  hasIssued(stage?: Stage): boolean {
    return this.plan.some(
      ({ issues }, i) => i < this.at && issues && (!stage || issues.stage === stage),
    );
  }

  /** It waits for earlier requests to complete before it issues anything, so their failure can stop it. */
  get drains(): boolean {
    return this.plan[0]?.waits === 'drain';
  }

  /** Removes the data of a barrier. Its drains and its preflush remain, so it still orders. */
  dropData(): void {
    this.plan = this.plan.filter(
      ({ issues }, i) => i < this.at || !issues || issues.stage === 'preflush',
    );
  }

  /** Removes the stages to come. */
  cutPlan(): void {
    this.plan = this.plan.slice(0, this.at);
  }
}

/** The tombstone of a cancelled barrier, because the requests around it were promised an order (E1). */
export function tombstoneOf<C>({ ticket, client }: Entry<C>): Entry<C> {
  return new Entry<C>(ticket, { kind: 'barrier' }, client, undefined, true);
}

/** The tombstone of a barrier that has begun: it continues the plan of the barrier, without the data. */
export function begunTombstoneOf<C>(entry: Entry<C>): Entry<C> {
  entry.dropData();
  const tombstone = tombstoneOf(entry);
  const { plan, at, outstanding } = entry;
  return Object.assign(tombstone, { plan, at, outstanding });
}

/** The command of a stage, with the range of the request. */
export function commandOf<C>(
  { request, start, end }: Entry<C>,
  issues: StagedCommand,
): StagedCommand {
  if (issues.op === 'flush') return issues;
  // A barrier with data is a write; an empty one has no stage with data.
  const op = request.kind as StagedCommand['op'];
  return 'size' in request
    ? { ...issues, op, offset: start, length: request.length, size: request.size }
    : { ...issues, op, offset: start, length: end - start };
}

/** A command that the driver is to issue, or has issued (E2). */
export class Command<C> implements ListNode<Command<C>> {
  /** Gathering makes it longer before it is issued. */
  what: StagedCommand;
  /** The requests that it serves; gathered writes in the order of their bytes. */
  readonly served: Entry<C>[];
  next: Command<C> | undefined;
  previous: Command<C> | undefined;
  isRunning = true;

  constructor(what: StagedCommand, served: Entry<C>[]) {
    this.what = what;
    this.served = served;
  }

  /** The callers of those requests. */
  get clients(): readonly C[] {
    return this.served.map(({ client }) => client);
  }
}
