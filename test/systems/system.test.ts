// Every system of the table, in every era, opened in the one way: it takes a program, keeps what it answers, is idle.

import { existsSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { MemoryStorage, type TraceEvent } from 'write-barrier';
import { openSystem, SYSTEMS, type SystemName } from 'write-barrier/systems';

const BLOCK = 4096;
const names = Object.keys(SYSTEMS) as SystemName[];
const openings = names.flatMap((name) => {
  const eras = Object.keys(SYSTEMS[name].eras);
  return [undefined, ...eras].map((era) => ({ name, era, what: `${name} ${era ?? '(no era)'}` }));
});
const disk = () =>
  new MemoryStorage(64 * BLOCK, { capabilities: { cache: 'volatile', orderedTags: false } });
const write = (block: number) => ({ kind: 'write', offset: block * BLOCK, length: BLOCK }) as const;
const bytes = (fill: number): Uint8Array => new Uint8Array(BLOCK).fill(fill);

describe.each(openings)('given $what', ({ name, era }) => {
  test('when it is opened, then it writes, reads what was written, and is idle', async () => {
    const storage = disk();
    const events: TraceEvent[] = [];
    const observer = (event: TraceEvent): void => void events.push(event);
    const system = await openSystem(name, { storage, observer, ...(era && { era }) });
    const answers = [1, 2].map((block) => system.submit(write(block), bytes(block)));
    await system.idle();
    await Promise.all(answers);
    const into = new Uint8Array(BLOCK);
    expect(await system.submit({ kind: 'read', offset: BLOCK, length: BLOCK }, into)).toEqual(
      bytes(1),
    );
    expect(storage.bytes[2 * BLOCK]).toBe(2);
    expect(events.filter(({ kind }) => kind === 'dispatch').length).toBeGreaterThanOrEqual(3);
    expect(system.chosen).toMatch(/^[A-Za-z]/);
  });

  test('when it has an era, then another one is refused, and the message lists those it has', async () => {
    const opening = openSystem(name, { storage: disk(), era: 'of the steam engine' });
    await expect(opening).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
    await expect(opening).rejects.toThrow(
      Object.keys(SYSTEMS[name].eras).join(', ') || 'era must be left out',
    );
  });
});

describe.each(names)('given the row of %s', (name) => {
  test('then its page exists, its era is one of its eras, and it says where it can be read', () => {
    const { page, era, eras, years, what, witness } = SYSTEMS[name];
    expect(existsSync(new URL(`../../${page}`, import.meta.url))).toBe(true);
    if (era !== undefined) expect(Object.keys(eras)).toContain(era);
    for (const text of [years, what, witness]) expect(text).not.toBe('');
  });
});

test.each(['qemu-2009', 'posix-aio'] as const)(
  'given %s, when a request is asked back, then its answer is that of qemu_paio_cancel',
  async (name) => {
    const system = await openSystem(name, { storage: disk() });
    await system.submit(write(0), bytes(1));
    expect(system.cancel?.(0)).toBe('all done');
    expect(() => system.cancel?.(1)).toThrow('nth must be below 1');
  },
);

test('given an option of another system, then it is refused by name', async () => {
  const opening = openSystem('tapdisk', { storage: disk(), threadsMax: 1 });
  await expect(opening).rejects.toThrow("openSystem of tapdisk has no option 'threadsMax'");
});

test('given a kernel without ordered modes, when a mode is asked for, then it is refused', async () => {
  const opening = openSystem('linux', { storage: disk(), era: '2.6.39', mode: 'TAG' });
  await expect(opening).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
});

test('given the Solaris guest, when it is asked for a barrier, then it refuses, and nothing is written', async () => {
  const storage = disk();
  const system = await openSystem('solaris', { storage });
  const barrier = system.submit({ ...write(0), barrier: true }, bytes(1));
  await expect(barrier).rejects.toMatchObject({ code: 'EOPNOTSUPP' });
  expect(storage.bytes[0]).toBe(0);
});
