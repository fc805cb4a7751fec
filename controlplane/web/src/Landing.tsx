// The front page: what runs here, and the way to Meet.
import { Logo } from './parts';
import { signalUrl } from './address';

export function Landing() {
  return (
    <main className="centred">
      <section className="card landing">
        <Logo />
        <h1>Real-time video, from one binary</h1>
        <p className="dim">
          AuraLink is a WebRTC media server that speaks LiveKit&rsquo;s protocol. Point any LiveKit SDK at it, or start a
          meeting here in the browser.
        </p>
        <a className="button primary wide" href="/meet">Start or join a meeting</a>
        <dl className="facts">
          <div><dt>Server URL for SDKs</dt><dd><code>{signalUrl(window.location)}</code></dd></div>
          <div><dt>Documentation</dt><dd><code>README.md</code> and <code>docs/</code> in the source</dd></div>
          <div><dt>For operators</dt><dd><a href="/metrics">Metrics</a> · <a href="/health/ready">Health</a></dd></div>
        </dl>
        <a className="fine" href="/third-party.txt">Third-party notices</a>
      </section>
    </main>
  );
}
