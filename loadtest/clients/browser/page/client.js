// What a participant can do and tell, called by the suite through `window.suite`.
import { ExternalE2EEKeyProvider, Room, RoomEvent, Track, VideoQuality, setLogLevel } from 'livekit-client';

setLogLevel('info');

const state = { events: [], data: [], texts: [], files: [], frames: new Map(), speakers: [], told: [] };

function note(event, detail) {
  state.events.push({ at: Math.round(performance.now()), event, ...detail });
}

/// From now on connections use relays alone, and of those `urls` where given, in place of what the server told.
function useRelays({ urls }) {
  const changed = (config) => {
    const told = config?.iceServers ?? [];
    state.told.push(...told.flatMap((server) => server.urls));
    const iceServers = told.map((server) => ({ ...server, urls: urls ?? server.urls }));
    return { ...config, iceServers, iceTransportPolicy: 'relay' };
  };
  window.RTCPeerConnection = class extends RTCPeerConnection {
    constructor(config) {
      super(changed(config));
    }
    setConfiguration(config) {
      super.setConfiguration(changed(config));
    }
  };
}

/// Attaches a remote track and notes when its first frame is shown.
function attach(track, publication, participant) {
  const element = track.attach();
  element.muted = track.kind !== 'audio' ? true : element.muted;
  element.width = 160;
  document.body.append(element);
  if (track.kind === 'video') {
    const key = `${participant.identity}/${publication.source}`;
    state.frames.set(key, { element, first: null });
    element.requestVideoFrameCallback(() => {
      state.frames.get(key).first ??= performance.now();
      note('first frame', { key });
    });
  }
}

function remote(identity) {
  return [...state.room.remoteParticipants.values()].find((participant) => participant.identity === identity);
}

function publication(identity, source) {
  const participant = identity === null ? state.room.localParticipant : remote(identity);
  return participant?.getTrackPublication(source);
}

async function reports(identity, source) {
  const track = publication(identity, source)?.track;
  const stats = await track?.getRTCStatsReport();
  return stats ? [...stats.values()] : [];
}

/// The page offers to receive video in anything but this codec, as if the browser lacked it.
function lack(codec) {
  const { createOffer } = RTCPeerConnection.prototype;
  const others = RTCRtpReceiver.getCapabilities('video').codecs.filter(({ mimeType }) => mimeType.toLowerCase() !== `video/${codec}`);
  RTCPeerConnection.prototype.createOffer = function (...given) {
    const receiving = this.getTransceivers().filter(({ receiver, direction }) => receiver.track.kind === 'video' && direction === 'recvonly');
    receiving.forEach((transceiver) => transceiver.setCodecPreferences(others));
    return createOffer.apply(this, given);
  };
}

window.suite = {
  async join(url, token, options) {
    const { camera = true, microphone = true, publish = {}, secret = null, without = null, relays = null, resolution = { width: 1280, height: 720, frameRate: 30 }, ...roomOptions } = options;
    if (without) lack(without);
    if (relays) useRelays(relays);
    if (secret) {
      const keyProvider = new ExternalE2EEKeyProvider();
      roomOptions.e2ee = { keyProvider, worker: new Worker('/e2ee-worker.js') };
      await keyProvider.setKey(secret);
    }
    const room = new Room({ ...roomOptions, publishDefaults: { dtx: false, red: false, simulcast: true, videoCodec: 'vp8', ...publish } });
    state.room = room;
    room
      .on(RoomEvent.TrackSubscribed, attach)
      .on(RoomEvent.TrackUnsubscribed, (track) => track.detach().forEach((element) => element.remove()))
      .on(RoomEvent.DataReceived, (payload, participant, kind, topic) =>
        state.data.push({ text: new TextDecoder().decode(payload), from: participant?.identity, kind, topic }))
      .on(RoomEvent.ActiveSpeakersChanged, (speakers) => state.speakers.push(speakers.map((speaker) => speaker.identity)))
      .on(RoomEvent.Disconnected, (reason) => note('disconnected', { reason }))
      .on(RoomEvent.Reconnecting, () => note('reconnecting'))
      .on(RoomEvent.SignalReconnecting, () => note('signal reconnecting'))
      .on(RoomEvent.Reconnected, () => note('reconnected'))
      .on(RoomEvent.TrackMuted, (p, participant) => note('muted', { source: p.source, of: participant.identity }))
      .on(RoomEvent.TrackUnmuted, (p, participant) => note('unmuted', { source: p.source, of: participant.identity }))
      .on(RoomEvent.ParticipantConnected, (participant) => note('participant', { identity: participant.identity }))
      .on(RoomEvent.ParticipantDisconnected, (participant) => note('gone', { identity: participant.identity }));
    room.registerTextStreamHandler('story', async (reader, { identity }) => state.texts.push({ from: identity, text: await reader.readAll() }));
    room.registerByteStreamHandler('bytes', async (reader, { identity }) => {
      const chunks = await reader.readAll();
      state.files.push({ from: identity, size: chunks.reduce((sum, chunk) => sum + chunk.byteLength, 0), sum: chunks.reduce((sum, chunk) => chunk.reduce((a, b) => (a * 31 + b) % 65_521, sum), 0) });
    });
    room.registerRpcMethod('greet', async ({ callerIdentity, payload }) => `${payload}, ${callerIdentity}`);
    if (secret) await room.setE2EEEnabled(true);
    const started = performance.now();
    state.started = started;
    await room.connect(url, token, { autoSubscribe: true });
    const connected = performance.now();
    if (camera) await room.localParticipant.setCameraEnabled(true, { resolution });
    if (microphone) await room.localParticipant.setMicrophoneEnabled(true);
    return { connected: connected - started, sid: room.localParticipant.sid };
  },
  leave: () => state.room.disconnect(),
  simulate: (scenario) => state.room.simulateScenario(scenario),
  sid: () => state.room.localParticipant.sid,
  sendText: async (text) => void (await state.room.localParticipant.sendText(text, { topic: 'story' })),
  hasText: (from, text) => state.texts.some((held) => held.from === from && held.text === text),
  /// Sends `size` bytes as a file and gives their check sum.
  async sendFile(size) {
    const bytes = Uint8Array.from({ length: size }, (_, i) => i % 251);
    await state.room.localParticipant.sendFile(new File([bytes], 'bytes.bin'), { topic: 'bytes' });
    return bytes.reduce((a, b) => (a * 31 + b) % 65_521, 0);
  },
  files: () => state.files,
  performRpc: (destinationIdentity, method, payload) =>
    state.room.localParticipant.performRpc({ destinationIdentity, method, payload }).then((text) => ({ text }), (error) => ({ error: error.message, code: error.code })),
  /// Which way the client is connected: how many peer connections it has.
  connections: () => [state.room.engine.pcManager.publisher, state.room.engine.pcManager.subscriber].filter(Boolean).length,
  setCamera: async (on, resolution) => void (await state.room.localParticipant.setCameraEnabled(on, resolution && { resolution })),
  setMicrophone: async (on) => void (await state.room.localParticipant.setMicrophoneEnabled(on)),
  setScreen: async (on) => void (await state.room.localParticipant.setScreenShareEnabled(on, { audio: false })),
  /// Publishes a canvas as a screen share: headless Chromium has no screen to capture.
  async shareCanvas() {
    const canvas = document.createElement('canvas');
    Object.assign(canvas, { width: 1280, height: 720 });
    const context = canvas.getContext('2d');
    let n = 0;
    setInterval(() => {
      context.fillStyle = n % 2 ? '#204080' : '#802040';
      context.fillRect(0, 0, 1280, 720);
      context.fillStyle = '#fff';
      context.font = '200px sans-serif';
      context.fillText(String(n++), 400, 400);
    }, 100);
    const [track] = canvas.captureStream(10).getVideoTracks();
    const options = { source: Track.Source.ScreenShare, simulcast: false };
    state.screen = await state.room.localParticipant.publishTrack(track, options);
  },
  /// Publishes a steady tone as microphone: the fake device's short beeps are not speech.
  async publishTone() {
    const context = new AudioContext();
    const oscillator = context.createOscillator();
    const target = context.createMediaStreamDestination();
    oscillator.frequency.value = 440;
    oscillator.connect(target);
    oscillator.start();
    const [track] = target.stream.getAudioTracks();
    await state.room.localParticipant.publishTrack(track, { source: Track.Source.Microphone });
  },
  stopSharing: async () => void (await state.room.localParticipant.unpublishTrack(state.screen.track)),
  sendsLayers: async (count) => {
    const outbound = (await reports(null, 'camera')).filter((report) => report.type === 'outbound-rtp');
    return outbound.filter((report) => report.frameHeight && report.framesPerSecond > 5).length === count;
  },
  /// Codecs of the video that is being sent at the moment.
  async sends(codecs) {
    const all = [...(await state.room.engine.pcManager.publisher.getStats()).values()];
    const sent = all.filter((report) => report.type === 'outbound-rtp' && report.kind === 'video' && report.framesPerSecond > 0);
    const names = sent.map(({ codecId }) => all.find((report) => report.id === codecId)?.mimeType.toLowerCase());
    return [...new Set(names)].sort().join() === codecs;
  },
  decodesMore: async (identity, source, frames) => {
    const inbound = await window.suite.inbound(identity, source);
    return inbound ? inbound.framesDecoded > frames : false;
  },
  receivesMore: async (identity, source, packets) => {
    const inbound = await window.suite.inbound(identity, source);
    return inbound ? inbound.packetsReceived > packets : false;
  },
  lacks: (identity, source) => !publication(identity, source),
  lacksTrack: (identity, source) => !publication(identity, source)?.track,
  isAlone: () => state.room.remoteParticipants.size === 0,
  hasEvent: (event) => state.events.some((held) => held.event === event),
  setQuality: (identity, quality) => publication(identity, 'camera').setVideoQuality(VideoQuality[quality]),
  setEnabled: (identity, enabled) => publication(identity, 'camera').setEnabled(enabled),
  setSubscribed: (identity, source, on) => publication(identity, source).setSubscribed(on),
  sendData: (text, reliable, to, topic) =>
    state.room.localParticipant.publishData(new TextEncoder().encode(text), { reliable, topic, ...(to ? { destinationIdentities: to } : {}) }),
  data: () => state.data,
  events: () => state.events,
  participants: () => [...state.room.remoteParticipants.values()].map((participant) => participant.identity),
  speakers: () => state.speakers,
  hasData: (text) => state.data.find((message) => message.text === text) ?? null,
  hasSpeaker: (identity) => state.speakers.some((speakers) => speakers.includes(identity)),
  isMuted: (identity, source) => publication(identity, source)?.isMuted ?? null,
  /// Milliseconds from `connect` to the first frame of this track shown.
  firstFrame: (identity, source) => {
    const first = state.frames.get(`${identity}/${source}`)?.first;
    return first == null ? null : first - state.started;
  },
  size: (identity, source) => {
    const element = state.frames.get(`${identity}/${source}`)?.element;
    return element ? [element.videoWidth, element.videoHeight] : null;
  },
  /// Whether what is received is `height` lines high.
  async hasHeight(identity, source, height) {
    const inbound = (await reports(identity, source)).find((report) => report.type === 'inbound-rtp');
    return inbound?.frameHeight === height;
  },
  async inbound(identity, source) {
    const inbound = (await reports(identity, source)).find((report) => report.type === 'inbound-rtp');
    return inbound ?? null;
  },
  async outbound(source) {
    return (await reports(null, source)).filter((report) => report.type === 'outbound-rtp');
  },
  /// Whether this browser can send a video codec.
  canSend: (codec) => RTCRtpSender.getCapabilities('video').codecs.some(({ mimeType }) => mimeType.toLowerCase() === `video/${codec}`),
  /// The codec in which a track is received, or sent when `identity` is null.
  async codec(identity, source) {
    const all = await reports(identity, source);
    const stream = all.find(({ type, codecId }) => type === (identity === null ? 'outbound-rtp' : 'inbound-rtp') && codecId);
    return all.find(({ id }) => id === stream?.codecId)?.mimeType.toLowerCase() ?? null;
  },
  isCodec: async (identity, source, codec) => (await window.suite.codec(identity, source)) === codec,
  /// What the server says a track is.
  told: (identity, source) => publication(identity, source)?.trackInfo?.mimeType.toLowerCase() ?? null,
  async hears(identity) {
    const inbound = await window.suite.inbound(identity, 'microphone');
    return inbound && inbound.totalAudioEnergy > 0.0001 ? inbound.totalAudioEnergy : null;
  },
  /// What carries the media of this participant, sent or received: the candidate pairs in use.
  async pairs() {
    const all = (await Promise.all([null, ...state.room.remoteParticipants.keys()].map((identity) => reports(identity, 'camera')))).flat();
    const by = new Map(all.map((report) => [report.id, report]));
    const chosen = all.filter(({ type }) => type === 'transport').map(({ selectedCandidatePairId }) => by.get(selectedCandidatePairId));
    // Firefox has no report of a transport.
    const pairs = chosen.length ? chosen : all.filter(({ type, selected }) => type === 'candidate-pair' && selected);
    return pairs.map((pair) => ({ local: by.get(pair?.localCandidateId), remote: by.get(pair?.remoteCandidateId) }));
  },
  /// The protocols of the pairs in use, and the server's addresses in them.
  protocols: async () => [...new Set((await window.suite.pairs()).map(({ local }) => local?.protocol))].sort(),
  servers: async () => [...new Set((await window.suite.pairs()).map(({ remote }) => remote?.address))].sort(),
  /// Every address the server's description names as a candidate.
  named() {
    const { sdp } = state.room.engine.pcManager.publisher.pc.remoteDescription;
    return [...new Set([...sdp.matchAll(/^a=candidate:\S+ \d+ \w+ \d+ (\S+) /gm)].map(([, address]) => address))].sort();
  },
  /// Username fragment of the client's: another one after an ICE restart.
  ufrag: () => /a=ice-ufrag:(\S+)/.exec(state.room.engine.pcManager.publisher.pc.localDescription.sdp)[1],
  /// How each candidate in use comes to its address, and how a relay is spoken to.
  paths: async () => [...new Set((await window.suite.pairs()).map(({ local }) => `${local?.candidateType} ${local?.relayProtocol ?? ''}`))].sort(),
  isRelayed: async (protocol) => (await window.suite.paths()).join() === `relay ${protocol}`,
  /// URLs of servers this client was told of.
  toldServers: () => state.told,
  usesOnly: async (protocol) => (await window.suite.protocols()).join() === protocol,
  async transport() {
    const all = await reports(null, 'camera');
    return all.find((report) => report.type === 'transport') ?? null;
  },
  /// Mean colour of the frame shown, to look at what really arrived.
  pixels(identity, source) {
    const element = state.frames.get(`${identity}/${source}`)?.element;
    if (!element?.videoWidth) return null;
    const canvas = document.createElement('canvas');
    Object.assign(canvas, { width: 64, height: 36 });
    const context = canvas.getContext('2d');
    context.drawImage(element, 0, 0, 64, 36);
    const { data } = context.getImageData(0, 0, 64, 36);
    const mean = [0, 1, 2].map((c) => data.filter((_, i) => i % 4 === c).reduce((a, b) => a + b, 0) / (64 * 36));
    const colours = new Set();
    for (let i = 0; i < data.length; i += 4) colours.add((data[i] >> 5) * 64 + (data[i + 1] >> 5) * 8 + (data[i + 2] >> 5));
    return { mean, colours: colours.size };
  },
  /// Whether the picture shows more colours than so many.
  isColourful(identity, source, colours) {
    return (this.pixels(identity, source)?.colours ?? 0) > colours;
  },
  describe: () => ({
    state: state.room?.state,
    participants: [...(state.room?.remoteParticipants.values() ?? [])].map((participant) => ({
      identity: participant.identity,
      tracks: [...participant.trackPublications.values()].map((p) => `${p.source} ${p.trackSid} ${p.isSubscribed} ${p.isMuted}`),
    })),
    events: state.events.slice(-20),
  }),
};
