import { IoFailedError, unsupported, WriteBarrierError } from '../../model/index.js';
import { concatBuffers, copyOf } from '../../storage/buffers.js';
import { checkRange } from '../../storage/checks.js';
import type { Capabilities, FlushFlags, Storage, WriteFlags } from '../../storage/index.js';
import { discarded } from '../device/corruption.js';
import type { Content } from '../device/disk-trace.js';
import type { RegionMap } from './regions.js';

/** A disk whose sectors get their content when they are read first, overlaid by what was written since. It answers at once. */
export class SettledDisk implements Storage {
  readonly #map: RegionMap;
  readonly #content: Content;
  readonly #overlay = new Map<number, Uint8Array>();
  #ended = false;
  readonly size: number;
  readonly capabilities: Capabilities;
  declare readonly writev?: (
    offset: number,
    list: readonly Uint8Array[],
    flags: WriteFlags,
  ) => void;
  declare readonly discard?: (offset: number, length: number) => void;
  declare readonly writeZeroes?: (offset: number, length: number) => void;

  constructor(map: RegionMap, content: Content) {
    this.#map = map;
    this.#content = content;
    this.size = map.size;
    this.capabilities = map.offers;
    const { writev, discard, writeZeroes } = map.offers;
    if (writev)
      this.writev = (offset, list, flags) => this.write(offset, concatBuffers(list), flags);
    if (discard) {
      this.discard = (offset, length) => this.#put(offset, length, (at) => discarded(map, at));
    }
    if (writeZeroes) {
      this.writeZeroes = (offset, length) => this.write(offset, new Uint8Array(length));
    }
  }

  /** @throws `IO_FAILED` for a sector that cannot be read */
  read(offset: number, into: Uint8Array): void {
    this.#check(offset, into.length);
    const { sectorSize } = this.#map;
    for (let at = 0; at < into.length; at += sectorSize) {
      const bytes = this.#overlay.get(offset + at) ?? this.#content(offset + at);
      if (!bytes) throw new IoFailedError(`simulated: offset ${offset + at} cannot be read`);
      into.set(bytes, at);
    }
  }

  /** @throws `EOPNOTSUPP` for flags that the device does not have, because a real one refuses them, too */
  write(offset: number, data: Uint8Array, { tag, fua }: Partial<WriteFlags> = {}): void {
    if (fua && !this.capabilities.fua) throw unsupported('FUA');
    this.#put(offset, data.length, (at, end) => copyOf(data, at - offset, end - offset), tag);
  }

  flush({ tag }: Partial<FlushFlags> = {}): void {
    if (!this.capabilities.flush) throw unsupported('flush');
    this.#check(0, 0, tag);
  }

  close(): void {}

  /** Refuses all later commands. */
  end(): void {
    this.#ended = true;
  }

  #put(
    offset: number,
    length: number,
    content: (start: number, end: number) => Uint8Array | undefined,
    tag?: FlushFlags['tag'],
  ): void {
    this.#check(offset, length, tag);
    const { sectorSize } = this.#map;
    for (let at = offset; at < offset + length; at += sectorSize) {
      const bytes = content(at, at + sectorSize);
      if (bytes) this.#overlay.set(at, bytes);
    }
  }

  #check(offset: number, length: number, tag?: FlushFlags['tag']): void {
    if (this.#ended) throw new WriteBarrierError('CLOSED', 'the recovery on this disk has ended');
    if (tag === 'ordered' && !this.capabilities.orderedTags) throw unsupported('an ordered tag');
    if (length !== 0) checkRange(this, offset, length); // undefined is the length of what is no buffer
  }
}
