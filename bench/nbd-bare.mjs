// The smallest NBD server that the benchmarks need, on the same means as ours: one thread, 'data' events, a write on the calling
// thread as its bytes come, reads in the thread pool, the replies of a turn in one piece, one fdatasync at a time in the thread
// pool, shared by all flushes of a connection that wait. So it says what Node can reach, and is no server for use.
//
// It is fair in the simplest way: a connection with REQUESTS_MAX requests, or UNSENT_MAX bytes that its client has not
// taken, is not read, and zeroes and caches go one piece of all connections after the other. It has no TLS, no bound of memory, no
// errors of a disk, no order of overlapping writes, and no account of bytes at risk.
//
//   node nbd-bare.mjs FILE SOCKET

import { fdatasync, openSync, read, statSync, write, writeSync } from 'node:fs';
import { createServer } from 'node:net';

const [file, path] = process.argv.slice(2);
const { size } = statSync(file);

const OPTION = { ABORT: 2, INFO: 6, GO: 7 };
const REPLY = { ACK: 1, INFO: 3, UNSUPPORTED: 0x80000001 };
const COMMAND = { READ: 0, WRITE: 1, DISC: 2, FLUSH: 3, CACHE: 5, WRITE_ZEROES: 6 };
const FLAGS = 0x1 | 0x4 | 0x40 | 0x400; // HAS_FLAGS, SEND_FLUSH, SEND_WRITE_ZEROES, SEND_CACHE
const EINVAL = 22;
const REQUEST_BYTES = 28;
const REPLIES_BYTES = 64 * 1024;
const UNSENT_MAX = 1024 * 1024;
const REQUESTS_MAX = 16;
const PIECE = 256 * 1024;
const [ZEROES, SCRATCH] = [Buffer.alloc(PIECE), Buffer.alloc(PIECE)];

const pieces = [];
let isMoving = false;

/** One piece of the first request in line, which then goes to the end of the line. */
function move() {
  const work = pieces.shift();
  isMoving = work !== undefined;
  if (!work) return;
  const length = Math.min(PIECE, work.end - work.at);
  const moved = (error) => {
    if (error) throw error;
    work.at += length;
    if (work.at < work.end) pieces.push(work);
    else work.ended();
    move();
  };
  const [call, bytes] = work.writes ? [write, ZEROES] : [read, SCRATCH];
  call(work.fd, bytes, 0, length, work.at, moved);
}

class Client {
  #socket;
  #fd = openSync(file, 'r+');
  #rest = Buffer.alloc(0);
  #take = this.#flags;
  #payload = { left: 0, at: 0, high: 0, low: 0 };
  #replies = Buffer.allocUnsafe(REPLIES_BYTES);
  #used = 0;
  #waiting = [];
  #syncing = false;
  #requests = 0;

  constructor(socket) {
    this.#socket = socket;
    socket.on('data', (chunk) => this.#receive(chunk));
    socket.on('drain', () => this.#goOn());
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
    if (this.#isFull) this.#socket.pause();
  }

  get #isFull() {
    return this.#requests >= REQUESTS_MAX || this.#socket.writableLength >= UNSENT_MAX;
  }

  #goOn() {
    if (this.#isFull || !this.#socket.isPaused()) return;
    this.#receive(Buffer.alloc(0));
    if (!this.#isFull) this.#socket.resume();
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
      if (option === OPTION.GO) this.#take = this.#request;
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

  #request(bytes) {
    if (bytes.length < REQUEST_BYTES || this.#isFull) return 0;
    const command = bytes.readUInt16BE(6);
    const high = bytes.readUInt32BE(8);
    const low = bytes.readUInt32BE(12);
    const offset = bytes.readUInt32BE(16) * 2 ** 32 + bytes.readUInt32BE(20);
    const length = bytes.readUInt32BE(24);
    if (command === COMMAND.WRITE) {
      this.#payload = { left: length, at: offset, high, low };
      this.#take = this.#data;
    } else if (command === COMMAND.FLUSH) this.#waiting.push(high, low);
    else if (command === COMMAND.DISC) this.#socket.end();
    else if (offset + length > size || length === 0) this.#reply(high, low, EINVAL);
    else if (command === COMMAND.READ) this.#read(high, low, offset, length);
    else if (command === COMMAND.CACHE || command === COMMAND.WRITE_ZEROES) {
      this.#requests += 1;
      const ended = () => this.#ended(high, low);
      const writes = command === COMMAND.WRITE_ZEROES;
      pieces.push({ fd: this.#fd, at: offset, end: offset + length, writes, ended });
      if (!isMoving) move();
    } else this.#reply(high, low, EINVAL);
    return REQUEST_BYTES;
  }

  #data(bytes) {
    const payload = this.#payload;
    const taken = Math.min(bytes.length, payload.left);
    if (taken > 0) writeSync(this.#fd, bytes, 0, taken, payload.at);
    payload.at += taken;
    payload.left -= taken;
    if (payload.left === 0) {
      this.#take = this.#request;
      this.#reply(payload.high, payload.low, 0);
    }
    return taken;
  }

  #read(high, low, offset, length) {
    this.#requests += 1;
    read(this.#fd, Buffer.allocUnsafe(length), 0, length, offset, (error, _, data) => {
      if (error) throw error;
      this.#ended(high, low, data);
    });
  }

  #ended(high, low, data) {
    this.#requests -= 1;
    this.#reply(high, low, 0);
    this.#send(data);
    this.#goOn();
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

  /** @param data of the last reply, if it is that of a read */
  #send(data) {
    if (this.#used === 0) return;
    const replies = Buffer.from(this.#replies.subarray(0, this.#used));
    this.#used = 0;
    if (data) this.#socket.cork();
    this.#socket.write(replies);
    if (!data) return;
    this.#socket.write(data);
    this.#socket.uncork();
  }
}

createServer((socket) => new Client(socket)).listen(path);
process.stdin.on('end', () => process.exit());
process.stdin.resume();
