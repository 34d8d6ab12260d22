// What was seen of the models of file systems, as tables of a page: on real kernels, and of databases.

import type { Seen } from '../../interop/kernel-models.js';
import { NATIVE_STORES } from '../../interop/native-stores.js';
import { read, table } from '../pages.js';

/** Written by test/interop/files-kernels.test.ts. */
const seen = (): [string, Seen][] =>
  Object.entries(JSON.parse(read('test/interop/kernels-seen.json')));

/** What real kernels have left, and how much of a model it is. */
export function kernelsSeen(): string {
  const rows = seen().map(([name, { kernel, model, programs, images, states, seen: found }]) => {
    const share = `${found} of ${states} (${Math.round((100 * found) / states)} %)`;
    return [`${name}, Linux ${kernel}`, `\`${model}\``, `${programs}`, `${images}`, share, 'none'];
  });
  const head = ['file system', 'model', 'programs', 'images', 'trees of the model that were seen'];
  return table([...head, 'other trees'], rows);
}

/** What refuted the models of other file systems. */
export function kernelsRefuted(): string {
  const rows = seen().flatMap(([name, { refuted }]) => {
    return Object.entries(refuted).map(([model, { calls, tree }]) => {
      return [name, `\`${model}\``, calls, `\`${tree}\``];
    });
  });
  return table(['on', 'refutes', 'by this program', 'which left'], rows);
}

export function nativeStores(): string {
  const rows = NATIVE_STORES.map(({ name, consistent, durable }) => [name, consistent, durable]);
  return table(['', 'consistent', 'durable'], rows);
}
