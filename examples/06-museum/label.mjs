// @ts-check
// What stands beside an exhibit. All of it is computed from runs of it:
//
//   steps    the commands that the disk got. `=>` stands where everything sent before had been answered. Of all runs
//            the one with the fewest waits is shown: some orders of answers hide that a system does not wait.
//   cells    whether a promise is kept in every image that a power cut during any of the runs may leave. `-` where the
//            question does not arise.
//   wrong    of each promise that is broken the image with the fewest losses, in words.
//   rules    what checkTrace says of the trace, where the exhibit has one.
//
// A promise that was never due is not kept: where the request was refused, failed or hangs, the cell says that.

import { formatRequest, formatSteps, isBarrier, parseProgram } from 'write-barrier';
import { checkTrace, deviceProfile } from 'write-barrier/testing';
import { crashSpace } from 'write-barrier/testing/lab';
import { PROGRAM, profileOf, runsOf } from './engine.mjs';

/** @import { DeviceStep, Request } from 'write-barrier' */
/** @import { Failure } from './disk.mjs' */
/** @import { Exhibit, Run } from './engine.mjs' */

/** @typedef {'before' | 'after' | 'durable' | 'flush'} Promised */
/** @typedef {'yes' | 'NO' | 'refused' | 'fails' | 'hangs' | '-'} Cell */
/** @typedef {{ [K in Promised]?: { text: string, lost: number } | undefined }} Broken */

/**
 * @typedef {object} Label
 * @property {string} steps
 * @property {{ writes: number, flushes: number }} cost
 * @property {Record<Promised | 'failure', Cell>} cells
 * @property {readonly string[]} wrong
 * @property {readonly string[]} rules
 * @property {readonly Run[]} runs those without failures other than the exhibit's own
 */

/** @type {Record<string, Failure>} */
const FAILURES = {
  'the first write fails': { on: 'write', nth: 0 },
  'the first flush fails': { on: 'flush', nth: 0 },
};

/**
 * @param {Exhibit} exhibit
 * @param {string} [program]
 * @returns {Promise<Label>}
 */
export async function labelOf(exhibit, program = exhibit.program ?? PROGRAM) {
  const requests = parseProgram(program);
  const runs = await runsOf(exhibit, requests, exhibit.failures ?? []);
  const broken = brokenIn(exhibit, requests, runs);
  const cells = cellsOf(requests, runs, broken);
  const wrong = [...inWords(broken), ...hanging(requests, runs)];
  /** @type {Cell} */
  let failure = '-';
  if (cells.before === 'yes' && cells.durable === 'yes' && !exhibit.failures) {
    failure = 'yes';
    for (const [what, failing] of Object.entries(FAILURES)) {
      const after = await runsOf(exhibit, requests, [failing]);
      const { before, durable } = brokenIn(exhibit, requests, after);
      const texts = inWords({ before, durable });
      if (texts.length === 0) continue;
      failure = 'NO';
      wrong.push(`${what}: ${texts.join('; ')}`);
    }
  }
  const drawn = runs.map((run) => stepsOf(requests, run));
  const [steps = []] = drawn.sort((a, b) => drains(a) - drains(b));
  const count = (/** @type {string} */ op) =>
    steps.filter((step) => step.kind === 'command' && step.op === op).length;
  return {
    steps: formatSteps(steps),
    cost: { writes: count('write'), flushes: count('flush') },
    cells: { ...cells, failure },
    wrong,
    rules: rulesOf(exhibit, runs),
    runs,
  };
}

// What reached the device

/**
 * @param {readonly Request[]} requests
 * @param {Run} run
 */
function stepsOf(requests, { trace, outcomes, start }) {
  /** @type {(DeviceStep & { at: number })[]} */
  const steps = [];
  for (const [i, command] of trace.commands.entries()) {
    if (i < start) continue;
    const { op, offset, length, tag, fua, dispatched: at } = command;
    const over = trace.commands.slice(0, i).every(({ completed }) => completed < at);
    if (over && i > start) steps.push({ kind: 'drain', at });
    steps.push({ kind: 'command', op, offset, length, tag, fua, at });
  }
  for (const { time, value } of trace.marks) {
    const { asked } = /** @type {{ asked?: number }} */ (value);
    const request = asked !== undefined && requests[asked];
    if (!request || outcomes[asked] !== 'EOPNOTSUPP') continue;
    steps.push({ kind: 'refuse', code: 'EOPNOTSUPP', request, at: time });
  }
  return steps.sort((a, b) => a.at - b.at);
}

/** @param {readonly DeviceStep[]} steps */
const drains = (steps) => steps.filter(({ kind }) => kind === 'drain').length;

// What is promised

/**
 * Of each promise that some image breaks, the image with the fewest losses.
 *
 * @param {Exhibit} exhibit
 * @param {readonly Request[]} requests
 * @param {readonly Run[]} runs
 * @returns {Broken}
 */
function brokenIn(exhibit, requests, runs) {
  /** @type {Broken} */
  const found = {};
  const writes = requests.map((request, n) =>
    request.kind === 'write'
      ? { at: request.offset, data: new Uint8Array(request.length).fill(n + 1) }
      : undefined,
  );
  for (const { trace, outcomes } of runs) {
    for (const state of crashSpace(trace, profileOf(exhibit))) {
      const image = state.image();
      const isThere = writes.map(
        (write) =>
          write !== undefined &&
          Buffer.compare(image.subarray(write.at, write.at + write.data.length), write.data) === 0,
      );
      const answered = trace.marks.flatMap(({ time, value }) => {
        const mark = /** @type {{ answered?: number }} */ (value);
        return mark.answered !== undefined && time < state.before ? [mark.answered] : [];
      });
      const lost = isThere.filter((there) => !there).length;
      const texts = breachesOf(requests, { isThere, answered, outcomes });
      for (const [promised, text] of /** @type {[Promised, string][]} */ (Object.entries(texts))) {
        if (text && lost < (found[promised]?.lost ?? Infinity)) found[promised] = { text, lost };
      }
    }
  }
  return found;
}

/**
 * What one image breaks, in words.
 *
 * @param {readonly Request[]} requests
 * @param {{ isThere: readonly boolean[], answered: readonly number[], outcomes: readonly string[] }} cut
 * @returns {{ [K in Promised]?: string | false | undefined }}
 */
function breachesOf(requests, { isThere, answered, outcomes }) {
  const { barrier, flush, writes } = placesOf(requests);
  const name = (/** @type {number} */ n) => formatRequest(/** @type {Request} */ (requests[n]));
  const lost = (/** @type {number[]} */ of) =>
    `${of.map(name).join(' and ')} ${of.length > 1 ? 'are' : 'is'} lost`;
  const missing = writes.filter((n) => !isThere[n]);
  const earlier = missing.filter((n) => n < barrier);
  const later = writes.find((n) => n > barrier && isThere[n]);
  const covered = missing.filter((n) => n < flush && outcomes[n] === 'done');
  const kept = answered.includes(flush) && covered.length > 0;
  const ofFlush = { flush: kept && `${name(flush)} was answered, and ${lost(covered)}` };
  const { [barrier]: outcome = '' } = outcomes;
  if (outcome === 'cancelled') {
    // It must not be there, and keeps its place in the order.
    const behind = later !== undefined && earlier.length > 0;
    return {
      before: isThere[barrier] && `${name(barrier)} was cancelled, and is there`,
      after: behind && `${lost(earlier)}, and ${name(later)} is there`,
      ...ofFlush,
    };
  }
  if (outcome !== 'done' && outcome !== 'hangs' && !isThere[barrier]) return ofFlush;
  const gone = !isThere[barrier];
  const overtaken = !gone && earlier.length > 0;
  return {
    before: overtaken && `${lost(earlier)}, and ${name(barrier)} is there`,
    after: gone && later !== undefined && `${lost([barrier])}, and ${name(later)} is there`,
    durable: gone && answered.includes(barrier) && `${name(barrier)} was answered, and is lost`,
    ...ofFlush,
  };
}

/** @type {Readonly<Record<string, Cell>>} */
const CELL_OF = { done: 'yes', hangs: 'hangs', EOPNOTSUPP: 'refused', 'not asked': '-' };

/**
 * @param {readonly Request[]} requests
 * @param {readonly Run[]} runs
 * @param {Broken} broken
 * @returns {Record<Promised, Cell>}
 */
function cellsOf(requests, runs, broken) {
  const { barrier, flush, writes } = placesOf(requests);
  const last = writes.at(-1) ?? barrier;
  const worst = (/** @type {number[]} */ asked) => {
    const outcomes = asked.flatMap((n) => runs.map((run) => run.outcomes[n]));
    return outcomes.find((outcome) => outcome !== 'done') ?? 'done';
  };
  /** @type {(promised: Promised, asked: number[]) => Cell} */
  const cell = (promised, asked) => {
    if (broken[promised]) return 'NO';
    const outcome = worst(asked);
    if (outcome === 'cancelled') return promised === 'durable' ? '-' : 'yes';
    return CELL_OF[outcome] ?? 'fails';
  };
  const afterCancel = worst([barrier]) === 'cancelled' ? [last] : [barrier, last];
  return {
    before: cell('before', [barrier]),
    after: cell('after', afterCancel),
    durable: cell('durable', [barrier]),
    flush: cell('flush', [flush]),
  };
}

/** @param {readonly Request[]} requests */
function placesOf(requests) {
  const writes = [...requests.keys()].filter((n) => requests[n]?.kind === 'write');
  const barrier = writes.find((n) => isBarrier(/** @type {Request} */ (requests[n]))) ?? -1;
  return { barrier, flush: requests.length - 1, writes };
}

// In words

/** @param {Broken} broken */
function inWords({ before, after, durable, flush }) {
  return [before, after, durable, flush].flatMap((one) => one?.text ?? []);
}

/**
 * @param {readonly Request[]} requests
 * @param {readonly Run[]} runs
 */
function hanging(requests, runs) {
  const hangs = requests.filter((_, n) => runs.some(({ outcomes }) => outcomes[n] === 'hangs'));
  const names = hangs.map((request) => formatRequest(request)).join(', ');
  return hangs.length > 0 ? [`never answered: ${names}`] : [];
}

/**
 * The first breach of each rule.
 *
 * @param {Exhibit} exhibit
 * @param {readonly Run[]} runs
 */
function rulesOf({ mode, disk }, runs) {
  /** @type {Map<string, string>} */
  const found = new Map();
  const device = deviceProfile({ orderedTags: true, slowFua: false, ...disk });
  for (const { events } of mode ? runs : []) {
    for (const { rule, text } of checkTrace(events, { mode: mode ?? 'NONE', device })) {
      if (!found.has(rule)) found.set(rule, text);
    }
  }
  return [...found].map(([rule, text]) => `${rule}: ${text}`);
}
