import { defineConfig } from 'tsup';

export default defineConfig({
  entry: { index: 'src/index.ts', node: 'src/node/index.ts', testing: 'src/testing/index.ts' },
  format: ['esm', 'cjs'],
  dts: true,
  clean: true,
  target: 'es2022',
  // One copy of the core: `write-barrier/node` imports the public face like any stranger does.
  external: ['write-barrier'],
  splitting: false,
  removeNodeProtocol: false,
});
