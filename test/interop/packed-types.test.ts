// The declarations of the package, as npm packs it, in the compilers that users have: strict, and with every
// declaration checked (`skipLibCheck: false`), because an error in ours is an error that no user can correct.
//
// Each project holds an ESM and a CommonJS importer of the doors, and stands in a folder of its own outside the
// repository, so that nothing resolves but what is put there. What README's section TypeScript promises is what the
// projects have: `@types/node`, or `DOM` and `ESNext.Disposable` in `lib`. TypeScript 5.9 is the one that the project
// itself uses; 6 and 7 are installed for the test, because npm links only one package's `tsc`.

import { execFile } from 'node:child_process';
import { cp, mkdir, mkdtemp, realpath, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';

const run = promisify(execFile);
const REPOSITORY = fileURLToPath(new URL('../../', import.meta.url));
const INSTALLED = { '6': 'typescript@6.0.3', '7': 'typescript@7.0.2' } as const;

/** What an importer writes about a door; `@ts-expect-error` shows that a type is not `any`. */
const DOORS = {
  '.': `
    const disk = new door.IoScheduler(new door.MemoryStorage(4096), { depth: 4 });
    export const done: Promise<void> = disk.write(0, new Uint8Array(512), { barrier: true });
    // @ts-expect-error a scheduler is no number
    export const wrong: number = disk;
  `,
  './testing': `
    export const disk: import('write-barrier').Storage = new door.VolatileDisk({ size: 4096 });
    // @ts-expect-error a disk has a size
    new door.VolatileDisk({});
  `,
  './testing/arbitraries': `
    export const make: unknown = door.arbitraries;
  `,
  './testing/lab': `
    export const litmus: string | undefined = door.LITMUS[0]?.name;
    // @ts-expect-error a trace is no number
    door.crashSpace(4);
  `,
  './testing/files': `
    export const name: door.FileModelName = 'ext4';
    // @ts-expect-error a space is of a trace
    door.fileSpace(4, name);
  `,
  './kit': `
    export const length: number = door.totalLength([new Uint8Array(4)]);
    // @ts-expect-error a list holds buffers
    door.totalLength([4]);
  `,
  './systems': `
    export const open: typeof door.openSystem = door.openSystem;
    export const name: door.SystemName = 'solaris';
    // @ts-expect-error there is no such system
    export const wrong: door.SystemName = 'vms';
  `,
  './opfs': `
    export const file: Promise<door.OpfsStorage> = door.OpfsStorage.open('file', { size: 4096 });
    // @ts-expect-error a path is no number
    door.OpfsStorage.open(4);
  `,
  './node': `
    export const file: Promise<door.FileStorage> = door.FileStorage.open('file', { size: 4096 });
    // @ts-expect-error a path is no boolean
    door.FileStorage.open(true);
  `,
  './nbd': `
    export const server: door.NbdServer = new door.NbdServer({ exports: {} });
    // @ts-expect-error a port is no boolean
    new door.NbdServer({ exports: {}, port: true });
  `,
} as const;
type Door = keyof typeof DOORS;

/** The same for `arbitraries`, where fast-check is installed: its types are fast-check's own. */
const ARBITRARIES = `
  const made = door.arbitraries(fc);
  export const mode: fc.Arbitrary<import('write-barrier').ModeName> = made.mode;
  export const property = fc.property(made.program(), (requests) => requests[0]?.kind === 'write');
  // @ts-expect-error requests are no numbers
  fc.property(made.program(), (requests) => (requests satisfies readonly number[]) === requests);
  // @ts-expect-error the module is fast-check, and no number
  door.arbitraries(4);
`;

const WITHOUT_NODE: readonly Door[] = [
  '.',
  './testing',
  './testing/arbitraries',
  './testing/lab',
  './kit',
  './opfs',
  './systems',
];
const ALL = Object.keys(DOORS) as readonly Door[];
const RESOLUTIONS = [
  { moduleResolution: 'node16', module: 'node16' },
  { moduleResolution: 'nodenext', module: 'nodenext' },
  { moduleResolution: 'bundler', module: 'preserve' },
] as const;
const GLOBALS = [
  { given: '@types/node', doors: ALL, types: ['node'], lib: ['ES2022'] },
  {
    given: 'DOM and ESNext.Disposable in lib, and no @types/node',
    doors: WITHOUT_NODE,
    types: [],
    lib: ['ES2022', 'ESNext.Disposable', 'DOM'],
  },
] as const;

let folder = '';

beforeAll(async () => {
  folder = await realpath(await mkdtemp(join(tmpdir(), 'packed-types-')));
  const npm = (...args: string[]) =>
    run('npm', [...args, '--no-audit', '--no-fund'], { cwd: folder });
  // Without `prepack`, which would take `dist/` from the tests that run meanwhile; `npm run test:interop` has built it.
  const pack = ['pack', '--silent', '--ignore-scripts', '--pack-destination', folder];
  await run('npm', pack, { cwd: REPOSITORY });
  await run('sh', ['-c', 'tar -xzf write-barrier-*.tgz'], { cwd: folder });
  const compilers = Object.entries(INSTALLED).map(([major, spec]) => `ts${major}@npm:${spec}`);
  await npm('install', '--prefix', join(folder, 'compilers'), '--prefer-offline', ...compilers);
}, 600_000);

afterAll(() => rm(folder, { recursive: true, force: true }));

const compiler = (version: string): string =>
  version === '5.9'
    ? join(REPOSITORY, 'node_modules/typescript/bin/tsc')
    : join(folder, `compilers/node_modules/ts${version}/bin/tsc`);

interface Project {
  readonly doors: readonly Door[];
  readonly fastCheck: boolean;
  readonly options: Readonly<Record<string, unknown>>;
  readonly types: readonly string[];
}

/** Writes a project with two importers of each door; answers its folder. */
async function write({ doors, fastCheck, options, types }: Project): Promise<string> {
  const home = await mkdtemp(join(folder, 'project-'));
  const modules = join(home, 'node_modules');
  await mkdir(modules);
  await cp(join(folder, 'package'), join(modules, 'write-barrier'), { recursive: true });
  const needed = [
    ...(fastCheck ? ['fast-check', 'pure-rand'] : []),
    ...(types.includes('node') ? ['@types/node', 'undici-types'] : []),
  ];
  for (const name of needed) {
    await cp(join(REPOSITORY, 'node_modules', name), join(modules, name), { recursive: true });
  }
  const compilerOptions = {
    target: 'es2022',
    strict: true,
    exactOptionalPropertyTypes: true,
    skipLibCheck: false,
    noEmit: true,
    types,
    ...options,
  };
  await writeFile(join(home, 'tsconfig.json'), JSON.stringify({ compilerOptions }));
  await writeFile(join(home, 'package.json'), '{}');
  for (const door of doors) {
    const name = `write-barrier${door.slice(1)}`;
    const file = join(home, door === '.' ? 'core' : door.slice(2).replace('/', '-'));
    const withFastCheck = fastCheck && door === './testing/arbitraries';
    const body = DOORS[door] + (withFastCheck ? ARBITRARIES : '');
    const importer = (line: (as: string, from: string) => string): string =>
      [line('door', name), withFastCheck && line('fc', 'fast-check'), body]
        .filter(Boolean)
        .join('\n');
    await writeFile(
      `${file}.mts`,
      importer((as, of) => `import * as ${as} from '${of}';`),
    );
    await writeFile(
      `${file}.cts`,
      importer((as, of) => `import ${as} = require('${of}');`),
    );
  }
  return home;
}

/** What the compiler complains about, a line each. */
async function complaints(version: string, home: string): Promise<string> {
  return run(process.execPath, [compiler(version), '-p', home, '--pretty', 'false'], { cwd: home })
    .then(() => '')
    .catch((error: { readonly stdout?: string }) => error.stdout || String(error));
}

describe.each(['5.9', '6', '7'])('TypeScript %s', (version) => {
  describe.each(RESOLUTIONS)('with moduleResolution $moduleResolution', (resolution) => {
    describe.each(GLOBALS)('given $given', ({ doors, types, lib }) => {
      test.each([
        ['without fast-check', false],
        ["with fast-check, and the arbitraries have fast-check's own types", true],
      ])(`compiles importers of ${doors.join(' ')} %s`, async (_, fastCheck) => {
        const options = { ...resolution, lib };
        const home = await write({ doors, fastCheck, options, types });
        expect(await complaints(version, home)).toBe('');
      });
    });
  });
});
