// When a write is safe: the three conditions of the standard, as a state machine over what a driver sees.
//
//   submitted ──completes──▶ stable     the mode byte was 0 all the time (condition 2), or there is no byte and the
//                                       device must commit what it completes (condition 1)
//                            volatile   otherwise
//                            unknown    the byte changed while the write was in flight: it may be either
//   volatile, unknown ──a flush completes that was sent after the write had completed (condition 3)──▶ stable
//   submitted ──fails──▶ unknown, for good: nothing is said about its sectors
//
//   P1  A submitted write is volatile: until it is stable, nobody knows what its sectors hold after a power cut.
//   P2  Changing the byte makes no earlier write stable, and none volatile.
//   P3  What is stable stays so.
//   P4  A flush that fails, or was sent before the write had completed, says nothing about the write.
//
// A device that does not offer FLUSH promises nothing: its writes stay volatile here, however well it keeps them. Linux
// and the patch of 2010 assume otherwise. A device that is not backed by persistent storage promises nothing either.
//
// Not here: which writes a later one replaces. States are about writes, not about sectors.
//
// Source: OASIS virtio 1.3, 5.2.6.2 "Device Requirements: Device Operation".

import { WriteBarrierError } from 'write-barrier';
import { hasVirtioFeature, type VirtioAgreement } from './features.js';

/** What may be said of a write: a power cut may take it, may not take it, or the standard does not say. */
export type VirtioStability = 'volatile' | 'stable' | 'unknown';

/** What a driver does and sees. Writes and flushes are numbered by the caller, each for itself. */
export type VirtioStabilityEvent =
  | {
      /** A write was handed to the device. */
      readonly kind: 'submit';
      /** Its number, never used before. */
      readonly write: number;
    }
  | {
      /** The device has answered a write. */
      readonly kind: 'complete';
      /** Its number. */
      readonly write: number;
      /** The status was not OK. */
      readonly failed?: boolean;
    }
  | {
      /** A flush was handed to the device. */
      readonly kind: 'submitFlush';
      /** Its number, never used before. */
      readonly flush: number;
    }
  | {
      /** The device has answered a flush. */
      readonly kind: 'completeFlush';
      /** Its number. */
      readonly flush: number;
      /** The status was not OK. */
      readonly failed?: boolean;
    }
  | {
      /** The driver wrote the configuration byte. */
      readonly kind: 'setWriteback';
      /** What it says now. */
      readonly writeback: boolean;
    };

/** Follows the writes of one device. */
export interface VirtioWrites {
  /**
   * The next thing that happened.
   *
   * @throws `INVALID_ARGUMENT` for what cannot happen: a number used twice, an answer to nothing, a byte that the driver
   *   may not write
   */
  take(event: VirtioStabilityEvent): void;
  /** What may be said of the write now. @throws `INVALID_ARGUMENT` for one that was not submitted */
  of(write: number): VirtioStability;
}

interface Write {
  state: 'in flight' | 'completed' | 'failed';
  stability: VirtioStability;
  /** The byte, where there is one, was 0 at the submission. */
  readonly through: boolean;
  /** How often the byte had changed by the submission. */
  readonly changes: number;
}

/** Follows the writes of a device from the negotiation on; `agreement.writeback` is the byte at that time. */
export function virtioWrites(agreement: VirtioAgreement): VirtioWrites {
  const { offered, negotiated } = agreement;
  const configurable = hasVirtioFeature(negotiated, 'CONFIG_WCE');
  const unflushed = !configurable && !hasVirtioFeature(negotiated, 'FLUSH');
  const commits = unflushed && hasVirtioFeature(offered, 'FLUSH');
  const writes = new Map<number, Write>();
  /** What had completed when each running flush was sent. */
  const flushes = new Map<number, readonly Write[]>();
  const flushed = new Set<number>();
  let writeback = agreement.writeback;
  let changes = 0;

  const running = (number: number): Write => {
    const write = writes.get(number);
    need(write?.state === 'in flight', `write ${number} is not in flight`);
    return write as Write;
  };
  const complete = (number: number, failed: boolean): void => {
    const write = running(number);
    write.state = failed ? 'failed' : 'completed';
    if (failed) write.stability = 'unknown';
    else if (commits) write.stability = 'stable';
    else if (configurable && write.changes !== changes) write.stability = 'unknown';
    else if (configurable && write.through) write.stability = 'stable';
  };
  const completeFlush = (number: number, failed: boolean): void => {
    const covered = flushes.get(number);
    need(covered !== undefined, `flush ${number} is not in flight`);
    flushes.delete(number);
    if (!failed) for (const write of covered ?? []) write.stability = 'stable';
  };

  return {
    take: (event) => {
      switch (event.kind) {
        case 'submit':
          need(!writes.has(event.write), `write ${event.write} was submitted before`);
          writes.set(event.write, {
            state: 'in flight',
            stability: 'volatile',
            through: !writeback,
            changes,
          });
          return;
        case 'complete':
          return complete(event.write, event.failed ?? false);
        case 'submitFlush': {
          need(!flushed.has(event.flush), `flush ${event.flush} was submitted before`);
          flushed.add(event.flush);
          const completed = [...writes.values()].filter(({ state }) => state === 'completed');
          flushes.set(event.flush, completed);
          return;
        }
        case 'completeFlush':
          return completeFlush(event.flush, event.failed ?? false);
        case 'setWriteback':
          need(configurable, 'the byte is not the driver’s to write without CONFIG_WCE');
          if (event.writeback !== writeback) changes += 1;
          writeback = event.writeback;
          return;
      }
    },
    of: (number) => {
      const write = writes.get(number);
      need(write !== undefined, `write ${number} was not submitted`);
      return (write as Write).stability;
    },
  };
}

function need(holds: boolean, otherwise: string): void {
  if (!holds) throw new WriteBarrierError('INVALID_ARGUMENT', `this cannot happen: ${otherwise}`);
}
