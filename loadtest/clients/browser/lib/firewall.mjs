// What a network lets through between clients and the server, in the suite's own namespace. The server's own namespace too:
// packets are dropped where clients send them.
import { execFileSync } from 'node:child_process';

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
  nft('add table inet suite');
  nft('add chain inet suite out { type filter hook output priority 0; }');
  for (const end of ['sport', 'dport']) nft(`add rule inet suite out udp ${end} 7882-7889 counter drop`);
  return { lift: () => nft('delete table inet suite') };
}
