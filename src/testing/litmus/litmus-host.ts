// Litmus tests against anything that takes requests: a scheduler over a storage of your own, a driver, a protocol with
// both of its ends.
//
// The host gets a simulated disk and the lines of a program, under one order of answers after the other, and every power
// cut of every run is looked at. What is found is there, with a witness; what is not found in so many runs may still
// be there, since a host cannot be made to do all that it may do. `runLitmus` can, for the scheduler's own state machine.

import { WriteBarrierError } from '../../model/index.js';
import type { DiskFault } from '../device/disk-faults.js';
import type { DiskTrace } from '../device/disk-trace.js';
import { type DeviceProfile, deviceProfile } from '../device/profile.js';
import { VolatileDisk } from '../device/volatile-disk.js';
import { type CrashState, crashSpace } from '../space/crash-space.js';
import type { LitmusFault, LitmusTest } from './litmus.js';
import {
  isShown,
  LETTERS,
  type Line,
  outcomeOf,
  programOf,
  SECTOR,
  type Settled,
} from './litmus-text.js';

/** What is tested: an `IoScheduler` fits. */
export interface LitmusHost {
  /** Resolves when the write is answered. */
  write(
    offset: number,
    data: Uint8Array,
    options: { readonly barrier: boolean; readonly fua: boolean },
  ): Promise<unknown>;
  /** An empty barrier. */
  barrier(): Promise<unknown>;
}

/** What is tried, and on what. */
export interface LitmusTrialOptions {
  /** Makes a host over the disk, for each run a new one. */
  readonly host: (disk: VolatileDisk) => LitmusHost | Promise<LitmusHost>;
  /** The fields that differ from an honest disk with a volatile cache. */
  readonly device?: Partial<DeviceProfile>;
  /** How many orders of answers; 200 unless given. */
  readonly seeds?: number;
  /** How long a run may take before its open requests count as unanswered, in milliseconds; 1000 unless given. */
  readonly timeoutMs?: number;
}

/** What was found. */
export interface LitmusTrial {
  /** Whether some power cut of some run shows the outcome. */
  readonly seen: boolean;
  /** How many runs it took. */
  readonly runs: number;
  /** The first one that shows it. */
  readonly witness?: {
    /** The seed of the disk. */
    readonly seed: number;
    /** What the disk was asked. */
    readonly trace: DiskTrace;
    /** What the power cut left. */
    readonly state: CrashState;
  };
}

/**
 * Looks for the outcome of a litmus test in what a host does. The fault of a test happens in every second run.
 *
 * @throws `SYNTAX` for a program or an outcome that is none; what `host` throws
 */
export async function tryLitmus(
  test: LitmusTest,
  { host, device, seeds = 200, timeoutMs = 1000 }: LitmusTrialOptions,
): Promise<LitmusTrial> {
  const profile = deviceProfile({ ...device, sectorSize: SECTOR, atomicWriteUnit: SECTOR });
  const outcome = outcomeOf(test.outcome);
  const program = programOf(test.program, 'TAG');
  for (let seed = 0; seed < seeds; seed++) {
    const faults = test.fault && seed % 2 === 0 ? [faultOf(test.fault)] : [];
    const disk = new VolatileDisk({ size: LETTERS.length * SECTOR, profile, seed, faults });
    await play(program, await host(disk), disk, timeoutMs);
    const { trace } = disk;
    disk.powerCut();
    for (const state of crashSpace(trace, profile)) {
      if (isShown(outcome, state, trace)) {
        return { seen: true, runs: seed + 1, witness: { seed, trace, state } };
      }
    }
  }
  return { seen: false, runs: seeds };
}

async function play(
  program: readonly Line[],
  host: LitmusHost,
  disk: VolatileDisk,
  timeoutMs: number,
): Promise<void> {
  const asked = new Map<string, Promise<void>>();
  const run = async (): Promise<void> => {
    for (const { label, request, waits, fill } of program) {
      if (waits) {
        await asked.get(label);
        continue;
      }
      const answer =
        request?.kind === 'write'
          ? host.write(request.offset, new Uint8Array(request.length).fill(fill), {
              barrier: request.barrier ?? false,
              fua: request.fua ?? false,
            })
          : host.barrier();
      const tell = (ok: boolean) => (): void => disk.mark({ label, ok } satisfies Settled);
      asked.set(label, answer.then(tell(true), tell(false)));
    }
    await Promise.all(asked.values());
  };
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, timeoutMs);
  });
  await Promise.race([run(), late]);
  clearTimeout(timer);
}

/** The same fault in the words of the disk: x is written first, and a postflush is the second flush. */
function faultOf({ fails, flush = 'keep' }: LitmusFault): DiskFault {
  switch (fails) {
    case 'write x':
      return { on: 'write', nth: 0, fault: 'fail' };
    case 'first flush':
      return { on: 'flush', nth: 0, fault: flush };
    case 'postflush':
      return { on: 'flush', nth: 1, fault: flush };
    default:
      throw new WriteBarrierError(
        'INVALID_ARGUMENT',
        `no litmus test lets a ${fails satisfies never} fail`,
      );
  }
}
