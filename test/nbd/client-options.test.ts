// Options of the client that make no sense: refused before anything is dialed, with the value and its type. What TLS takes
// is tried in client-tls.test.ts, and what close takes in client-life.test.ts.

import type { Duplex } from 'node:stream';
import { describe, expect, test } from 'vitest';
import {
  listExports,
  type NbdRouteOptions,
  NbdStorage,
  type NbdStorageOptions,
} from '../../src/nbd/index.js';
import { serverError } from '../../src/nbd/report.js';
import { errorThrown } from '../storage/contract.js';

const dial = (): Duplex => {
  throw new Error('it was dialed');
};

async function refused(options: unknown, ask = NbdStorage.connect): Promise<string> {
  const error = await errorThrown(() => ask(options as NbdStorageOptions));
  expect(error).toMatchObject({ code: 'INVALID_ARGUMENT' });
  return (error as Error).message;
}

describe('options of NbdStorage.connect', () => {
  test.each<readonly [object, string]>([
    [{ dial, triesMx: 5 }, "did you mean 'triesMax'"],
    [{ path: '/x', exportName: 'disk' }, 'exportName'],
    [{ host: 'x', prt: 5 }, "did you mean 'port'"],
    [{ dial, TLS: {} }, "did you mean 'tls'"],
    [{ dial, limits: {} }, 'limits'],
  ])('with a name that is not known are refused: %o', async (options, message) => {
    expect(await refused(options)).toContain(message);
  });

  test.each<readonly [unknown, string]>([
    [undefined, 'undefined'],
    [null, 'null'],
    ['/run/disk.sock', "'/run/disk.sock'"],
    [{}, 'one of path, host and dial'],
    [{ path: '/x', host: 'x' }, 'one of path, host and dial'],
    [{ path: '/x', port: 5 }, 'port'],
    [{ path: '' }, "path must be a string that is not empty, not ''"],
    [{ path: 5 }, 'not 5'],
    [{ host: '' }, 'host'],
    [{ host: 'x', port: '10809' }, "not '10809'"],
    [{ host: 'x', port: 0 }, 'not 0'],
    [{ host: 'x', port: 65_536 }, 'not 65536'],
    [{ dial: 'x' }, "not 'x'"],
    [{ dial, export: 5 }, 'not 5'],
    [{ dial, export: 'x'.repeat(4097) }, '4096'],
    [{ dial, connections: '4' }, "not '4'"],
    [{ dial, connections: 4n }, 'not 4n'],
    [{ dial, triesMax: 1.5 }, 'not 1.5'],
    [{ dial, triesMax: Number.NaN }, 'not NaN'],
    [{ dial, delayMs: -1 }, 'not -1'],
    [{ dial, blockSize: '512' }, "not '512'"],
    [{ dial, blockSize: 0 }, 'not 0'],
    [{ dial, cache: 'volatile' }, "not 'volatile'"],
    [{ dial, observer: 'console.log' }, "not 'console.log'"],
    [{ dial, observer: null }, 'not null'],
  ])('that make no sense are refused with the value: %o', async (options, shown) => {
    expect(await refused(options)).toContain(shown);
  });

  test('that are undefined are as if they were not there', async () => {
    const options = { path: undefined, host: undefined, port: undefined, dial, tls: undefined };
    const error = await errorThrown(() => NbdStorage.connect(options as never));
    expect(error).toMatchObject({
      code: 'IO_FAILED',
      message: expect.stringMatching(/it was dialed/),
    });
  });

  test('may be an object whose dial is a method', async () => {
    class Dialer {
      readonly said = 'from the object';
      dial(): Duplex {
        throw new Error(this.said);
      }
    }
    const route = new Dialer();
    const options = { dial: () => route.dial() };
    expect(await errorThrown(() => NbdStorage.connect(options))).toMatchObject({
      message: expect.stringContaining('from the object'),
    });
  });
});

test('options of listExports are those of the route, and a promise rejects with what is wrong', async () => {
  const ask = listExports as unknown as typeof NbdStorage.connect;
  expect(await refused({ dial, export: 'disk' }, ask)).toContain('listExports');
  const listing = listExports({} as NbdRouteOptions);
  await expect(listing).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
});

test('what a server says in an error of a request is escaped, in the cause, too', () => {
  const error = serverError(1, 28, 'full\u001b]0;x\u0007');
  expect(error.message).toContain('full\\u001b]0;x\\u0007');
  expect((error.cause as Error).message).toBe('full\\u001b]0;x\\u0007');
});
