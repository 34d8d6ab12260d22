// What a bundler or a browser gets for `write-barrier/node`, by the condition `browser` of the package: an import that fails
// and says why. Without it a bundle would fail at its first `node:fs`, far from the import that is the reason.
//
// The names are exported because a bundler reports a missing name before anything runs, and not why it is missing.

import { WriteBarrierError } from 'write-barrier';

function refuse(): never {
  throw new WriteBarrierError(
    'EOPNOTSUPP',
    'write-barrier/node does not work in a browser, because a browser has no files and block devices that can be opened by ' +
      'their path. Use OpfsStorage of write-barrier/opfs, or implement Storage over what the browser has ' +
      '(docs/how-to/implement-a-storage.md in the package)',
  );
}

const refused: never = refuse();

export {
  refused as appendRecord,
  refused as diagnosticsObserver,
  refused as FileStorage,
  refused as readRecords,
  refused as replaceFile,
  refused as StorageLockedError,
};
