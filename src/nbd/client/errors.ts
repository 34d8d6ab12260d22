// What the errors of a server become, and the error for what can be lost.

import { type ByteRange, WriteBarrierError } from 'write-barrier';
import { COMMAND, NBD_ERROR } from '../wire/index.js';

/**
 * The connection is lost for good, or nothing can be vouched for any more: the server did not come back in time, came
 * back as another one, has broken the protocol, or refused what was sent again. What was waiting fails with
 * `CONNECTION_LOST`, and everything later with `FAILED`. Where one request fails and the export goes on, it is `IO_FAILED`.
 */
export class NbdLostError extends WriteBarrierError {
  override readonly name = 'NbdLostError';
  /** What was written and answered, and may be lost: no flush has covered it. */
  readonly atRisk: readonly ByteRange[];

  constructor(code: 'CONNECTION_LOST' | 'FAILED', atRisk: readonly ByteRange[], cause: unknown) {
    const bytes = atRisk.reduce((sum, { start, end }) => sum + (end - start), 0);
    const why = cause instanceof Error ? cause.message : String(cause);
    super(code, `the NBD export is lost, ${bytes} answered bytes may be lost with it: ${why}`, {
      cause,
    });
    this.atRisk = atRisk;
  }
}

/** An error of the server's, in this package's codes. The errno is the `code` of its `cause`. */
export function serverError(command: number, error: number, message: string): WriteBarrierError {
  const name = nameOf(NBD_ERROR, error) ?? 'EINVAL';
  const cause = Object.assign(new Error(message || name), { code: name });
  const what = `the NBD server failed a ${nameOf(COMMAND, command)}`;
  const why = `${name}${message && `, ${message}`}`;
  return new WriteBarrierError(CODES[name] ?? 'IO_FAILED', `${what}: ${why}`, { cause });
}

const CODES: Readonly<Record<string, 'READ_ONLY' | 'EOPNOTSUPP'>> = {
  EPERM: 'READ_ONLY',
  ENOTSUP: 'EOPNOTSUPP',
};

function nameOf(numbers: Readonly<Record<string, number>>, number: number): string | undefined {
  return Object.entries(numbers).find(([, value]) => value === number)?.[0];
}
