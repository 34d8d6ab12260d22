// Real NBD servers for tests: started on a Unix socket, killed, and started again on the same medium.

import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { onTestFinished } from 'vitest';

/** Whether a program is there. */
export function has(program: string): boolean {
  try {
    execFileSync('sh', ['-c', `PATH="$PATH:/usr/sbin:/sbin" command -v ${program}`]);
    return true;
  } catch {
    return false;
  }
}

/** A server that can be started any number of times. */
export interface Server {
  /** Where it listens. */
  readonly path: string;
  /** Resolves when it listens. */
  start(): Promise<void>;
  /** Resolves when it is dead. What it held in memory is gone. */
  kill(signal?: NodeJS.Signals): Promise<void>;
}

/**
 * @param command the program and its arguments; `socket` is where it is to listen. One that puts itself into the background
 *   leads a process group, and writes its number into `${socket}.pid`
 */
export function server(command: (socket: string) => readonly string[]): Server {
  const path = join(scratch(), 'nbd.sock');
  const pidFile = `${path}.pid`;
  let child: ChildProcess | undefined;
  const kill = async (signal: NodeJS.Signals = 'SIGKILL'): Promise<void> => {
    if (existsSync(pidFile)) {
      process.kill(-Number(readFileSync(pidFile, 'utf8')), signal);
      rmSync(pidFile);
      while (await answers(path));
    }
    const dying = child;
    child = undefined;
    if (dying?.exitCode !== null || dying.signalCode !== null) return;
    const dead = new Promise((resolve) => dying.once('exit', resolve));
    // Whoever it has started goes with it.
    process.kill(-Number(dying.pid), signal);
    await dead;
  };
  onTestFinished(() => kill());
  return {
    path,
    kill,
    start: async () => {
      rmSync(path, { force: true });
      const [program = '', ...rest] = command(path);
      const { PATH = '', ...others } = process.env;
      const env = { ...others, PATH: `${PATH}:/usr/sbin:/sbin` };
      const started = spawn(program, rest, {
        stdio: ['ignore', 'ignore', 'pipe'],
        env,
        detached: true,
      });
      child = started;
      let said = '';
      started.stderr?.on('data', (bytes: Buffer) => {
        said += bytes.toString();
      });
      // No limit of time but the test's own: a busy machine may take seconds to start a process.
      while (!(existsSync(path) && (await answers(path)))) {
        const ended = (started.exitCode ?? 0) !== 0 || started.signalCode !== null;
        if (ended) throw new Error(`${program} ended before it listened: ${said}`);
        await new Promise((resolve) => setTimeout(resolve, 10));
      }
    },
  };
}

/** A directory for one test. */
export function scratch(): string {
  const directory = mkdtempSync(join(tmpdir(), 'write-barrier-nbd-'));
  onTestFinished(() => rmSync(directory, { recursive: true, force: true }));
  return directory;
}

function answers(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(path);
    socket.once('error', () => resolve(false));
    socket.once('data', () => {
      socket.destroy();
      resolve(true);
    });
  });
}
