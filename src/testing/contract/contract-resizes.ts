// The tests of clause S13: what a resize adds and cuts off, which sizes are refused, and what of it outlives a power cut.
//
// They work at the end of a storage, except one that takes away all of it. Resizes among other commands are random programs
// (contract-programs.ts).

import type { Capabilities } from '../../storage/index.js';
import type { Shape } from './contract-programs.js';
import { BLOCKS, type Clause, isVolatile, type Trial } from './contract-trial.js';

/** Adds a test. */
export type Prove = (
  clause: Clause,
  sentence: string,
  body: (trial: Trial) => Promise<void>,
) => void;
/** Adds a test of random programs. */
export type Roam = (clause: Clause, sentence: string, shape: Shape) => void;

/** Adds the tests of S13. */
export function proveResize(prove: Prove, roam: Roam, capabilities: Capabilities): void {
  const { flush, fua } = capabilities;
  const shape = { atOnce: 3, resizes: true };
  roam('S13', 'given any commands and resizes, it reads as memory of that size', shape);
  const sentence = 'given power cuts as well, size and content are as new as was promised';
  roam('S13', sentence, { ...shape, cuts: true });

  prove('S13', 'it grows and shrinks, and keeps the bytes before that', async (trial) => {
    const { block, storage } = trial;
    const { size } = storage;
    const last = size / block - 1;
    for (const at of [0, last]) await trial.write(at, at + 1);
    for (const blocks of [1, 5, 2]) {
      await trial.resize(size + blocks * block);
      await trial.holds(last + 1, new Uint8Array(blocks * block), 'what was added');
    }
    await trial.write(last + 2, 9);
    await trial.reads(last + 2, 9, 'the last block');
    for (const blocks of [2, 0]) {
      await trial.resize(size + blocks * block);
      for (const at of [0, last]) await trial.reads(at, at + 1, `block ${at}`);
      const beyond = trial.commands(size + blocks * block, block);
      for (const [what, call] of beyond) await trial.fails(call, what);
    }
  });

  prove('S13', 'what was cut off reads as zero when it is added again', async (trial) => {
    const { block } = trial;
    const { size } = trial.storage;
    const first = size / block - 4;
    for (const flushes of flush ? [false, true] : [false]) {
      await trial.write(first, 3, { blocks: 4 });
      if (flushes) await trial.flush();
      await trial.resize(size - 3 * block);
      await trial.resize(size + 2 * block);
      if (flushes) await trial.flush();
      await trial.reads(first, 3, 'the block before it');
      await trial.holds(first + 1, new Uint8Array(5 * block), 'what was cut off and added again');
      await trial.resize(size);
    }
  });

  prove('S13', 'it has a size of 0, and grows from there', async (trial) => {
    const { block } = trial;
    await trial.write(0, 1, { blocks: 2 });
    await trial.resize(0);
    for (const [what, call] of trial.commands(0, block)) await trial.fails(call, what);
    await trial.resize(BLOCKS * block);
    await trial.holds(0, new Uint8Array(BLOCKS * block), 'what was added');
  });

  prove('S13', 'a size that it cannot have is refused, and changes nothing', async (trial) => {
    const { block, storage } = trial;
    const { size } = storage;
    const last = size / block - 1;
    await trial.write(last, 1);
    const wrong = [-block, 0.5, Number.NaN, Number.POSITIVE_INFINITY, 2 ** 53];
    if (block > 1) wrong.push(size - 1, size + 1);
    for (const bytes of wrong) {
      await trial.fails(() => storage.resize?.(bytes), `a resize to ${bytes} bytes`);
      trial.equal(storage.size, size, `the size after a resize to ${bytes} bytes`);
    }
    await trial.resize(size);
    await trial.reads(last, 1, 'the last block');
  });

  if (flush || !isVolatile(capabilities)) {
    prove('S13', 'a flush covers the size, and what was written', async (trial) => {
      const { block } = trial;
      const { size } = trial.storage;
      const last = size / block - 1;
      for (const blocks of [3, -2]) {
        await trial.write(last - 2, 1, { blocks: 3 });
        await trial.resize(size + blocks * block);
        if (blocks > 0) await trial.write(last + blocks, 2);
        if (flush) await trial.flush();
        await trial.outlives(async (how) => {
          trial.equal(trial.storage.size, size + blocks * block, `the size ${how}`);
          await trial.reads(last - 2, 1, `a block before the end, ${how}`);
          if (blocks > 0) await trial.reads(last + blocks, 2, `a block that was added, ${how}`);
        });
        await trial.resize(size);
      }
    });
  }

  if (!fua) return;
  prove('S13', 'a forced write is there after a power cut, and so is its size', async (trial) => {
    const { block } = trial;
    const { size } = trial.storage;
    await trial.resize(size + 3 * block);
    await trial.write(size / block + 1, 2, { fua: true });
    await trial.outlives(async (how) => {
      await trial.reads(size / block + 1, 2, `a forced write to what was added, ${how}`);
    });
  });
}
