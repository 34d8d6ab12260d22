/**
 * The crash kit: prove that code survives a power cut at every possible moment.
 *
 * @module write-barrier/testing
 */

export { type Arbitraries, arbitraries, type ProgramOptions } from './arbitraries.js';
export type { Gap } from './barriers.js';
export {
  type CheckOptions,
  checkTrace,
  TRACE_RULES,
  type TraceRule,
  type Violation,
} from './check-trace.js';
export {
  CrashCursor,
  type CrashSpace,
  type CrashState,
  crashSpace,
} from './crash-space.js';
export { crashTest, formatCrashReport } from './crash-test.js';
export type { DiskFault, FaultAt } from './disk-faults.js';
export {
  type DiskCommand,
  DiskRecorder,
  type DiskRequest,
  type DiskTrace,
  type Mark,
  type TracedFault,
} from './disk-trace.js';
export type { Crash, ExploreOptions } from './explore.js';
export { decodeTrace, encodeTrace, readLogWrites, writeLogWrites } from './formats.js';
export {
  FAULT_LITMUS,
  LITMUS,
  LITMUS_COLUMNS,
  type LitmusColumn,
  type LitmusFault,
  type LitmusTest,
  LYING_LITMUS,
  type LyingLitmus,
} from './litmus.js';
export {
  type LitmusHost,
  type LitmusTrial,
  type LitmusTrialOptions,
  tryLitmus,
} from './litmus-host.js';
export { type LitmusOptions, type LitmusResult, runLitmus } from './litmus-run.js';
export {
  type BarrierPlan,
  barrierMutation,
  barrierSynthesis,
  type Mutant,
  type PrefixModel,
  prefixOracle,
  type StrictOrderReport,
  strictOrder,
} from './oracles.js';
export {
  type DeviceProfile,
  type DiscardReads,
  deviceProfile,
  HONEST_DISK,
  type Lie,
  type OnTagError,
  type SameLba,
  type Tear,
} from './profile.js';
export { type Random, seededRandom } from './random.js';
export {
  type ContractSubject,
  type Opened,
  storageContract,
  type TestRunner,
} from './storage-contract.js';
export type {
  CrashFailure,
  CrashReport,
  CrashTest,
  Expected,
  Journal,
  Loss,
} from './trial.js';
export { VolatileDisk, type VolatileDiskOptions } from './volatile-disk.js';
