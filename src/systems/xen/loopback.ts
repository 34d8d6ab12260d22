import type { IoScheduler } from 'write-barrier';
import { blkBackRing } from './back-ring.js';
import { type BlkBackend, type BlkBackendOptions, blkback } from './backend.js';
import type { XenNodes } from './features.js';
import { BlkFrontRing } from './front-ring.js';
import { BlkFrontend } from './frontend.js';
import { type GrantTable, grantTable } from './grants.js';
import { type BlkifLayout, type BlkifRequest, type BlkifResponse, PAGE_BYTES } from './wire.js';

/** How two ends are put together. */
export interface XenLoopbackOptions {
  /** x86-64 unless given. */
  readonly layout?: BlkifLayout;
  /** Pages that the frontend has to lend; 512 unless given. */
  readonly pages?: number;
  /** As for a frontend. */
  readonly withoutFlush?: 'volatile' | 'none';
  /** Is told once that a ring was broken. */
  readonly broken?: (reason: string) => void;
}

/** Whatever answers requests. */
export interface BlkifServing {
  /** What it writes into xenstore. */
  readonly nodes: XenNodes;
  /** Answers a request and never rejects. */
  serve(request: BlkifRequest): Promise<BlkifResponse>;
}

/** A frontend whose backend is in the same program, with a ring of real bytes between them. */
export interface XenLoopback<B extends BlkifServing> {
  readonly frontend: BlkFrontend;
  readonly backend: B;
  /** The page with the ring. */
  readonly ring: Uint8Array;
  readonly grants: GrantTable;
}

/**
 * Puts a frontend in front of whatever answers requests, as between two domains: they share one page with a ring, the
 * granted pages, and two events, each of which comes in a turn of its own.
 */
export function xenLoopbackOver<B extends BlkifServing>(
  make: (grants: GrantTable) => B,
  options: XenLoopbackOptions = {},
): XenLoopback<B> {
  const { layout = 'x86-64', pages = 512, withoutFlush, broken } = options;
  const ring = new Uint8Array(PAGE_BYTES);
  const grants = grantTable(pages);
  const backend = make(grants);
  const { nodes } = backend;
  const front = new BlkFrontRing(ring, {
    layout,
    notify: () => queueMicrotask(() => back.notified()),
  });
  const back = blkBackRing(ring, {
    layout,
    serve: (request) => backend.serve(request),
    notify: () => queueMicrotask(() => front.notified()),
    ...(broken && { broken }),
  });
  const how = { nodes, ring: front, grants, ...(withoutFlush && { withoutFlush }) };
  return { frontend: new BlkFrontend(how), backend, ring, grants };
}

/** A scheduler behind a Xen ring: its backend, and a frontend that is a storage. */
export function xenLoopback(
  disk: IoScheduler,
  options: XenLoopbackOptions & Omit<BlkBackendOptions, 'page'> = {},
): XenLoopback<BlkBackend> {
  return xenLoopbackOver(({ page }) => blkback(disk, { ...options, page }), options);
}
