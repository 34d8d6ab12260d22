// Which ring request a frontend may send now, and what becomes of a command when the backend takes a feature back. A
// state machine: no promise, no ring, no memory; the driver (frontend.ts) reports events and asks for requests.
//
//   submit ─▶ queue ─▶ started: its parts are sent, and answered ─▶ settled
//                         ▲                       │
//                         └── again, by what is ──┘ EOPNOTSUPP
//                             left of the features
//
// A plain command is split into parts that fit into one ring request each. A part is made when the ring has room for it, so
// the rest of a command takes no memory.
//
// A command with an ordered tag is sent in one of two ways. As WRITE_BARRIER it is sent while older requests are at work, and
// the backend keeps it after them. By hand, the frontend keeps the order: it sends the command as a plain write when everything
// older is settled. Either way nothing younger is sent before the command is settled, because not every backend keeps younger
// writes back (old-backend.ts); and if the backend answers EOPNOTSUPP, the command is sent again and must still be ahead of
// the younger writes.
//
// Invariants, checked in the tests for every order of answers:
//   O1  Every command settles exactly once. It succeeds only if each of its parts was last answered OKAY.
//   O2  Nothing younger than an ordered command is sent before that one is settled.
//   O3  An ordered command is sent by hand only when everything older is settled, and as WRITE_BARRIER only when
//       everything older has been sent and will not be sent again, and no read that overlaps it is unanswered.
//   O4  EOPNOTSUPP to a barrier, a flush, a discard or an indirect request costs the feature, for good, and never the
//       payload: the command is sent again without the feature. To a plain READ or WRITE it is an error.
//   O5  What cannot be promised any more is refused: a flush when neither FLUSH_DISKCACHE nor an empty WRITE_BARRIER is
//       left, and from then on any ordered write as well, because the writes before it can no longer be made durable.
//   O6  A discard that the backend does not take is settled as done, because a discard is only advice.
//
// A part that fails ends its command; parts that were not sent yet are not sent any more.
//
// Not here: overlapping plain commands, which never come together (clause S4 of a storage).

import type { Request } from 'write-barrier';
import { type Command, invariant, type Machine, type Settled } from 'write-barrier/kit';
import { BLKIF_OP, BLKIF_STATUS, errorOfStatus, StatusError, worstBlkifStatus } from './wire.js';

/** What the backend takes, as far as it has not said otherwise. */
export interface BlkAbilities {
  /** WRITE_BARRIER. */
  readonly barrier: boolean;
  /** FLUSH_DISKCACHE. */
  readonly flush: boolean;
  /** DISCARD. */
  readonly discard: boolean;
  /** INDIRECT. */
  readonly indirect: boolean;
}

/** How much one ring request carries, in bytes. */
export interface PartSizes {
  /** A direct one. */
  readonly direct: number;
  /** An indirect one; used where it is more. */
  readonly indirect: number;
}

/** What is asked of the storage. */
export interface Wanted {
  readonly op: 'read' | 'write' | 'flush' | 'discard';
  /** In bytes; 0 for a flush. */
  readonly offset: number;
  /** In bytes; 0 for a flush. */
  readonly length: number;
  /** It has an ordered tag. */
  readonly ordered: boolean;
}

/** One request for the ring. It is not a command of a storage, and stands in no trace. */
export interface Part<C> extends Command<C> {
  /** The command that it is a part of. */
  readonly command: Order<C>;
  /** READ, WRITE, WRITE_BARRIER, FLUSH_DISKCACHE or DISCARD. */
  readonly operation: number;
  /** It is wrapped into an INDIRECT request. */
  readonly indirect: boolean;
  /** In bytes. */
  readonly offset: number;
  /** In bytes; 0 for none. */
  readonly length: number;
}

/** A run of bytes that has still to be sent, cut into parts from its front. */
interface Stretch {
  readonly operation: number;
  /** In bytes. */
  offset: number;
  /** In bytes; 0 for a request without any. */
  length: number;
  /** In bytes: what a part takes at the most. */
  readonly size: number;
  /** Parts are wrapped into an INDIRECT request, where they are long enough to need it. */
  readonly indirect: boolean;
}

/** A command on its way. */
export interface Order<C> {
  readonly wanted: Wanted;
  readonly client: C;
  /** What is left to send. */
  unsent: Stretch[];
  /** Parts at the backend. */
  out: number;
  /** Something of it has been sent, in this try or another. */
  sent: boolean;
  /** What its parts were answered, but OKAY and what can be tried again. */
  readonly failures: number[];
  /** Why a part had no answer. */
  cause: unknown;
  /** What the backend has not taken in this try. */
  refused: Pick<Part<C>, 'offset' | 'length'>[];
  /** Its parts may be refused and sent again. */
  mayReturn: boolean;
  /** It waits until nothing older is at work. */
  byHand: boolean;
}

/** What a request asks of the storage. An ordered command is a barrier of the protocol. */
export function wantedOf(request: Request): Wanted {
  if (request.kind === 'flush' || request.kind === 'barrier') {
    return { op: 'flush', offset: 0, length: 0, ordered: request.kind === 'barrier' };
  }
  const { offset, length } = request;
  const op = request.kind as 'read' | 'write' | 'discard';
  return { op, offset, length, ordered: request.kind === 'write' && request.barrier === true };
}

/** The order of ring requests. `C` is the caller of a command; it is not looked into. */
export class FrontOrder<C> implements Machine<C, Part<C>> {
  #abilities: BlkAbilities;
  readonly #sizes: PartSizes;
  readonly #fits: (part: Part<C>) => boolean;
  readonly #queue: Order<C>[] = [];
  /** Started and not settled, oldest first. */
  readonly #active = new Set<Order<C>>();
  /** The ordered command that is at work. */
  #ordered: Order<C> | undefined;
  readonly #settled: Settled<C>[] = [];

  /** @param fits whether there is room for a part now */
  constructor(abilities: BlkAbilities, sizes: PartSizes, fits: (part: Part<C>) => boolean) {
    this.#abilities = abilities;
    this.#sizes = sizes;
    this.#fits = fits;
  }

  /** What is left of the features. */
  get abilities(): BlkAbilities {
    return this.#abilities;
  }

  // Events

  submit(request: Request, client: C): void {
    this.#queue.push({
      wanted: wantedOf(request),
      client,
      unsent: [],
      out: 0,
      sent: false,
      failures: [],
      cause: undefined,
      refused: [],
      mayReturn: false,
      byHand: false,
    });
  }

  /** The backend has answered a part, with a `StatusError` if it is not OKAY, or will not answer it. */
  complete(part: Part<C>, error: unknown): void {
    const { command } = part;
    invariant(command.out > 0, 'front-order.O1: a part is answered once');
    command.out -= 1;
    const feature = featureOf(part);
    const status = error instanceof StatusError ? error.status : BLKIF_STATUS.ERROR;
    if (error !== undefined && status === BLKIF_STATUS.EOPNOTSUPP && feature) {
      command.refused.push(part);
      this.#lose(feature, command);
    } else if (error !== undefined) {
      if (!(error instanceof StatusError)) command.cause = error;
      command.failures.push(status);
      command.unsent = [];
    }
    this.#look(command);
  }

  /** O4. Parts that were to use the feature count as refused. */
  #lose(feature: Feature, by: Order<C>): void {
    if (!this.#abilities[feature]) return;
    this.#abilities = { ...this.#abilities, [feature]: false };
    for (const command of this.#active) {
      const vain = command.unsent.filter((stretch) => featureOf(stretch) === feature);
      if (vain.length === 0) continue;
      command.unsent = command.unsent.filter((stretch) => !vain.includes(stretch));
      command.refused.push(...vain);
      if (command !== by) this.#look(command);
    }
  }

  // Answers

  takeSettled(): Settled<C> | undefined {
    return this.#settled.shift();
  }

  /** The next part to send; undefined while none may be sent, or the next one does not fit. */
  next(): Part<C> | undefined {
    for (;;) {
      const part = this.#due();
      if (part) {
        if (!this.#fits(part)) return undefined;
        const { command, length } = part;
        const [stretch] = command.unsent as [Stretch];
        stretch.offset += length;
        stretch.length -= length;
        if (stretch.length === 0) command.unsent.shift();
        command.out += 1;
        command.sent = true;
        return part;
      }
      if (!this.#start()) return undefined;
    }
  }

  /** What has been started goes first. */
  #due(): Part<C> | undefined {
    for (const command of this.#active) {
      const waits = command.byHand && this.#active.size > 1; // O3
      const [stretch] = command.unsent;
      if (stretch && !waits) return this.#front(command, stretch);
    }
    return undefined;
  }

  #front(command: Order<C>, stretch: Stretch): Part<C> {
    const { operation, offset } = stretch;
    const length = Math.min(stretch.size, stretch.length);
    // A short rest needs no indirection.
    const indirect = stretch.indirect && length > this.#sizes.direct;
    return { clients: [command.client], command, operation, indirect, offset, length };
  }

  /** Starts the head of the queue, if it may; false if not. */
  #start(): boolean {
    const [command] = this.#queue;
    if (!command || this.#ordered) return false; // O2
    const { ordered } = command.wanted;
    if (ordered && !this.#mayFollow(command)) return false;
    this.#queue.shift();
    this.#active.add(command);
    if (ordered) this.#ordered = command;
    this.#try(command);
    return true;
  }

  /** O3. What is started has been sent by now: while it waits for room, nothing gets here. */
  #mayFollow({ wanted }: Order<C>): boolean {
    if (this.#needsHand(wanted)) return this.#active.size === 0;
    for (const older of this.#active) {
      // The protocol says nothing about reads.
      const read = older.wanted.op === 'read' && overlap(older.wanted, wanted);
      if (older.mayReturn || read) return false;
    }
    return true;
  }

  /** Whether the command's try is over, and how. */
  #look(command: Order<C>): void {
    const { out, unsent, failures, refused } = command;
    if (out > 0 || unsent.length > 0) return;
    if (failures.length === 0 && refused.length > 0) this.#try(command);
    else this.#end(command, worstBlkifStatus(failures));
  }

  #end(command: Order<C>, status: number): void {
    this.#active.delete(command);
    if (this.#ordered === command) this.#ordered = undefined;
    const { client, cause, wanted } = command;
    const name = `${wanted.ordered ? 'an ordered' : 'a'} ${wanted.op}`;
    const failed = status !== BLKIF_STATUS.OKAY;
    this.#settled.push({
      client,
      error: failed ? (cause ?? errorOfStatus(status, name)) : undefined,
    });
  }

  // Tries

  /** With what is left of the features; after a refusal only what was refused is sent again. */
  #try(command: Order<C>): void {
    const { wanted, refused } = command;
    command.refused = [];
    command.byHand = wanted.ordered && this.#needsHand(wanted);
    const plans = (refused.length > 0 ? refused : [wanted]).map(({ offset, length }) =>
      this.#plan({ ...wanted, offset, length }, command),
    );
    const hopeless = plans.includes(undefined);
    command.unsent = hopeless ? [] : plans.flatMap((plan) => plan ?? []);
    command.mayReturn = command.unsent.some(({ indirect }) => indirect);
    if (hopeless) this.#end(command, BLKIF_STATUS.EOPNOTSUPP);
    else if (command.unsent.length === 0) this.#end(command, BLKIF_STATUS.OKAY);
  }

  /** Undefined where it cannot be promised any more. */
  #plan(wanted: Wanted, command: Order<C>): Stretch[] | undefined {
    const { barrier, flush, discard } = this.#abilities;
    const { op, offset, length, ordered } = wanted;
    const whole = (operation: number): Stretch[] => [
      { operation, offset, length, size: length, indirect: false },
    ];
    switch (op) {
      case 'read':
        return this.#pieces(wanted, BLKIF_OP.READ);
      case 'discard':
        return discard ? whole(BLKIF_OP.DISCARD) : []; // O6
      case 'flush':
        if (flush) return whole(BLKIF_OP.FLUSH_DISKCACHE);
        return barrier ? whole(BLKIF_OP.WRITE_BARRIER) : undefined; // O5
      case 'write':
        if (ordered && !command.byHand) return whole(BLKIF_OP.WRITE_BARRIER);
        // O5. One that was on its way when the last of the features went is still written, by hand: it is in order.
        if (ordered && !barrier && !flush && !command.sent) return undefined;
        return this.#pieces(wanted, BLKIF_OP.WRITE);
    }
  }

  /** An ordered command that no WRITE_BARRIER can carry. */
  #needsHand({ op, length }: Wanted): boolean {
    const { barrier, flush } = this.#abilities;
    if (!barrier) return true;
    return op === 'flush' ? flush : length > this.#sizes.direct;
  }

  #pieces({ offset, length }: Wanted, operation: number): Stretch[] {
    const sizes = this.#sizes;
    const indirect =
      this.#abilities.indirect && sizes.indirect > sizes.direct && length > sizes.direct;
    const size = indirect ? sizes.indirect : sizes.direct;
    return [{ operation, offset, length, size, indirect }];
  }
}

function overlap(a: Wanted, b: Wanted): boolean {
  return a.offset < b.offset + b.length && b.offset < a.offset + a.length;
}

type Feature = keyof BlkAbilities;

/** The feature that a part needs in addition to plain reads and writes. */
function featureOf({
  operation,
  indirect,
}: Pick<Stretch, 'operation' | 'indirect'>): Feature | undefined {
  if (indirect) return 'indirect';
  switch (operation) {
    case BLKIF_OP.WRITE_BARRIER:
      return 'barrier';
    case BLKIF_OP.FLUSH_DISKCACHE:
      return 'flush';
    case BLKIF_OP.DISCARD:
      return 'discard';
    default:
      return undefined;
  }
}
