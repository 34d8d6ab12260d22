// A Ceph cluster for tests: one monitor, and one storage daemon that keeps its objects in memory. It lives in a folder of
// its own, on the loopback, without keys, and is gone with the test.

import { spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { mkdirSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { onTestFinished } from 'vitest';
import { succeeds } from './nbd-programs.js';

/** What it takes. */
export const CEPH_PROGRAMS = ['ceph-mon', 'ceph-osd', 'ceph', 'rbd', 'monmaptool'] as const;

/**
 * Starts a cluster with a pool named `rbd`.
 *
 * @returns the path of its configuration, which every program of Ceph wants to be told
 */
export async function startCeph(folder: string): Promise<string> {
  const [cluster, osd, port] = [randomUUID(), randomUUID(), await freePort()];
  const at = (name: string): string => join(folder, name);
  for (const name of ['run', 'mon', 'osd']) mkdirSync(at(name));
  const conf = at('ceph.conf');
  writeFileSync(at('keyring'), '');
  writeFileSync(conf, configuration(folder, cluster, port));
  const ceph = (program: string, ...args: string[]): Promise<string> =>
    succeeds(program, ['--conf', conf, ...args]);
  const daemon = (program: string, ...args: string[]): void => {
    const child = spawn(program, ['--conf', conf, '-f', ...args], { stdio: 'ignore' });
    const gone = new Promise((resolve) => child.once('close', resolve));
    onTestFinished(async () => {
      child.kill('SIGKILL');
      await gone;
    });
  };

  const address = `[v2:127.0.0.1:${port}/0]`;
  await ceph('monmaptool', '--create', '--addv', 'a', address, '--fsid', cluster, at('monmap'));
  const files = ['--monmap', at('monmap'), '--keyring', at('keyring')];
  await ceph('ceph-mon', '-i', 'a', '--mkfs', ...files);
  daemon('ceph-mon', '-i', 'a');
  await ceph('ceph', 'osd', 'new', osd);
  await ceph('ceph-osd', '-i', '0', '--mkfs', '--osd-uuid', osd);
  daemon('ceph-osd', '-i', '0');
  await ceph('ceph', 'osd', 'pool', 'create', 'rbd', '8');
  return conf;
}

function configuration(folder: string, cluster: string, port: number): string {
  const settings = {
    fsid: cluster,
    'mon host': `[v2:127.0.0.1:${port}/0]`,
    'public addr': '127.0.0.1',
    'cluster addr': '127.0.0.1',
    'ms bind msgr1': 'false',
    'auth cluster required': 'none',
    'auth service required': 'none',
    'auth client required': 'none',
    'osd pool default size': '1',
    'osd pool default min size': '1',
    'mon allow pool size one': 'true',
    'osd objectstore': 'memstore',
    'mon data': join(folder, 'mon'),
    'osd data': join(folder, 'osd'),
    'run dir': join(folder, 'run'),
    'admin socket': join(folder, 'run', '$name.$pid.asok'),
    'log file': join(folder, '$name.log'),
    keyring: join(folder, 'keyring'),
  };
  const lines = Object.entries(settings).map(([name, value]) => `${name} = ${value}`);
  return ['[global]', ...lines, ''].join('\n');
}

function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.once('error', reject);
    server.listen(0, '127.0.0.1', () => {
      const address = server.address();
      const port = typeof address === 'object' && address ? address.port : 0;
      server.close(() => resolve(port));
    });
  });
}
