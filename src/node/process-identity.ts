// Who a process is, precisely enough to say later that it is dead. A process number alone does not
// do: it is given away again, it means something else in another container, and it means nothing on
// another machine. So a process is named by all that tells these cases apart, and it is dead only
// if that can be proved; what cannot be proved is taken for alive, because a second writer costs
// more than a lock that somebody has to delete.
//
// Proofs: the same machine has been started anew since; or in the same space of process numbers the
// number is unused, belongs to a zombie, or belongs to a process that started at another time.
// Without Linux's /proc only the unused number is left.

import { createHash } from 'node:crypto';
import { readFileSync, readlinkSync } from 'node:fs';
import { hostname } from 'node:os';

/** A process. Every text is free of dots, and empty where the platform does not tell. */
export interface ProcessIdentity {
  readonly pid: number;
  /** When it started, in clock ticks since the machine did. */
  readonly started: string;
  /** The space of process numbers: a container has its own. */
  readonly space: string;
  /** This run of the machine. */
  readonly boot: string;
  /** The machine, as a hash. */
  readonly host: string;
}

/** What can be seen of a process number now. */
export type Sighting =
  | { readonly alive: false }
  | { readonly alive: true; readonly started: string };

/** The process that runs this. */
export function thisProcess(): ProcessIdentity {
  const sighting = lookAt(process.pid);
  return {
    pid: process.pid,
    started: sighting.alive ? sighting.started : '',
    space: quietly(() => readlinkSync('/proc/self/ns/pid')).replaceAll(/\D/g, ''),
    boot: text('/proc/sys/kernel/random/boot_id').replaceAll('-', ''),
    host: createHash('sha256')
      .update(`${hostname()}\n${text('/etc/machine-id')}`)
      .digest('hex')
      .slice(0, 12),
  };
}

/** Whether `other` certainly runs no more, as far as `us` can tell. */
export function isDead(
  other: ProcessIdentity,
  us: ProcessIdentity,
  look: (pid: number) => Sighting = lookAt,
): boolean {
  if (other.host !== us.host) return false;
  if (other.boot !== us.boot) return true;
  if (other.space !== us.space) return false;
  const sighting = look(other.pid);
  if (!sighting.alive) return true;
  return other.started !== '' && sighting.started !== '' && other.started !== sighting.started;
}

/** Whether a process has that number, and when it started. */
export function lookAt(pid: number): Sighting {
  try {
    process.kill(pid, 0);
  } catch (error) {
    // Any other error means that there is such a process, and that it is somebody else's.
    if (error instanceof Error && 'code' in error && error.code === 'ESRCH')
      return { alive: false };
  }
  const [state, started] = stateAndStart(text(`/proc/${pid}/stat`));
  if (state === 'Z' || state === 'X') return { alive: false };
  return { alive: true, started };
}

/** Fields 3 and 22 of proc(5) stat. The name in field 2 may contain spaces and parentheses. */
function stateAndStart(stat: string): readonly [state: string, started: string] {
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return [fields[0] ?? '', fields[19] ?? ''];
}

function text(path: string): string {
  return quietly(() => readFileSync(path, 'utf8')).trim();
}

/** For what only some platforms have: '' where this one does not. */
function quietly(read: () => string): string {
  try {
    return read();
  } catch {
    return '';
  }
}
