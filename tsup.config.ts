import { defineConfig } from 'tsup';

export default defineConfig({
  entry: {
    index: 'src/index.ts',
    nbd: 'src/nbd/index.ts',
    node: 'src/node/index.ts',
    systems: 'src/systems/index.ts',
    testing: 'src/testing/index.ts',
  },
  format: ['esm', 'cjs'],
  dts: true,
  clean: true,
  target: 'es2022',
  // `write-barrier/node`, `write-barrier/nbd` and `write-barrier/systems` import the public face like any stranger does. `write-barrier/testing` drives the state
  // machine itself, which is not public, and so has a copy of the core: tell errors by `WriteBarrierError.is`.
  external: ['write-barrier'],
  splitting: false,
  removeNodeProtocol: false,
});
