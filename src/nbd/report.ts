// What went wrong, in words: the errors of both sides, text of others in messages, and observers that throw.
//
// A peer chooses its texts, and the user's code chooses what it throws; so both are escaped before a person reads them in a
// message, on a console or in a log. An error that a server sends keeps its name in the protocol as the `code` of its `cause`.
// An error for a lost server names the bytes that may be lost with it, because the caller may still have them.
//
// Not here: bytes that break the protocol (wire/layout.ts), and what a server tells its clients (server/commands.ts).

import { type ByteRange, IoFailedError, WriteBarrierError } from 'write-barrier';
import { messageOf } from 'write-barrier/kit';
import { COMMAND, NBD_ERROR } from './wire/index.js';

/** Escapes control characters, and characters that change the direction of what follows. */
export function printable(text: string): string {
  return text.replace(
    /[\p{Cc}\p{Zl}\p{Zp}\p{Bidi_Control}]/gu,
    (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`,
  );
}

/** The message of a thrown value, on one line. Never throws, whatever was thrown. */
export function inWords(error: unknown): string {
  return printable(messageOf(error));
}

/** How many bytes ranges have together. */
export function bytesIn(ranges: readonly ByteRange[]): number {
  return ranges.reduce((sum, { start, end }) => sum + (end - start), 0);
}

/**
 * An observer that cannot harm what it observes. What it throws, or what its promise is rejected with, is reported once on the
 * console, because a broken observer throws at every event.
 *
 * @param name what is observed, for the report: `an NbdServer`
 */
export function observed<Event>(
  observer: ((event: Event) => void) | undefined,
  name: string,
): (event: Event) => void {
  let reported = false;
  const failed = (error: unknown): void => {
    if (reported) return;
    reported = true;
    try {
      console.error(
        `write-barrier: the observer of ${name} threw; what it observes goes on: ${inWords(error)}`,
      );
    } catch {
      // Test runners replace the console by one that throws.
    }
  };
  return (event) => {
    try {
      const answer: unknown = observer?.(event);
      if (answer instanceof Promise) answer.catch(failed);
    } catch (error) {
      failed(error);
    }
  };
}

/** The error for what the protocol allows and one side refuses. */
export function refused(why: string): WriteBarrierError {
  return new WriteBarrierError('EOPNOTSUPP', why);
}

/**
 * The connection is lost for good: the server did not come back in time, came back with another export, broke the protocol,
 * or refused what was sent again; or the storage was given up. Requests in flight fail with `CONNECTION_LOST`, later ones
 * with `FAILED`. If the server fails a single request and the export goes on, the error is `IO_FAILED` instead.
 *
 * A single request fails with `CONNECTION_LOST`, and the export goes on, if it was sent again `triesMax` times and the
 * connection was lost each time before its answer. `state` of the storage is then not `failed`.
 */
export class NbdLostError extends WriteBarrierError {
  override get name(): 'NbdLostError' {
    return 'NbdLostError';
  }
  /** The bytes that were written and answered, and may be lost because no flush covered them. */
  readonly atRisk: readonly ByteRange[];

  constructor(
    code: 'CONNECTION_LOST' | 'FAILED',
    atRisk: readonly ByteRange[],
    cause: unknown,
    message?: string,
  ) {
    const lost = `the NBD export is lost, ${bytesIn(atRisk)} answered bytes may be lost with it`;
    super(code, message ?? `${lost}: ${inWords(cause)}`, { cause });
    this.atRisk = atRisk;
  }
}

/** The error of every request after the loss. */
export function lostBefore({ atRisk, cause }: NbdLostError): NbdLostError {
  return new NbdLostError('FAILED', atRisk, cause);
}

/** The error of a request that was sent too often, each time over a connection that was then lost. The export goes on. */
export function outlived(
  op: string,
  times: number,
  atRisk: readonly ByteRange[],
  cause: unknown,
): NbdLostError {
  const what = `the connection was lost ${times} times before the server had answered a ${op}`;
  const more = op === 'flush' ? `, ${bytesIn(atRisk)} answered bytes are not flushed` : '';
  const why = `${what}${more}: ${inWords(cause)}`;
  return new NbdLostError('CONNECTION_LOST', op === 'flush' ? atRisk : [], cause, why);
}

/** The error of a read whose buffer was transferred, or shrank, before its bytes arrived. */
export function bufferChanged(length: number): WriteBarrierError {
  const what =
    `the buffer of a read of ${length} bytes was transferred or resized before the answer; leave it ` +
    `alone until the read has settled`;
  return new WriteBarrierError('INVALID_ARGUMENT', what);
}

/** An error of the server as an error of this package. Its errno is the `code` of the `cause`. */
export function serverError(command: number, error: number, message: string): WriteBarrierError {
  const name = nameOf(NBD_ERROR, error) ?? 'EINVAL';
  const said = printable(message);
  const cause = Object.assign(new Error(said || name), { code: name });
  const what = `the NBD server failed a ${nameOf(COMMAND, command)}`;
  const why = `${name}${said && `, ${said}`}`;
  const code = CODES[name];
  const text = `${what}: ${why}`;
  return code ? new WriteBarrierError(code, text, { cause }) : new IoFailedError(text, { cause });
}

const CODES: Readonly<Record<string, 'READ_ONLY' | 'EOPNOTSUPP'>> = {
  EPERM: 'READ_ONLY',
  ENOTSUP: 'EOPNOTSUPP',
};

/** The name that the protocol has for a number. */
export function nameOf(
  numbers: Readonly<Record<string, number>>,
  number: number,
): string | undefined {
  return Object.entries(numbers).find(([, value]) => value === number)?.[0];
}
