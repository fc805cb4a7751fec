// Records what Chromium publishes, for the load generator to replay: `node record.mjs FILE`. The fake camera at 720p, VP8 in
// one layer, as it leaves the server towards a subscriber without loss.
import { enterNamespace } from './lib/namespace.mjs';
import { launch, Participant, servePage } from './lib/browser.mjs';
import { Generator } from './lib/generator.mjs';
import { Server } from './lib/server.mjs';

const ROOM = 'record';
/// Until the encoder has reached its bitrate.
const SETTLING = 12_000;
const SECONDS = 20;

if (enterNamespace()) {
  const file = process.argv[2];
  if (!file) throw new Error('usage: node record.mjs FILE');
  const server = await Server.start('default');
  const page = await servePage();
  const context = await launch();
  try {
    const publish = { simulcast: false, videoEncoding: { maxBitrate: 2_500_000, maxFramerate: 30 } };
    const publisher = await Participant.join(context, 'camera', ROOM, { room: { microphone: false, publish } });
    await new Promise((resolve) => setTimeout(resolve, SETTLING));
    const about = 'Chromium, fake camera 1280x720 at 30 fps, VP8 up to 2.5 Mbit/s';
    await Generator.record(ROOM, { seconds: SECONDS, out: file, about }).ended();
    await publisher.leave();
  } finally {
    await context.close();
    page.close();
    await server.stop();
  }
  console.log(`wrote ${file}`);
  process.exit(0);
}
