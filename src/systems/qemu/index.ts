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
} from './aio.js';
export { type AioHandle, PosixAio } from './posix-aio.js';
export {
  type QemuDisk,
  type QemuDiskOptions,
  type QemuOptions,
  QemuProcess,
} from './process.js';
export { type AioProfile, QEMU_2009, QEMU_REPAIRED } from './profile.js';
export type { Cell, Links, ListName, TailQueues } from './tailq.js';
