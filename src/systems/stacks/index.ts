export { ARRANGEMENTS, type Arrangement, type Stack, sliceOf, stackOf } from './arrangements.js';
export {
  compareStacks,
  type DiskTimes,
  STACK_TIMES,
  type StackRow,
  type StackWaiting,
} from './figures.js';
export { VirtualClock } from './virtual-clock.js';
