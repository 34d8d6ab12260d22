// The arbitraries make what fits together, and shrink to what is easiest to understand.

import fc from 'fast-check';
import { expect, test } from 'vitest';
import { formatProgram, IoScheduler, type Request } from 'write-barrier';
import {
  checkTrace,
  DEVICE_PROFILES,
  VolatileDisk,
  type VolatileDiskOptions,
} from 'write-barrier/testing';
import { arbitraries } from 'write-barrier/testing/arbitraries';
import { crashSpace } from 'write-barrier/testing/lab';
import { share } from '../kit/amount.js';
import { settled, submit } from '../scheduler/world.js';

const { request, program, mode, profile, faultPlan, completionOrder, crashState } = arbitraries(fc);

test('given any program, mode, device, faults and order, when the scheduler runs it, then its trace keeps the rules', async () => {
  await fc.assert(
    fc.asyncProperty(program(), mode, profile, faultPlan(), completionOrder, async (...drawn) => {
      const [requests, name, device, faults, seed] = drawn;
      const events: Parameters<typeof checkTrace>[0] extends Iterable<infer E> ? E[] : never = [];
      const options: VolatileDiskOptions = { size: 8 * 512, profile: device, faults, seed };
      const disk = new IoScheduler(new VolatileDisk(options), {
        mode: name,
        allowUnsafe: true,
        observer: (event) => events.push(event),
      });
      const all = requests.map((request) => submit(disk, request).catch(() => {}));
      await Promise.all(all);
      // What a failed barrier leaves behind may still be flushing.
      await disk.idle();
      expect(checkTrace(events, { mode: name, device })).toEqual([]);
    }),
    { numRuns: share(500) },
  );
});

test("given fast-check's scheduler, when it decides which command is answered next, then no read sees anything else than the writes before it", async () => {
  await fc.assert(
    fc.asyncProperty(program({ requestsMax: 8 }), fc.scheduler(), async (requests, orders) => {
      const profile = { discard: 'zero', writeZeroes: true } as const;
      const disk = new VolatileDisk({ size: 8 * 512, profile, answers: 'at-once' });
      const answer = orders.scheduleFunction(async (call: () => unknown) => {
        call();
      });
      const host = new IoScheduler({
        size: disk.size,
        capabilities: { ...disk.capabilities, writev: false },
        read: (offset, into) => answer(() => disk.read(offset, into)),
        write: (offset, data, flags) => answer(() => disk.write(offset, data, flags)),
        flush: (flags) => answer(() => disk.flush(flags)),
        discard: (offset, length) => answer(() => disk.discard?.(offset, length)),
        writeZeroes: (offset, length) => answer(() => disk.writeZeroes?.(offset, length)),
        close: () => {},
      });
      const expected = new Uint8Array(8 * 512);
      const reads = requests.flatMap((what, i) => {
        const all = submit(host, what, undefined, i + 1).catch(() => {});
        if (what.kind === 'write') expected.fill(i + 1, what.offset, what.offset + what.length);
        else if (what.kind !== 'read' && 'offset' in what) {
          expected.fill(0, what.offset, what.offset + what.length);
        }
        if (what.kind !== 'read') return [];
        const then = expected.slice(what.offset, what.offset + what.length);
        return [all.then((seen) => expect(seen).toEqual(then))];
      });
      await orders.waitIdle();
      await Promise.all(reads);
      expect(host.stats().inFlight).toBe(0);
    }),
    { numRuns: share(200) },
  );
});

const ZEROING = { ...DEVICE_PROFILES['scsi-tags'], discard: 'zero' } as const;

test('given model-based commands, when they are run against a scheduler, then it holds what the model does', async () => {
  interface Model {
    bytes: Uint8Array;
    fill: number;
  }
  const command = (what: Request): fc.AsyncCommand<Model, IoScheduler> => ({
    check: () => true,
    run: async (model, host) => {
      model.fill = (model.fill % 255) + 1;
      const end = 'offset' in what ? what.offset + what.length : 0;
      const answer = submit(host, what, undefined, model.fill);
      if (what.kind === 'write') model.bytes.fill(model.fill, what.offset, end);
      else if (what.kind === 'read') {
        expect(await answer).toEqual(model.bytes.slice(what.offset, end));
        return;
      } else if ('offset' in what) model.bytes.fill(0, what.offset, end);
      await answer;
    },
    toString: () => formatProgram([what], { blockSize: 512 }),
  });
  await fc.assert(
    fc.asyncProperty(
      fc.commands([request().map(command)], { maxCommands: 30 }),
      completionOrder,
      async (commands, seed) => {
        const setup = () => ({
          model: { bytes: new Uint8Array(8 * 512), fill: 0 },
          // The model takes a discard for zeroes.
          real: new IoScheduler(new VolatileDisk({ size: 8 * 512, seed, profile: ZEROING })),
        });
        await fc.asyncModelRun(setup, commands);
      },
    ),
    { numRuns: share(100) },
  );
});

/** The smallest value that fast-check finds to have a property. */
function smallest<T>(arbitrary: fc.Arbitrary<T>, has: (value: T) => boolean): T {
  const { counterexample } = fc.check(
    fc.property(arbitrary, (value) => !has(value)),
    { numRuns: 2000, seed: 1 },
  );
  return (counterexample as [T])[0];
}

test('given a property of programs, when one is shrunk, then a single plain request is left', () => {
  const found = smallest(program(), (requests) => requests.some(({ kind }) => kind === 'write'));
  expect(formatProgram(found, { blockSize: 512 })).toBe('w0');
});

test('given a property of crash states, when one is shrunk, then the cut is as early and the loss as small as can be', async () => {
  const disk = new VolatileDisk({ size: 8 * 512 });
  const host = new IoScheduler(disk, { mode: 'NONE', allowUnsafe: true });
  for (const [i, request] of parse().entries()) await submit(host, request, undefined, i + 1);
  await settled();
  const space = crashSpace(disk.trace);
  const lostFirst = smallest(crashState(space), (state) => {
    const image = state.image();
    return image[0] === 0 && image[3 * 512] === 4;
  });
  // The write to sector 3 is the last that is visible, and nothing but sector 0 is lost.
  const image = lostFirst.image();
  expect([0, 1, 2, 3, 4, 5].map((i) => image[i * 512])).toEqual([0, 2, 3, 4, 0, 0]);
});

function parse() {
  return [0, 1, 2, 3, 4, 5].map((i) => ({
    kind: 'write' as const,
    offset: i * 512,
    length: 512,
  }));
}
