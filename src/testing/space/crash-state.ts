// A crash state: one disk image that a power cut may leave, as a version for each place.
//
// Versions are asked for when they are needed, so a state that was drawn costs as much as is read of it. The size is one of the
// places where a trace changes it (regions.ts). What lies behind it is not there: it reads as zero for what looks below, whatever
// versions those places have.
//
// Not here: which states are possible together (places.ts), and the disk that a recovery decides as it reads (explore.ts).

import { withText } from '../../model/show.js';
import type { Storage } from '../../storage/index.js';
import { noise } from '../device/corruption.js';
import { type Content, sizeIn } from '../device/disk-trace.js';
import { versionAt } from './places.js';
import { contentOf, placeAt, type RegionMap, regionAt } from './regions.js';
import { SettledDisk } from './settled-disk.js';
import type { Version } from './versions.js';

const NEVER = Number.POSITIVE_INFINITY;

/** A crash state: one disk image that a power cut may leave. */
export class CrashState {
  readonly #map: RegionMap;
  readonly #below: Content;
  readonly #versionOf: (place: number) => number;
  #versions: Int32Array | undefined;
  #size: number | undefined;

  /**
   * @param versionOf the version of a place, the same whenever it is asked for
   * @param below what the medium holds where the trace has written nothing
   * @internal
   */
  constructor(
    map: RegionMap,
    versionOf: Int32Array | ((place: number) => number),
    below: Content = map.before,
  ) {
    this.#map = map;
    this.#below = below;
    if (typeof versionOf === 'function') {
      this.#versionOf = versionOf;
    } else {
      this.#versions = versionOf;
      this.#versionOf = (place) => versionOf[place] as number;
    }
  }

  /** The version of each place, in the order of offsets; 0 is the content before the trace. @internal */
  get versions(): Int32Array {
    this.#versions ??= Int32Array.from({ length: this.#map.places }, (_, place) =>
      this.#versionOf(place),
    );
    return this.#versions;
  }

  /** The power was cut after this moment: the latest dispatch of a write that is visible. */
  get after(): number {
    return this.#fold(-NEVER, (latest, { after }) => Math.max(latest, after));
  }

  /** The power was cut before this moment: from here on the host knows that a write is durable which is missing. */
  get before(): number {
    return this.#fold(NEVER, (earliest, { durable }) => Math.min(earliest, durable));
  }

  /** Whether a power cut can leave these versions. */
  get isPossible(): boolean {
    return this.after < this.#fold(NEVER, (least, { ordered }) => Math.min(least, ordered));
  }

  /** The size of the disk, in bytes. What was written behind it is not there. */
  get size(): number {
    this.#size ??= sizeIn((offset) => this.#stored(offset), this.#map.sectorSize);
    return this.#size;
  }

  /** A new array with the bytes of the disk. Sectors that cannot be read hold arbitrary bytes. */
  image(): Uint8Array {
    const { sectorSize, initial, regions } = this.#map;
    const bytes = new Uint8Array(this.size);
    if (initial) bytes.set(initial.subarray(0, this.size));
    for (const { offset, length } of regions) {
      const end = Math.min(offset + length, this.size);
      for (let at = Math.max(0, offset); at < end; at += sectorSize) {
        bytes.set(this.content(at) ?? noise(sectorSize, at), at);
      }
    }
    return bytes;
  }

  /** The offsets of the sectors that cannot be read, in bytes. */
  get unreadable(): readonly number[] {
    const { unreadable, regions, sectorSize } = this.#map;
    const found = [...unreadable];
    for (const { offset, length, writes } of regions) {
      const mayBeBad =
        writes.some(({ spoilt }) => spoilt === 'latent') || this.#map.tear === 'garbage';
      if (!mayBeBad) continue;
      for (let at = offset; at < offset + length; at += sectorSize) found.push(at);
    }
    return [...new Set(found)].filter((offset) => this.content(offset) === undefined);
  }

  /** The content of a sector; undefined if it cannot be read. Behind the size there are zeroes. @internal */
  content(offset: number): Uint8Array | undefined {
    if (offset >= this.size) return new Uint8Array(this.#map.sectorSize);
    return this.#stored(offset);
  }

  #stored(offset: number): Uint8Array | undefined {
    const region = regionAt(this.#map, offset);
    if (!region) return this.#below(offset);
    const version = versionAt(region, this.#versionOf(placeAt(region, offset)));
    return contentOf(this.#map, region, version, offset, this.#below);
  }

  static {
    withText(CrashState.prototype, function (this: CrashState) {
      const { size } = this;
      const { places } = this.#map;
      const old = this.versions.reduce((count, version) => count + Number(version === 0), 0);
      return `CrashState { ${size} bytes: ${old} of ${places} written regions have their old content }`;
    });
  }

  /** A disk with this content for a recovery. It answers at once, and writes to it do not change the state. */
  disk(): Storage {
    return new SettledDisk(this.#map, (offset) => this.content(offset));
  }

  #fold(start: number, step: (value: number, version: Version) => number): number {
    let value = start;
    for (const region of this.#map.regions) {
      for (let place = region.first; place < region.first + region.count; place += 1) {
        value = step(value, versionAt(region, this.#versionOf(place)));
      }
    }
    return value;
  }
}
