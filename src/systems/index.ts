/**
 * The systems that this project grew from: each as an adapter for those who have such a transport, and as a model, defects
 * included, for those who want to know what it did.
 *
 * @module write-barrier/systems
 */

export { type AioHandle, PosixAio } from './posix-aio.js';
export {
  type AioCall,
  type AioOutcome,
  type AioProfile,
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
  QEMU_2009,
  QEMU_REPAIRED,
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
export type { Cell, Links, ListName, TailQueues } from './qemu-tailq.js';
