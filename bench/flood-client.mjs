// Clients of an NBD server that are not polite: `node flood-client.mjs SOCKET FLOOD` floods it until its standard input ends, and
// prints "flooding" when all are connected. `FLOODS` says how. The first half of the export is theirs.

import { connect } from 'node:net';
import { fileURLToPath } from 'node:url';

const KIB = 1024;
const MIB = 1024 * KIB;
const COMMAND = { READ: 0, WRITE: 1, FLUSH: 3, CACHE: 5, WRITE_ZEROES: 6 };
const NO_HOLE = 2;
/** Of the export, in bytes. */
export const EXPORT_BYTES = 128 * MIB;
const REQUEST_BYTES = 28;
const REPLY_BYTES = 16;

const anywhere = (length) => Math.floor(Math.random() * (EXPORT_BYTES / 2 / length)) * length;

/** How many clients, how many requests each at once, and what they are. A deaf client reads no replies. */
export const FLOODS = {
  'readers that do not read': {
    ...{ clients: 30, depth: 128, deaf: true },
    request: () => ({ command: COMMAND.READ, offset: anywhere(512 * KIB), length: 512 * KIB }),
  },
  'zeroes of 64 MiB': {
    ...{ clients: 8, depth: 2 },
    request: () => ({ command: COMMAND.WRITE_ZEROES, flags: NO_HOLE, length: 64 * MIB }),
  },
  'caches of 64 MiB': {
    ...{ clients: 8, depth: 2 },
    request: () => ({ command: COMMAND.CACHE, length: 64 * MIB }),
  },
  'writers of 512 KiB': {
    ...{ clients: 60, depth: 4 },
    request: () => ({ command: COMMAND.WRITE, offset: anywhere(512 * KIB), length: 512 * KIB }),
  },
  flushes: { clients: 20, depth: 4, request: () => ({ command: COMMAND.FLUSH }) },
  'refused requests': {
    ...{ clients: 20, depth: 4 },
    // It ends after the end of every export.
    request: () => ({ command: COMMAND.READ, offset: 2 ** 50, length: 512 }),
  },
};

/** A connection in transmission, with simple replies. */
export class Client {
  #socket;
  #input = Buffer.alloc(0);
  #waiting = new Map();
  #next = 1;

  static async open(path) {
    const client = new Client();
    client.#socket = connect(path);
    client.#socket.on('error', () => {});
    const name = Buffer.alloc(4 + 2); // The default export, and no wishes.
    const option = Buffer.alloc(16);
    option.write('IHAVEOPT', 'latin1');
    option.writeUInt32BE(7, 8);
    option.writeUInt32BE(name.length, 12);
    client.#socket.write(Buffer.concat([Buffer.from([0, 0, 0, 3]), option, name]));
    await new Promise((resolve, reject) => {
      client.#socket.once('close', () => reject(new Error('the server does not want a client')));
      client.#socket.on('data', (chunk) => {
        client.#input = Buffer.concat([client.#input, chunk]);
        if (client.#isOpen()) resolve();
        client.#replies();
      });
    });
    return client;
  }

  #opened = false;
  /** Skips the greeting and what is said of the export, up to the acknowledgement of GO. */
  #isOpen() {
    if (this.#opened) return true;
    for (let at = 18; this.#input.length >= at + 20; ) {
      const type = this.#input.readUInt32BE(at + 12);
      at += 20 + this.#input.readUInt32BE(at + 16);
      if (type !== 1) continue;
      this.#input = this.#input.subarray(at);
      this.#opened = true;
      return true;
    }
    return false;
  }

  #replies() {
    let input = this.#input;
    while (this.#opened && input.length >= REPLY_BYTES) {
      const cookie = input.readUInt32BE(12);
      const error = input.readUInt32BE(4);
      const { reads, resolve } = this.#waiting.get(cookie);
      const length = REPLY_BYTES + (error === 0 ? reads : 0);
      if (input.length < length) break;
      this.#waiting.delete(cookie);
      resolve({ error, data: input.subarray(REPLY_BYTES, length) });
      input = input.subarray(length);
    }
    this.#input = input;
  }

  ask({ command, flags = 0, offset = 0, length = 0, data }) {
    const cookie = this.#next++;
    const head = Buffer.alloc(REQUEST_BYTES);
    head.writeUInt32BE(0x25609513);
    head.writeUInt16BE(flags, 4);
    head.writeUInt16BE(command, 6);
    head.writeUInt32BE(cookie, 12);
    head.writeBigUInt64BE(BigInt(offset), 16);
    head.writeUInt32BE(length, 24);
    this.#socket.write(head);
    if (command === COMMAND.WRITE) this.#socket.write(data ?? Buffer.alloc(length, cookie));
    const reads = command === COMMAND.READ ? length : 0;
    return new Promise((resolve) => this.#waiting.set(cookie, { reads, resolve }));
  }

  read(offset, length) {
    return this.ask({ command: COMMAND.READ, offset, length });
  }

  write(offset, data) {
    return this.ask({ command: COMMAND.WRITE, offset, length: data.length, data });
  }

  /** Takes no more replies. */
  deafen() {
    this.#socket.pause();
  }

  end() {
    this.#socket.destroy();
  }
}

async function flood(path, { clients, depth, deaf, request }) {
  for (let who = 0; who < clients; who += 1) {
    const client = await Client.open(path);
    if (deaf) client.deafen();
    const again = () => client.ask(request()).then(again);
    for (let i = 0; i < depth; i += 1) again();
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const [path, name] = process.argv.slice(2);
  process.stdin.on('end', () => process.exit());
  process.stdin.resume();
  await flood(path, FLOODS[name]);
  console.log('flooding');
}
