// What a device makes of flushes and of the FUA bit: the policy of Linux since 2.6.37, as a table, and
// the lowering of a step stream to what a given device understands.
//
// A device without a volatile cache has nothing to flush: PREFLUSH and FUA vanish. A device with a cache
// and without FUA gets a forced write as a write and then a flush. Flags never fail here: who issues requests
// refuses those that a device cannot honour at all (a cache without a flush), and asks canHonour().
//
// Source: blk_flush_policy() in Linux block/blk-flush.c and
// Documentation/block/writeback_cache_control.rst.

import type { DeviceTraits } from './mode.js';
import type { Request } from './request.js';
import type { CommandStep, Step } from './transform.js';

/** The part of a request that the policy looks at. */
export interface RequestFlags {
  /** The request carries data. */
  readonly data: boolean;
  /** It wants what completed before it on the medium before its own data starts; alone it is a flush. */
  readonly preflush: boolean;
  /** It may complete only when its own data is on the medium. */
  readonly fua: boolean;
}

/** Which of the three steps run, and whether the data step keeps its FUA bit. */
export interface FlushPolicy {
  /** A flush runs and completes before the data is issued. */
  readonly preflush: boolean;
  /** `fua`: the device forces the data itself; `plain`: no FUA bit is sent; `no`: nothing is written. */
  readonly data: 'no' | 'plain' | 'fua';
  /** A flush runs when the data has completed, in place of the FUA that the device lacks. */
  readonly postflush: boolean;
}

/** One row of the table: for devices like this, requests like that. A missing field matches any. */
export interface FlushPolicyRow {
  /** False for no cache, and for a protected one. */
  readonly volatileCache: boolean;
  /** Whether the device can force a single write. */
  readonly deviceFua?: boolean;
  /** The flags that the row asks for. */
  readonly request: Partial<Omit<RequestFlags, 'data'>>;
  /** What the device is then made to do; a request without data leaves its data step out. */
  readonly runs: FlushPolicy;
}

const row = (
  volatileCache: boolean,
  deviceFua: boolean | undefined,
  request: FlushPolicyRow['request'],
  preflush: boolean,
  data: FlushPolicy['data'],
  postflush: boolean,
): FlushPolicyRow => ({
  volatileCache,
  ...(deviceFua === undefined ? {} : { deviceFua }),
  request,
  runs: { preflush, data, postflush },
});

const FUA = { preflush: false, fua: true } as const;
const BOTH = { preflush: true, fua: true } as const;

/** The table; every request on every device has exactly one row. */
export const FLUSH_POLICY: readonly FlushPolicyRow[] = Object.freeze([
  row(false, undefined, {}, false, 'plain', false),
  row(true, undefined, { preflush: false, fua: false }, false, 'plain', false),
  row(true, undefined, { preflush: true, fua: false }, true, 'plain', false),
  row(true, false, FUA, false, 'plain', true),
  row(true, false, BOTH, true, 'plain', true),
  row(true, true, FUA, false, 'fua', false),
  row(true, true, BOTH, true, 'fua', false),
]);

/** Which steps a request with these flags needs on this device. */
export function flushPolicy(
  device: Pick<DeviceTraits, 'cache' | 'fua'>,
  flags: RequestFlags,
): FlushPolicy {
  const volatileCache = device.cache === 'volatile';
  const found = FLUSH_POLICY.find(
    ({ volatileCache: cached, deviceFua, request }) =>
      cached === volatileCache &&
      (deviceFua ?? device.fua) === device.fua &&
      (request.preflush ?? flags.preflush) === flags.preflush &&
      (request.fua ?? flags.fua) === flags.fua,
  );
  // The rows cover every combination; a test walks them all.
  const { runs } = found as FlushPolicyRow;
  return flags.data ? runs : { ...runs, data: 'no' };
}

/** False where the request's own flags need a way past a volatile cache that the device does not have. */
export function canHonour(request: Request, device: DeviceTraits): boolean {
  if (device.cache !== 'volatile' || device.flush) return true;
  if (request.kind !== 'write') return request.kind !== 'flush';
  return !request.preflush && (!request.fua || device.fua);
}

/**
 * The steps in terms of what the device can do: flushes disappear where nothing is volatile, and a FUA
 * write becomes a write and a flush of the same tag where the device has no FUA and the mode itself flushes
 * nothing behind it. An empty barrier whose only command disappears, and its ordered tag with it, drains
 * instead: its place in the order stays.
 */
export function lowerSteps<R extends Request>(
  steps: readonly Step<R>[],
  device: DeviceTraits,
): readonly Step<R>[] {
  return steps.flatMap((step, i) => {
    if (step.kind !== 'command') return [step];
    // A mode's own flush of a payload comes next, or after a drain.
    const flushed = isPostflushOf(steps[i + 1], step) || isPostflushOf(steps[i + 2], step);
    return lower(step, device, flushed);
  });
}

/** `flushed`: a flush follows anyway, so a forced write needs none of its own. */
function lower<R extends Request>(
  step: CommandStep<R>,
  device: DeviceTraits,
  flushed: boolean,
): Step<R>[] {
  const isFlush = step.op === 'flush';
  if (!isFlush && !step.fua) return [step];
  const { preflush, data, postflush } = flushPolicy(device, {
    data: !isFlush,
    preflush: isFlush,
    fua: step.fua,
  });
  // A mode's own flush on a cache without one: an unsafe pair, and whoever allowed it gets what there is.
  if (isFlush && preflush && device.flush) return [step];
  if (isFlush) return carriesOrder(step) ? [{ kind: 'drain' }] : [];
  const write = { ...step, fua: data === 'fua' };
  if (!postflush || !device.flush || flushed) return [write];
  const flush = { op: 'flush', offset: 0, length: 0, stage: 'postflush', fua: false } as const;
  return [write, { ...step, ...flush }];
}

function isPostflushOf(step: Step | undefined, { request }: CommandStep): boolean {
  return step?.kind === 'command' && step.stage === 'postflush' && step.request === request;
}

/** As T4: this flush is all that orders an empty barrier, so where it goes a drain must come. */
function carriesOrder({ request, tag }: CommandStep): boolean {
  return request.kind === 'barrier' && tag === 'ordered';
}
