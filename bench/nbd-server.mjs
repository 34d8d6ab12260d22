// Our NBD server in a process of its own: `node nbd-server.mjs FILE SOCKET INLINE_WRITE_MAX`. It ends with its standard input.

import { NbdServer } from 'write-barrier/nbd';
import { FileStorage } from 'write-barrier/node';

const [file, path, inlineWriteMax] = process.argv.slice(2);
const disk = await FileStorage.open(file, { inlineWriteMax: Number(inlineWriteMax) });
const server = new NbdServer({ exports: { '': disk } });
await server.listen({ path });
process.stdin.on('end', async () => {
  await server.close();
  await disk.close();
});
process.stdin.resume();
