// The few shapes of SVG that our pictures are made of, as text. A shape is a string, a picture a list of them.
//
// Words come from users: labels, messages, names of operations. So every word and every attribute is escaped here and nowhere
// else. XML has no way to write most control characters, so they are shown as JSON writes them.
//
// Colours are variables of CSS with one value for light and one for dark surroundings. The background is painted, because the
// page around a picture may be dark while the system is light. There are no scripts and no references to anything outside.
// A picture has a `viewBox` and no width: 360 units are the width of a phone, where a letter is at least 11 pixels high.

import { escapeControls } from '../model/show.js';

/** A shape, or several, as SVG. */
export type Shape = string;

const MARKUP: Readonly<Record<string, string>> = {
  '&': '&amp;',
  '<': '&lt;',
  '>': '&gt;',
  '"': '&quot;',
  "'": '&#39;',
};

/** Any text as the content of an element or of a quoted attribute, in XML and in HTML. */
export function escapeText(text: string): string {
  return escapeControls(text).replace(/[&<>"']/g, (one) => MARKUP[one] as string);
}

type Attributes = Readonly<Record<string, string | number | undefined>>;

/** An element; attributes that are undefined are left out. */
export function element(name: string, attributes: Attributes, inner: Shape = ''): Shape {
  const written = Object.entries(attributes).map(([key, value]) => {
    if (value === undefined) return '';
    const text = typeof value === 'number' ? Number(value.toFixed(2)) : escapeText(value);
    return ` ${key}="${text}"`;
  });
  return `<${name}${written.join('')}${inner === '' ? '/>' : `>${inner}</${name}>`}`;
}

/** A rectangle. `look` names its classes; a pointer that rests on it shows `title`. */
export function rect(
  x: number,
  y: number,
  width: number,
  height: number,
  look: string,
  title?: string,
): Shape {
  const inner = title === undefined ? '' : titled(title);
  return element('rect', { x, y, width, height, rx: 2, class: look }, inner);
}

/** A straight line. */
export function line(x1: number, y1: number, x2: number, y2: number, look: string): Shape {
  return element('line', { x1, y1, x2, y2, class: look });
}

/**
 * Words in one line, cut short where they would be wider than `most`; then the whole of them is their title.
 *
 * @param look classes: `end` and `middle` say which of their points is at `x`, `code` has letters of one width
 */
export function words(
  x: number,
  y: number,
  text: string,
  look: string = '',
  most: number = Infinity,
): Shape {
  const flat = text.replace(/\s+/g, ' ');
  const short = shortened(flat, most);
  const inner = escapeText(short) + (short === flat ? '' : titled(text));
  return element('text', { x, y, class: look || undefined }, inner);
}

/** Words in as many lines as they need, at most `lines`; the last one is cut short. */
export function wrapped(text: string, most: number, lines: number): string[] {
  const found: string[] = [];
  let rest = text.trim().replace(/\s+/g, ' ');
  while (rest !== '' && found.length < lines - 1 && widthOf(rest) > most) {
    const fitting = shortened(rest, most).length - 1;
    const space = rest.lastIndexOf(' ', fitting);
    const end = space > 0 ? space : Math.max(1, fitting);
    found.push(rest.slice(0, end));
    rest = rest.slice(end).trimStart();
  }
  return rest === '' ? found : [...found, rest];
}

function shortened(text: string, most: number): string {
  if (widthOf(text) <= most) return text;
  let width = LETTER;
  let short = '';
  for (const letter of text) {
    width += widthOf(letter);
    if (width > most) break;
    short += letter;
  }
  return `${short}\u2026`;
}

/** The width of most letters of 11 units height; where it matters, too much is better than too little. */
const LETTER = 6.2;

/** About how wide words are; letters of Asia take twice the place. */
export function widthOf(text: string): number {
  let width = 0;
  for (const letter of text) width += (letter > '\u2e7f' ? 2 : 1) * LETTER;
  return width;
}

/** What a pointer shows that rests on the element around it, and what a screen reader says. */
export function titled(text: string): Shape {
  return `<title>${escapeText(text)}</title>`;
}

/** A group that is moved. */
export function moved(x: number, y: number, shapes: readonly Shape[]): Shape {
  return element('g', { transform: `translate(${x} ${y})` }, shapes.join(''));
}

/** The whole picture; its title and description are the alternative for those who do not see it. */
export function picture(
  frame: {
    readonly width: number;
    readonly height: number;
    readonly title: string;
    readonly description: string;
  },
  shapes: readonly Shape[],
): string {
  const { width, height, title, description } = frame;
  const inner = [
    titled(title),
    `<desc>${escapeText(description)}</desc>`,
    `<style>${STYLE}</style>`,
    rect(0, 0, width, height, 'paper'),
    ...shapes,
  ];
  const box = `0 0 ${Math.ceil(width)} ${Math.ceil(height)}`;
  const root = { xmlns: 'http://www.w3.org/2000/svg', viewBox: box, class: 'wb', role: 'img' };
  return `${element('svg', root, `\n${inner.join('\n')}\n`)}\n`;
}

const LIGHT =
  '--paper:#fff;--ink:#1f2328;--quiet:#59636e;--faint:#d1d9e0;--there:#0969da;--on:#fff;--lost:#cf222e;--flush:#8250df;--good:#1a7f37';
const DARK =
  '--paper:#0d1117;--ink:#e6edf3;--quiet:#9198a1;--faint:#3d444d;--there:#58a6ff;--on:#0d1117;--lost:#ff7b72;--flush:#bc8cff;--good:#56d364';

/** What is on the medium is filled, what is lost is hollow, so that nothing depends on colours alone. */
const STYLE = `
.wb{${LIGHT}}
@media (prefers-color-scheme:dark){.wb{${DARK}}}
svg.wb{font:11px system-ui,sans-serif}
.wb text{fill:var(--ink)}
.wb .code{font-family:ui-monospace,monospace}
.wb .head{font-size:13px;font-weight:600}
.wb .quiet{fill:var(--quiet)}
.wb .end{text-anchor:end}
.wb .middle{text-anchor:middle}
.wb text.on{fill:var(--on)}
.wb text.lost{fill:var(--lost)}
.wb text.good{fill:var(--good)}
.wb text.flush{fill:var(--flush)}
.wb .halo{paint-order:stroke;stroke:var(--paper);stroke-width:3px;stroke-linejoin:round}
.wb rect,.wb line{stroke-width:1.5}
.wb .paper{fill:var(--paper)}
.wb rect.there{fill:var(--there);stroke:var(--there)}
.wb rect.lost{fill:var(--paper);stroke:var(--lost)}
.wb rect.old{fill:var(--faint);stroke:var(--faint)}
.wb rect.open{fill:var(--there);fill-opacity:.25;stroke:var(--there)}
.wb rect.fault{fill:var(--paper);stroke:var(--lost);stroke-dasharray:1 2}
.wb rect.later{fill:none;stroke:var(--quiet);stroke-dasharray:2 2}
.wb rect.flush{fill:var(--flush);fill-opacity:.2}
.wb line.rule{stroke:var(--faint);stroke-width:1}
.wb line.quiet{stroke:var(--quiet);stroke-width:1}
.wb line.ink,.wb line.answer{stroke:var(--ink)}
.wb line.sure{stroke:var(--ink);stroke-width:3}
.wb line.on{stroke:var(--on)}
.wb line.cut{stroke:var(--lost);stroke-width:2.5}
.wb line.good{stroke:var(--good);stroke-width:2;stroke-dasharray:5 3}
`;
