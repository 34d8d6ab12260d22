// Sockets that systemd opens for a service, before the service starts (sd_listen_fds(3)).

import { formatValue, misuse } from 'write-barrier/kit';

/** The first of them, after the three of every process. */
const FIRST = 3;

/**
 * The sockets that systemd has opened for this process, for `listen`; none if it was not started by a `.socket` unit. The
 * environment tells of them, and does so no more after the call, because a child process would take them for its own.
 *
 * @throws `INVALID_ARGUMENT` for an environment that systemd does not make
 * @see sd_listen_fds(3)
 */
export function systemdSockets(): readonly {
  /** The descriptor. */
  readonly fd: number;
}[] {
  const { LISTEN_PID, LISTEN_FDS } = process.env;
  for (const name of ['LISTEN_PID', 'LISTEN_FDS', 'LISTEN_FDNAMES']) delete process.env[name];
  if (LISTEN_PID !== String(process.pid)) return [];
  const count = Number(LISTEN_FDS);
  if (!Number.isInteger(count) || count < 0 || count > 1024) {
    throw misuse(`LISTEN_FDS must be a number of sockets, not ${formatValue(LISTEN_FDS)}`);
  }
  return Array.from({ length: count }, (_, i) => ({ fd: FIRST + i }));
}
