// Bursts of token minting and room service calls: each iteration makes a room, finds it, lists its participants and deletes
// it, and is refused once without a grant and once without a token.
import http from 'k6/http';
import { check } from 'k6';
import exec from 'k6/execution';
import { Rate } from 'k6/metrics';
import { HTTP_URL, mint, setting } from './lib/target.js';

const RATE = setting('RATE', 40);
const callFailed = new Rate('call_failed');

export const options = {
  scenarios: {
    bursts: {
      executor: 'ramping-arrival-rate',
      startRate: 1,
      timeUnit: '1s',
      preAllocatedVUs: 40,
      maxVUs: 200,
      stages: [
        { duration: '2s', target: RATE },
        { duration: '3s', target: RATE },
        { duration: '1s', target: 1 },
        { duration: '1s', target: RATE },
        { duration: '3s', target: RATE },
      ],
    },
  },
  thresholds: {
    call_failed: ['rate==0'],
    checks: ['rate==1'],
    'http_req_duration{expected_response:true}': [`p(95)<${setting('CALL_P95_MS', 200)}`],
    dropped_iterations: ['count==0'],
  },
};

function call(method, body, token, expected) {
  const headers = { 'Content-Type': 'application/json', ...(token && { Authorization: `Bearer ${token}` }) };
  const response = http.post(`${HTTP_URL}/twirp/livekit.RoomService/${method}`, JSON.stringify(body), {
    headers,
    responseCallback: http.expectedStatuses(expected),
    tags: { name: method },
  });
  const right = response.status === expected;
  callFailed.add(!right);
  if (!right) console.error(`${method}: ${response.status} instead of ${expected}: ${response.body}`);
  return right ? response.json() : {};
}

export default function () {
  const room = `twirp-${exec.scenario.iterationInTest}`;
  const token = mint('operator', { roomCreate: true, roomList: true, roomAdmin: true, room });
  const created = call('CreateRoom', { name: room, empty_timeout: 60 }, token, 200);
  const found = call('ListRooms', { names: [room] }, token, 200);
  const present = call('ListParticipants', { room }, token, 200);
  call('ListRooms', {}, mint('guest', { roomJoin: true, room }), 401);
  call('ListRooms', {}, '', 401);
  call('DeleteRoom', { room }, token, 200);
  const gone = call('ListRooms', { names: [room] }, token, 200);
  check(null, {
    'the room made has the name asked for': () => created.name === room,
    'it is found': () => found.rooms.length === 1 && found.rooms[0].name === room,
    'nobody is in it': () => present.participants.length === 0,
    'it is gone afterwards': () => gone.rooms.length === 0,
  });
}
