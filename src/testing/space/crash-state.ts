import { withText } from '../../model/show.js';
import { copyOf } from '../../storage/buffers.js';
import type { Storage } from '../../storage/index.js';
import { type Cell, type CellMap, versionAt } from './cells.js';
import { SettledDisk } from './explore.js';
import type { Version } from './versions.js';

const NEVER = Number.POSITIVE_INFINITY;

/** A crash state: one disk image that a power cut may leave. */
export class CrashState {
  readonly #map: CellMap;
  /** The visible version of each region that the trace writes, in the order of offsets; 0 is the content before the trace. */
  readonly versions: Int32Array;

  /** @internal */
  constructor(map: CellMap, versions: Int32Array) {
    this.#map = map;
    this.versions = versions;
  }

  /** The power was cut after this moment: the latest dispatch of a write that is visible. */
  get after(): number {
    return this.#visible().reduce((latest, { after }) => Math.max(latest, after), -NEVER);
  }

  /** The power was cut before this moment: from here on the host knows that a write is durable which is missing. */
  get before(): number {
    return this.#visible().reduce((earliest, { durable }) => Math.min(earliest, durable), NEVER);
  }

  /** Whether a power cut can leave these versions. */
  get isPossible(): boolean {
    const bound = this.#visible().reduce((least, { ordered }) => Math.min(least, ordered), NEVER);
    return this.after < bound;
  }

  /** A new array with the bytes of the disk. Sectors that cannot be read hold arbitrary bytes. */
  image(): Uint8Array {
    const { size, initial, cells } = this.#map;
    const bytes = initial ? copyOf(initial, 0, size) : new Uint8Array(size);
    for (const [place, { bytes: content }] of this.#visible().entries()) {
      if (this.versions[place] !== 0) bytes.set(content, (cells[place] as Cell).offset);
    }
    return bytes;
  }

  /** The offsets of the sectors that cannot be read, in bytes. */
  get unreadable(): readonly number[] {
    const { cells, unreadable } = this.#map;
    const written = this.#visible().flatMap(({ bad }, place) =>
      bad.map((at) => (cells[place] as Cell).offset + at),
    );
    return [...unreadable, ...written];
  }

  static {
    withText(CrashState.prototype, function (this: CrashState) {
      const written = this.#map.cells.length;
      const old = this.versions.reduce((count, version) => count + Number(version === 0), 0);
      return `CrashState { ${this.#map.size} bytes: ${old} of ${written} written regions have their old content }`;
    });
  }

  /** A disk with this content for a recovery. It answers at once, and writes to it do not change the state. */
  disk(): Storage {
    return new SettledDisk(this.#map, (place) => this.versions[place] as number);
  }

  #visible(): Version[] {
    return this.#map.cells.map((cell, place) => versionAt(cell, this.versions[place] as number));
  }
}
