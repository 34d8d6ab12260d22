export { type ErrorCode, WriteBarrierError } from './error.js';
export type {
  CommandEvent,
  CompleteEvent,
  DispatchEvent,
  Observer,
  RequestEvent,
  SettleEvent,
  SubmitEvent,
  TraceEvent,
} from './event.js';
export {
  canHonour,
  FLUSH_POLICY,
  type FlushPolicy,
  type FlushPolicyRow,
  flushPolicy,
  lowerSteps,
  type RequestFlags,
} from './flush-policy.js';
export {
  type Answer,
  GUARANTEES,
  type GuaranteeAnswers,
  type GuaranteeRow,
  type Guarantees,
  guarantees,
  type Verdict,
} from './guarantees.js';
export { decodeLegacyMode, encodeLegacyMode, type LegacyLayout } from './legacy.js';
export {
  type CachePolicy,
  chooseMode,
  type DeviceTraits,
  MODE_NAMES,
  MODES,
  type ModeName,
  modeOf,
  type OrderedMode,
} from './mode.js';
export {
  type DeviceStep,
  formatProgram,
  formatRequest,
  formatSteps,
  NOTATION_BLOCK_SIZE,
  type NotationOptions,
  parseProgram,
  parseSteps,
  type RefusedRequest,
} from './notation.js';
export {
  type BarrierRequest,
  type ByteRange,
  type DiscardRequest,
  type FlushRequest,
  isBarrier,
  isMutation,
  type RangedRequest,
  type ReadRequest,
  type Request,
  type WriteRequest,
  type WriteZeroesRequest,
} from './request.js';
export {
  type CommandStep,
  type DeviceCommand,
  type DrainStep,
  initialState,
  type Operation,
  plainCommand,
  type RefuseStep,
  type Stage,
  type Step,
  type Tag,
  type Transformer,
  type TransformState,
  transformer,
  transformStream,
  transition,
} from './transform.js';
export { UNSAFE_PAIRS, type UnsafePair, type UnsafePairName } from './unsafe-pairs.js';
