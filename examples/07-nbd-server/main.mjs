// @ts-check
import { closeSync, openSync, writeSync } from 'node:fs';
import { IoScheduler, WriteBarrierError } from 'write-barrier';
import { NbdServer } from 'write-barrier/nbd';
import { FileStorage } from 'write-barrier/node';
import { recording, TraceWriter } from 'write-barrier/testing/lab';
import { ignoringFlushes, volatileCache } from './disks.mjs';
import { HELP, optionsOf, UsageError } from './options.mjs';

/** @import { Storage } from 'write-barrier' */
/** @import { NbdAddress, NbdServerEvent } from 'write-barrier/nbd' */
/** @import { Options } from './options.mjs' */

/** The image before the run is part of the trace, and the crash kit keeps it in memory. */
const TRACED_BYTES_MAX = 1 << 30;
const CHUNK_BYTES = 1 << 20;
/** This program does nothing but serve the file, so small writes need no other thread. */
const INLINE_WRITE_MAX = 1 << 16;

try {
  const options = await optionsOf(process.argv.slice(2));
  if (options) await serve(options);
  else console.log(HELP);
} catch (error) {
  if (!isExpected(error)) throw error;
  console.error(`nbd-server: ${error.message}`);
  process.exitCode = error instanceof UsageError ? 2 : 1;
}

/** Serves until SIGINT or SIGTERM. */
async function serve(/** @type {Options} */ options) {
  const stopped = signalled('SIGINT', 'SIGTERM');
  const { file: path, size, mode, intervalMs, tls, ignoreFlushes, addresses } = options;
  const file = await FileStorage.open(path, {
    inlineWriteMax: INLINE_WRITE_MAX,
    ...(size !== undefined && { size }),
  });
  const trace = await traceOf(options, file).catch(async (error) => {
    await file.close();
    throw error;
  });
  const disk = diskOf(options, file, trace?.writer);
  try {
    // No request of NBD is a barrier, so no mode does harm here. An unsafe one is reported.
    const scheduler = new IoScheduler(disk, { mode, allowUnsafe: true });
    const server = new NbdServer({
      exports: { '': scheduler },
      ...(tls && { tls }),
      observer: tell,
    });
    const report = reporter(server, scheduler);
    try {
      const found = [];
      for (const address of addresses) found.push(await server.listen(address));
      console.log(`${path}: ${file.size} bytes in ${scheduler.mode}, ${found.map(uri).join(', ')}`);
      const { verdict, reason } = scheduler.guarantees;
      if (verdict === 'unsafe') console.log(`${scheduler.mode} is unsafe for barriers: ${reason}`);
      if (ignoreFlushes) console.log('Flushes are answered and not done: this disk loses data.');
      const timer = intervalMs > 0 ? setInterval(report, intervalMs) : undefined;
      console.log(`${await stopped}: completing what is under way`);
      clearInterval(timer);
    } finally {
      await server.close();
    }
    report();
  } finally {
    // The server has drained and flushed the scheduler, if it ever came so far.
    await disk.close();
    trace?.end();
  }
}

/**
 * The storage for the scheduler. Flushes are ignored above the trace, so the trace is that of the disk; the cache is below
 * the trace, so it is part of the disk.
 *
 * @param {Options} options
 * @param {Storage} file
 * @param {TraceWriter | undefined} trace
 */
function diskOf({ volatileCache: caching, ignoreFlushes }, file, trace) {
  let disk = caching ? volatileCache(file) : file;
  if (trace) disk = recording(disk, trace);
  return ignoreFlushes ? ignoringFlushes(disk) : disk;
}

/**
 * Every event is in the file before a client gets the answer, so a server that is killed leaves a trace of everything that
 * its clients can know.
 *
 * @param {Options} options
 * @param {FileStorage} file
 */
async function traceOf({ trace: path }, file) {
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
  const append = (/** @type {Uint8Array} */ bytes) => {
    for (let at = 0; at < bytes.length; ) at += writeSync(fd, bytes, at);
  };
  return { writer: new TraceWriter(file.size, append, initial), end: () => closeSync(fd) };
}

/**
 * A line of statistics, if anything has happened since the last one.
 *
 * @param {NbdServer} server
 * @param {IoScheduler} scheduler
 */
function reporter(server, scheduler) {
  let last = -1;
  return () => {
    const { connections, accepted, requests, failed, ...moved } = server.stats();
    if (requests === last) return;
    last = requests;
    const { commands, inFlight } = scheduler.stats();
    console.log(
      [
        `clients ${connections} of ${accepted}`,
        `requests ${requests}, failed ${failed}`,
        `bytes read ${moved.bytesRead}, written ${moved.bytesWritten}`,
        `flushes ${moved.flushes}`,
        `at the disk: reads ${commands.read}, writes ${commands.write}, flushes ${commands.flush}, in flight ${inFlight}`,
      ].join('; '),
    );
  };
}

/** What happens to clients. */
function tell(/** @type {NbdServerEvent} */ event) {
  if (event.kind === 'failed') {
    const ranges = event.atRisk.map(({ start, end }) => `${start} to ${end}`);
    console.log(`a flush has failed; bytes that may be lost: ${ranges.join(', ')}`);
  } else if (event.kind === 'opened') {
    console.log(`client ${event.connection}: opens the disk${event.tls ? ', over TLS' : ''}`);
  } else if (event.kind === 'ended' && event.why !== undefined) {
    console.log(`client ${event.connection}: is gone: ${event.why}`);
  }
}

/** @param {NbdAddress} address */
function uri(address) {
  if ('path' in address) return `nbd+unix:///?socket=${address.path}`;
  if ('fd' in address) return `descriptor ${address.fd}`;
  const { host, port } = address;
  return `nbd://${host.includes(':') ? `[${host}]` : host}:${port}`;
}

/**
 * The first of the signals. A second one ends the process as ever.
 *
 * @param {NodeJS.Signals[]} signals
 * @returns {Promise<NodeJS.Signals>}
 */
function signalled(...signals) {
  return new Promise((resolve) => {
    const heard = (/** @type {NodeJS.Signals} */ signal) => {
      for (const each of signals) process.off(each, heard);
      resolve(signal);
    };
    for (const each of signals) process.on(each, heard);
  });
}

/**
 * Errors that need no stack trace: a wrong option, a file or an address that the system refuses.
 *
 * @param {unknown} error
 * @returns {error is Error}
 */
function isExpected(error) {
  if (error instanceof UsageError || WriteBarrierError.is(error)) return true;
  return error instanceof Error && 'code' in error && /^E[A-Z]+$/.test(String(error.code));
}
