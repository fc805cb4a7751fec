// Many in one room: two Chromium pages and peers of our own generator with recorded media.
import assert from 'node:assert/strict';
import { Participant } from '../lib/browser.mjs';
import { Generator } from '../lib/generator.mjs';

/// Seconds in which everybody has to be there, browsers being slow starters on a busy machine.
const GATHERING = 25;
const PEERS = Array.from({ length: 8 }, (_, index) => `peer-${index}`);
/// Small pictures: the two browsers share the machine with everything else, and what is tested is the forwarding.
const CAMERA = { width: 320, height: 180, frameRate: 15 };

const seconds = (n) => new Promise((resolve) => setTimeout(resolve, n * 1_000));

async function received(viewer, others) {
  const entries = others.map(async (other) => [
    other,
    { video: await viewer.call('inbound', other, 'camera'), audio: await viewer.call('inbound', other, 'microphone') },
  ]);
  return Object.fromEntries(await Promise.all(entries));
}

/// What changed around a freeze.
function freeze(first, last) {
  const names = ['totalFreezesDuration', 'framesReceived', 'framesDecoded', 'framesDropped', 'keyFramesDecoded', 'packetsLost', 'nackCount', 'pliCount', 'frameHeight'];
  return names.map((name) => `${name} ${first[name]} to ${last[name]}`).join(', ');
}

/// Checks that `viewer` saw and heard everybody all the time.
function compare(viewer, peers, before, after, time) {
  const frames = {};
  for (const other of Object.keys(before)) {
    const [first, last] = [before[other], after[other]];
    const name = `${viewer.identity} of ${other}`;
    frames[other] = last.video.framesDecoded - first.video.framesDecoded;
    assert.ok(frames[other] > time * 5, `${name}: ${frames[other]} frames decoded in ${time} s`);
    const samples = last.audio.totalSamplesReceived - first.audio.totalSamplesReceived;
    assert.ok(samples > time * 40_000, `${name}: ${samples} samples`);
    const energy = last.audio.totalAudioEnergy - first.audio.totalAudioEnergy;
    assert.ok(energy > 0.0001, `${name}: silence (${energy})`);
    if (peers.includes(other)) {
      // A tone of half scale, heard without a pause.
      assert.ok(energy > time * 0.001, `${name}: the tone is too quiet (${energy})`);
    } else {
      assert.equal(last.video.freezeCount - first.video.freezeCount, 0, `${name}: the picture froze; ${freeze(first.video, last.video)}`);
    }
  }
  return frames;
}

/// Two pages and so many peers, watched for `talk` seconds.
async function gather({ one, two, room, server }, peers, talk) {
  const generator = Generator.meet(room, { peers: peers.length, others: 2, seconds: GATHERING + talk });
  const started = Date.now();
  const options = { room: { resolution: CAMERA } };
  const alice = await Participant.join(one, 'alice', room, options);
  const bob = await Participant.join(two, 'bob', room, options);
  const views = [[alice, ['bob', ...peers]], [bob, ['alice', ...peers]]];
  for (const [viewer, others] of views) {
    for (const other of others) {
      await viewer.until(`the first frame of ${other}`, 15_000, 'firstFrame', other, 'camera');
      await viewer.until(`hearing ${other}`, 10_000, 'hears', other);
      if (peers.includes(other)) await viewer.call('setQuality', other, 'LOW');
    }
  }
  await seconds(1);
  const before = await Promise.all(views.map(([viewer, others]) => received(viewer, others)));
  const time = Math.min(talk, GATHERING + talk - 2 - (Date.now() - started) / 1_000);
  assert.ok(time >= talk / 2, `the room took ${(Date.now() - started) / 1_000} s to gather`);
  await seconds(time);
  const after = await Promise.all(views.map(([viewer, others]) => received(viewer, others)));
  const report = await generator.ended().catch(async (error) => {
    throw new Error(`${error.message}\nwhat the server has dropped since its start:\n${await server.drops()}`);
  });
  const frames = views.map(([viewer], index) => compare(viewer, peers, before[index], after[index], time));
  const matched = report.peers.flatMap((peer) => peer.lines).reduce((sum, line) => sum + line.received.matched, 0);
  assert.ok(matched > peers.length * 2 * talk * 50, `the generator recognised ${matched} frames of its own`);
  // For each track and subscriber: received, less filtered, less dropped under a name, is sent.
  assert.equal(await server.metric('auralink_packets_unaccounted_total'), 0);
  await alice.leave();
  await bob.leave();
  return `${time.toFixed(0)} s, frames ${JSON.stringify(frames)}, ${matched} frames equal to the recording`;
}

const five = (given) => gather(given, PEERS.slice(0, 3), 20);
const fiveMinutes = (given) => gather(given, PEERS, 300);

export const rooms = [
  { name: 'five in a room', run: five, only: ['default', 'two shards', 'uring'] },
  // For a machine with a processor to spare: on two that browsers fill, the kernel takes either away for 100 ms now and then, and
  // one such moment is a frozen picture.
  { name: 'ten in a room for five minutes', run: fiveMinutes, only: ['default'], long: true },
];
