// Whether a text is well-formed XML, as far as our pictures use XML: elements, attributes, text, the five entities and numbers.

/** What XML 1.0 has no way to write. */
const FORBIDDEN =
  // biome-ignore lint/suspicious/noControlCharactersInRegex: these are the characters in question
  /[\0-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff\p{Cs}]/u;
const TAG = /<(\/?)([a-zA-Z][\w-]*)((?:\s+[a-zA-Z][\w:-]*="[^"<]*")*)\s*(\/?)>/y;
const TEXT = /[^<]+/y;
const BARE = /&(?!(?:amp|lt|gt|quot|apos|#\d+);)/;

/** One element, with the text that is directly in it. */
export interface Element {
  readonly name: string;
  readonly attributes: Readonly<Record<string, string>>;
  readonly inner: Element[];
  text: string;
}

/** The root element. @throws Error that says where the text is not well-formed */
export function parseXml(xml: string): Element {
  const fail = (at: number, why: string): never => {
    throw new Error(`${why} at ${at}: ${JSON.stringify(xml.slice(at, at + 60))}`);
  };
  const forbidden = FORBIDDEN.exec(xml);
  if (forbidden) fail(forbidden.index, 'a character that XML cannot write');
  const bare = BARE.exec(xml);
  if (bare) fail(bare.index, 'an ampersand that begins no entity');
  const root: Element = { name: '', attributes: {}, inner: [], text: '' };
  const open = [root];
  for (let at = 0; at < xml.length; ) {
    const parent = open.at(-1) as Element;
    TEXT.lastIndex = at;
    TAG.lastIndex = at;
    const text = TEXT.exec(xml);
    if (text) {
      parent.text += decoded(text[0]);
      at = TEXT.lastIndex;
      continue;
    }
    const tag = TAG.exec(xml) ?? fail(at, 'no tag');
    const [, closes, name = '', attributes = '', isEmpty] = tag;
    if (closes) {
      if (open.pop()?.name !== name) fail(at, `no ${name} is open`);
    } else {
      const pairs = Array.from(attributes.matchAll(/([\w:-]+)="([^"]*)"/g), ([, key, value]) => [
        key,
        decoded(value ?? ''),
      ]);
      const element = { name, attributes: Object.fromEntries(pairs), inner: [], text: '' };
      if (pairs.length !== Object.keys(element.attributes).length) fail(at, 'an attribute twice');
      parent.inner.push(element);
      if (!isEmpty) open.push(element);
    }
    at = TAG.lastIndex;
  }
  if (open.length !== 1 || root.inner.length !== 1) throw new Error('not one root element');
  return root.inner[0] as Element;
}

function decoded(text: string): string {
  const names: Readonly<Record<string, string>> = { amp: '&', lt: '<', gt: '>', quot: '"' };
  return text.replace(/&(?:#(\d+)|(\w+));/g, (_, number, name) =>
    number ? String.fromCodePoint(Number(number)) : (names[name] ?? "'"),
  );
}

/** All elements of that name, in the order of the text. */
export function elementsOf(root: Element, name: string): Element[] {
  const found = root.inner.flatMap((inner) => elementsOf(inner, name));
  return root.name === name ? [root, ...found] : found;
}
