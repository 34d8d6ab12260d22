import { defineConfig } from 'tsup';

export default defineConfig({
  entry: {
    cli: 'src/cli/main.ts',
    'cli-record': 'src/cli/record.ts',
    index: 'src/index.ts',
    directory: 'src/directory/index.ts',
    kit: 'src/kit.ts',
    nbd: 'src/nbd/index.ts',
    'nbd-browser': 'src/nbd/browser.ts',
    node: 'src/node/index.ts',
    'node-browser': 'src/node/browser.ts',
    opfs: 'src/opfs/index.ts',
    sqlite: 'src/sqlite/index.ts',
    systems: 'src/systems/index.ts',
    testing: 'src/testing/index.ts',
    'testing-arbitraries': 'src/testing/arbitraries.ts',
    'testing-files': 'src/testing/files/index.ts',
    'testing-files-register': 'src/testing/files/register.ts',
    'testing-lab': 'src/testing/lab/index.ts',
  },
  format: ['esm', 'cjs'],
  // Declarations are asked for by scripts/build.mjs: they take ten times as long as the JavaScript.
  dts: false,
  clean: true,
  target: 'es2022',
  // `write-barrier/node`, `write-barrier/nbd` and `write-barrier/systems` import the public face like any stranger does, and the
  // command imports public doors. The doors of the crash kit drive the state machine itself, which is not public. As ESM they share
  // its code with the face, and their own with each other, in chunks. CommonJS has a copy for each door, because splitting it would pass all code through a
  // transformer that makes `?.` and `??` calls and `import()` a `require`: tell errors by `WriteBarrierError.is`.
  external: [/^write-barrier(?:\/|$)/],
  removeNodeProtocol: false,
});
