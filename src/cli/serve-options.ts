// The options of `write-barrier serve`, as data, and the values that the library wants.
//
// What a user of the library can set for a file, a scheduler, an export or the server has an option here. Limits are a table,
// because they differ in nothing but their names and units. Their bounds are checked by the library, which knows them.
//
// Options that lose data, or let strangers in, stand under a heading of their own. Each has a paragraph on the page
// docs/command.md.

import { readFile } from 'node:fs/promises';
import { basename } from 'node:path';
import { MODE_NAMES, type ModeName } from 'write-barrier';
import {
  type NbdListenOptions,
  type NbdServerLimits,
  type NbdTlsOptions,
  systemdSockets,
  type TlsPolicy,
} from 'write-barrier/nbd';
import type { FileStorageOptions } from 'write-barrier/node';
import {
  bytesOf,
  choiceOf,
  countOf,
  type Given,
  millisecondsOf,
  modeOf,
  type Options,
  readWords,
  UsageError,
} from './command.js';

const DISK = {
  size: {
    value: 'BYTES',
    text: 'makes a missing file of this size, extends a shorter one; K, M, G and T are powers of 1024',
  },
  'block-size': { value: 'BYTES', text: 'the smallest unit of a request, by default 512' },
  'read-only': { text: 'refuses writes, and takes no lock' },
  description: { value: 'TEXT', text: 'shown to clients that list the exports' },
  mode: {
    value: 'NAME',
    text:
      `orders by a scheduler in this mode: auto, ${MODE_NAMES.join(', ')}; by default the server's own, ` +
      `because no request of NBD is a barrier`,
  },
  depth: { value: 'N', text: 'commands in flight at the file, for that scheduler; by default 32' },
  'inline-write-max': {
    value: 'BYTES',
    text: 'longer writes are handed to another thread; by default 64K; 0 for a file system that may hang',
  },
} as const;

const PLACE = {
  socket: { value: 'PATH', text: 'listens on a Unix socket' },
  port: { value: 'N', text: "listens on a port; 10809 is NBD's own, 0 any that is free" },
  host: {
    value: 'ADDRESS',
    text: 'of the port, by default 127.0.0.1; an address of other machines needs --tls-ca or --tls-psk',
  },
  fd: { value: 'N', text: 'listens on this descriptor, a socket that another program has opened' },
  systemd: { text: 'listens on the sockets that a .socket unit of systemd has opened' },
} as const;

const LIFE = {
  run: {
    value: 'COMMAND',
    text: 'runs a command of the shell with $uri, and ends with it and its exit code; without an address a socket is made for it',
  },
  'pid-file': { value: 'PATH', text: 'has the number of the process as long as it serves' },
  interval: {
    value: 'SECONDS',
    text: 'between lines of statistics, by default 10; 0 for the last one only',
  },
  trace: {
    value: 'PATH',
    text: 'writes down what the disk is asked, for write-barrier crash, with a copy of the disk as it was',
  },
} as const;

const TLS = {
  'tls-cert': { value: 'PATH', text: 'a certificate and its chain, PEM' },
  'tls-key': { value: 'PATH', text: 'its private key, PEM' },
  'tls-ca': { value: 'PATH', text: "who signs clients' certificates, PEM" },
  'tls-psk': { value: 'PATH', text: 'lines of identity:key, the key in hex' },
  tls: {
    value: 'POLICY',
    text: 'required, optional or off, for all exports; by default required if there are keys',
  },
} as const;

const LIMITS = {
  'max-connections': { value: 'N', text: 'clients that use an export; by default 64' },
  'max-handshakes': {
    value: 'N',
    text: 'connections that have not chosen an export; by default 64',
  },
  'max-request': { value: 'BYTES', text: 'the longest read or write; by default 32M' },
  'max-requests': { value: 'N', text: 'requests in flight of a connection; by default 128' },
  'max-bytes': { value: 'BYTES', text: 'their buffers; by default 64M' },
  'max-memory': {
    value: 'BYTES',
    text: 'the buffers of all connections, each of which has its share; by default 128M',
  },
  'max-work': {
    value: 'BYTES',
    text: 'the longest CACHE, and the longest zeroes that cost as much as data; by default 1G',
  },
  'handshake-timeout': { value: 'SECONDS', text: 'until an export is chosen; by default 10' },
  'payload-timeout': { value: 'SECONDS', text: 'without a byte of a payload; by default 8' },
  'idle-timeout': {
    value: 'SECONDS',
    text: 'of silence without a request; by default 0, no limit',
  },
  'close-timeout': {
    value: 'SECONDS',
    text: 'for clients to take their last replies; by default 5',
  },
} as const;

const UNSAFE = {
  'no-lock': { text: 'opens the file beside other writers, which may overwrite what is written' },
  'read-at-risk': {
    text: 'after a failed flush serves reads of bytes that may never have been stored',
  },
  'volatile-cache': {
    text: "keeps writes in this process until a flush, as a disk's cache does: SIGKILL is its power cut",
  },
  'ignore-flushes': { text: 'answers every flush and does none; for experiments' },
} as const;

/** In the order of the help. */
export const GROUPS: Readonly<Record<string, Options>> = {
  'The disk': DISK,
  'Where it listens': PLACE,
  'While it runs': LIFE,
  'Who may connect, and what may be read on the way': TLS,
  'What clients may cost': LIMITS,
  UNSAFE,
};

const OPTIONS = { ...DISK, ...PLACE, ...LIFE, ...TLS, ...LIMITS, ...UNSAFE };

type Values = Given<typeof OPTIONS>;

/** What each limit of the command line is called in the library, its unit, and the least that makes sense. */
const LIMIT_NAMES: Readonly<
  Record<keyof typeof LIMITS, readonly [keyof NbdServerLimits, keyof typeof UNITS, number]>
> = {
  'max-connections': ['connections', 'count', 1],
  'max-handshakes': ['handshakes', 'count', 1],
  'max-request': ['requestBytes', 'bytes', 1 << 16],
  'max-requests': ['requestsInFlight', 'count', 1],
  'max-bytes': ['bytesInFlight', 'bytes', 1],
  'max-memory': ['totalBytes', 'bytes', 1],
  'max-work': ['workBytes', 'bytes', 1 << 16],
  'handshake-timeout': ['handshakeMs', 'seconds', 1],
  'payload-timeout': ['payloadMs', 'seconds', 1],
  'idle-timeout': ['idleMs', 'seconds', 0],
  'close-timeout': ['closeMs', 'seconds', 0],
};

const UNITS = {
  bytes: bytesOf,
  count: (option: string, text: string, least: number) => countOf(option, text, least, 65_536),
  seconds: millisecondsOf,
} as const;

/** What is served, where and how. */
export interface ServeOptions {
  /** Files by the names of their exports. */
  readonly files: ReadonlyMap<string, string>;
  readonly file: FileStorageOptions;
  /** Undefined for the scheduler of the server. */
  readonly scheduler: { readonly mode: ModeName | 'auto'; readonly depth?: number } | undefined;
  readonly description: string | undefined;
  /** Empty if a socket is to be made for `run`. */
  readonly addresses: readonly NbdListenOptions[];
  readonly run: string | undefined;
  readonly pidFile: string | undefined;
  /** 0 for never. */
  readonly intervalMs: number;
  readonly trace: string | undefined;
  readonly tls: NbdTlsOptions | undefined;
  readonly policy: TlsPolicy | undefined;
  readonly limits: NbdServerLimits;
  readonly readAtRisk: boolean;
  readonly volatileCache: boolean;
  readonly ignoreFlushes: boolean;
}

/** This program does nothing but serve files, so small writes need no other thread. */
const INLINE_WRITE_MAX = 1 << 16;
const FILES_MAX = 1024;

/** @throws `UsageError` for what makes no sense; an error of the system for a key that cannot be read */
export async function serveOptions(words: readonly string[]): Promise<ServeOptions> {
  const { values, operands } = readWords(words, OPTIONS, FILES_MAX);
  const files = filesIn(operands);
  const { trace, description, run } = values;
  if (trace !== undefined && files.size > 1) {
    throw new UsageError('--trace is of one disk, so serve one file');
  }
  const tls = await keysOf(values);
  const addresses = addressesOf(values, tls?.ca !== undefined || tls?.psk !== undefined);
  const readOnly = values['read-only'] ?? false;
  if (readOnly && values.size !== undefined) {
    throw new UsageError('--size makes or extends a file, and --read-only forbids that');
  }
  return {
    files,
    file: fileOptions(values, readOnly),
    scheduler: schedulerOptions(values),
    description,
    addresses,
    run,
    pidFile: values['pid-file'],
    intervalMs: millisecondsOf('--interval', values.interval ?? '10', 0),
    trace,
    tls,
    policy:
      values.tls === undefined
        ? undefined
        : choiceOf<TlsPolicy>('--tls', values.tls, ['required', 'optional', 'off']),
    limits: limitsOf(values),
    readAtRisk: values['read-at-risk'] ?? false,
    volatileCache: values['volatile-cache'] ?? false,
    ignoreFlushes: values['ignore-flushes'] ?? false,
  };
}

/** `FILE` is the default export, and `NAME=FILE` another one. */
function filesIn(operands: readonly string[]): ReadonlyMap<string, string> {
  const files = new Map<string, string>();
  for (const operand of operands) {
    const [, name = '', file = ''] = /^(?:([^=/]*)=)?(.*)$/s.exec(operand) ?? [];
    if (file === '') throw new UsageError(`'${operand}' names no file`);
    const other = files.get(name);
    if (other !== undefined) {
      const what = name === '' ? 'the default export' : `the export ${name}`;
      throw new UsageError(
        `${other} and ${file} are both ${what}: name one of them, as in ${basename(file)}=${file}`,
      );
    }
    files.set(name, file);
  }
  if (files.size === 0) throw new UsageError('FILE is missing: the disk to serve');
  return files;
}

function fileOptions(values: Values, readOnly: boolean): FileStorageOptions {
  const { size, 'block-size': blockSize, 'inline-write-max': inline } = values;
  return {
    readOnly,
    inlineWriteMax:
      inline === undefined ? INLINE_WRITE_MAX : bytesOf('--inline-write-max', inline, 0),
    ...(size !== undefined && { size: bytesOf('--size', size) }),
    ...(blockSize !== undefined && { blockSize: bytesOf('--block-size', blockSize) }),
    ...(values['no-lock'] && { lock: 'none' as const }),
  };
}

function schedulerOptions({ mode, depth }: Values): ServeOptions['scheduler'] {
  if (mode === undefined && depth === undefined) return undefined;
  const isAuto = mode === undefined || mode.toLowerCase() === 'auto';
  return {
    mode: isAuto ? 'auto' : modeOf(mode),
    ...(depth !== undefined && { depth: countOf('--depth', depth, 1, 65_536) }),
  };
}

function limitsOf(values: Values): NbdServerLimits {
  const given = Object.entries(LIMIT_NAMES).flatMap(([option, [name, unit, least]]) => {
    const text = values[option as keyof typeof LIMITS];
    return text === undefined ? [] : [[name, UNITS[unit](`--${option}`, text, least)]];
  });
  return Object.fromEntries(given);
}

/** @param proved clients must have a key */
function addressesOf(
  { socket, port, host, run, fd, systemd }: Values,
  proved: boolean,
): NbdListenOptions[] {
  const addresses: NbdListenOptions[] = [];
  if (socket !== undefined) addresses.push({ path: socket });
  if (port !== undefined) {
    const number = countOf('--port', port, 0, 65_535);
    // NBD has no password: everybody who reaches the port can read and write, also over TLS if that asks clients for nothing.
    addresses.push({ port: number, ...(host !== undefined && { host }), allowRemote: proved });
  } else if (host !== undefined) throw new UsageError('--host goes with --port');
  const inherited = [
    ...(fd === undefined ? [] : [{ fd: countOf('--fd', fd, 0, 65_535) }]),
    ...(systemd ? socketsOfSystemd() : []),
  ];
  if (addresses.length === 0 && run !== undefined && inherited.length > 0) {
    throw new UsageError('--run needs --socket or --port beside an inherited socket, for its $uri');
  }
  addresses.push(...inherited.map((one) => ({ ...one, allowRemote: proved })));
  if (addresses.length === 0 && run === undefined) {
    throw new UsageError('--socket, --port, --fd, --systemd or --run is missing');
  }
  return addresses;
}

function socketsOfSystemd(): ReturnType<typeof systemdSockets> {
  const sockets = systemdSockets();
  if (sockets.length > 0) return sockets;
  throw new UsageError(
    '--systemd: systemd has opened no socket for this process, which must be what the unit starts and no child of it',
  );
}

async function keysOf(values: Values): Promise<NbdTlsOptions | undefined> {
  const { 'tls-cert': cert, 'tls-key': key, 'tls-ca': ca, 'tls-psk': psk } = values;
  if ((cert === undefined) !== (key === undefined)) {
    throw new UsageError('--tls-cert and --tls-key go together');
  }
  if (cert === undefined && ca !== undefined) throw new UsageError('--tls-ca goes with --tls-cert');
  if (cert !== undefined && psk !== undefined && ca === undefined) {
    throw new UsageError(
      '--tls-cert with --tls-psk needs --tls-ca, because every client would be admitted without',
    );
  }
  if (cert === undefined && psk === undefined) {
    if (values.tls === undefined) return undefined;
    throw new UsageError('--tls goes with --tls-cert or --tls-psk');
  }
  return {
    ...(cert !== undefined && { cert: await readFile(cert) }),
    ...(key !== undefined && { key: await readFile(key) }),
    ...(ca !== undefined && { ca: await readFile(ca) }),
    ...(psk !== undefined && { psk: pskOf(await readFile(psk, 'utf8'), psk) }),
  };
}

/** @param text as psktool of GnuTLS writes it */
function pskOf(text: string, path: string): Record<string, Uint8Array> {
  const lines = text.split('\n').filter((line) => line.trim() !== '');
  const entries = lines.map((line, index): [string, Uint8Array] => {
    const [, identity = '', key = ''] = /^(.+):((?:[\da-f]{2}){16,256})\s*$/i.exec(line) ?? [];
    if (identity) return [identity, Buffer.from(key, 'hex')];
    throw new UsageError(
      `${path}, line ${index + 1}: not identity:key, the key 16 to 256 bytes in hex`,
    );
  });
  if (entries.length === 0) throw new UsageError(`${path} has no keys`);
  return Object.fromEntries(entries);
}
