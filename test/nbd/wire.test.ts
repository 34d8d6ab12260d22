import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  ByteReader,
  ByteWriter,
  CHUNK_HEADER,
  type Chunk,
  CLIENT_FLAGS,
  COMMAND,
  decodeChunk,
  decodeInfo,
  EXPORT_FACTS,
  encodeExportNameReply,
  encodeInfo,
  encodeOption,
  encodeOptionReply,
  INFO_REQUEST,
  LISTED_EXPORT,
  META_CONTEXT,
  META_CONTEXT_REQUEST,
  OPTION_HEADER,
  OPTION_REPLY_HEADER,
  REQUEST,
  SERVER_GREETING,
  SIMPLE_REPLY,
} from '../../src/nbd/wire/index.js';
import { share } from '../kit/amount.js';
import { encodeChunk } from './support.js';

const uint16 = fc.nat(0xffff);
const uint32 = fc.nat(0xffffffff);
const uint53 = fc.maxSafeNat();
const cookie = fc.bigInt({ min: 0n, max: 2n ** 64n - 1n });
const text = fc
  .string({ unit: 'grapheme', maxLength: 40 })
  .map((value) => value.replaceAll('\0', ''));
const bytes = fc.uint8Array({ maxLength: 64 });
const handshakeFlags = fc.record({ flags: fc.nat(3) });

const chunks: fc.Arbitrary<Chunk> = fc.oneof(
  fc.constant<Chunk>({ kind: 'none' }),
  fc.record({
    kind: fc.constant('data' as const),
    offset: uint53,
    data: fc.uint8Array({ minLength: 1, maxLength: 64 }),
  }),
  fc.record({
    kind: fc.constant('hole' as const),
    offset: uint53,
    length: fc.integer({ min: 1, max: 0xffffffff }),
  }),
  fc.record({
    kind: fc.constant('status' as const),
    context: uint32,
    extents: fc.array(fc.record({ length: uint32, flags: uint32 }), {
      minLength: 1,
      maxLength: 5,
    }),
  }),
  fc.record(
    {
      kind: fc.constant('error' as const),
      error: fc.integer({ min: 1, max: 0xffffffff }),
      message: text,
      offset: uint53,
    },
    { requiredKeys: ['kind', 'error', 'message'] },
  ),
);

const join = (parts: readonly Uint8Array[]): Uint8Array =>
  new Uint8Array(Buffer.concat(parts as Uint8Array[]));

/** Says that `decode` undoes `encode`. */
function roundTrips<T>(
  values: fc.Arbitrary<T>,
  encode: (value: T) => Uint8Array,
  decode: (wire: Uint8Array) => unknown,
): void {
  fc.assert(
    fc.property(values, (value) => {
      expect(decode(encode(value))).toEqual(value);
    }),
  );
}

describe('what one side encodes, the other decodes:', () => {
  test('greetings and client flags', () => {
    roundTrips(handshakeFlags, SERVER_GREETING.encode, SERVER_GREETING.decode);
    roundTrips(handshakeFlags, CLIENT_FLAGS.encode, CLIENT_FLAGS.decode);
  });

  test('options and their answers', () => {
    fc.assert(
      fc.property(uint32, uint32, bytes, (option, reply, data) => {
        const asked = encodeOption(option, data);
        const header = OPTION_HEADER.decode(asked.subarray(0, OPTION_HEADER.bytes));
        expect(header).toEqual({ option, length: data.length });
        expect(asked.subarray(OPTION_HEADER.bytes)).toEqual(data);

        const told = encodeOptionReply(option, reply, data);
        const answer = OPTION_REPLY_HEADER.decode(told.subarray(0, OPTION_REPLY_HEADER.bytes));
        expect(answer).toEqual({ option, reply, length: data.length });
        expect(told.subarray(OPTION_REPLY_HEADER.bytes)).toEqual(data);
      }),
    );
  });

  test('the answer to EXPORT_NAME, with its zeroes where they were not agreed away', () => {
    fc.assert(
      fc.property(uint53, uint16, handshakeFlags, (size, flags, agreed) => {
        const wire = encodeExportNameReply({ size, flags }, agreed);
        expect(EXPORT_FACTS.decode(wire.subarray(0, 10))).toEqual({ size, flags });
        expect(wire.length).toBe(agreed.flags & 2 ? 10 : 134);
      }),
    );
  });

  test('the data of options', () => {
    const wants = fc.array(uint16, { maxLength: 5 });
    roundTrips(fc.record({ name: text, wants }), INFO_REQUEST.encode, INFO_REQUEST.decode);
    const queries = fc.array(text, { maxLength: 5 });
    const contexts = fc.record({ name: text, queries });
    roundTrips(contexts, META_CONTEXT_REQUEST.encode, META_CONTEXT_REQUEST.decode);
  });

  test('the data of answers', () => {
    const listed = fc.record({ name: text, description: text });
    roundTrips(listed, LISTED_EXPORT.encode, LISTED_EXPORT.decode);
    roundTrips(fc.record({ id: uint32, name: text }), META_CONTEXT.encode, META_CONTEXT.decode);
    const infos = fc.oneof(
      fc.record({ kind: fc.constant('export' as const), size: uint53, flags: uint16 }),
      fc.record({ kind: fc.constantFrom('name' as const, 'description' as const), text }),
      fc.record({
        kind: fc.constant('blockSize' as const),
        minimum: uint32,
        preferred: uint32,
        maximum: uint32,
      }),
    );
    roundTrips(infos, encodeInfo, decodeInfo);
  });

  test('requests and simple replies', () => {
    const requests = fc.record({
      flags: uint16,
      command: uint16,
      cookie,
      offset: uint53,
      length: uint32,
    });
    roundTrips(requests, REQUEST.encode, REQUEST.decode);
    roundTrips(fc.record({ cookie, error: uint32 }), SIMPLE_REPLY.encode, SIMPLE_REPLY.decode);
  });

  test('chunks of structured replies', () => {
    fc.assert(
      fc.property(cookie, fc.boolean(), chunks, (cookie, done, chunk) => {
        const wire = join(encodeChunk(cookie, done, chunk));
        const header = CHUNK_HEADER.decode(wire.subarray(0, CHUNK_HEADER.bytes));
        const payload = wire.subarray(CHUNK_HEADER.bytes);
        expect(header).toMatchObject({ cookie, done, length: payload.length });
        expect(decodeChunk(header.type, payload)).toEqual(chunk);
      }),
    );
  });
});

describe('the numbers on the wire', () => {
  test('are those of the protocol: a write with FUA', () => {
    const wire = REQUEST.encode({
      flags: 1,
      command: COMMAND.WRITE,
      cookie: 0x0102030405060708n,
      offset: 2 ** 40 + 512,
      length: 4096,
    });
    expect(Buffer.from(wire).toString('hex')).toBe(
      ['25609513', '0001', '0001', '0102030405060708', '0000010000000200', '00001000'].join(''),
    );
  });

  test('are those of the protocol: the greeting, an option, its answer', () => {
    const both = { flags: 3 };
    const greeting = Buffer.from(SERVER_GREETING.encode(both));
    expect(greeting.toString('latin1')).toBe('NBDMAGICIHAVEOPT\0\x03');
    expect(Buffer.from(encodeOption(7)).toString('latin1')).toBe('IHAVEOPT\0\0\0\x07\0\0\0\0');
    const answer = Buffer.from(encodeOptionReply(7, 0x80000001));
    expect(answer.toString('hex')).toBe('0003e889045565a9000000078000000100000000');
  });

  test('beyond 2^53 come out as no safe integer, and as no smaller number', () => {
    fc.assert(
      fc.property(fc.bigInt({ min: 2n ** 53n, max: 2n ** 64n - 1n }), (offset) => {
        const wire = REQUEST.encode({ flags: 0, command: 0, cookie: 0n, offset: 0, length: 0 });
        new DataView(wire.buffer).setBigUint64(16, offset);
        expect(REQUEST.decode(wire).offset).toBeGreaterThanOrEqual(2 ** 53);
      }),
    );
  });
});

describe('a decoder', () => {
  const syntax = expect.objectContaining({ code: 'SYNTAX' });
  const DECODERS: readonly ((data: Uint8Array) => unknown)[] = [
    INFO_REQUEST.decode,
    META_CONTEXT_REQUEST.decode,
    LISTED_EXPORT.decode,
    META_CONTEXT.decode,
    decodeInfo,
    ...[0, 1, 2, 5, 9, 0x8001, 0x8002, 0x8009].map(
      (type) => (data: Uint8Array) => decodeChunk(type, data),
    ),
  ];

  test('answers any bytes with a value or with SYNTAX, and with nothing else', () => {
    fc.assert(
      fc.property(
        fc.constantFrom(...DECODERS),
        fc.uint8Array({ maxLength: 40 }),
        (decode, data) => {
          try {
            decode(data);
          } catch (error) {
            expect(error).toEqual(syntax);
          }
        },
      ),
      { numRuns: share(5000) },
    );
  });

  test('wants all bytes and no more', () => {
    const wire = META_CONTEXT_REQUEST.encode({ name: 'disk', queries: ['base:', 'x'] });
    for (let length = 0; length < wire.length; length += 1) {
      expect(() => META_CONTEXT_REQUEST.decode(wire.subarray(0, length))).toThrow(syntax);
    }
    expect(() => META_CONTEXT_REQUEST.decode(join([wire, new Uint8Array(1)]))).toThrow(syntax);
    expect(() => INFO_REQUEST.decode(join([new Uint8Array(6), new Uint8Array(1)]))).toThrow(syntax);
  });

  test('refuses a wrong magic', () => {
    for (const [decode, size] of [
      [SERVER_GREETING.decode, SERVER_GREETING.bytes],
      [OPTION_HEADER.decode, OPTION_HEADER.bytes],
      [OPTION_REPLY_HEADER.decode, OPTION_REPLY_HEADER.bytes],
      [REQUEST.decode, REQUEST.bytes],
      [SIMPLE_REPLY.decode, SIMPLE_REPLY.bytes],
      [CHUNK_HEADER.decode, CHUNK_HEADER.bytes],
    ] as const) {
      expect(() => decode(new Uint8Array(size).fill(0x25))).toThrow(syntax);
    }
  });

  test('refuses unknown client flags, a name that is not UTF-8, holds a NUL, or is too long', () => {
    expect(() => CLIENT_FLAGS.decode(Uint8Array.of(0, 0, 0, 7))).toThrow(syntax);
    expect(() => CLIENT_FLAGS.decode(Uint8Array.of(0x80, 0, 0, 3))).toThrow(syntax);
    expect(() => INFO_REQUEST.decode(Uint8Array.of(0, 0, 0, 1, 0xff, 0, 0))).toThrow(syntax);
    expect(() => INFO_REQUEST.decode(Uint8Array.of(0, 0, 0, 1, 0, 0, 0))).toThrow(syntax);
    const long = INFO_REQUEST.encode({ name: 'x'.repeat(4097), wants: [] });
    expect(() => INFO_REQUEST.decode(long)).toThrow(syntax);
  });

  test('takes an error of a type it has never heard of as an error', () => {
    const [wire = new Uint8Array()] = encodeChunk(1n, true, {
      kind: 'error',
      error: 5,
      message: 'x',
    });
    const payload = join([wire.subarray(CHUNK_HEADER.bytes), Uint8Array.of(1, 2, 3)]);
    expect(decodeChunk(0x8123, payload)).toEqual({ kind: 'error', error: 5, message: 'x' });
  });
});

describe('a reader of bytes', () => {
  /** Pushes `stream` cut at `cuts`. */
  function* pushed(
    reader: ByteReader,
    stream: Uint8Array,
    cuts: readonly number[],
  ): Generator<void> {
    let from = 0;
    for (const to of [...cuts, stream.length]) {
      reader.push(stream.subarray(from, to));
      from = to;
      yield;
    }
  }

  // Goal: byte-reader.B1 and byte-reader.B2. Method: two requests with a payload, cut in every place and in every pair of places.
  test('byte-reader.B1, byte-reader.B2: finds the same messages wherever the stream was cut', () => {
    const stream = join([
      REQUEST.encode({ flags: 0, command: 1, cookie: 7n, offset: 512, length: 5 }),
      Uint8Array.of(1, 2, 3, 4, 5),
      REQUEST.encode({ flags: 1, command: 3, cookie: 8n, offset: 0, length: 0 }),
    ]);
    for (let first = 0; first <= stream.length; first += 1) {
      for (let second = first; second <= stream.length; second += 1) {
        const reader = new ByteReader(1000);
        const taken: Uint8Array[] = [];
        const sizes = [28, 5, 28];
        for (const _ of pushed(reader, stream, [first, second])) {
          while (taken.length < sizes.length) {
            const before = reader.length;
            const bytes = reader.take(sizes[taken.length] ?? 0);
            expect(reader.length).toBe(before - (bytes?.length ?? 0));
            if (!bytes) break;
            expect(bytes.length).toBe(sizes[taken.length]);
            taken.push(bytes);
          }
        }
        expect(join(taken)).toEqual(stream);
        expect(reader.length).toBe(0);
      }
    }
  });

  // Goal: byte-reader.B1 to byte-reader.B3. Method: chunks small and large, taken in every way there is; what was given out is looked at
  // in the end, when all else has happened.
  test('byte-reader.B1, byte-reader.B3: gives out what was pushed, in order, and leaves it alone afterwards', () => {
    const size = fc.oneof(fc.nat(40), fc.nat(9000));
    const operation = fc.record({
      how: fc.constantFrom('push', 'take', 'takeParts', 'takeInto', 'skip', 'peek'),
      size,
    });
    fc.assert(
      fc.property(fc.array(operation, { maxLength: 80 }), (operations) => {
        const reader = new ByteReader(2 ** 20);
        const [sent, got]: [number[], [number, Uint8Array][]] = [[], []];
        let next = 0;
        let at = 0;
        const take = (parts: readonly Uint8Array[]): void => {
          for (const part of parts) {
            got.push([at, part]);
            at += part.length;
          }
        };
        for (const { how, size } of operations) {
          if (how === 'push') {
            const chunk = Uint8Array.from({ length: size }, () => next++ * 31);
            sent.push(...chunk);
            reader.push(chunk);
          } else if (how === 'take') take([reader.take(size) ?? new Uint8Array(0)]);
          else if (how === 'takeParts') take(reader.takeParts(size) ?? []);
          else if (how === 'skip') at += reader.skip(size);
          else if (how === 'takeInto') {
            const into = new Uint8Array(size);
            take([into.subarray(0, reader.takeInto(into))]);
          } else {
            const bytes = Uint8Array.from(sent.slice(at, at + 4));
            const expected = bytes.length < 4 ? undefined : new DataView(bytes.buffer).getUint32(0);
            expect(reader.peekUint32()).toBe(expected);
          }
          expect(reader.length).toBe(sent.length - at);
        }
        for (const [from, part] of got) {
          expect(Buffer.compare(part, Uint8Array.from(sent.slice(from, from + part.length)))).toBe(
            0,
          );
        }
      }),
    );
  });

  // What is held is memory, not length: a view keeps all of its buffer.
  test.each<[string, readonly number[]]>([
    ['short and long by turns', [4096, 1]],
    ['short and long by turns, the other way', [1, 65_536]],
    ['always short', [4095]],
    ['short, and do not fill a block', [3277]],
    ['single bytes', [1]],
    ['just not short', [4096]],
  ])('byte-reader.B5: holds little more than its length where chunks are %s', (_, sizes) => {
    const LENGTH = 1 << 21;
    const reader = new ByteReader(LENGTH + (1 << 16));
    for (let i = 0; reader.length < LENGTH; i += 1) {
      reader.push(new Uint8Array(sizes[i % sizes.length] ?? 1));
    }
    const { length } = reader;
    const parts = reader.takeParts(length) ?? [];
    const buffers = new Set(parts.map(({ buffer }) => buffer));
    const held = [...buffers].reduce((sum, { byteLength }) => sum + byteLength, 0);
    expect(held).toBeLessThan(length * 1.34 + 16_384);
    expect(parts.length).toBeLessThanOrEqual(2 * Math.ceil(length / 4096) + 1);
  });

  test('byte-reader.B4: takes nothing beyond its capacity', () => {
    const reader = new ByteReader(10);
    reader.push(new Uint8Array(8));
    expect(() => reader.push(new Uint8Array(3))).toThrow(
      expect.objectContaining({ code: 'QUEUE_FULL' }),
    );
    expect(reader.length).toBe(8);
    reader.skip(1);
    reader.push(new Uint8Array(3));
    expect(reader.take(10)).toEqual(new Uint8Array(10));
  });

  test('does not copy a large chunk that holds all that is wanted', () => {
    const reader = new ByteReader(2 ** 20);
    const chunk = new Uint8Array(8192);
    reader.push(chunk);
    expect(reader.take(4096)?.buffer).toBe(chunk.buffer);
  });

  // 8 MiB in single bytes: anything that grows with what is there would take minutes, and a chunk for each byte
  // hundreds of megabytes.
  test('costs no more than its length, however finely it is fed', () => {
    const reader = new ByteReader(2 ** 23);
    const chunk = Uint8Array.of(1);
    let early = 0;
    for (let i = 0; i < 2 ** 23; i += 1) {
      if (reader.take(2 ** 23)) early += 1;
      reader.push(chunk);
    }
    expect(early).toBe(0);
    expect(reader.takeParts(2 ** 23)?.length).toBe(2 ** 23 / (16 * 1024));
  }, 20_000);
});

describe('a writer of bytes', () => {
  // Method: messages and data, short and long, taken now and then; the pieces are looked at in the end, when all else has
  // been written.
  test('byte-writer.W1, byte-writer.W2: gives out what was added, in order, and leaves it alone afterwards', () => {
    const size = fc.oneof(fc.nat(40), fc.nat(9000), fc.nat(40_000));
    const operation = fc.record({ how: fc.constantFrom('put', 'push', 'take'), size });
    fc.assert(
      fc.property(fc.array(operation, { maxLength: 60 }), (operations) => {
        const writer = new ByteWriter();
        const [added, pieces]: [Uint8Array[], Uint8Array[]] = [[], []];
        const length = (all: readonly Uint8Array[]): number =>
          all.reduce((sum, bytes) => sum + bytes.length, 0);
        for (const [i, { how, size }] of operations.entries()) {
          if (how === 'take') {
            pieces.push(...writer.take());
          } else if (how === 'push') {
            const data = new Uint8Array(size).fill(i);
            added.push(data.slice());
            writer.push(data);
          } else {
            const value = { id: i, name: 'x'.repeat(size) };
            added.push(META_CONTEXT.encode(value));
            writer.put(META_CONTEXT, value);
          }
          expect(writer.length).toBe(length(added) - length(pieces));
        }
        pieces.push(...writer.take());
        expect(Buffer.compare(join(pieces), join(added))).toBe(0);
      }),
    );
  });

  test('makes one piece of short messages, and does not copy long data', () => {
    const writer = new ByteWriter();
    for (let cookie = 0n; cookie < 100n; cookie += 1n)
      writer.put(SIMPLE_REPLY, { cookie, error: 0 });
    expect(writer.take().map(({ length }) => length)).toEqual([1600]);
    const data = new Uint8Array(4096);
    writer.push(data);
    expect(writer.take()).toEqual([data]);
    writer.push(data);
    expect(writer.take()[0]).toBe(data);
  });
});
