export {
  BarrierAbortedError,
  CloseTimeoutError,
  FlushFailedError,
  type HangingCommand,
  IoFailedError,
  SchedulerFailedError,
  UnsafeModeError,
} from './errors.js';
export { IoScheduler } from './io-scheduler.js';
export type {
  CloseOptions,
  ErrorPolicy,
  OrderingCounters,
  RequestOptions,
  SchedulerOptions,
  SchedulerStats,
  WriteOptions,
} from './options.js';
