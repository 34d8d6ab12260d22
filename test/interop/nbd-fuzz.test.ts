// Goal: no client can do more than lose its connection. Method: 200,000 damaged conversations through the session, held
// against a second reading of the same bytes; 2,000 of them through real sockets, left or cut wherever it comes. Then
// the heap is where it was, the bytes around the exports are untouched, and a good client is served. And of those who
// behave as they should nothing is kept.

import { connect } from 'node:net';
import { join } from 'node:path';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { expect, test } from 'vitest';
import { MemoryStorage } from '../../src/index.js';
import { NbdServer } from '../../src/nbd/index.js';
import { COMMAND } from '../../src/nbd/wire/index.js';
import { bearServers } from '../nbd/client-fuzz.js';
import { bear, type Dice, diceOf, guarded, hostileStream, SIZE } from '../nbd/fuzz.js';
import { RawClient, temporaryFolder } from '../nbd/support.js';

const CONVERSATIONS = 200_000;
const THROUGH_SOCKETS = 2_000;
const SERVERS = 50_000;
const AT_ONCE = 16;
const REQUESTS = 200_000;
const CLIENTS = 2_000;
const HEAP_SLACK = 4 << 20;

setFlagsFromString('--expose_gc');
const collect = runInNewContext('gc') as () => void;

/** What is held, in bytes. Buffers are freed beside the program, and what they held on to by the next collection. */
async function heap(): Promise<number> {
  collect();
  await new Promise((resolve) => setTimeout(resolve, 50));
  collect();
  const { heapUsed, arrayBuffers } = process.memoryUsage();
  return heapUsed + arrayBuffers;
}

test(`a session bears ${CONVERSATIONS} clients out of their mind, and its heap stays flat`, async () => {
  const disk = guarded();
  let [opened, requests, before] = [0, 0, 0];
  for (let seed = 0; seed < CONVERSATIONS; seed += 1) {
    if (seed === CONVERSATIONS / 10) before = await heap();
    const random = diceOf(seed);
    let trial: ReturnType<typeof bear>;
    try {
      trial = bear(hostileStream(random), disk, random);
    } catch (cause) {
      throw new Error(`seed ${seed}`, { cause });
    }
    opened += trial.opened ? 1 : 0;
    requests += trial.requests;
  }
  expect((await heap()) - before).toBeLessThan(HEAP_SLACK);
  expect(disk.intact()).toBe(true);
  expect(opened).toBeGreaterThan(CONVERSATIONS / 3);
  expect(requests).toBeGreaterThan(CONVERSATIONS);
});

test(`a client bears ${SERVERS} servers out of their mind`, () => {
  bearServers(SERVERS);
});

test(`a server bears ${THROUGH_SOCKETS} of them through sockets, and serves the others`, async () => {
  const disk = guarded();
  const folder = await temporaryFolder();
  const path = join(folder.path, 's');
  const server = new NbdServer({
    exports: { '': disk.storage, ro: { storage: disk.storage, readOnly: true } },
    limits: { requestBytes: 64 * 1024, handshakeMs: 2_000 },
  });
  await server.listen({ path });
  const good = await RawClient.open(path);
  let [seed, before] = [0, 0];
  const clients = Array.from({ length: AT_ONCE }, async () => {
    while (seed < THROUGH_SOCKETS) {
      if (seed === THROUGH_SOCKETS / 10) before = await heap();
      const random = diceOf(seed++);
      await throughSocket(path, hostileStream(random), random);
    }
  });
  await Promise.all(clients);
  while (server.stats().connections > 1) await new Promise((resolve) => setTimeout(resolve, 10));
  expect((await heap()) - before).toBeLessThan(HEAP_SLACK);
  expect(disk.intact()).toBe(true);
  expect((await good.ask(COMMAND.READ, { length: 4096 })).error).toBe(0);
  expect(server.stats().accepted).toBe(THROUGH_SOCKETS + 1);
  expect(server.stats().requests).toBeGreaterThan(THROUGH_SOCKETS / 2);
  await server.close();
  await folder.remove();
});

// Ordinary clients leave nothing behind either: neither their requests, in flight together, nor their connections.
test(`the heap is flat under ${REQUESTS} requests of ${CLIENTS} clients`, async () => {
  const folder = await temporaryFolder();
  const path = join(folder.path, 's');
  const server = new NbdServer({ exports: { '': new MemoryStorage(SIZE) } });
  await server.listen({ path });
  const each = REQUESTS / CLIENTS;
  let before = 0;
  for (let came = 0; came < CLIENTS; came += 1) {
    if (came === CLIENTS / 10) before = await heap();
    const client = await RawClient.open(path, { structured: came % 2 === 0 });
    const replies = Array.from({ length: each }, (_, i) => {
      const offset = (i % (SIZE / 4096)) * 4096;
      if (i % 8 === 7) return client.ask(COMMAND.FLUSH);
      if (i % 8 === 3) return client.ask(COMMAND.READ, { offset, length: 4096 });
      return client.ask(COMMAND.WRITE, { offset, data: new Uint8Array(4096).fill(i) });
    });
    for (const { error } of await Promise.all(replies)) expect(error).toBe(0);
    if (came % 3 === 0) client.socket.destroy();
    else client.socket.end();
    await client.closed;
  }
  while (server.stats().connections > 0) await new Promise((resolve) => setTimeout(resolve, 10));
  expect((await heap()) - before).toBeLessThan(HEAP_SLACK);
  expect(server.stats()).toMatchObject({ accepted: CLIENTS, requests: REQUESTS, failed: 0 });
  await server.close();
  await folder.remove();
});

/** Says all of a stream in pieces, then leaves, is cut off, or waits to be sent away; reads, or does not. */
function throughSocket(path: string, stream: Uint8Array, random: Dice): Promise<void> {
  return new Promise((resolve) => {
    const socket = connect({ path });
    socket.on('error', () => {});
    socket.on('close', () => resolve());
    if (random(4) > 0) socket.resume();
    const say = (at: number): void => {
      if (at < stream.length) {
        const end = at + 1 + random(3000);
        socket.write(stream.subarray(at, end), () => setImmediate(say, end));
      } else if (random(3) > 0) socket.end(() => socket.resume());
      else socket.destroy();
    };
    say(0);
  });
}
