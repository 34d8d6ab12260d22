import { IoFailedError, unsupported, WriteBarrierError } from '../../model/index.js';
import { concatBuffers, copyOf } from '../../storage/buffers.js';
import { checkRange } from '../../storage/checks.js';
import type { Capabilities, FlushFlags, Storage, WriteFlags } from '../../storage/index.js';
import { discarded } from '../device/corruption.js';
import { checkDiskSize } from '../device/disk-options.js';
import { type Content, sizeIn } from '../device/disk-trace.js';
import type { RegionMap } from './regions.js';

/**
 * A disk whose sectors get their content when they are read first, and whose size is read first by each command with a range;
 * overlaid by what was written since. It answers at once.
 */
export class SettledDisk implements Storage {
  readonly #map: RegionMap;
  readonly #content: Content;
  readonly #overlay = new Map<number, Uint8Array>();
  #ended = false;
  #size: number | undefined;
  /** The least size that it was given, in bytes: everything behind it that was not written since is zero. */
  #end = Number.POSITIVE_INFINITY;
  readonly capabilities: Capabilities;
  declare readonly writev?: (
    offset: number,
    list: readonly Uint8Array[],
    flags: WriteFlags,
  ) => void;
  declare readonly discard?: (offset: number, length: number) => void;
  declare readonly writeZeroes?: (offset: number, length: number) => void;
  declare readonly resize?: (size: number) => void;

  constructor(map: RegionMap, content: Content) {
    this.#map = map;
    this.#content = content;
    this.capabilities = map.offers;
    const { writev, discard, writeZeroes, resize } = map.offers;
    if (writev)
      this.writev = (offset, list, flags) => this.write(offset, concatBuffers(list), flags);
    if (discard) {
      this.discard = (offset, length) => this.#put(offset, length, (at) => discarded(map, at));
    }
    if (writeZeroes) {
      this.writeZeroes = (offset, length) => this.write(offset, new Uint8Array(length));
    }
    if (resize) this.resize = (size) => this.#resize(size);
  }

  /** In bytes; decided when it is asked for first. */
  get size(): number {
    this.#size ??= sizeIn(this.#content, this.#map.sectorSize);
    return this.#size;
  }

  /** @throws `IO_FAILED` for a sector that cannot be read */
  read(offset: number, into: Uint8Array): void {
    this.#check(offset, into.length);
    const { sectorSize } = this.#map;
    for (let at = 0; at < into.length; at += sectorSize) {
      const bytes = this.#bytesAt(offset + at);
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

  #bytesAt(offset: number): Uint8Array | undefined {
    const written = this.#overlay.get(offset);
    if (written) return written;
    return offset < this.#end ? this.#content(offset) : new Uint8Array(this.#map.sectorSize);
  }

  #resize(size: number): void {
    this.#check(0, 0);
    checkDiskSize(this, size);
    this.#end = Math.min(this.#end, size, this.size);
    for (const at of this.#overlay.keys()) if (at >= size) this.#overlay.delete(at);
    this.#size = size;
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
