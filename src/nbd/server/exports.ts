// What is exported, and what may be promised about it. The flags follow from the capabilities of the storage:
//
//   SEND_FLUSH       there is nothing volatile, or it can be flushed
//   SEND_FUA         there is nothing volatile, or it can be flushed, or a single write can be forced
//   SEND_TRIM        the storage discards
//   SEND_WRITE_ZEROES  always: the scheduler writes zeroes where the storage has nothing better
//   SEND_FAST_ZERO   the storage has something better
//   SEND_CACHE       always: it is carried out as a read, which is what fills a cache below
//   SEND_DF          with structured replies: a read is answered with one chunk
//   CAN_MULTI_CONN   always, because it is always true here: all connections share one scheduler, whose flush covers
//                    whatever was submitted to it, and whose reads see whatever was written before
//
// A bare storage gets a scheduler of the server's own, one for each storage and not for each name, or two exports of
// one storage would not see each other's writes in flight. Its mode is NONE: no request of the protocol is a barrier,
// and NBD is today's Linux contract, in which the client orders by waiting. Flush and FUA work in every mode; what
// the storage cannot honour is not offered, so `allowUnsafe` hides nothing.
//
// Source: NetworkBlockDevice/nbd doc/proto.md, sections "Transmission flags", "Block size constraints".

import { IoScheduler, type Storage } from 'write-barrier';
import {
  type BlockSizes,
  type ExportFacts,
  TRANSMISSION_FLAG as FLAG,
  STRING_MAX,
} from '../wire/index.js';
import {
  type Limits,
  misuse,
  type NbdExportOptions,
  type NbdServerOptions,
  type TlsPolicy,
} from './options.js';
import { sharedFlush } from './patience.js';

/** An export as the session sees it: facts, and no storage. */
export interface ExportTerms extends ExportFacts {
  readonly name: string;
  readonly description: string;
  readonly readOnly: boolean;
  readonly tls: TlsPolicy;
  readonly blockSizes: BlockSizes;
}

/** An export as the connection sees it. */
export interface Export extends ExportTerms {
  readonly scheduler: IoScheduler;
  /** Shared by all that export the same scheduler. */
  readonly flush: () => Promise<void>;
}

/** Exports by name. */
export type Exports = ReadonlyMap<string, Export>;

/** The largest minimum block size that the protocol knows. */
const MINIMUM_MAX = 64 * 1024;
const PREFERRED = 4096;

/**
 * @throws `INVALID_ARGUMENT` for no export, a name or a description that is too long, TLS without keys
 * @throws `INVALID_STORAGE` for a storage that contradicts itself; `INVALID_ARGUMENT` for a block size that is no
 * power of two up to 64 KiB, which the protocol cannot say
 */
export function exportsOf({ exports, tls }: NbdServerOptions, limits: Limits): Exports {
  const schedulers = new Map<Storage, IoScheduler>();
  const flushes = new Map<IoScheduler, () => Promise<void>>();
  const schedulerOf = (storage: Storage | IoScheduler): IoScheduler => {
    if (isScheduler(storage)) return storage;
    const scheduler =
      schedulers.get(storage) ??
      new IoScheduler(storage, { mode: 'NONE', allowUnsafe: true, depth: 64 });
    schedulers.set(storage, scheduler);
    return scheduler;
  };
  const found = Object.entries(exports).map(([name, given]): [string, Export] => {
    if (typeof given !== 'object' || given === null) throw misuse(`export '${name}' is no storage`);
    const options = isOptions(given) ? given : { storage: given };
    const policy = options.tls ?? (tls ? 'required' : 'off');
    if (!tls && policy !== 'off') throw misuse(`export '${name}' wants TLS and there are no keys`);
    const scheduler = schedulerOf(options.storage);
    const flush = flushes.get(scheduler) ?? sharedFlush(scheduler);
    flushes.set(scheduler, flush);
    return [name, { ...termsOf(name, options, policy, scheduler, limits), scheduler, flush }];
  });
  if (found.length === 0) throw misuse('a server needs an export');
  return new Map(found);
}

/** Whether writes can be made durable at all, apart from single writes by FUA. */
export function canFlush({ scheduler }: Export): boolean {
  const { cache, flush } = scheduler.capabilities;
  return cache !== 'volatile' || flush;
}

function termsOf(
  name: string,
  { readOnly = false, description = '' }: Omit<NbdExportOptions, 'storage'>,
  tls: TlsPolicy,
  { size, capabilities }: IoScheduler,
  { requestBytes }: Limits,
): ExportTerms {
  for (const text of [name, description]) {
    if (Buffer.byteLength(text) > STRING_MAX || text.includes('\0')) {
      throw misuse(`a name or a description is too long, or holds a NUL: ${text.slice(0, 40)}`);
    }
  }
  const { blockSize, cache, flush, fua, discard, writeZeroes } = capabilities;
  if (blockSize > MINIMUM_MAX || !Number.isInteger(Math.log2(blockSize))) {
    throw misuse(`export '${name}' has blocks of ${blockSize} bytes, which NBD cannot express`);
  }
  const flushes = cache !== 'volatile' || flush;
  const offers: readonly (readonly [number, boolean | undefined])[] = [
    [FLAG.READ_ONLY, readOnly],
    [FLAG.SEND_FLUSH, flushes],
    [FLAG.SEND_FUA, flushes || fua],
    [FLAG.SEND_TRIM, discard && !readOnly],
    [FLAG.SEND_WRITE_ZEROES, !readOnly],
    [FLAG.SEND_FAST_ZERO, writeZeroes && !readOnly],
    [FLAG.CAN_MULTI_CONN, true],
    [FLAG.SEND_CACHE, true],
  ];
  return {
    name,
    description,
    readOnly,
    tls,
    size,
    flags: offers.reduce<number>(
      (sum, [flag, offered]) => sum | (offered ? flag : 0),
      FLAG.HAS_FLAGS,
    ),
    blockSizes: {
      minimum: blockSize,
      preferred: Math.max(blockSize, PREFERRED),
      maximum: requestBytes - (requestBytes % MINIMUM_MAX),
    },
  };
}

function isOptions(given: NbdServerOptions['exports'][string]): given is NbdExportOptions {
  return 'storage' in given && !('capabilities' in given);
}

/** By what it does and not by its class: the ESM and the CJS build may meet in one program. */
function isScheduler(given: Storage | IoScheduler): given is IoScheduler {
  return 'asStorage' in given && typeof given.asStorage === 'function';
}
