// A block frontend of an era: the driver alone, without the queue above it and without the waiting of that queue. Each
// request becomes one request on the ring, or none. The eras differ in data only: in how Linux frontends interpreted the nodes
// of a backend over the years, and in what each did when the backend took a feature back.
//
//   era              node absent       feature-barrier 0   1                         feature-flush-cache 1
//   xenlinux-2006    NONE              NONE                DRAIN                     not read
//   linux-2.6.32     NONE              NONE                DRAIN                     not read
//   linux-2.6.36     DRAIN             NONE                TAG                       not read
//   fork-2.6.37      nothing           nothing             nothing: "empty flushes   not read
//                                                          not handled"
//   linux-3.x, 5.x   nothing: writes   nothing             flush and FUA, as         flush, as FLUSH_DISKCACHE;
//                    through                               WRITE_BARRIER             wins over feature-barrier
//
// Until 2.6.36 the queue above the driver has an ordered mode; the barrier's own write comes to the driver flagged as
// such and goes out as WRITE_BARRIER, in DRAIN as well: then both ends drain. Since 2.6.37 there are no modes, which is
// NONE here, and the queue sends flushes and FUA writes if the driver says that it takes them.
//
// The frontend exists to show these defects:
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
//
// Source: blkfront_connect() and blkif_interrupt() in drivers/block/xen-blkfront.c, in the versions that `witness` names;
// for 2.6.36 and fork-2.6.37 excerpts of mails and of SUSE's driver, which has both sides in one file.

import type { ModeName, Observer, Request, StagedCommand } from 'write-barrier';
import {
  answerCall,
  type Call,
  type Command,
  checkArgument,
  checkOptions,
  Driver,
  FUNCTION,
  formatValue,
  type Machine,
  misuse,
  type Settled,
} from 'write-barrier/kit';
import { submitTo } from '../requests.js';
import { type ReadXenNodes, readXenNodes, type XenNodes } from './features.js';
import { directRequest, type GrantTable, transfer } from './grants.js';
import type { BlkifSend } from './ring.js';
import {
  BLKIF_OP,
  BLKIF_STATUS,
  errorOfStatus,
  PAGE_BYTES,
  SECTOR_BYTES,
  SEGMENTS_MAX,
  StatusError,
} from './wire.js';

// The eras

/** What a frontend has settled on. */
export interface BlkfrontChoice {
  /** The ordered mode of the queue above. */
  readonly mode: ModeName;
  /** That queue sends flushes and believes in a volatile cache. */
  readonly flush: boolean;
  /** It sends forced writes as such. */
  readonly fua: boolean;
  /** What barriers, flushes and forced writes become on the ring; undefined where none are sent. */
  readonly operation: number | undefined;
}

/** A frontend of some years. */
export interface BlkfrontEra {
  /** That of the table. */
  readonly name: string;
  /** Where it can be read. */
  readonly witness: string;
  /** There is no feature-barrier. */
  readonly absent: BlkfrontChoice;
  /** feature-barrier is 0. */
  readonly barrierOff: BlkfrontChoice;
  /** feature-barrier is 1. */
  readonly barrierOn: BlkfrontChoice;
  /** feature-flush-cache is 1, whatever feature-barrier says; undefined where it is not read. */
  readonly flushOn: BlkfrontChoice | undefined;
  /**
   * What EOPNOTSUPP becomes. `told`: the file system gets the error, and writes again without a barrier. `success`: the request
   * is answered as done, even if its data was written nowhere.
   */
  readonly unsupported: 'told' | 'success';
  /** Which answers to a barrier, a flush or a forced write make it give up the operation. */
  readonly downgradesOn: 'unsupported' | 'any failure';
  /** An ERROR to a request without segments is taken for EOPNOTSUPP: the backend may be too old for those. */
  readonly emptyErrorIsUnsupported: boolean;
  /**
   * What becomes of a flush or a forced write after the downgrade. `refused`: the queue refuses it. `plain`: a flush is
   * done at once and a forced write is an ordinary one. `operation 0`: the field with the operation has been cleared,
   * and 0 is READ.
   */
  readonly afterDowngrade: 'refused' | 'plain' | 'operation 0';
}

const NOTHING: BlkfrontChoice = Object.freeze({
  mode: 'NONE',
  flush: false,
  fua: false,
  operation: undefined,
});
const { WRITE_BARRIER, FLUSH_DISKCACHE } = BLKIF_OP;
const ordered = (mode: ModeName): BlkfrontChoice =>
  Object.freeze({ ...NOTHING, mode, operation: WRITE_BARRIER });

const HARD = {
  absent: NOTHING,
  barrierOff: NOTHING,
  barrierOn: ordered('DRAIN'),
  flushOn: undefined,
  unsupported: 'told',
  downgradesOn: 'unsupported',
  emptyErrorIsUnsupported: false,
  afterDowngrade: 'refused',
} as const;
const SOFT = {
  absent: NOTHING,
  barrierOff: NOTHING,
  barrierOn: Object.freeze({ ...NOTHING, flush: true, fua: true, operation: WRITE_BARRIER }),
  flushOn: Object.freeze({ ...NOTHING, flush: true, operation: FLUSH_DISKCACHE }),
  unsupported: 'success',
  downgradesOn: 'any failure',
  emptyErrorIsUnsupported: true,
} as const;

/** The name of an era. */
export type BlkfrontEraName =
  | 'xenlinux-2006'
  | 'linux-2.6.32'
  | 'linux-2.6.36'
  | 'fork-2.6.37'
  | 'linux-3.x'
  | 'linux-5.x';

/** The frontends, oldest first. */
export const BLKFRONT_ERAS: Readonly<Record<BlkfrontEraName, BlkfrontEra>> = Object.freeze({
  'xenlinux-2006': {
    ...HARD,
    name: 'xenlinux-2006',
    witness: 'Xen changeset a1daf484 (2006), linux-2.6-xen-sparse/drivers/xen/blkfront',
  },
  'linux-2.6.32': {
    ...HARD,
    name: 'linux-2.6.32',
    witness: 'a tree based on 2.6.32, drivers/block/xen-blkfront.c',
  },
  'linux-2.6.36': {
    ...HARD,
    name: 'linux-2.6.36',
    witness: '"xen/blkfront: use tagged queuing for barriers" (2.6.35, 2.6.36); SUSE, below 2.6.37',
    absent: ordered('DRAIN'),
    barrierOn: ordered('TAG'),
  },
  'fork-2.6.37': {
    ...HARD,
    name: 'fork-2.6.37',
    witness: 'a fork in the transition to 2.6.37: "empty flushes not handled"',
    barrierOn: NOTHING,
  },
  'linux-3.x': {
    ...SOFT,
    name: 'linux-3.x',
    witness: 'SUSE 3.x and Linux 3.x, drivers/block/xen-blkfront.c: flush_op = 0 after EOPNOTSUPP',
    afterDowngrade: 'operation 0',
  },
  'linux-5.x': {
    ...SOFT,
    name: 'linux-5.x',
    witness: 'Linux 5.x, drivers/block/xen-blkfront.c, blkif_interrupt()',
    afterDowngrade: 'plain',
  },
});

/** What the frontend of an era makes of the nodes. */
export function chooseBlkfront(
  era: BlkfrontEra,
  { barrier, flush }: Pick<ReadXenNodes, 'barrier' | 'flush'>,
): BlkfrontChoice {
  if (flush && era.flushOn) return era.flushOn;
  if (barrier === undefined) return era.absent;
  return barrier ? era.barrierOn : era.barrierOff;
}

// The driver

/** How an old frontend is connected. */
export interface OldBlkfrontOptions {
  /** What the backend has written into xenstore. */
  readonly nodes: XenNodes;
  /** The way to the backend: that of a ring, or `serve` of the backend itself. */
  readonly send: BlkifSend;
  /** The pages to lend, at least eleven for each request that is to be out at once. */
  readonly grants: GrantTable;
  /** Called for every event: a command is one request on the ring. */
  readonly observer?: Observer;
}

const OPTIONS = { nodes: 1, send: 1, grants: 1, observer: 1 } as const;

/** What goes over the ring for a request. */
interface RingCommand extends Command<Call> {
  readonly what: StagedCommand;
  readonly operation: number;
  /** It is a flush, a barrier or a forced write. */
  readonly special: boolean;
}

/** What an era makes of requests and of their answers. */
class OldFrontend implements Machine<Call, RingCommand> {
  readonly #era: BlkfrontEra;
  readonly #due: RingCommand[] = [];
  readonly #settled: Settled<Call>[] = [];
  choice: BlkfrontChoice;
  #downgraded = false;

  constructor(era: BlkfrontEra, choice: BlkfrontChoice) {
    this.#era = era;
    this.choice = choice;
  }

  submit(request: Request, client: Call): void {
    const operation = this.#operationOf(request);
    if (operation === 'refused') {
      const error = errorOfStatus(BLKIF_STATUS.EOPNOTSUPP, 'a barrier');
      this.#settled.push({ client, error });
    } else if (operation === undefined) {
      this.#settled.push({ client }); // there is nothing to send
    } else {
      const special = request.kind !== 'read' && operation !== BLKIF_OP.WRITE;
      const what = commandOf(request, operation, special);
      this.#due.push({ what, clients: [client], operation, special });
    }
  }

  next(): RingCommand | undefined {
    return this.#due.shift();
  }

  complete(command: RingCommand, error: unknown): void {
    const judged = error instanceof StatusError ? this.#judge(command, error.status) : error;
    for (const client of command.clients) this.#settled.push({ client, error: judged });
  }

  takeSettled(): Settled<Call> | undefined {
    return this.#settled.shift();
  }

  /** Undefined where there is nothing to send: the request is done. */
  #operationOf(request: Request): number | 'refused' | undefined {
    if (request.kind === 'read') return BLKIF_OP.READ;
    if (!isSpecial(request)) return BLKIF_OP.WRITE;
    const { operation } = this.choice;
    const { afterDowngrade } = this.#era;
    if (operation !== undefined) return operation;
    if (afterDowngrade === 'refused') return 'refused';
    if (this.#downgraded && afterDowngrade === 'operation 0') return 0;
    return rangeOf(request).length > 0 ? BLKIF_OP.WRITE : undefined;
  }

  /** The error that the caller of the request gets. */
  #judge({ what, operation, special }: RingCommand, status: number): unknown {
    const failed = errorOfStatus(status, `operation ${operation}`);
    // What was sent as a read is answered as one.
    if (!special || operation === BLKIF_OP.READ) return failed;
    const { emptyErrorIsUnsupported, downgradesOn, unsupported } = this.#era;
    const refused =
      status === BLKIF_STATUS.EOPNOTSUPP || (what.length === 0 && emptyErrorIsUnsupported);
    if (refused || downgradesOn === 'any failure') {
      this.#downgraded = true;
      this.choice = NOTHING;
    }
    return refused && unsupported === 'success' ? undefined : failed;
  }
}

/** The block driver of a guest of some year. */
export class OldBlkfront {
  readonly #era: BlkfrontEra;
  readonly #machine: OldFrontend;
  readonly #driver: Driver<Call, RingCommand>;

  /** @throws `INVALID_ARGUMENT` for nodes that describe no disk */
  constructor(era: BlkfrontEra, options: OldBlkfrontOptions) {
    checkOptions(options, OPTIONS, 'OldBlkfront');
    const { nodes, observer } = options;
    checkArgument('send', options.send, FUNCTION);
    this.#era = era;
    const read = readXenNodes(nodes);
    this.#machine = new OldFrontend(era, chooseBlkfront(era, read));
    const execute = (command: RingCommand): unknown => carryOut(command, options);
    this.#driver = new Driver<Call, RingCommand>(this.#machine, {
      execute,
      answer: answerCall,
      observer,
      name: 'an old frontend',
      blockSize: read.sectorSize,
    });
  }

  /** What it has settled on; nothing after a downgrade. */
  get choice(): BlkfrontChoice {
    return this.#machine.choice;
  }

  /**
   * Carries out a request. `data` is what to write, or where to read into.
   *
   * @throws `EOPNOTSUPP` where the era reports it; `IO_FAILED` for an ERROR; `INVALID_ARGUMENT` for a request of more than
   *   eleven pages, for discards and zeroes, for a write without its data, and for flags that the queue above resolves:
   *   `preflush` in any era, `fua` where the driver has not said that it takes it, `barrier` since 2.6.37
   */
  async submit(request: Request, data?: Uint8Array): Promise<Uint8Array | void> {
    checkSectors(request, data);
    checkQueue(request, this.#era, this.choice);
    return submitTo(this.#driver, { request, data });
  }

  /** Settles when every request has been answered. */
  idle(): Promise<void> {
    return this.#driver.idle();
  }
}

/** A payload that is read over stays as it was in the guest: the pages are copies. */
async function carryOut(
  { what, operation, special, clients }: RingCommand,
  { grants, send }: OldBlkfrontOptions,
): Promise<void> {
  const data = (clients[0]?.data as Uint8Array | undefined) ?? new Uint8Array(0);
  const status = await transfer(send, grants, {
    length: data.byteLength,
    ...(operation === BLKIF_OP.READ && !special ? { into: () => data } : { data: [data] }),
    request: (loan) => directRequest(operation, what.offset, loan),
  });
  if (status !== BLKIF_STATUS.OKAY) throw new StatusError(status);
}

function commandOf(request: Request, operation: number, special: boolean): StagedCommand {
  const range = rangeOf(request);
  const read = operation === BLKIF_OP.READ;
  const op = read ? 'read' : range.length === 0 ? 'flush' : 'write';
  const fua = special && op === 'write';
  return { kind: 'command', op, ...range, tag: 'simple', fua, stage: 'plain' };
}

function isSpecial(request: Request): boolean {
  if (request.kind !== 'write') return true;
  return Boolean(request.barrier || request.preflush || request.fua);
}

/** How a caller gets the effect of a flag that a queue since 2.6.37 does not send. */
const INSTEAD = {
  preflush: 'submit a flush before it, and wait for it',
  fua: 'submit a flush after it',
  barrier: 'submit a flush before it and one after it, and wait for each',
} as const;

/** What the queue above would not have sent to such a driver. */
function checkQueue(request: Request, era: BlkfrontEra, choice: BlkfrontChoice): void {
  if (request.kind !== 'write' || !isSpecial(request)) return;
  const modern = era.flushOn !== undefined;
  const sent = request.barrier ? !modern : modern && (choice.fua || !choice.operation);
  if (sent && !request.preflush) return;
  const flag = request.preflush ? 'preflush' : request.barrier ? 'barrier' : 'fua';
  const instead = modern ? INSTEAD[flag] : 'of these flags it knows only barrier';
  throw misuse(`the queue above ${era.name} sends no write with ${flag}: ${instead}`);
}

function rangeOf(request: Request): { readonly offset: number; readonly length: number } {
  if (request.kind === 'flush' || request.kind === 'barrier') return { offset: 0, length: 0 };
  return { offset: request.offset, length: request.length };
}

function checkSectors(request: Request, data: Uint8Array | undefined): void {
  const { offset, length } = rangeOf(request);
  const known = request.kind !== 'discard' && request.kind !== 'writeZeroes';
  const fits = length <= SEGMENTS_MAX * PAGE_BYTES && length % SECTOR_BYTES === 0;
  const whole = Number.isSafeInteger(offset) && offset >= 0 && offset % SECTOR_BYTES === 0;
  if (known && fits && whole && (data?.byteLength ?? 0) === length) return;
  throw misuse(
    `this driver takes reads, writes, barriers and flushes of whole sectors, up to ${SEGMENTS_MAX} pages, with a ` +
      `buffer of that length; got ${formatValue(request)}`,
  );
}
