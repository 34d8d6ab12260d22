// Operations of a trace as lines of text, with the paths that their files have at that moment.

import { Names } from '../../../src/testing/files/scene.js';
import type { FilesTrace } from '../../../src/testing/files/trace.js';

/** The operations, and the marks in their places, as `mark 3`. */
export function linesOf(trace: FilesTrace): string[] {
  const names = new Names(trace);
  const operations = trace.operations.map((operation) => ({
    time: operation.begin,
    text: names.describe(operation),
  }));
  const marks = trace.marks.map(({ time, value }) => ({
    time,
    text: `mark ${JSON.stringify(value)}`,
  }));
  const all = [...operations, ...marks].sort((a, b) => a.time - b.time);
  return all.map(({ text }) => text);
}
