// Many in one room: two Chromium pages and peers of our own generator with recorded media.
import assert from 'node:assert/strict';
import { Participant } from '../lib/browser.mjs';
import { Generator } from '../lib/generator.mjs';

/// Seconds in which everybody has to be there, browsers being slow starters on a busy machine.
const GATHERING = 25;
/// Seconds of one look at everybody's counters. Looks follow each other without a gap; one in which pictures froze while the machine
/// itself stood still is taken again, for as long as SPARE of the call's time.
const LOOK = 10;
const SPARE = 0.5;
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

/// Everybody who froze for a viewer between two looks, with what else changed.
function frozen(viewer, before, after) {
  const names = ['totalFreezesDuration', 'framesReceived', 'framesDecoded', 'framesDropped', 'keyFramesDecoded', 'packetsLost', 'nackCount', 'pliCount', 'frameHeight'];
  return Object.keys(before).flatMap((other) => {
    const [first, last] = [before[other].video, after[other].video];
    if (last.freezeCount === first.freezeCount) return [];
    return [`${viewer.identity} of ${other}: ${names.map((name) => `${name} ${first[name]} to ${last[name]}`).join(', ')}`];
  });
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
    // The peers' tone is of half scale, heard without a pause; the browsers' is a beep.
    const least = peers.includes(other) ? time * 0.001 : 0.0001;
    assert.ok(energy > least, `${name}: too quiet (${energy})`);
  }
  return frames;
}

/// Watches until `talk` seconds passed without a freeze; what everybody decoded, and the looks that were taken again.
async function watch(views, peers, talk, machine) {
  const look = () => Promise.all(views.map(([viewer, others]) => received(viewer, others)));
  const start = Date.now();
  const first = await look();
  const again = [];
  let last = first;
  for (let seen = 0; seen < talk; ) {
    const [from, before] = [Date.now(), last];
    await seconds(LOOK);
    last = await look();
    const account = views.flatMap(([viewer], index) => frozen(viewer, before[index], last[index]));
    const away = machine.stoodStill(from - 1_000, Date.now());
    assert.ok(!account.length || away, `pictures froze:\n${account.join('\n')}`);
    if (account.length) again.push(`${away}: ${account.length} froze`);
    else seen += LOOK;
    assert.ok(again.length * LOOK <= talk * SPARE, `the machine stood still too often: ${again.join('; ')}`);
  }
  const time = (Date.now() - start) / 1_000;
  const frames = views.map(([viewer], index) => compare(viewer, peers, first[index], last[index], time));
  const taken = again.length ? `, looks taken again: ${again.join('; ')}` : '';
  return `${time.toFixed(0)} s, frames ${JSON.stringify(frames)}${taken}`;
}

/// Two pages and so many peers, watched for `talk` seconds.
async function gather({ one, two, room, server, machine }, peers, talk) {
  const generator = Generator.meet(room, { peers: peers.length, others: 2, seconds: GATHERING + talk * (1 + SPARE) + LOOK });
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
  const account = await watch(views, peers, talk, machine);
  generator.interrupt();
  const report = await generator.ended().catch(async (error) => {
    throw new Error(`${error.message}\nwhat the server has dropped since its start:\n${await server.drops()}`);
  });
  const matched = report.peers.flatMap((peer) => peer.lines).reduce((sum, line) => sum + line.received.matched, 0);
  assert.ok(matched > peers.length * 2 * talk * 50, `the generator recognised ${matched} frames of its own`);
  // For each track and subscriber: received, less filtered, less dropped under a name, is sent.
  assert.equal(await server.metric('auralink_packets_unaccounted_total'), 0);
  await alice.leave();
  await bob.leave();
  return `${account}, ${matched} frames equal to the recording`;
}

const five = (given) => gather(given, PEERS.slice(0, 3), 20);
const fiveMinutes = (given) => gather(given, PEERS, 300);

export const rooms = [
  { name: 'five in a room', run: five, only: ['default', 'two shards', 'uring'] },
  { name: 'ten in a room for five minutes', run: fiveMinutes, only: ['default'] },
];
