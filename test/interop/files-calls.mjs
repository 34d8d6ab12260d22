// Calls of node:fs that change files, and a program that makes them one after the other, each in a folder of its own.
//
// With the recorder as its argument it prints what that has recorded; without it, it is what strace looks at.

import * as fs from 'node:fs';
import * as fsp from 'node:fs/promises';
import { pathToFileURL } from 'node:url';
import { promisify } from 'node:util';

const until = (start) =>
  new Promise((done, fail) => start((error) => (error ? fail(error) : done())));
const closed = (stream) => new Promise((done) => stream.on('close', done));
const MiB = Buffer.alloc(1 << 20, 1);
const views = () => [Buffer.from('ab'), Buffer.from('c')];

/** A sentence, and what it does in the folder `d`, which has `old`, `dir/f`, `dir/g` and `other/f`. */
export const CALLS = {
  // Whole files.
  'writeFileSync of a text': (d) => fs.writeFileSync(`${d}/a`, 'x'),
  'writeFileSync of a text over a file': (d) => fs.writeFileSync(`${d}/old`, 'x'),
  'writeFileSync of nothing': (d) => fs.writeFileSync(`${d}/a`, ''),
  'writeFileSync of a text with an encoding': (d) => fs.writeFileSync(`${d}/a`, 'x', 'utf8'),
  'writeFileSync of a latin1 text': (d) => fs.writeFileSync(`${d}/a`, 'é', 'latin1'),
  'writeFileSync of bytes': (d) => fs.writeFileSync(`${d}/a`, MiB),
  'writeFileSync of a text, flush': (d) => fs.writeFileSync(`${d}/a`, 'x', { flush: true }),
  'writeFileSync of a text in utf8, flush': (d) =>
    fs.writeFileSync(`${d}/a`, 'x', { encoding: 'utf8', flush: true }),
  'writeFileSync of a latin1 text, flush': (d) =>
    fs.writeFileSync(`${d}/a`, 'x', { encoding: 'latin1', flush: true }),
  'writeFileSync of bytes, flush': (d) => fs.writeFileSync(`${d}/a`, MiB, { flush: true }),
  'writeFileSync with a flag': (d) => fs.writeFileSync(`${d}/old`, 'x', { flag: 'a' }),
  'writeFileSync to a descriptor': (d) => {
    const fd = fs.openSync(`${d}/a`, 'w');
    fs.writeFileSync(fd, 'one');
    fs.writeFileSync(fd, Buffer.from('two'));
    fs.closeSync(fd);
  },
  'writeFile of a text': (d) => until((back) => fs.writeFile(`${d}/a`, 'x', back)),
  'writeFile of bytes': (d) => until((back) => fs.writeFile(`${d}/a`, MiB, back)),
  'writeFile, flush': (d) => until((back) => fs.writeFile(`${d}/a`, 'x', { flush: true }, back)),
  'promises.writeFile of a text': (d) => fsp.writeFile(`${d}/a`, 'x'),
  'promises.writeFile of bytes': (d) => fsp.writeFile(`${d}/a`, MiB),
  'promises.writeFile of an iterable': (d) => fsp.writeFile(`${d}/a`, ['one', 'two']),
  'promises.writeFile, flush': (d) => fsp.writeFile(`${d}/a`, 'x', { flush: true }),
  'promises.writeFile to a URL': (d) => fsp.writeFile(pathToFileURL(`${d}/a`), 'x'),
  'promises.writeFile to a path of bytes': (d) => fsp.writeFile(Buffer.from(`${d}/a`), 'x'),
  'promises.writeFile to a relative path': async (d) => {
    const before = process.cwd();
    process.chdir(d);
    await fsp.writeFile('a', 'x');
    process.chdir(before);
  },
  'promises.writeFile to a handle': async (d) => {
    const handle = await fsp.open(`${d}/a`, 'w');
    await fsp.writeFile(handle, 'x', { flush: true });
    await handle.close();
  },
  'appendFileSync of a text': (d) => fs.appendFileSync(`${d}/old`, 'x'),
  'appendFileSync of a text in utf8, flush': (d) =>
    fs.appendFileSync(`${d}/old`, 'x', { encoding: 'utf8', flush: true }),
  'appendFileSync of bytes, flush': (d) =>
    fs.appendFileSync(`${d}/old`, Buffer.from('x'), { flush: true }),
  'appendFileSync to a new file': (d) => fs.appendFileSync(`${d}/a`, 'x'),
  appendFile: (d) => until((back) => fs.appendFile(`${d}/old`, 'x', back)),
  'promises.appendFile, flush': (d) => fsp.appendFile(`${d}/old`, 'x', { flush: true }),
  // Descriptors.
  'openSync with w over a file': (d) => fs.closeSync(fs.openSync(`${d}/old`, 'w')),
  'openSync with wx': (d) => fs.closeSync(fs.openSync(`${d}/a`, 'wx')),
  'openSync with wx over a file, which fails': (d) => {
    try {
      fs.openSync(`${d}/old`, 'wx');
    } catch {}
  },
  'openSync with a+, writes at a position': (d) => {
    const fd = fs.openSync(`${d}/old`, 'a+');
    fs.writeSync(fd, 'x', 0);
    fs.writeSync(fd, 'y');
    fs.closeSync(fd);
  },
  'openSync with as': (d) => {
    const fd = fs.openSync(`${d}/old`, 'as');
    fs.writeSync(fd, 'x');
    fs.closeSync(fd);
  },
  'openSync with O_DSYNC': (d) => {
    const { O_CREAT, O_WRONLY, O_DSYNC } = fs.constants;
    const fd = fs.openSync(`${d}/a`, O_CREAT | O_WRONLY | O_DSYNC);
    fs.writeSync(fd, 'x');
    fs.closeSync(fd);
  },
  'openSync with O_SYNC and O_TRUNC': (d) => {
    const { O_SYNC, O_WRONLY, O_TRUNC } = fs.constants;
    const fd = fs.openSync(`${d}/old`, O_SYNC | O_WRONLY | O_TRUNC);
    fs.writeSync(fd, 'x');
    fs.closeSync(fd);
  },
  'writeSync at positions and without': (d) => {
    const fd = fs.openSync(`${d}/a`, 'w+');
    fs.writeSync(fd, 'abc');
    fs.writeSync(fd, Buffer.from('0123'), 1, 2, 10);
    fs.writeSync(fd, Buffer.from('0123'), { offset: 2, position: 20 });
    fs.writeSync(fd, 'zz', 30);
    fs.readSync(fd, Buffer.alloc(2), 0, 2, null);
    fs.readSync(fd, Buffer.alloc(2), 0, 2, 0);
    fs.writeSync(fd, 'q');
    fs.writeSync(fd, 'é', null, 'latin1');
    fs.closeSync(fd);
  },
  'writevSync, readvSync, readFileSync of a descriptor': (d) => {
    const fd = fs.openSync(`${d}/a`, 'w+');
    fs.writevSync(fd, views());
    fs.writevSync(fd, views(), 1);
    fs.readvSync(fd, [Buffer.alloc(1)], 0);
    fs.readFileSync(fd);
    fs.writeSync(fd, 'end');
    fs.closeSync(fd);
  },
  'write, writev, read, ftruncate, fsync, fdatasync with callbacks': async (d) => {
    const fd = await promisify(fs.open)(`${d}/a`, 'w+');
    await promisify(fs.write)(fd, 'text');
    await promisify(fs.write)(fd, Buffer.from('bytes'), 0, 3, 8);
    await promisify(fs.writev)(fd, views());
    await promisify(fs.read)(fd, Buffer.alloc(3), 0, 3, null);
    await promisify(fs.ftruncate)(fd, 5);
    await promisify(fs.fsync)(fd);
    await promisify(fs.fdatasync)(fd);
    await promisify(fs.close)(fd);
  },
  'fsyncSync and fdatasyncSync': (d) => {
    const fd = fs.openSync(`${d}/old`, 'r+');
    fs.fsyncSync(fd);
    fs.fdatasyncSync(fd);
    fs.closeSync(fd);
  },
  'fsyncSync of a folder': (d) => {
    const fd = fs.openSync(d, 'r');
    fs.fsyncSync(fd);
    fs.closeSync(fd);
  },
  truncateSync: (d) => fs.truncateSync(`${d}/old`, 1),
  'truncateSync to a longer size': (d) => fs.truncateSync(`${d}/old`, 100),
  truncate: (d) => until((back) => fs.truncate(`${d}/old`, 1, back)),
  'promises.truncate': (d) => fsp.truncate(`${d}/old`),
  'ftruncateSync to the same size': (d) => {
    const fd = fs.openSync(`${d}/old`, 'r+');
    fs.ftruncateSync(fd, 3);
    fs.closeSync(fd);
  },
  // Handles.
  'a handle that writes, syncs and truncates': async (d) => {
    const handle = await fsp.open(`${d}/a`, 'w+');
    await handle.write('abc');
    await handle.write('d', 1);
    await handle.write(Buffer.from('0123'), 1, 2, 8);
    await handle.write(Buffer.from('0123'), { offset: 3 });
    await handle.read(Buffer.alloc(2), 0, 2);
    await handle.writev(views());
    await handle.sync();
    await handle.datasync();
    await handle.truncate(2);
    await handle.close();
  },
  'a handle that writes whole files, flush': async (d) => {
    const handle = await fsp.open(`${d}/a`, 'w');
    await handle.writeFile('one', { flush: true });
    await handle.appendFile('two', { flush: true });
    await handle.writeFile(MiB);
    await handle.close();
  },
  'a handle of a folder': async (d) => {
    const handle = await fsp.open(d);
    await handle.sync();
    await handle.close();
  },
  'a handle that reads a file and writes': async (d) => {
    const handle = await fsp.open(`${d}/old`, 'r+');
    await handle.readFile();
    await handle.write('x');
    await handle.close();
  },
  'a handle that reads a stream and writes': async (d) => {
    const handle = await fsp.open(`${d}/old`, 'r+');
    for await (const _ of handle.createReadStream({ autoClose: false, end: 0 }));
    await handle.write('x');
    await handle.close();
  },
  'a handle with a stream': async (d) => {
    const handle = await fsp.open(`${d}/a`, 'w');
    const stream = handle.createWriteStream();
    stream.end('x');
    await closed(stream);
  },
  'a handle that is disposed of': async (d) => {
    const handle = await fsp.open(`${d}/a`, 'w');
    await handle.write('x');
    await handle[Symbol.asyncDispose]();
  },
  // Streams.
  createWriteStream: async (d) => {
    const stream = fs.createWriteStream(`${d}/a`);
    for (const text of ['one', 'two', 'three'])
      await new Promise((done) => stream.write(text, done));
    stream.end();
    await closed(stream);
  },
  'createWriteStream, cork': async (d) => {
    const stream = fs.createWriteStream(`${d}/a`);
    stream.cork();
    stream.write('one');
    stream.write('two');
    stream.uncork();
    stream.end();
    await closed(stream);
  },
  'createWriteStream, flush': async (d) => {
    const stream = fs.createWriteStream(`${d}/a`, { flush: true });
    stream.end('x');
    await closed(stream);
  },
  'createWriteStream with a start': async (d) => {
    const stream = fs.createWriteStream(`${d}/old`, { flags: 'r+', start: 1 });
    stream.end('x');
    await closed(stream);
  },
  'Utf8Stream, where it is': async (d) => {
    if (!fs.Utf8Stream) return;
    const stream = new fs.Utf8Stream({ dest: `${d}/a`, sync: false, fsync: true });
    stream.write('one');
    stream.end();
    await closed(stream);
  },
  'a read stream into a write stream': async (d) => {
    const stream = fs.createReadStream(`${d}/old`).pipe(fs.createWriteStream(`${d}/a`));
    await closed(stream);
  },
  // Names.
  renameSync: (d) => fs.renameSync(`${d}/old`, `${d}/new`),
  'renameSync over a file': (d) => fs.renameSync(`${d}/old`, `${d}/dir/f`),
  'renameSync of a folder': (d) => fs.renameSync(`${d}/dir`, `${d}/moved`),
  'renameSync to the same name': (d) => fs.renameSync(`${d}/old`, `${d}/old`),
  'renameSync to another name of the same file': (d) => {
    fs.linkSync(`${d}/old`, `${d}/same`);
    fs.renameSync(`${d}/old`, `${d}/same`);
  },
  rename: (d) => until((back) => fs.rename(`${d}/old`, `${d}/new`, back)),
  'promises.rename': (d) => fsp.rename(`${d}/old`, `${d}/new`),
  'linkSync and unlinkSync': (d) => {
    fs.linkSync(`${d}/old`, `${d}/l`);
    fs.unlinkSync(`${d}/old`);
  },
  'link and unlink': async (d) => {
    await until((back) => fs.link(`${d}/old`, `${d}/l`, back));
    await until((back) => fs.unlink(`${d}/old`, back));
  },
  'promises.link and promises.unlink': async (d) => {
    await fsp.link(`${d}/old`, `${d}/l`);
    await fsp.unlink(`${d}/old`);
  },
  'symlinkSync, and a write through it': (d) => {
    fs.symlinkSync('old', `${d}/s`);
    fs.writeFileSync(`${d}/s`, 'through');
    fs.symlinkSync('nothing', `${d}/t`);
    fs.writeFileSync(`${d}/t`, 'made');
    fs.symlinkSync('dir', `${d}/u`);
    fs.writeFileSync(`${d}/u/new`, 'inside');
  },
  symlink: (d) => until((back) => fs.symlink('old', `${d}/s`, back)),
  'promises.symlink': (d) => fsp.symlink('old', `${d}/s`),
  'mkdirSync and rmdirSync': (d) => {
    fs.mkdirSync(`${d}/x`);
    fs.rmdirSync(`${d}/x`);
  },
  'mkdir and rmdir': async (d) => {
    await until((back) => fs.mkdir(`${d}/x`, back));
    await until((back) => fs.rmdir(`${d}/x`, back));
  },
  'mkdirSync, recursive': (d) => fs.mkdirSync(`${d}/x/y/z`, { recursive: true }),
  'promises.mkdir, recursive, half there': (d) => fsp.mkdir(`${d}/dir/y/z`, { recursive: true }),
  'promises.mkdir and promises.rmdir': async (d) => {
    await fsp.mkdir(`${d}/x`);
    await fsp.rmdir(`${d}/x`);
  },
  mkdtempSync: (d) => fs.mkdtempSync(`${d}/tmp-`),
  mkdtemp: (d) => until((back) => fs.mkdtemp(`${d}/tmp-`, back)),
  'promises.mkdtemp': (d) => fsp.mkdtemp(`${d}/tmp-`),
  'mkdtempDisposableSync, where it is': (d) => fs.mkdtempDisposableSync?.(`${d}/tmp-`).remove(),
  'promises.mkdtempDisposable, where it is': async (d) => {
    await (await fsp.mkdtempDisposable?.(`${d}/tmp-`))?.remove();
  },
  'rmSync of a file': (d) => fs.rmSync(`${d}/old`),
  'rmSync of nothing, force': (d) => fs.rmSync(`${d}/nothing`, { force: true }),
  'rmSync, recursive': (d) => fs.rmSync(`${d}/dir`, { recursive: true }),
  'rm, recursive': (d) => until((back) => fs.rm(`${d}/dir`, { recursive: true }, back)),
  'promises.rm, recursive': (d) => fsp.rm(`${d}/dir`, { recursive: true, force: true }),
  // Copies.
  copyFileSync: (d) => fs.copyFileSync(`${d}/old`, `${d}/a`),
  'copyFileSync over a file': (d) => fs.copyFileSync(`${d}/old`, `${d}/dir/f`),
  'copyFileSync of nothing': (d) => fs.copyFileSync(`${d}/empty`, `${d}/a`),
  'copyFileSync onto itself': (d) => fs.copyFileSync(`${d}/old`, `${d}/old`),
  'copyFileSync over a file that must not be there': (d) => {
    try {
      fs.copyFileSync(`${d}/old`, `${d}/dir/f`, fs.constants.COPYFILE_EXCL);
    } catch {}
  },
  'copyFileSync from outside': (d) => fs.copyFileSync('/etc/passwd', `${d}/a`),
  copyFile: (d) => until((back) => fs.copyFile(`${d}/old`, `${d}/a`, back)),
  'promises.copyFile over a file': (d) => fsp.copyFile(`${d}/old`, `${d}/dir/f`),
  'cpSync of a file': (d) => fs.cpSync(`${d}/old`, `${d}/a`),
  'cpSync of a file over a file': (d) => fs.cpSync(`${d}/old`, `${d}/dir/f`),
  'cpSync of a file over a file, no force': (d) =>
    fs.cpSync(`${d}/old`, `${d}/dir/f`, { force: false }),
  'cpSync of a file into new folders': (d) => fs.cpSync(`${d}/old`, `${d}/x/y/a`),
  'cpSync of a folder': (d) => fs.cpSync(`${d}/dir`, `${d}/dir2`, { recursive: true }),
  'cpSync of a folder over a folder': (d) =>
    fs.cpSync(`${d}/dir`, `${d}/other`, { recursive: true }),
  'cpSync of a folder with a filter': (d) =>
    fs.cpSync(`${d}/dir`, `${d}/other`, {
      recursive: true,
      filter: (source) => !source.endsWith('g'),
    }),
  'cpSync of a folder with times': (d) =>
    fs.cpSync(`${d}/dir`, `${d}/dir2`, { recursive: true, preserveTimestamps: true }),
  cp: (d) => until((back) => fs.cp(`${d}/dir`, `${d}/dir2`, { recursive: true }, back)),
  'promises.cp of a folder over a folder': (d) =>
    fsp.cp(`${d}/dir`, `${d}/other`, { recursive: true }),
  'promises.cp with a filter that waits': (d) =>
    fsp.cp(`${d}/dir`, `${d}/other`, {
      recursive: true,
      filter: async (source) => !source.endsWith('g'),
    }),
  'promises.cp of links': async (d) => {
    await fsp.symlink('old', `${d}/dir/s`);
    await fsp.cp(`${d}/dir`, `${d}/dir2`, { recursive: true, verbatimSymlinks: true });
  },
  // What changes nothing that a crash can take away.
  'utimesSync, chmodSync and lookups': (d) => {
    fs.utimesSync(`${d}/old`, 1, 1);
    fs.chmodSync(`${d}/old`, 0o600);
    fs.statSync(`${d}/old`);
    fs.readdirSync(d, { recursive: true });
    fs.realpathSync(`${d}/old`);
    fs.realpathSync.native(`${d}/old`);
    fs.accessSync(`${d}/old`);
  },
  'promises.readFile, readdir, opendir, stat': async (d) => {
    await fsp.readFile(`${d}/old`);
    await fsp.readdir(d);
    for await (const _ of await fsp.opendir(d));
    await fsp.stat(`${d}/old`);
  },
};

/** The folders of the calls, before they are made. */
export function prepare(root) {
  Object.keys(CALLS).forEach((_, number) => {
    const d = `${root}/${number}`;
    fs.mkdirSync(`${d}/dir`, { recursive: true });
    fs.mkdirSync(`${d}/other`);
    fs.writeFileSync(`${d}/old`, 'old');
    fs.writeFileSync(`${d}/empty`, '');
    fs.writeFileSync(`${d}/dir/f`, 'new f');
    fs.writeFileSync(`${d}/dir/g`, 'new g');
    fs.writeFileSync(`${d}/other/f`, 'f');
  });
}

export async function makeAll(root, mark) {
  for (const [number, call] of Object.values(CALLS).entries()) {
    mark(number);
    await call(`${root}/${number}`);
  }
}

/** What a Node has, as it is called here: `fs.write`, `fsp.write`, `handle.write`. */
async function functions() {
  const handle = await fsp.open('/dev/null');
  const doors = { fs: fs.default, fsp: fsp.default, handle: Object.getPrototypeOf(handle) };
  await handle.close();
  return Object.entries(doors).flatMap(([door, has]) =>
    Object.getOwnPropertyNames(has)
      .filter((name) => typeof has[name] === 'function')
      .map((name) => `${door}.${name}`),
  );
}

const [, , root, recorder] = process.argv;
if (root === 'functions') {
  process.stdout.write(JSON.stringify(await functions()));
} else if (root && recorder) {
  const { recordFiles, linesOf } = await import(recorder);
  const trace = await recordFiles({
    root,
    before: prepare,
    run: makeAll,
  });
  process.stdout.write(JSON.stringify({ lines: linesOf(trace), gaps: trace.gaps }));
} else if (root) {
  prepare(root);
  fs.existsSync('/write-barrier-start');
  await makeAll(root, (number) => fs.existsSync(`/write-barrier-mark/${number}`));
}
