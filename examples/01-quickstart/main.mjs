// @ts-check
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { IoScheduler } from 'write-barrier';
import { FileStorage } from 'write-barrier/node';

const folder = await mkdtemp(`${tmpdir()}/quickstart-`);
const page = (/** @type {number} */ byte) => new Uint8Array(4096).fill(byte);
const disk = new IoScheduler(await FileStorage.open(`${folder}/log.img`, { size: 1 << 20 }));
await Promise.all([
  disk.write(0, page(1)), // a record
  disk.write(4096, page(2), { barrier: true }), // its commit mark: never on the medium without it
]);
console.log(`${disk.mode} is ${disk.guarantees.verdict} here. ${disk.guarantees.reason}`);
console.log(`The record starts with ${(await disk.read(0, 512))[0]}.`);
await disk.close();
await rm(folder, { recursive: true });
