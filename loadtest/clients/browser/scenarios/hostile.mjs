// Two pages hold a call while the generator attacks the same server: the call must not notice.
import assert from 'node:assert/strict';
import { Participant } from '../lib/browser.mjs';
import { Generator } from '../lib/generator.mjs';

/// Between two looks at the call.
const LOOK = 3_000;
const CAMERA = { width: 320, height: 180, frameRate: 15 };

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

async function look(viewer, other) {
  return { video: await viewer.call('inbound', other, 'camera'), audio: await viewer.call('inbound', other, 'microphone') };
}

async function attacked({ one, two, room }) {
  const options = { room: { resolution: CAMERA } };
  const alice = await Participant.join(one, 'alice', room, options);
  const bob = await Participant.join(two, 'bob', room, options);
  const views = [[alice, 'bob'], [bob, 'alice']];
  for (const [viewer, other] of views) {
    await viewer.until(`the first frame of ${other}`, 10_000, 'firstFrame', other, 'camera');
    await viewer.until(`hearing ${other}`, 10_000, 'hears', other);
  }
  await pause(2_000);
  const first = await Promise.all(views.map((view) => look(...view)));
  const generator = Generator.hostile(['--room', room]);
  let before = first;
  for (let over = false; !over; ) {
    over = await Promise.race([generator.exit.then(() => true), pause(LOOK).then(() => false)]);
    const after = await Promise.all(views.map((view) => look(...view)));
    if (over) break;
    views.forEach(([viewer, other], index) => {
      const frames = after[index].video.framesDecoded - before[index].video.framesDecoded;
      assert.ok(frames > 5, `${viewer.identity} decoded ${frames} frames of ${other} in ${LOOK} ms\n${generator.text}`);
    });
    before = after;
  }
  const report = await generator.ended();
  views.forEach(([viewer, other], index) => {
    const name = `${viewer.identity} of ${other}`;
    const freezes = before[index].video.freezeCount - first[index].video.freezeCount;
    assert.equal(freezes, 0, `${name}: the picture froze\n${report}`);
    const samples = before[index].audio.totalSamplesReceived - first[index].audio.totalSamplesReceived;
    const concealed = before[index].audio.concealedSamples - first[index].audio.concealedSamples;
    assert.ok(concealed < samples / 100, `${name}: ${concealed} of ${samples} samples were concealed\n${report}`);
  });
  await alice.leave();
  await bob.leave();
  return `\n${report}`;
}

export const hostile = [{ name: 'attacked', run: attacked, only: ['default', 'uring'] }];
