// @ts-check
import { mkdtemp, open, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { IoScheduler } from 'write-barrier';
import { FileStorage } from 'write-barrier/node';
import { WriteAheadLog } from './log.mjs';

const CLIENTS = 16;
const APPENDS = 25;

const folder = await mkdtemp(join(tmpdir(), 'write-ahead-log-'));
const path = join(folder, 'wal.img');

/** @param {number} [size] */
const openDisk = async (size) =>
  new IoScheduler(await FileStorage.open(path, size ? { size } : {}));

let disk = await openDisk(1 << 20);
let log = await WriteAheadLog.open(disk);
console.log(`Log in ${disk.mode}: ${disk.guarantees.reason}`);

await Promise.all(Array.from({ length: CLIENTS }, (_, client) => work(client)));
const { flush } = disk.stats().commands;
console.log(`${CLIENTS * APPENDS} appends by ${CLIENTS} clients shared ${flush} device flushes.`);
await log.close();

disk = await openDisk();
log = await WriteAheadLog.open(disk);
console.log(`Opened again: ${log.records.length} records, torn: ${log.torn}.`);
await log.close();

// What a power cut may leave: the last record's header without all of its payload.
const file = await open(path, 'r+');
await file.write(Buffer.alloc(8, 0xff), 0, 8, (CLIENTS * APPENDS - 1) * 512 + 8);
await file.close();

disk = await openDisk();
log = await WriteAheadLog.open(disk);
console.log(`After a torn write: ${log.records.length} records, torn: ${log.torn}.`);
await log.close();
await rm(folder, { recursive: true });

/** @param {number} client */
async function work(client) {
  for (let i = 0; i < APPENDS; i++) {
    await log.append(new TextEncoder().encode(`client ${client}, record ${i}`));
  }
}
