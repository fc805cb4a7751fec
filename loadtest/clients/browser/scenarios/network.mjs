// Networks as they are: UDP that never was, UDP that ends in mid-call.
import assert from 'node:assert/strict';
import { connect } from 'node:net';
import { Participant } from '../lib/browser.mjs';
import { blockUdp, withoutUdp } from '../lib/firewall.mjs';
import { HOST_ADDRESS } from '../lib/namespace.mjs';

/// Seconds that must pass without a freeze.
const TALK = 8;
const SMALL = { resolution: { width: 320, height: 180, frameRate: 15 } };
const TWO_CONNECTIONS = { singlePeerConnection: false };

const seconds = (n) => new Promise((resolve) => setTimeout(resolve, n * 1_000));

export async function pair(one, other, room, options) {
  const alice = await Participant.join(one, 'alice', room, { room: { ...SMALL, ...options } });
  const bob = await Participant.join(other, 'bob', room, { room: { ...SMALL, ...options } });
  return { alice, bob, views: [[alice, 'bob'], [bob, 'alice']] };
}

export async function seeAndHear(views, patience = 20_000) {
  for (const [viewer, other] of views) {
    const { framesDecoded = 0, packetsReceived = 0 } = (await viewer.call('inbound', other, 'camera')) ?? {};
    await viewer.until(`frames of ${other}`, patience, 'decodesMore', other, 'camera', framesDecoded + 20);
    await viewer.until(`packets of ${other}`, patience, 'receivesMore', other, 'camera', packetsReceived + 20);
    await viewer.until(`sound of ${other}`, patience, 'receivesMore', other, 'microphone', 50);
  }
}

export async function dataBothWays(alice, bob, word) {
  for (const [from, to] of [[alice, bob], [bob, alice]]) {
    for (const reliable of [true, false]) {
      const text = `${word} of ${from.identity}, ${reliable}`;
      await from.call('sendData', text, reliable, null);
      await to.until(text, 5_000, 'hasData', text);
    }
  }
}

/// A call over TCP from the start: the connection is what the browser itself says it uses, and nothing freezes.
async function forcedTcp(context, other, options) {
  const connections = await context.server.metric('auralink_media_connections_total');
  return withoutUdp(async () => {
    const { alice, bob, views } = await pair(context.one, other, context.room, options);
    await seeAndHear(views);
    for (const [viewer] of views) assert.deepEqual(await viewer.call('protocols'), ['tcp'], `${viewer.identity}'s paths`);
    assert.ok((await context.server.metric('auralink_shard_streams')) >= 2, 'the server holds connections');
    const before = await Promise.all(views.map(([viewer, of]) => viewer.call('inbound', of, 'camera')));
    await seconds(TALK);
    const after = await Promise.all(views.map(([viewer, of]) => viewer.call('inbound', of, 'camera')));
    const frames = after.map((report, index) => report.framesDecoded - before[index].framesDecoded);
    frames.forEach((count, index) => assert.ok(count > TALK * 8, `${views[index][0].identity} decoded ${count} frames in ${TALK} s`));
    after.forEach((report, index) => assert.equal((report.freezeCount ?? 0) - (before[index].freezeCount ?? 0), 0, 'a freeze'));
    await dataBothWays(alice, bob, 'over TCP');
    await alice.leave();
    await bob.until('alice gone', 5_000, 'isAlone');
    await bob.leave();
    const end = Date.now() + 5_000;
    while ((await context.server.metric('auralink_shard_streams')) > 0 && Date.now() < end) await seconds(0.1);
    assert.equal(await context.server.metric('auralink_shard_streams'), 0, 'connections end with their peers');
    assert.ok((await context.server.metric('auralink_media_connections_total')) > connections);
    return `frames ${frames}`;
  });
}

/// UDP ends in mid-call: the call goes on over TCP, as the same participants.
async function udpEnds(context) {
  const { alice, bob, views } = await pair(context.one, context.two, context.room);
  await seeAndHear(views);
  for (const [viewer] of views) assert.deepEqual(await viewer.call('protocols'), ['udp']);
  const sid = await alice.call('sid');
  const firewall = blockUdp();
  try {
    const start = Date.now();
    for (const [viewer] of views) await viewer.until('a path over TCP', 45_000, 'usesOnly', 'tcp');
    await seeAndHear(views, 30_000);
    await dataBothWays(alice, bob, 'after UDP');
    assert.equal(await alice.call('sid'), sid, 'the participant is the same');
    return `back after ${Math.round((Date.now() - start) / 1_000)} s`;
  } finally {
    firewall.lift();
    await alice.leave();
    await bob.leave();
  }
}

/// The SDK's own test of the fall-back: the client comes back as a new participant and is offered TCP alone.
async function onDemand(context) {
  const { alice, bob, views } = await pair(context.one, context.two, context.room);
  await seeAndHear(views);
  const sid = await alice.call('sid');
  await alice.call('simulate', 'force-tcp');
  await alice.until('being back', 20_000, 'hasEvent', 'reconnected');
  await alice.until('a path over TCP', 20_000, 'usesOnly', 'tcp');
  await seeAndHear(views);
  assert.notEqual(await alice.call('sid'), sid);
  assert.deepEqual(await bob.call('protocols'), ['udp'], 'nobody else is moved');
  await alice.leave();
  await bob.leave();
}

/// Opens a connection to the media port and says `bytes`; resolves with the milliseconds until the server closes it.
function strange(bytes) {
  return new Promise((resolve) => {
    const start = Date.now();
    const socket = connect(7881, HOST_ADDRESS, () => bytes && socket.write(bytes));
    socket.on('error', () => {}).on('data', () => {}).on('close', () => resolve(Date.now() - start));
  });
}

/// A call over TCP does not notice two thousand connections that talk nonsense, too much, or nothing at all.
async function strangers(context) {
  return withoutUdp(async () => {
    const { alice, bob, views } = await pair(context.one, context.two, context.room);
    await seeAndHear(views);
    const before = await Promise.all(views.map(([viewer, of]) => viewer.call('inbound', of, 'camera')));
    const outcome = (name) => context.server.metric(`auralink_media_connections_total{outcome="${name}"}`);
    const nonsense = [Buffer.from('GET / HTTP/1.1\r\n\r\n'), Buffer.alloc(70_000, 0xff), Buffer.from([0, 20, 0, 1, 0, 0])];
    const closed = [];
    for (let round = 0; round < 20; round++) {
      for (let n = 0; n < 100; n++) closed.push(strange(n % 4 === 3 ? null : nonsense[n % 4]));
      await seconds(0.2);
    }
    const waits = await Promise.all(closed);
    assert.ok(Math.max(...waits) < 12_000, `the last stranger was closed after ${Math.max(...waits)} ms`);
    const [crowded, silent, odd] = await Promise.all(['crowded', 'silent', 'strange'].map(outcome));
    assert.ok(crowded + silent + odd >= 2_000 && crowded > 0 && silent > 0 && odd > 0, `${[crowded, silent, odd]}`);
    const after = await Promise.all(views.map(([viewer, of]) => viewer.call('inbound', of, 'camera')));
    after.forEach((report, index) => assert.equal(report.freezeCount - before[index].freezeCount, 0, 'a freeze'));
    await dataBothWays(alice, bob, 'among strangers');
    await alice.leave();
    await bob.leave();
    return `closed after ${Math.max(...waits)} ms at most; ${crowded} crowded, ${silent} silent, ${odd} strange`;
  });
}

export const networks = [
  { name: 'strangers on the TCP port', run: strangers, only: ['default'] },
  { name: 'TCP on demand', run: onDemand, only: ['default'] },
  { name: 'UDP blocked', run: (context) => forcedTcp(context, context.two, {}), only: ['default', 'two shards', 'uring'] },
  { name: 'UDP blocked, two connections', run: (context) => forcedTcp(context, context.two, TWO_CONNECTIONS), only: ['default'] },
  { name: 'UDP blocked, Firefox', run: (context) => forcedTcp(context, context.fox, {}), only: ['default'], fox: true },
  { name: 'UDP ends', run: udpEnds, only: ['default'] },
];
