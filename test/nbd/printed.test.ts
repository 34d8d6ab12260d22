// Goal: what a console prints of a server and of an export says what it is, in a line.

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { inspect } from 'node:util';
import { expect, onTestFinished, test } from 'vitest';
import { MemoryStorage } from 'write-barrier';
import { NbdServer, NbdStorage } from 'write-barrier/nbd';

test('a server and an export print in a line what they are, and what has become of them', async () => {
  const directory = mkdtempSync(join(tmpdir(), 'write-barrier-'));
  onTestFinished(() => rmSync(directory, { recursive: true }));
  const path = join(directory, 'nbd.sock');
  const server = new NbdServer({ exports: { '': new MemoryStorage(4096) } });
  await server.listen({ path });
  const storage = await NbdStorage.connect({ path });
  expect(inspect(storage)).toBe('NbdStorage { 4096 bytes, connected }');
  expect(inspect({ server })).toBe('{ server: NbdServer { 1 exports, 1 connections } }');
  await storage.close();
  expect(inspect(storage)).toBe('NbdStorage { 4096 bytes, closed }');
  await server.close();
});
