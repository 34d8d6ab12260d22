export {
  BarrierAbortedError,
  CloseTimeoutError,
  FlushFailedError,
  SchedulerFailedError,
  UnsafeModeError,
} from './errors.js';
export { IoScheduler } from './io-scheduler.js';
export type {
  RequestOptions,
  SchedulerOptions,
  SchedulerStats,
  WriteOptions,
} from './options.js';
