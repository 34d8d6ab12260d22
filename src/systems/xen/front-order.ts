// Which ring request a frontend may send now, and what becomes of a command when the backend takes a feature back. A
// state machine: no promise, no ring, no memory; the driver (frontend.ts) reports events and asks for requests.
//
//   submit ─▶ queue ─▶ started: its parts are sent, and answered ─▶ settled
//                         ▲                       │
//                         └── again, by what is ──┘ EOPNOTSUPP
//                             left of the features
//
// A plain command becomes as many parts as the ring's requests are large. A command with an ordered tag goes one of two
// ways. As WRITE_BARRIER it is sent behind what is at work, and the backend keeps it behind that. By hand it waits until
// everything older is settled. Either way nothing younger is sent before it is settled: not every backend keeps younger
// writes back (old-backend.ts), and if this one answers EOPNOTSUPP, the payload must still come before them.
//
// Invariants, checked in the tests for every order of answers:
//   O1  Every command settles exactly once. It succeeds only if each of its parts was last answered OKAY.
//   O2  Nothing younger than an ordered command is sent before that one is settled.
//   O3  An ordered command is sent by hand only when everything older is settled, and as WRITE_BARRIER only when
//       everything older has been sent and cannot come back for another try.
//   O4  EOPNOTSUPP to a barrier, a flush, a discard or an indirect request costs the feature, for good, and never the
//       payload: the command is sent again without the feature. To a plain READ or WRITE it is an error.
//   O5  What cannot be promised any more is refused: a flush when neither FLUSH_DISKCACHE nor an empty WRITE_BARRIER is
//       left, and from then on any ordered write as well: what it is to follow can no longer be made durable.
//   O6  A discard that the backend does not take is settled as done: it is advice.
//
// A part that fails ends its command; parts that were not sent yet are not sent any more.
//
// Not here: overlapping plain commands, which never come together (clause S4 of a storage).

import type { WriteBarrierError } from 'write-barrier';
import { errorOfStatus, worstBlkifStatus } from './status.js';
import { BLKIF_OP, BLKIF_STATUS } from './wire.js';

/** What the backend takes, as far as it has not said otherwise. */
export interface BlkAbilities {
  /** WRITE_BARRIER. */
  readonly barrier: boolean;
  /** FLUSH_DISKCACHE. */
  readonly flush: boolean;
  readonly discard: boolean;
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

/** One request for the ring. */
export interface Part<C> {
  /** The command that it is a part of. */
  readonly command: Command<C>;
  /** READ, WRITE, WRITE_BARRIER, FLUSH_DISKCACHE or DISCARD. */
  readonly operation: number;
  /** It is wrapped into an INDIRECT request. */
  readonly indirect: boolean;
  /** In bytes. */
  readonly offset: number;
  /** In bytes; 0 for none. */
  readonly length: number;
}

/** A command on its way. */
export interface Command<C> {
  readonly wanted: Wanted;
  readonly client: C;
  /** What is left to send. */
  unsent: Part<C>[];
  /** Parts at the backend. */
  out: number;
  /** Something of it has been sent, in this try or another. */
  sent: boolean;
  /** What its parts were answered, but OKAY and what can be tried again. */
  readonly failures: number[];
  /** What the backend has not taken in this try. */
  refused: Part<C>[];
  /** Its parts may be refused and sent again. */
  mayReturn: boolean;
  /** It waits until nothing older is at work. */
  byHand: boolean;
}

/** The end of a command. */
export interface Ended<C> {
  readonly command: Command<C>;
  /** Undefined for success. */
  readonly error: WriteBarrierError | undefined;
}

/** See the head of this file. `C` is whatever the driver wants to find again in a command. */
export class FrontOrder<C> {
  #abilities: BlkAbilities;
  readonly #sizes: PartSizes;
  readonly #queue: Command<C>[] = [];
  /** Started and not settled, oldest first. */
  readonly #active = new Set<Command<C>>();
  /** The ordered command that is at work. */
  #ordered: Command<C> | undefined;
  readonly #ended: Ended<C>[] = [];

  constructor(abilities: BlkAbilities, sizes: PartSizes) {
    this.#abilities = abilities;
    this.#sizes = sizes;
  }

  /** What is left of the features. */
  get abilities(): BlkAbilities {
    return this.#abilities;
  }

  /** Nothing waits, nothing is at work. */
  get idle(): boolean {
    return this.#queue.length === 0 && this.#active.size === 0;
  }

  // Events

  submit(wanted: Wanted, client: C): void {
    this.#queue.push({
      wanted,
      client,
      unsent: [],
      out: 0,
      sent: false,
      failures: [],
      refused: [],
      mayReturn: false,
      byHand: false,
    });
  }

  /** The backend has answered a part. */
  complete(part: Part<C>, status: number): void {
    const { command } = part;
    command.out -= 1;
    const feature = featureOf(part);
    if (status === BLKIF_STATUS.EOPNOTSUPP && feature) {
      command.refused.push(part);
      this.#lose(feature, command);
    } else if (status !== BLKIF_STATUS.OKAY) {
      command.failures.push(status);
      command.unsent = [];
    }
    this.#look(command);
  }

  /** O4. Parts that were to rest on the feature are as good as refused. */
  #lose(feature: Feature, by: Command<C>): void {
    if (!this.#abilities[feature]) return;
    this.#abilities = { ...this.#abilities, [feature]: false };
    for (const command of this.#active) {
      const vain = command.unsent.filter((part) => featureOf(part) === feature);
      if (vain.length === 0) continue;
      command.unsent = command.unsent.filter((part) => !vain.includes(part));
      command.refused.push(...vain);
      if (command !== by) this.#look(command);
    }
  }

  // Answers

  /** The next command that has ended. */
  takeEnded(): Ended<C> | undefined {
    return this.#ended.shift();
  }

  /** The next part to send; undefined while none may be sent, or the next one does not fit. */
  next(fits: (part: Part<C>) => boolean): Part<C> | undefined {
    for (;;) {
      const part = this.#due();
      if (part) {
        if (!fits(part)) return undefined;
        part.command.unsent.shift();
        part.command.out += 1;
        part.command.sent = true;
        return part;
      }
      if (!this.#start()) return undefined;
    }
  }

  /** What has been started goes first. */
  #due(): Part<C> | undefined {
    for (const command of this.#active) {
      const waits = command.byHand && this.#active.size > 1; // O3
      const [part] = command.unsent;
      if (part && !waits) return part;
    }
    return undefined;
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
  #mayFollow({ wanted }: Command<C>): boolean {
    if (this.#needsHand(wanted)) return this.#active.size === 0;
    for (const older of this.#active) {
      // The protocol says nothing about reads.
      const read = older.wanted.op === 'read' && overlap(older.wanted, wanted);
      if (older.mayReturn || read) return false;
    }
    return true;
  }

  /** Whether the command's try is over, and how. */
  #look(command: Command<C>): void {
    const { out, unsent, failures, refused } = command;
    if (out > 0 || unsent.length > 0) return;
    if (failures.length > 0) this.#end(command, worstBlkifStatus(failures));
    else if (refused.length > 0) this.#try(command);
    else this.#end(command, undefined);
  }

  #end(command: Command<C>, status: number | undefined): void {
    this.#active.delete(command);
    if (this.#ordered === command) this.#ordered = undefined;
    const { op } = command.wanted;
    const name = command.wanted.ordered ? `an ordered ${op}` : `a ${op}`;
    const error = status === undefined ? undefined : errorOfStatus(status, name);
    this.#ended.push({ command, error });
  }

  // Tries

  /** With what is left of the features; after a refusal only what was refused is sent again. */
  #try(command: Command<C>): void {
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
    else if (command.unsent.length === 0) this.#end(command, undefined);
  }

  /** Undefined where it cannot be promised any more. */
  #plan(wanted: Wanted, command: Command<C>): Part<C>[] | undefined {
    const { barrier, flush, discard } = this.#abilities;
    const { op, offset, length, ordered } = wanted;
    const whole = (operation: number): Part<C>[] => [
      { command, operation, indirect: false, offset, length },
    ];
    switch (op) {
      case 'read':
        return this.#pieces(wanted, BLKIF_OP.READ, command);
      case 'discard':
        return discard ? whole(BLKIF_OP.DISCARD) : []; // O6
      case 'flush':
        if (flush) return whole(BLKIF_OP.FLUSH_DISKCACHE);
        return barrier ? whole(BLKIF_OP.WRITE_BARRIER) : undefined; // O5
      case 'write':
        if (ordered && !command.byHand) return whole(BLKIF_OP.WRITE_BARRIER);
        // O5. One that was on its way when the last of the features went is still written, by hand: it is in order.
        if (ordered && !barrier && !flush && !command.sent) return undefined;
        return this.#pieces(wanted, BLKIF_OP.WRITE, command);
    }
  }

  /** An ordered command that no WRITE_BARRIER can carry. */
  #needsHand({ op, length }: Wanted): boolean {
    const { barrier, flush } = this.#abilities;
    if (!barrier) return true;
    return op === 'flush' ? flush : length > this.#sizes.direct;
  }

  #pieces({ offset, length }: Wanted, operation: number, command: Command<C>): Part<C>[] {
    const { direct, indirect } = this.#sizes;
    const wide = this.#abilities.indirect && indirect > direct && length > direct;
    const size = wide ? indirect : direct;
    const parts: Part<C>[] = [];
    for (let at = 0; at < length; at += size) {
      const rest = Math.min(size, length - at);
      // A short rest needs no indirection.
      const part = { command, operation, indirect: wide && rest > direct };
      parts.push({ ...part, offset: offset + at, length: rest });
    }
    return parts;
  }
}

function overlap(a: Wanted, b: Wanted): boolean {
  return a.offset < b.offset + b.length && b.offset < a.offset + a.length;
}

type Feature = keyof BlkAbilities;

/** What a part rests on besides plain reads and writes. */
function featureOf<C>({ operation, indirect }: Part<C>): Feature | undefined {
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
