import { WriteBarrierError } from '../model/index.js';
import type { Storage, Transfer, WriteFlags } from '../storage/index.js';
import type { CommandWhat } from './entry.js';

const ZEROES = new Uint8Array(256 * 1024);

const FLAGS: Readonly<Record<'simple' | 'ordered', readonly [WriteFlags, WriteFlags]>> = {
  simple: [
    Object.freeze({ fua: false, tag: 'simple' }),
    Object.freeze({ fua: true, tag: 'simple' }),
  ],
  ordered: [
    Object.freeze({ fua: false, tag: 'ordered' }),
    Object.freeze({ fua: true, tag: 'ordered' }),
  ],
};

/** Calls the storage for a command; what the storage lacks is done by other means. */
export function perform(
  storage: Storage,
  what: CommandWhat,
  data: Uint8Array | readonly Uint8Array[] | undefined,
): Transfer {
  const { op, offset, length } = what;
  const tag = storage.capabilities.orderedTags ? what.tag : 'simple';
  const flags = FLAGS[tag][what.fua ? 1 : 0];
  switch (op) {
    case 'read':
      return storage.read(offset, data as Uint8Array);
    case 'write':
      if (data instanceof Uint8Array) return storage.write(offset, data, flags);
      return writeList(storage, what, data as readonly Uint8Array[], flags);
    case 'flush':
      return storage.flush(flags);
    case 'discard':
      return storage.capabilities.discard ? storage.discard?.(offset, length) : undefined;
    case 'writeZeroes':
      return storage.capabilities.writeZeroes
        ? storage.writeZeroes?.(offset, length)
        : writeZeroesByHand(storage, offset, length, flags);
  }
}

/** The failure of a command that moved another number of bytes than it was to (clause S3). */
export function transferred(
  { op, offset, length }: CommandWhat,
  moved: void | number,
): WriteBarrierError | undefined {
  if (typeof moved !== 'number' || moved === length || op === 'flush') return undefined;
  return new WriteBarrierError(
    'SHORT_TRANSFER',
    `the storage answered ${moved} for a ${op} of ${length} bytes at ${offset}`,
  );
}

function writeList(
  storage: Storage,
  { offset, length }: CommandWhat,
  list: readonly Uint8Array[],
  flags: WriteFlags,
): Transfer {
  const [only] = list;
  if (only && list.length === 1) return storage.write(offset, only, flags);
  if (storage.capabilities.writev && storage.writev) return storage.writev(offset, list, flags);
  const joined = new Uint8Array(length);
  let position = 0;
  for (const part of list) {
    joined.set(part, position);
    position += part.byteLength;
  }
  return storage.write(offset, joined, flags);
}

async function writeZeroesByHand(
  storage: Storage,
  offset: number,
  length: number,
  flags: WriteFlags,
): Promise<void> {
  const { blockSize } = storage.capabilities;
  const zeroes = blockSize <= ZEROES.length ? ZEROES : new Uint8Array(blockSize);
  const chunk = zeroes.length - (zeroes.length % blockSize);
  for (let done = 0; done < length; ) {
    const part = zeroes.subarray(0, Math.min(chunk, length - done));
    const moved = await storage.write(offset + done, part, flags);
    if (typeof moved === 'number' && moved !== part.length) {
      throw new WriteBarrierError(
        'SHORT_TRANSFER',
        `the storage answered ${moved} for a write of ${part.length} zeroes at ${offset + done}`,
      );
    }
    done += part.length;
  }
}
