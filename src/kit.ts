/**
 * For authors of storages, wrappers and queues: what this package's own storages are made of.
 *
 * @module write-barrier/kit
 */

export * from './machine/index.js';
export {
  BOOLEAN,
  checkArgument,
  checkOptions,
  FUNCTION,
  flushPolicy,
  formatValue,
  invariant,
  isBytes,
  type KnownOptions,
  lowerSteps,
  messageOf,
  misuse,
  modeOf,
  oneOf,
  type Rule,
  rule,
  unsupported,
  wholeNumber,
  withText,
} from './model/index.js';
export {
  type Around,
  byteView,
  checkRange,
  checkSize,
  concatBuffers,
  describeStorage,
  type Issuer,
  type Payload,
  perform,
  scatterBytes,
  slice,
  sliceBuffers,
  Tracer,
  totalLength,
  wrap,
} from './storage/index.js';
export { StorageLockedError } from './storage/locked-error.js';
export { settleSize } from './storage/settle-size.js';
