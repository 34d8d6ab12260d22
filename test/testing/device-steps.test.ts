// What the simulated device may do next, kept up to date by each call, against a plain description: all commands are looked
// at anew before each step.

import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { Device, type DeviceStep, type Fate } from '../../src/testing/device/device.js';
import type { DiskRequest } from '../../src/testing/device/disk-trace.js';
import { type Due, enter, leave, melded, withoutFirst } from '../../src/testing/device/pending.js';
import { type DeviceProfile, deviceProfile } from '../../src/testing/device/profile.js';
import { share } from '../kit/amount.js';
import { SECTOR, stepText } from './traces.js';

const SECTORS = 6;

interface Command {
  readonly request: DiskRequest;
  readonly fate: Fate | undefined;
  /** The first sector of each unit that has not landed, and its number of sectors. */
  readonly pending: Map<number, number>;
  isDone: boolean;
  isAnswered: boolean;
}

/** Which steps there are, by the rules in the head of device.ts, and nothing else of a device. */
class PlainDevice {
  readonly #profile: DeviceProfile;
  readonly commands: Command[] = [];
  /** Cached sectors, with those that go to the medium together. */
  #cache = new Map<number, { readonly together: readonly number[]; readonly stubborn: boolean }>();

  constructor(profile: DeviceProfile) {
    this.#profile = profile;
  }

  dispatch(request: DiskRequest, fate: Fate | undefined): void {
    const first = request.offset / SECTOR;
    const end = (request.offset + request.length) / SECTOR;
    const unit = this.#profile.atomicWriteUnit / SECTOR;
    const isWhole =
      request.op === 'write' && Math.floor(first / unit) === Math.floor((end - 1) / unit);
    const pending = new Map<number, number>();
    if (!isStep(request.op)) {
      const count = isWhole ? end - first : 1;
      for (let sector = first; sector < end; sector += count) pending.set(sector, count);
    }
    this.commands.push({ request, fate, pending, isDone: end === first, isAnswered: false });
    if (isStep(request.op)) (this.commands.at(-1) as Command).isDone = false;
  }

  steps(): string[] {
    const steps: string[] = [];
    const claimed = new Set<number>();
    const { sameLba, orderedTags, lies } = this.#profile;
    let isFenced = false;
    let isBusy = false;
    for (const [n, { request, fate, pending, isDone, isAnswered }] of this.commands.entries()) {
      if (isAnswered && fate !== 'stray') continue;
      const isOrdered = request.tag === 'ordered' && orderedTags && !lies.includes('ignoreTags');
      const may = !isFenced && !(isOrdered && isBusy) && !isDone;
      if (may && isStep(request.op)) steps.push(`${request.op} ${n} ${request.offset / SECTOR}`);
      for (const [sector, count] of pending) {
        const mine = Array.from({ length: count }, (_, i) => sector + i);
        const isFree = fate === 'stray' || !mine.some((each) => claimed.has(each));
        if (may && isFree) steps.push(`land ${n} ${sector}`);
      }
      if (sameLba === 'fifo' && fate !== 'stray') {
        for (const [sector, count] of pending) {
          for (let i = 0; i < count; i++) claimed.add(sector + i);
        }
      }
      if (fate === 'stray' ? isAnswered : isDone) continue;
      isBusy = true;
      isFenced ||= isOrdered;
    }
    for (const sector of this.#cache.keys()) steps.push(`destage ${sector}`);
    return steps.sort();
  }

  take(step: DeviceStep): void {
    if (step.kind === 'destage') {
      this.#destage(step.sector);
      return;
    }
    const command = this.commands[step.command] as Command;
    if (step.kind === 'land') this.#land(command, step.sector);
    if (step.kind === 'flush' && !this.#profile.lies.includes('ignoreFlush')) {
      for (const [sector, { stubborn }] of [...this.#cache]) if (!stubborn) this.#destage(sector);
    }
    command.pending.delete(step.sector);
    command.isDone = command.pending.size === 0;
  }

  fail(n: number): void {
    const command = this.commands[n] as Command;
    command.pending.clear();
    command.isDone = true;
  }

  drop(): void {
    this.#cache.clear();
  }

  #land({ request, fate, pending }: Command, first: number): void {
    const { cache, lies } = this.#profile;
    const together = Array.from({ length: pending.get(first) as number }, (_, i) => first + i);
    const stubborn = fate === 'unserializable';
    for (const sector of together) {
      for (const other of this.#cache.get(sector)?.together ?? []) {
        const cached = this.#cache.get(other);
        if (cached) this.#cache.set(other, { ...cached, together: [other] });
      }
    }
    for (const sector of together) this.#cache.set(sector, { together, stubborn });
    const isCached = cache === 'volatile' || lies.includes('claimWriteThrough');
    const isForced = !isCached || (request.fua && !lies.includes('ignoreFua'));
    if (isForced && !stubborn) this.#destage(first);
  }

  #destage(sector: number): void {
    for (const other of this.#cache.get(sector)?.together ?? []) this.#cache.delete(other);
  }
}

function isStep(op: DiskRequest['op']): op is 'read' | 'flush' {
  return op === 'read' || op === 'flush';
}

const tags = fc.constantFrom('simple' as const, 'simple' as const, 'ordered' as const);
const range = fc
  .tuple(fc.nat({ max: SECTORS - 1 }), fc.integer({ min: 0, max: 4 }))
  .map(([first, count]) => ({
    offset: first * SECTOR,
    length: Math.min(count, SECTORS - first) * SECTOR,
  }));
const writes = fc
  .record({
    op: fc.constantFrom('write' as const, 'write' as const, 'writeZeroes' as const),
    ...{ where: range, tag: tags, fua: fc.boolean() },
  })
  .map(({ where, ...rest }): DiskRequest => ({ ...rest, ...where }));
const others = fc
  .record({ op: fc.constantFrom('read' as const, 'flush' as const), where: range, tag: tags })
  .map(({ op, where, tag }): DiskRequest => {
    return { op, tag, fua: false, ...(op === 'read' ? where : { offset: 0, length: 0 }) };
  });
const fates = fc.constantFrom(undefined, undefined, undefined, 'stray', 'unserializable' as const);
const pick = fc.nat();
type Event =
  | { readonly kind: 'dispatch'; readonly request: DiskRequest; readonly fate: Fate | undefined }
  | { readonly kind: 'step' | 'answer' | 'fail'; readonly pick: number }
  | { readonly kind: 'drop' };

const dispatches = fc.oneof(
  { weight: 3, arbitrary: fc.record({ request: writes, fate: fates }) },
  { weight: 1, arbitrary: fc.record({ request: others, fate: fc.constant(undefined) }) },
);
const events: fc.Arbitrary<Event> = fc.oneof(
  { weight: 5, arbitrary: dispatches.map((what) => ({ kind: 'dispatch' as const, ...what })) },
  { weight: 7, arbitrary: fc.record({ kind: fc.constant('step' as const), pick }) },
  { weight: 3, arbitrary: fc.record({ kind: fc.constant('answer' as const), pick }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('fail' as const), pick }) },
  { weight: 1, arbitrary: fc.constant({ kind: 'drop' as const }) },
);

const profiles: fc.Arbitrary<DeviceProfile> = fc
  .record({
    sameLba: fc.constantFrom('fifo' as const, 'fifo' as const, 'racy' as const),
    orderedTags: fc.constantFrom(true, true, false),
    lies: fc.subarray(['ignoreFlush', 'ignoreFua', 'ignoreTags'] as const, { maxLength: 1 }),
    cache: fc.constantFrom('volatile' as const, 'volatile' as const, 'none' as const),
    atomicWriteUnit: fc.constantFrom(SECTOR, 2 * SECTOR, 4 * SECTOR),
  })
  .map((fields) => {
    const lies = fields.lies.filter((lie) => lie !== 'ignoreTags' || fields.orderedTags);
    return deviceProfile({ ...fields, lies, writeZeroes: true, sectorSize: SECTOR });
  });

describe('given any device, commands, faults and order of steps', () => {
  test('the steps that it may take next are those of the plain description, at every moment', () => {
    const seen = { steps: 0, waiting: 0, late: 0 };
    fc.assert(
      fc.property(
        profiles,
        fc.array(events, { minLength: 5, maxLength: 60, size: 'max' }),
        (profile, all) => {
          const device = new Device(SECTORS * SECTOR, profile);
          const plain = new PlainDevice(profile);
          const open = new Set<number>();
          for (const event of all) {
            if (!happen(event, device, plain, open)) continue;
            const expected = plain.steps();
            expect(device.steps().map(stepText).sort()).toEqual(expected);
            seen.steps += expected.length;
            const own = expected.filter((text) => !text.startsWith('destage'));
            const moving = new Set(own.map((text) => Number(text.split(' ')[1])));
            for (const [n, { fate, pending, isAnswered }] of plain.commands.entries()) {
              if (pending.size === 0 || moving.has(n)) continue;
              seen.waiting += 1;
              if (fate === 'stray' && isAnswered) seen.late += 1;
            }
          }
        },
      ),
      { numRuns: share(5000) },
    );
    // The runs were about something: commands had to wait, also strays that had been answered.
    expect(seen.steps).toBeGreaterThan(1000);
    expect(seen.waiting).toBeGreaterThan(1000);
    expect(seen.late).toBeGreaterThan(10);
  });
});

/** Tells both devices; false if the event is impossible now. */
function happen(event: Event, device: Device, plain: PlainDevice, open: Set<number>): boolean {
  if (event.kind === 'dispatch') {
    const { request, fate } = event;
    const data = request.op === 'write' ? { data: new Uint8Array(request.length) } : {};
    open.add(device.dispatch({ ...request, ...data }, fate));
    plain.dispatch(request, fate);
    return true;
  }
  if (event.kind === 'drop') {
    device.drop(false);
    plain.drop();
    return true;
  }
  if (event.kind === 'step') {
    const steps = device.steps();
    const step = steps[event.pick % steps.length];
    if (!step) return false;
    plain.take(step);
    device.take(step);
    return true;
  }
  const those = event.kind === 'fail' ? [...open] : [...open].filter((n) => device.isDone(n));
  const n = those[event.pick % those.length];
  if (n === undefined) return false;
  if (event.kind === 'fail') {
    device.fail(n);
    plain.fail(n);
    return true;
  }
  device.answered(n);
  (plain.commands[n] as Command).isAnswered = true;
  open.delete(n);
  return true;
}

test('given any members, when some leave a list without order, then it has the others, each once', () => {
  fc.assert(
    fc.property(fc.array(fc.option(fc.nat(), { freq: 3 })), (all) => {
      const list: { place: number }[] = [];
      const plain: { place: number }[] = [];
      for (const pick of all) {
        if (pick === null || plain.length === 0) {
          const one = { place: 0 };
          enter(list, one);
          plain.push(one);
        } else {
          leave(list, plain.splice(pick % plain.length, 1)[0] as { place: number });
        }
        expect(new Set(list)).toEqual(new Set(plain));
        expect(list.map(({ place }) => place)).toEqual([...list.keys()]);
      }
    }),
    { numRuns: share(500) },
  );
});

interface One extends Due<One> {}

test('given any keys, when a heap is emptied at any moments, then the least comes first, and of equals the older one', () => {
  const changes = fc.array(fc.option(fc.nat({ max: 5 }), { freq: 3 }), { maxLength: 40 });
  fc.assert(
    fc.property(changes, (all) => {
      let heap: One | undefined;
      const plain: One[] = [];
      for (const [nth, key] of all.entries()) {
        if (key === null) {
          heap = heap && withoutFirst(heap);
          plain.shift();
        } else {
          const one = { key, nth };
          heap = melded(heap, one);
          plain.push(one);
          plain.sort((a, b) => a.key - b.key);
        }
        expect(heap).toBe(plain[0]);
      }
    }),
    { numRuns: share(500) },
  );
});

test('given ten thousand members in any order, when a heap takes them, then no way to the right is longer than the logarithm', () => {
  for (const keyOf of [(n: number) => n, (n: number) => -n, (n: number) => (n * 7919) % 10_007]) {
    let heap: One | undefined;
    let worst = Number.NEGATIVE_INFINITY;
    for (let nth = 0; nth < 10_000; nth++) heap = melded(heap, { key: keyOf(nth), nth });
    for (let left = 10_000; heap; left--) {
      worst = Math.max(worst, (heap.rank ?? 1) - Math.log2(left + 1));
      heap = withoutFirst(heap);
    }
    expect(worst).toBeLessThanOrEqual(0);
  }
});
