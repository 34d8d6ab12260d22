// @ts-check
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { formatProgram, formatSteps, IoScheduler, parseProgram, tracing } from 'write-barrier';
import { FileStorage } from 'write-barrier/node';

/** @import { CommandEvent, DeviceStep, ModeName, Request } from 'write-barrier' */

const BLOCK = 4096;
const folder = await mkdtemp(join(tmpdir(), 'stacked-'));

for (const program of ['w0 w1 b w2', 'w0 w1 b2 w3']) {
  for (const mode of /** @type {const} */ (['TAG', 'TAG_FLUSH'])) {
    await show(mode, parseProgram(program));
  }
}
await rm(folder, { recursive: true });

/**
 * @param {ModeName} mode
 * @param {Request[]} program
 */
async function show(mode, program) {
  const file = stepRecorder();
  const boundary = stepRecorder();
  const disk = await FileStorage.open(join(folder, 'disk.img'), {
    size: 16 * BLOCK,
    blockSize: BLOCK,
  });
  const host = new IoScheduler(tracing(disk, file.observe), { mode: 'DRAIN_FLUSH' });
  // TAG is refused over a volatile cache, and rightly so: that is what this example shows.
  const guest = new IoScheduler(tracing(host.asStorage(), boundary.observe), {
    mode,
    allowUnsafe: mode === 'TAG',
  });
  await Promise.all(program.map((request) => submit(guest, request)));

  console.log(`${mode} over ${host.mode}: ${guest.guarantees.verdict}`);
  console.log(`  the guest asked       ${formatProgram(program)}`);
  console.log(`  crossed the boundary  ${formatSteps(boundary.steps)}`);
  console.log(`  reached the file      ${formatSteps(file.steps)}`);
  console.log(`  ${guest.guarantees.reason}\n`);
  await guest.close(); // closes the host, and that the file
}

/**
 * @param {IoScheduler} scheduler
 * @param {Request} request
 */
function submit(scheduler, request) {
  if (request.kind === 'barrier') return scheduler.barrier();
  if (request.kind !== 'write') throw new Error(`not in these programs: ${request.kind}`);
  const { offset, length, barrier } = request;
  return scheduler.write(offset, new Uint8Array(length), { barrier });
}

/** Takes down commands, and a drain wherever one had to wait until all before it were answered. */
function stepRecorder() {
  /** @type {DeviceStep[]} */
  const steps = [];
  let inFlight = 0;
  return {
    steps,
    /** @param {CommandEvent} event */
    observe(event) {
      inFlight += event.kind === 'dispatch' ? 1 : -1;
      if (event.kind !== 'dispatch') return;
      if (inFlight === 1 && steps.length > 0) steps.push({ kind: 'drain' });
      steps.push(event.what);
    },
  };
}
