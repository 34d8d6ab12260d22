// A plugin for TypeDoc: pages have their titles and a group, and so have the names of each door.
//
// TypeDoc names a page after its file and lists all pages in one row. Here a page bears its first heading, and stands in the
// group that the table below gives its folder or file; typedoc.json has the order of the groups. The pages themselves stay
// plain Markdown, because they are read in the repository as well.
//
// TypeDoc lists the names of a door by what they are in TypeScript: classes, interfaces, functions. A reader looks for what they
// are about, and that is the file in which they stand. So a second table gives each file its group, and no source needs a tag.

import { CommentTag, Converter, ReflectionKind } from 'typedoc';

/** The first pattern that fits the path of a page decides. */
const GROUPS = [
  [/\/docs\/(?:README|command|tutorial|crash-testing|reading-a-counterexample)\.md$/, 'Start here'],
  [/\/docs\/how-to\//, 'How to'],
  [/\/docs\/nbd\//, 'NBD'],
  [/\/docs\/systems\//, 'History'],
  [/\/examples\//, 'Examples'],
  [/\/docs\//, 'Explanation'],
];

/** The first pattern that fits the file of a name, followed by `#` and the name, decides. */
const NAME_GROUPS = [
  [/#(?:\w+Error|ErrorCode)$/, 'Errors'],
  [
    /\/scheduler\/(?:scheduler-group|group-\w+|sharing|fair-queue|claims|closing)\./,
    'Groups of schedulers',
  ],
  [/\/scheduler\//, 'Scheduler'],
  [/\/model\/(?:mode|guarantees|flush-policy)\./, 'Modes and guarantees'],
  [/\/model\/(?:request|transform)\./, 'Requests and steps'],
  [/\/model\/notation\./, 'Notation'],
  [/\/diagnostics\./, 'Traces'],
  [/\/model\/event\.|\/trace\/|\/tracer\.|\/checker\/|\/disk-trace\.|\/formats\./, 'Traces'],
  [/\/model\//, 'Arguments and messages'],
  [/\/machine\//, 'Machines and drivers'],
  [/\/storage\/(?:byte-view|faults|latency|slice|wrappers)\./, 'Wrappers'],
  [/src\/storage\//, 'Storages'],
  [/\/testing\/files\//, 'Crash tests'],
  [/\/node\//, 'Files'],
  [/\/opfs\//, 'Files in a browser'],
  [/\/directory\//, 'Files on one disk'],
  [/\/sqlite\//, 'SQLite'],
  [/\/nbd\/server\//, 'Server'],
  [/\/nbd\//, 'Client'],
  [/\/systems\/virtio\//, 'virtio-blk'],
  [/\/systems\/xen\//, 'Xen'],
  [/\/systems\/blktap\//, 'Plain files'],
  [/\/systems\/(?:linux|qemu)\//, 'Linux and QEMU'],
  [/\/systems\//, 'All systems'],
  [/\/testing\/files\//, 'Crash tests of files'],
  [/\/(?:analyses|prefix|synthesis|hitting-set|barriers)\./, 'Analyses'],
  [/\/(?:crash-test|picture)\//, 'Crash tests'],
  [/\/(?:device\/|choices\.)/, 'Simulated disks'],
  [/\/contract\//, 'Storage contract'],
  [/\/space\//, 'Crash spaces'],
  [/\/litmus/, 'Litmus tests'],
  [/\/arbitraries\./, 'Arbitraries'],
];

/** @param {import('typedoc').Application} app */
export function load(app) {
  app.converter.on(Converter.EVENT_RESOLVE_BEGIN, ({ project }) => {
    for (const door of project.children ?? []) for (const name of door.children ?? []) group(name);
    for (const document of project.getReflectionsByKind(ReflectionKind.Document)) {
      const path = project.files.getReflectionPath(document) ?? '';
      const [first] = document.content;
      const title = /^#\s+(.+)$/m.exec(first?.text ?? '')?.[1];
      if (!title) throw new Error(`${path} has no heading`);
      document.name = title.replaceAll('`', '');
      document.frontmatter.group = GROUPS.find(([pattern]) => pattern.test(path))?.[1];
    }
  });
}

/** @param {import('typedoc').DeclarationReflection} declaration */
function group({ name, sources, signatures, comment }) {
  const place = `${sources?.[0]?.fileName}#${name}`;
  const title = NAME_GROUPS.find(([pattern]) => pattern.test(place))?.[1];
  if (!title) throw new Error(`${place} has no group`);
  // The comment of a function is that of its signatures.
  for (const of of [comment, ...(signatures ?? []).map((signature) => signature.comment)]) {
    of?.blockTags.push(new CommentTag('@group', [{ kind: 'text', text: title }]));
  }
}
