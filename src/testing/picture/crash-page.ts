import { escapeText } from '../../trace/svg.js';
import { checkReport, formatCrashReport, headline } from '../crash-test/crash-report.js';
import { shortText } from '../crash-test/in-short.js';
import type { CrashReport } from '../crash-test/types.js';
import { crashPicture } from './crash-picture.js';

/**
 * A report as one page of HTML that needs nothing else: the verdict, what to do next, the picture, and the text.
 *
 * @example
 * ```ts
 * writeFileSync('crash.html', crashPage(await crashTest(test)));
 * ```
 *
 * @throws `INVALID_ARGUMENT` for what is no report, such as the promise of one
 */
export function crashPage(report: CrashReport): string {
  checkReport(report);
  const { verdict, failure, warnings } = report;
  const tried = headline(report);
  const said = failure && shortText(failure.message, false);
  const item = (text: string): string => `<li>${escapeText(text)}</li>`;
  const svg = crashPicture(report);
  // A wide picture is scrolled and not made smaller, so that its words stay legible.
  const wide = Number(/viewBox="0 0 (\d+)/.exec(svg)?.[1] ?? 0);
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>${escapeText(said === undefined ? tried : `${verdict}: ${said.split('\n')[0]}`)}</title>
<style>${STYLE}</style>
</head>
<body class="wb">
<main>
<h1 class="${verdict}">${escapeText(tried)}</h1>
${said === undefined ? '' : `<p class="said">${escapeText(said)}</p>\n`}\
${warnings.length > 0 ? `<ul>${warnings.map((one) => item(`warning: ${one}`)).join('')}</ul>\n` : ''}\
<h2>What to do next</h2>
<ul>${nextSteps(report).map(item).join('')}</ul>
<h2>The picture</h2>
<figure><div style="min-width:${wide}px;max-width:${1.6 * wide}px">${svg}</div></figure>
<h2>The report</h2>
<pre>${escapeText(formatCrashReport(report))}</pre>
</main>
</body>
</html>
`;
}

/** What a reader does now. */
function nextSteps({ verdict, failure, warnings }: CrashReport): string[] {
  if (verdict === 'proved') {
    return [
      'Nothing. The verdict holds for this workload on the device that the report names; a worse device may lose more.',
    ];
  }
  if (!failure) return warnings.map((warning) => `Find out why: ${warning}.`);
  const again = `To repeat it, pass replay: '${failure.replay}' to crashTest.`;
  if (verdict === 'hung') return ['Look at what it waits for.', again];
  return [
    ...(failure.advice ? [`Advice: ${failure.advice.text}.`] : []),
    ...(failure.advice?.missing?.startsWith('a barrier') ? [BARRIERS] : []),
    again,
    'Correct the code, then run the whole test again, because another image may fail, too.',
  ];
}

const BARRIERS =
  'With an IoScheduler that is { barrier: true } on the later write, or a flush() that you await.';

/** The colours are those of the picture, whose style stands in the page as well. */
const STYLE = `
:root{color-scheme:light dark}
body{margin:0;background:var(--paper);font:16px/1.5 system-ui,sans-serif}
main{max-width:60rem;margin:auto;padding:1rem;color:var(--ink)}
h1{font-size:1.5rem;margin:.5rem 0}
h2{font-size:1.1rem;margin:1.5rem 0 .5rem}
.said{font-size:1.15rem;white-space:pre-line;overflow-wrap:anywhere}
.failed,.hung{color:var(--lost)}
.proved,.passed{color:var(--good)}
li{overflow-wrap:anywhere}
figure{margin:0;overflow-x:auto}
svg{display:block;width:100%}
pre{font:13px/1.5 ui-monospace,monospace;padding:1rem;overflow-x:auto;border:1px solid var(--faint)}
`;
