// The clauses S1 to S13 of the Storage contract (../storage/storage.ts) as a suite of tests, for any storage and for
// any test runner that has `describe` and `test`.
//
//   C1  Every test opens a storage of its own. It is closed once and cleaned up, also when the test fails.
//   C2  Undeclared capabilities are not tested, and the suite does only what the contract allows: no overlapping commands at
//       once with simple tags, no close while a command is running, no second close.
//   C3  The name of a test begins with its clause, and so does the message of a failure, which says what was expected and what
//       was found.
//   C4  Random tests have a seed. A failure prints it with the shortest program that was found; the seed in the subject
//       repeats the run.
//
// To see what is on the medium, a test reopens the storage (`reopen`) or drops its caches (`forgetCaches`). For a subject with
// neither, the tests of S5 and S6 show only that commands are answered and that reads see what was written.
//
// Each read of a test asks for the block status as well, so S12 is tested wherever bytes are known.
//
// Only the first and the last blocks of a storage are touched, and those that are added to it, so a large storage costs no more than a
// small one.
//
// One test is in contract-trial.ts, the random programs are in contract-programs.ts, what concerns sizes is in contract-resizes.ts.
//
// Not here: failing media (`withFaults` simulates them), and what a power cut may do to writes that were not flushed
// (`crashSpace`).

import {
  checkArgument,
  checkOptions,
  FUNCTION,
  type KnownOptions,
  OBJECT,
} from '../../model/index.js';
import type { Capabilities } from '../../storage/index.js';
import { explored } from './contract-programs.js';
import { type Prove, proveResize, type Roam } from './contract-resizes.js';
import {
  BLOCKS,
  type ContractSubject,
  isVolatile,
  type Trial,
  together,
  tried,
} from './contract-trial.js';

export type { ContractSubject, Opened } from './contract-trial.js';

/** What the suite needs of a test runner: Vitest, `node:test`, Jest, Mocha (with `it`) and Bun have it. */
export interface TestRunner {
  /** Groups the tests that `body` adds. */
  describe(name: string, body: () => void): void;
  /** Adds a test, which fails when `body` throws or rejects. */
  test(name: string, body: () => void | Promise<void>): void;
}

/**
 * Adds the tests of the storage contract, clauses S1 to S13, to a test runner.
 *
 * @example
 * ```ts
 * import { describe, test } from 'node:test';
 * storageContract({ describe, test }, {
 *   name: 'MyStorage',
 *   capabilities: { blockSize: 512, cache: 'volatile', flush: true, fua: false, orderedTags: false },
 *   open: () => ({ storage: new MyStorage(1 << 20) }),
 * });
 * ```
 *
 * @throws `INVALID_ARGUMENT` for what is no test runner, and for a subject that lacks something or has unknown options
 */
export function storageContract(runner: TestRunner, subject: ContractSubject): void {
  checkOptions(subject, SUBJECT, 'storageContract');
  checkArgument('describe', runner?.describe, FUNCTION);
  checkArgument('test', runner.test, FUNCTION);
  checkArgument('capabilities', subject.capabilities, OBJECT);
  checkArgument('open', subject.open, FUNCTION);
  const add = (name: string, run: () => Promise<Error | undefined>): void => {
    runner.test(name, async () => {
      const failure = await run();
      if (failure) throw failure;
    });
  };
  const prove: Prove = (clause, sentence, body) =>
    add(`${clause}: ${sentence}`, () => tried(clause, subject, body));
  const roam: Roam = (clause, sentence, shape) =>
    add(`${clause}: ${sentence}`, () => explored(clause, subject, shape));
  const { capabilities } = subject;
  runner.describe(`${subject.name} keeps the storage contract`, () => {
    proveTransfers(prove, capabilities);
    roam('S1', 'given any commands one by one, it reads as plain memory would', { atOnce: 1 });
    proveMany(prove, capabilities);
    roam('S4', 'given any commands at once on different bytes, it reads as if one by one', {
      atOnce: 6,
    });
    if (capabilities.flush) proveFlush(prove);
    if (capabilities.fua) proveForced(prove);
    if (!isVolatile(capabilities)) proveStable(prove);
    if (capabilities.flush || capabilities.fua || !isVolatile(capabilities)) {
      const sentence = 'given any commands and power cuts, each block is as new as was promised';
      roam('S5', sentence, { atOnce: 3, cuts: true });
    }
    if (capabilities.orderedTags) proveTags(prove, capabilities);
    proveGivenUp(prove, capabilities);
    proveRefusals(prove, capabilities);
    proveEnds(prove, capabilities);
    if (capabilities.blockStatus) proveStatus(prove);
    if (capabilities.resize) proveResize(prove, roam, capabilities);
  });
}

const SUBJECT: KnownOptions<ContractSubject> = {
  name: 0,
  capabilities: 0,
  open: 0,
  seed: 0,
  runs: 0,
};

const FORCED = { fua: true } as const;
const ORDERED = { tag: 'ordered' } as const;
const PLAIN = { fua: false, tag: 'simple' } as const;

// The clauses. Places and sizes are in blocks, and what is written is a pattern with a number: see `pattern`.

function proveTransfers(prove: Prove, { writev }: Capabilities): void {
  prove('S1', 'a read answers with what the latest writes put there', async (trial) => {
    await trial.write(1, 1, { blocks: 3 });
    await trial.write(2, 9);
    await trial.reads(2, 9, 'the second write');
    await trial.reads(1, 1, 'the block before it');
    await trial.holds(3, trial.pattern(1, 3).subarray(2 * trial.block), 'the block after it');
  });

  prove('S1', 'the first and the last block are as good as any other', async (trial) => {
    const last = trial.storage.size / trial.block - 1;
    await trial.write(0, 3);
    await trial.write(last, 4);
    await trial.reads(0, 3, 'the first block');
    await trial.reads(last, 4, 'the last block');
  });

  prove('S1', 'a buffer may be part of a larger one, and a read fills just it', async (trial) => {
    const { block, storage } = trial;
    const larger = trial.pattern(1, 3);
    await storage.write(0, larger.subarray(block, 2 * block), PLAIN);
    const around = trial.pattern(2, 3);
    await storage.read(0, around.subarray(block, 2 * block));
    const expected = trial.pattern(2, 3);
    expected.set(larger.subarray(block, 2 * block), block);
    trial.same(around, expected, 'the larger buffer around the one that was read into');
  });

  prove('S2', 'a buffer that changes after its write changes nothing stored', async (trial) => {
    const data = trial.pattern(5, 2);
    await trial.storage.write(0, data, PLAIN);
    data.fill(0);
    await trial.reads(0, 5, 'what was written before the buffer changed', 2);
  });

  prove('S2', 'a buffer that was read into stays as it is', async (trial) => {
    await trial.write(0, 5);
    const before = await trial.read(0);
    await trial.write(0, 6);
    await trial.read(0);
    trial.same(before, trial.pattern(5), 'the buffer of the first read');
  });

  prove('S3', 'a transfer that claims to be complete has moved every byte', async (trial) => {
    const into = trial.pattern(8, 8);
    await trial.write(0, 7, { blocks: 8 });
    trial.answers(await trial.storage.read(0, into), into, 'a read');
    trial.same(into, trial.pattern(7, 8), 'the buffer of a read of 8 blocks');
  });

  if (!writev) return;
  prove('S2', 'the buffers of a writev are free after the answer', async (trial) => {
    const list = [trial.pattern(5), trial.pattern(6)];
    await trial.storage.writev?.(0, list, PLAIN);
    for (const data of list.splice(0)) data.fill(0);
    await trial.reads(0, 5, 'the first buffer');
    await trial.reads(1, 6, 'the second buffer');
  });

  prove('S3', 'a writev writes its buffers in a row, whatever their lengths', async (trial) => {
    const { block, storage } = trial;
    const data = trial.pattern(7, 8);
    // More buffers than most systems take in one call; one is empty.
    const cuts = Math.min(data.length - 1, 2000);
    const list = Array.from({ length: cuts }, (_, at) => data.subarray(at, at + 1));
    list.push(data.subarray(0, 0), data.subarray(cuts));
    trial.answers(await storage.writev?.(block, list, PLAIN), data, 'a writev');
    await trial.holds(1, data, `a writev of ${list.length} buffers`);
  });
}

function proveMany(prove: Prove, { flush }: Capabilities): void {
  const all = Array.from({ length: BLOCKS }, (_, index) => index);

  prove('S4', 'many commands at once, on different bytes, all take effect', async (trial) => {
    await together(all.map((at) => () => trial.write(at, at + 1)));
    const read = await together(all.map((at) => () => trial.read(at)));
    for (const at of all) {
      trial.same(read[at], trial.pattern(at + 1), `block ${at}, read together with others`);
    }
  });

  prove('S4', 'reads, writes and flushes at once do not disturb each other', async (trial) => {
    const [even, odd] = [all.filter((at) => at % 2 === 0), all.filter((at) => at % 2 === 1)];
    await together(even.map((at) => () => trial.write(at, 100 + at)));
    const flushing = async (): Promise<void> => (flush ? trial.flush() : undefined);
    const read = new Map<number, Uint8Array>();
    await together([
      ...even.map((at) => async () => void read.set(at, await trial.read(at))),
      flushing,
      ...odd.map((at) => () => trial.write(at, 100 + at)),
      flushing,
    ]);
    for (const at of even) trial.same(read.get(at), trial.pattern(100 + at), `block ${at}`);
    for (const at of all) await trial.reads(at, 100 + at, `block ${at}, afterwards`);
  });
}

function proveFlush(prove: Prove): void {
  prove('S5', 'a flush succeeds with nothing to flush, and while others run', async (trial) => {
    await trial.flush();
    await trial.write(0, 1);
    await together(Array.from({ length: 4 }, () => () => trial.flush()));
    await trial.reads(0, 1, 'what was written before the flushes');
  });

  prove('S5', 'what was flushed outlives a power cut, and a close', async (trial) => {
    const data = trial.pattern(1, 5);
    await trial.storage.write(3 * trial.block, data, PLAIN);
    data.fill(0);
    await trial.write(4, 9);
    await trial.flush();
    await trial.outlives(async (how) => {
      await trial.reads(3, 1, `what was flushed, ${how}`);
      await trial.reads(4, 9, `the second write to a block, ${how}`);
    });
  });

  prove('S5', 'each flush covers what was written since the one before', async (trial) => {
    for (const value of [1, 2, 3]) {
      await trial.write(0, value);
      await trial.write(value, 10 * value);
      await trial.flush();
    }
    await trial.outlives(async (how) => {
      await trial.reads(0, 3, `the block of each round, ${how}`);
      for (const at of [1, 2, 3]) await trial.reads(at, 10 * at, `block ${at}, ${how}`);
    });
  });

  prove('S5', 'a flush covers writes answered before it, while another runs', async (trial) => {
    await trial.write(0, 1);
    const running = trial.flush();
    await together([
      () => running,
      async () => {
        await trial.write(1, 2);
        await trial.flush();
      },
    ]);
    await trial.outlives(async (how) => {
      await trial.reads(0, 1, `what the first flush covers, ${how}`);
      await trial.reads(1, 2, `what only the second flush covers, ${how}`);
    });
  });
}

function proveForced(prove: Prove): void {
  prove('S6', 'writes with FUA take effect, alone and many at once', async (trial) => {
    await trial.write(0, 1, FORCED);
    await together([1, 2, 3, 4].map((at) => () => trial.write(at, at + 1, FORCED)));
    for (const at of [0, 1, 2, 3, 4]) await trial.reads(at, at + 1, `block ${at}`);
  });

  prove('S6', 'what was forced outlives a power cut, and a close, unflushed', async (trial) => {
    const { block, storage } = trial;
    const list = [trial.pattern(5), trial.pattern(6)];
    await trial.write(1, 1, { blocks: 2 });
    await trial.write(1, 2, FORCED);
    if (storage.capabilities.writev)
      await storage.writev?.(4 * block, list, { ...PLAIN, ...FORCED });
    await trial.outlives(async (how) => {
      await trial.reads(1, 2, `a forced write over a plain one, ${how}`);
      if (!storage.capabilities.writev) return;
      await trial.reads(5, 6, `the second buffer of a forced writev, ${how}`);
    });
  });

  prove('S6', 'a forced write is not undone by an older one to the same bytes', async (trial) => {
    await trial.write(1, 1, { blocks: 2 });
    await trial.write(1, 2, FORCED);
    await trial.reads(1, 2, 'a forced write over a plain one');
    if (trial.storage.capabilities.flush) await trial.flush();
    await trial.reads(1, 2, 'the same after a flush');
    await trial.outlives((how) => trial.reads(1, 2, `the same after a flush, ${how}`));
  });
}

function proveStable(prove: Prove): void {
  prove(
    'S5',
    'without a volatile cache, an answered write outlives a power cut and a close',
    async (trial) => {
      await trial.write(3, 8, { blocks: 2 });
      await trial.outlives((how) => trial.reads(3, 8, `a write that was answered, ${how}`, 2));
    },
  );
}

function proveTags(prove: Prove, { flush }: Capabilities): void {
  prove('S7', 'of writes with ordered tags on one block, the last called wins', async (trial) => {
    await together([1, 2, 3, 4].map((value) => () => trial.write(0, value, ORDERED)));
    await trial.reads(0, 4, 'the last of four ordered writes');
  });

  prove('S7', 'an ordered write separates earlier and later commands, reads too', async (trial) => {
    await trial.write(0, 1);
    const before = new Uint8Array(trial.block);
    const after = new Uint8Array(trial.block);
    await together([
      async () => void (await trial.storage.read(0, before)),
      () => trial.write(1, 2),
      () => trial.write(0, 3, { ...ORDERED, blocks: 2 }),
      () => trial.write(1, 4),
      async () => void (await trial.storage.read(0, after)),
    ]);
    trial.same(before, trial.pattern(1), 'a read called before the ordered write');
    trial.same(after, trial.pattern(3), 'a read called after the ordered write');
    await trial.reads(1, 4, 'a simple write called after the ordered one');
  });

  if (!flush) return;
  prove('S7', 'an ordered flush covers what was called before it', async (trial) => {
    await together([
      ...[0, 1, 2].map((at) => () => trial.write(at, at + 1)),
      () => trial.flush('ordered'),
    ]);
    await trial.outlives(async (how) => {
      for (const at of [0, 1, 2]) await trial.reads(at, at + 1, `block ${at}, ${how}`);
    });
  });
}

function proveGivenUp(prove: Prove, { discard, writeZeroes, flush }: Capabilities): void {
  const around = async (trial: Trial, how: string): Promise<void> => {
    await trial.reads(0, 1, `the block before it, ${how}`);
    await trial.reads(3, 4, `the block after it, ${how}`);
  };
  const fill = async (trial: Trial): Promise<void> => {
    for (const at of [0, 1, 2, 3]) await trial.write(at, at + 1);
    if (flush) await trial.flush();
  };

  const stays = async (trial: Trial, check: (how: string) => Promise<void>): Promise<void> => {
    await check('at once');
    if (flush) await trial.flush();
    if (flush || !isVolatile(trial.storage.capabilities)) await trial.outlives(check);
  };

  if (writeZeroes) {
    prove('S8', 'zeroed bytes read as zero, and no others', async (trial) => {
      const { block, storage } = trial;
      await fill(trial);
      await storage.writeZeroes?.(block, 2 * block);
      await stays(trial, async (how) => {
        await trial.holds(1, new Uint8Array(2 * block), `zeroed bytes, ${how}`);
        await around(trial, how);
      });
    });
  }

  if (discard) {
    prove('S8', 'a discard touches no other bytes; a later write replaces it', async (trial) => {
      const { block, storage } = trial;
      await fill(trial);
      await storage.discard?.(block, 2 * block);
      await around(trial, 'at once');
      await trial.write(2, 9);
      await stays(trial, async (how) => {
        await trial.reads(2, 9, `a write after the discard, ${how}`);
        await around(trial, how);
      });
    });
  }
}

function proveRefusals(prove: Prove, { blockSize }: Capabilities): void {
  prove('S9', 'a command outside the storage fails, and touches no bytes inside', async (trial) => {
    const { block } = trial;
    const { size } = trial.storage;
    await trial.refuses(size - block, 2 * block);
    await trial.refuses(-block, 2 * block);
    const outside = [
      size,
      size + block,
      -block,
      0.5,
      Number.NaN,
      Number.POSITIVE_INFINITY,
      2 ** 53,
    ];
    for (const offset of outside) await trial.refuses(offset, block);
    await trial.refuses(0, -block);
  });

  if (blockSize === 1) return;
  prove(
    'S9',
    'a command that is not whole blocks fails, and touches no other bytes',
    async (trial) => {
      const { block } = trial;
      await trial.refuses(block, block - 1);
      await trial.refuses(block, block + 1);
      await trial.refuses(1, block);
      await trial.refuses(block + 1, block - 1);
    },
  );
}

function proveStatus(prove: Prove): void {
  prove(
    'S12',
    'a written block is no hole, and what is called zero reads as zero',
    async (trial) => {
      await trial.write(1, 1);
      const [extent] = (await trial.storage.blockStatus?.(trial.block, trial.block)) ?? [];
      trial.equal(extent?.hole, false, 'a hole where was written');
      await trial.read(0, BLOCKS);
    },
  );
}

function proveEnds(prove: Prove, declared: Capabilities): void {
  prove(
    'S10',
    'a refused command releases nothing, and after close every command fails',
    async (trial) => {
      const { block, storage } = trial;
      await trial.refuses(storage.size, block);
      await trial.write(0, 1);
      await trial.reads(0, 1, 'what was written after a refusal');
      await trial.close();
      const calls = trial.commands(0, block);
      if (declared.flush) calls.push(['a flush', () => storage.flush({ tag: 'simple' })]);
      if (declared.resize) calls.push(['a resize', () => storage.resize?.(storage.size + block)]);
      for (const [what, call] of calls) await trial.fails(call, `${what} after close`);
    },
  );

  prove('S11', 'its size and capabilities are as declared, first and last', async (trial) => {
    const { block, storage } = trial;
    const { size } = storage;
    const unchanged = (when: string, { size: now, capabilities } = trial.storage): void => {
      trial.equal(now, size, `the size ${when}`);
      for (const [name, value] of Object.entries(declared)) {
        const said = capabilities[name as keyof Capabilities] ?? false;
        trial.equal(said, value ?? false, `the capability ${name} ${when}`);
      }
    };
    unchanged('when opened');
    trial.equal(size % block, 0, 'what remains of the size after whole blocks');
    await trial.write(0, 1);
    if (declared.flush) await trial.flush();
    unchanged('after a write');
    await trial.refuses(size, block);
    unchanged('after a refusal');
    await trial.close();
    unchanged('after close');
    if (await trial.reopen()) unchanged('opened again');
  });

  prove('S11', 'it has each optional method exactly where it declares it', async (trial) => {
    const { storage } = trial;
    for (const name of ['writev', 'discard', 'writeZeroes', 'blockStatus', 'resize'] as const) {
      const has = typeof storage[name] === 'function';
      trial.equal(has, storage.capabilities[name] === true, `that there is a method ${name}`);
    }
  });
}
