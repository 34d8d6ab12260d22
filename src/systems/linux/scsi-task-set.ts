// Which tasks of a SCSI device may run: what an ordered tag means to the disk, and what may go past it.
//
// Not here: the queue algorithm modifier, which lets a disk reorder SIMPLE tasks only as long as nobody can tell;
// what happens to queued tasks after an error (QErr); ACA.
//
// Source: the task attributes of SAM; message codes of SPI, 20h to 22h. Linux sends ORDERED for a request with the
// barrier flag and SIMPLE for every other: scsi_populate_tag_msg() in include/scsi/scsi_tcq.h.

/** SIMPLE may be reordered, HEAD OF QUEUE goes first, ORDERED stays in its place. */
export type ScsiTaskAttribute = 'simple' | 'head-of-queue' | 'ordered';

/** A task that the device has and that has not ended. */
export interface ScsiTask {
  /** How the device may move it among others. */
  readonly attribute: ScsiTaskAttribute;
}

/**
 * The tasks that the device may be executing now. An ORDERED task comes after all older ones, and every younger one
 * after it, **except HEAD OF QUEUE, which may pass it although it came later**.
 *
 * @param tasks those that have not ended, oldest first
 * @returns their indexes in `tasks`
 */
export function runnableTasks(tasks: readonly ScsiTask[]): number[] {
  const heads = tasks.some(({ attribute }) => attribute === 'head-of-queue');
  const firstOrdered = tasks.findIndex(({ attribute }) => attribute === 'ordered');
  return Array.from(tasks.keys()).filter((i) => {
    const attribute = tasks[i]?.attribute;
    if (attribute === 'head-of-queue') return true;
    if (heads) return false;
    return attribute === 'ordered' ? i === 0 : firstOrdered < 0 || i < firstOrdered;
  });
}
