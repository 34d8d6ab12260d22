// Where a server listens: a Unix socket, a TCP port of this machine, or a socket that was inherited. Another address needs
// `allowRemote`, because NBD without TLS has neither passwords nor encryption. The address is checked before the system sees it, because
// the system resolves names and takes numbers in other notations: '127.1' would be this machine, and '0' every address that it has.
// Without `allowRemote` only an address that is plainly loopback is taken.
//
// A Unix socket is a file that outlives its server, so it needs care: who may connect, which file may be removed, and who
// removes it. It is bound under a temporary name, in a folder that only this user can enter, and gets its real name by a
// link when it answers and its permissions are right. So a socket under the real name always answers while its server
// lives, and another server does not mistake it for a stale one.
//
// Invariants, tested under these numbers:
//   L1  Of any number of servers that want one name, one gets it. A link is made only if there is no file.
//   L2  A file is removed only if it is a socket that an NbdServer made and that refuses connections, which is what a killed
//       server leaves. Every other file stays: one that answers or is too busy to, one that is not a socket, and a socket
//       of another program, because a dead socket does not say what it was for.
//   L3  The file that is removed is the one that was examined, and not its successor: it is moved aside first, compared, and
//       put back if it is another one. Its modification time, which nothing else changes in a socket, says that it is
//       ours and which one it is: MARK_S seconds after 1970, and a random fraction of a second.
//   L4  The end of a server removes its own file (L3), and no other.
//   L5  Only the owner and the group can connect, whatever the umask is, because the protocol has no password.
//
// On a file system without links, and on Windows, where a name is not a file, the socket is bound under its real name, and
// the system decides between two servers.

import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import {
  chmodSync,
  fstatSync,
  linkSync,
  lstatSync,
  lutimesSync,
  mkdtempSync,
  renameSync,
  rmSync,
  unlinkSync,
} from 'node:fs';
import {
  connect,
  createServer,
  isIPv4,
  isIPv6,
  type ListenOptions,
  type Server,
  type ServerOpts,
  type Socket,
} from 'node:net';
import { dirname, join } from 'node:path';
import { IoFailedError } from 'write-barrier';
import {
  BOOLEAN,
  checkArgument,
  checkOptions,
  formatValue,
  type KnownOptions,
  messageOf,
  misuse,
  type Rule,
  rule,
  wholeNumber,
} from 'write-barrier/kit';

/** Where to listen. */
export type NbdListenOptions =
  | {
      /** The path of a Unix socket, 1 to 107 bytes. */
      readonly path: string;
    }
  | {
      /** @defaultValue 127.0.0.1 */
      readonly host?: string;
      /** 0 for any free port; 10809 is NBD's own. */
      readonly port: number;
      /**
       * Allows a host that is not this machine. Then everybody who reaches the port can read and write, except if `tls` has
       * a `ca` or a `psk`: a certificate alone asks clients for nothing. @defaultValue false
       */
      readonly allowRemote?: boolean;
    }
  | {
      /**
       * A descriptor of this process, 0 to 65,535, of a socket that another program has opened, as those of `systemdSockets()`. The
       * program decides who may connect to a Unix socket, and removes its file.
       */
      readonly fd: number;
      /** Allows a socket whose address is not of this machine, as for `port`. @defaultValue false */
      readonly allowRemote?: boolean;
    };

/** Where a server listens. */
export type NbdAddress =
  | {
      /** The path of a Unix socket. */
      readonly path: string;
    }
  | {
      /** An address of this machine. */
      readonly host: string;
      /** The given port, or the free one that the system chose. */
      readonly port: number;
    }
  | {
      /** The descriptor of a Unix socket that another program has opened. */
      readonly fd: number;
    };

/** A server that listens. */
export interface Listening {
  readonly address: NbdAddress;
  /** Accepts no more connections at once; settles when no connection is left. */
  stop(): Promise<void>;
}

type PathOptions = Extract<NbdListenOptions, { path: string }>;
type PortOptions = Extract<NbdListenOptions, { port: number }>;
type InheritedOptions = Extract<NbdListenOptions, { fd: number }>;
type AnyOptions = PathOptions & PortOptions & InheritedOptions;

/** What `sun_path` takes on Linux, without its NUL. */
const PATH_MAX = 107;

const PATH = rule(
  (path) =>
    typeof path === 'string' &&
    path !== '' &&
    !path.includes('\0') &&
    Buffer.byteLength(path) <= PATH_MAX,
  `the path of a Unix socket, 1 to ${PATH_MAX} bytes without NUL`,
);
const PORT = wholeNumber(0, 65_535);
const PATH_RULES: KnownOptions<PathOptions> = { path: PATH };
const PORT_RULES: KnownOptions<PortOptions> = {
  host: rule((host) => typeof host === 'string', 'a string'),
  port: PORT,
  allowRemote: BOOLEAN,
};
const FD_RULES: KnownOptions<InheritedOptions> = {
  fd: wholeNumber(0, 65_535),
  allowRemote: BOOLEAN,
};
const KNOWN: KnownOptions<AnyOptions> = { ...PATH_RULES, ...PORT_RULES, ...FD_RULES };

/**
 * A client that closes its sending side still gets its replies. A client whose machine is gone is found by the system, after
 * a minute of silence and ten probes.
 */
const SOCKETS: ServerOpts = {
  noDelay: true,
  keepAlive: true,
  keepAliveInitialDelay: 60_000,
  allowHalfOpen: true,
};

/**
 * Starts to listen.
 *
 * @param onClient takes the socket of each client, and whether it is a Unix socket
 * @throws `INVALID_ARGUMENT` for options that are not known, for a wrong address, and for one of another machine without
 * `allowRemote`
 * @throws `IO_FAILED` where the system refuses; `cause.code` says why
 */
export async function listenOn(
  options: NbdListenOptions,
  onClient: (socket: Socket, local: boolean) => void,
): Promise<Listening> {
  checkOptions(options as AnyOptions, KNOWN, 'listen');
  // The server of an inherited Unix socket has no address.
  const server = createServer(SOCKETS, (socket) =>
    onClient(socket, 'path' in options || server.address() === null),
  );
  const listens = await listensOn(server, options);
  server.on('error', () => {}); // A client could not be accepted, and knows it.
  return listens;
}

function listensOn(server: Server, options: NbdListenOptions): Promise<Listening> {
  if ('path' in options) return onPath(server, options);
  return 'fd' in options ? onInherited(server, options) : onPort(server, options);
}

async function onInherited(server: Server, options: InheritedOptions): Promise<Listening> {
  checkOptions(options, FD_RULES, 'listen on a descriptor');
  const { fd, allowRemote = false } = options;
  checkArgument('fd', fd, FD_RULES.fd as Rule);
  try {
    // Node would close it, and it may be one that the process itself needs, which ends without it.
    if (!fstatSync(fd).isSocket()) throw new Error('ENOTSOCK: it is not a socket');
    await listening(server, { fd });
  } catch (cause) {
    throw refused(`descriptor ${fd}`, cause);
  }
  const address = server.address();
  if (address === null || typeof address === 'string') {
    return { address: { fd }, stop: () => closed(server) };
  }
  const { address: host, port } = address;
  if (!allowRemote && !isLoopback(host)) {
    await closed(server);
    throw remote(host);
  }
  return { address: { host, port }, stop: () => closed(server) };
}

async function onPath(server: Server, options: PathOptions): Promise<Listening> {
  checkOptions(options, PATH_RULES, 'listen on a path');
  const { path } = options;
  checkArgument('path', path, PATH);
  const release = await listenOnPath(server, path).catch((cause) => {
    throw refused(path, cause);
  });
  return {
    address: { path },
    stop: () => {
      release();
      return closed(server);
    },
  };
}

async function onPort(server: Server, options: PortOptions): Promise<Listening> {
  const { host = '127.0.0.1', port, allowRemote = false } = options;
  checkOptions(options, PORT_RULES, 'listen on a port');
  checkArgument('port', port, PORT);
  if (!allowRemote && !isLoopback(host)) {
    throw remote(host);
  }
  await listening(server, { host, port }).catch((cause) => {
    throw refused(`${host}:${port}`, cause);
  });
  const address = server.address();
  if (address === null || typeof address === 'string') throw refused(`${host}:${port}`, 'no port');
  return {
    address: { host: address.address, port: address.port },
    stop: () => closed(server),
  };
}

function remote(host: unknown): Error {
  return misuse(
    `host must be a loopback address, not ${formatValue(host)}; use allowRemote: true to serve other machines`,
  );
}

function refused(where: string, cause: unknown): IoFailedError {
  const why = `listening on ${where} failed: ${messageOf(cause)}`;
  return new IoFailedError(why, { cause });
}

function isLoopback(host: string): boolean {
  if (host === 'localhost') return true;
  return (
    (isIPv4(host) && host.startsWith('127.')) || (isIPv6(host) && /^(?:0*:)*:?0*1$/.test(host))
  );
}

// A Unix socket

/** Removes the file of this server if it is still there. */
type Release = () => void;

/** What distinguishes a file from its successor under the same name, which may even have the same inode number. */
interface Identity {
  readonly dev: bigint;
  readonly ino: bigint;
  readonly mtimeNs: bigint;
}

/** The port of NBD, as a mark. */
const MARK_S = 10_809;
/** Maximum tries for a name that others remove and make at the same time. */
const TRIES_MAX = 20;
/** Limit for a socket of this machine to answer. It does so at once, or never. */
const PROBE_MS = 2_000;

/** @throws the error of the system, EADDRINUSE if the name is taken */
async function listenOnPath(server: Server, path: string): Promise<Release> {
  const workshop = process.platform === 'win32' ? undefined : workshopFor(path);
  if (workshop === undefined) return bindDirectly(server, path);
  const made = join(workshop, 's');
  try {
    await listening(server, { path: made });
    const own = settle(made);
    if (await claim(path, () => link(made, path))) return () => removeIf(path, own); // L4
  } catch (error) {
    await closed(server);
    throw error;
  } finally {
    rmSync(workshop, { recursive: true, force: true });
  }
  await closed(server);
  return bindDirectly(server, path);
}

/** L5, L3: permissions, and the mark. */
function settle(path: string): Identity {
  chmodSync(path, lstatSync(path).mode & 0o775);
  lutimesSync(path, Date.now() / 1000, MARK_S + Math.random());
  return identityOf(path);
}

/** A folder next to the socket that only this user can enter; undefined if its name would be too long for a socket. */
function workshopFor(path: string): string | undefined {
  const prefix = `${dirname(path)}/.`;
  if (Buffer.byteLength(prefix) + '123456/s'.length > PATH_MAX) return undefined;
  return mkdtempSync(prefix);
}

/** Gives the socket its name; false if the file system has no links. */
function link(made: string, path: string): boolean {
  try {
    linkSync(made, path); // L1
    return true;
  } catch (error) {
    if (WITHOUT_LINKS.has(codeOf(error))) return false;
    throw error;
  }
}

const WITHOUT_LINKS: ReadonlySet<string> = new Set([
  'EPERM',
  'ENOSYS',
  'ENOTSUP',
  'EOPNOTSUPP',
  'EXDEV',
  'EMLINK',
]);

async function bindDirectly(server: Server, path: string): Promise<Release> {
  await claim(path, () => listening(server, { path }));
  // Node removes the file when the server is closed.
  if (process.platform !== 'win32') settle(path);
  return () => {};
}

/** Tries to make a file of that name, and again after a stale one was removed. @throws EADDRINUSE if the name is taken */
async function claim<T>(path: string, make: () => T | Promise<T>): Promise<T> {
  for (let tries = 0; tries < TRIES_MAX; tries += 1) {
    try {
      return await make();
    } catch (error) {
      if (codeOf(error) !== 'EEXIST' && codeOf(error) !== 'EADDRINUSE') throw error;
    }
    await clear(path);
  }
  throw inUse(path, 'other servers make and remove it all the time');
}

/** L2. @throws EADDRINUSE for a file that must stay */
async function clear(path: string): Promise<void> {
  let found: Identity;
  try {
    if (!lstatSync(path).isSocket()) throw inUse(path, 'it is not a socket');
    found = identityOf(path);
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return;
    throw error;
  }
  if (!(await isStale(path))) throw inUse(path, 'a server answers there');
  if (found.mtimeNs / 1_000_000_000n !== BigInt(MARK_S)) {
    throw inUse(
      path,
      'nothing answers there, but an NbdServer did not make the socket; remove it if it is stale',
    );
  }
  removeIf(path, found);
}

/** Whether a socket refuses connections. A busy one reports EAGAIN, one of datagrams EPROTOTYPE. */
function isStale(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const probe = connect({ path });
    const answer = (stale: boolean): void => {
      probe.destroy();
      resolve(stale);
    };
    probe.setTimeout(PROBE_MS, () => answer(false));
    probe.once('connect', () => answer(false));
    probe.once('error', (error) => {
      const code = codeOf(error);
      answer(code === 'ECONNREFUSED' || code === 'ENOENT');
    });
  });
}

/** L3. Synchronous, so that nothing of this process comes between. */
function removeIf(path: string, wanted: Identity): void {
  const aside = join(dirname(path), `.${randomBytes(8).toString('hex')}`);
  try {
    if (!same(identityOf(path), wanted)) return;
    renameSync(path, aside);
    try {
      // Another process may have put its own there in the meantime.
      if (!same(identityOf(aside), wanted)) linkSync(aside, path);
    } finally {
      unlinkSync(aside);
    }
  } catch {
    // It is gone, or may not be removed; the next bind reports that.
  }
}

function identityOf(path: string): Identity {
  return lstatSync(path, { bigint: true });
}

function same(a: Identity, b: Identity): boolean {
  return a.dev === b.dev && a.ino === b.ino && a.mtimeNs === b.mtimeNs;
}

function inUse(path: string, why: string): Error {
  const error = new Error(`listen EADDRINUSE: address already in use ${path}: ${why}`);
  return Object.assign(error, { code: 'EADDRINUSE' });
}

function codeOf(error: unknown): string {
  return error instanceof Error && 'code' in error ? String(error.code) : '';
}

/** Rejects with the error of the system. */
async function listening(server: Server, where: ListenOptions | { fd: number }): Promise<void> {
  server.listen(where);
  await once(server, 'listening');
}

/** Settles when no connection is left. */
function closed(server: Server): Promise<void> {
  return new Promise((resolve) => server.close(() => resolve()));
}
