// Firefox with fake devices, shaped like what the suite knows of Chromium.
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import puppeteer from 'puppeteer-core';
import { trustIn } from './certificate.mjs';

export const FIREFOX = '/usr/bin/firefox-esr';

const PREFERENCES = {
  'media.navigator.streams.fake': true,
  'media.navigator.permission.disabled': true,
  'media.autoplay.default': 0,
  'media.peerconnection.ice.loopback': false,
  'network.captive-portal-service.enabled': false,
  'app.update.disabledForTesting': true,
  // Its H264 comes as a download.
  'media.gmp-manager.updateEnabled': false,
};

export async function launchFirefox(options = {}) {
  const profile = mkdtempSync(path.join(tmpdir(), 'auralink-firefox-'));
  trustIn(profile);
  const browser = await puppeteer.launch({
    browser: 'firefox',
    executablePath: FIREFOX,
    headless: true,
    userDataDir: profile,
    extraPrefsFirefox: PREFERENCES,
    ...options,
  });
  const opened = new Set();
  return {
    async newPage() {
      const page = await browser.newPage();
      opened.add(page);
      page.once('close', () => opened.delete(page));
      return page;
    },
    /// The first is the browser's own.
    pages: () => [null, ...opened],
    async close() {
      await browser.close();
      rmSync(profile, { recursive: true, force: true });
    },
  };
}
