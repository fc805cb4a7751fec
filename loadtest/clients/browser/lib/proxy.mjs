// A TCP relay before the server's HTTP port that can be cut, as a network does to signalling.
import { connect, createServer } from 'node:net';

export class Proxy {
  static async start(port, target) {
    const self = new Proxy();
    self.pairs = new Set();
    self.isCut = false;
    self.server = createServer((client) => {
      if (self.isCut) return client.destroy();
      const server = connect(target, '127.0.0.1');
      const pair = [client, server];
      self.pairs.add(pair);
      const end = () => {
        self.pairs.delete(pair);
        pair.forEach((socket) => socket.destroy());
      };
      for (const socket of pair) socket.on('error', end).on('close', end);
      client.pipe(server).pipe(client);
    });
    await new Promise((resolve) => self.server.listen(port, '127.0.0.1', resolve));
    return self;
  }

  /// Ends every connection and refuses new ones for so long.
  async cut(milliseconds) {
    this.isCut = true;
    for (const pair of this.pairs) pair.forEach((socket) => socket.destroy());
    await new Promise((resolve) => setTimeout(resolve, milliseconds));
    this.isCut = false;
  }

  close() {
    this.server.close();
    for (const pair of this.pairs) pair.forEach((socket) => socket.destroy());
  }
}
