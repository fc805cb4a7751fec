// Paths between clients and the server that are not one wire: IPv6 alone, NAT before the server, NAT that forgets, networks that change.
import assert from 'node:assert/strict';
import { Participant } from '../lib/browser.mjs';
import { refuse } from '../lib/firewall.mjs';
import { here, withHosts } from '../lib/host.mjs';
import { HOST_ADDRESS, HOST_ADDRESS_V6, OUTSIDE_ADDRESS } from '../lib/namespace.mjs';

const SMALL = { resolution: { width: 320, height: 180, frameRate: 15 } };
/// Longest a picture may stand still when a NAT rebinds, and when a client's address changes, in milliseconds.
const REBOUND_WITHIN = 5_000;
const CHANGED_WITHIN = 8_000;
/// Firefox checks the pair in use every 4 to 6 s.
const REBOUND_WITHIN_FIREFOX = 8_000;

const sleep = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

async function pair(one, other, room, options = {}) {
  const alice = await Participant.join(one, 'alice', room, { room: SMALL, ...options });
  const bob = await Participant.join(other, 'bob', room, { room: SMALL });
  return { alice, bob, views: [[alice, 'bob'], [bob, 'alice']] };
}

async function moves(views, patience = 20_000) {
  for (const [viewer, other] of views) {
    const { framesDecoded = 0 } = (await viewer.call('inbound', other, 'camera')) ?? {};
    await viewer.until(`frames of ${other}`, patience, 'decodesMore', other, 'camera', framesDecoded + 15);
    await viewer.until(`sound of ${other}`, patience, 'receivesMore', other, 'microphone', 50);
  }
}

async function usesServer(participant, address, protocol = 'udp') {
  assert.deepEqual(await participant.call('servers'), [address], `the server's address for ${participant.identity}`);
  assert.deepEqual(await participant.call('protocols'), [protocol], `what carries ${participant.identity}'s media`);
}

/// Nothing of a call is left on the server.
async function isClean(server) {
  const end = Date.now() + 5_000;
  const names = ['tuples', 'streams', 'transports'].map((name) => `auralink_shard_${name}`);
  for (;;) {
    const left = await Promise.all(names.map((name) => server.metric(name)));
    if (left.every((count) => count === 0)) return;
    assert.ok(Date.now() < end, `${names} are ${left}`);
    await sleep(100);
  }
}

async function part(context, ...participants) {
  for (const participant of participants) await participant.leave();
  await isClean(context.server);
}

/// A host that has IPv6 and nothing else, with the suite's own namespace as its router.
async function v6Host(start) {
  const host = await start();
  host.link('h6', null, 'h6');
  here(`ip addr add ${HOST_ADDRESS_V6}/64 dev h6 nodad`, 'ip link set h6 up');
  // Whoever is not on that host has media by IPv4.
  here(...refuse('ip6'));
  host.closers.push(() => here('nft delete table ip6 suite'));
  host.run('ip addr add fd77::2/64 dev h6 nodad', 'ip link set h6 up', `ip route add default via ${HOST_ADDRESS_V6}`);
  return host;
}

/// A call between a host that has IPv6 alone and one that reaches the server by IPv4 alone.
const v6 = (open, protocol = 'udp') => (context) =>
  withHosts(v6Host, async (host) => {
    if (protocol === 'tcp') host.run('nft add table ip6 suite', 'nft add chain ip6 suite out "{ type filter hook output priority 0; }"', 'nft add rule ip6 suite out meta l4proto udp drop');
    // Firefox looks for addresses of the family that its page came by.
    const { alice, bob, views } = await pair(await open(host), context.one, context.room, { loopback: '[::1]' });
    await moves(views);
    await usesServer(alice, HOST_ADDRESS_V6, protocol);
    await usesServer(bob, HOST_ADDRESS);
    await alice.call('sendData', 'over IPv6', true, null);
    await bob.until('data', 5_000, 'hasData', 'over IPv6');
    await part(context, alice, bob);
  });

/// The server behind 1:1 NAT, a client behind another: a router between their networks translates both. The suite's own browser
/// reaches the server by its outside address too, as a neighbour of a server behind NAT does.
async function translated(start) {
  const router = await start();
  const host = await start();
  router.link('srv', null, 'srv');
  host.link('wan', router, 'wan');
  here('ip addr add 10.79.0.2/24 dev srv', 'ip link set srv up', `ip route add ${OUTSIDE_ADDRESS} via 10.79.0.1`);
  router.run(
    'sysctl -qw net.ipv4.ip_forward=1',
    'ip addr add 10.79.0.1/24 dev srv',
    'ip addr add 198.51.100.1/24 dev wan',
    'ip link set srv up',
    'ip link set wan up',
    'nft add table ip nat',
    'nft add chain ip nat pre "{ type nat hook prerouting priority -100; }"',
    'nft add chain ip nat post "{ type nat hook postrouting priority 100; }"',
    `nft add rule ip nat pre ip daddr ${OUTSIDE_ADDRESS} dnat to 10.79.0.2`,
    'nft add rule ip nat post oifname srv meta l4proto udp masquerade to :30000-30999',
  );
  host.run('ip addr add 198.51.100.2/24 dev wan', 'ip link set wan up', 'ip route add default via 198.51.100.1');
  return { host, router };
}

const oneToOne = (context) =>
  withHosts(translated, async ({ host }) => {
    const { alice, bob, views } = await pair(await host.chromium(), context.one, context.room);
    await moves(views);
    for (const participant of [alice, bob]) {
      await usesServer(participant, OUTSIDE_ADDRESS);
      assert.deepEqual(await participant.call('named'), [OUTSIDE_ADDRESS], 'nobody hears of the address inside');
    }
    await part(context, alice, bob);
  });

/// Longest the pictures stood still while `during` ran and until they moved again, in milliseconds.
async function standstill(views, during, limit) {
  const count = async ([viewer, other]) => (await viewer.call('inbound', other, 'camera'))?.framesDecoded ?? 0;
  const last = await Promise.all(views.map(count));
  const moved = views.map(() => Date.now());
  const longest = views.map(() => 0);
  let isOver = false;
  let failure;
  during().catch((error) => (failure = error)).finally(() => (isOver = true));
  // Both pictures have to move for two seconds after the last standstill.
  for (let calm = Date.now(); !isOver || Date.now() - calm < 2_000; ) {
    for (const [index, view] of views.entries()) {
      const [frames, now] = [await count(view), Date.now()];
      const still = now - moved[index];
      longest[index] = Math.max(longest[index], still);
      if (still > 500) calm = now;
      assert.ok(still < limit, `${view[0].identity}'s picture stood still for ${still} ms`);
      if (frames !== last[index]) moved[index] = now;
      last[index] = frames;
    }
    await sleep(50);
  }
  if (failure) throw failure;
  return longest;
}

/// Every mapping of the NAT is lost, and what comes next is mapped to other ports: nobody is told, nobody restarts ICE.
const rebinds = (open, limit) => (context) =>
  withHosts(translated, async ({ host, router }) => {
    const { alice, bob, views } = await pair(await open(host), context.one, context.room);
    await moves(views);
    // The first checks of consent are over.
    await sleep(6_000);
    const ufrags = await Promise.all([alice.call('ufrag'), bob.call('ufrag')]);
    const forget = async () =>
      router.run(
        'nft flush chain ip nat post',
        'nft add rule ip nat post oifname srv meta l4proto udp masquerade to :40000-40999',
        // The mappings of an interface that goes down are forgotten.
        'ip link set srv down',
        'ip link set srv up',
      );
    const longest = await standstill(views, forget, limit);
    assert.ok(Math.max(...longest) > 300, 'the mappings were lost');
    await moves(views);
    assert.deepEqual(await Promise.all([alice.call('ufrag'), bob.call('ufrag')]), ufrags, 'nobody restarted ICE');
    for (const participant of [alice, bob]) {
      assert.deepEqual((await participant.call('events')).filter(({ event }) => /reconnecting/.test(event)), []);
    }
    await part(context, alice, bob);
    return `pictures stood still for ${longest} ms`;
  });

/// The client's network is another one from one moment to the next: its address is gone, and signalling with it.
const changes = (open) => (context) =>
  withHosts(translated, async ({ host }) => {
    const { alice, bob, views } = await pair(await open(host), context.one, context.room);
    await moves(views);
    const sid = await alice.call('sid');
    const ufrag = await alice.call('ufrag');
    const change = async () => {
      host.run('ip addr del 198.51.100.2/24 dev wan', 'ip addr add 198.51.100.77/24 dev wan', 'ip route add default via 198.51.100.1');
      host.cutSignalling();
    };
    const longest = await standstill(views, change, CHANGED_WITHIN);
    await moves(views);
    assert.equal(await alice.call('sid'), sid, 'the participant is the same');
    assert.notEqual(await alice.call('ufrag'), ufrag, 'ICE was restarted');
    await part(context, alice, bob);
    return `pictures stood still for ${longest} ms`;
  });

const chromium = (host) => host.chromium();
const firefox = (host) => host.firefox();
const DUAL = ['dual stack'];
const NAT = ['behind NAT'];

export const paths = [
  { name: 'IPv6 alone', run: v6(chromium), only: ['dual stack', 'dual stack, two shards'] },
  { name: 'IPv6 alone, Firefox', run: v6(firefox), only: DUAL },
  { name: 'IPv6 alone, UDP blocked', run: v6(chromium, 'tcp'), only: DUAL },
  { name: '1:1 NAT', run: oneToOne, only: NAT },
  { name: 'NAT rebinds', run: rebinds(chromium, REBOUND_WITHIN), only: NAT },
  { name: 'NAT rebinds, Firefox', run: rebinds(firefox, REBOUND_WITHIN_FIREFOX), only: NAT },
  { name: 'network changes', run: changes(chromium), only: NAT },
  { name: 'network changes, Firefox', run: changes(firefox), only: NAT },
];
