// The lock of a file in the places where process numbers, names and machine-ids deceive: containers, another space's /proc,
// hosts that look alike, and mounts of single files. Made with unshare(1), which takes root.

import { execFileSync, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import * as fs from 'node:fs';
import { join } from 'node:path';
import { describe, expect, onTestFinished, test } from 'vitest';
import { installPackage, type OpenerLock, temporaryDirectory } from '../node/support.js';

const may =
  process.platform === 'linux' &&
  process.getuid?.() === 0 &&
  works('unshare', '--mount', '--pid', '--fork', 'true');
const LOCKS: readonly OpenerLock[] = ['platform', 'ticket'];

/** A directory with a script that opens the file of its first word, and then does what its second word says. */
function home(lock: OpenerLock): { readonly script: string; readonly path: string } {
  const directory = fs.realpathSync(temporaryDirectory());
  installPackage(directory, lock);
  const script = join(directory, 'open.mjs');
  fs.writeFileSync(
    script,
    `
import { FileStorage } from 'write-barrier/node';
const [path, then] = process.argv.slice(2);
try {
  const storage = await FileStorage.open(path, { size: 4096 });
  console.log(storage.lock);
  if (then === 'stay') setInterval(() => {}, 1000);
  else await storage.close();
} catch (error) {
  console.log(error.code, error.message, 'HOLDER', error.holder);
  if (then === 'break') {
    await FileStorage.breakLock(path, error.holder);
    const storage = await FileStorage.open(path, { size: 4096 });
    console.log('then', storage.lock);
    await storage.close();
  }
}
`,
  );
  return { script, path: join(directory, 'disk.img') };
}

const node = (script: string, ...words: string[]): string[] => [process.execPath, script, ...words];
const run = (words: readonly string[]): string => {
  const [command = '', ...rest] = words;
  const { stdout, stderr } = spawnSync(command, rest, { encoding: 'utf8' });
  return `${stdout}${stderr}`.trim();
};
/** In a mount namespace of its own, after \`before\`. */
const mounted = (before: string, words: readonly string[]): string =>
  run(['unshare', '--mount', 'sh', '-c', `${before} && exec "$@"`, 'sh', ...words]);
const container = (words: readonly string[]): string[] => [
  ...['unshare', '--fork', '--pid', '--mount-proc', '--kill-child'],
  ...words,
];

/** Starts a writer that stays, and waits until it has the file. */
async function staying(words: readonly string[]) {
  const [command = '', ...rest] = words;
  const child = spawn(command, rest, { stdio: ['ignore', 'pipe', 'inherit'] });
  onTestFinished(() => void child.kill('SIGKILL'));
  const [first] = await once(child.stdout, 'data');
  const exited = once(child, 'exit');
  return {
    said: String(first).trim(),
    kill: async (): Promise<void> => {
      child.kill('SIGKILL');
      await exited;
    },
  };
}

describe.skipIf(!may)('by the lock (skipped unless this is Linux, and root may unshare)', () => {
  test.each(LOCKS)('%s a container and this process exclude each other', async (lock) => {
    const { script, path } = home(lock);
    const inside = await staying(container(node(script, path, 'stay')));
    expect(inside.said).toBe(lock);
    expect(run(node(script, path))).toContain('STORAGE_LOCKED');
    expect(run(container(node(script, path)))).toContain('STORAGE_LOCKED');
    await inside.kill();
    const outside = await staying(node(script, path, 'stay'));
    if (lock === 'ticket') return expect(outside.said).toContain('container');
    expect(outside.said).toBe(lock);
    expect(run(container(node(script, path)))).toContain('STORAGE_LOCKED');
  });

  test('platform a container that was killed is started again on its volume', async () => {
    const { script, path } = home('platform');
    for (let life = 0; life < 3; life += 1) {
      const inside = await staying(container(node(script, path, 'stay')));
      expect(inside.said).toBe('platform');
      await inside.kill();
      expect(fs.readdirSync(`${path}.lock`).length).toBe(1);
    }
  });

  test('ticket a container that was killed locks the next one out, which may break it', async () => {
    const { script, path } = home('ticket');
    const inside = await staying(container(node(script, path, 'stay')));
    expect(inside.said).toBe('ticket');
    await inside.kill();
    // A new container may get the number of the old space, and then knows that the old holder is gone.
    const said = run(container(node(script, path, 'break')));
    expect(said === 'ticket' || /STORAGE_LOCKED .*container.*\nthen ticket$/s.test(said)).toBe(
      true,
    );
  });

  test.each(LOCKS)('%s a host with the same name and machine-id is refused', async (lock) => {
    const { script, path } = home(lock);
    const boot = `${path}.boot`;
    fs.writeFileSync(boot, '11111111-2222-3333-4444-555555555555\n');
    const elsewhere = `mount --bind ${boot} /proc/sys/kernel/random/boot_id`;
    const here = await staying(node(script, path, 'stay'));
    expect(here.said).toBe(lock);
    expect(mounted(elsewhere, node(script, path))).toContain('STORAGE_LOCKED');
    await here.kill();
    // Killed, it is gone to the system's lock, and unknown to tickets.
    const after = mounted(elsewhere, node(script, path));
    if (lock === 'platform') expect(after).toBe('platform');
    else expect(after).toMatch(/STORAGE_LOCKED .*another machine/);
    expect(run(node(script, path))).toBe(lock);
  });

  // The process has the number of a stranger in the /proc that it sees, and the stranger is a zombie.
  test.each(LOCKS)('%s a holder is not dead because a stranger in its /proc is', async (lock) => {
    const { script, path } = home(lock);
    const parent = spawn('sh', ['-c', 'sleep 0.1 & echo $!; exec sleep 600'], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    onTestFinished(() => void parent.kill('SIGKILL'));
    const stranger = Number(String((await once(parent.stdout, 'data'))[0]));
    while (!fs.readFileSync(`/proc/${stranger}/stat`, 'utf8').includes(') Z ')) {
      await new Promise(setImmediate);
    }
    const quoted = (words: readonly string[]): string => words.map((word) => `'${word}'`).join(' ');
    const said = run([
      ...['unshare', '--pid', '--fork', '--kill-child', 'sh', '-c'],
      `echo ${stranger - 1} > /proc/sys/kernel/ns_last_pid
       ${quoted(node(script, path, 'stay'))} > '${path}.said' & holder=$!
       until [ -s '${path}.said' ]; do sleep 0.1; done
       echo "$holder" $(cat '${path}.said')
       ${quoted(node(script, path))}
       kill -9 "$holder"; wait "$holder" 2> /dev/null
       ${quoted(node(script, path))}`,
    ]);
    const [first, second, third] = said.split('\n');
    expect(first).toBe(`${stranger} ${lock}`);
    expect(second).toContain('STORAGE_LOCKED');
    // Its number is unused then, which is proof enough.
    expect(third).toBe(lock);
  });

  test('platform a mount of the single file is the same file', async () => {
    const { script, path } = home('platform');
    const other = `${path}.mounted`;
    const bind = `touch ${other} && mount --bind ${path} ${other}`;
    const here = await staying(node(script, path, 'stay'));
    expect(here.said).toBe('platform');
    expect(mounted(bind, node(script, other))).toContain('STORAGE_LOCKED');
    await here.kill();
    expect(mounted(bind, node(script, other))).toBe('platform');
  });

  // As `docker run --read-only --volume /srv/disk.img:/disk.img` has it.
  test('platform a file that may be written in a place that may not needs no ticket', async () => {
    const { script, path } = home('platform');
    fs.writeFileSync(path, new Uint8Array(4096));
    const place = join(temporaryDirectory(), 'place');
    fs.mkdirSync(place);
    const file = join(place, 'disk.img');
    const bind = `mount -t tmpfs none ${place} && touch ${file} && mount --bind ${path} ${file} && mount -o remount,ro,bind ${place}`;
    expect(mounted(bind, node(script, file))).toBe('platform');
    const here = await staying(node(script, path, 'stay'));
    expect(here.said).toBe('platform');
    expect(mounted(bind, node(script, file))).toContain('STORAGE_LOCKED');
  });

  test('platform a file system that is read-only advises to read', async () => {
    const { script, path } = home('platform');
    fs.writeFileSync(path, new Uint8Array(4096));
    const readOnly = `mount --bind ${join(path, '..')} ${join(path, '..')} && mount -o remount,ro,bind ${join(path, '..')}`;
    expect(mounted(readOnly, node(script, path))).toMatch(/^IO_FAILED .*readOnly: true/);
  });
});

function works(command: string, ...words: string[]): boolean {
  try {
    execFileSync(command, words, { stdio: 'ignore' });
    return true;
  } catch {
    return false;
  }
}
