// A load for a server that is killed again and again, and what must be on its medium after each kill.
//
// A scheduler writes numbers in groups, with a barrier behind each. After each kill the medium must have all of every
// group but the last that it has anything of, and all of what was flushed. In the end it must have everything.

import { expect } from 'vitest';
import { IoScheduler, type ModeName } from '../../src/index.js';
import type { NbdStorage } from '../../src/nbd/index.js';
import type { Server } from './nbd-client-servers.js';

export const BLOCK = 4096;
/** Writes between two barriers; every eighth of them has FUA. */
const GROUP = 40;

/** The number that a block was filled with. */
export function stampsOf(bytes: Uint8Array): number[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  return Array.from({ length: bytes.length / BLOCK }, (_, block) => view.getUint32(block * BLOCK));
}

export function stamped(value: number): Uint8Array {
  const bytes = new Uint8Array(BLOCK);
  const view = new DataView(bytes.buffer);
  for (let at = 0; at < BLOCK; at += 4) view.setUint32(at, value);
  return bytes;
}

/** What is killed, and how its medium is looked at. */
export interface Killing {
  readonly storage: NbdStorage;
  readonly server: Server;
  readonly mode: ModeName;
  /** All bytes of the medium, while the server is dead. */
  medium(): Uint8Array | Promise<Uint8Array>;
  readonly kills: number;
}

/** What the kills have met. */
export interface Met {
  /** Writes that were carried out. */
  readonly written: number;
  /** Kills after which something that had been answered was not on the medium: the cache was really volatile. */
  readonly lossy: number;
}

const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

/** @throws where something that was accepted is lost in the end, or the order is broken after any kill */
export async function killUnderLoad(killing: Killing): Promise<Met> {
  const { storage, server, mode, medium, kills } = killing;
  const scheduler = new IoScheduler(storage, { mode });
  const blocks = storage.size / BLOCK;
  /** What each block was given, with the group. */
  const history: { readonly stamp: number; readonly group: number }[][] = [];
  for (let block = 0; block < blocks; block += 1) history.push([{ stamp: 0, group: -1 }]);
  const groupOf = new Map<number, number>([[0, -1]]);
  const answered = new Map<number, number>();
  let [stamp, flushedGroup, stop] = [0, -1, false];
  /** Answers so far. A kill waits for some more of them, and not for a time, because a busy machine may get none in it. */
  let answers = 0;

  const load = async (): Promise<void> => {
    for (let group = 0; !stop; group += 1) {
      const taken = new Set<number>();
      const writes: Promise<void>[] = [];
      for (let i = 0; i < GROUP; i += 1) {
        const block = Math.floor(Math.random() * blocks);
        if (taken.has(block)) continue;
        taken.add(block);
        stamp += 1;
        const mine = stamp;
        groupOf.set(mine, group);
        history[block]?.push({ stamp: mine, group });
        const write = scheduler.write(block * BLOCK, stamped(mine), { fua: i % 8 === 0 });
        const noted = write.then(() => {
          answered.set(block, mine);
          answers += 1;
        });
        writes.push(noted);
      }
      await Promise.all([...writes, scheduler.barrier()]);
      flushedGroup = group;
      answers += 1;
    }
  };
  const check = (found: readonly number[], flushed: number): void => {
    const newest = Math.max(flushed + 1, ...found.map((value) => groupOf.get(value) ?? 1e9));
    for (const [block, versions] of history.entries()) {
      const floor = versions.filter(({ group }) => group < newest).at(-1) ?? { stamp: 0 };
      if ((found[block] as number) < floor.stamp) {
        throw new Error(`block ${block} has ${found[block]}, and group ${newest} is there`);
      }
    }
  };

  const running = load();
  // A load that fails ends the test at once: after it, the storage may never be connected again.
  const failed = new Promise<never>((_, reject) => running.catch(reject));
  failed.catch(() => {});
  const until = async (holds: () => boolean): Promise<void> => {
    while (!holds()) await Promise.race([pause(1), failed]);
  };
  let lossy = 0;
  // More of them where none has taken anything yet: on a busy machine a kill may come when all is on the medium.
  for (let kill = 0; kill < kills || (lossy === 0 && kill < 5 * kills); kill += 1) {
    await until(() => storage.state === 'connected');
    const enough = answers + Math.random() * 2 * GROUP;
    await until(() => answers >= enough);
    await pause(Math.random() * 5);
    await server.kill();
    // What is answered is answered before the kill; the medium is as the kill left it.
    const [flushed, before] = [flushedGroup, new Map(answered)];
    const found = stampsOf(await medium());
    check(found, flushed);
    if ([...before].some(([block, value]) => (found[block] as number) < value)) lossy += 1;
    await server.start();
  }
  stop = true;
  await running;
  await scheduler.flush();
  const last = history.map((versions) => versions.at(-1)?.stamp);
  expect(stampsOf(await medium())).toEqual(last);
  return { written: stamp, lossy };
}
