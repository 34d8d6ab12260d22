// For Node, Bun and Deno: prints what it found as one line of JSON.

import { CORE } from './core.mjs';
import { DOORS } from './doors.mjs';
import { findings } from './findings.mjs';

console.log(JSON.stringify(await findings({ ...CORE, ...DOORS })));
