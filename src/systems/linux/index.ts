export {
  acceptOrdered,
  type DiskRule,
  type DiskTraits,
  diskModeBy,
  IDE_DISK_RULES,
  IDE_DISK_RULES_WITH_FUA,
  ideDiskMode,
  SCSI_DISK_RULES,
  scsiDiskMode,
} from './disk-modes.js';
export type { LinuxQueueOptions } from './driver.js';
export type { Bio, QueuedRequest } from './elevator.js';
export {
  BARRIER_ERAS,
  type BarrierEra,
  type BarrierEraName,
  FLUSH_ERAS,
  type FlushEra,
  type FlushEraName,
} from './eras.js';
export { FlushMachine, type FlushMachineOptions } from './flush-machine.js';
export type { BlockAnswer, BlockCommand, BlockMachine } from './machine.js';
export { ORDSEQ, OrderedQueue, type OrderedQueueOptions } from './ordered-queue.js';
export {
  LinuxBarrierQueue,
  type LinuxBarrierQueueOptions,
  LinuxFlushQueue,
  type LinuxFlushQueueOptions,
} from './queues.js';
export { runnableTasks, type ScsiTask, type ScsiTaskAttribute } from './scsi-task-set.js';
