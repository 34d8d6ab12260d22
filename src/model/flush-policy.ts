// How flushes and FUA are carried out on a given device: the policy of Linux since 2.6.37, also as a table, and the lowering
// of a step stream to the commands that the device has.
//
// A device without a volatile cache has nothing to flush: PREFLUSH and FUA vanish. A device with a cache
// and without FUA gets a forced write as a write and then a flush. Nothing is refused here: the scheduler asks canHonour() first, and
// refuses a request whose flags the device cannot honour at all (a cache without a flush).
//
// A forced write of a file (`slowFua`) is treated as if the device had no FUA, because the flush after it can be shared and its own
// could not: 64 forced writes at once take one fdatasync instead of 64. The barrier's own write is forced
// by the device, because it is alone at the device: a flush of its own costs a command more, and serves no other write.
//
// Source: blk_flush_policy() in Linux block/blk-flush.c and
// Documentation/block/writeback_cache_control.rst.

import type { DeviceTraits } from './mode.js';
import type { Request } from './request.js';
import type { CommandStep, Step } from './transform.js';

/** One row of the table: for devices like this, requests like that. A missing field matches any. */
export interface FlushPolicyRow {
  /** False without a cache, and with a protected one. */
  readonly volatileCache: boolean;
  /** Whether the device can force a single write, and does not do it slowly (`slowFua`). */
  readonly deviceFua?: boolean;
  /** The flags of the request. */
  readonly request: { readonly preflush?: boolean; readonly fua?: boolean };
  /** The steps that run; without data there is no data step. */
  readonly runs: ReturnType<typeof flushPolicy>;
}

/** Which of the three steps a request with these flags needs on this device. */
export function flushPolicy(
  device: Pick<DeviceTraits, 'cache' | 'fua'>,
  flags: {
    /** The request carries data. */
    readonly data: boolean;
    /** Earlier writes must be on the medium before its data is written. Without data it is a flush. */
    readonly preflush: boolean;
    /** It completes only when its own data is on the medium. */
    readonly fua: boolean;
  },
): {
  /** A flush runs and completes before the data is issued. */
  readonly preflush: boolean;
  /** `fua`: the device forces the data itself; `plain`: no FUA bit is sent; `no`: nothing is written. */
  readonly data: 'no' | 'plain' | 'fua';
  /** A flush runs after the data, because the device has no FUA. */
  readonly postflush: boolean;
} {
  const cached = device.cache === 'volatile';
  const forced = cached && flags.fua;
  const data = forced && device.fua ? 'fua' : 'plain';
  return {
    preflush: cached && flags.preflush,
    data: flags.data ? data : 'no',
    postflush: forced && !device.fua,
  };
}

/** `flushPolicy` as a table: every request on every device has exactly one row. */
export const FLUSH_POLICY: readonly FlushPolicyRow[] = /* @__PURE__ */ policyTable();

/** In a function of its own, so that a bundle that does not use the table does not hold it. */
function policyTable(): readonly FlushPolicyRow[] {
  const row = (
    volatileCache: boolean,
    deviceFua: boolean | undefined,
    request: FlushPolicyRow['request'],
  ): FlushPolicyRow => ({
    volatileCache,
    ...(deviceFua === undefined ? {} : { deviceFua }),
    request,
    runs: flushPolicy(
      { cache: volatileCache ? 'volatile' : 'none', fua: deviceFua === true },
      { data: true, preflush: request.preflush === true, fua: request.fua === true },
    ),
  });
  const forced = { preflush: false, fua: true } as const;
  const both = { preflush: true, fua: true } as const;
  return Object.freeze([
    row(false, undefined, {}),
    row(true, undefined, { preflush: false, fua: false }),
    row(true, undefined, { preflush: true, fua: false }),
    row(true, false, forced),
    row(true, false, both),
    row(true, true, forced),
    row(true, true, both),
  ]);
}

/** False if the request's own flags need a flush or FUA that the device does not have. */
export function canHonour(request: Request, device: DeviceTraits): boolean {
  if (device.cache !== 'volatile' || device.flush) return true;
  if (request.kind !== 'write') return request.kind !== 'flush';
  return !request.preflush && (!request.fua || device.fua);
}

/**
 * The steps as commands that the device has. Without a volatile cache the flushes are left out. On a device without FUA a
 * forced write becomes a write and then a flush with the same tag, except where the mode flushes after it anyway. The same goes
 * for a forced write that is no barrier on a device whose FUA is slow. An empty
 * barrier whose only command is left out has nothing to carry its ordered tag, so it drains instead and keeps its place in
 * the order.
 */
export function lowerSteps<R extends Request>(
  steps: readonly Step<R>[],
  device: DeviceTraits,
): readonly Step<R>[] {
  return steps.flatMap((step, i) => {
    if (step.kind !== 'command') return [step];
    // The mode's own postflush is the next step, or the one after a drain.
    const flushed = isPostflushOf(steps[i + 1], step) || isPostflushOf(steps[i + 2], step);
    return lower(step, device, flushed);
  });
}

/** @param flushed the mode flushes after the write, so a forced write needs no flush of its own */
function lower<R extends Request>(
  step: CommandStep<R>,
  device: DeviceTraits,
  flushed: boolean,
): Step<R>[] {
  const isFlush = step.op === 'flush';
  if (!isFlush && !step.fua) return [step];
  const shares = device.slowFua && device.flush && step.stage === 'plain';
  const { preflush, data, postflush } = flushPolicy(
    { ...device, fua: device.fua && !shares },
    { data: !isFlush, preflush: isFlush, fua: step.fua },
  );
  // The mode flushes but the device cannot (possible only with `allowUnsafe`): the flush is dropped.
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

/** As in transform.T4: only this flush orders an empty barrier, so a drain must replace it. */
function carriesOrder({ request, tag }: CommandStep): boolean {
  return request.kind === 'barrier' && tag === 'ordered';
}
