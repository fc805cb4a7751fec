// Clients that reach nothing but the TURN server: over UDP, TCP and TLS.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { connect } from 'node:net';
import { createServer } from 'node:tls';
import { CERT_FILE, KEY_FILE } from '../lib/certificate.mjs';
import { blockAllButRelays } from '../lib/firewall.mjs';
import { HOST_ADDRESS, HOST_NAME } from '../lib/namespace.mjs';
import { TURN_PORT, TURN_STREAM_PORT } from '../lib/server.mjs';
import { dataBothWays, pair, seeAndHear } from './network.mjs';

/// Seconds of a call that are watched.
const TALK = 5;
const BY_UDP = `turn:${HOST_ADDRESS}:${TURN_PORT}?transport=udp`;
const BY_TCP = `turn:${HOST_ADDRESS}:${TURN_STREAM_PORT}?transport=tcp`;
const BY_TLS = `turns:${HOST_NAME}:${TURN_STREAM_PORT}?transport=tcp`;

const seconds = (n) => new Promise((resolve) => setTimeout(resolve, n * 1_000));

const relayed = (server) =>
  Promise.all(['to_peer', 'to_client'].map((direction) => server.metric(`auralink_turn_packets_total{direction="${direction}"}`)));

/// The pictures shown are not the same after a while.
async function picturesMove(views) {
  for (const [viewer, other] of views) {
    const seen = [];
    const isMoving = () => seen.some((picture) => picture && picture.mean.join() !== seen.at(-1)?.mean.join());
    for (let n = 0; n < 40 && !isMoving(); n++) {
      seen.push(await viewer.call('pixels', other, 'camera'));
      await seconds(0.25);
    }
    assert.ok(isMoving(), `${viewer.identity} sees ${other} move: ${JSON.stringify(seen.at(-1))}`);
  }
}

/// A call through relays alone, for which the browser itself says that it uses them and how.
async function forced(context, other, { udp = false, urls, protocol, options = {} }) {
  const { server, room } = context;
  const firewall = blockAllButRelays({ udp });
  try {
    const before = await relayed(server);
    const { alice, bob, views } = await pair(context.one, other, room, { ...options, relays: { urls } });
    await seeAndHear(views);
    for (const [viewer] of views) {
      assert.ok(await viewer.call('isRelayed', protocol), `${viewer.identity}'s paths: ${await viewer.call('paths')}`);
      assert.deepEqual([...new Set(await viewer.call('toldServers'))], [BY_UDP, BY_TLS], 'what the server told');
    }
    await picturesMove(views);
    const start = await Promise.all(views.map(([viewer, of]) => viewer.call('inbound', of, 'camera')));
    await seconds(TALK);
    const end = await Promise.all(views.map(([viewer, of]) => viewer.call('inbound', of, 'camera')));
    const frames = end.map((report, index) => report.framesDecoded - start[index].framesDecoded);
    assert.ok(Math.min(...frames) > TALK * 8, `${frames} frames in ${TALK} s`);
    await dataBothWays(alice, bob, 'through relays');
    const after = await relayed(server);
    after.forEach((packets, index) => assert.ok(packets > before[index] + 500, `${packets} packets relayed`));
    await alice.leave();
    await bob.leave();
    await ended(server);
    return `frames ${frames}`;
  } finally {
    firewall.lift();
  }
}

/// Allocations and connections end with their clients.
async function ended(server) {
  const left = () => Promise.all(['allocations', 'connections'].map((name) => server.metric(`auralink_turn_${name}`)));
  const late = Date.now() + 10_000;
  while ((await left()).some((count) => count > 0) && Date.now() < late) await seconds(0.1);
  assert.deepEqual(await left(), [0, 0], 'allocations and connections left');
}

/// A balancer that ends TLS on the port browsers are told where none is configured, and passes on what is in it.
async function behindBalancer(context, other) {
  const options = { cert: readFileSync(CERT_FILE), key: readFileSync(KEY_FILE) };
  const balancer = createServer(options, (client) => {
    const server = connect(TURN_STREAM_PORT, HOST_ADDRESS);
    for (const socket of [client, server]) socket.on('error', () => {}).on('close', () => [client, server].forEach((end) => end.destroy()));
    client.pipe(server).pipe(client);
  });
  await new Promise((resolve) => balancer.listen(443, HOST_ADDRESS, resolve));
  try {
    return await forced(context, other, { urls: [BY_TLS.replace(`:${TURN_STREAM_PORT}`, ':443')], protocol: 'tls' });
  } finally {
    balancer.close();
  }
}

/// The SDK's own test of the last fall-back: the client comes back and is told to use relays by TLS and nothing else.
async function onDemand(context) {
  const { alice, bob, views } = await pair(context.one, context.two, context.room, {});
  await seeAndHear(views);
  assert.deepEqual(await alice.call('protocols'), ['udp']);
  await alice.call('simulate', 'force-tls');
  await alice.until('being back', 20_000, 'hasEvent', 'reconnected');
  await alice.until('a relay by TLS', 20_000, 'isRelayed', 'tls');
  await seeAndHear(views);
  assert.ok(!(await bob.call('isRelayed', 'tls')), 'nobody else is moved');
  await alice.leave();
  await bob.leave();
  await ended(context.server);
}

const udp = { udp: true, urls: [BY_UDP], protocol: 'udp' };
const tls = { urls: [BY_TLS], protocol: 'tls' };
const tcp = { urls: [BY_TCP], protocol: 'tcp' };

export const turns = [
  { name: 'relays by UDP', run: (context) => forced(context, context.two, udp), only: ['turn'] },
  { name: 'relays by UDP, two connections', run: (context) => forced(context, context.two, { ...udp, options: { singlePeerConnection: false } }), only: ['turn'] },
  { name: 'relays by UDP, Firefox', run: (context) => forced(context, context.fox, udp), only: ['turn'], fox: true },
  { name: 'relays by TLS', run: (context) => forced(context, context.two, tls), only: ['turn'] },
  { name: 'relays by TLS, Firefox', run: (context) => forced(context, context.fox, tls), only: ['turn'], fox: true },
  { name: 'relays by TLS on demand', run: onDemand, only: ['turn'] },
  { name: 'relays by TCP', run: (context) => forced(context, context.two, tcp), only: ['turn behind a balancer'] },
  { name: 'relays by TCP, Firefox', run: (context) => forced(context, context.fox, tcp), only: ['turn behind a balancer'], fox: true },
  { name: 'relays by TLS through the balancer', run: (context) => behindBalancer(context, context.two), only: ['turn behind a balancer'] },
];
