// The two kinds of queue that Linux had below a block backend, as far as a backend can tell them apart. Either takes the
// bios of one request at once and answers with the status of the whole.
//
//   hardBarriers   until 2.6.36: a bio can be a hard barrier, and the queue orders it and flushes around it. That queue
//                  is a scheduler here, in the mode that the kernel's table gives the disk.
//   preflushes     since 2.6.37: a bio can ask for a flush before its data, which covers what had completed. It orders
//                  nothing, and waits for nobody.
//
// Both tell an observer what reaches the storage, in terms of the requests of the ring: one command of the storage is one
// command of the trace, and its owner is the request whose bio it carries out.

import {
  type CommandEvent,
  chooseMode,
  type DispatchEvent,
  IoScheduler,
  type Observer,
  type SettleEvent,
  type Storage,
  type TraceEvent,
} from 'write-barrier';
import { gathered, scattered } from '../pieces.js';
import type { BlkbackEra } from './backend-eras.js';
import { type BlkifStatus, statusOfError, worstBlkifStatus } from './status.js';
import { BLKIF_STATUS } from './wire.js';

/** Carries out the bios of a request, which are sent at once and end in any order. */
export type Carry = (number: number, bios: readonly Bio[]) => Promise<BlkifStatus>;

/** What the backend sends below. */
export interface Bio {
  readonly kind: 'read' | 'write' | 'discard' | 'empty';
  readonly barrier: boolean;
  readonly preflush: boolean;
  /** In bytes. */
  readonly offset: number;
  readonly length: number;
  readonly pieces: readonly Uint8Array[];
}

/** What a request's owner is told. */
export const OUTCOMES: Readonly<Record<BlkifStatus, SettleEvent['outcome']>> = {
  0: 'done',
  '-1': 'IO_FAILED',
  '-2': 'EOPNOTSUPP',
};

// Below: the queue until 2.6.36

/** A request of the ring whose bios are in the queue. */
interface Owner {
  readonly number: number;
  left: number;
  readonly failures: BlkifStatus[];
}

/** Each bio is a request of the queue; what that does is told in terms of the ring's requests. */
export function hardBarriers(
  era: BlkbackEra,
  storage: Storage,
  observer: Observer | undefined,
): Carry {
  const owners: Owner[] = [];
  const settle = (bio: number, outcome: SettleEvent['outcome']): void => {
    const owner = owners[bio] as Owner;
    if (outcome !== 'done') owner.failures.push(outcome === 'EOPNOTSUPP' ? -2 : -1);
    owner.left -= 1;
    if (owner.left > 0) return;
    const status = statusOfBios(era, owner.failures);
    observer?.({ kind: 'settle', request: owner.number, outcome: OUTCOMES[status] });
  };
  const tell = (event: TraceEvent): void => {
    if (event.kind === 'settle') settle(event.request, event.outcome);
    if (event.kind === 'complete') observer?.(event);
    if (event.kind !== 'dispatch') return;
    const requests = new Set(event.requests.map((bio) => (owners[bio] as Owner).number));
    observer?.({ ...event, requests: [...requests] });
  };
  const queue = new IoScheduler(storage, {
    mode: chooseMode(storage.capabilities),
    errorPolicy: 'kernel',
    readsPassBarriers: false,
    allowUnsafe: true,
    observer: tell,
  });
  const issue = (bio: Bio): Promise<unknown> => {
    const { kind, offset, length, pieces, barrier } = bio;
    if (kind === 'write') return queue.write(offset, gathered(pieces, length), { barrier });
    if (kind === 'read')
      return queue.read(offset, length).then((bytes) => scattered(bytes, pieces));
    return barrier ? queue.barrier() : queue.flush();
  };
  return async (number, bios) => {
    const owner: Owner = { number, left: bios.length, failures: [] };
    return statusOfBios(
      era,
      await failuresOf(bios, (bio) => {
        owners.push(owner);
        return issue(bio);
      }),
    );
  };
}

/** The statuses of those that failed, in the order in which they did. */
async function failuresOf(
  bios: readonly Bio[],
  send: (bio: Bio) => Promise<unknown>,
): Promise<readonly BlkifStatus[]> {
  const failures: BlkifStatus[] = [];
  const sent = bios.map(async (bio) => {
    try {
      await send(bio);
    } catch (error) {
      failures.push(statusOfError(error));
    }
  });
  await Promise.all(sent);
  return failures;
}

function statusOfBios({ status }: BlkbackEra, failures: readonly BlkifStatus[]): BlkifStatus {
  const told = status === 'last' ? failures.at(-1) : worstBlkifStatus(failures);
  return told ?? BLKIF_STATUS.OKAY;
}

// Below: the queue since 2.6.37

/** Each bio goes to the disk by itself: a flush if it says so, then its data. */
export function preflushes(
  era: BlkbackEra,
  storage: Storage,
  observer: Observer | undefined,
): Carry {
  const { cache, flush, fua } = storage.capabilities;
  const flushes = cache === 'volatile' && flush;
  const payload = era.barrier.by === 'preflush' ? era.barrier.payload : 'nothing';
  const forced = payload === 'fua' && cache === 'volatile' && fua;
  const flushed = payload !== 'nothing' && !forced && flushes;
  const told = commandsOf(observer);
  const flushFor = (number: number, stage: Stage): Promise<void> =>
    told(number, { ...FLUSH, stage }, () => storage.flush({ tag: 'simple' }));

  const dataOf = (number: number, bio: Bio, stage: Stage, force: boolean): Promise<void> => {
    const { kind, offset, length, pieces } = bio;
    const op = kind as 'read' | 'write' | 'discard';
    const what = { kind: 'command', op, offset, length, tag: 'simple', fua: force, stage } as const;
    return told(number, what, async () => {
      if (kind === 'discard') return void (await storage.discard?.(offset, length));
      const flags = { fua: force, tag: 'simple' } as const;
      if (kind === 'write')
        return void (await storage.write(offset, gathered(pieces, length), flags));
      const bytes = new Uint8Array(length);
      await storage.read(offset, bytes);
      scattered(bytes, pieces);
    });
  };

  const send = async (number: number, bio: Bio): Promise<void> => {
    const { kind, barrier, preflush } = bio;
    const isFlush = kind === 'empty' && !barrier;
    const before = (barrier || preflush) && flushes;
    if (before) await flushFor(number, isFlush ? 'plain' : 'preflush');
    if (kind === 'empty') return;
    await dataOf(number, bio, barrier ? 'bar' : 'plain', barrier && forced);
    if (barrier && flushed) await flushFor(number, 'postflush');
  };
  return async (number, bios) =>
    statusOfBios(era, await failuresOf(bios, (bio) => send(number, bio)));
}

type What = DispatchEvent['what'];
type Stage = What['stage'];
const FLUSH = {
  kind: 'command',
  op: 'flush',
  offset: 0,
  length: 0,
  tag: 'simple',
  fua: false,
} as const;

/** Runs commands and tells of them. */
function commandsOf(observer: Observer<CommandEvent> | undefined) {
  let commands = 0;
  return async (request: number, what: What, run: () => void | Promise<void>): Promise<void> => {
    const command = commands++;
    observer?.({ kind: 'dispatch', command, what, requests: [request] });
    try {
      await run();
      observer?.({ kind: 'complete', command });
    } catch (error) {
      observer?.({ kind: 'complete', command, error: String(error) });
      throw error;
    }
  };
}
