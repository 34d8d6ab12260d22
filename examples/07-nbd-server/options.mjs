// @ts-check
// The arguments of `npm run example -- nbd-server`, as options. Wrong ones are a UsageError.

import { readFile } from 'node:fs/promises';
import { parseArgs } from 'node:util';
import { MODE_NAMES } from 'write-barrier';

/** @import { ModeName } from 'write-barrier' */
/** @import { NbdListenOptions, NbdTlsOptions } from 'write-barrier/nbd' */

/**
 * @typedef {object} Options
 * @property {string} file
 * @property {number | undefined} size in bytes
 * @property {NbdListenOptions[]} addresses one at least
 * @property {ModeName | 'auto'} mode
 * @property {string | undefined} trace
 * @property {boolean} ignoreFlushes
 * @property {boolean} volatileCache
 * @property {number} intervalMs 0 for never
 * @property {NbdTlsOptions | undefined} tls
 */

export const HELP = `\
Serves a file over NBD.

  --file PATH       the disk; locked while it is served
  --size BYTES      of the file, which is made or extended; K, M and G are powers of 1024
  --socket PATH     listens on a unix socket
  --port N          listens on a port; 10809 is NBD's own, 0 any that is free
  --host ADDRESS    of the port, by default 127.0.0.1; any other needs --tls-ca or --tls-psk
  --mode NAME       auto, or one of ${MODE_NAMES.join(', ')}
  --interval S      seconds between lines of statistics, by default 10; 0 for the last one only

  --tls-cert PATH   a certificate and its chain, PEM      --tls-key PATH    its private key, PEM
  --tls-ca PATH     who signs clients' certificates, PEM  --tls-psk PATH    lines of identity:key, the key in hex
                    Without --tls-ca a certificate admits every client, so --tls-cert with --tls-psk needs it.

  --trace PATH      writes down what the disk is asked, for the crash kit, with a copy of the disk as it was
  --volatile-cache  keeps writes in this process until a flush, as a disk's cache does: SIGKILL is its power cut
  --ignore-flushes  answers every flush, and does none. LOSES DATA; for experiments
  --help            prints this
`;

/** The arguments are wrong. */
export class UsageError extends Error {}

const SPELLING = /** @type {const} */ ({
  file: { type: 'string' },
  size: { type: 'string' },
  socket: { type: 'string' },
  port: { type: 'string' },
  host: { type: 'string' },
  mode: { type: 'string', default: 'auto' },
  interval: { type: 'string', default: '10' },
  'tls-cert': { type: 'string' },
  'tls-key': { type: 'string' },
  'tls-ca': { type: 'string' },
  'tls-psk': { type: 'string' },
  trace: { type: 'string' },
  'volatile-cache': { type: 'boolean', default: false },
  'ignore-flushes': { type: 'boolean', default: false },
  help: { type: 'boolean', default: false },
});

/** @returns {Promise<Options | undefined>} undefined for --help */
export async function optionsOf(/** @type {string[]} */ words) {
  const values = valuesOf(words);
  if (values.help) return undefined;
  const { file, size, trace } = values;
  if (!file) throw new UsageError('--file is missing: the disk to serve');
  const tls = await keysOf(values);
  return {
    file,
    size: size === undefined ? undefined : bytesOf(size),
    addresses: addressesOf(values, tls?.ca !== undefined || tls?.psk !== undefined),
    mode: modeOf(values.mode),
    trace,
    ignoreFlushes: values['ignore-flushes'],
    volatileCache: values['volatile-cache'],
    intervalMs: countOf('--interval', values.interval, 86_400) * 1000,
    tls,
  };
}

/** @param {string[]} args */
function valuesOf(args) {
  try {
    return parseArgs({ args, options: SPELLING }).values;
  } catch (error) {
    throw new UsageError(error instanceof Error ? error.message : String(error));
  }
}

/** @typedef {ReturnType<typeof valuesOf>} Values */

/**
 * @param {Values} values
 * @param {boolean} proved clients must have a key
 * @returns {NbdListenOptions[]}
 */
function addressesOf({ socket, port, host }, proved) {
  /** @type {NbdListenOptions[]} */
  const addresses = [];
  if (socket !== undefined) addresses.push({ path: socket });
  if (port !== undefined) {
    const number = countOf('--port', port, 65_535);
    // NBD has no password: everybody who reaches the port can read and write, also over TLS if that asks clients for nothing.
    addresses.push({ port: number, ...(host !== undefined && { host }), allowRemote: proved });
  } else if (host !== undefined) throw new UsageError('--host goes with --port');
  if (addresses.length === 0) throw new UsageError('--socket or --port is missing');
  return addresses;
}

/** @param {string} name */
function modeOf(name) {
  const wanted = name.toUpperCase();
  if (wanted === 'AUTO') return 'auto';
  const mode = MODE_NAMES.find((candidate) => candidate === wanted);
  if (mode) return mode;
  throw new UsageError(`--mode must be auto or one of ${MODE_NAMES.join(', ')}, not ${name}`);
}

/** @param {string} text */
function bytesOf(text) {
  const [, digits = '', unit = ''] = /^(\d+)([KMG]?)$/i.exec(text) ?? [];
  const bytes = Number(digits) * 1024 ** ' KMG'.indexOf(unit.toUpperCase() || ' ');
  if (Number.isSafeInteger(bytes) && bytes > 0) return bytes;
  throw new UsageError(`--size takes bytes, as 1048576 or 64M, not ${text}`);
}

/**
 * @param {string} name
 * @param {string} text
 * @param {number} most
 */
function countOf(name, text, most) {
  const count = Number(text);
  if (/^\d+$/.test(text) && count <= most) return count;
  throw new UsageError(`${name} takes a whole number up to ${most}, not ${text}`);
}

/**
 * @param {Values} values
 * @returns {Promise<NbdTlsOptions | undefined>}
 */
async function keysOf({ 'tls-cert': cert, 'tls-key': key, 'tls-ca': ca, 'tls-psk': psk }) {
  if ((cert === undefined) !== (key === undefined)) {
    throw new UsageError('--tls-cert and --tls-key go together');
  }
  if (cert === undefined && ca !== undefined) throw new UsageError('--tls-ca goes with --tls-cert');
  if (cert !== undefined && psk !== undefined && ca === undefined) {
    throw new UsageError(
      '--tls-cert with --tls-psk needs --tls-ca, because every client would be admitted without',
    );
  }
  if (cert === undefined && psk === undefined) return undefined;
  return {
    ...(cert !== undefined && { cert: await readFile(cert) }),
    ...(key !== undefined && { key: await readFile(key) }),
    ...(ca !== undefined && { ca: await readFile(ca) }),
    ...(psk !== undefined && { psk: pskOf(await readFile(psk, 'utf8'), psk) }),
  };
}

/**
 * @param {string} text as psktool of GnuTLS writes it
 * @param {string} path
 */
function pskOf(text, path) {
  const lines = text.split('\n').filter((line) => line.trim() !== '');
  const entries = lines.map((line, index) => {
    const [, identity = '', key = ''] = /^(.+):((?:[\da-f]{2}){16,256})\s*$/i.exec(line) ?? [];
    if (identity) return [identity, Buffer.from(key, 'hex')];
    throw new UsageError(
      `${path}, line ${index + 1}: not identity:key, the key 16 to 256 bytes in hex`,
    );
  });
  if (entries.length === 0) throw new UsageError(`${path} has no keys`);
  return Object.fromEntries(entries);
}
