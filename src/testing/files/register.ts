// Replaces the functions of node:fs for as long as the process runs: `node --import write-barrier/testing/files/register`.
//
// Then a module that takes functions out of node:fs when it is loaded gets the replaced ones. Outside of a recording they call
// the originals.

import { replaceFunctions } from './node-fs.js';

replaceFunctions();
