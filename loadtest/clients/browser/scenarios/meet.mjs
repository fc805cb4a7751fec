// The web UI of the dev server, driven as a person would: by the names of fields and buttons.
import assert from 'node:assert/strict';
import { HTTP_URL } from '../lib/server.mjs';

const PATIENCE = { timeout: 15_000 };

/// One person at Meet. Nothing on the page may go wrong unseen: errors are kept and end the scenario.
class Person {
  static async arrive(context, name, room) {
    const self = new Person();
    self.name = name;
    self.errors = [];
    self.page = await context.newPage();
    self.page.setDefaultTimeout(PATIENCE.timeout);
    self.page.on('pageerror', (error) => self.errors.push(error.message));
    self.page.on('console', (message) => message.type() === 'error' && self.errors.push(message.text()));
    await self.page.goto(`${HTTP_URL}/meet?room=${encodeURIComponent(room)}`);
    await self.page.getByLabel('Your name').fill(name);
    await self.page.getByLabel('Your camera').waitFor();
    return self;
  }

  async press(name) {
    await this.page.getByRole('button', { name, exact: true }).click();
  }

  async join() {
    await this.press('Join now');
    await this.tile(`${this.name} (you)`).waitFor();
  }

  /// The tile with this label, such as `Bob` or `Bob, muted`.
  tile(label) {
    return this.page.getByRole('group', { name: label, exact: true });
  }

  /// Waits until the video with this label has shown more pictures.
  async sees(label) {
    const video = this.page.locator(`video[aria-label="${label}"]`);
    await video.waitFor();
    const shown = await video.evaluate(
      (element) =>
        new Promise((resolve) => {
          let frames = 0;
          const count = () => (++frames >= 10 ? resolve(frames) : element.requestVideoFrameCallback(count));
          element.requestVideoFrameCallback(count);
          setTimeout(() => resolve(frames), 15_000);
        }),
    );
    assert.ok(shown >= 10, `${this.name} saw ${shown} pictures of ${label}`);
  }

  async says(text) {
    await this.page.getByRole('textbox', { name: 'Message' }).fill(text);
    await this.press('Send');
  }

  async reads(text) {
    await this.page.getByRole('list', { name: 'Messages' }).getByText(text, { exact: true }).waitFor();
  }

  async leave() {
    await this.press('Leave');
    await this.page.getByRole('heading', { name: 'You left the meeting' }).waitFor();
  }

  async close() {
    assert.deepEqual(this.errors, [], `errors on the page of ${this.name}`);
    await this.page.close();
  }
}

async function twoMeet({ one, two, room }) {
  const alice = await Person.arrive(one, 'Alice', room);
  await alice.join();
  await alice.page.getByText('You are the only one here.').waitFor();
  const bob = await Person.arrive(two, 'Bob', room);
  await bob.join();
  await Promise.all([alice.sees('Bob'), bob.sees('Alice'), alice.sees('Alice (you)')]);
  await alice.page.getByRole('button', { name: '2 participants' }).waitFor();
  return { alice, bob };
}

async function talk(context) {
  const { alice, bob } = await twoMeet(context);
  await alice.press('Chat');
  await alice.says('hello Bob');
  await bob.press('Chat, 1 unread');
  await bob.reads('hello Bob');
  await bob.says('hello Alice');
  await alice.reads('hello Alice');
  await alice.press('Close chat');

  await alice.press('Mute microphone');
  await bob.tile('Alice, muted').waitFor();
  await alice.page.keyboard.press('m');
  await bob.tile('Alice').waitFor();
  await alice.press('Turn off camera');
  await bob.page.locator('video[aria-label="Alice"]').waitFor({ state: 'hidden' });
  await alice.press('Turn on camera');
  await bob.sees('Alice');

  await alice.leave();
  await bob.page.getByText('You are the only one here.').waitFor();
  await bob.leave();
  await alice.close();
  await bob.close();
}

/// Who comes back is seen again, not only received: the picture counts.
async function rejoin(context) {
  const { alice, bob } = await twoMeet(context);
  await alice.leave();
  await bob.page.getByText('You are the only one here.').waitFor();
  await alice.press('Rejoin');
  await Promise.all([alice.sees('Bob'), bob.sees('Alice')]);
  await Promise.all([alice.leave(), bob.leave()]);
  await alice.close();
  await bob.close();
}

async function shareScreen(context) {
  const { alice, bob } = await twoMeet(context);
  await alice.press('Share screen');
  await alice.page.getByText('Everyone sees your screen.').waitFor();
  await bob.tile('Alice, screen').waitFor();
  await bob.sees('Alice');
  await alice.press('Stop sharing');
  await bob.tile('Alice, screen').waitFor({ state: 'detached' });
  await Promise.all([alice.leave(), bob.leave()]);
  await alice.close();
  await bob.close();
}

/// Two people of one name in one room, one of them without any device.
async function withoutDevices({ one, two, room }) {
  const first = await Person.arrive(one, 'Sam', room);
  await first.join();
  const page = await two.newPage();
  await page.addInitScript(() => {
    const none = () => Promise.reject(new DOMException('no such device', 'NotFoundError'));
    navigator.mediaDevices.getUserMedia = none;
  });
  await page.goto(`${HTTP_URL}/meet/${encodeURIComponent(room)}`);
  await page.getByText('No camera was found.').waitFor(PATIENCE);
  await page.getByText('No microphone was found.').waitFor(PATIENCE);
  await page.getByLabel('Your name').fill('Sam');
  await page.getByRole('button', { name: 'Join now' }).click();
  await page.getByRole('group', { name: 'Sam (you), muted' }).waitFor(PATIENCE);
  await first.page.getByRole('button', { name: '2 participants' }).waitFor();
  await page.getByRole('button', { name: 'Unmute microphone' }).click();
  await page.getByText('No microphone was found.').waitFor(PATIENCE);
  await page.close();
  await first.leave();
  await first.close();
}

/// What browsers and load balancers are answered, and how.
async function served() {
  const html = { accept: 'text/html' };
  assert.equal(await (await fetch(`${HTTP_URL}/`)).text(), 'OK');
  for (const path of ['/', '/meet', '/meet/some-room', '/meet?room=x']) {
    const response = await fetch(HTTP_URL + path, { headers: html });
    const text = await response.text();
    assert.match(text, /<div id="root">/, path);
    assert.equal(response.headers.get('cache-control'), 'no-cache', path);
    assert.match(response.headers.get('content-security-policy'), /default-src 'self'/, path);
    const script = /src="(\/assets\/[^"]+)"/.exec(text)[1];
    const asset = await fetch(HTTP_URL + script, { method: 'HEAD' });
    assert.equal(asset.status, 200);
    assert.match(asset.headers.get('cache-control'), /immutable/);
    assert.equal(asset.headers.get('x-content-type-options'), 'nosniff');
  }
  assert.equal((await fetch(`${HTTP_URL}/assets/none.js`)).status, 404);
  assert.equal((await fetch(`${HTTP_URL}/third-party.txt`)).status, 200);
}

async function token() {
  const ask = (body) => fetch(`${HTTP_URL}/meet/token`, { method: 'POST', headers: { 'content-type': 'application/json' }, body });
  const identities = new Set();
  for (let n = 0; n < 2; n++) {
    const { token } = await (await ask('{"room":"r","name":"Ann"}')).json();
    const claims = JSON.parse(Buffer.from(token.split('.')[1], 'base64url'));
    assert.deepEqual([claims.name, claims.video.room, claims.video.roomJoin], ['Ann', 'r', true]);
    identities.add(claims.sub);
  }
  assert.equal(identities.size, 2, 'two people of one name are two identities');
  for (const wrong of ['{"room":"","name":"a"}', '{"room":"r","name":" "}', '{}', '[', `{"room":"${'r'.repeat(257)}","name":"a"}`]) {
    const { status } = await ask(wrong);
    assert.ok(status >= 400 && status < 500, `${wrong.slice(0, 40)} was answered ${status}`);
  }
}

/// Outside dev there are no tokens to be had; the page asks for one and takes one from the fragment.
async function tokenWanted({ one, room }) {
  const { token: make } = await import('../lib/browser.mjs');
  assert.equal((await fetch(`${HTTP_URL}/meet/token`, { method: 'POST', body: '{}' })).status, 404);
  const page = await one.newPage();
  page.setDefaultTimeout(PATIENCE.timeout);
  await page.goto(`${HTTP_URL}/meet`);
  await page.getByLabel('Your name').fill('Ann');
  await page.getByRole('button', { name: 'Join now' }).click();
  await page.getByLabel('Access token').fill(await make('ann', room));
  await page.getByRole('button', { name: 'Join now' }).click();
  await page.getByRole('group', { name: /^ANN \(you\)/ }).waitFor();
  await page.goto('about:blank');
  await page.goto(`${HTTP_URL}/meet#token=${await make('ann', room)}`);
  await page.getByLabel('Your camera').waitFor();
  assert.equal(new URL(page.url()).hash, '', 'the token stays in the address bar');
  await page.getByRole('button', { name: 'Join now' }).click();
  await page.getByRole('group', { name: /^ANN \(you\)/ }).waitFor();
  await page.close();
}

export const meets = [
  { name: 'meet: two talk', run: talk, only: ['dev'] },
  { name: 'meet: rejoin', run: rejoin, only: ['dev'] },
  { name: 'meet: share screen', run: shareScreen, only: ['dev'] },
  { name: 'meet: without devices', run: withoutDevices, only: ['dev'] },
  { name: 'meet: served', run: served, only: ['dev'] },
  { name: 'meet: token', run: token, only: ['dev'] },
  { name: 'meet: token wanted', run: tokenWanted, only: ['default'] },
];
