// What a network lets through between clients and the server, in the suite's own namespace. The server's own namespace too:
// packets are dropped where clients send them.
import { execFileSync } from 'node:child_process';
import { RELAY_PORTS, TURN_PORT } from './server.mjs';

const nft = (...words) => execFileSync('/usr/sbin/nft', words);

/// Drops everything by UDP to and from the media ports while `during` runs.
export async function withoutUdp(during) {
  const firewall = blockUdp();
  try {
    return await during();
  } finally {
    firewall.lift();
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
