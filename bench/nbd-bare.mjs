// The smallest NBD server that fio's writes and flushes need, on the same means as ours: one thread, 'data' events, a
// write on the calling thread, the replies of a turn in one piece, one fdatasync at a time in the thread pool, shared by all
// flushes that wait. It has no reads, TLS, limits, errors, order of overlapping writes, or account of bytes at risk. So it
// says what Node can reach, and is no server for use.
//
//   node nbd-bare.mjs FILE SOCKET

import { fdatasync, openSync, statSync, writeSync } from 'node:fs';
import { createServer } from 'node:net';

const [file, path] = process.argv.slice(2);
const { size } = statSync(file);

const OPTION = { ABORT: 2, INFO: 6, GO: 7 };
const REPLY = { ACK: 1, INFO: 3, UNSUPPORTED: 0x80000001 };
const COMMAND = { WRITE: 1, DISC: 2, FLUSH: 3 };
const FLAGS = 0x1 | 0x4; // HAS_FLAGS, SEND_FLUSH
const EINVAL = 22;
const REQUEST_BYTES = 28;
const REPLIES_BYTES = 64 * 1024;

class Client {
  #socket;
  #fd = openSync(file, 'r+');
  #rest = Buffer.alloc(0);
  #take = this.#flags;
  #replies = Buffer.allocUnsafe(REPLIES_BYTES);
  #used = 0;
  #waiting = [];
  #syncing = false;

  constructor(socket) {
    this.#socket = socket;
    socket.on('data', (chunk) => this.#receive(chunk));
    socket.on('error', () => socket.destroy());
    const greeting = Buffer.from('NBDMAGICIHAVEOPT\0\x03', 'latin1');
    socket.write(greeting);
  }

  #receive(chunk) {
    let bytes = this.#rest.length === 0 ? chunk : Buffer.concat([this.#rest, chunk]);
    for (let taken = -1; taken !== 0; bytes = bytes.subarray(taken)) taken = this.#take(bytes);
    this.#rest = bytes;
    this.#sync();
    this.#send();
  }

  // Each takes what it can from the bytes, and answers how many it took.

  #flags(bytes) {
    if (bytes.length < 4) return 0;
    this.#take = this.#option;
    return 4;
  }

  #option(bytes) {
    if (bytes.length < 16) return 0;
    const option = bytes.readUInt32BE(8);
    const end = 16 + bytes.readUInt32BE(12);
    if (bytes.length < end) return 0;
    if (option === OPTION.INFO || option === OPTION.GO) {
      const info = Buffer.alloc(12);
      info.writeBigUInt64BE(BigInt(size), 2);
      info.writeUInt16BE(FLAGS, 10);
      this.#answer(option, REPLY.INFO, info);
      this.#answer(option, REPLY.ACK);
      if (option === OPTION.GO) this.#take = this.#requests;
    } else {
      this.#answer(option, option === OPTION.ABORT ? REPLY.ACK : REPLY.UNSUPPORTED);
    }
    return end;
  }

  #answer(option, type, data = Buffer.alloc(0)) {
    const head = Buffer.alloc(20);
    head.writeBigUInt64BE(0x0003e889045565a9n);
    head.writeUInt32BE(option, 8);
    head.writeUInt32BE(type, 12);
    head.writeUInt32BE(data.length, 16);
    this.#socket.write(Buffer.concat([head, data]));
  }

  /** As many as have come as a whole. */
  #requests(bytes) {
    let at = 0;
    while (bytes.length - at >= REQUEST_BYTES) {
      const command = bytes.readUInt16BE(at + 6);
      const high = bytes.readUInt32BE(at + 8);
      const low = bytes.readUInt32BE(at + 12);
      const data = at + REQUEST_BYTES;
      const length = bytes.readUInt32BE(at + 24);
      if (command === COMMAND.WRITE) {
        if (bytes.length - data < length) break;
        const offset = bytes.readUInt32BE(at + 16) * 2 ** 32 + bytes.readUInt32BE(at + 20);
        writeSync(this.#fd, bytes, data, length, offset);
        this.#reply(high, low, 0);
        at = data + length;
        continue;
      }
      if (command === COMMAND.FLUSH) this.#waiting.push(high, low);
      else if (command === COMMAND.DISC) this.#socket.end();
      else this.#reply(high, low, EINVAL);
      at = data;
    }
    return at;
  }

  #sync() {
    if (this.#syncing || this.#waiting.length === 0) return;
    const served = this.#waiting;
    this.#waiting = [];
    this.#syncing = true;
    fdatasync(this.#fd, (error) => {
      if (error) throw error;
      this.#syncing = false;
      for (let i = 0; i < served.length; i += 2) this.#reply(served[i], served[i + 1], 0);
      this.#sync();
      this.#send();
    });
  }

  #reply(high, low, error) {
    if (this.#used + 16 > REPLIES_BYTES) this.#send();
    const at = this.#used;
    this.#replies.writeUInt32BE(0x67446698, at);
    this.#replies.writeUInt32BE(error, at + 4);
    this.#replies.writeUInt32BE(high, at + 8);
    this.#replies.writeUInt32BE(low, at + 12);
    this.#used = at + 16;
  }

  #send() {
    if (this.#used === 0) return;
    this.#socket.write(Buffer.from(this.#replies.subarray(0, this.#used)));
    this.#used = 0;
  }
}

createServer((socket) => new Client(socket)).listen(path);
process.stdin.on('end', () => process.exit());
process.stdin.resume();
