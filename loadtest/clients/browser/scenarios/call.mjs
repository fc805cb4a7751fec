// The first call: two pages see and hear each other.
import assert from 'node:assert/strict';
import { Participant } from '../lib/browser.mjs';

/// Seconds of a call that must pass without a freeze.
const TALK = Number(process.env.AURALINK_TALK ?? 30);

const seconds = (n) => new Promise((resolve) => setTimeout(resolve, n * 1_000));

/// Two participants, in two browsers, each seeing and hearing the other.
async function pair({ one, two, room }, options = {}) {
  const alice = await Participant.join(one, 'alice', room, options);
  const bob = await Participant.join(two, 'bob', room, options);
  for (const [viewer, other] of [[alice, 'bob'], [bob, 'alice']]) {
    await viewer.until(`the first frame of ${other}`, 10_000, 'firstFrame', other, 'camera');
    await viewer.until(`hearing ${other}`, 10_000, 'hears', other);
  }
  return { alice, bob };
}

async function leaveAll(...participants) {
  for (const participant of participants) await participant.leave();
}

/// Watches what `viewer` receives of `other` for a while; fails on freezes, stalls and concealment.
async function watch(viewer, other, time) {
  const before = { video: await viewer.call('inbound', other, 'camera'), audio: await viewer.call('inbound', other, 'microphone') };
  await seconds(time);
  const after = { video: await viewer.call('inbound', other, 'camera'), audio: await viewer.call('inbound', other, 'microphone') };
  const frames = after.video.framesDecoded - before.video.framesDecoded;
  const samples = after.audio.totalSamplesReceived - before.audio.totalSamplesReceived;
  const concealed = after.audio.concealedSamples - before.audio.concealedSamples;
  assert.ok(frames > time * 10, `${viewer.identity} decoded ${frames} frames of ${other} in ${time} s`);
  assert.equal(after.video.freezeCount - before.video.freezeCount, 0, `${viewer.identity} saw ${other} freeze`);
  assert.ok(samples > time * 40_000, `${viewer.identity} received ${samples} samples of ${other}`);
  assert.ok(concealed < samples / 100, `${viewer.identity}: ${concealed} of ${samples} samples of ${other} were concealed`);
  return { frames, concealed };
}

/// What LiveKit's dashboards ask for, of a call of two with camera and microphone.
async function told(server) {
  assert.ok((await server.metric('livekit_track_subscribed_total')) >= 4, 'each receives two tracks');
  assert.ok((await server.metric('livekit_packet_loss_percent_count')) > 100, 'both directions report every second');
  const [trips, sum] = [await server.metric('livekit_rtt_ms_count'), await server.metric('livekit_rtt_ms_sum')];
  assert.ok(trips > 50 && sum / trips < 50, `${trips} round trips of ${sum / trips} ms on loopback`);
  assert.ok((await server.metric('livekit_jitter_us_count')) > 50, 'jitter is told');
}

async function twoTalk(context) {
  const { alice, bob } = await pair(context);
  await seconds(3);
  const results = await Promise.all([watch(alice, 'bob', TALK), watch(bob, 'alice', TALK)]);
  const first = await bob.call('firstFrame', 'alice', 'camera');
  // At some moments the fake camera shows three at the sampled points.
  await alice.until('more than three colours of the fake camera', 5_000, 'isColourful', 'bob', 'camera', 3);
  const transport = await alice.call('transport');
  await told(context.server);
  assert.match(transport.srtpCipher, /GCM/, `GCM should be chosen, not ${transport.srtpCipher}`);
  await leaveAll(alice, bob);
  return `first frame ${Math.round(first)} ms after connect, frames ${results.map((r) => r.frames)}, concealed ${results.map((r) => r.concealed)}`;
}

/// The subscriber's settings choose the layer; every switch shows the new size without a freeze.
async function layers(context) {
  const { alice, bob } = await pair(context, { room: { publish: { simulcast: true } } });
  await alice.until('three layers', 25_000, 'sendsLayers', 3);
  const before = await bob.call('inbound', 'alice', 'camera');
  const seen = [];
  for (const [quality, height] of [['HIGH', 720], ['LOW', 180], ['MEDIUM', 360], ['HIGH', 720], ['LOW', 180], ['HIGH', 720]]) {
    await bob.call('setQuality', 'alice', quality);
    await bob.until(`${height} lines`, 10_000, 'hasHeight', 'alice', 'camera', height);
    await seconds(2);
    seen.push(height);
  }
  const after = await bob.call('inbound', 'alice', 'camera');
  assert.equal(after.freezeCount - before.freezeCount, 0, 'a switch froze the picture');
  assert.equal(after.packetsLost, 0, 'a switch left a gap in the sequence numbers');
  assert.equal(after.ssrc, before.ssrc, 'a switch changed the stream');
  await bob.call('setEnabled', 'alice', false);
  await seconds(1);
  const paused = await bob.call('inbound', 'alice', 'camera');
  await seconds(1);
  assert.equal((await bob.call('inbound', 'alice', 'camera')).packetsReceived, paused.packetsReceived, 'a paused track sends');
  await bob.call('setEnabled', 'alice', true);
  await bob.until('frames after the pause', 5_000, 'decodesMore', 'alice', 'camera', paused.framesDecoded + 10);
  await leaveAll(alice, bob);
  return `${seen.length} switches`;
}

async function screen(context) {
  const { alice, bob } = await pair(context);
  await alice.call('shareCanvas');
  await bob.until('the first frame of the screen', 10_000, 'firstFrame', 'alice', 'screen_share');
  await bob.until('720 lines of screen', 10_000, 'hasHeight', 'alice', 'screen_share', 720);
  const camera = await bob.call('inbound', 'alice', 'camera');
  await bob.until('the camera beside the screen', 5_000, 'decodesMore', 'alice', 'camera', camera.framesDecoded + 20);
  await alice.call('stopSharing');
  await bob.until('the end of the screen', 5_000, 'lacks', 'alice', 'screen_share');
  await alice.call('shareCanvas');
  await bob.until('the screen again', 10_000, 'decodesMore', 'alice', 'screen_share', 10);
  await leaveAll(alice, bob);
}

async function data(context) {
  const { alice, bob } = await pair(context);
  const carol = await Participant.join(context.one, 'carol', context.room, { room: { camera: false, microphone: false } });
  for (const reliable of [true, false]) {
    for (const [from, to] of [[alice, bob], [bob, alice]]) {
      const text = `${from.identity} says ${reliable}`;
      await from.call('sendData', text, reliable, null, 'greeting');
      const message = await to.until(text, 5_000, 'hasData', text);
      assert.deepEqual([message.from, message.topic], [from.identity, 'greeting']);
    }
  }
  await alice.call('sendData', 'for carol only', true, ['carol']);
  const message = await carol.until('her message', 5_000, 'hasData', 'for carol only');
  assert.equal(message.from, 'alice');
  const large = 'x'.repeat(14_000);
  await bob.call('sendData', large, true, null);
  await alice.until('14,000 bytes', 5_000, 'hasData', large);
  assert.equal(await bob.call('hasData', 'for carol only'), null, 'a message reached one it was not for');
  const order = Array.from({ length: 50 }, (_, index) => `n${index}`);
  for (const text of order) await alice.call('sendData', text, true, ['bob']);
  await bob.until('the last of fifty', 5_000, 'hasData', 'n49');
  const received = (await bob.call('data')).map((message) => message.text).filter((text) => /^n\d+$/.test(text));
  assert.deepEqual(received, order, 'reliable messages arrive once and in order');
  await leaveAll(alice, bob, carol);
}

async function mute(context) {
  const { alice, bob } = await pair(context);
  await alice.call('setMicrophone', false);
  await alice.call('setCamera', false);
  await bob.until('the muted microphone', 5_000, 'isMuted', 'alice', 'microphone');
  await bob.until('the muted camera', 5_000, 'isMuted', 'alice', 'camera');
  await seconds(1);
  const silent = await bob.call('inbound', 'alice', 'microphone');
  await seconds(2);
  const later = await bob.call('inbound', 'alice', 'microphone');
  assert.ok(later.packetsReceived - silent.packetsReceived <= 5, 'a muted microphone is not forwarded');
  const video = await bob.call('inbound', 'alice', 'camera');
  await alice.call('setMicrophone', true);
  await alice.call('setCamera', true);
  await bob.until('sound again', 5_000, 'receivesMore', 'alice', 'microphone', later.packetsReceived + 50);
  await bob.until('the picture again', 5_000, 'decodesMore', 'alice', 'camera', video.framesDecoded + 20);
  await leaveAll(alice, bob);
}

async function rejoin(context) {
  const { alice, bob } = await pair(context);
  await alice.leave();
  await bob.until('alice gone', 5_000, 'isAlone');
  const again = await Participant.join(context.one, 'alice', context.room);
  await bob.until('alice again', 10_000, 'decodesMore', 'alice', 'camera', 20);
  await again.until('bob', 10_000, 'decodesMore', 'bob', 'camera', 20);
  // The same identity from elsewhere takes over; the first one is told why it ends.
  const other = await Participant.join(context.two, 'alice', context.room);
  await again.until('the end of the first alice', 5_000, 'hasEvent', 'disconnected');
  const [ended] = (await again.call('events')).filter(({ event }) => event === 'disconnected');
  assert.equal(ended.reason, 2, 'DUPLICATE_IDENTITY');
  await other.until('bob', 10_000, 'decodesMore', 'bob', 'camera', 20);
  await bob.until('the other alice', 10_000, 'decodesMore', 'alice', 'camera', 20);
  await again.page.close();
  await leaveAll(bob, other);
}

async function speakers({ one, two, room }) {
  const alice = await Participant.join(one, 'alice', room, { room: { camera: false, microphone: false } });
  const bob = await Participant.join(two, 'bob', room, { room: { camera: false, microphone: false } });
  await alice.call('publishTone');
  await bob.until('alice speaking', 10_000, 'hasSpeaker', 'alice');
  await leaveAll(alice, bob);
}

async function subscription(context) {
  const { alice, bob } = await pair(context);
  await bob.call('setSubscribed', 'alice', 'camera', false);
  await bob.until('no camera', 5_000, 'lacksTrack', 'alice', 'camera');
  await bob.call('setSubscribed', 'alice', 'camera', true);
  await bob.until('the camera again', 5_000, 'decodesMore', 'alice', 'camera', 10);
  await leaveAll(alice, bob);
}

/// Time from `connect` to the first frame shown, with both sides' parts: the aim is a median below 500 ms.
async function joinTime({ one, two, room }) {
  const alice = await Participant.join(one, 'alice', room);
  const times = [];
  for (let n = 0; n < 7; n++) {
    const viewer = await Participant.join(two, `viewer${n}`, room, { room: { camera: false, microphone: false } });
    times.push(await viewer.until('the first frame', 10_000, 'firstFrame', 'alice', 'camera'));
    await viewer.until('frames within a second of the first', 1_000, 'decodesMore', 'alice', 'camera', 5);
    await viewer.leave();
  }
  await alice.leave();
  times.sort((a, b) => a - b);
  assert.ok(times[3] < 1_000, `the median from connect to the first frame is ${times[3]} ms`);
  return `connect to first frame, ms: median ${Math.round(times[3])}, ${Math.round(times[0])} to ${Math.round(times[6])}`;
}

export const calls = [
  { name: 'two talk', run: twoTalk },
  { name: 'two talk', run: twoTalk, only: ['port per shard'] },
  { name: 'layers', run: layers },
  { name: 'screen', run: screen },
  { name: 'data', run: data },
  { name: 'mute', run: mute },
  { name: 'rejoin', run: rejoin },
  { name: 'speakers', run: speakers },
  { name: 'subscription', run: subscription },
  { name: 'join time', run: joinTime, only: ['default'] },
];
