// A server in a process of its own, so that it is seen when a client ends it. It runs the built package, on any version of
// Node.

import { type ChildProcess, spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import type { NbdServerStats } from '../../src/nbd/index.js';

const DIST = fileURLToPath(new URL('../../dist/', import.meta.url));

/** A server that may die. */
export interface ChildServer {
  /** On 127.0.0.1; it listens there as well. */
  readonly port: number;
  /** Whether it still runs. */
  alive(): boolean;
  /** How it ended, and what it said. */
  epitaph(): string;
  stats(): Promise<NbdServerStats>;
  kill(): Promise<void>;
}

/**
 * @param options of the server, as source text; `path` is where it listens, and `read` reads a file
 * @param node another program than the one that runs this test
 */
export async function childServer(
  path: string,
  options: string,
  node: string = process.execPath,
): Promise<ChildServer> {
  const program = `
    import { readFileSync as read } from 'node:fs';
    const { MemoryStorage } = await import(${JSON.stringify(`${DIST}index.js`)});
    const { NbdServer } = await import(${JSON.stringify(`${DIST}nbd.js`)});
    const path = ${JSON.stringify(path)};
    const server = new NbdServer({
      exports: { '': new MemoryStorage(1 << 20) },
      observer: (event) => event.why && console.log(event.why),
      ...(${options}),
    });
    await server.listen({ path });
    process.on('message', () => process.send(server.stats()));
    const { port } = await server.listen({ port: 0 });
    process.send({ port });`;
  const child: ChildProcess = spawn(node, ['--input-type=module', '-e', program], {
    stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
  });
  let said = '';
  child.stdout?.on('data', (text) => (said += text));
  child.stderr?.on('data', (text) => (said += text));
  const exited = new Promise<string>((resolve) => {
    child.once('exit', (code, signal) => resolve(`code ${code}, signal ${signal}`));
  });
  let end: string | undefined;
  exited.then((how) => {
    end = how;
  });
  const answer = (): Promise<unknown> =>
    Promise.race([
      new Promise((resolve) => child.once('message', resolve)),
      exited.then((how) => Promise.reject(new Error(`the server died: ${how}\n${said}`))),
    ]);
  const { port } = (await answer()) as { port: number };
  return {
    port,
    alive: () => end === undefined,
    epitaph: () => `${end ?? 'alive'}\n${said}`,
    stats: () => {
      const stats = answer();
      child.send('stats');
      return stats as Promise<NbdServerStats>;
    },
    kill: async () => {
      child.kill('SIGKILL');
      await exited;
    },
  };
}
