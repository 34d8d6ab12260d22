// `write-barrier serve`: files as network block devices, with a shutdown that loses nothing.
//
//   file -> a cache that forgets -> trace -> a liar about flushes -> scheduler -> server
//
// All but the file and the server are there when they are asked for. The liar is above the trace, so the trace is that of the
// disk; the cache is below it, so it is part of the disk.
//
//   E1  What was opened is closed, in the opposite order, whatever fails. A disk that was made goes again if it was never served.
//   E2  Until it listens an error means that it could not be run (2). From then on it means that a client was told something
//       that did not become true, such as a flush that failed (1).
//   E3  What it prints may be lost, for want of a reader or of space: that is said once, and it serves on.

import { spawn } from 'node:child_process';
import {
  closeSync,
  existsSync,
  mkdtempSync,
  openSync,
  rmSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { IoScheduler, type Storage } from 'write-barrier';
import {
  type NbdAddress,
  type NbdExportOptions,
  NbdServer,
  type NbdServerEvent,
} from 'write-barrier/nbd';
import { FileStorage } from 'write-barrier/node';
import { recording, TraceWriter } from 'write-barrier/testing/lab';
import { type Command, Ends, Failure, UsageError } from './command.js';
import { ignoringFlushes, volatileCache } from './disks.js';
import { GROUPS, type ServeOptions, serveOptions } from './serve-options.js';
import { endGroup } from './shell.js';

export const command: Command = {
  isService: true,
  usage: '[NAME=]FILE ... (--socket PATH | --port N | --run COMMAND) [options]',
  about:
    'Serves files and block devices over NBD. The first SIGINT or SIGTERM ends it: requests in flight are ' +
    'completed and answered, everything is flushed, then the connections end.',
  groups: GROUPS,
  epilogue:
    'Without --tls-ca a certificate admits every client, so --tls-cert with --tls-psk needs it.',
  run: async (words) => serve(await serveOptions(words)),
};

/** The image before the run is part of the trace, and the crash kit keeps it in memory. */
const TRACED_BYTES_MAX = 1 << 30;
const CHUNK_BYTES = 1 << 20;

/** What is undone at the end. */
class ServerEnds extends Ends {
  /** Whether it ever listened. */
  isServed = false;
}

/** A disk that is served. */
interface Served {
  readonly name: string;
  readonly path: string;
  readonly storage: Storage;
  /** If it has one of its own. */
  readonly scheduler: IoScheduler | undefined;
}

async function serve(options: ServeOptions): Promise<number> {
  const ends = new ServerEnds();
  try {
    return await served(options, ends);
  } finally {
    await ends.end(); // E1
  }
}

async function served(options: ServeOptions, ends: ServerEnds): Promise<number> {
  const stopped = signalled('SIGINT', 'SIGTERM');
  const disks: Served[] = [];
  for (const [name, path] of options.files) disks.push(await opened(name, path, options, ends));
  const { tls, limits, policy, pidFile, intervalMs, run } = options;
  const server = new NbdServer({
    exports: Object.fromEntries(disks.map((disk) => [disk.name, exportOf(disk, options, policy)])),
    ...(tls && { tls }),
    limits,
    observer: tell,
  });
  const closed = once(() => server.close());
  ends.defer(closed);
  const found: NbdAddress[] = [];
  const addresses = options.addresses.length > 0 ? options.addresses : [ownSocket(ends)];
  for (const address of addresses) found.push(await server.listen(address));
  if (pidFile !== undefined) {
    writeFileSync(pidFile, `${process.pid}\n`, { flag: 'wx' });
    ends.defer(() => rmSync(pidFile, { force: true }));
  }
  ends.isServed = true;
  const report = reporter(server, disks);
  introduce(disks, found, options);
  const timer = intervalMs > 0 ? setInterval(report, intervalMs) : undefined;
  ends.defer(() => clearInterval(timer));
  const child = run === undefined ? undefined : ran(run, disks, found, ends);
  const why = await Promise.race([stopped, ...(child ? [child] : [])]);
  if (typeof why === 'string') console.log(`${why}: completing what is under way`);
  try {
    await closed();
  } catch (error) {
    throw new Failure(error instanceof Error ? error.message : String(error), { cause: error });
  }
  report();
  return typeof why === 'number' ? why : 0;
}

function once(action: () => Promise<void>): () => Promise<void> {
  let done: Promise<void> | undefined;
  return () => {
    done ??= action();
    return done;
  };
}

async function opened(
  name: string,
  path: string,
  options: ServeOptions,
  ends: ServerEnds,
): Promise<Served> {
  const isNew = !existsSync(path);
  const file = await FileStorage.open(path, options.file);
  ends.defer(() => {
    if (isNew && !ends.isServed) rmSync(path, { force: true });
  });
  ends.defer(() => file.close());
  const trace = await traceOf(options.trace, file);
  if (trace) ends.defer(() => trace.end());
  let storage: Storage = options.volatileCache ? volatileCache(file) : file;
  if (trace) storage = recording(storage, trace.writer);
  if (options.ignoreFlushes) storage = ignoringFlushes(storage);
  // No request of NBD is a barrier, so no mode does harm here. An unsafe one is reported.
  const scheduler =
    options.scheduler &&
    new IoScheduler(storage, {
      ...options.scheduler,
      allowUnsafe: true,
      readAtRisk: options.readAtRisk,
    });
  return { name, path, storage, scheduler };
}

function exportOf(
  { storage, scheduler }: Served,
  { file: { readOnly = false }, description, readAtRisk }: ServeOptions,
  tls: ServeOptions['policy'],
): NbdExportOptions {
  return {
    storage: scheduler ?? storage,
    readOnly,
    ...(description !== undefined && { description }),
    ...(tls !== undefined && { tls }),
    ...(readAtRisk && !scheduler && { readAtRisk }),
  };
}

/**
 * Every event is in the file before a client gets the answer, so a server that is killed leaves a trace of everything that
 * its clients can know.
 */
async function traceOf(
  path: string | undefined,
  file: FileStorage,
): Promise<{ readonly writer: TraceWriter; end(): void } | undefined> {
  if (path === undefined) return undefined;
  if (file.size > TRACED_BYTES_MAX) {
    throw new UsageError(`--trace keeps disks up to ${TRACED_BYTES_MAX} bytes, not ${file.size}`);
  }
  const initial = new Uint8Array(file.size);
  for (let at = 0; at < file.size; at += CHUNK_BYTES) {
    await file.read(at, initial.subarray(at, at + CHUNK_BYTES));
  }
  // A trace is never written over another file.
  const fd = openSync(path, 'wx');
  const append = (bytes: Uint8Array): void => {
    for (let at = 0; at < bytes.length; ) at += writeSync(fd, bytes, at);
  };
  return { writer: new TraceWriter(file.size, append, initial), end: () => closeSync(fd) };
}

/** A socket that goes with its folder. */
function ownSocket(ends: Ends): { readonly path: string } {
  const folder = mkdtempSync(join(tmpdir(), 'write-barrier-'));
  ends.defer(() => rmSync(folder, { recursive: true, force: true }));
  return { path: join(folder, 'nbd.sock') };
}

function introduce(
  disks: readonly Served[],
  found: readonly NbdAddress[],
  { ignoreFlushes }: ServeOptions,
): void {
  for (const { name, path, storage, scheduler } of disks) {
    const mode = scheduler ? ` in ${scheduler.mode}` : '';
    const where = found.map((address) => uriOf(address, name)).join(', ');
    console.log(`${path}: ${storage.size} bytes${mode}, ${where}`);
    const { verdict, reason } = scheduler?.guarantees ?? {};
    if (verdict === 'unsafe') console.log(`${scheduler?.mode} is unsafe for barriers: ${reason}`);
  }
  if (ignoreFlushes) console.log('Flushes are answered and not done: this disk loses data.');
}

/** A line of statistics, if anything has happened since the last one. */
function reporter(server: NbdServer, disks: readonly Served[]): () => void {
  let last = -1;
  return () => {
    const { connections, accepted, requests, failed, ...moved } = server.stats();
    if (requests === last) return;
    last = requests;
    const schedulers = disks.flatMap(({ scheduler }) => (scheduler ? [scheduler.stats()] : []));
    const sum = (op: 'read' | 'write' | 'flush'): number =>
      schedulers.reduce((total, { commands }) => total + commands[op], 0);
    const inFlight = schedulers.reduce((total, stats) => total + stats.inFlight, 0);
    const parts = [
      `clients ${connections} of ${accepted}`,
      `requests ${requests}, failed ${failed}`,
      `bytes read ${moved.bytesRead}, written ${moved.bytesWritten}`,
      `flushes ${moved.flushes}`,
    ];
    if (schedulers.length > 0) {
      parts.push(
        `at the disk: reads ${sum('read')}, writes ${sum('write')}, flushes ${sum('flush')}, in flight ${inFlight}`,
      );
    }
    console.log(parts.join('; '));
  };
}

/** What happens to clients. */
function tell(event: NbdServerEvent): void {
  if (event.kind === 'failed') {
    const ranges = event.atRisk.map(({ start, end }) => `${start} to ${end}`);
    console.log(`a flush has failed; bytes that may be lost: ${ranges.join(', ')}`);
  } else if (event.kind === 'opened') {
    const what = event.export === '' ? 'the disk' : event.export;
    console.log(`client ${event.connection}: opens ${what}${event.tls ? ', over TLS' : ''}`);
  } else if (event.kind === 'ended' && event.why !== undefined) {
    console.log(`client ${event.connection}: is gone: ${event.why}`);
  }
}

function uriOf(address: NbdAddress, name: string): string {
  const disk = encodeURIComponent(name);
  if ('path' in address) return `nbd+unix:///${disk}?socket=${address.path}`;
  if ('fd' in address) return `descriptor ${address.fd}`;
  const { host, port } = address;
  const at = `nbd://${host.includes(':') ? `[${host}]` : host}:${port}`;
  return name === '' ? at : `${at}/${disk}`;
}

/** Runs a command of the shell; settles with its exit code. */
function ran(
  text: string,
  [disk]: readonly Served[],
  [address]: readonly NbdAddress[],
  ends: Ends,
): Promise<number> {
  const name = disk?.name ?? '';
  const where = address && {
    uri: uriOf(address, name),
    ...('path' in address && { socket: address.path }),
    ...('port' in address && { port: String(address.port) }),
  };
  const env = { ...process.env, ...where, exportname: name };
  return new Promise((resolve, reject) => {
    // A command that asks at the terminal must stay in its group. There Ctrl-C reaches it by itself.
    const detached = !process.stdin.isTTY && process.platform !== 'win32';
    const child = spawn(text, { shell: true, stdio: 'inherit', env, detached });
    let hasEnded = false;
    ends.defer(() => {
      if (!hasEnded) detached ? endGroup(child) : child.kill();
    });
    child.on('error', reject);
    child.on('close', (code, signal) => {
      hasEnded = true;
      if (signal !== null) console.log(`the command was ended by ${signal}`);
      resolve(code ?? 1);
    });
  });
}

/** The first of the signals. A second one ends the process as ever. */
function signalled(...signals: readonly NodeJS.Signals[]): Promise<NodeJS.Signals> {
  return new Promise((resolve) => {
    const heard = (signal: NodeJS.Signals): void => {
      for (const each of signals) process.off(each, heard);
      resolve(signal);
    };
    for (const each of signals) process.on(each, heard);
  });
}
