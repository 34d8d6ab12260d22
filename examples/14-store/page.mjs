// @ts-check
// What the page shows of the store that its worker has.

const worker = new Worker('./worker.js', { type: 'module' });
const form = /** @type {HTMLFormElement} */ (document.querySelector('form'));
const table = /** @type {HTMLElement} */ (document.querySelector('tbody'));
const status = /** @type {HTMLElement} */ (document.querySelector('[role=status]'));

worker.onmessage = (/** @type {MessageEvent} */ { data }) => {
  if (data.error) {
    status.textContent =
      data.code === 'STORAGE_LOCKED'
        ? 'Another tab has the store. Close it and reload.'
        : data.error;
    return;
  }
  table.replaceChildren(...data.values.map(rowOf));
  const { values, keys, flushes } = data;
  status.textContent = `${values.length} values, ${keys.length} changes in SQLite, ${flushes} flushes since this page was opened.`;
};
worker.onerror = (/** @type {ErrorEvent} */ { message }) => {
  status.textContent = message;
};

form.onsubmit = (/** @type {SubmitEvent} */ event) => {
  event.preventDefault();
  const data = new FormData(form);
  worker.postMessage([data.get('key'), data.get('value')]);
  form.reset();
  form.querySelector('input')?.focus();
};
worker.postMessage(null);

/** @param {[key: string, value: string]} entry */
function rowOf(entry) {
  const row = document.createElement('tr');
  for (const text of entry) {
    const cell = document.createElement('td');
    cell.textContent = text;
    row.append(cell);
  }
  return row;
}
