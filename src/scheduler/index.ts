export {
  BarrierAbortedError,
  CloseTimeoutError,
  FlushFailedError,
  SchedulerFailedError,
  UnsafeModeError,
} from './errors.js';
export type { GroupMember } from './group-member.js';
export { IoScheduler } from './io-scheduler.js';
export type {
  RequestOptions,
  SchedulerOptions,
  SchedulerStats,
  WriteOptions,
} from './options.js';
export {
  SchedulerGroup,
  type SchedulerGroupOptions,
  type SchedulerGroupStats,
} from './scheduler-group.js';
