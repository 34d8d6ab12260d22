// Lists of buffers against one buffer with the same bytes.

import fc from 'fast-check';
import { expect, test } from 'vitest';
import { concatBuffers, scatterBytes, sliceBuffers, totalLength } from 'write-barrier/kit';

const lists = fc.array(fc.uint8Array({ maxLength: 9 }), { maxLength: 6 });

test('given any list, then it is as long as its bytes in one buffer', () => {
  fc.assert(
    fc.property(lists, (list) => {
      expect(totalLength(list)).toBe(concatBuffers(list).length);
    }),
  );
});

test('given any list and any two places, then a slice has the bytes between them, and copies nothing', () => {
  fc.assert(
    fc.property(lists, fc.nat(60), fc.nat(60), (list, start, end) => {
      const pieces = sliceBuffers(list, start, end);
      expect(concatBuffers(pieces)).toEqual(concatBuffers(list).slice(start, Math.max(start, end)));
      for (const piece of pieces) {
        expect(piece.byteLength).toBeGreaterThan(0);
        expect(list.some(({ buffer }) => buffer === piece.buffer)).toBe(true);
      }
    }),
  );
});

test('given any list, then bytes that are scattered over it and joined again are the same', () => {
  fc.assert(
    fc.property(lists, (list) => {
      const bytes = Uint8Array.from({ length: totalLength(list) }, (_, i) => i);
      const into = list.map(({ length }) => new Uint8Array(length));
      scatterBytes(bytes, into);
      expect(concatBuffers(into)).toEqual(bytes);
    }),
  );
});
