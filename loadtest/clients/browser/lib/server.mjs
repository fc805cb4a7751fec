// The server under test: the release binary, with its own ports, started and stopped by the suite.
import { spawn } from 'node:child_process';
import { createWriteStream, mkdirSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { CERT_FILE, KEY_FILE } from './certificate.mjs';
import { HOST_ADDRESS, HOST_ADDRESS_V6, HOST_NAME, OUTSIDE_ADDRESS } from './namespace.mjs';

const ROOT = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '../../../..');
export const RELEASE = path.join(ROOT, 'target/release');
export const ARTIFACTS = path.join(ROOT, 'artifacts');

export const KEY = 'suitekey';
export const SECRET = 'a-secret-of-the-browser-suite-0123456789';
export const PORT = 7880;
export const WS_URL = `ws://127.0.0.1:${PORT}`;
export const HTTP_URL = `http://127.0.0.1:${PORT}`;

export const TURN_PORT = 3478;
export const TURN_STREAM_PORT = 5349;
/// Outside of what the kernel gives to clients.
export const RELAY_PORTS = [20_000, 20_099];

/// Flags of a server with TURN.
function turn(more) {
  const settings = {
    enabled: true,
    domain: HOST_NAME,
    advertise_tls_port: true,
    relay_range_start: RELAY_PORTS[0],
    relay_range_end: RELAY_PORTS[1],
    ...more,
  };
  return ['--config-body', JSON.stringify({ turn: settings })];
}

/// The ways a server is started; every scenario that carries media runs with each, except those for `named` scenarios only.
export const VARIANTS = {
  default: { flags: [], backend: 'mmsg' },
  'two shards': { flags: ['--shards', '2', '--spill', 'forced'], shards: 2 },
  'port per shard': { flags: ['--shards', '2', '--spill', 'forced', '--udp-port', '7882-7883'], named: true },
  uring: { flags: ['--io-backend', 'uring'], backend: 'uring' },
  turn: { flags: turn({ cert_file: CERT_FILE, key_file: KEY_FILE }), named: true },
  'turn behind a balancer': { flags: turn({ external_tls: true }), named: true },
  'dual stack': { flags: ['--node-ip', `${HOST_ADDRESS},${HOST_ADDRESS_V6}`], named: true },
  'dual stack, two shards': { flags: ['--node-ip', `${HOST_ADDRESS},${HOST_ADDRESS_V6}`, '--shards', '2', '--spill', 'forced'], named: true },
  'behind NAT': { flags: ['--node-ip', OUTSIDE_ADDRESS], named: true },
  dev: { dev: true, flags: ['--dev'], named: true },
};

export class Server {
  /// `more` are flags of one suite.
  static async start(name, more = []) {
    const variant = VARIANTS[name];
    const binary = path.join(RELEASE, 'auralink');
    const own = ['serve', '--keys', `${KEY}: ${SECRET}`];
    if (!variant.flags.includes('--node-ip')) own.push('--node-ip', HOST_ADDRESS);
    const flags = [...(variant.dev ? [] : own), ...variant.flags, ...more];
    mkdirSync(ARTIFACTS, { recursive: true });
    const log = createWriteStream(path.join(ARTIFACTS, `server-${name.replaceAll(' ', '-')}.log`));
    const child = spawn(binary, flags, { stdio: ['ignore', 'pipe', 'pipe'], env: { ...process.env, RUST_LOG: process.env.RUST_LOG ?? 'info' } });
    child.stdout.pipe(log);
    child.stderr.pipe(log);
    const server = new Server();
    server.child = child;
    server.variant = variant;
    server.ended = new Promise((resolve) => child.on('exit', (code, signal) => resolve(code ?? signal)));
    await server.ready();
    if (variant.backend) {
      const metrics = await server.metrics();
      if (!metrics.includes(`io_backend="${variant.backend}"`)) {
        throw new Error(`the server should say it uses ${variant.backend}:\n${metrics}`);
      }
    }
    return server;
  }

  async ready() {
    const start = Date.now();
    while (Date.now() - start < 10_000) {
      try {
        const response = await fetch(`${HTTP_URL}/health/ready`);
        if (response.ok) return;
      } catch {
        // Not listening yet.
      }
      const ended = await Promise.race([this.ended, new Promise((resolve) => setTimeout(resolve, 25))]);
      if (ended !== undefined) throw new Error(`the server ended at start: ${ended}`);
    }
    throw new Error('the server was not ready within 10 s');
  }

  async metrics() {
    return (await fetch(`${HTTP_URL}/metrics`)).text();
  }

  /// The value of one metric, summed over its labels.
  async metric(name) {
    const lines = (await this.metrics()).split('\n').filter((line) => line.startsWith(name) && /^[{ ]/.test(line.slice(name.length)));
    return lines.reduce((sum, line) => sum + Number(line.split(' ').at(-1)), 0);
  }

  /// Everything that was dropped since the start, by name.
  async drops() {
    const lines = (await this.metrics()).split('\n');
    return lines.filter((line) => /^auralink_\w*(dropped|overflow|failed|full)\w*[{ ]/.test(line) && !line.endsWith(' 0')).join('\n');
  }

  async stop() {
    this.child.kill('SIGTERM');
    const late = setTimeout(() => this.child.kill('SIGKILL'), 5_000);
    const ended = await this.ended;
    clearTimeout(late);
    if (ended !== 0) throw new Error(`the server ended with ${ended}`);
  }
}
