// A program: our server in front of a file, with a write-back cache in its own memory, so that a kill loses what was not
// flushed. What is not flushed gets to the file all the same now and then, in any order, as with a real cache.
//
//   node volatile-server.mjs <socket> <file>

import * as fs from 'node:fs';
import type { Storage, WriteFlags } from 'write-barrier';
import { NbdServer } from 'write-barrier/nbd';

const BLOCK = 4096;
/** Of so many writes one is followed by the destaging of a random block. */
const DESTAGES_ONE_IN = 8;

class WriteBack implements Storage {
  readonly size: number;
  readonly capabilities = {
    blockSize: BLOCK,
    cache: 'volatile',
    flush: true,
    fua: true,
    orderedTags: false,
  } as const;
  readonly #file: number;
  readonly #dirty = new Map<number, Uint8Array>();

  constructor(path: string) {
    this.#file = fs.openSync(path, 'r+');
    this.size = fs.fstatSync(this.#file).size;
  }

  read(offset: number, into: Uint8Array): void {
    fs.readSync(this.#file, into, 0, into.length, offset);
    for (let at = 0; at < into.length; at += BLOCK) {
      const dirty = this.#dirty.get(offset + at);
      if (dirty) into.set(dirty, at);
    }
  }

  async write(offset: number, data: Uint8Array, { fua }: WriteFlags): Promise<void> {
    for (let at = 0; at < data.length; at += BLOCK) {
      this.#dirty.set(offset + at, data.slice(at, at + BLOCK));
      if (fua) this.#destage(offset + at);
    }
    await new Promise(setImmediate);
    if (Math.random() * DESTAGES_ONE_IN < 1) this.#destage(this.#any());
  }

  async flush(): Promise<void> {
    // What is written while it runs is not its business.
    const dirty = new Map(this.#dirty);
    while (dirty.size > 0) {
      const offset = [...dirty.keys()][Math.floor(Math.random() * dirty.size)] as number;
      dirty.delete(offset);
      this.#destage(offset);
      if (dirty.size % 4 === 0) await new Promise(setImmediate);
    }
  }

  close(): void {
    fs.closeSync(this.#file);
  }

  #any(): number | undefined {
    return [...this.#dirty.keys()][Math.floor(Math.random() * this.#dirty.size)];
  }

  #destage(offset: number | undefined): void {
    const data = offset === undefined ? undefined : this.#dirty.get(offset);
    if (offset === undefined || !data) return;
    this.#dirty.delete(offset);
    fs.writeSync(this.#file, data, 0, data.length, offset);
  }
}

const [, , socket = '', file = ''] = process.argv;
const server = new NbdServer({ exports: { '': new WriteBack(file) } });
await server.listen({ path: socket });
