// @ts-check
// How long simulated disks take: figures that later measurements are compared by, so a change here is a change of all of
// them. They say of a real disk as much as it has these times.

/**
 * How long things take, in microseconds.
 *
 * @typedef {object} DiskTimes
 * @property {number} readUs for a read
 * @property {number} writeUs for a write, into the cache
 * @property {number} flushUs for a flush; one at a time
 * @property {number} transportUs what the transport adds to an answer
 * @property {number} commandsMax commands that the disk works on at once
 */

/**
 * Two worlds: a slow disk in the same machine, and a fast one at the end of a slow wire.
 *
 * @type {Readonly<Record<'near' | 'far', DiskTimes>>}
 */
export const STACK_TIMES = Object.freeze({
  near: Object.freeze({
    readUs: 200,
    writeUs: 100,
    flushUs: 2000,
    transportUs: 20,
    commandsMax: 4,
  }),
  far: Object.freeze({
    readUs: 200,
    writeUs: 100,
    flushUs: 500,
    transportUs: 1000,
    commandsMax: 4,
  }),
});
