import type { VirtioChain } from './chain.js';

/**
 * What a driver sees of a device: features, configuration space, and a queue that takes chains. `VirtioBackend` is one;
 * a device behind a worker, a socket or an emulated bus is another.
 */
export interface VirtioTransport {
  /** The features that the device offers, as bits. */
  readonly features: bigint;
  /** Puts the device back to its start. */
  reset(): void | Promise<void>;
  /** Accepts features; false where the device does not agree. */
  negotiate(features: bigint): boolean | Promise<boolean>;
  /** The configuration space as it is now. */
  readConfig(): Uint8Array | Promise<Uint8Array>;
  /** Writes some bytes of the configuration space; what cannot be written stays as it is. */
  writeConfig(offset: number, bytes: Uint8Array): void | Promise<void>;
  /** Hands a chain to the device. The answer, when it is used, is the used length in bytes. */
  submit(chain: VirtioChain): number | Promise<number>;
}
