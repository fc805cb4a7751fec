// A second, independent implementation of everything below signalling: Firefox beside Chromium.
import assert from 'node:assert/strict';
import { Participant } from '../lib/browser.mjs';

/// Seconds that must pass without a gap.
const TALK = 8;
const SMALL = { resolution: { width: 320, height: 180, frameRate: 15 } };

const seconds = (n) => new Promise((resolve) => setTimeout(resolve, n * 1_000));

async function talk({ one, fox, room }, options) {
  const alice = await Participant.join(one, 'alice', room, { room: SMALL });
  const bob = await Participant.join(fox, 'bob', room, { room: { ...SMALL, ...options } });
  const views = [[alice, 'bob'], [bob, 'alice']];
  for (const [viewer, other] of views) {
    await viewer.until(`frames of ${other}`, 20_000, 'decodesMore', other, 'camera', 20);
    await viewer.until(`sound of ${other}`, 10_000, 'receivesMore', other, 'microphone', 50);
  }
  const before = await Promise.all(views.map(([viewer, other]) => viewer.call('inbound', other, 'camera')));
  await seconds(TALK);
  const after = await Promise.all(views.map(([viewer, other]) => viewer.call('inbound', other, 'camera')));
  const frames = after.map((report, index) => report.framesDecoded - before[index].framesDecoded);
  frames.forEach((count, index) => assert.ok(count > TALK * 8, `${views[index][0].identity} decoded ${count} frames in ${TALK} s`));
  for (const [from, to] of [[alice, bob], [bob, alice]]) {
    for (const reliable of [true, false]) {
      const text = `${from.identity} ${reliable}`;
      await from.call('sendData', text, reliable, null);
      await to.until(text, 5_000, 'hasData', text);
    }
  }
  await bob.call('setMicrophone', false);
  await alice.until('the muted microphone', 5_000, 'isMuted', 'bob', 'microphone');
  const carol = await Participant.join(one, 'carol', room, { room: SMALL });
  await bob.until('frames of carol', 20_000, 'decodesMore', 'carol', 'camera', 20);
  await carol.until('frames of bob', 20_000, 'decodesMore', 'bob', 'camera', 20);
  await carol.leave();
  await bob.until('carol gone', 5_000, 'lacks', 'carol', 'camera');
  await bob.leave();
  await alice.until('bob gone', 5_000, 'isAlone');
  await alice.leave();
  return `frames ${frames}`;
}

export const foxes = [
  { name: 'Firefox, one connection', run: (context) => talk(context, {}), only: ['default', 'two shards'], fox: true },
  { name: 'Firefox, two connections', run: (context) => talk(context, { singlePeerConnection: false }), only: ['default'], fox: true },
];
