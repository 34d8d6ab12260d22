// What a bundler or a browser gets for `write-barrier/nbd`, by the condition `browser` of the package: an import that fails
// and says why. Without it a bundle would fail at its first `node:net`, far from the import that is the reason.
//
// The names are exported because a bundler reports a missing name before anything runs, and not why it is missing.

import { WriteBarrierError } from 'write-barrier';

function refuse(): never {
  throw new WriteBarrierError(
    'EOPNOTSUPP',
    'write-barrier/nbd does not work in a browser, because a browser has no TCP and unix sockets. Run it in Node, Bun or Deno, ' +
      'and in the browser implement Storage over a WebSocket or fetch to that process ' +
      '(docs/how-to/implement-a-storage.md in the package)',
  );
}

const refused: never = refuse();

export {
  refused as listExports,
  refused as NbdLostError,
  refused as NbdServer,
  refused as NbdStorage,
  refused as systemdSockets,
};
