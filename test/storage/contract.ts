// The Storage contract for this package's own storages: the public suite under Vitest, and what this package promises
// beyond it, the codes of its errors and a second close that is harmless.

import { describe, expect, onTestFinished, test } from 'vitest';
import {
  type Capabilities,
  type Storage,
  WriteBarrierError,
  type WriteFlags,
} from '../../src/index.js';
import {
  type Opened,
  storageContract as publicContract,
} from '../../src/testing/contract/storage-contract.js';
import { share } from '../kit/amount.js';

/** Random programs of each kind, as many as the suite runs by default. */
const RUNS = 20;
const SEED = 1;
const PLAIN: WriteFlags = { fua: false, tag: 'simple' };

/** Runs the clauses against what `open` opens; `capabilities` is what it is known to declare. */
export function storageContract(
  name: string,
  capabilities: Capabilities,
  open: () => Opened | Promise<Opened>,
): void {
  publicContract(
    { describe, test },
    { name, capabilities, open, seed: SEED, runs: share(RUNS, 5) },
  );
  describe(`${name} refuses in the words of this package`, () => refusals(capabilities, open));
}

function refusals(declares: Capabilities, open: () => Opened | Promise<Opened>): void {
  const block = declares.blockSize;
  const data = (blocks = 1): Uint8Array => new Uint8Array(blocks * block).fill(1);
  const opened = async (): Promise<Storage> => {
    const { storage, cleanUp } = await open();
    onTestFinished(async () => {
      await storage.close();
      await cleanUp?.();
    });
    return storage;
  };

  test('a command outside of the storage is OUT_OF_RANGE', async () => {
    const storage = await opened();
    const { size } = storage;
    const calls: (() => unknown)[] = [
      () => storage.write(size - block, data(2), PLAIN),
      () => storage.write(size, data(), PLAIN),
      () => storage.write(-block, data(), PLAIN),
      () => storage.write(Number.NaN, data(), PLAIN),
      () => storage.read(size, data()),
    ];
    if (storage.writev) calls.push(() => storage.writev?.(size - block, [data(), data()], PLAIN));
    if (storage.discard) calls.push(() => storage.discard?.(size - block, 2 * block));
    if (storage.writeZeroes) calls.push(() => storage.writeZeroes?.(0, -block));
    for (const call of calls) expect(await codeThrown(call)).toBe('OUT_OF_RANGE');
  });

  if (block > 1) {
    test('a command that is not whole blocks is UNALIGNED', async () => {
      const storage = await opened();
      const odd = new Uint8Array(block - 1);
      expect(await codeThrown(() => storage.write(0, odd, PLAIN))).toBe('UNALIGNED');
      expect(await codeThrown(() => storage.write(1, data(), PLAIN))).toBe('UNALIGNED');
      expect(await codeThrown(() => storage.read(1, data()))).toBe('UNALIGNED');
    });
  }

  test('after close every call is CLOSED, and another close is harmless', async () => {
    const storage = await opened();
    await storage.close();
    await storage.close();
    const calls: (() => unknown)[] = [
      () => storage.read(0, data()),
      () => storage.write(0, data(), PLAIN),
      () => storage.flush({ tag: 'simple' }),
    ];
    if (storage.writev) calls.push(() => storage.writev?.(0, [data()], PLAIN));
    if (storage.discard) calls.push(() => storage.discard?.(0, block));
    if (storage.writeZeroes) calls.push(() => storage.writeZeroes?.(0, block));
    for (const call of calls) expect(await codeThrown(call)).toBe('CLOSED');
  });

  if (declares.writev) {
    test('a writev of no buffers writes nothing', async () => {
      const storage = await opened();
      await storage.write(0, data(), PLAIN);
      await storage.writev?.(0, [], PLAIN);
      const into = new Uint8Array(block);
      await storage.read(0, into);
      expect(into).toEqual(data());
    });
  }
}

/** What a call throws or rejects with; undefined if it does neither. */
export async function errorThrown(call: () => unknown): Promise<unknown> {
  try {
    await call();
    return undefined;
  } catch (error) {
    return error;
  }
}

/** The code of this package's error that a call ends with; undefined if it ends otherwise. */
export async function codeThrown(call: () => unknown): Promise<string | undefined> {
  const error = await errorThrown(call);
  return WriteBarrierError.is(error) ? error.code : undefined;
}
