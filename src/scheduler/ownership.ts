import { WriteBarrierError } from '../model/index.js';
import type { Storage } from '../storage/index.js';

/** Which scheduler has unanswered requests at a storage. */
export interface Ownership {
  /** Whether that scheduler has unanswered requests. */
  isBusy: (() => boolean) | undefined;
}

const OWNERSHIPS = new WeakMap<Storage, Ownership>();

/** The ownership of a storage, which all its schedulers share. */
export function ownershipOf(storage: Storage): Ownership {
  const ownership = OWNERSHIPS.get(storage) ?? { isBusy: undefined };
  OWNERSHIPS.set(storage, ownership);
  return ownership;
}

/**
 * Claims a storage for a scheduler. Two schedulers do not know of each other's commands, so neither could keep an order. The
 * scheduler that has unanswered requests at the storage owns it, and the requests of any other are refused.
 *
 * @param isBusy of the scheduler that claims it, always the same function
 * @throws `STORAGE_IN_USE`
 */
export function claim(ownership: Ownership, isBusy: () => boolean): void {
  if (ownership.isBusy !== isBusy && ownership.isBusy?.()) {
    throw new WriteBarrierError(
      'STORAGE_IN_USE',
      'another scheduler has unanswered requests at this storage; share one, its asStorage() or a SchedulerGroup',
    );
  }
  ownership.isBusy = isBusy;
}
