// For a worker: gives what it found to its page.

import { found } from './in-browser.mjs';

postMessage(found);
