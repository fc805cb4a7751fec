// Many clients join at once, stay a moment and leave; over and over.
import { check } from 'k6';
import exec from 'k6/execution';
import { Rate, Trend } from 'k6/metrics';
import { join } from './lib/signal.js';
import { setting } from './lib/target.js';

const CLIENTS = setting('CLIENTS', 50);
const ROOM_SIZE = setting('ROOM_SIZE', 10);
const STAY_MS = setting('STAY_MS', 500);

const joinTime = new Trend('join_ms', true);
const joinFailed = new Rate('join_failed');

export const options = {
  scenarios: {
    storm: { executor: 'per-vu-iterations', vus: CLIENTS, iterations: setting('JOINS', 4), maxDuration: '2m' },
  },
  thresholds: {
    join_failed: ['rate==0'],
    join_ms: [`p(95)<${setting('JOIN_P95_MS', 500)}`],
    checks: ['rate==1'],
  },
};

export default function () {
  const client = exec.vu.idInTest;
  const room = `storm-${Math.floor(client / ROOM_SIZE)}`;
  const socket = join(
    `storm-${client}-${exec.vu.iterationInScenario}`,
    room,
    (ms) => {
      joinTime.add(ms);
      joinFailed.add(false);
      check(ms, { joined: () => true });
      setTimeout(() => socket.close(), STAY_MS);
    },
    (reason) => {
      joinFailed.add(true);
      check(reason, { joined: () => false });
      console.error(`join: ${reason}`);
      socket.close();
    },
  );
}
