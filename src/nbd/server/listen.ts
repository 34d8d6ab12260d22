// Where a server listens. A unix socket, or a port of this machine; any other address only where it was asked for
// twice, because NBD without TLS has neither a password nor a seal.
//
// A unix socket outlives its server's sudden death as a file that nobody answers, and a bind to it fails. Such a file
// is found out by a connection that is refused, and removed; a socket that answers is somebody's, and a file that is
// no socket is nobody's business.

import { lstat, unlink } from 'node:fs/promises';
import { connect, isIPv4, isIPv6, type ListenOptions, type Server } from 'node:net';
import { WriteBarrierError } from 'write-barrier';
import { misuse } from './options.js';

/** Where to listen. */
export type NbdListenOptions =
  | {
      /** Of a unix socket, 1 to 107 bytes. */
      readonly path: string;
    }
  | {
      /** 127.0.0.1 unless given. */
      readonly host?: string;
      /** 0 for any that is free; 10809 is NBD's own. */
      readonly port: number;
      /** Takes a host that is not this machine. Without TLS whoever reaches the port reads and writes. */
      readonly allowRemote?: boolean;
    };

/** Where a server is to be found. */
export type NbdAddress =
  | {
      /** Of a unix socket. */
      readonly path: string;
    }
  | {
      /** An address of this machine. */
      readonly host: string;
      /** The one that was given, or was free. */
      readonly port: number;
    };

/** What `sun_path` takes on Linux, without its NUL. */
const PATH_MAX = 107;

/**
 * Starts to listen.
 *
 * @throws `INVALID_ARGUMENT` for an address that is none, or is not of this machine and was not allowed
 * @throws `IO_FAILED` where the system refuses; `cause.code` says why
 */
export async function listenOn(server: Server, options: NbdListenOptions): Promise<NbdAddress> {
  if ('path' in options) {
    const { path } = options;
    if (path === '' || path.includes('\0') || Buffer.byteLength(path) > PATH_MAX) {
      throw misuse(`a unix socket needs a path of 1 to ${PATH_MAX} bytes, not '${path}'`);
    }
    await bound(server, { path }, path, () => isStale(path));
    return { path };
  }
  const { host = '127.0.0.1', port, allowRemote = false } = options;
  if (!Number.isInteger(port) || port < 0 || port > 65_535) throw misuse(`port ${port}`);
  if (!allowRemote && !isLoopback(host)) {
    throw misuse(`${host} is not this machine; allowRemote: true listens there all the same`);
  }
  await bound(server, { host, port }, `${host}:${port}`, async () => false);
  const address = server.address();
  if (address === null || typeof address === 'string') throw misuse(`${host}:${port}`);
  return { host: address.address, port: address.port };
}

async function bound(
  server: Server,
  where: ListenOptions,
  name: string,
  removable: () => Promise<boolean>,
): Promise<void> {
  try {
    await tried(server, where);
  } catch (error) {
    const inUse = error instanceof Error && 'code' in error && error.code === 'EADDRINUSE';
    try {
      if (!inUse || !(await removable())) throw error;
      await unlink(name);
      await tried(server, where);
    } catch (cause) {
      const said = cause instanceof Error ? cause.message : String(cause);
      throw new WriteBarrierError('IO_FAILED', `listening on ${name} failed: ${said}`, { cause });
    }
  }
}

function tried(server: Server, where: ListenOptions): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen(where, () => {
      server.off('error', reject);
      resolve();
    });
  });
}

/** A socket that nobody answers. */
async function isStale(path: string): Promise<boolean> {
  if (!(await lstat(path)).isSocket()) return false;
  return new Promise((resolve) => {
    const probe = connect({ path });
    probe.once('connect', () => {
      probe.destroy();
      resolve(false);
    });
    probe.once('error', (error: NodeJS.ErrnoException) => resolve(error.code === 'ECONNREFUSED'));
  });
}

function isLoopback(host: string): boolean {
  if (host === 'localhost') return true;
  return (
    (isIPv4(host) && host.startsWith('127.')) || (isIPv6(host) && /^(?:0*:)*:?0*1$/.test(host))
  );
}
