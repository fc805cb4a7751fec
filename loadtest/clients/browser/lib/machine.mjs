// Whether the machine itself stood still. On each processor a timer goes before all else that runs there, so what it is late by is
// time the hypervisor or the kernel kept the processor from everybody. Browsers that show a picture 150 ms late count a freeze.
import { spawn } from 'node:child_process';
import { cpus } from 'node:os';
import path from 'node:path';

const WATCH = path.join(import.meta.dirname, 'clockwork.py');
/// So many milliseconds, at once or within a second, can freeze a picture by themselves.
const TOO_LONG = 80;

export class Machine {
  static watch() {
    const self = new Machine();
    self.stops = [];
    self.children = cpus().map((_, processor) => {
      // A container may deny real time; the next best is to be the nicest to oneself.
      const first = 'if chrt -f 1 true 2>/dev/null; then exec chrt -f 1 "$@"; else exec nice -n -20 "$@"; fi';
      const command = ['taskset', '-c', String(processor), '/usr/bin/python3', WATCH];
      const child = spawn('sh', ['-c', first, 'sh', ...command], { stdio: ['ignore', 'pipe', 'inherit'] });
      child.stdout.on('data', (data) => self.#note(processor, String(data)));
      return child;
    });
    return self;
  }

  #note(processor, text) {
    for (const line of text.trim().split('\n')) {
      const [at, late] = line.split(' ').map(Number);
      this.stops.push({ processor, at, late });
    }
  }

  /// The times it stood still too long between two moments, in words; empty if it did not.
  stoodStill(from, to) {
    const within = this.stops.filter(({ at, late }) => at >= from && at - late <= to);
    const lost = (stop) =>
      within
        .filter(({ processor, at }) => processor === stop.processor && at > stop.at - 1_000 && at <= stop.at)
        .reduce((sum, { late }) => sum + late, 0);
    return within
      .filter((stop) => lost(stop) >= TOO_LONG)
      .map((stop) => `processor ${stop.processor} for ${lost(stop)} ms of the second before ${((stop.at - from) / 1_000).toFixed(1)} s`)
      .join(', ');
  }

  close() {
    for (const child of this.children) child.kill('SIGKILL');
  }
}
