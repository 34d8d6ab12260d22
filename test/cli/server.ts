import { type ChildProcess, type StdioOptions, spawn } from 'node:child_process';
import type { Server as TcpServer } from 'node:net';
import { createInterface } from 'node:readline';
import { onTestFinished } from 'vitest';
import { CLI } from './run.js';

/** A server that runs. */
export interface Server {
  /** What it has printed. */
  readonly lines: readonly string[];
  /** Where its only, or its first, address is. */
  readonly uri: string;
  /** Settles with the line when it has printed such a one. */
  says(pattern: RegExp): Promise<string>;
  /** Settles with its exit code, or with the signal that ended it. */
  kill(signal: NodeJS.Signals): Promise<number | string>;
}

/** Starts `write-barrier serve` with these arguments; settles when it listens. It ends with the test at the latest. */
export function serve(...words: readonly string[]): Promise<Server> {
  const stdio: StdioOptions = ['ignore', 'pipe', 'pipe'];
  return serverOf(spawn(process.execPath, [CLI, 'serve', ...words], { stdio }));
}

/** The same as the service of a socket unit: the process has the socket as descriptor 3, and the variables that systemd sets. */
export async function serveAsService(
  socket: TcpServer,
  ...words: readonly string[]
): Promise<Server> {
  const script = 'LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=disk.socket exec "$@"';
  const child = spawn('sh', ['-c', script, 'sh', process.execPath, CLI, 'serve', ...words], {
    stdio: ['ignore', 'pipe', 'pipe', descriptorOf(socket)],
  });
  await new Promise((resolve) => socket.close(resolve));
  return serverOf(child);
}

/** Node has no public name for the descriptor of a server. */
function descriptorOf(socket: TcpServer): number {
  return (socket as unknown as { readonly _handle: { readonly fd: number } })._handle.fd;
}

async function serverOf(child: ChildProcess): Promise<Server> {
  const ended = new Promise<number | string>((resolve) => {
    child.once('close', (code, signal) => resolve(code ?? signal ?? 'nothing'));
  });
  onTestFinished(async () => {
    child.kill('SIGKILL');
    await ended;
  });
  const lines: string[] = [];
  const waiting = new Set<() => void>();
  for (const input of [child.stdout, child.stderr]) {
    if (!input) continue;
    createInterface({ input }).on('line', (line) => {
      lines.push(line);
      for (const look of waiting) look();
    });
  }
  const says = (pattern: RegExp): Promise<string> =>
    new Promise((resolve, reject) => {
      const look = (): void => {
        const line = lines.find((each) => pattern.test(each));
        if (line !== undefined) resolve(line);
      };
      waiting.add(look);
      look();
      ended.then((how) => reject(new Error(`it ends with ${how}: ${lines.join('\n')}`)));
    });
  const first = await says(/nbd(\+unix)?:\/\/|descriptor \d/);
  const kill = (signal: NodeJS.Signals): Promise<number | string> => {
    child.kill(signal);
    return ended;
  };
  return { lines, uri: /nbd\S+?:\/\/[^\s,]+/.exec(first)?.[0] ?? '', says, kill };
}
