// Codecs: what one page sends in each, another decodes.
import assert from 'node:assert/strict';
import { Participant } from '../lib/browser.mjs';

/// Seconds of a picture that are watched.
const WATCHED = 5;
/// Small: some of these encoders are slow, and what is tested is the forwarding.
const CAMERA = { width: 320, height: 180, frameRate: 15 };
const SILENT = { camera: false, microphone: false };

const seconds = (n) => new Promise((resolve) => setTimeout(resolve, n * 1_000));

/// Frames that `viewer` decodes of alice in a while; a freeze is a fault.
async function watch(viewer, time) {
  const before = await viewer.call('inbound', 'alice', 'camera');
  await seconds(time);
  const after = await viewer.call('inbound', 'alice', 'camera');
  const frames = after.framesDecoded - before.framesDecoded;
  assert.ok(frames > time * 5, `${viewer.identity} decoded ${frames} frames in ${time} s`);
  assert.equal(after.freezeCount - before.freezeCount, 0, `${viewer.identity} saw a freeze`);
  return frames;
}

/// Alice sends `codec`; bob, who was there, and carol, who comes later, decode it.
async function video({ one, two, room }, codec, publish = {}) {
  const bob = await Participant.join(two, 'bob', room, { room: SILENT });
  const options = { videoCodec: codec, backupCodec: false, simulcast: false, ...publish };
  const alice = await Participant.join(one, 'alice', room, { room: { ...SILENT, publish: options } });
  if (!(await alice.call('canSend', codec))) {
    await alice.leave();
    await bob.leave();
    return `NOT TESTED: this browser cannot send ${codec}`;
  }
  await alice.call('setCamera', true, CAMERA);
  await bob.until('the first frame', 15_000, 'firstFrame', 'alice', 'camera');
  await bob.until(`${codec} on the wire`, 5_000, 'isCodec', 'alice', 'camera', `video/${codec}`);
  assert.equal(await bob.call('told', 'alice', 'camera'), `video/${codec}`, 'what bob was told of the track');
  const frames = await watch(bob, WATCHED);
  // A newcomer needs a key frame, which has to be recognised.
  const carol = await Participant.join(two, 'carol', room, { room: SILENT });
  const first = await carol.until('the first frame', 10_000, 'firstFrame', 'alice', 'camera');
  await carol.until('more frames', 5_000, 'decodesMore', 'alice', 'camera', 10);
  for (const participant of [alice, bob, carol]) await participant.leave();
  return `${frames} frames in ${WATCHED} s, a newcomer's first after ${Math.round(first)} ms`;
}

/// Simulcast of a codec without picture identifiers: layers are switched where parameters are, without a seam.
async function layers({ one, two, room }, codec) {
  const alice = await Participant.join(one, 'alice', room, { room: { ...SILENT, publish: { videoCodec: codec, simulcast: true, backupCodec: false } } });
  if (!(await alice.call('canSend', codec))) {
    await alice.leave();
    return `NOT TESTED: this browser cannot send ${codec}`;
  }
  await alice.call('setCamera', true, { width: 640, height: 360, frameRate: 15 });
  const bob = await Participant.join(two, 'bob', room, { room: SILENT });
  await bob.until('the first frame', 15_000, 'firstFrame', 'alice', 'camera');
  await alice.until('two layers', 25_000, 'sendsLayers', 2);
  const before = await bob.call('inbound', 'alice', 'camera');
  let switches = 0;
  for (const [quality, height] of [['LOW', 180], ['HIGH', 360], ['LOW', 180], ['HIGH', 360]]) {
    await bob.call('setQuality', 'alice', quality);
    await bob.until(`${height} lines`, 10_000, 'hasHeight', 'alice', 'camera', height);
    await seconds(2);
    switches++;
  }
  const after = await bob.call('inbound', 'alice', 'camera');
  assert.equal(after.freezeCount - before.freezeCount, 0, 'a switch froze the picture');
  assert.equal(after.packetsLost, 0, 'a switch left a gap in the sequence numbers');
  assert.equal(after.ssrc, before.ssrc, 'a switch changed the stream');
  await alice.leave();
  await bob.leave();
  return `${switches} switches`;
}

/// Redundant audio is chosen by the answer, and heard without concealment.
async function redundant({ one, two, room }) {
  const alice = await Participant.join(one, 'alice', room, { room: { camera: false, publish: { red: true } } });
  const bob = await Participant.join(two, 'bob', room, { room: SILENT });
  await bob.until('hearing alice', 10_000, 'hears', 'alice');
  // The browsers' statistics name what is inside; the server says what it saw on the wire.
  assert.equal(await bob.call('told', 'alice', 'microphone'), 'audio/red');
  const before = await bob.call('inbound', 'alice', 'microphone');
  await seconds(WATCHED);
  const after = await bob.call('inbound', 'alice', 'microphone');
  const samples = after.totalSamplesReceived - before.totalSamplesReceived;
  const concealed = after.concealedSamples - before.concealedSamples;
  assert.ok(samples > WATCHED * 40_000, `${samples} samples`);
  assert.ok(concealed < samples / 50, `${concealed} of ${samples} samples were concealed`);
  await alice.leave();
  await bob.leave();
  return `${samples} samples, ${concealed} concealed`;
}

/// Bob cannot decode what alice sends, and gets her backup codec, which she sends for as long as he is there.
async function backup({ one, two, room }) {
  const publish = { videoCodec: 'vp9', backupCodec: { codec: 'vp8' } };
  const alice = await Participant.join(one, 'alice', room, { room: { ...SILENT, dynacast: true, publish } });
  await alice.call('setCamera', true, CAMERA);
  const carol = await Participant.join(two, 'carol', room, { room: SILENT });
  await carol.until('the first frame', 15_000, 'firstFrame', 'alice', 'camera');
  await alice.until('VP9 alone', 5_000, 'sends', 'video/vp9');
  const bob = await Participant.join(two, 'bob', room, { room: { ...SILENT, without: 'vp9' } });
  const first = await bob.until('the first frame', 20_000, 'firstFrame', 'alice', 'camera');
  await bob.until('VP8 on the wire', 5_000, 'isCodec', 'alice', 'camera', 'video/vp8');
  await alice.until('both codecs', 5_000, 'sends', 'video/vp8,video/vp9');
  const frames = [await watch(bob, WATCHED), await watch(carol, WATCHED)];
  assert.ok(await carol.call('isCodec', 'alice', 'camera', 'video/vp9'), 'carol keeps what she can decode');
  await bob.leave();
  await alice.until('VP9 alone', 20_000, 'sends', 'video/vp9');
  await alice.leave();
  await carol.leave();
  return `bob's first after ${Math.round(first)} ms; ${frames} frames in ${WATCHED} s each`;
}

const RUN = { only: ['default', 'two shards'] };

export const codecs = [
  ...['vp8', 'vp9', 'h264', 'av1', 'h265'].map((codec) => ({ name: `codec ${codec}`, run: (context) => video(context, codec), ...RUN })),
  { name: 'codec vp9, one layer', run: (context) => video(context, 'vp9', { scalabilityMode: 'L1T1' }), ...RUN },
  { name: 'codec av1, one layer', run: (context) => video(context, 'av1', { scalabilityMode: 'L1T1' }), ...RUN },
  { name: 'layers of h264', run: (context) => layers(context, 'h264'), ...RUN },
  { name: 'redundant audio', run: redundant, ...RUN },
  { name: 'backup codec', run: backup, ...RUN },
];
