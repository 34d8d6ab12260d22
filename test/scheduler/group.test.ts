// A group as its users meet it: promises, ends, bounds, misuse, failures, and what lies on its members. What the state machine
// decides is in exhaustive-group.test.ts and group-fairness.test.ts.

import { inspect } from 'node:util';
import { describe, expect, test } from 'vitest';
import {
  type FlushFailedError,
  MemoryStorage,
  SchedulerGroup,
  type Storage,
  TraceRecorder,
  type WriteFlags,
  withFaults,
} from 'write-barrier';
import { ManualStorage, outcomes, settled, World } from './world.js';

const BLOCK = 4096;
const PLAIN: WriteFlags = { fua: false, tag: 'simple' };
const SIMPLE = { tag: 'simple' } as const;
const block = (byte = 1, blocks = 1): Uint8Array => new Uint8Array(blocks * BLOCK).fill(byte);
const codeOf = async (call: () => unknown): Promise<unknown> => {
  try {
    await call();
    return 'done';
  } catch (error) {
    return (error as { code?: unknown }).code ?? error;
  }
};

/** A member as a scheduler sees it: a `ManualStorage` is what the test answers. */
const worldOn = (
  member: Storage,
  mode: 'DRAIN_FLUSH' | 'TAG_FUA' | 'NONE' = 'DRAIN_FLUSH',
): World => new World({ mode, allowUnsafe: true }, member as never);

describe('a member', () => {
  test('answers at once where the storage does, and reads what was written', () => {
    const group = new SchedulerGroup(new MemoryStorage(8 * BLOCK));
    const [one, other] = [group.member(), group.member()];
    expect(one.write(BLOCK, block(7), PLAIN)).toBeUndefined();
    const into = block(0);
    expect(other.read(BLOCK, into)).toBeUndefined();
    expect(into).toEqual(block(7));
    expect(one.flush(SIMPLE)).toBeUndefined();
  });

  test('reads and writes what is larger than a piece', async () => {
    const storage = new MemoryStorage(4 << 20);
    const member = new SchedulerGroup(storage).member();
    const data = Uint8Array.from({ length: 3 << 20 }, (_, n) => n >> 8);
    await member.write(512, data, PLAIN);
    const into = new Uint8Array(data.length);
    await member.read(512, into);
    expect(Buffer.compare(into, data)).toBe(0);
    await member.writeZeroes?.(512, data.length);
    expect(storage.bytes.every((byte) => byte === 0)).toBe(true);
  });

  test('has the size and the capabilities of the storage, and the methods that follow from them', () => {
    const able = new MemoryStorage(8 * BLOCK);
    const member = new SchedulerGroup(able).member();
    expect([member.size, member.capabilities]).toEqual([able.size, able.capabilities]);
    const none = { writev: false, discard: false, writeZeroes: false };
    const plain = new SchedulerGroup(new MemoryStorage(512, { capabilities: none })).member();
    for (const name of ['writev', 'discard', 'writeZeroes'] as const) {
      expect([member[name] !== undefined, plain[name]]).toEqual([true, undefined]);
    }
  });

  test('refuses what the disk does not have, with nothing queued', async () => {
    const device = new ManualStorage({ fua: false, flush: false, orderedTags: false });
    const group = new SchedulerGroup(device);
    const member = group.member();
    const calls: readonly [string, () => unknown][] = [
      ['OUT_OF_RANGE', () => member.read(Number.NaN, block())],
      ['UNALIGNED', () => member.write(1, block(), PLAIN)],
      ['EOPNOTSUPP', () => member.write(0, block(), { ...PLAIN, fua: true })],
      ['EOPNOTSUPP', () => member.write(0, block(), { ...PLAIN, tag: 'ordered' })],
      ['EOPNOTSUPP', () => member.flush(SIMPLE)],
    ];
    for (const [code, call] of calls) expect(await codeOf(call)).toBe(code);
    expect([device.log, group.stats().queued]).toEqual(['', 0]);
  });

  test('that ends takes its queue with it, and waits for what is at the disk', async () => {
    const device = new ManualStorage();
    const group = new SchedulerGroup(device, { depth: 1 });
    const [one, other] = [group.member(), group.member()];
    const ends = [0, 1].map((n) => codeOf(() => one.write(n * BLOCK, block(), PLAIN)));
    const stays = codeOf(() => other.write(2 * BLOCK, block(), PLAIN));
    let isClosed = false;
    const closed = Promise.resolve(one.close()).then(() => {
      isClosed = true;
    });
    await settled();
    expect([isClosed, group.stats().members.length]).toEqual([false, 1]);
    await device.answer('w0');
    await device.answer('w2');
    expect(await Promise.all([...ends, stays])).toEqual(['done', 'CLOSED', 'done']);
    await closed;
    expect(device.log).toBe('w0 w2');
    expect(await codeOf(() => one.flush(SIMPLE))).toBe('CLOSED');
    expect(device.closed).toBe(false);
    await one.close();
  });
});

describe('schedulers on members', () => {
  test('a barrier waits for the commands of its own member only, and holds up no other', async () => {
    const device = new ManualStorage();
    const group = new SchedulerGroup(device);
    const [a, b] = [worldOn(group.member()), worldOn(group.member())];
    b.submit('w8');
    const first = a.submit('w0 b1 w2');
    await settled();
    expect(device.inFlight).toBe('w8 w0');
    await device.answer('w0');
    const later = b.submit('w9 r10');
    await settled();
    expect(device.inFlight).toBe('w8 F w9 r10');
    await device.answer('F', 'r10');
    expect(device.inFlight).toBe('w8 w9 w1');
    await device.drain();
    expect(outcomes([...first, ...later])).toBe('w0:done b1:done w2:done w9:done r10:done');
  });

  test('the ordered tags of a member never reach the disk, where they would hold up the others', async () => {
    const device = new ManualStorage();
    const group = new SchedulerGroup(device);
    const [a, b] = [worldOn(group.member(), 'TAG_FUA'), worldOn(group.member(), 'NONE')];
    const all = [...a.submit('w0 b1 w2'), ...b.submit('w8')];
    await settled();
    expect(device.inFlight).toBe('w0 w8');
    await device.drain();
    expect(device.log).toBe('w0 w8 F w1! w2');
    expect(outcomes(all)).toBe('w0:done b1:done w2:done w8:done');
  });

  test('flushes of several members share one of the disk, and one that has nothing to do needs none', async () => {
    const device = new ManualStorage();
    const group = new SchedulerGroup(device);
    const worlds = Array.from({ length: 4 }, () => worldOn(group.member()));
    for (const [n, world] of worlds.entries()) world.submit(`w${n}`);
    await device.drain();
    const flushes = worlds.flatMap((world) => world.submit('f'));
    await device.drain();
    expect(device.log).toBe('w0 w1 w2 w3 F');
    expect(outcomes(flushes)).toBe('f:done f:done f:done f:done');
    flushes.push(...(worlds[0] as World).submit('f'));
    await settled();
    expect(flushes.at(-1)?.outcome).toBe('done');
    expect(device.log).toBe('w0 w1 w2 w3 F');
    expect(group.stats()).toMatchObject({ flushesCovered: 4, commands: { flush: 1 } });
  });

  test('a failed flush is told once to each member that has bytes in doubt, and to no other', async () => {
    const device = new ManualStorage();
    const group = new SchedulerGroup(device);
    const [writer, flusher, idle] = Array.from({ length: 3 }, () => worldOn(group.member())) as [
      World,
      World,
      World,
    ];
    const written = [...writer.submit('w0'), ...flusher.submit('w1')];
    await device.drain();
    const failed = flusher.submit('f');
    await device.fail('F');
    expect(outcomes([...written, ...failed])).toBe('w0:done w1:done f:FLUSH_FAILED');
    const [told] = writer.submit('f');
    await settled();
    expect(told?.outcome).toBe('FLUSH_FAILED');
    const error = told?.error as FlushFailedError;
    expect(error.atRisk).toEqual([{ start: 0, end: BLOCK }]);
    expect(error.message).toMatch(/a flush that the group shares failed.*: EIO$/);
    expect(writer.disk.state).toBe('failed');
    const free = idle.submit('f');
    await device.drain();
    await writer.disk.recover();
    const again = writer.submit('w0 f');
    await device.drain();
    expect(outcomes([...free, ...again])).toBe('f:done w0:done f:done');
  });

  test('what a scheduler cancels is its own, and the close of one closes its member', async () => {
    const device = new ManualStorage();
    const group = new SchedulerGroup(device, { depth: 1 });
    const [a, b] = [worldOn(group.member()), worldOn(group.member())];
    const [, barrier, behind] = a.submit('w0 b1 w2');
    const beside = b.submit('w3');
    await barrier?.cancel();
    await device.drain();
    expect(outcomes([barrier, behind, ...beside] as never)).toBe('b1:cancelled w2:done w3:done');
    const closing = a.disk.close();
    await device.drain();
    await closing;
    expect([group.stats().members.length, device.closed]).toEqual([1, false]);
  });

  test('groups stack', async () => {
    const device = new ManualStorage();
    const lower = new SchedulerGroup(device);
    const upper = new SchedulerGroup(lower.member({ weight: 2 }));
    const [a, b] = [worldOn(upper.member()), worldOn(upper.member(), 'TAG_FUA')];
    const beside = worldOn(lower.member());
    const all = [...a.submit('w0 b1'), ...b.submit('w4 b5'), ...beside.submit('w8 f')];
    await device.drain();
    expect(outcomes(all)).toBe('w0:done b1:done w4:done b5:done w8:done f:done');
    const closing = upper.close();
    await device.drain();
    await closing;
    expect([lower.stats().members.length, device.closed]).toEqual([1, false]);
  });
});

describe('a group', () => {
  test.each<[object, string]>([
    [{ depth: 0 }, 'depth must be a whole number from 1 to 1024'],
    [{ dept: 1 }, "SchedulerGroup has no option 'dept'; did you mean 'depth'?"],
    [{ depthBytes: '1' }, 'depthBytes must be'],
  ])('refuses the options %o', (options, message) => {
    expect(() => new SchedulerGroup(new MemoryStorage(BLOCK), options)).toThrow(message);
  });

  test.each<[object, string]>([
    [{ weight: 0 }, 'weight must be a number from 0.001 to 1000'],
    [{ weight: Number.NaN }, 'weight must be'],
    [{ name: 1 }, 'name must be a string'],
    [{ wait: 1 }, "member has no option 'wait'"],
  ])('refuses a member with %o', (options, message) => {
    const group = new SchedulerGroup(new MemoryStorage(BLOCK));
    expect(() => group.member(options)).toThrow(message);
    expect(group.stats().members).toEqual([]);
  });

  test('and a scheduler beside it do not use a storage at once', async () => {
    const device = new ManualStorage();
    const member = new SchedulerGroup(device).member();
    const beside = new World({}, device);
    const early = beside.submit('w0');
    expect(await codeOf(() => member.write(0, block(), PLAIN))).toBe('STORAGE_IN_USE');
    await device.drain();
    const write = member.write(0, block(), PLAIN);
    const late = beside.submit('w0');
    await device.drain();
    await write;
    expect(outcomes([...early, ...late])).toBe('w0:done w0:STORAGE_IN_USE');
  });

  test('shares its bound of bytes: a flood is refused before it takes the room of others', async () => {
    const device = new ManualStorage();
    const group = new SchedulerGroup(device, { depth: 1, maxQueuedBytes: 16 * BLOCK });
    const [flood, light] = [group.member(), group.member()];
    const ends: Promise<unknown>[] = [];
    for (let n = 0; n < 40; n++) ends.push(codeOf(() => flood.write(n * BLOCK, block(), PLAIN)));
    const held = group.stats().members[0]?.queuedBytes as number;
    expect(held).toBe(8 * BLOCK);
    let hasRoom = false;
    const ready = flood.ready(BLOCK).then(() => {
      hasRoom = true;
    });
    await settled();
    expect(hasRoom).toBe(false);
    for (let n = 0; n < 3; n++) {
      ends.push(codeOf(() => light.write((50 + n) * BLOCK, block(), PLAIN)));
    }
    await device.drain();
    await ready;
    const outcomes = await Promise.all(ends);
    expect(outcomes.filter((outcome) => outcome === 'done').length).toBe(1 + 8 + 3);
    expect(outcomes.slice(-3)).toEqual(['done', 'done', 'done']);
    expect(outcomes[9]).toBe('QUEUE_FULL');
  });

  test('holds up nothing by its bound of bytes that brings none, and refuses a number of bytes that is none', async () => {
    const device = new ManualStorage();
    const group = new SchedulerGroup(device, { depth: 1, maxQueuedBytes: BLOCK });
    const [one, other] = [group.member(), group.member()];
    const ends = [0, 1].map((n) => codeOf(() => one.write(4 * n * BLOCK, block(1, 4), PLAIN)));
    ends.push(
      codeOf(() => one.flush(SIMPLE)),
      codeOf(() => other.discard?.(0, BLOCK)),
    );
    ends.push(codeOf(() => other.write(0, block(), PLAIN)));
    await device.drain();
    expect(await Promise.all(ends)).toEqual(['done', 'done', 'done', 'done', 'QUEUE_FULL']);
    for (const bytes of [Number.NaN, -1, 0.5, '1' as never]) {
      expect(await codeOf(() => one.ready(bytes))).toBe('INVALID_ARGUMENT');
    }
  });

  test('never refuses what a scheduler sends, however little may be queued', async () => {
    const device = new ManualStorage();
    const group = new SchedulerGroup(device, { depth: 1, maxQueued: 1 });
    const worlds = [0, 1, 2].map(() => new World({ depth: 300 }, group.member() as never));
    const all = worlds.flatMap(({ submit }, n) => {
      const program = Array.from({ length: 300 }, (_, at) => `w${n * 300 + at}`).join(' ');
      return submit.call(worlds[n], program);
    });
    await device.drain();
    expect(all.filter(({ outcome }) => outcome !== 'done')).toEqual([]);
  });

  test('says who holds what', async () => {
    const device = new ManualStorage();
    const group = new SchedulerGroup(device, { depth: 2 });
    const [a, b] = [group.member({ name: 'a', weight: 2 }), group.member({ name: 'b' })];
    const ends = [0, 1, 2].map((n) => a.write(n * BLOCK, block(), PLAIN));
    ends.push(b.read(4 * BLOCK, block()), b.flush(SIMPLE));
    expect(group.stats()).toMatchObject({
      ...{ queued: 3, queuedBytes: 2 * BLOCK, inFlight: 2, bytesInFlight: 2 * BLOCK },
      members: [
        { name: 'a', weight: 2, queued: 1, queuedBytes: BLOCK, inFlight: 2, commands: 2 },
        { name: 'b', weight: 1, queued: 2, queuedBytes: BLOCK, inFlight: 0, bytes: 0 },
      ],
    });
    await device.drain();
    await Promise.all(ends);
    const { queued, inFlight, commands } = group.stats();
    expect([queued, inFlight, commands.flush]).toEqual([0, 0, 1]);
    expect(inspect(group)).toBe(`SchedulerGroup { 2 members on ${device.size} bytes }`);
  });

  test('closes when everything has been answered, after a flush; then all is closed', async () => {
    const device = new ManualStorage();
    const group = new SchedulerGroup(device, { depth: 1 });
    const member = group.member();
    const ends = Promise.all([0, 1].map((n) => member.write(n * BLOCK, block(), PLAIN)));
    const closing = group.close();
    const again = group.close();
    expect(await codeOf(() => member.write(0, block(), PLAIN))).toBe('CLOSED');
    expect(() => group.member()).toThrow(expect.objectContaining({ code: 'CLOSED' }));
    await settled();
    expect(device.closed).toBe(false);
    await device.drain();
    await Promise.all([ends, closing, again]);
    expect([device.log.includes('F'), device.closed]).toEqual([true, true]);
  });

  test('closes the storage also when its last flush fails, and says so', async () => {
    const storage = withFaults(new MemoryStorage(BLOCK), [{ on: 'flush', nth: 0, fault: 'fail' }]);
    const group = new SchedulerGroup(storage);
    await expect(group.close()).rejects.toThrow();
    expect(await codeOf(() => storage.flush(SIMPLE))).toBe('CLOSED');
    await using other = new SchedulerGroup(new MemoryStorage(BLOCK));
    expect(other.stats().members).toEqual([]);
  });

  test('has a trace, with the flush of the disk for all that it served', async () => {
    const recorder = new TraceRecorder();
    const device = new ManualStorage();
    const group = new SchedulerGroup(device, { observer: recorder.observer });
    const members = [group.member(), group.member()];
    const writes = members.map((member, n) => member.write(n * BLOCK, block(), PLAIN));
    await device.drain();
    const flush = members[0]?.flush(SIMPLE);
    await device.drain();
    await Promise.all([...writes, flush]);
    const dispatched = recorder.events.flatMap((event) =>
      event.kind === 'dispatch' ? [`${event.what.op} for ${event.requests}`] : [],
    );
    expect(dispatched).toEqual(['write for 0', 'write for 1', 'flush for 2']);
  });

  test('keeps overlapping commands of two members apart, and their order', async () => {
    const device = new ManualStorage();
    const group = new SchedulerGroup(device);
    const members = [0, 1, 2].map(() => group.member());
    const ends = members.map((member) => member.write(0, block(), PLAIN));
    const other = members[2]?.read(BLOCK, block());
    expect(device.inFlight).toBe('w0');
    await device.answer();
    expect(device.inFlight).toBe('w0');
    await device.drain();
    await Promise.all([...ends, other]);
    expect(device.log).toBe('w0 w0 w0 r1');
  });

  test('goes on after a storage that throws', async () => {
    const memory = new MemoryStorage(8 * BLOCK);
    const storage: Storage = new Proxy(memory, {
      get: (target, name) => {
        if (name === 'write') {
          return () => {
            throw new Error('no');
          };
        }
        const value = Reflect.get(target, name, target);
        return typeof value === 'function' ? value.bind(target) : value;
      },
    });
    const group = new SchedulerGroup(storage);
    const member = group.member();
    expect(() => member.write(0, block(), PLAIN)).toThrow('no');
    await member.read(0, block());
    expect(group.stats()).toMatchObject({ inFlight: 0, bytesInFlight: 0, queued: 0 });
  });

  test('has members by the thousand, at less than 1 KiB each at rest', async () => {
    const group = new SchedulerGroup(new MemoryStorage(BLOCK));
    const used = async (): Promise<number> => {
      for (let n = 0; n < 4; n++) {
        globalThis.gc?.();
        await settled();
      }
      return process.memoryUsage().heapUsed;
    };
    const before = await used();
    const members = Array.from({ length: 10_000 }, () => group.member());
    for (const member of members) {
      await member.write(0, new Uint8Array(512), PLAIN);
      await member.flush(SIMPLE);
    }
    const each = ((await used()) - before) / members.length;
    if (globalThis.gc) expect(each).toBeLessThan(1024);
    for (const member of members) await member.close();
    expect(group.stats().members).toEqual([]);
  });
});
