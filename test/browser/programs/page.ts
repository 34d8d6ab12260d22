// A page that starts a worker for the act in its address.

import { IoScheduler } from 'write-barrier';
import { OpfsStorage, PortStorage } from 'write-barrier/opfs';

const act = location.search.slice(1);
const send = (found: unknown): Promise<unknown> =>
  fetch('/found', { method: 'POST', body: JSON.stringify(found) });
const started = (): Worker => {
  const worker = new Worker('./worker.js', { type: 'module' });
  worker.onerror = ({ message }) => send({ error: message });
  return worker;
};

/** The page's thread uses what its worker holds. */
async function served(): Promise<unknown> {
  const { port1, port2 } = new MessageChannel();
  started().postMessage('serve', [port1]);
  const disk = new IoScheduler(await PortStorage.open(port2));
  const data = new Uint8Array(512).fill(7);
  await disk.write(512, data, { barrier: true });
  await disk.flush();
  const found = await disk.read(512, 512);
  const here = await OpfsStorage.open('served').catch(({ code }) => code);
  await disk.close();
  return { same: found.join() === data.join(), here };
}

/** One worker holds a file, and is ended; another one opens it. */
async function ended(): Promise<void> {
  const holder = started();
  holder.onmessage = () => {
    holder.terminate();
    started().postMessage('held');
  };
  holder.postMessage('hold');
}

if (act === 'served') await send(await served().catch((error) => ({ error: String(error) })));
else if (act === 'ended') await ended();
else started().postMessage(act);
