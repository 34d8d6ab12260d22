// What a directory costs against plain files that are as durable: time, flushes, and bytes written for each byte of data.
// `npm run bench -- directory`; `--json` prints JSON lines.
//
// The rival makes the calls that a program makes on a file system to have the same after a power cut: fdatasync of a file, and
// fsync of the folder where names change. Ours and the rival take turns in one process on one file system, and a ratio is that of
// neighbouring rounds. What the journal of the file system writes for the rival is not seen from here, so only our own bytes are
// counted.

import { mkdtemp, open, rename, rm, unlink } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { IoScheduler } from 'write-barrier';
import { Directory } from 'write-barrier/directory';
import { wrap } from 'write-barrier/kit';
import { FileStorage } from 'write-barrier/node';
import { median } from './figures.mjs';
import { printRow, say } from './rows.mjs';

const ROUNDS = 15;
const COUNT = 16;
const record = new Uint8Array(100).fill(7);
const page = new Uint8Array(4096).fill(7);

/** Our side and the rival's; each row has the same work for both, and the flushes of the rival for one of them. */
function rowsOf(files, small, plain) {
  const names = (i) => `file-${i}`;
  return [
    {
      work: 'append 100 bytes',
      data: 100,
      rivalFlushes: 1,
      ours: async () => {
        await files.log.append(record);
        await files.all.sync();
      },
      theirs: () => plain.append(record),
    },
    {
      work: 'append 100 bytes, in blocks of 512 bytes',
      data: 100,
      disk: small,
      rivalFlushes: 1,
      ours: async () => {
        await small.log.append(record);
        await small.all.sync();
      },
      theirs: () => plain.append(record),
    },
    {
      work: `append 100 bytes, ${COUNT} at once`,
      data: 100,
      inFlight: COUNT,
      rivalFlushes: 1,
      ours: async () => {
        await files.log.append(record);
        await files.all.sync();
      },
      theirs: () => plain.append(record),
    },
    {
      work: 'append to a log, then write a page of a table, in this order',
      data: 100 + 4096,
      rivalFlushes: 2,
      ours: async (i) => {
        await Promise.all([files.log.append(record), files.table.write(4096 * (i % 64), page)]);
        await files.all.sync();
      },
      theirs: async (i) => {
        await plain.append(record);
        await plain.table.write(page, 0, 4096, 4096 * (i % 64));
        await plain.table.datasync();
      },
    },
    {
      work: 'make a file of 4 KiB',
      data: 4096,
      rivalFlushes: 2,
      ours: async (i) => {
        const file = await files.all.open(names(i));
        await file.write(0, page);
        await files.all.sync();
      },
      theirs: async (i) => {
        await plain.whole(names(i), 'wx');
        await plain.folder.sync();
      },
    },
    {
      work: 'replace a file of 4 KiB',
      data: 4096,
      rivalFlushes: 2,
      ours: async (i) => {
        const file = await files.all.open(names(i));
        await file.write(0, page);
        await files.all.sync();
      },
      theirs: async (i) => {
        await plain.whole('next', 'w');
        await rename(join(plain.path, 'next'), join(plain.path, names(i)));
        await plain.folder.sync();
      },
    },
    {
      work: 'delete a file',
      data: undefined,
      rivalFlushes: 1,
      ours: async (i) => {
        await files.all.remove(names(i));
        await files.all.sync();
      },
      theirs: async (i) => {
        await unlink(join(plain.path, names(i)));
        await plain.folder.sync();
      },
    },
  ];
}

/** Milliseconds of one operation. */
async function msOf(work, inFlight, from) {
  let next = 0;
  const worker = async () => {
    while (next < COUNT) await work(from + next++);
  };
  const start = performance.now();
  await Promise.all(Array.from({ length: inFlight }, worker));
  return (performance.now() - start) / COUNT;
}

/** A directory on a disk of its own, with what it costs. */
async function opened(path, options) {
  let written = 0;
  const storage = await FileStorage.open(path, { size: 1 << 26, lock: 'none' });
  const counted = wrap(storage, (command, run) => {
    if (command.op === 'write') written += command.length;
    return run(command.length);
  });
  const disk = new IoScheduler(counted);
  const all = await Directory.open(disk, { create: true, filesMax: 512, ...options });
  return {
    all,
    log: await all.open('log'),
    table: await all.open('table'),
    costs: () => ({ flushes: disk.stats().commands.flush, written }),
    close: async () => {
      await all.close();
      await disk.close();
    },
  };
}

export async function directory() {
  const path = await mkdtemp(join(tmpdir(), 'write-barrier-bench-'));
  const files = await opened(join(path, 'disk.img'), {});
  const small = await opened(join(path, 'small.img'), { blockSize: 512 });
  await files.table.truncate(64 * 4096);
  const [log, table] = await Promise.all(
    ['log', 'table'].map((name) => open(join(path, name), 'a+')),
  );
  await table.close();
  const plain = {
    path,
    table: await open(join(path, 'table'), 'r+'),
    folder: await open(path, 'r'),
    append: async (data) => {
      await log.write(data);
      await log.datasync();
    },
    whole: async (name, flags) => {
      const file = await open(join(path, name), flags);
      await file.write(page);
      await file.datasync();
      await file.close();
    },
  };
  await plain.table.write(new Uint8Array(64 * 4096));
  await plain.table.sync();
  say(
    `directory: durable after each operation, ${COUNT} operations a round, times of the rival in those of ours`,
  );
  for (const { work, data, ours, theirs, rivalFlushes, inFlight = 1, disk = files } of rowsOf(
    files,
    small,
    plain,
  )) {
    const [own, other, ratios] = [[], [], []];
    let [flushes, bytes] = [0, 0];
    // The first round warms up.
    for (let round = -1; round < ROUNDS; round++) {
      const from = (round + 1) * COUNT;
      const before = disk.costs();
      const mine = await msOf(ours, inFlight, from);
      const after = disk.costs();
      const his = await msOf(theirs, inFlight, from);
      if (round < 0) continue;
      flushes += after.flushes - before.flushes;
      bytes += after.written - before.written;
      own.push(mine);
      other.push(his);
      ratios.push(his / mine);
    }
    const operations = ROUNDS * COUNT;
    say(`  ${work}`);
    printRow({
      bench: 'directory',
      work,
      command: 'npm run bench -- directory',
      rival: 'plain files',
      ratios,
      facts: {
        ms: median(own),
        msOfRival: median(other),
        flushes: flushes / operations,
        flushesOfRival: rivalFlushes,
        bytesWritten: bytes / operations,
        ...(data === undefined ? {} : { bytesPerByte: bytes / operations / data }),
      },
    });
  }
  await files.close();
  await small.close();
  await Promise.all([log, plain.table, plain.folder].map((handle) => handle.close()));
  await rm(path, { recursive: true });
  say('');
}
