// For a page: sends what its worker found to the server that it came from. Vite needs the URL as it stands here.

const worker = new Worker(new URL('./worker.mjs', import.meta.url), { type: 'module' });
const send = (/** @type {unknown} */ found) =>
  fetch('/found', { method: 'POST', body: JSON.stringify(found) });
worker.onmessage = ({ data }) => send(data);
worker.onerror = ({ message }) => send({ worker: message });
