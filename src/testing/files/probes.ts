// What Node does is not what its manual says, and differs from version to version, so the Node that runs is asked.

import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { quietly, real, realPromises } from './originals.js';

/** A device takes every write and cannot be synced: a call that fails here has tried. */
const DEVICE = '/dev/null';

function once<T>(ask: () => T): () => T {
  let answer: { readonly value: T } | undefined;
  return () => {
    answer ??= { value: quietly(ask) };
    return answer.value;
  };
}

/**
 * Whether `writeFileSync` with a text, `encoding: 'utf8'` and `flush: true` flushes. Node 20.20, 22.23 and 24.21 do not: that is
 * a call of its own in C++, which knows no `flush`. Without `encoding` they do.
 */
export const flushesText: () => boolean = once(() => {
  try {
    real.writeFileSync(DEVICE, 'x', { encoding: 'utf8', flush: true });
    return false;
  } catch {
    return true;
  }
});

/** Whether `FileHandle.writeFile` and `appendFile` with `flush: true` flush. Node 20.20, 22.23 and 24.21 do not. */
export async function handlesFlush(): Promise<boolean> {
  const handle = await realPromises.open(DEVICE, 'w');
  try {
    await realPromises.writeFile(handle, 'x', { flush: true });
    return false;
  } catch {
    return true;
  } finally {
    await handle.close();
  }
}

/**
 * Whether `cpSync` of a folder cuts and writes the files that are there. Node 20 removes them first; since it is written in C++
 * it does not. A second name of the file tells.
 */
export const copiesInPlace: () => boolean = once(() => {
  const folder = real.mkdtempSync(join(tmpdir(), 'write-barrier-'));
  try {
    const [from, to] = [join(folder, 'from'), join(folder, 'to')];
    for (const [path, text] of [
      [from, 'new'],
      [to, 'old'],
    ] as const) {
      real.mkdirSync(path);
      real.writeFileSync(join(path, 'file'), text);
    }
    real.linkSync(join(to, 'file'), join(folder, 'second'));
    real.cpSync(from, to, { recursive: true });
    return real.readFileSync(join(folder, 'second'), 'utf8') === 'new';
  } finally {
    real.rmSync(folder, { recursive: true, force: true });
  }
});

/**
 * Whether `rmSync` takes the entries of a folder in the order of the system: it does since it is written in C++, in Node 24.
 * Before, it reads them as `readdirSync` does, which sorts. Nothing that it leaves behind tells, but its text does.
 */
export const removesUnsorted: () => boolean = once(() => /\bbinding\b/.test(String(real.rmSync)));
