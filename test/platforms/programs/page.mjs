// For a page: sends what it found to the server that it came from.

import { found } from './in-browser.mjs';

await fetch('/found', { method: 'POST', body: JSON.stringify(found) });
