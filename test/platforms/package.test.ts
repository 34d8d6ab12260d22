// The package as npm packs it: the links of README lead to files that it has, and a report about a crash says where the writes
// were called, or why it cannot say that, also where a bundler has put the library and its user into one file. A
// bundle for a browser says why two doors do not work there.

import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { build } from 'esbuild';
import { build as vite } from 'vite';
import { beforeAll, describe, expect, inject, test } from 'vitest';
import { ran } from './consumer.js';

const homes = inject('consumer');

describe('the tarball', () => {
  test('has the file of every relative link of README', () => {
    const page = readFileSync(join(homes.unpacked, 'README.md'), 'utf8');
    const links = Array.from(page.matchAll(/\]\((?!\w+:|#)([^)#]+)/g), ([, path]) => String(path));
    expect(links.length).toBeGreaterThan(20);
    expect(links.filter((path) => !existsSync(join(homes.unpacked, path)))).toEqual([]);
  });

  test('has no generated reference, no sources, and of the tests only their page', () => {
    const paths = readdirSync(homes.unpacked, { recursive: true, encoding: 'utf8' });
    const unwanted = /^(?:src|scripts|bench|docs\/api)(?:\/|$)|^test\/(?!README\.md$)/;
    expect(paths.filter((path) => unwanted.test(path.replaceAll('\\', '/')))).toEqual([]);
  });
});

describe('the command', () => {
  // By npx, which finds it by the name of the package, as it does after an installation from the registry.
  const command = (...words: readonly string[]) =>
    ran('npx', ['--no-install', 'write-barrier', ...words], homes.full);

  test('is found by npx, and says what there is', async () => {
    const { stdout, stderr, code } = await command('--help');
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
    for (const name of ['serve', 'doctor', 'crash', 'replay', 'litmus', 'crash-files'])
      expect(stdout).toMatch(new RegExp(`^  ${name} `, 'm'));
  });

  test('serves a disk, records it, and replays and crashes the record', async () => {
    await writeFile(
      join(homes.full, 'client.mjs'),
      `import { NbdStorage } from 'write-barrier/nbd';
const disk = await NbdStorage.connect({ path: process.env.socket });
const plain = { fua: false, tag: 'simple' };
await disk.write(0, new Uint8Array(512).fill(65), plain);
await disk.write(512, new Uint8Array(512).fill(66), plain);
await disk.flush({ tag: 'simple' });
await disk.close();
`,
    );
    const run = ['--run', 'node client.mjs', '--trace', 'packed.trace'];
    const served = await command('serve', 'packed.img', '--size', '64K', ...run);
    expect({ code: served.code, stderr: served.stderr }).toEqual({ code: 0, stderr: '' });
    const check = ['--check', '! grep -q B {} || grep -q A {}'];
    const crashed = await command('crash', 'packed.trace', ...check);
    expect(crashed.stdout).toContain('a barrier between #0 and #1 would have prevented it');
    expect(crashed.code).toBe(1);
    const replayed = await command('replay', 'packed.trace', '--mode', 'DRAIN_FLUSH');
    expect(replayed.stdout).toContain('identical');
    expect(replayed.code).toBe(0);
  });

  test('cuts the power for a program, and examines the folder, also without the optional package', async () => {
    const program = "require('fs').writeFileSync(process.env.FOLDER + '/a', 'a', { flush: true })";
    const words = ['--check', 'test ! -s {}/a || grep -q a {}/a', '--', 'node', '--eval', program];
    const { stdout } = await command('crash-files', ...words);
    expect(stdout).toMatch(/^(?:proved|passed|failed)$/m);
    const examined = [
      'npx',
      ['--no-install', 'write-barrier', 'doctor', 'absent.img', '--rounds', '1'],
    ] as const;
    const bare = await ran(...examined, homes.bare);
    expect(bare.stdout).toMatch(/^lock: ticket: /m);
  });
});

describe('the report about a crash', () => {
  const KNOWN = [
    /lost: offset 0, written by #0, called from append \(failing\.mjs:\d+\), from [\w.]+ \(failing\.mjs:\d+\)\n/,
    /a barrier between #0 and #1, which was called from append \(failing\.mjs:\d+\), from [\w.]+ \(failing\.mjs:\d+\), would/,
  ];
  const reportOf = async (words: readonly string[]): Promise<string> =>
    (await ran(process.execPath, words, homes.full)).stdout;
  const bundled = async (sourcemap: boolean): Promise<string> => {
    const outfile = join(homes.full, `bundled-${sourcemap}.mjs`);
    await build({
      absWorkingDir: homes.full,
      entryPoints: ['failing.mjs'],
      bundle: true,
      minify: true,
      format: 'esm',
      platform: 'node',
      sourcemap,
      outfile,
    });
    return outfile;
  };

  test('names the calls, given no bundler', async () => {
    const report = await reportOf(['failing.mjs']);
    for (const line of KNOWN) expect(report).toMatch(line);
  });

  test('names the calls of the sources, given a minified bundle and its source map', async () => {
    const report = await reportOf(['--enable-source-maps', await bundled(true)]);
    for (const line of KNOWN) expect(report).toMatch(line);
  });

  test.each([
    ['without a source map', false],
    ['with a source map that is not used', true],
  ])('says why it cannot, given a minified bundle %s', async (_, sourcemap) => {
    const report = await reportOf([await bundled(sourcemap)]);
    expect(report).toContain('lost: offset 0, written by #0\n');
    expect(report).toContain(`  no call sites: the stacks name bundled-${sourcemap}.mjs only`);
    expect(report).toContain('use its source map (node --enable-source-maps)');
  });
});

// A static import, as most code has it: with all names of the door, because a bundler reports a missing name before anything
// runs, and what is used, because bundlers leave out what is not.
describe.each(['node', 'nbd'])(
  'a bundle for a browser that imports all names of write-barrier/%s',
  (door) => {
    const outdir = join(homes.full, `static-${door}`);
    const entry = join(homes.full, `static-${door}.mjs`);
    const bundlers = {
      esbuild: () =>
        build({
          entryPoints: [entry],
          bundle: true,
          format: 'esm',
          outfile: join(outdir, 'esbuild.mjs'),
        }),
      vite: () =>
        vite({
          root: homes.full,
          configFile: false,
          logLevel: 'silent',
          build: {
            outDir: outdir,
            emptyOutDir: false,
            lib: { entry, formats: ['es'], fileName: () => 'vite.mjs' },
          },
        }),
    };

    beforeAll(async () => {
      const list = `import('write-barrier/${door}').then((all) => console.log(Object.keys(all).join()))`;
      const { stdout } = await ran(process.execPath, ['--eval', list], homes.full);
      const names = stdout.trim().split(',').join(', ');
      await writeFile(
        entry,
        `import { ${names} } from 'write-barrier/${door}';\nconsole.log([${names}]);\n`,
      );
    });

    test.each(['esbuild', 'vite'] as const)(
      'is built by %s, and says why it fails when it runs',
      async (name) => {
        await bundlers[name]();
        const { stdout, stderr, code } = await ran(
          process.execPath,
          [join(outdir, `${name}.mjs`)],
          outdir,
        );
        expect({ stdout, code }, stderr).toEqual({ stdout: '', code: 1 });
        expect(stderr).toContain(`[EOPNOTSUPP]: write-barrier/${door} does not work in a browser`);
      },
    );
  },
);
