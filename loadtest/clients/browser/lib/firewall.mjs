// What a network lets through between clients and the server, in the suite's own namespace. The server's own namespace too:
// packets are dropped where clients send them.
import { execFileSync } from 'node:child_process';
import { HOST_ADDRESS_V6 } from './namespace.mjs';
import { RELAY_PORTS, TURN_PORT } from './server.mjs';

const nft = (...words) => execFileSync('/usr/sbin/nft', words);

/// Lines of a shell that keep a family's packets off the media ports, where clients send them.
export const refuse = (family) => [
  `nft add table ${family} suite`,
  `nft add chain ${family} suite out "{ type filter hook output priority 0; }"`,
  `nft add rule ${family} suite out udp dport 7882-7889 counter drop`,
  `nft add rule ${family} suite out tcp dport 7881 counter drop`,
];

/// Drops everything by UDP to and from the media ports while `during` runs.
export async function withoutUdp(during) {
  const firewall = blockUdp();
  try {
    return await during();
  } finally {
    firewall.lift();
  }
}

/// Gives this namespace an address of IPv6 and drops media by IPv4 while `during` runs, whatever carries it.
export async function withoutIpv4(during) {
  execFileSync('/sbin/ip', ['addr', 'add', `${HOST_ADDRESS_V6}/64`, 'dev', 'v0', 'nodad']);
  execFileSync('sh', ['-ec', refuse('ip').join('\n')]);
  try {
    return await during();
  } finally {
    nft('delete table ip suite');
    execFileSync('/sbin/ip', ['addr', 'del', `${HOST_ADDRESS_V6}/64`, 'dev', 'v0']);
  }
}

/// Until `lift`.
export function blockUdp() {
  return block((end) => `udp ${end} 7882-7889`);
}

/// Clients reach media by no other way than relays, and TURN by UDP only if `udp`. Until `lift`.
export function blockAllButRelays({ udp }) {
  const [first, last] = RELAY_PORTS;
  const other = { sport: 'dport', dport: 'sport' };
  const rules = [(end) => `udp ${end} 7882-7889 udp ${other[end]} != ${first}-${last}`, (end) => `tcp ${end} 7881`];
  return block(...rules, ...(udp ? [] : [(end) => `udp ${end} ${TURN_PORT}`]));
}

function block(...rules) {
  nft('add table inet suite');
  nft('add chain inet suite out { type filter hook output priority 0; }');
  for (const rule of rules) for (const end of ['sport', 'dport']) nft(`add rule inet suite out ${rule(end)} counter drop`);
  return { lift: () => nft('delete table inet suite') };
}
