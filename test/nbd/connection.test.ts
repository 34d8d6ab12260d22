// What a connection asks of its socket, told call by call. The socket is a stand-in, because a real one delivers and takes bytes as
// the system likes.

import { EventEmitter } from 'node:events';
import type { Socket } from 'node:net';
import { expect, test } from 'vitest';
import { MemoryStorage } from '../../src/index.js';
import { Connection } from '../../src/nbd/server/connection.js';
import { Memory } from '../../src/nbd/server/memory.js';
import { exportsOf, limitsOf } from '../../src/nbd/server/options.js';
import { Turns } from '../../src/nbd/server/turns.js';
import { COMMAND } from '../../src/nbd/wire/index.js';
import { bytes, FLAGS, go, request } from './support.js';

const BLOCK = 512;
const REPLY_BYTES = 16;

/** Takes everything at once, and notes the calls. */
class Line extends EventEmitter {
  readonly calls: string[] = [];
  readonly writableLength = 0;
  readonly destroyed = false;
  readonly writableEnded = false;

  write(data: Uint8Array): boolean {
    this.calls.push(`write ${data.length}`);
    return true;
  }
  cork(): void {
    this.calls.push('cork');
  }
  uncork(): void {
    this.calls.push('uncork');
  }
  isPaused(): boolean {
    return false;
  }
  pause(): void {}
  resume(): void {}
  setTimeout(): void {}
}

/** A client that has opened an export of 64 blocks, and can say more. */
async function opened(): Promise<{
  line: Line;
  say(...parts: readonly Uint8Array[]): Promise<void>;
}> {
  const line = new Line();
  const limits = limitsOf();
  new Connection(line as unknown as Socket, {
    exports: exportsOf({ exports: { '': new MemoryStorage(64 * BLOCK) } }, limits),
    limits,
    memory: new Memory({ ...limits, largeMs: 1000 }),
    turns: new Turns(),
    name: 'connection 0',
    upgrade: undefined,
    local: true,
    counters: {
      ...{ requests: 0, failed: 0, refusedRequests: 0, refusedOptions: 0 },
      ...{ bytesRead: 0, bytesWritten: 0, flushes: 0 },
    },
    full: () => false,
    onOpen: () => {},
    onEnded: () => {},
    onGone: () => {},
  });
  const say = async (...parts: readonly Uint8Array[]): Promise<void> => {
    line.emit('data', bytes(...parts));
    await new Promise((resolve) => setImmediate(resolve));
  };
  await say(FLAGS, go());
  line.calls.length = 0;
  return { line, say };
}

test('connection.K4: replies of one turn leave together, in one write', async () => {
  const { line, say } = await opened();
  const data = new Uint8Array(BLOCK);
  await say(...Array.from({ length: 32 }, (_, i) => request(COMMAND.WRITE, i, { data })));
  expect(line.calls).toEqual([`write ${32 * REPLY_BYTES}`]);
});

test('connection.K4: so do replies with data that is too long to copy', async () => {
  const { line, say } = await opened();
  const length = 16 * BLOCK;
  await say(request(COMMAND.READ, 1, { length }), request(COMMAND.READ, 2, { length }));
  const reply = [`write ${REPLY_BYTES}`, `write ${length}`];
  expect(line.calls).toEqual(['cork', ...reply, ...reply, 'uncork']);
});

test('connection.K4: a request that comes alone is answered alone', async () => {
  const { line, say } = await opened();
  await say(request(COMMAND.FLUSH, 1));
  await say(request(COMMAND.FLUSH, 2));
  expect(line.calls).toEqual([`write ${REPLY_BYTES}`, `write ${REPLY_BYTES}`]);
});
