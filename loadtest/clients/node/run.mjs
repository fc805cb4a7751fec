// The Node suite: LiveKit's native SDK (@livekit/rtc-node) against the release binary.
//
//   node run.mjs [FILTER]     only scenarios whose name contains FILTER
//
// Ends with status 1 if any scenario fails; never skips one.
import assert from 'node:assert/strict';
import { dispose } from '@livekit/rtc-node';
import { withoutIpv4, withoutUdp } from '../browser/lib/firewall.mjs';
import { enterNamespace } from '../browser/lib/namespace.mjs';
import { Proxy } from '../browser/lib/proxy.mjs';
import { KEY, PORT, Server, WS_URL } from '../browser/lib/server.mjs';
import { serverApi, WEBHOOK_PORT, Webhooks } from './api.mjs';
import { Peer, SIZE } from './peer.mjs';

const PROXY_PORT = 7890;
const PROXY_URL = `ws://127.0.0.1:${PROXY_PORT}`;
const RED = [200, 30, 30];
const BLUE = [30, 30, 200];

const near = (seen, meant) => seen.every((value, c) => Math.abs(value - meant[c]) < 24);

async function pair(room, url = WS_URL) {
  const alice = await Peer.join(url, 'alice', room);
  const bob = await Peer.join(WS_URL, 'bob', room);
  return [alice, bob];
}

/// `viewer` sees the colours and hears the tone of `other`.
async function check(viewer, other, hertz) {
  await viewer.until(`a picture of ${other}`, 10_000, () => (viewer.pictures.get(other)?.frames ?? 0) > 10);
  const { size, left, right } = viewer.pictures.get(other);
  assert.ok(near(left, RED) && near(right, BLUE), `${viewer.identity} sees ${left} and ${right}`);
  assert.equal(size[0] / size[1], SIZE[0] / SIZE[1]);
  await viewer.until(`a tone of ${hertz} Hz`, 10_000, () => viewer.shareOf(other, hertz) > 0.8);
  assert.ok(viewer.shareOf(other, hertz * 1.5) < 0.1, 'the measure tells tones apart');
}

async function media({ room }) {
  const [alice, bob] = await pair(room);
  await alice.showPicture(RED, BLUE);
  await alice.playTone(440);
  await bob.showPicture(RED, BLUE);
  await bob.playTone(700);
  await check(bob, 'alice', 440);
  await check(alice, 'bob', 700);
  const before = bob.pictures.get('alice').frames;
  await bob.until('frames going on', 5_000, () => bob.pictures.get('alice').frames > before + 30);
  return [alice, bob];
}

/// The same where UDP is blocked: the native client connects.
async function tcp(context) {
  return withoutUdp(async () => {
    const peers = await media(context);
    const streams = await context.server.metric('auralink_shard_streams');
    assert.ok(streams >= 2, `${streams} connections`);
    return peers;
  });
}

/// The same where nothing of IPv4 arrives.
const ipv6 = (context) =>
  withoutIpv4(async () => {
    const peers = await media(context);
    assert.equal(await context.server.metric('auralink_shard_streams'), 0, 'it is UDP');
    return peers;
  });

async function data({ room }) {
  const [alice, bob] = await pair(room);
  for (const reliable of [true, false]) {
    const text = `reliable ${reliable}`;
    await alice.local.publishData(new TextEncoder().encode(text), { reliable, topic: 'greeting' });
    const message = await bob.until(text, 5_000, () => bob.data.find((held) => held.text === text));
    assert.deepEqual([message.from, message.topic], ['alice', 'greeting']);
  }
  const carol = await Peer.join(WS_URL, 'carol', room);
  await alice.local.publishData(new TextEncoder().encode('for carol'), { reliable: true, destination_identities: ['carol'] });
  await carol.until('her message', 5_000, () => carol.data.some((held) => held.text === 'for carol'));
  assert.ok(!bob.data.some((held) => held.text === 'for carol'));
  return [alice, bob, carol];
}

async function streams({ room }) {
  const [alice, bob] = await pair(room);
  const texts = [];
  bob.room.registerTextStreamHandler('story', async (reader, { identity }) => texts.push([identity, await reader.readAll()]));
  const long = 'A sentence that says little. '.repeat(3_000);
  for (const text of ['short', long]) {
    await alice.local.sendText(text, { topic: 'story' });
    await bob.until('the text', 10_000, () => texts.some(([from, got]) => from === 'alice' && got === text));
  }
  const files = [];
  bob.room.registerByteStreamHandler('bytes', async (reader) => {
    const chunks = [];
    for await (const chunk of reader) chunks.push(chunk);
    files.push(Buffer.concat(chunks));
  });
  const bytes = Buffer.from(Array.from({ length: 200_000 }, (_, i) => i % 251));
  const writer = await alice.local.streamBytes({ topic: 'bytes', totalSize: bytes.length });
  await writer.write(new Uint8Array(bytes));
  await writer.close();
  await bob.until('the bytes', 10_000, () => files.some((file) => file.equals(bytes)));
  return [alice, bob];
}

async function rpc({ room }) {
  const [alice, bob] = await pair(room);
  bob.local.registerRpcMethod('greet', async ({ callerIdentity, payload }) => `${payload}, ${callerIdentity}`);
  bob.local.registerRpcMethod('fail', async () => {
    throw new Error('no');
  });
  const call = (method, payload) => alice.local.performRpc({ destinationIdentity: 'bob', method, payload });
  assert.equal(await call('greet', 'hello'), 'hello, alice');
  const long = 'x'.repeat(40_000);
  assert.equal(await call('greet', long), `${long}, alice`);
  await assert.rejects(() => call('fail', ''));
  await assert.rejects(() => call('unknown', ''));
  return [alice, bob];
}

async function attributes({ room }) {
  const [alice, bob] = await pair(room);
  await alice.local.setAttributes({ mood: 'good', place: 'here' });
  await bob.until('attributes', 5_000, () => bob.remote('alice')?.attributes.mood === 'good');
  await alice.local.setAttributes({ place: '' });
  await bob.until('the attribute gone', 5_000, () => !bob.remote('alice').attributes.place);
  await alice.local.updateMetadata('about alice');
  await bob.until('metadata', 5_000, () => bob.remote('alice').metadata === 'about alice');
  await alice.local.updateName('Alice');
  await bob.until('the name', 5_000, () => bob.remote('alice').name === 'Alice');
  return [alice, bob];
}

/// Signalling breaks and can be had again at once: media goes on, and the participant is the same.
async function resume({ room, server }) {
  const proxy = await Proxy.start(PROXY_PORT, PORT);
  try {
    const [alice, bob] = await pair(room, PROXY_URL);
    await bob.showPicture(RED, BLUE);
    await alice.until('a picture of bob', 10_000, () => alice.pictures.get('bob')?.frames > 10);
    const sid = alice.local.sid;
    const resumes = await server.metric('auralink_resumes_total');
    await proxy.cut(0);
    await alice.until('being back', 20_000, () => alice.events.includes('reconnected'));
    assert.equal(alice.local.sid, sid, 'the participant is the same');
    assert.equal(await server.metric('auralink_resumes_total'), resumes + 1);
    const dave = await Peer.join(WS_URL, 'dave', room);
    await alice.until('dave', 5_000, () => alice.remote('dave'));
    const frames = alice.pictures.get('bob').frames;
    await alice.until('the picture going on', 5_000, () => alice.pictures.get('bob').frames > frames + 20);
    await alice.local.publishData(new TextEncoder().encode('back'), { reliable: true });
    await bob.until('word of alice', 5_000, () => bob.data.some((held) => held.text === 'back'));
    return [alice, bob, dave];
  } finally {
    proxy.close();
  }
}

/// Signalling is gone for two seconds: this SDK then joins anew, and publishes and receives again.
async function outage({ room }) {
  const proxy = await Proxy.start(PROXY_PORT, PORT);
  try {
    const [alice, bob] = await pair(room, PROXY_URL);
    for (const peer of [alice, bob]) await peer.showPicture(RED, BLUE);
    await alice.until('a picture of bob', 10_000, () => alice.pictures.get('bob')?.frames > 10);
    await proxy.cut(2_000);
    await alice.until('being back', 20_000, () => alice.events.includes('reconnected'));
    const seen = [alice.pictures.get('bob').frames, bob.pictures.get('alice')?.frames ?? 0];
    await alice.until('the picture of bob going on', 10_000, () => alice.pictures.get('bob').frames > seen[0] + 20);
    await bob.until('the picture of alice going on', 10_000, () => (bob.pictures.get('alice')?.frames ?? 0) > seen[1] + 20);
    return [alice, bob];
  } finally {
    proxy.close();
  }
}

const SCENARIOS = { media, 'UDP blocked': tcp, 'IPv6 alone': ipv6, data, streams, rpc, attributes, resume, outage, 'server API': serverApi };
/// A fault of ours fails twice; both accounts are printed.
const ATTEMPTS = 2;
const DISPOSE_PATIENCE_MS = 10_000;

if (enterNamespace()) {
  const chosen = Object.entries(SCENARIOS).filter(([name]) => name.includes(process.argv[2] ?? ''));
  const failed = [];
  const webhooks = await Webhooks.start();
  const server = await Server.start('dual stack', ['--config-body', `[webhook]\napi_key = "${KEY}"\nurls = ["http://127.0.0.1:${WEBHOOK_PORT}/"]\n`]);
  for (const [name, run] of chosen) {
    for (let attempt = 1; attempt <= ATTEMPTS; attempt++) {
      const start = Date.now();
      const took = () => `(${((Date.now() - start) / 1000).toFixed(1)} s)`;
      try {
        const peers = await run({ room: `node ${name} ${attempt}`, server, webhooks });
        for (const peer of peers) await peer.leave();
        console.log(`ok    node / ${name} ${took()}${attempt > 1 ? ` ON ATTEMPT ${attempt}` : ''}`);
        break;
      } catch (error) {
        console.log(`FAIL  node / ${name} ${took()}, attempt ${attempt} of ${ATTEMPTS}\n${error.stack}`);
        if (attempt === ATTEMPTS) failed.push(name);
      }
    }
  }
  webhooks.close();
  await server.stop().catch((error) => failed.push(error.message));
  // The SDK does not come to an end while participants of a failed attempt are still there.
  await Promise.race([dispose(), new Promise((resolve) => setTimeout(resolve, DISPOSE_PATIENCE_MS))]);
  console.log(`${chosen.length - failed.length} passed, ${failed.length} failed`);
  process.exit(failed.length || !chosen.length ? 1 : 0);
}
