// Chromium with fake devices, and the suite's page in it.
import { createServer } from 'node:http';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';
import { AccessToken } from 'livekit-server-sdk';
import { chromium } from 'playwright-core';
import { SPKI } from './certificate.mjs';
import { KEY, SECRET, WS_URL } from './server.mjs';

const HERE = path.dirname(fileURLToPath(import.meta.url));
export const PAGE_PORT = 7900;
export const CHROMIUM = '/usr/lib/chromium/chromium';
const FLAGS = [
  '--no-sandbox',
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
  '--disable-default-apps',
  '--disable-dev-shm-usage',
  '--use-fake-device-for-media-stream=fps=30',
  '--use-fake-ui-for-media-stream',
  '--auto-select-desktop-capture-source=Entire screen',
  '--autoplay-policy=no-user-gesture-required',
  `--ignore-certificate-errors-spki-list=${SPKI}`,
];

/// The page with livekit-client in it, served on loopback (a secure context).
export async function servePage() {
  const scripts = new Map();
  const own = (name) => [`/${name}`, path.join(HERE, '../page', name)];
  for (const [url, entry] of [own('client.js'), own('plain.js'), ['/e2ee-worker.js', 'livekit-client/e2ee-worker']]) {
    const bundle = await build({
      entryPoints: [entry],
      absWorkingDir: path.join(HERE, '..'),
      bundle: true,
      write: false,
      format: 'iife',
      target: 'es2022',
      logLevel: 'error',
    });
    scripts.set(url, bundle.outputFiles[0].text);
  }
  const server = createServer((request, response) => {
    const script = scripts.get(request.url);
    if (script) {
      response.setHeader('content-type', 'text/javascript').end(script);
    } else {
      response.setHeader('content-type', 'text/html').end('<!doctype html><title>suite</title><script src="/client.js"></script><script src="/plain.js"></script>');
    }
  });
  await new Promise((resolve) => server.listen(PAGE_PORT, '127.0.0.1', resolve));
  return server;
}

export async function launch(executablePath = CHROMIUM) {
  const profile = mkdtempSync(path.join(tmpdir(), 'auralink-chromium-'));
  const context = await chromium.launchPersistentContext(profile, {
    executablePath,
    headless: true,
    chromiumSandbox: false,
    args: FLAGS,
    viewport: { width: 800, height: 600 },
  });
  const close = context.close.bind(context);
  context.close = async () => {
    await close();
    rmSync(profile, { recursive: true, force: true });
  };
  return context;
}

export async function token(identity, room, grants = {}, options = {}) {
  const access = new AccessToken(KEY, SECRET, { identity, name: identity.toUpperCase(), ttl: '10m', ...options });
  access.addGrant({ roomJoin: true, room, canPublish: true, canSubscribe: true, canPublishData: true, ...grants });
  return access.toJwt();
}

/// One participant: a page of its own. Calls on it run in the page (see page/client.js).
export class Participant {
  static async join(context, identity, room, options = {}) {
    const self = await Participant.open(context, identity, options.loopback);
    self.joined = await self.call('join', options.url ?? WS_URL, await token(identity, room, options.grants), options.room ?? {});
    return self;
  }

  /// The page alone, from either loopback address.
  static async open(context, identity, loopback = '127.0.0.1') {
    const page = await context.newPage();
    const self = new Participant();
    self.page = page;
    self.identity = identity;
    self.logs = [];
    page.on('console', (message) => self.logs.push(`${message.type()}: ${message.text()}`));
    page.on('pageerror', (error) => self.logs.push(`error: ${error.message}`));
    await page.goto(`http://${loopback}:${PAGE_PORT}/`);
    return self;
  }

  call(name, ...args) {
    return this.page.evaluate(([name, args]) => window.suite[name](...args), [name, args]);
  }

  /// The same of what a page can do without LiveKit (see page/plain.js).
  plain(name, ...args) {
    return this.page.evaluate(([name, args]) => window.plain[name](...args), [name, args]);
  }

  /// Waits until `window.suite[name](...args)` is truthy.
  async until(what, timeout, name, ...args) {
    const start = Date.now();
    let last;
    while (Date.now() - start < timeout) {
      last = await this.call(name, ...args);
      if (last) return last;
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    const detail = JSON.stringify(await this.call('describe'), null, 1);
    throw new Error(`${this.identity}: ${what} did not happen within ${timeout} ms; ${detail}\n${this.logs.slice(-30).join('\n')}`);
  }

  async leave() {
    await this.call('leave');
    await this.page.close();
  }
}
