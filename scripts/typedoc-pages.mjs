// A plugin for TypeDoc: pages have their titles and a group.
//
// TypeDoc names a page after its file and lists all pages in one row. Here a page bears its first heading, and stands in the
// group that the table below gives its folder or file; typedoc.json has the order of the groups. The pages themselves stay
// plain Markdown, because they are read in the repository as well.

import { Converter, ReflectionKind } from 'typedoc';

/** The first pattern that fits the path of a page decides. */
const GROUPS = [
  [/\/docs\/(?:README|tutorial|crash-testing|reading-a-counterexample)\.md$/, 'Start here'],
  [/\/docs\/how-to\//, 'How to'],
  [/\/docs\/nbd\//, 'NBD'],
  [/\/docs\/systems\//, 'History'],
  [/\/examples\//, 'Examples'],
  [/\/docs\//, 'Explanation'],
];

/** @param {import('typedoc').Application} app */
export function load(app) {
  app.converter.on(Converter.EVENT_RESOLVE_BEGIN, ({ project }) => {
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
