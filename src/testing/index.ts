/**
 * The crash kit: prove that code survives a power cut at every possible moment.
 *
 * @module write-barrier/testing
 */

export { type Arbitraries, arbitraries, type ProgramOptions } from './arbitraries.js';
export {
  type CheckOptions,
  checkTrace,
  TRACE_RULES,
  type TraceRule,
  type Violation,
} from './checker/check-trace.js';
export {
  type ContractSubject,
  type Opened,
  storageContract,
  type TestRunner,
} from './contract/storage-contract.js';
export type { Gap } from './crash-test/barriers.js';
export { crashTest, formatCrashReport } from './crash-test/crash-test.js';
export {
  type BarrierPlan,
  barrierMutation,
  barrierSynthesis,
  type Mutant,
  type PrefixModel,
  prefixOracle,
  type StrictOrderReport,
  strictOrder,
} from './crash-test/oracles.js';
export type {
  CrashFailure,
  CrashReport,
  CrashTest,
  Expected,
  Journal,
  Loss,
} from './crash-test/trial.js';
export { decodeTrace, encodeTrace, TraceWriter } from './device/compact.js';
export type { DiskFault, FaultAt } from './device/disk-faults.js';
export {
  type DiskCommand,
  DiskRecorder,
  type DiskRequest,
  type DiskTrace,
  type Mark,
  type TracedFault,
} from './device/disk-trace.js';
export { readLogWrites, writeLogWrites } from './device/log-writes.js';
export {
  type DeviceProfile,
  type DiscardReads,
  deviceProfile,
  HONEST_DISK,
  type Lie,
  type OnTagError,
  type SameLba,
  type Tear,
} from './device/profile.js';
export { type Random, seededRandom } from './device/random.js';
export { recording } from './device/recording.js';
export { VolatileDisk, type VolatileDiskOptions } from './device/volatile-disk.js';
export {
  FAULT_LITMUS,
  LITMUS,
  LITMUS_COLUMNS,
  type LitmusColumn,
  type LitmusFault,
  type LitmusTest,
  LYING_LITMUS,
  type LyingLitmus,
} from './litmus/litmus.js';
export {
  type LitmusHost,
  type LitmusTrial,
  type LitmusTrialOptions,
  tryLitmus,
} from './litmus/litmus-host.js';
export { type LitmusOptions, type LitmusResult, runLitmus } from './litmus/litmus-run.js';
export {
  CrashCursor,
  type CrashSpace,
  type CrashState,
  crashSpace,
} from './space/crash-space.js';
export { type Crash, type ExploreOptions, UnsteadyRecoveryError } from './space/explore.js';
