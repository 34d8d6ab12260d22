import {
  type CommandStep,
  type DeviceCommand,
  isMutation,
  type Request,
  type Stage,
} from '../model/index.js';
import type { EpochToken } from './flush-station.js';
import type { ListNode } from './list.js';

/**
 * Where a request is:
 *
 * - `queued`: in the queue (behind a barrier: the post-barrier queue);
 * - `preflushing`: a plain write that waits for the flush before its data;
 * - `held`: admitted, and behind an overlapping request;
 * - `ready`: admitted, and waiting for a free place at the device;
 * - `running`: its data is at the device;
 * - `flushing`: a flush request, waiting for its flush;
 * - `postflushing`: its data is written, the flush that forces it is to come;
 * - `sequence`: the barrier whose sequence is under way;
 * - `settled`: answered.
 */
export type EntryState =
  | 'queued'
  | 'preflushing'
  | 'held'
  | 'ready'
  | 'running'
  | 'flushing'
  | 'postflushing'
  | 'sequence'
  | 'settled';

/** A request on its way through the scheduler. */
export class Entry<C> implements ListNode<Entry<C>> {
  /** Requests are numbered from 0 in the order of submission. */
  readonly ticket: number;
  readonly request: Request;
  /** What the driver needs to answer; absent in what stands for a cancelled barrier. */
  readonly client: C | undefined;
  /** The bytes that the request names; none for a flush and an empty barrier. */
  readonly start: number;
  readonly end: number;
  readonly mutates: boolean;
  state: EntryState = 'queued';
  /** Why it failed, once it is settled; undefined for success. */
  error: unknown = undefined;
  cancelled = false;
  /** What the device is to do, where that is more than one plain command. */
  commands: readonly CommandStep[] | undefined = undefined;
  /** The overlapping request that must leave first. */
  blocker: Entry<C> | undefined = undefined;
  epoch: EpochToken<Entry<C>> | undefined = undefined;
  /** A read that went past a barrier: it is not part of what the barrier waits for. */
  passed = false;
  next: Entry<C> | undefined = undefined;
  previous: Entry<C> | undefined = undefined;

  constructor(ticket: number, request: Request, client: C | undefined) {
    this.ticket = ticket;
    this.request = request;
    this.client = client;
    const ranged = request.kind !== 'flush' && request.kind !== 'barrier';
    this.start = ranged ? request.offset : 0;
    this.end = ranged ? request.offset + request.length : 0;
    this.mutates = isMutation(request);
  }
}

/** What a command of the scheduler does at the device. */
export type CommandWhat = DeviceCommand & { readonly stage: Stage };

/** A command that the driver is to issue, or has issued. */
export class Command<C> implements ListNode<Command<C>> {
  /** Commands are numbered from 0 in the order of issue. */
  readonly id: number;
  readonly what: CommandWhat;
  /** The requests that it serves: one, or those who share a flush. */
  readonly serves: Entry<C> | Set<Entry<C>>;
  next: Command<C> | undefined = undefined;
  previous: Command<C> | undefined = undefined;
  running = true;

  constructor(id: number, what: CommandWhat, serves: Entry<C> | Set<Entry<C>>) {
    this.id = id;
    this.what = what;
    this.serves = serves;
  }
}

/** A flush that several requests share. */
export const SHARED_FLUSH: CommandWhat = Object.freeze({
  kind: 'command',
  op: 'flush',
  offset: 0,
  length: 0,
  tag: 'simple',
  fua: false,
  stage: 'plain',
});
