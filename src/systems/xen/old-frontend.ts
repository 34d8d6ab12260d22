// A block frontend of an era: the driver alone, without the queue above it and without that queue's waiting. Each request
// becomes one request on the ring, or none. What it sends, and what it makes of the answers, stands in its era
// (frontend-eras.ts); what goes wrong with that is the point of it:
//
//   false success    since 2.6.37 a flush or a forced write that comes back as EOPNOTSUPP is answered as done. The data
//                    of the write is nowhere.
//   operation 0      in 3.x the next one is sent with the operation 0, which is READ. Without data that is an error at
//                    every backend; with data the backend reads into the pages, says OKAY, and nothing is written.
//
// The second needs pages that the backend may write to: Linux grants a payload read-only unless both ends use persistent
// grants, which came with 3.8.
//
// States: the choice of the era, until the first downgrade; then nothing. There is no way back.
//
// Not here: merging, several rings, requests larger than eleven pages.

import { type DispatchEvent, type Observer, type Request, WriteBarrierError } from 'write-barrier';
import { readXenNodes, type XenNodes } from './features.js';
import type { BlkifSend } from './front-ring.js';
import { type BlkfrontChoice, type BlkfrontEra, chooseBlkfront } from './frontend-eras.js';
import type { GrantTable } from './grants.js';
import { errorOfStatus } from './status.js';
import { transferOnce } from './transfer.js';
import { BLKIF_OP, BLKIF_STATUS, PAGE_BYTES, SECTOR_BYTES, SEGMENTS_MAX } from './wire.js';

/** How an old frontend is connected. */
export interface OldBlkfrontOptions {
  /** What the backend has written into xenstore. */
  readonly nodes: XenNodes;
  readonly send: BlkifSend;
  readonly grants: GrantTable;
  /** Is told every event: a command is one request on the ring. */
  readonly observer?: Observer;
}

/** What goes over the ring for a request. */
interface Message {
  readonly operation: number;
  readonly offset: number;
  readonly length: number;
  /** It is a flush, a barrier or a forced write. */
  readonly special: boolean;
}

const NOTHING_LEFT = { mode: 'NONE', flush: false, fua: false, operation: undefined } as const;

/** See the head of this file. */
export class OldBlkfront {
  readonly #era: BlkfrontEra;
  readonly #options: OldBlkfrontOptions;
  #choice: BlkfrontChoice;
  #downgraded = false;
  #requests = 0;
  #commands = 0;

  /** @throws `INVALID_ARGUMENT` for nodes that describe no disk */
  constructor(era: BlkfrontEra, options: OldBlkfrontOptions) {
    this.#era = era;
    this.#options = options;
    this.#choice = chooseBlkfront(era, readXenNodes(options.nodes));
  }

  /** What it has settled on; nothing after a downgrade. */
  get choice(): BlkfrontChoice {
    return this.#choice;
  }

  /**
   * Carries out a request. `data` is what to write, or where to read into.
   *
   * @throws `EOPNOTSUPP` where the era tells; `IO_FAILED` for an ERROR; `INVALID_ARGUMENT` for a request of more than
   *   eleven pages, for discards and zeroes, for a write without its data, and for flags that the queue above resolves:
   *   `preflush` in any era, `fua` where the driver has not said that it takes it, `barrier` since 2.6.37
   */
  async submit(request: Request, data?: Uint8Array): Promise<void> {
    checkRequest(request, data);
    checkQueue(request, this.#era, this.#choice);
    const { observer } = this.#options;
    const number = this.#requests++;
    observer?.({ kind: 'submit', request: number, what: request });
    try {
      await this.#carryOut(request, number, data);
      observer?.({ kind: 'settle', request: number, outcome: 'done' });
    } catch (error) {
      const outcome = WriteBarrierError.is(error) ? error.code : 'IO_FAILED';
      observer?.({ kind: 'settle', request: number, outcome });
      throw error;
    }
  }

  async #carryOut(request: Request, number: number, data?: Uint8Array): Promise<void> {
    const message = this.#messageOf(request);
    if (!message) return;
    const { observer } = this.#options;
    const command = this.#commands++;
    observer?.({ kind: 'dispatch', command, what: commandOf(message), requests: [number] });
    const status = await this.#transfer(message, data);
    const error = status === BLKIF_STATUS.OKAY ? {} : { error: `status ${status}` };
    observer?.({ kind: 'complete', command, ...error });
    this.#judge(message, status);
  }

  /** Undefined where there is nothing to send: the request is done. */
  #messageOf(request: Request): Message | undefined {
    const range = rangeOf(request);
    if (request.kind === 'read') return { ...range, operation: BLKIF_OP.READ, special: false };
    const special = isSpecial(request);
    if (!special) return { ...range, operation: BLKIF_OP.WRITE, special };
    const { operation } = this.#choice;
    const { afterDowngrade } = this.#era;
    if (operation !== undefined) return { ...range, operation, special };
    if (afterDowngrade === 'refused') throw errorOfStatus(BLKIF_STATUS.EOPNOTSUPP, 'a barrier');
    if (this.#downgraded && afterDowngrade === 'operation 0') {
      return { ...range, operation: 0, special };
    }
    return range.length > 0 ? { ...range, operation: BLKIF_OP.WRITE, special: false } : undefined;
  }

  /** A payload that is read over stays as it was in the guest: the pages are copies. */
  #transfer(message: Message, data: Uint8Array | undefined): Promise<number> {
    const { operation, offset, special } = message;
    const { grants, send } = this.#options;
    const collect = operation === BLKIF_OP.READ && !special;
    const whole = { operation, offset, data: data ?? new Uint8Array(0), collect };
    return transferOnce(send, grants, whole);
  }

  /** What the request's owner is told. */
  #judge({ operation, length, special }: Message, status: number): void {
    if (status === BLKIF_STATUS.OKAY) return;
    const failed = errorOfStatus(status, `operation ${operation}`);
    // What was sent as a read is answered as one.
    if (!special || operation === BLKIF_OP.READ) throw failed;
    const { emptyErrorIsUnsupported, downgradesOn, unsupported } = this.#era;
    const refused = status === BLKIF_STATUS.EOPNOTSUPP || (length === 0 && emptyErrorIsUnsupported);
    if (refused || downgradesOn === 'any failure') {
      this.#downgraded = true;
      this.#choice = NOTHING_LEFT;
    }
    if (!refused || unsupported === 'told') throw failed;
  }
}

function commandOf({ operation, offset, length, special }: Message): DispatchEvent['what'] {
  const read = operation === BLKIF_OP.READ;
  return {
    kind: 'command',
    op: read ? 'read' : length === 0 ? 'flush' : 'write',
    offset,
    length,
    tag: 'simple',
    fua: special && !read && length > 0,
    stage: 'plain',
  };
}

function isSpecial(request: Request): boolean {
  if (request.kind !== 'write') return true;
  return Boolean(request.barrier || request.preflush || request.fua);
}

/** What the queue above would not have sent to such a driver. */
function checkQueue(request: Request, era: BlkfrontEra, choice: BlkfrontChoice): void {
  if (request.kind !== 'write' || !isSpecial(request)) return;
  const modern = era.flushOn !== undefined;
  const sent = request.barrier ? !modern : modern && (choice.fua || !choice.operation);
  if (sent && !request.preflush) return;
  const what = request.barrier ? 'hard barriers' : 'such flags';
  throw new WriteBarrierError('INVALID_ARGUMENT', `no queue sends ${what} to ${era.name} now`);
}

function rangeOf(request: Request): { readonly offset: number; readonly length: number } {
  if (request.kind === 'flush' || request.kind === 'barrier') return { offset: 0, length: 0 };
  return { offset: request.offset, length: request.length };
}

function checkRequest(request: Request, data: Uint8Array | undefined): void {
  const { offset, length } = rangeOf(request);
  const known = request.kind !== 'discard' && request.kind !== 'writeZeroes';
  const fits = length <= SEGMENTS_MAX * PAGE_BYTES && length % SECTOR_BYTES === 0;
  const whole = Number.isSafeInteger(offset) && offset >= 0 && offset % SECTOR_BYTES === 0;
  if (known && fits && whole && (data?.byteLength ?? 0) === length) return;
  throw new WriteBarrierError('INVALID_ARGUMENT', `no request for this driver: ${request.kind}`);
}
