// Clients out of their mind: legal conversations, damaged, and a session that has to bear them.
//
// A conversation is a list of messages; damage is done to one of them, or to the bytes of all. What the session says
// is held against a reading of the same bytes that shares no code with it, so that a reply to a request that nobody
// made, a missing one, and one for bytes of a payload are found.

import { expect } from 'vitest';
import { MemoryStorage } from '../../src/index.js';
import type { Outcome, SessionRequest } from '../../src/nbd/server/commands.js';
import { type Exports, exportsOf, limitsOf } from '../../src/nbd/server/options.js';
import { ServerSession } from '../../src/nbd/server/session.js';
import {
  BASE_ALLOCATION,
  COMMAND,
  encodeOption,
  INFO_REQUEST,
  META_CONTEXT_REQUEST,
  OPTION,
} from '../../src/nbd/wire/index.js';
import { seededRandom } from '../../src/testing/index.js';
import {
  Answers,
  answered,
  bytes,
  FLAGS,
  go,
  request,
  STRUCTURED,
  setContexts,
} from './support.js';

/** Of the export, in bytes; around it lie as many that nobody may touch. */
export const SIZE: number = 64 * 1024;
const GUARD = 0xa5;

/** Numbers that hurt. */
const SHARP = [0, 1, 2, 511, 512, 513, 2 ** 16, SIZE, SIZE + 1, 2 ** 31, 2 ** 31 - 1, 2 ** 32 - 1];

/** A whole number from 0 to `sides` - 1. */
export type Dice = (sides: number) => number;

export function diceOf(seed: number): Dice {
  const random = seededRandom(seed);
  return (sides) => Math.floor(random() * sides);
}

/** A storage with untouchable bytes on both sides. */
export interface Guarded {
  readonly storage: MemoryStorage;
  readonly exports: Exports;
  /** Whether nothing outside of the export was touched. */
  intact(): boolean;
}

export function guarded(): Guarded {
  const medium = new Uint8Array(3 * SIZE).fill(GUARD);
  const storage = new MemoryStorage(medium.subarray(SIZE, 2 * SIZE));
  storage.bytes.fill(0);
  const limits = limitsOf({ requestBytes: SIZE });
  const tls = 'optional' as const;
  const named = { '': { storage, tls }, ro: { storage, tls, readOnly: true } };
  const exports = exportsOf({ exports: named, tls: { psk: {} } }, limits);
  const untouched = (from: number): boolean =>
    medium.subarray(from, from + SIZE).every((byte) => byte === GUARD);
  return { storage, exports, intact: () => untouched(0) && untouched(2 * SIZE) };
}

/** A conversation, damaged in zero to four places. */
export function hostileStream(random: Dice): Uint8Array {
  const messages = conversation(random);
  // Half of the damage is done behind the handshake, or hardly any client would get that far.
  const from = random(2) === 0 ? 0 : messages.findIndex((message) => message.length === 28);
  for (let left = random(5); left > 0; left -= 1) {
    const at = Math.max(0, from) + random(Math.max(1, messages.length - Math.max(0, from)));
    const message = messages[at];
    if (!message) continue;
    const what = random(8);
    if (what === 0) messages.splice(at, 1);
    else if (what === 1) messages.splice(at, 0, messages[random(messages.length)] ?? message);
    else messages[at] = damaged(message, random);
  }
  const stream = bytes(...messages);
  return random(10) === 0 ? damaged(stream, random) : stream;
}

function conversation(random: Dice): Uint8Array[] {
  const name = random(8) === 0 ? 'ro' : '';
  const options = [
    STRUCTURED,
    setContexts(name, BASE_ALLOCATION),
    encodeOption(OPTION.LIST),
    encodeOption(OPTION.STARTTLS),
    encodeOption(OPTION.INFO, INFO_REQUEST.encode({ name, wants: [0, 1, 2, 3] })),
    encodeOption(
      OPTION.LIST_META_CONTEXT,
      META_CONTEXT_REQUEST.encode({ name, queries: ['base:'] }),
    ),
    encodeOption(random(20), new Uint8Array(random(40))),
  ];
  const said = Array.from(
    { length: random(4) },
    () => options[random(options.length)] ?? STRUCTURED,
  );
  const last = random(10);
  const opens = last === 0 ? encodeOption(OPTION.EXPORT_NAME, Buffer.from(name)) : go(name);
  const asked = Array.from({ length: random(8) }, (_, i) => sensible(i + 1, random));
  const leaves = random(2) === 0 ? [request(COMMAND.DISC, 99)] : [];
  return [FLAGS, ...said, opens, ...asked, ...leaves];
}

function sensible(cookie: number, random: Dice): Uint8Array {
  const offset = random(SIZE / 512) * 512;
  const length = Math.min((1 + random(8)) * 512, SIZE - offset);
  const command = [0, 1, 1, 3, 4, 5, 6, 7][random(8)] ?? 0;
  const flags = random(4) === 0 ? 1 << random(6) : 0;
  if (command === COMMAND.FLUSH) return request(command, cookie);
  if (command !== COMMAND.WRITE) return request(command, cookie, { offset, length, flags });
  return request(command, cookie, { offset, flags, data: new Uint8Array(length).fill(cookie) });
}

function damaged(message: Uint8Array, random: Dice): Uint8Array {
  const copy = message.slice();
  const at = random(copy.length);
  switch (random(7)) {
    case 0:
      copy[at] = (copy[at] ?? 0) ^ (1 << random(8));
      return copy;
    case 1:
      copy[at] = random(256);
      return copy;
    case 2: {
      // On a field of the head, more often than not.
      const field = Math.max(0, Math.min(copy.length - 4, random(3) === 0 ? at : 4 * random(7)));
      if (copy.length >= 4)
        new DataView(copy.buffer).setUint32(field, SHARP[random(SHARP.length)] ?? 0);
      return copy;
    }
    case 3:
      return copy.slice(0, at);
    case 4:
      return bytes(copy.subarray(0, at), copy.subarray(at + random(16)));
    case 5:
      return bytes(copy.subarray(0, at), noise(random(64), random), copy.subarray(at));
    default:
      return bytes(copy.subarray(0, at), copy.subarray(Math.max(0, at - random(32))));
  }
}

function noise(length: number, random: Dice): Uint8Array {
  return Uint8Array.from({ length }, () => random(256));
}

/** How far a client came. */
export interface Trial {
  readonly opened: boolean;
  readonly requests: number;
}

/** Has a session bear a stream, cut anywhere, its requests carried out and answered in any order. */
export function bear(stream: Uint8Array, { storage, exports }: Guarded, random: Dice): Trial {
  const session = new ServerSession({ exports, tls: random(2) === 0 }, SIZE);
  const answers = new Answers();
  const pending: SessionRequest[] = [];
  const replied: bigint[] = [];
  let fed = 0;
  let openedAt: number | undefined;
  let readOnly = false;
  let named = false;

  const sent = (parts: readonly Uint8Array[]): void => {
    if (openedAt !== undefined) replied.push(cookieOf(parts));
    else if (answersName(parts)) named = true;
    else for (const part of parts) answers.reader.push(part);
  };
  const answerOne = (): void => {
    const [request] = pending.splice(random(pending.length), 1);
    if (!request) return;
    const parts = answered(session, request, performed(request, storage));
    expect(cookieOf(parts)).toBe(request.cookie);
    replied.push(request.cookie);
  };
  const pump = (): void => {
    for (let event = session.dialogue.next(); event; event = session.dialogue.next()) {
      if (event.kind === 'send') sent(event.parts);
      else if (event.kind === 'startTls') session.dialogue.secured();
      else if (event.kind === 'open') {
        openedAt = fed - session.dialogue.unread;
        readOnly = event.name === 'ro';
      } else if (event.kind === 'request') {
        expect(openedAt).toBeDefined();
        expectLegal(event.request, readOnly);
        pending.push(event.request);
      }
      while (pending.length > 3) answerOne();
    }
  };
  pump();
  while (fed < stream.length) {
    const size = random(3) === 0 ? 1 + random(30) : 1 + random(4000);
    const chunk = stream.slice(fed, fed + size);
    fed += chunk.length;
    session.dialogue.receive(chunk);
    pump();
    if (random(2) === 0) answerOne();
  }
  while (pending.length > 0) answerOne();

  const expected = openedAt === undefined ? [] : cookiesIn(stream.subarray(openedAt));
  expect(replied.sort(byValue)).toEqual(expected.sort(byValue));
  expectAnswersInOrder(answers, stream);
  expect(named && openedAt === undefined).toBe(false);
  return { opened: openedAt !== undefined, requests: expected.length };
}

/** Inside of the export, and no change to one that is read-only. */
function expectLegal({ command, offset, length }: SessionRequest, readOnly: boolean): void {
  const inside = offset >= 0 && length >= 0 && offset + length <= SIZE;
  const changes = [COMMAND.WRITE, COMMAND.TRIM, COMMAND.WRITE_ZEROES] as readonly number[];
  if (!inside || (readOnly && changes.includes(command))) {
    throw new Error(`command ${command} at ${offset} for ${length} bytes was handed out`);
  }
}

/** What the storage makes of a request; it throws at whatever is not inside. */
function performed(
  { command, offset, length, data }: SessionRequest,
  storage: MemoryStorage,
): Outcome {
  switch (command) {
    case COMMAND.READ: {
      const into = new Uint8Array(length);
      storage.read(offset, into);
      return { data: into };
    }
    case COMMAND.WRITE:
      expect(data.reduce((sum, part) => sum + part.length, 0)).toBe(length);
      storage.writev?.(offset, data, { fua: false, tag: 'simple' });
      return {};
    case COMMAND.BLOCK_STATUS:
      return { extents: [{ length, flags: 0 }] };
    case COMMAND.FLUSH:
    case COMMAND.CACHE:
      return {};
    default:
      storage.writeZeroes?.(offset, length);
      return {};
  }
}

/** The cookies of all complete requests, read without the codec. */
function cookiesIn(stream: Uint8Array): bigint[] {
  const view = new DataView(stream.buffer, stream.byteOffset, stream.byteLength);
  const cookies: bigint[] = [];
  for (let at = 0; at + 28 <= stream.length; ) {
    const command = view.getUint16(at + 6);
    if (view.getUint32(at) !== 0x25609513 || command === 2) break;
    const end = at + 28 + (command === 1 ? view.getUint32(at + 24) : 0);
    if (end > stream.length) break;
    cookies.push(view.getBigUint64(at + 8));
    at = end;
  }
  return cookies;
}

/** Every answer to an option is to one that was sent, and in that order. */
function expectAnswersInOrder(answers: Answers, stream: Uint8Array): void {
  const view = new DataView(stream.buffer, stream.byteOffset, stream.byteLength);
  let at = 4;
  for (const { option } of answers.options()) {
    while (at + 16 <= stream.length && view.getUint32(at + 8) !== option) {
      at += 16 + view.getUint32(at + 12);
    }
    expect(at + 16).toBeLessThanOrEqual(stream.length);
  }
  expect(answers.reader.length).toBe(0);
}

/** The answer to EXPORT_NAME has no head: size, flags, and zeroes or not. */
function answersName([only, ...others]: readonly Uint8Array[]): boolean {
  return others.length === 0 && (only?.length === 10 || only?.length === 134);
}

/** Where it lies is the same in simple replies and in chunks. */
function cookieOf([head]: readonly Uint8Array[]): bigint {
  if (!head) throw new Error('an empty reply');
  return new DataView(head.buffer, head.byteOffset).getBigUint64(8);
}

function byValue(a: bigint, b: bigint): number {
  return a < b ? -1 : a > b ? 1 : 0;
}
