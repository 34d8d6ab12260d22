// Goal: our client over our server loses nothing and reads nothing old when connections die and the server lives on, with
// requests of dead connections still at its storage. Method: a relay that cuts connections at random moments, a storage
// that takes its time, and a client that also gives up on what takes too long; each block has one writer, which reads
// what it has written.

import { connect, createServer, type Socket } from 'node:net';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { type Storage, WriteBarrierError } from '../../src/index.js';
import { NbdServer, NbdStorage } from '../../src/nbd/index.js';
import { seededRandom } from '../../src/testing/index.js';
import { temporaryFolder } from './support.js';

const BLOCK = 512;
const PLAIN = { fua: false, tag: 'simple' } as const;
const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

/** Volatile, and slow at random; what is flushed is on the medium. */
class Slow implements Storage {
  readonly size = 8 * BLOCK;
  readonly capabilities = {
    blockSize: BLOCK,
    cache: 'volatile',
    flush: true,
    fua: false,
    orderedTags: false,
  } as const;
  readonly cache = new Map<number, Uint8Array>();
  readonly medium = new Map<number, Uint8Array>();
  readonly #random: () => number;

  constructor(random: () => number) {
    this.#random = random;
  }

  async read(offset: number, into: Uint8Array): Promise<void> {
    await this.#delay();
    into.set(this.cache.get(offset) ?? new Uint8Array(BLOCK));
  }

  async write(offset: number, data: Uint8Array): Promise<void> {
    await this.#delay();
    this.cache.set(offset, data.slice());
    await this.#delay();
  }

  async flush(): Promise<void> {
    const dirty = [...this.cache];
    await this.#delay();
    for (const [offset, data] of dirty) this.medium.set(offset, data);
  }

  close(): void {}

  /** Now and then longer than the client has patience. */
  #delay(): Promise<void> {
    const dice = this.#random();
    return dice < 0.02 ? pause(60) : dice < 0.3 ? pause(Math.floor(dice * 10)) : Promise.resolve();
  }
}

test.each([1, 2, 3])(
  'given connections that die again and again, seed %i, nothing is lost or read as it was before',
  async (seed) => {
    const random = seededRandom(seed);
    const folder = await temporaryFolder();
    const [near, far] = [join(folder.path, 'near'), join(folder.path, 'far')];
    const storage = new Slow(random);
    const server = new NbdServer({ exports: { '': storage }, limits: { requestsInFlight: 4 } });
    await server.listen({ path: far });
    const pairs = new Set<readonly Socket[]>();
    const relay = createServer((socket) => {
      const other = connect({ path: far });
      const pair = [socket.pipe(other), other.pipe(socket)] as Socket[];
      pairs.add(pair);
      for (const end of pair) {
        end
          .on('error', () => {})
          .on('close', () => {
            for (const each of pair) each.destroy();
            pairs.delete(pair);
          });
      }
    });
    await new Promise<void>((resolve) => relay.listen(near, resolve));
    const client = await NbdStorage.connect({
      ...{ path: near, connections: 2, delayMs: 1, delayMsMax: 5, triesMax: 1000 },
      requestTimeoutMs: 40,
    });

    let stop = false;
    const last = new Map<number, number>();
    const writer = async (block: number): Promise<void> => {
      const offset = block * BLOCK;
      for (let version = 1; !stop; version += 1) {
        await client.write(offset, new Uint8Array(BLOCK).fill(version), PLAIN);
        last.set(offset, version % 256);
        if (random() < 0.3) {
          const into = new Uint8Array(BLOCK);
          await client.read(offset, into);
          expect(into).toEqual(new Uint8Array(BLOCK).fill(version));
        }
        if (random() < 0.1) await client.flush({ tag: 'simple' });
      }
    };
    const writers = Array.from({ length: 8 }, (_, block) => writer(block));
    const all = Promise.all(writers).catch((error) => {
      stop = true;
      throw WriteBarrierError.is(error) ? new Error(error.message, { cause: error }) : error;
    });
    let cuts = 0;
    for (; cuts < 40 && !stop; cuts += 1) {
      await pause(random() * 40);
      for (const pair of pairs) pair[random() < 0.5 ? 0 : 1]?.destroy();
    }
    stop = true;
    await all;
    await client.flush({ tag: 'simple' });
    for (const [offset, version] of last) expect(storage.medium.get(offset)?.[0]).toBe(version);
    expect(last.size).toBe(8);
    await client.close();
    relay.close();
    await server.close();
    await folder.remove();
  },
);
