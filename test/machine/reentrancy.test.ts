// driver.D3: what comes while the driver's loop runs is handled by that loop.

import { expect, test } from 'vitest';
import type { Request, StagedCommand, TraceEvent } from 'write-barrier';
import {
  answerCall,
  type Call,
  type Command,
  Driver,
  type Machine,
  type Settled,
} from 'write-barrier/kit';

/** Issues one flush for each request, and settles it when that ends. */
class OneFlushEach implements Machine<Call> {
  readonly #waiting: Call[] = [];
  readonly #settled: Settled<Call>[] = [];

  submit(_request: Request, client: Call): void {
    this.#waiting.push(client);
  }

  next(): Command<Call> | undefined {
    const client = this.#waiting.shift();
    return client && { what: FLUSH, clients: [client] };
  }

  complete({ clients }: Command<Call>, error: unknown): void {
    for (const client of clients) this.#settled.push({ client, error });
  }

  takeSettled(): Settled<Call> | undefined {
    return this.#settled.shift();
  }
}

const FLUSH: StagedCommand = {
  ...{ kind: 'command', op: 'flush', offset: 0, length: 0, tag: 'simple', fua: false },
  stage: 'plain',
};

test.each(['at once', 'later'])(
  'given an observer that submits when a request settles, when the storage answers %s, then that request is issued too (driver.D3)',
  async (when) => {
    const flush = when === 'later' ? async (): Promise<void> => {} : (): void => {};
    let left = 3;
    const observer = ({ kind }: TraceEvent): void => {
      if (kind === 'settle' && left-- > 0) submit();
    };
    const driver = new Driver(new OneFlushEach(), {
      execute: flush,
      answer: answerCall,
      observer,
      name: 'a queue',
    });
    const submit = (): void => {
      const request: Request = { kind: 'flush' };
      driver.submit({ number: 0, request, data: undefined, resolve: () => {}, reject: () => {} });
    };
    submit();
    await driver.idle();
    expect(driver.submitted).toBe(4);
    expect(driver.settled).toBe(4);
  },
);
