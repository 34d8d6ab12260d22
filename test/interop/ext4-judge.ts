// A verdict on a disk with ext4 after a power cut, by the file system's own tools, and what its guests write on it: file
// i is d(i mod 5)/f(i), and where i mod 9 is 8 it is renamed to g(i), without fsync.

import { execFile } from 'node:child_process';

/**
 * - `damaged`: the file system contradicts itself.
 * - `lost`: it does not, but a file is not what the guest could rely on.
 */
export type Verdict =
  | { readonly kind: 'sound' }
  | { readonly kind: 'damaged' | 'lost'; readonly why: string };

/**
 * Recovers the journal, as a mount would, and then looks for damage and at the files.
 *
 * @param files how many the guest was to write
 * @param isSafe whether fsync had returned for a file
 */
export async function judgeDisk(
  disk: string,
  files: number,
  isSafe: (file: number) => boolean,
): Promise<Verdict> {
  for (const options of [['-E', 'journal_only', '-y'], ['-fn']]) {
    const { code, output } = await run('e2fsck', [...options, disk]);
    if (code === 0) continue;
    return { kind: 'damaged', why: `e2fsck ${options.join(' ')} ends with ${code}\n${output}` };
  }
  const names = Array.from({ length: files }, (_, file) => namesOf(file)).flat();
  const commands = names.map((name) => `cat ${name}\n`).join('');
  const { code, output } = await run('debugfs', ['-f', '-', disk], commands);
  const found = filesIn(output);
  for (let file = 0; file < files; file++) {
    const contents = namesOf(file).map((name) => found.get(name) ?? '');
    // Together: a rename has happened or it has not, so no file is there twice.
    const content = contents.join('');
    if (content === contentOf(file)) continue;
    if (!isSafe(file) && code === 0 && isOnItsWay(content, contentOf(file))) continue;
    const shown = JSON.stringify(contents).slice(0, 100);
    const what = isSafe(file) ? 'safe file' : 'file';
    return { kind: 'lost', why: `debugfs ends with ${code}, ${what} ${file} is ${shown}` };
  }
  return { kind: 'sound' };
}

/**
 * What data=ordered leaves of a file without fsync: nothing, or zeroes where its blocks are allocated and their data was
 * not known to be written when another file's fsync committed. Never what the blocks held before.
 */
function isOnItsWay(content: string, wanted: string): boolean {
  return (
    content.length <= wanted.length &&
    Array.from(content).every((char, at) => char === '\0' || char === wanted[at])
  );
}

/** What a file may be called, first and last. */
export function namesOf(file: number): readonly string[] {
  const folder = `/d${file % 5}`;
  return file % 9 === 8 ? [`${folder}/f${file}`, `${folder}/g${file}`] : [`${folder}/f${file}`];
}

/** What is in it. */
export function contentOf(file: number): string {
  return String.fromCharCode(65 + (file % 26)).repeat(100 + 37 * file);
}

const PROMPT = 'debugfs: cat ';

/** debugfs repeats each command before its output, and has none for a file that is not there. */
function filesIn(output: string): ReadonlyMap<string, string> {
  const answers = output.split(PROMPT).map((answer): [string, string] => {
    const nameEnd = answer.indexOf('\n');
    return [answer.slice(0, nameEnd), answer.slice(nameEnd + 1)];
  });
  return new Map(answers);
}

/** The tools of e2fsprogs that are not to be found. */
export async function missingTools(): Promise<readonly string[]> {
  const missing: string[] = [];
  for (const tool of ['e2fsck', 'debugfs']) {
    const { code } = await run(tool, ['-V']);
    if (code !== 0) missing.push(tool);
  }
  return missing;
}

interface Ended {
  /** Of a tool that could be started and ended by itself. */
  readonly code: number | string;
  readonly output: string;
}

// Users other than root often have no such tools on their path.
const { PATH = '' } = process.env;
const ENVIRONMENT = { PATH: `${PATH}:/usr/sbin:/sbin`, LC_ALL: 'C' };

function run(tool: string, words: readonly string[], input = ''): Promise<Ended> {
  const options = { env: ENVIRONMENT, encoding: 'latin1', timeout: 300_000 } as const;
  return new Promise((resolve) => {
    const child = execFile(tool, words, options, (error, stdout, stderr) => {
      if (!error) return resolve({ code: 0, output: stdout });
      resolve({ code: error.code ?? error.signal ?? 'nothing', output: `${stdout}${stderr}` });
    });
    child.stdin?.on('error', () => {}); // It ended before it had read all; its code says why.
    child.stdin?.end(input);
  });
}
