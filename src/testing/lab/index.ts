/**
 * The laboratory of the crash kit: crash spaces, litmus tests, analyses of a crash test, and formats of traces.
 *
 * @module write-barrier/testing/lab
 */

export type { Gap } from '../crash-test/barriers.js';
export { type DiskCommand, DiskRecorder, recording } from '../device/disk-trace.js';
export { type CrashSpace, crashSpace } from '../space/crash-space.js';
export type { CrashState } from '../space/crash-state.js';
export type { Crash } from '../space/explore.js';
export { barrierMutation, type Mutant, type StrictOrderReport, strictOrder } from './analyses.js';
export {
  decodeTrace,
  encodeTrace,
  readLogWrites,
  TraceWriter,
  writeLogWrites,
} from './formats.js';
export {
  FAULT_LITMUS,
  GROWTH_LITMUS,
  LITMUS,
  LITMUS_COLUMNS,
  type LitmusColumn,
  type LitmusTest,
  LYING_LITMUS,
} from './litmus.js';
export {
  type LitmusHost,
  type LitmusOptions,
  type LitmusResult,
  type LitmusTrial,
  type LitmusTrialOptions,
  runLitmus,
  tryLitmus,
} from './litmus-run.js';
export { type PrefixModel, prefixOracle } from './prefix.js';
export { type BarrierPlan, barrierSynthesis } from './synthesis.js';
