// A directory under test, and what it should hold: random operations on a few files, and a plain model of them.

import fc from 'fast-check';
import { IoScheduler, type Storage } from 'write-barrier';
import { Directory, type DirectoryOptions } from 'write-barrier/directory';

export const BLOCK = 512;
/** Two superblocks of 4096 bytes at the start take 16 blocks; then the log, the table, and the data. */
export const SMALL: DirectoryOptions = {
  create: true,
  blockSize: BLOCK,
  logSize: 10 * BLOCK,
  filesMax: 4,
};
/** With so many blocks of data. */
export const sizeOf = (blocks: number): number => (16 + 10 + 2 + blocks) * BLOCK;

const NAMES = ['a', 'b', 'c'] as const;

/** An operation, as plain data. */
export type Op =
  | {
      readonly op: 'write';
      readonly name: string;
      readonly at: number;
      readonly length: number;
      readonly fill: number;
    }
  | { readonly op: 'append'; readonly name: string; readonly length: number; readonly fill: number }
  | {
      readonly op: 'writeAll';
      readonly name: string;
      readonly writes: readonly {
        readonly at: number;
        readonly length: number;
        readonly fill: number;
      }[];
    }
  | { readonly op: 'truncate'; readonly name: string; readonly size: number }
  | { readonly op: 'remove'; readonly name: string }
  | { readonly op: 'rename'; readonly name: string; readonly to: string }
  | { readonly op: 'writeOut' }
  | { readonly op: 'sync' };

const names = fc.constantFrom(...NAMES);
const fills = fc.integer({ min: 1, max: 255 });
const lengths = fc.integer({ min: 1, max: 3 * BLOCK });
const offsets = fc.nat({ max: 4 * BLOCK });

export const ops: fc.Arbitrary<Op> = fc.oneof(
  {
    weight: 4,
    arbitrary: fc.record({
      op: fc.constant('write' as const),
      name: names,
      at: offsets,
      length: lengths,
      fill: fills,
    }),
  },
  {
    weight: 3,
    arbitrary: fc.record({
      op: fc.constant('append' as const),
      name: names,
      length: lengths,
      fill: fills,
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      op: fc.constant('writeAll' as const),
      name: names,
      // Together no more than the log holds at once.
      writes: fc.array(
        fc.record({ at: offsets, length: fc.integer({ min: 1, max: 20 }), fill: fills }),
        { minLength: 1, maxLength: 3 },
      ),
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({ op: fc.constant('truncate' as const), name: names, size: offsets }),
  },
  { weight: 2, arbitrary: fc.record({ op: fc.constant('remove' as const), name: names }) },
  {
    weight: 1,
    arbitrary: fc.record({ op: fc.constant('rename' as const), name: names, to: names }),
  },
  {
    weight: 2,
    arbitrary: fc.constantFrom<Op>({ op: 'writeOut' }, { op: 'sync' }),
  },
);

/** Names and contents. */
export type Files = readonly (readonly [name: string, bytes: Uint8Array])[];

/** The content of each file, in text, so that two states are equal if their texts are. */
export class Model {
  readonly files: Map<string, Uint8Array>;

  constructor(files: Files = []) {
    this.files = new Map(files);
  }

  apply(op: Op): void {
    if (op.op === 'writeOut' || op.op === 'sync') return;
    const { name } = op;
    const old = this.files.get(name);
    if (op.op === 'remove') this.files.delete(name);
    else if (op.op === 'rename') {
      if (!old) return;
      this.files.delete(name);
      this.files.set(op.to, old);
    } else if (op.op === 'writeAll') {
      for (const write of op.writes) this.apply({ op: 'write', name, ...write });
    } else if (op.op === 'truncate') this.files.set(name, extended(old, op.size).slice(0, op.size));
    else {
      const at = op.op === 'append' ? (old?.length ?? 0) : op.at;
      const bytes = extended(old, at + op.length);
      bytes.fill(op.fill, at, at + op.length);
      this.files.set(name, bytes);
    }
  }

  get text(): string {
    return textOf(this.files);
  }
}

function extended(bytes: Uint8Array = new Uint8Array(0), size: number): Uint8Array {
  const longer = new Uint8Array(Math.max(bytes.length, size));
  longer.set(bytes);
  return longer;
}

/** Files in the order of their names, and their bytes in runs: `a: 512x7 100x0`. */
export function textOf(files: ReadonlyMap<string, Uint8Array>): string {
  const lines = [...files].sort(([a], [b]) => (a < b ? -1 : 1));
  return lines.map(([name, bytes]) => `${name}:${runsOf(bytes)}`).join('\n');
}

function runsOf(bytes: Uint8Array): string {
  let text = '';
  for (let at = 0; at < bytes.length; ) {
    let end = at;
    while (bytes[end] === bytes[at] && end < bytes.length) end += 1;
    text += ` ${end - at}x${bytes[at]}`;
    at = end;
  }
  return text;
}

/** Carries it out. What the model does without a file is not asked for. */
export async function carryOut(files: Directory, op: Op): Promise<void> {
  switch (op.op) {
    case 'write':
      return (await files.open(op.name)).write(op.at, new Uint8Array(op.length).fill(op.fill));
    case 'append':
      await (await files.open(op.name)).append(new Uint8Array(op.length).fill(op.fill));
      return;
    case 'writeAll':
      return (await files.open(op.name)).writeAll(pairsOf(op.writes));
    case 'truncate':
      return (await files.open(op.name)).truncate(op.size);
    case 'remove':
      return files.has(op.name) ? files.remove(op.name) : undefined;
    case 'rename':
      return files.has(op.name) ? files.rename(op.name, op.to) : undefined;
    case 'writeOut':
      return files.writeOut();
    case 'sync':
      return files.sync();
  }
}

export function pairsOf(
  writes: readonly { readonly at: number; readonly length: number; readonly fill: number }[],
): [offset: number, data: Uint8Array][] {
  return writes.map(({ at, length, fill }) => [at, new Uint8Array(length).fill(fill)]);
}

export async function filesOf(files: Directory): Promise<Files> {
  return Promise.all(
    files.names.map(async (name) => {
      const file = await files.open(name);
      return [name, await file.read(0, file.size)] as const;
    }),
  );
}

export async function contentsOf(files: Directory): Promise<string> {
  return new Model(await filesOf(files)).text;
}

export function directoryOn(disk: Storage, options: DirectoryOptions = {}): Promise<Directory> {
  return Directory.open(new IoScheduler(disk), options);
}
