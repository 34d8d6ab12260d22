import { IoFailedError, unsupported, WriteBarrierError } from '../../model/index.js';
import { concatBuffers, copyOf } from '../../storage/buffers.js';
import { rangeFault } from '../../storage/checks.js';
import type { Capabilities, FlushFlags, Storage, WriteFlags } from '../../storage/index.js';
import type { Content } from '../device/disk-trace.js';
import type { RegionMap } from './regions.js';

/** A disk whose sectors get their content when they are read first, overlaid by what was written since. It answers at once. */
export class SettledDisk implements Storage {
  readonly #sectorSize: number;
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

  constructor({ size, sectorSize, offers }: RegionMap, content: Content) {
    this.#sectorSize = sectorSize;
    this.#content = content;
    this.size = size;
    this.capabilities = offers;
    const { writev, discard, writeZeroes } = offers;
    if (writev)
      this.writev = (offset, list, flags) => this.write(offset, concatBuffers(list), flags);
    const zeroed = (offset: number, length: number): void =>
      this.write(offset, new Uint8Array(length));
    if (discard) this.discard = zeroed;
    if (writeZeroes) this.writeZeroes = zeroed;
  }

  /** @throws `IO_FAILED` for a sector that cannot be read */
  read(offset: number, into: Uint8Array): void {
    this.#check(offset, into.length);
    const sectorSize = this.#sectorSize;
    for (let at = 0; at < into.length; at += sectorSize) {
      const bytes = this.#overlay.get(offset + at) ?? this.#content(offset + at);
      if (!bytes) throw new IoFailedError(`simulated: offset ${offset + at} cannot be read`);
      into.set(bytes, at);
    }
  }

  /** @throws `EOPNOTSUPP` for flags that the device does not have, because a real one refuses them, too */
  write(offset: number, data: Uint8Array, { tag, fua }: Partial<WriteFlags> = {}): void {
    if (fua && !this.capabilities.fua) throw unsupported('FUA');
    this.#check(offset, data.length, tag);
    const sectorSize = this.#sectorSize;
    for (let at = 0; at < data.length; at += sectorSize) {
      this.#overlay.set(offset + at, copyOf(data, at, at + sectorSize));
    }
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

  #check(offset: number, length: number, tag?: FlushFlags['tag']): void {
    if (this.#ended) throw new WriteBarrierError('CLOSED', 'the recovery on this disk has ended');
    if (tag === 'ordered' && !this.capabilities.orderedTags) throw unsupported('an ordered tag');
    const fault = rangeFault({ offset, length }, this.size, this.#sectorSize);
    if (fault && length !== 0) throw fault; // a length of undefined is that of what is no buffer
  }
}
