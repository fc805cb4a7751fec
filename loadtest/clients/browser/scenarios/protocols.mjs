// The ways clients speak: two peer connections, signalling that breaks, end-to-end encryption, streams and calls.
import assert from 'node:assert/strict';
import { Participant } from '../lib/browser.mjs';
import { Proxy } from '../lib/proxy.mjs';
import { PORT } from '../lib/server.mjs';

const PROXY_PORT = 7889;
const PROXY_URL = `ws://127.0.0.1:${PROXY_PORT}`;
const SMALL = { resolution: { width: 320, height: 180, frameRate: 15 } };
const TWO_CONNECTIONS = { singlePeerConnection: false };

async function pair({ one, two, room }, first = {}, second = {}) {
  const alice = await Participant.join(one, 'alice', room, { ...first, room: { ...SMALL, ...first.room } });
  const bob = await Participant.join(two, 'bob', room, { ...second, room: { ...SMALL, ...second.room } });
  await seeEachOther(alice, bob);
  return { alice, bob };
}

async function seeEachOther(...people) {
  for (const viewer of people) {
    for (const { identity } of people.filter((other) => other !== viewer)) {
      await viewer.until(`frames of ${identity}`, 15_000, 'decodesMore', identity, 'camera', 20);
      await viewer.until(`hearing ${identity}`, 10_000, 'hears', identity);
    }
  }
}

async function leaveAll(...people) {
  for (const participant of people) await participant.leave();
}

/// Each participant's kind of connection, and what it may do with it.
async function twoConnections(context) {
  const { alice, bob } = await pair(context, { room: TWO_CONNECTIONS }, { room: TWO_CONNECTIONS });
  assert.deepEqual([await alice.call('connections'), await bob.call('connections')], [2, 2]);
  const carol = await Participant.join(context.two, 'carol', context.room, { room: SMALL });
  assert.equal(await carol.call('connections'), 1);
  await seeEachOther(alice, bob, carol);
  for (const [from, to] of [[alice, bob], [bob, carol], [carol, alice]]) {
    for (const reliable of [true, false]) {
      const text = `${from.identity} to ${to.identity} ${reliable}`;
      await from.call('sendData', text, reliable, [to.identity]);
      await to.until(text, 5_000, 'hasData', text);
    }
  }
  await alice.call('setMicrophone', false);
  await bob.until('the muted microphone', 5_000, 'isMuted', 'alice', 'microphone');
  await bob.call('setSubscribed', 'alice', 'camera', false);
  await bob.until('no camera', 5_000, 'lacksTrack', 'alice', 'camera');
  await bob.call('setSubscribed', 'alice', 'camera', true);
  await bob.until('the camera again', 5_000, 'decodesMore', 'alice', 'camera', 10);
  await leaveAll(alice);
  await bob.until('alice gone', 5_000, 'lacks', 'alice', 'camera');
  const again = await Participant.join(context.one, 'alice', context.room, { room: { ...SMALL, ...TWO_CONNECTIONS } });
  await seeEachOther(again, bob, carol);
  await leaveAll(again, bob, carol);
}

/// Signalling breaks for two seconds: media goes on, and what happened meanwhile is told.
async function signalCut(context, options) {
  const proxy = await Proxy.start(PROXY_PORT, PORT);
  try {
    const { alice, bob } = await pair(context, { url: PROXY_URL, room: options });
    const sid = await alice.call('sid');
    const resumes = await context.server.metric('auralink_resumes_total');
    const before = await alice.call('inbound', 'bob', 'camera');
    const cut = proxy.cut(2_000);
    const carol = await Participant.join(context.two, 'carol', context.room, { room: SMALL });
    await cut;
    await alice.until('being back', 20_000, 'hasEvent', 'signal reconnecting');
    await alice.until('carol', 20_000, 'decodesMore', 'carol', 'camera', 10);
    assert.equal(await alice.call('sid'), sid, 'the participant is the same');
    assert.ok((await context.server.metric('auralink_resumes_total')) > resumes, 'it resumed');
    const after = await alice.call('inbound', 'bob', 'camera');
    assert.equal(after.ssrc, before.ssrc, 'the stream is the same');
    await alice.until('frames of bob', 5_000, 'decodesMore', 'bob', 'camera', after.framesDecoded + 20);
    await alice.call('sendData', 'back', true, null);
    await bob.until('word of alice', 5_000, 'hasData', 'back');
    await leaveAll(alice, bob, carol);
  } finally {
    proxy.close();
  }
}

/// The participant is lost with its node: it comes back as a new one and publishes again.
async function nodeFailure(context) {
  const { alice, bob } = await pair(context);
  const sid = await alice.call('sid');
  await alice.call('simulate', 'node-failure');
  await alice.until('being back', 20_000, 'hasEvent', 'reconnected');
  assert.notEqual(await alice.call('sid'), sid);
  await bob.until('frames of alice', 15_000, 'decodesMore', 'alice', 'camera', 20);
  await alice.until('frames of bob', 15_000, 'decodesMore', 'bob', 'camera', 20);
  await leaveAll(alice, bob);
}

/// Signalling that breaks again while it comes back.
async function cutOnResume(context) {
  const { alice, bob } = await pair(context);
  const sid = await alice.call('sid');
  await alice.call('simulate', 'disconnect-signal-on-resume');
  await alice.until('being back', 20_000, 'hasEvent', 'reconnected');
  const seen = (await alice.call('inbound', 'bob', 'camera')).framesDecoded;
  await alice.until('frames of bob', 5_000, 'decodesMore', 'bob', 'camera', seen + 20);
  await alice.call('sendData', 'back', true, null);
  await bob.until('word of alice', 5_000, 'hasData', 'back');
  assert.equal(await alice.call('sid'), sid);
  await leaveAll(alice, bob);
}

/// Frames are encrypted by the clients: who has the key sees, who has another sees nothing.
async function encrypted(context) {
  const { alice, bob } = await pair(context, { room: { secret: 'one' } }, { room: { secret: 'one' } });
  const eve = await Participant.join(context.two, 'eve', context.room, { room: { ...SMALL, secret: 'other', camera: false, microphone: false } });
  await eve.until('packets of alice', 10_000, 'receivesMore', 'alice', 'camera', 50);
  const { framesDecoded } = await eve.call('inbound', 'alice', 'camera');
  assert.ok(framesDecoded < 3, `who has another key decoded ${framesDecoded} frames`);
  await leaveAll(alice, bob, eve);
}

async function streams(context) {
  const { alice, bob } = await pair(context);
  for (const text of ['short', 'A sentence that says little. '.repeat(3_000)]) {
    await alice.call('sendText', text);
    await bob.until('the text', 10_000, 'hasText', 'alice', text);
  }
  const sum = await bob.call('sendFile', 300_000);
  const end = Date.now() + 10_000;
  let files = [];
  while (!files.length && Date.now() < end) files = await alice.call('files');
  assert.deepEqual(files, [{ from: 'bob', size: 300_000, sum }]);
  await leaveAll(alice, bob);
}

async function rpc(context) {
  const { alice, bob } = await pair(context);
  assert.deepEqual(await alice.call('performRpc', 'bob', 'greet', 'hello'), { text: 'hello, alice' });
  const long = 'x'.repeat(14_000);
  assert.deepEqual(await bob.call('performRpc', 'alice', 'greet', long), { text: `${long}, bob` });
  assert.ok((await alice.call('performRpc', 'bob', 'unknown', '')).error);
  await leaveAll(alice, bob);
}

const once = ['default'];

export const protocols = [
  { name: 'two connections', run: twoConnections, only: ['default', 'two shards'] },
  { name: 'signal cut', run: (context) => signalCut(context, {}), only: once },
  { name: 'signal cut, two connections', run: (context) => signalCut(context, TWO_CONNECTIONS), only: once },
  { name: 'node failure', run: nodeFailure, only: once },
  { name: 'signal cut on resume', run: cutOnResume, only: once },
  { name: 'end-to-end encryption', run: encrypted, only: once },
  { name: 'streams', run: streams, only: once },
  { name: 'calls', run: rpc, only: once },
];
