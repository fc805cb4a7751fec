// Runs inside a host's namespace (see host.mjs): what leads to loopback there is carried over sockets in a folder, which namespaces
// share. Signalling and the page stay reachable whatever happens to the host's network: it is media that is tested.
//
//   node relay.mjs FOLDER in PORT ...  out PORT
//
// `in`: a port of the host's that is the suite's; `out`: a port of the suite's that is the host's.
import { connect, createServer } from 'node:net';
import path from 'node:path';

/// Joins every connection to `from` with one to `to`: ports, or paths. A port is listened to at `host`, and reached at 127.0.0.1.
export function join(from, to, host = '127.0.0.1') {
  const end = (at) => (typeof at === 'number' ? { port: at, host: '127.0.0.1' } : { path: at });
  const server = createServer((one) => {
    const other = connect(end(to));
    server.held.add(one);
    one.on('close', () => server.held.delete(one));
    for (const [socket, peer] of [[one, other], [other, one]]) socket.on('error', () => peer.destroy()).on('close', () => peer.destroy());
    one.pipe(other).pipe(one);
  });
  server.held = new Set();
  return new Promise((resolve, reject) => server.on('error', reject).listen(typeof from === 'number' ? { port: from, host } : { path: from }, () => resolve(server)));
}

if (process.argv[1] === import.meta.filename) {
  const [folder, ...words] = process.argv.slice(2);
  let isIn = true;
  for (const word of words) {
    if (word === 'in' || word === 'out') {
      isIn = word === 'in';
      continue;
    }
    const [port, file] = [Number(word), path.join(folder, word)];
    // Loopback of both families.
    await join(isIn ? port : file, isIn ? file : port, '::');
  }
  console.log('ready');
}
