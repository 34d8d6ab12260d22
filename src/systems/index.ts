/**
 * The systems that this project grew from: each as an adapter for those who have such a transport, and as a model,
 * defects included, for those who want to know what it did.
 *
 * @module write-barrier/systems
 */

export {
  TAPDISK_2010,
  TAPDISK_BEFORE,
  TAPDISK_REPAIRED,
  Tapdisk,
  type TapdiskOptions,
  type TapdiskProfile,
} from './blktap.js';
export {
  fileStorage,
  type PlainFile,
  type SyncFile,
  SyncFileBarriers,
  type SyncWriteOptions,
} from './file-barriers.js';
export { type AioHandle, PosixAio } from './posix-aio.js';
export {
  type AioCall,
  type AioOutcome,
  type AioRequest,
  type AioReturn,
  type AioState,
  type AioWorker,
  aioState,
  type CancelAnswer,
  type ControlBlock,
  callOf,
  cancelAio,
  endCall,
  expireWorker,
  type RunningCall,
  runnableWorkers,
  stepAio,
  submitAio,
} from './qemu-aio.js';
export {
  type QemuDisk,
  type QemuDiskOptions,
  type QemuOptions,
  QemuProcess,
} from './qemu-aio-driver.js';
export { type AioProfile, QEMU_2009, QEMU_REPAIRED } from './qemu-profile.js';
export type { Cell, Links, ListName, TailQueues } from './qemu-tailq.js';
export {
  compareStacks,
  type DiskTimes,
  STACK_TIMES,
  type StackRow,
  type StackWaiting,
} from './stack-figures.js';
export { ARRANGEMENTS, type Arrangement, type Stack, sliceOf, stackOf } from './stacks.js';
export { VirtualClock } from './virtual-clock.js';
