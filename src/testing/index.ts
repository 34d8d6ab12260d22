/**
 * The crash kit: prove that code survives a power cut at every possible moment.
 *
 * Crash spaces, litmus tests, analyses and trace formats are in `write-barrier/testing/lab`, arbitraries for fast-check in
 * `write-barrier/testing/arbitraries`.
 *
 * @module write-barrier/testing
 */

export {
  type CheckOptions,
  checkTrace,
  TRACE_RULES,
  type Violation,
} from './checker/check-trace.js';
export { seededRandom } from './choices.js';
export {
  type ContractSubject,
  type Opened,
  storageContract,
  type TestRunner,
} from './contract/storage-contract.js';
export { formatCrashReport } from './crash-test/crash-report.js';
export { crashTest, survives } from './crash-test/crash-test.js';
export type {
  CrashFailure,
  CrashReport,
  CrashTest,
  Expected,
  Journal,
} from './crash-test/types.js';
export type { DiskFault } from './device/disk-faults.js';
export type { VolatileDiskOptions } from './device/disk-options.js';
export type { DiskTrace } from './device/disk-trace.js';
export {
  DEVICE_PROFILES,
  type DeviceName,
  type DeviceProfile,
  deviceProfile,
} from './device/profile.js';
export { VolatileDisk } from './device/volatile-disk.js';
export { crashPage } from './picture/crash-page.js';
export { crashPicture } from './picture/crash-picture.js';
