import {
  BOOLEAN,
  checkArgument,
  FUNCTION,
  formatValue,
  invalid,
  type KnownOptions,
  OBJECT,
  oneOf,
  type Rule,
  rule,
  WriteBarrierError,
  wholeNumber,
} from '../model/index.js';
import type { Capabilities, Storage } from './storage.js';

/**
 * For authors of storages: refuses a command for bytes that the storage does not have.
 *
 * @param offset in bytes
 * @param length in bytes; 0 is allowed, because it touches nothing
 * @throws `OUT_OF_RANGE` if either is not a whole number, or the range is not inside the storage
 * @throws `UNALIGNED` if either is not a multiple of `capabilities.blockSize`
 */
export function checkRange(
  storage: Pick<Storage, 'size' | 'capabilities'>,
  offset: number,
  length: number,
): void {
  const { size } = storage;
  const { blockSize } = storage.capabilities;
  const whole = Number.isSafeInteger(offset) && Number.isSafeInteger(length);
  const inside = whole && offset >= 0 && length >= 0 && offset + length <= size;
  if (inside && offset % blockSize === 0 && length % blockSize === 0) return;
  const range = `${formatValue(length)} bytes at ${formatValue(offset)}`;
  throw inside
    ? new WriteBarrierError('UNALIGNED', `${range} are not whole blocks of ${blockSize} bytes`)
    : new WriteBarrierError('OUT_OF_RANGE', `${range} are not inside a storage of ${size} bytes`);
}

/**
 * For authors of storages: refuses a size that the storage cannot have.
 *
 * @param size in bytes
 * @throws `INVALID_ARGUMENT` if it is not a whole number of at least 0, `UNALIGNED` if it is not a multiple of
 *   `capabilities.blockSize`
 */
export function checkSize({ capabilities }: Pick<Storage, 'capabilities'>, size: number): void {
  checkArgument('size', size, SIZE);
  checkRange({ size, capabilities }, 0, size);
}

/** @throws `INVALID_STORAGE` for a storage that contradicts itself */
export function checkStorage(storage: Storage): void {
  const { capabilities, size } = Object(storage) as Storage;
  need(`${formatValue(storage)}.capabilities`, capabilities, OBJECT);
  for (const [name, rule] of Object.entries(CAPABILITIES)) {
    need(name, capabilities[name as 'flush'], rule);
  }
  const { blockSize, fastZeroes, writeZeroes } = capabilities;
  const isWhole: Rule['holds'] = (value) =>
    SIZE.holds(value) && (value as number) % blockSize === 0;
  need('size', size, rule(isWhole, `whole blocks of ${blockSize} bytes`));
  for (const name of ['read', 'write', 'flush', 'close'] as const) {
    need(name, storage[name], FUNCTION);
  }
  // The capability has the name of its method. `blockStatus` and `resize` may be absent, because a wrapper that is older than they
  // are passes on the capabilities of what it wraps and has no such methods; then nothing is known, and the size stays.
  for (const name of ['writev', 'discard', 'writeZeroes'] as const) {
    if (capabilities[name]) need(name, storage[name], FUNCTION);
  }
  if (fastZeroes) need('writeZeroes', writeZeroes, rule(Boolean, 'true with fastZeroes'));
}

function need(name: string, value: unknown, { holds, expected }: Rule): void {
  if (holds(value)) return;
  const { message } = invalid(name, expected, value);
  throw new WriteBarrierError('INVALID_STORAGE', `the storage is unusable: ${message}`);
}

// The crash kit has this file in a chunk without the scheduler, so a bundler must see that the rules may be left out.
const SIZE = /* @__PURE__ */ wholeNumber();
const MAYBE = /* @__PURE__ */ rule(
  (value) => value === undefined || BOOLEAN.holds(value),
  'a boolean or left out',
);

const CAPABILITIES = {
  blockSize: /* @__PURE__ */ wholeNumber(1),
  cache: /* @__PURE__ */ oneOf(['none', 'volatile', 'protected']),
  flush: BOOLEAN,
  fua: BOOLEAN,
  orderedTags: BOOLEAN,
  slowFua: MAYBE,
  writev: MAYBE,
  gathers: MAYBE,
  discard: MAYBE,
  writeZeroes: MAYBE,
  fastZeroes: MAYBE,
  blockStatus: MAYBE,
  resize: MAYBE,
} as const satisfies KnownOptions<Capabilities>;
