// Stacks that are mapped once. The test runner maps every frame of a stack to its line in the source when the stack is read. An
// error of this package reads its own stack when it is made, and the tests make millions of them, at a few places. So the
// text of the frames is kept for each stack that was seen.

export {};

const { prepareStackTrace } = Error;
const STACKS_MAX = 10_000;
/** The mapped frames, by the frames as the engine prints them. */
const mapped = new Map<string, string>();

if (prepareStackTrace && !Reflect.has(prepareStackTrace, 'isKept')) {
  const kept = (error: Error, frames: NodeJS.CallSite[]): string => {
    const head = `${error.name || 'Error'}: ${error.message || ''}`;
    const key = frames.join('\n');
    const known = mapped.get(key);
    if (known !== undefined) return head + known;
    const text = String(prepareStackTrace(error, frames));
    if (!text.startsWith(head)) return text;
    if (mapped.size >= STACKS_MAX) mapped.clear();
    mapped.set(key, text.slice(head.length));
    return text;
  };
  Error.prepareStackTrace = Object.assign(kept, { isKept: true });
}
