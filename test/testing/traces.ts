// Small random traces, and the states that a power cut may leave of them found in three other ways: by the axioms
// word for word over all subsets, by all runs of the device step by step, and by lazy exploration.

import fc from 'fast-check';
import { Device, type DeviceStep } from '../../src/testing/device/device.js';
import {
  type DiskCommand,
  DiskRecorder,
  type DiskTrace,
} from '../../src/testing/device/disk-trace.js';
import { type DeviceProfile, deviceProfile } from '../../src/testing/device/profile.js';
import type { CrashSpace } from '../../src/testing/space/crash-space.js';
import { Chooser } from '../kit/explore.js';

export const SECTOR = 512;
export const SECTORS = 3;

/** The largest size of a disk that is resized, in sectors. */
export const SECTORS_MAX = 4;

type Asked = Pick<DiskCommand, 'op' | 'offset' | 'length' | 'tag' | 'fua' | 'size'>;

const range = fc
  .tuple(fc.nat({ max: SECTORS - 1 }), fc.integer({ min: 1, max: 3 }))
  .map(([first, sectors]) => ({
    offset: first * SECTOR,
    length: Math.min(sectors, SECTORS - first) * SECTOR,
  }));

const tags = fc.constantFrom('simple' as const, 'simple' as const, 'ordered' as const);

const asked: fc.Arbitrary<Asked> = fc.oneof(
  {
    weight: 4,
    arbitrary: fc
      .tuple(range, tags, fc.boolean())
      .map(([where, tag, fua]): Asked => ({ op: 'write', ...where, tag, fua })),
  },
  {
    weight: 2,
    arbitrary: tags.map((tag): Asked => ({ op: 'flush', offset: 0, length: 0, tag, fua: false })),
  },
  {
    weight: 1,
    arbitrary: range.map((where): Asked => ({ op: 'read', ...where, tag: 'simple', fua: false })),
  },
);

/** Growth may be asked of any size, so the size before is found when it is sent. */
export const resizeTo = (sectors: number): Asked => ({
  ...{ op: 'writeZeroes', offset: 0, length: 0, tag: 'simple', fua: false, size: sectors * SECTOR },
});

const behind: fc.Arbitrary<Asked> = fc
  .tuple(fc.integer({ min: 1, max: SECTORS }), fc.integer({ min: 1, max: 2 }), fc.boolean())
  .map(([first, sectors, fua]) => {
    const length = Math.min(sectors, SECTORS_MAX - first) * SECTOR;
    return { op: 'write', offset: first * SECTOR, length, tag: 'simple', fua };
  });

const resizing: fc.Arbitrary<Asked> = fc.oneof(
  { weight: 3, arbitrary: asked },
  { weight: 2, arbitrary: behind },
  { weight: 3, arbitrary: fc.integer({ min: 1, max: SECTORS_MAX }).map(resizeTo) },
);

/** What a host does: it dispatches the next command, or takes the answer of one that is open. */
export interface Host {
  readonly commands: readonly Asked[];
  /** Each number picks among what is possible. */
  readonly picks: readonly number[];
}

export const hosts = (commandsMax: number, resizes = false): fc.Arbitrary<Host> =>
  fc.record({
    commands: fc.array(resizes ? resizing : asked, { minLength: 1, maxLength: commandsMax }),
    picks: fc.array(fc.nat({ max: 11 }), { minLength: 4, maxLength: 4 * commandsMax }),
  });

export const profiles: fc.Arbitrary<DeviceProfile> = fc
  .record({
    cache: fc.constantFrom('volatile' as const, 'volatile' as const, 'none' as const),
    lies: fc.subarray(['ignoreFlush', 'ignoreFua', 'ignoreTags', 'claimWriteThrough'] as const, {
      maxLength: 1,
    }),
    atomicWriteUnit: fc.constantFrom(SECTOR, SECTOR, 2 * SECTOR, 4 * SECTOR),
  })
  .map(({ cache, ...fields }) => {
    const hidden = fields.lies.includes('claimWriteThrough');
    const device = { ...fields, cache: hidden ? ('none' as const) : cache };
    return deviceProfile({ ...device, orderedTags: true, sectorSize: SECTOR });
  });

/** Overlapping commands at the device together are a hazard; the device and the axioms may differ about them. */
export function meets(a: Asked, b: Asked): boolean {
  return a.offset < endOf(b) && b.offset < endOf(a);
}

/** Where the bytes end that must not be asked for while the command runs: a resize keeps all from the smaller size on (S13). */
function endOf({ offset, length, size }: Asked): number {
  return size === undefined ? offset + length : Number.POSITIVE_INFINITY;
}

/** The command on a disk of that size: a resize from there; undefined if it is about nothing there. */
function fitted(command: Asked, size: number): Asked | undefined {
  const { op, offset, length, size: to } = command;
  if (op === 'flush') return command;
  if (to === undefined) {
    return offset < size ? { ...command, length: Math.min(length, size - offset) } : undefined;
  }
  const range = { offset: Math.min(to, size), length: Math.abs(to - size) };
  return to === size
    ? undefined
    : { ...command, op: to > size ? 'writeZeroes' : 'discard', ...range };
}

export interface Played {
  readonly trace: DiskTrace;
  /** The dispatches and answers in order: the number of a command, and what happened. */
  readonly events: readonly { readonly command: number; readonly kind: 'dispatch' | 'answer' }[];
}

/** A trace in which the device answers only what it may, since it obeys tags. */
export function playedBy(host: Host, profile: DeviceProfile): Played {
  const recorder = new DiskRecorder(SECTORS * SECTOR);
  const device = new Device(SECTORS * SECTOR, profile);
  const events: Played['events'][number][] = [];
  const open: number[] = [];
  let next = 0;
  let size = SECTORS * SECTOR;
  const sent: Asked[] = [];
  for (const pick of host.picks) {
    const asked = host.commands[next];
    const command = asked && fitted(asked, size);
    if (asked && !command) {
      next += 1;
      continue;
    }
    const clash =
      command &&
      open.some((n) => {
        const other = sent[n] as Asked;
        const isResize = command.size !== undefined || other.size !== undefined;
        return (isResize || profile.sameLba === 'fifo') && meets(other, command);
      });
    if (command && !clash && pick % 2 === 0) {
      const number = sent.push(command) - 1;
      const data =
        command.op === 'write' ? new Uint8Array(command.length).fill(number + 1) : undefined;
      device.dispatch({ ...command, ...(data && { data }) });
      recorder.dispatch(command, data);
      events.push({ command: number, kind: 'dispatch' });
      open.push(number);
      size = command.size ?? size;
      next += 1;
    } else if (open.length > 0) {
      const n = open[(pick >> 1) % open.length] as number;
      finish(device, n);
      device.answered(n);
      recorder.complete(n);
      events.push({ command: n, kind: 'answer' });
      open.splice(open.indexOf(n), 1);
    }
  }
  return { trace: recorder.trace, events };
}

/** Does what must be done before a command is. */
function finish(device: Device, command: number): void {
  while (!device.isDone(command)) {
    const step = device.steps().find((candidate) => candidate.kind !== 'destage');
    device.take(step as DeviceStep);
  }
}

/** Every medium that some run of the device leaves, with the moment: how much had happened, and one digit a sector. */
export function operational({ trace, events }: Played, profile: DeviceProfile): Set<string> {
  const found = new Set<string>();
  const seen = new Set<string>();
  const explore = (history: readonly DeviceStep[][], at: number): void => {
    const device = replay(trace, events, history, at, profile);
    const key = `${at} ${stateOf(device)}`;
    if (seen.has(key)) return;
    seen.add(key);
    for (const medium of mediaOf(device)) found.add(`${at}: ${textOf(medium)}`);
    for (const step of device.steps()) {
      const grown = [...history];
      grown[at] = [...(history[at] ?? []), step];
      explore(grown, at);
    }
    const event = events[at];
    if (event && (event.kind === 'dispatch' || device.isDone(event.command)))
      explore(history, at + 1);
  };
  explore([], 0);
  return found;
}

/** Every medium that a power cut may leave now, torn or not. */
function mediaOf(device: Device): Uint8Array[] {
  const chooser = new Chooser();
  const media: Uint8Array[] = [];
  do
    media.push(
      device.medium((remains) => [undefined, ...remains][chooser.choose(remains.length + 1)]),
    );
  while (chooser.advance());
  return media;
}

function replay(
  trace: DiskTrace,
  events: Played['events'],
  history: readonly DeviceStep[][],
  at: number,
  profile: DeviceProfile,
): Device {
  const device = new Device(trace.size, profile);
  for (let i = 0; i <= at; i++) {
    for (const step of history[i] ?? []) device.take(step);
    const event = events[i];
    if (i === at || !event) continue;
    if (event.kind === 'dispatch') device.dispatch(trace.commands[event.command] as DiskCommand);
    else device.answered(event.command);
  }
  return device;
}

function stateOf(device: Device): string {
  const seen = new Uint8Array(SECTORS_MAX * SECTOR);
  device.read(0, seen);
  // Sorted, because the order of the steps tells only how the device came here.
  const steps = device.steps().map(stepText).sort();
  return [textOf(device.medium()), textOf(seen), device.open, ...steps].join('|');
}

/** A step as text. */
export function stepText(step: DeviceStep): string {
  return step.kind === 'destage'
    ? `destage ${step.sector}`
    : `${step.kind} ${step.command} ${step.sector}`;
}

/** Each half of a sector of these images is filled with one byte. */
export function textOf(image: Uint8Array): string {
  const sectors = Array.from({ length: image.length / SECTOR }, (_, i) => {
    const [head, tail] = [image[i * SECTOR], image[(i + 1) * SECTOR - 1]];
    return head === tail ? head : `${head}/${tail}`;
  });
  return sectors.join(' ');
}

const NEVER = Number.POSITIVE_INFINITY;

/** The axioms of the documentation word for word: every subset of sector writes, at every moment; as above. */
export function byAxioms(
  { size: initial, commands }: DiskTrace,
  profile: DeviceProfile,
): Set<string> {
  const tagged = (x: number, y: number): boolean => {
    if (y <= x || profile.lies.includes('ignoreTags')) return false;
    return commands.slice(x, y + 1).some(({ tag }) => tag === 'ordered');
  };
  const isCached = profile.cache === 'volatile' || profile.lies.includes('claimWriteThrough');
  const all = commands.map((command, n) => ({ ...command, n }));
  const flushes = all.filter(({ op }) => op === 'flush' && !profile.lies.includes('ignoreFlush'));
  const behind = (n: number) => all.filter((q) => tagged(n, q.n));
  const least = (...times: number[]): number => Math.min(NEVER, ...times);
  const isForced = ({ fua }: DiskCommand): boolean =>
    !isCached || (fua && !profile.lies.includes('ignoreFua'));
  const bounds = all.map((r) => {
    const after = behind(r.n);
    if (!isCached) {
      const U = least(r.completed, ...after.map(({ completed }) => completed));
      return { U, R: least(U, ...after.map(({ dispatched }) => dispatched)) };
    }
    const covering = flushes.filter((f) => f.dispatched > r.completed || tagged(r.n, f.n));
    const proofs = covering.flatMap((f) => [f.completed, ...behind(f.n).map((q) => q.completed)]);
    const own = isForced(r) ? [r.completed, ...after.map((q) => q.completed)] : [];
    const U = least(...proofs, ...own);
    const fences = covering.flatMap((f) => behind(f.n).map((q) => q.dispatched));
    return { U, R: least(U, ...fences, ...(isForced(r) ? after.map((q) => q.dispatched) : [])) };
  });
  const unit = profile.atomicWriteUnit / SECTOR;
  // What is carried out as a whole: a write within a unit, or a sector.
  const pieces = all.flatMap((r) => {
    if (r.op !== 'write' && r.size === undefined) return [];
    const [first, end] = [r.offset / SECTOR, (r.offset + r.length) / SECTOR];
    const sectors = Array.from({ length: end - first }, (_, i) => first + i);
    // A resize writes the size as well, which is sector -1, each by itself.
    if (r.size !== undefined) sectors.push(-1);
    const fits = r.size === undefined && Math.floor(first / unit) === Math.floor((end - 1) / unit);
    return (fits ? [sectors] : sectors.map((sector) => [sector])).map((mine) => ({
      ...{ n: r.n, I: r.dispatched, forced: isForced(r), sectors: mine },
      ...(bounds[r.n] as { U: number; R: number }),
    }));
  });
  type Part = (typeof pieces)[number];
  const atoms = pieces.flatMap((piece) =>
    piece.sectors.map((sector) => ({ ...piece, piece, sector })),
  );
  const meets = (a: Part, b: Part): boolean => a.sectors.some((s) => b.sectors.includes(s));
  /** What has landed when this one has: what is older and meets it, was answered before or has tags, and so on. */
  const landed = (q: Part): Part[] => {
    const before = (r: Part): boolean =>
      meets(r, q) || tagged(r.n, q.n) || (commands[r.n] as DiskCommand).completed < q.I;
    const found = pieces.filter((r) => r.n < q.n && before(r));
    return [...new Set(found.flatMap((r) => [r, ...landed(r)]))];
  };
  const found = new Set<string>();
  const end = all.reduce((sum, { completed }) => sum + (completed < NEVER ? 2 : 1), 0);
  for (let t = -0.5; t < end; t++) {
    for (let bits = 0; bits < 2 ** atoms.length; bits++) {
      const inD = (i: number): boolean => ((bits >> i) & 1) === 1;
      const isThere = (p: Part, s: number): boolean =>
        inD(atoms.findIndex(({ piece, sector }) => piece === p && sector === s));
      const out = atoms.filter((_, i) => !inD(i));
      // (1) to (3), and the same for what has landed: it is not before what must be on the medium before it.
      const mayLand = (q: Part): boolean => q.I < t && out.every(({ R }) => R > q.I);
      const closed = atoms.every((a, i) =>
        inD(i) ? mayLand(a) && out.every((b) => b.sector !== a.sector || b.n > a.n) : a.U >= t,
      );
      if (!closed) continue;
      // (4) A piece is there as a whole, or is seen nowhere, or another one has broken it up in the cache.
      const legal = pieces.every((p) => {
        const there = p.sectors.filter((s) => isThere(p, s));
        if (there.length === 0 || there.length === p.sectors.length) return true;
        if (p.forced) return false;
        const seen = there.filter(
          (s) => !atoms.some((a, j) => inD(j) && a.sector === s && a.n > p.n),
        );
        if (seen.length === 0) return true;
        return pieces.some(
          (q) =>
            q.n > p.n &&
            meets(q, p) &&
            mayLand(q) &&
            [q, ...landed(q)].every(
              (r) =>
                (r.n <= p.n || !r.sectors.some((s) => seen.includes(s))) &&
                (!r.forced || r.sectors.every((s) => isThere(r, s))),
            ),
        );
      });
      if (!legal) continue;
      const resize = atoms.filter((atom, i) => inD(i) && atom.sector === -1).at(-1);
      const size = (resize && commands[resize.n]?.size) ?? initial;
      // (5) A forced write is in front of the end, from when it must be there until another resize.
      const fits = all.every((w) => {
        if (w.op !== 'write' || !isForced(w) || w.offset + w.length <= size) return true;
        if (w.n < (resize?.n ?? -1)) return true;
        const { U, R } = bounds[w.n] as { U: number; R: number };
        return U >= t && atoms.every((atom, i) => !inD(i) || R > atom.I);
      });
      if (!fits) continue;
      const image = new Array<number>(SECTORS_MAX).fill(0);
      for (const [i, { sector, n }] of atoms.entries()) {
        if (inD(i) && sector >= 0) image[sector] = commands[n]?.size === undefined ? n + 1 : 0;
      }
      found.add(`${t + 0.5}: ${image.slice(0, size / SECTOR).join(' ')}`);
    }
  }
  return found;
}

/** The states of a space in the same form: at each moment those whose window is open. */
export function byMoment(space: CrashSpace, moments: number): Set<string> {
  const found = new Set<string>();
  for (const state of space) {
    for (let at = 0; at <= moments; at++) {
      const open = state.after < at - 0.5 && at - 0.5 < state.before;
      if (open) found.add(`${at}: ${textOf(state.image())}`);
    }
  }
  return found;
}
