import { expect, test } from 'vitest';
import { share } from '../kit/amount.js';
import { bear, diceOf, guarded, hostileStream } from './fuzz.js';

// A share of what the interop project does with 200,000.
const CLIENTS = share(5000);

test('a session bears clients out of their mind', () => {
  const disk = guarded();
  let [opened, requests] = [0, 0];
  for (let seed = 0; seed < CLIENTS; seed += 1) {
    const random = diceOf(seed);
    const trial = bear(hostileStream(random), disk, random);
    opened += trial.opened ? 1 : 0;
    requests += trial.requests;
  }
  expect(disk.intact()).toBe(true);
  // Otherwise nothing but handshakes would have been tried.
  expect(opened).toBeGreaterThan(CLIENTS * 0.4);
  expect(requests).toBeGreaterThan(CLIENTS);
});
