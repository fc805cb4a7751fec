// WHIP and WHEP: a page without LiveKit publishes, another one watches, and LiveKit's client is in the same room.
import assert from 'node:assert/strict';
import { Participant, token } from '../lib/browser.mjs';
import { HTTP_URL } from '../lib/server.mjs';

const WHIP = `${HTTP_URL}/whip/v1`;
const WHEP = `${HTTP_URL}/whep/v1`;

async function eventually(what, timeout, done) {
  const end = Date.now() + timeout;
  let last;
  while (Date.now() < end) {
    if ((last = await done())) return last;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  throw new Error(`${what} did not happen within ${timeout} ms`);
}

async function broadcast({ one, two, room }) {
  const viewer = await Participant.open(two, 'viewer');
  const early = await viewer.plain('watch', WHEP, await token('viewer', room));
  assert.deepEqual([early.status, early.retryAfter], [409, '2'], 'nobody publishes yet');

  const camera = await Participant.open(one, 'camera');
  assert.deepEqual(await camera.plain('publish', WHIP, await token('camera', room)), { status: 201 });
  const bob = await Participant.join(two, 'bob', room, { room: { camera: false, microphone: false } });
  await bob.until('the first frame of the camera', 15_000, 'firstFrame', 'camera', 'camera');
  await bob.until('hearing the camera', 10_000, 'hears', 'camera');
  await eventually('three layers', 25_000, async () => (await camera.plain('stats')).layers === 3);

  assert.deepEqual(await viewer.plain('watch', WHEP, await token('viewer', room)), { status: 201 });
  await eventually('thirty frames', 15_000, () => viewer.plain('decodes', 30));
  const before = await viewer.plain('stats');
  assert.equal(before.video.height, 720, 'the best layer');
  assert.ok(before.audio.energy > 0 && before.audio.samples > 10_000, `it is heard: ${JSON.stringify(before.audio)}`);

  for (const page of [viewer, camera]) {
    assert.equal((await page.plain('restart')).status, 200);
    await eventually('connected again', 10_000, () => page.plain('isConnected'));
  }
  const { video } = await viewer.plain('stats');
  await eventually('frames after both restarts', 10_000, () => viewer.plain('decodes', video.frames + 60));

  await bob.call('setCamera', true, { width: 320, height: 180, frameRate: 15 });
  const decoding = async () => (await viewer.plain('frames')).filter(([, frames]) => frames > 20).length;
  await eventually('a second picture that came later', 15_000, async () => (await decoding()) === 2);

  assert.equal(await viewer.plain('end'), 200);
  assert.equal(await camera.plain('end'), 200);
  await bob.until('the end of the camera', 5_000, 'lacks', 'camera', 'camera');
  await bob.leave();
  return `${video.frames} frames before the restarts`;
}

export const whips = [{ name: 'whip and whep', run: broadcast, only: ['default', 'two shards', 'uring'] }];
