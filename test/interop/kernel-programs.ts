// All little programs of up to three calls over two names in two folders, as ACE generates workloads for file systems.
//
// A program of three calls has those of its first call and of its first two inside, because the power is cut at every moment. So
// the shorter ones are left out. What a system would refuse is no call.
//
// Source: Mohan and others, "Finding Crash-Consistency Bugs with Bounded Black-Box Crash Testing", OSDI 2018.

import { type Call, type Program, Shadow } from '../testing/files/programs.js';

const FILES = ['/d/a', '/d/b', '/e/a', '/e/b'] as const;
const FOLDERS = ['/d', '/e'] as const;
const PATHS = [...FILES, ...FOLDERS];

/** One file has content, and the other folder is empty. */
const BEFORE: readonly Call[] = [
  ['mkdir', '/d'],
  ['mkdir', '/e'],
  ['create', '/d/a'],
  ['write', '/d/a', 0, 'old'],
];

const CALLS_MAX = 3;
/** More than a block, so that a write may be torn. */
const LONG = 5000;

/** The calls that may come next, in place `n` of a program. Each place has a letter, so that it is known whose bytes are there. */
function callsOf(shadow: Shadow, n: number): Call[] {
  const letter = 'xyz'[n] as string;
  const sizeOf = (path: string): number => {
    const node = shadow.inodes.get(shadow.lookup(path) ?? 0);
    return node?.kind === 'file' ? node.data.length : 0;
  };
  return [
    ...FILES.flatMap((path): Call[] => [
      ['create', path],
      ['unlink', path],
      ['write', path, 0, letter.repeat(5)],
      ['write', path, sizeOf(path), letter.repeat(LONG)],
      ['truncate', path, 0],
    ]),
    ...PATHS.flatMap((path): Call[] => [
      ['fsync', path],
      ['fdatasync', path],
    ]),
    ...FOLDERS.flatMap((path): Call[] => [
      ['rmdir', path],
      ['mkdir', path],
    ]),
    ...pairs(FILES).flatMap(([from, to]): Call[] => [
      ['rename', from, to],
      ['link', from, to],
    ]),
    ...pairs(FOLDERS).map(([from, to]): Call => ['rename', from, to]),
    ['sync'],
  ];
}

function pairs(paths: readonly string[]): [string, string][] {
  return paths.flatMap((from) =>
    paths.filter((to) => to !== from).map((to): [string, string] => [from, to]),
  );
}

/** A program for each sequence of as many calls as there may be. */
export function* sequences(calls: readonly Call[] = []): Generator<Program, void> {
  if (calls.length === CALLS_MAX) {
    yield { before: BEFORE, calls };
    return;
  }
  const tree = (): Shadow => {
    const shadow = new Shadow();
    for (const call of [...BEFORE, ...calls]) shadow.run(call);
    return shadow;
  };
  for (const call of callsOf(tree(), calls.length)) {
    if (tree().run(call) !== undefined) yield* sequences([...calls, call]);
  }
}
