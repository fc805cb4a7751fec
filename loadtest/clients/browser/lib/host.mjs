// Hosts beside the suite's own namespace: each a namespace of its own with its links, addresses and firewall, and a browser in it
// whose page and signalling come over a relay, so that only media sees the network.
import { execFileSync, spawn } from 'node:child_process';
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { CHROMIUM, PAGE_PORT, launch } from './browser.mjs';
import { FIREFOX, launchFirefox } from './firefox.mjs';
import { join } from './relay.mjs';
import { PORT } from './server.mjs';

const HERE = import.meta.dirname;
/// Where Firefox is steered from, inside its host.
const DEBUG_PORT = 9333;

/// Runs lines of a shell here, in the suite's own namespace.
export function here(...lines) {
  execFileSync('sh', ['-ec', lines.join('\n')], { stdio: ['ignore', 'ignore', 'inherit'] });
}

export class Host {
  static async start(...lines) {
    const self = new Host();
    self.closers = [];
    const child = spawn('unshare', ['--net', '--', 'sh', '-c', 'ip link set lo up && echo ready && exec sleep infinity'], { stdio: ['ignore', 'pipe', 'inherit'] });
    self.closers.push(() => child.kill('SIGKILL'));
    await new Promise((resolve) => child.stdout.once('data', resolve));
    self.pid = child.pid;
    self.run(...lines);
    return self;
  }

  /// Runs lines of a shell there.
  run(...lines) {
    execFileSync('nsenter', ['-n', '-t', String(this.pid), '--', 'sh', '-ec', lines.join('\n')], { stdio: ['ignore', 'ignore', 'inherit'] });
  }

  /// A link to another host, or to the suite's own namespace; `name` is there, `peer` here.
  link(name, other, peer) {
    here(`ip link add ${name} netns ${other?.pid ?? process.pid} type veth peer name ${peer} netns ${this.pid}`);
  }

  async chromium() {
    await this.#relay();
    const browser = await launch(this.#program(CHROMIUM));
    this.closers.push(() => browser.close());
    return browser;
  }

  async firefox() {
    await this.#relay();
    const door = await join(DEBUG_PORT, path.join(this.folder, String(DEBUG_PORT)));
    this.closers.push(() => door.close());
    const browser = await launchFirefox({ executablePath: this.#program(FIREFOX), debuggingPort: DEBUG_PORT });
    this.closers.push(() => browser.close());
    return browser;
  }

  /// A program that is the given one, run on this host.
  #program(program) {
    const file = path.join(this.folder, path.basename(program));
    writeFileSync(file, `#!/bin/sh\nexec nsenter -n -t ${this.pid} -- ${program} "$@"\n`);
    chmodSync(file, 0o755);
    return file;
  }

  async #relay() {
    if (this.folder) return;
    this.folder = mkdtempSync(path.join(tmpdir(), 'auralink-host-'));
    this.closers.push(() => rmSync(this.folder, { recursive: true, force: true }));
    for (const port of [PORT, PAGE_PORT]) {
      const server = await join(path.join(this.folder, String(port)), port);
      this.closers.push(() => server.close());
      if (port === PORT) this.signalling = server;
    }
    const words = [path.join(HERE, 'relay.mjs'), this.folder, 'in', PORT, PAGE_PORT, 'out', DEBUG_PORT].map(String);
    const relay = spawn('nsenter', ['-n', '-t', String(this.pid), '--', process.execPath, ...words], { stdio: ['ignore', 'pipe', 'inherit'] });
    this.closers.push(() => relay.kill('SIGKILL'));
    await new Promise((resolve, reject) => relay.stdout.once('data', resolve) && relay.once('exit', reject));
  }

  /// Ends every connection to the server's HTTP port; new ones are let through.
  cutSignalling() {
    for (const socket of this.signalling.held) socket.destroy();
  }

  async close() {
    for (const close of this.closers.splice(0).reverse()) await close();
  }
}

/// Runs `during` with what `build` made, and takes the hosts down again.
export async function withHosts(build, during) {
  const hosts = [];
  try {
    return await during(await build((...lines) => Host.start(...lines).then((host) => (hosts.push(host), host))));
  } finally {
    for (const host of hosts) await host.close();
  }
}
