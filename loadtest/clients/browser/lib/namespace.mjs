// Runs this suite in a private network namespace: loopback and one more address, a default route that leads nowhere.
// Browsers gather no other candidates there, ports are free, and nothing can leave the machine. The address has a name, for Firefox
// takes no other TURN server over TLS.
import { spawn } from 'node:child_process';

export const HOST_ADDRESS = '10.77.0.1';
export const HOST_NAME = 'turn.suite.test';

const SET_UP = [
  'hosts=$(mktemp)',
  `(cat /etc/hosts; echo ${HOST_ADDRESS} ${HOST_NAME}) > $hosts`,
  'mount --bind $hosts /etc/hosts',
  'rm $hosts',
  // Nobody else is asked for names, for nobody would answer.
  'mount --bind /dev/null /etc/resolv.conf',
  'ip link set lo up',
  'ip link add v0 type veth peer name v1',
  `ip addr add ${HOST_ADDRESS}/24 dev v0`,
  'ip link set v0 up',
  'ip link set v1 up',
  'ip route add default dev v0',
].join(' && ');

const MARK = 'AURALINK_NAMESPACE';

/// The server's addresses in scenarios that bring their own networks along (see scenarios/paths.mjs).
export const HOST_ADDRESS_V6 = 'fd77::1';
export const OUTSIDE_ADDRESS = '203.0.113.7';

/// Whether we are inside already; if not, starts ourselves inside and ends with the same result.
export function enterNamespace() {
  if (process.env[MARK]) return true;
  const self = [process.execPath, ...process.argv.slice(1)].map((word) => `'${word}'`).join(' ');
  const child = spawn('unshare', ['--net', '--mount', '--', 'bash', '-c', `${SET_UP} && exec ${self}`], {
    stdio: 'inherit',
    env: { ...process.env, [MARK]: '1' },
  });
  child.on('exit', (code) => process.exit(code ?? 1));
  return false;
}
