// @ts-check
// The museum's inventory: who had barriers, and when. A row is a system of some year over a disk; those marked `ours` are
// this library's. How each of them is asked stands in systems.mjs, and what a row is worth is written nowhere.

import {
  ARRANGEMENTS,
  BLKBACK_ERAS as BACK,
  BLKFRONT_ERAS as FRONT,
  QEMU_2009,
  QEMU_REPAIRED,
  TAPDISK_2010,
  TAPDISK_BEFORE,
  TAPDISK_REPAIRED,
} from 'write-barrier/systems';
import {
  flushMachine,
  linux,
  loopback,
  old,
  ours,
  plainFile,
  posixAio,
  qemu,
  scheduler,
  solaris,
  stack,
  stackName,
  takingBack,
  tapdisk,
  twoBios,
  twoRings,
  virtio,
  xen,
} from './systems.mjs';

/** @import { Exhibit } from './engine.mjs' */

const NO_CACHE = { disk: { cache: /** @type {const} */ ('none') } };
const NO_WAIT = { client: /** @type {const} */ ('no wait') };
const WAITS = { client: /** @type {const} */ ('waits') };
const CANCELS = { cancels: true };
const OURS = { ours: true };
/** What a frontend reads of a backend that offers barriers only. */
const BARRIERS = { 'feature-barrier': '1', 'feature-flush-cache': '0' };

/** @type {Readonly<Record<string, readonly Exhibit[]>>} */
export const HALLS = {
  ours: [
    { name: 'DRAIN_FLUSH', ...scheduler('DRAIN_FLUSH') },
    { name: 'DRAIN_FUA', ...scheduler('DRAIN_FUA') },
    { name: 'TAG_FLUSH', ...scheduler('TAG_FLUSH') },
    { name: 'TAG_FUA', ...scheduler('TAG_FUA') },
    { name: 'TAG, no cache', ...scheduler('TAG'), ...NO_CACHE },
  ],
  linux: [
    { name: '2.6.24, TAG, no cache', ...linux('2.6.24', 'TAG'), ...NO_CACHE },
    { name: '2.6.32, TAG, no cache', ...linux('2.6.32', 'TAG'), ...NO_CACHE },
    { name: '2.6.32, DRAIN_FLUSH', ...linux('2.6.32', 'DRAIN_FLUSH') },
    { name: '2.6.36, DRAIN_FLUSH', ...linux('2.6.36', 'DRAIN_FLUSH') },
    { name: '2.6.36, TAG', ...linux('2.6.36', 'TAG') },
    { name: '2.6.36, TAG_FLUSH', ...linux('2.6.36', 'TAG_FLUSH') },
    { name: '2.6.37, nobody waits', ...flushMachine('2.6.37'), ...NO_WAIT },
    { name: '2.6.37, who waits', ...flushMachine('2.6.37'), ...WAITS },
    { name: '2.6.39, nobody waits', ...flushMachine('2.6.39'), ...NO_WAIT },
    { name: '2.6.39, who waits', ...flushMachine('2.6.39'), ...WAITS },
  ],
  qemu: [
    { name: 'May 2009', ...qemu(QEMU_2009, 64) },
    { name: 'May 2009, b2 cancelled', ...qemu(QEMU_2009, 64), ...CANCELS },
    { name: 'May 2009, b2 cancelled, 1 worker', ...qemu(QEMU_2009, 1), ...CANCELS },
    { name: 'repaired', ...qemu(QEMU_REPAIRED, 64) },
    { name: 'repaired, b2 cancelled', ...qemu(QEMU_REPAIRED, 64), ...CANCELS },
    { name: 'repaired, b2 cancelled, 1 worker', ...qemu(QEMU_REPAIRED, 1), ...CANCELS },
    { name: 'PosixAio', ...posixAio, ...OURS },
    { name: 'PosixAio, b2 cancelled', ...posixAio, ...CANCELS, ...OURS },
  ],
  blktap: [
    { name: 'before the patch', ...tapdisk(TAPDISK_BEFORE) },
    { name: 'November 2010', ...tapdisk(TAPDISK_2010) },
    { name: 'repaired', ...tapdisk(TAPDISK_REPAIRED) },
    { name: 'fileStorage', ...plainFile, ...OURS },
  ],
  virtio: [
    { name: 'before the patch, FLUSH', ...virtio('beforePatch') },
    { name: 'before it, BARRIER', ...virtio('beforePatch', ['BARRIER']) },
    { name: 'before it, neither', ...virtio('beforePatch', []) },
    { name: 'after it, neither', ...virtio('afterPatch', []) },
    { name: 'after it, neither, no cache', ...virtio('afterPatch', []), ...NO_CACHE },
    { name: 'today, FLUSH', ...virtio('linuxToday'), ...WAITS },
    { name: 'virtioStorage', ...virtio('specification'), ...OURS },
  ],
  xen: [
    { name: '2.6.36 on 2.6.18', ...xen(FRONT['linux-2.6.36'], old(BACK['xenlinux-2.6.18'])) },
    { name: '2.6.36 on 2006', ...xen(FRONT['linux-2.6.36'], old(BACK['xenlinux-2006'])) },
    { name: '2.6.36 on 3.2', ...xen(FRONT['linux-2.6.36'], old(BACK['linux-3.2'])) },
    {
      name: '2.6.36 on 4.x, two rings',
      ...xen(FRONT['linux-2.6.36'], twoRings(BACK['linux-4.x-multi-ring'])),
    },
    { name: '5.x on 3.2, by flush', ...xen(FRONT['linux-5.x'], old(BACK['linux-3.2'])), ...WAITS },
    {
      name: '5.x on 3.2, by barrier',
      ...xen(FRONT['linux-5.x'], old(BACK['linux-3.2']), BARRIERS),
      ...WAITS,
    },
    {
      name: '5.x, b2 not supported',
      ...xen(FRONT['linux-5.x'], takingBack(2), BARRIERS),
      ...WAITS,
    },
    {
      name: '5.x on 3.2, two errors',
      ...xen(FRONT['linux-5.x'], twoBios(BACK['linux-3.2']), BARRIERS),
      ...WAITS,
      program: 'w0 w1 b2+2 w4 f',
      failures: [{ on: 'write', nth: 2 }],
    },
    { name: 'BlkFrontend on blkback', ...loopback, ...OURS },
  ],
  solaris: [
    { name: '(c) flush operation', ...solaris(ours, { ways: ['flush operation'] }), ...OURS },
    { name: '(b) empty barrier', ...solaris(ours, { ways: ['empty barrier'] }), ...OURS },
    { name: '(a) old write', ...solaris(ours, { ways: ['old write'] }), ...OURS },
    { name: 'cache off', ...solaris(ours, { writeCache: false }), ...OURS },
    { name: '(a) old write, on 3.2', ...solaris(old(BACK['linux-3.2']), { ways: ['old write'] }) },
    { name: 'cache off, on 3.2', ...solaris(old(BACK['linux-3.2']), { writeCache: false }) },
  ],
  stacks: ARRANGEMENTS.filter(({ queue }) => queue === 'own').map((arrangement) => ({
    name: stackName(arrangement),
    ...stack(arrangement),
  })),
};
