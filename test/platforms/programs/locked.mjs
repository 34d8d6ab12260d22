// Prints which lock a file has, and why.

import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { FileStorage } from 'write-barrier/node';

const folder = await mkdtemp(join(tmpdir(), 'platform-'));
const storage = await FileStorage.open(join(folder, 'disk.img'), { size: 4096 });
const { lock, lockReason } = storage;
console.log(JSON.stringify({ lock, lockReason }));
await storage.close();
await rm(folder, { recursive: true });
