// Options of the server, with defaults and rules, and the exports that are made of them.
//
// Everything that a client can make the server spend has a limit here: connections, time to shake hands, the length of a
// request, requests and bytes in flight, time for a payload, the time that `close` waits. Wrong values and unknown names
// are refused in the constructor, before a client can connect, because a misspelt limit would be no limit.
//
// What may be promised about an export follows from its storage. The flags follow from the capabilities of the storage:
//
//   SEND_FLUSH         nothing is volatile, or it can be flushed
//   SEND_FUA           nothing is volatile, or it can be flushed, or a single write can be forced
//   SEND_TRIM          the storage discards
//   SEND_WRITE_ZEROES  always, because the scheduler writes zeroes if the storage has nothing better
//   SEND_FAST_ZERO     the storage has something better, and says that it is fast
//   SEND_CACHE         always, because it is executed as a read, which fills the caches below
//   SEND_DF            with structured replies, because a read is answered with one chunk
//   CAN_MULTI_CONN     always, because all connections share one scheduler: a flush covers everything that was answered on
//                      any of them (commands.C1), and reads see everything that was written before
//
// A read-only export offers neither SEND_TRIM nor SEND_WRITE_ZEROES nor SEND_FAST_ZERO, because it refuses these commands.
//
// A bare storage gets a scheduler of the server's own: one for each storage and not for each name, because two exports of
// one storage would otherwise not see each other's writes in flight. Its mode is NONE, because no request of the protocol is
// a barrier: NBD is today's Linux contract, in which the client orders by waiting. Flush and FUA work in every mode.
// What the storage cannot do is not offered, so `allowUnsafe` hides nothing. On each scheduler stands a group, whose members
// are connections (disk.ts).
//
// After a failed flush an export is read-only for new clients, and its description says why, because they would otherwise
// notice only when their first write fails. Clients that use it already get EIO until `recover`.
//
// Source: NetworkBlockDevice/nbd doc/proto.md, sections "Transmission flags", "Block size constraints".

import { type ByteRange, IoScheduler, type Storage } from 'write-barrier';
import {
  BOOLEAN,
  checkArgument,
  checkOptions,
  FUNCTION,
  formatValue,
  type KnownOptions,
  misuse,
  oneOf,
  type Rule,
  rule,
  wholeNumber,
} from 'write-barrier/kit';
import { bytesIn } from '../report.js';
import {
  type BlockSizes,
  type ExportFacts,
  TRANSMISSION_FLAG as FLAG,
  PAYLOAD_MAX,
  STRING_MAX,
  utf8,
} from '../wire/index.js';
import { DEPTH, Disk } from './disk.js';
import type { NbdTlsOptions } from './tls.js';

/** Whether an export is used over TLS: never, always, or as the client chooses. */
export type TlsPolicy = 'off' | 'optional' | 'required';

/** A storage to export, with options. */
export interface NbdExportOptions {
  /** The storage to export. */
  readonly storage: Storage | IoScheduler;
  /** Refuses writes. @defaultValue false */
  readonly readOnly?: boolean;
  /** @defaultValue `required` if the server has TLS, otherwise `off` */
  readonly tls?: TlsPolicy;
  /** A text for people, shown in lists of exports. @defaultValue '' */
  readonly description?: string;
  /**
   * Serves reads of the bytes that a failed flush left at risk. What they answer may exist only in a cache and be gone
   * after a power cut; a client that acts on it acts on data that was never stored. For a bare storage only, because a
   * scheduler has this option itself. @defaultValue false
   */
  readonly readAtRisk?: boolean;
}

/** Limits on what clients may cost. */
export interface NbdServerLimits {
  /** Maximum number of clients that use an export. Further clients are refused an export. @defaultValue 64 */
  readonly connections?: number;
  /**
   * Maximum number of connections that have not chosen an export yet. One more closes the oldest of them; those that have
   * proved in TLS that they have a key are closed last. @defaultValue 64
   */
  readonly handshakes?: number;
  /**
   * Limit from the connection to the choice of an export, and with TLS until the client has taken the first reply after it, in
   * milliseconds. @defaultValue 10,000
   */
  readonly handshakeMs?: number;
  /** The longest read or write, in bytes, at least 64 KiB. It is announced to clients. @defaultValue 32 MiB */
  readonly requestBytes?: number;
  /** Maximum number of requests in flight for one connection. @defaultValue 128 */
  readonly requestsInFlight?: number;
  /** Maximum size of their buffers, in bytes. A single request may exceed it. @defaultValue 64 MiB */
  readonly bytesInFlight?: number;
  /**
   * Maximum bytes that all connections together hold: payloads that are coming, buffers of requests, and replies that clients have
   * not taken. A single request may exceed it. `requestBytes` of it are for one request at a time that has no room otherwise;
   * half of the rest is divided evenly among `connections`, and the other half is for those that need more. The buffers that
   * Node has not collected yet may be as much again: a server with the defaults needs 64 MiB for Node, 128 MiB, and 128 MiB for
   * those, and fits into a container of 512 MiB. @defaultValue 128 MiB
   */
  readonly totalBytes?: number;
  /**
   * The longest CACHE, and the longest WRITE_ZEROES that costs as much as data, in bytes, at least 64 KiB. A longer one is
   * answered with EOVERFLOW. @defaultValue 1 GiB
   */
  readonly workBytes?: number;
  /**
   * How long a client may leave a payload incomplete without sending more of it, in milliseconds; then it is disconnected.
   * A slow line is not disconnected as long as bytes arrive. @defaultValue 8,000
   */
  readonly payloadMs?: number;
  /**
   * How long a client that uses an export may neither send nor receive while it has no request in flight, in milliseconds;
   * then it is disconnected. 0 for no limit. @defaultValue 0
   */
  readonly idleMs?: number;
  /** How long `close` waits for clients to take their last replies, in milliseconds. @defaultValue 5,000 */
  readonly closeMs?: number;
}

/** What happens to connections and exports. */
export type NbdServerEvent =
  | {
      /** A flush failed: writes, flushes, and reads of the bytes at risk are refused from now on. */
      readonly kind: 'failed';
      /** The name of the export. */
      readonly export: string;
      /** The bytes that may be lost. */
      readonly atRisk: readonly ByteRange[];
    }
  | {
      /** Requests are served again, after `recover`. */
      readonly kind: 'recovered';
      /** The name of the export. */
      readonly export: string;
    }
  | {
      /** A client connected. */
      readonly kind: 'connected';
      /** The number of the connection, from 0. */
      readonly connection: number;
    }
  | {
      /** A client chose an export. */
      readonly kind: 'opened';
      /** The number of the connection. */
      readonly connection: number;
      /** The name of the export. */
      readonly export: string;
      /** Whether the connection uses TLS. */
      readonly tls: boolean;
    }
  | {
      /** A connection ended. */
      readonly kind: 'ended';
      /** The number of the connection. */
      readonly connection: number;
      /** The reason; undefined if the client disconnected as the protocol wants it. */
      readonly why: string | undefined;
    };

/** What a server serves, and how. */
export interface NbdServerOptions {
  /** Storages by the names of their exports; '' is the default export. */
  readonly exports: Readonly<Record<string, Storage | IoScheduler | NbdExportOptions>>;
  /** @defaultValue no TLS */
  readonly tls?: NbdTlsOptions;
  /** Limits on what clients may cost. */
  readonly limits?: NbdServerLimits;
  /**
   * Called synchronously for every event. If it throws, that is reported once on the console, and the server goes on.
   */
  readonly observer?: (event: NbdServerEvent) => void;
}

/** Every limit, in force. */
export type Limits = Required<NbdServerLimits>;

const MS_MAX = 2 ** 31 - 1;

const LIMITS: { readonly [K in keyof Limits]: readonly [standard: number, rule: Rule] } = {
  connections: [64, wholeNumber(1, 65_536)],
  handshakes: [64, wholeNumber(1, 65_536)],
  handshakeMs: [10_000, wholeNumber(1, MS_MAX)],
  requestBytes: [PAYLOAD_MAX, wholeNumber(64 * 1024, 2 ** 30)],
  requestsInFlight: [128, wholeNumber(1, 65_536)],
  bytesInFlight: [64 * 1024 * 1024, wholeNumber(1)],
  totalBytes: [128 * 1024 * 1024, wholeNumber(1)],
  workBytes: [1024 * 1024 * 1024, wholeNumber(64 * 1024, 2 ** 32)],
  payloadMs: [8_000, wholeNumber(1, MS_MAX)],
  idleMs: [0, wholeNumber(0, MS_MAX)],
  closeMs: [5_000, wholeNumber(0, MS_MAX)],
};

const LIMIT_RULES = Object.fromEntries(
  Object.entries(LIMITS).map(([name, [, rule]]) => [name, rule]),
) as { [K in keyof Limits]: Rule };

/** @throws `INVALID_ARGUMENT` for a limit that is not known, or out of its range */
export function limitsOf(given: NbdServerLimits = {}): Limits {
  checkOptions(given, LIMIT_RULES, 'limits');
  const names = Object.keys(LIMITS) as (keyof Limits)[];
  return Object.fromEntries(names.map((name) => [name, given[name] ?? LIMITS[name][0]])) as Limits;
}

// The exports, the keys and the limits are checked where they are read.
const SERVER_RULES: KnownOptions<NbdServerOptions> = {
  exports: 0,
  tls: 0,
  limits: 0,
  observer: FUNCTION,
};

/** @throws `INVALID_ARGUMENT` for an option that is not known, or of another type */
export function checkServerOptions(options: NbdServerOptions): void {
  checkOptions(options, SERVER_RULES, 'NbdServer');
}

// Exports

/** An export as the session sees it: facts, and no storage. */
export interface ExportInfo extends ExportFacts {
  readonly name: string;
  readonly description: string;
  readonly readOnly: boolean;
  readonly tls: TlsPolicy;
  readonly blockSizes: BlockSizes;
  /** The longest request that has no payload and costs as much as one, in bytes. */
  readonly workBytes: number;
  /** What is different for a client that connects now. */
  readonly changes?: () => Partial<ExportInfo>;
}

/** An export as the connection sees it. */
export interface Export extends ExportInfo {
  readonly disk: Disk;
  readonly scheduler: IoScheduler;
}

/** Exports by name. */
export type Exports = ReadonlyMap<string, Export>;

const isText = (value: unknown): boolean =>
  typeof value === 'string' && utf8(value).length <= STRING_MAX && !value.includes('\0');
const TEXT = rule(isText, `a string of at most ${STRING_MAX} bytes of UTF-8 without NUL`);
const EXPORT_RULES: { readonly [K in keyof NbdExportOptions]-?: Rule } = {
  storage: rule((value) => typeof value === 'object' && value !== null, 'a storage or a scheduler'),
  readOnly: BOOLEAN,
  tls: oneOf(['off', 'optional', 'required']),
  description: TEXT,
  readAtRisk: BOOLEAN,
};

/** The largest minimum block size that the protocol knows. */
const MINIMUM_MAX = 64 * 1024;
const PREFERRED = 4096;

/**
 * @throws `INVALID_ARGUMENT` for no export, a name or a description that is too long, TLS without keys, and for a block size
 * that is not a power of two up to 64 KiB, because the protocol cannot express it
 * @throws `INVALID_STORAGE` for a storage that contradicts itself
 */
export function exportsOf({ exports, tls }: NbdServerOptions, limits: Limits): Exports {
  const disks = new Map<Storage | IoScheduler, { disk: Disk; name: string; risk: boolean }>();
  const diskFor = (name: string, { storage, readAtRisk }: NbdExportOptions): Disk => {
    if (isScheduler(storage)) {
      const disk = disks.get(storage)?.disk ?? new Disk(storage, false);
      disks.set(storage, { disk, name, risk: false });
      if (readAtRisk === undefined) return disk;
      throw misuse(
        `export ${formatValue(name)}: readAtRisk cannot be given for a scheduler; give it to the IoScheduler`,
      );
    }
    if (storage.size > Number.MAX_SAFE_INTEGER) {
      throw misuse(
        `export ${formatValue(name)}: the storage has ${storage.size} bytes; at most 2^53 - 1 can be exported`,
      );
    }
    const risk = readAtRisk ?? false;
    const shared = disks.get(storage);
    if (shared && shared.risk !== risk) {
      throw misuse(
        `exports ${formatValue(shared.name)} and ${formatValue(name)} share a storage, so their readAtRisk must be the same`,
      );
    }
    if (shared) return shared.disk;
    const options = { mode: 'NONE', allowUnsafe: true, depth: DEPTH, readAtRisk: risk } as const;
    const disk = new Disk(new IoScheduler(storage, options), true);
    disks.set(storage, { disk, name, risk });
    return disk;
  };
  if (typeof exports !== 'object' || exports === null) {
    throw misuse(`exports must be an object of storages by name, not ${formatValue(exports)}`);
  }
  const found = Object.entries(exports).map(([name, given]): [string, Export] => {
    const options = optionsOf(name, given);
    const policy = options.tls ?? (tls === undefined ? 'off' : 'required');
    if (tls === undefined && policy !== 'off') {
      throw misuse(
        `export ${formatValue(name)}: tls is ${formatValue(policy)}, but the server has no keys; give it the option tls`,
      );
    }
    const disk = diskFor(name, options);
    const { scheduler } = disk;
    const info = infoOf(name, options, policy, scheduler, limits);
    return [name, { ...info, disk, scheduler, changes: () => changesOf(info, scheduler) }];
  });
  if (found.length === 0) throw misuse('exports must have at least one export, and has none');
  return new Map(found);
}

/** Whether writes can be made durable at all, apart from single writes by FUA. */
export function canFlush({ flags }: ExportInfo): boolean {
  return (flags & FLAG.SEND_FLUSH) !== 0;
}

/** What new clients see: the size of today, and after a failed flush a read-only export. */
function changesOf(
  { flags, description }: ExportInfo,
  { size, state, atRisk }: IoScheduler,
): Partial<ExportInfo> {
  if (state !== 'failed') return { size };
  const why = `READ-ONLY: a flush has failed, and ${bytesIn(atRisk)} bytes may be lost`;
  const changes = FLAG.SEND_TRIM | FLAG.SEND_WRITE_ZEROES | FLAG.SEND_FAST_ZERO;
  return {
    size,
    readOnly: true,
    flags: (flags | FLAG.READ_ONLY) & ~changes,
    description: description === '' ? why : `${why}. ${description}`.slice(0, 1000),
  };
}

function infoOf(
  name: string,
  { readOnly = false, description = '' }: Omit<NbdExportOptions, 'storage'>,
  tls: TlsPolicy,
  { size, capabilities }: IoScheduler,
  { requestBytes, workBytes }: Limits,
): ExportInfo {
  const { blockSize, cache, flush, fua, discard, fastZeroes } = capabilities;
  if (blockSize > MINIMUM_MAX || !Number.isInteger(Math.log2(blockSize))) {
    throw misuse(
      `export ${formatValue(name)}: blockSize must be a power of two up to ${MINIMUM_MAX}, not ${blockSize}, ` +
        `because NBD cannot express others`,
    );
  }
  const flushes = cache !== 'volatile' || flush;
  const offers: readonly (readonly [number, boolean | undefined])[] = [
    [FLAG.READ_ONLY, readOnly],
    [FLAG.SEND_FLUSH, flushes],
    [FLAG.SEND_FUA, flushes || fua],
    [FLAG.SEND_TRIM, discard && !readOnly],
    [FLAG.SEND_WRITE_ZEROES, !readOnly],
    [FLAG.SEND_FAST_ZERO, fastZeroes && !readOnly],
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
    workBytes,
  };
}

function optionsOf(name: string, given: NbdServerOptions['exports'][string]): NbdExportOptions {
  const of = `export ${formatValue(name)}`;
  checkArgument('the name of an export', name, TEXT);
  if (typeof given !== 'object' || given === null) {
    throw misuse(
      `${of} must be a storage, a scheduler, or options with a storage, not ${formatValue(given)}`,
    );
  }
  if ('capabilities' in given) return { storage: given };
  for (const [option, rule] of Object.entries(EXPORT_RULES) as [keyof NbdExportOptions, Rule][]) {
    if (given[option] !== undefined) checkArgument(`${of}: ${option}`, given[option], rule);
  }
  checkOptions<NbdExportOptions>(given, EXPORT_RULES, of);
  if (given.storage === undefined)
    throw misuse(`${of} needs the option storage: a storage or a scheduler`);
  return given;
}

/** By what it does and not by its class: the ESM and the CJS build may meet in one program. */
function isScheduler(given: Storage | IoScheduler): given is IoScheduler {
  return 'asStorage' in given && typeof given.asStorage === 'function';
}
