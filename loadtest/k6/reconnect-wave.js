// What a broken uplink of a building does: all connections end in the same moment, without a word, and everyone is back at
// once under the same names.
import { check } from 'k6';
import { Counter, Rate, Trend } from 'k6/metrics';
import { join } from './lib/signal.js';
import { setting } from './lib/target.js';

const CLIENTS = setting('CLIENTS', 100);
const WAVES = setting('WAVES', 3);
const ROOM_SIZE = setting('ROOM_SIZE', 10);
/// Between everyone being in and the break.
const STAY_MS = setting('STAY_MS', 1000);

const returnTime = new Trend('return_ms', true);
const returnFailed = new Rate('return_failed');
const waves = new Counter('waves');

export const options = {
  scenarios: { wave: { executor: 'per-vu-iterations', vus: 1, iterations: 1, maxDuration: '2m' } },
  thresholds: {
    return_failed: ['rate==0'],
    return_ms: [`p(95)<${setting('RETURN_P95_MS', 1000)}`],
    waves: [`count==${WAVES}`],
    checks: ['rate==1'],
  },
};

/// Everyone joins; `done` gets the sockets once each has been answered or refused.
function arrive(wave, done) {
  const sockets = [];
  let left = CLIENTS;
  const one = (ok, ms) => {
    // The first arrival is not a return.
    if (wave > 0) {
      returnFailed.add(!ok);
      if (ok) returnTime.add(ms);
    }
    check(ok, { answered: (value) => value });
    left -= 1;
    if (left === 0) done(sockets);
  };
  for (let client = 0; client < CLIENTS; client++) {
    const room = `wave-${Math.floor(client / ROOM_SIZE)}`;
    sockets.push(
      join(
        `wave-${client}`,
        room,
        (ms) => one(true, ms),
        (reason) => {
          console.error(`return: ${reason}`);
          one(false);
        },
      ),
    );
  }
}

export default function () {
  const go = (wave) =>
    arrive(wave, (sockets) => {
      if (wave > 0) waves.add(1);
      setTimeout(() => {
        sockets.forEach((socket) => socket.close());
        if (wave < WAVES) go(wave + 1);
      }, STAY_MS);
    });
  go(0);
}
