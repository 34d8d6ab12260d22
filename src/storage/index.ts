export type { Capabilities, FlushFlags, Storage, Transfer, WriteFlags } from './storage.js';
