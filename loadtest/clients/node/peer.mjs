// One participant of LiveKit's native SDK for Node: it shows a known picture, plays a known tone, and measures what it receives.
import {
  AudioFrame,
  AudioSource,
  AudioStream,
  LocalAudioTrack,
  LocalVideoTrack,
  Room,
  RoomEvent,
  TrackKind,
  TrackPublishOptions,
  TrackSource,
  VideoBufferType,
  VideoFrame,
  VideoSource,
  VideoStream,
} from '@livekit/rtc-node';
import { AccessToken } from 'livekit-server-sdk';
import { KEY, SECRET } from '../browser/lib/server.mjs';

const RATE = 48_000;
/// A leave takes milliseconds; this SDK has been seen to wait for itself after it had just answered a call over RPC.
const LEAVE_PATIENCE_MS = 10_000;
export const SIZE = [320, 180];

export async function token(identity, room, grants = {}) {
  const access = new AccessToken(KEY, SECRET, { identity, ttl: '10m' });
  access.addGrant({ roomJoin: true, room, canPublish: true, canSubscribe: true, canPublishData: true, canUpdateOwnMetadata: true, ...grants });
  return access.toJwt();
}

const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

export class Peer {
  static async join(url, identity, room, options = {}) {
    const self = new Peer();
    self.identity = identity;
    self.room = new Room();
    self.data = [];
    self.events = [];
    self.pictures = new Map();
    self.sounds = new Map();
    self.readers = [];
    self.room
      .on(RoomEvent.TrackSubscribed, (track, publication, participant) => self.#receive(track, participant))
      .on(RoomEvent.DataReceived, (payload, participant, kind, topic) =>
        self.data.push({ text: new TextDecoder().decode(payload), from: participant?.identity, topic }))
      .on(RoomEvent.TrackMuted, (publication, participant) => self.events.push(`muted ${participant.identity}`))
      .on(RoomEvent.TrackUnmuted, (publication, participant) => self.events.push(`unmuted ${participant.identity}`))
      .on(RoomEvent.ParticipantConnected, (participant) => self.events.push(`connected ${participant.identity}`))
      .on(RoomEvent.ParticipantDisconnected, (participant) => self.events.push(`disconnected ${participant.identity}`))
      .on(RoomEvent.ParticipantAttributesChanged, (changed, participant) =>
        self.events.push(`attributes ${participant.identity} ${JSON.stringify(changed)}`))
      .on(RoomEvent.ParticipantMetadataChanged, (metadata, participant) => self.events.push(`metadata ${participant.identity}`))
      .on(RoomEvent.Reconnecting, () => self.events.push('reconnecting'))
      .on(RoomEvent.Reconnected, () => self.events.push('reconnected'))
      .on(RoomEvent.Disconnected, () => self.events.push('disconnected'));
    await self.room.connect(url, await token(identity, room, options.grants), { autoSubscribe: true, dynacast: false });
    return self;
  }

  get local() {
    return this.room.localParticipant;
  }

  remote(identity) {
    return [...this.room.remoteParticipants.values()].find((participant) => participant.identity === identity);
  }

  /// Shows two halves of known colours, 15 times a second.
  async showPicture(left, right) {
    const [width, height] = SIZE;
    const source = new VideoSource(width, height);
    const track = LocalVideoTrack.createVideoTrack('picture', source);
    const options = new TrackPublishOptions();
    options.source = TrackSource.SOURCE_CAMERA;
    this.camera = await this.local.publishTrack(track, options);
    const pixels = new Uint8Array(width * height * 4);
    for (let at = 0; at < width * height; at++) pixels.set([...(at % width < width / 2 ? left : right), 255], at * 4);
    this.showing = setInterval(() => source.captureFrame(new VideoFrame(pixels, width, height, VideoBufferType.RGBA)), 66);
  }

  /// Plays a tone of half scale.
  async playTone(hertz) {
    const source = new AudioSource(RATE, 1);
    this.tone = LocalAudioTrack.createAudioTrack('tone', source);
    const options = new TrackPublishOptions();
    options.source = TrackSource.SOURCE_MICROPHONE;
    this.microphone = await this.local.publishTrack(this.tone, options);
    this.playing = true;
    const samples = RATE / 100;
    (async () => {
      for (let n = 0; this.playing; n++) {
        const wave = Int16Array.from({ length: samples }, (_, i) => 16_384 * Math.sin((2 * Math.PI * hertz * (n * samples + i)) / RATE));
        await source.captureFrame(new AudioFrame(wave, RATE, 1, samples));
      }
    })().catch((error) => this.events.push(`tone: ${error.message}`));
  }

  #receive(track, participant) {
    const reader = track.kind === TrackKind.KIND_VIDEO ? this.#look(track, participant.identity) : this.#listen(track, participant.identity);
    this.readers.push(reader.catch((error) => this.events.push(`receiving: ${error.message}`)));
  }

  async #look(track, identity) {
    for await (const { frame } of new VideoStream(track)) {
      const rgba = frame.convert(VideoBufferType.RGBA);
      const mean = (from) => {
        const sum = [0, 0, 0];
        let count = 0;
        for (let y = Math.floor(rgba.height / 4); y < (rgba.height * 3) / 4; y += 4) {
          for (let x = Math.floor(rgba.width * from); x < rgba.width * (from + 0.25); x += 4) {
            for (const c of [0, 1, 2]) sum[c] += rgba.data[(y * rgba.width + x) * 4 + c];
            count++;
          }
        }
        return sum.map((value) => value / count);
      };
      const before = this.pictures.get(identity);
      this.pictures.set(identity, { frames: (before?.frames ?? 0) + 1, size: [rgba.width, rgba.height], left: mean(0.125), right: mean(0.625) });
    }
  }

  async #listen(track, identity) {
    for await (const frame of new AudioStream(track, { sampleRate: RATE, numChannels: 1 })) {
      const before = this.sounds.get(identity) ?? { samples: 0, last: [] };
      const last = [...before.last, ...frame.data].slice(-RATE / 5);
      this.sounds.set(identity, { samples: before.samples + frame.data.length, last });
    }
  }

  /// The share of a tone in the last fifth of a second heard of somebody, 0 to 1 (Goertzel).
  shareOf(identity, hertz) {
    const { last } = this.sounds.get(identity) ?? { last: [] };
    if (last.length < RATE / 5) return 0;
    const power = last.reduce((sum, sample) => sum + sample * sample, 0);
    if (power < last.length * 1_000) return 0;
    const factor = 2 * Math.cos((2 * Math.PI * hertz) / RATE);
    let [one, two] = [0, 0];
    for (const sample of last) [one, two] = [sample + factor * one - two, one];
    return (2 * (one * one + two * two - factor * one * two)) / (last.length * power);
  }

  /// Waits until `done()` gives something truthy.
  async until(what, milliseconds, done) {
    const end = Date.now() + milliseconds;
    while (Date.now() < end) {
      const result = await done();
      if (result) return result;
      await pause(25);
    }
    throw new Error(`${this.identity}: ${what} did not happen within ${milliseconds} ms; ${this.events.join(', ')}; pictures ${JSON.stringify([...this.pictures])}`);
  }

  async leave() {
    clearInterval(this.showing);
    this.playing = false;
    const late = new Promise((_, reject) => setTimeout(reject, LEAVE_PATIENCE_MS, new Error(`${this.identity} does not come to leave`)));
    await Promise.race([this.room.disconnect(), late]);
  }
}
