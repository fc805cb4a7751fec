// Our own native generator as a participant of the suite.
import { spawn } from 'node:child_process';
import { mkdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { ARTIFACTS, KEY, RELEASE, SECRET, WS_URL } from './server.mjs';

export class Generator {
  /// Peers that publish the recording in `room` and check what they receive for so many seconds.
  static meet(room, { peers, others = 0, seconds }) {
    mkdirSync(ARTIFACTS, { recursive: true });
    const json = path.join(ARTIFACTS, `meet-${room.replaceAll(/[^a-z0-9]+/gi, '-')}.json`);
    const flags = ['--room', room, '--peers', peers, '--others', others, '--seconds', seconds, '--json', json];
    return Generator.#start('meet', [...flags, '--publish'], json);
  }

  /// One run of hostile tests, or all of them.
  static hostile(flags) {
    return Generator.#start('hostile', flags, null);
  }

  /// Writes what somebody in `room` publishes to a trace.
  static record(room, { seconds, out, about }) {
    return Generator.#start('record', ['--room', room, '--seconds', seconds, '--out', out, '--about', about], null);
  }

  static #start(task, flags, json) {
    const target = ['--url', WS_URL, '--key', KEY, '--secret', SECRET];
    const self = new Generator();
    self.text = '';
    self.json = json;
    // It goes before the browsers: what it is late to send or to read would pass for the server's fault.
    const command = ['-n', '-10', path.join(RELEASE, 'auralink-loadtest'), task, ...target, ...flags.map(String)];
    const child = spawn('nice', command, { stdio: ['ignore', 'pipe', 'pipe'] });
    child.stdout.on('data', (data) => (self.text += data));
    child.stderr.on('data', (data) => (self.text += data));
    self.child = child;
    self.exit = new Promise((resolve) => child.on('exit', (code, signal) => resolve(code ?? signal)));
    return self;
  }

  /// It has measured enough.
  interrupt() {
    this.child.kill('SIGINT');
  }

  /// Its report, once it has ended without a violation.
  async ended() {
    const code = await this.exit;
    if (code !== 0) throw new Error(`the generator ended with ${code}:\n${this.text}`);
    return this.json ? JSON.parse(readFileSync(this.json, 'utf8')) : this.text;
  }
}
