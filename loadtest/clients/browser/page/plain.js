// WHIP (RFC 9725) and WHEP with the browser's own API and nothing of LiveKit: called by the suite through `window.plain`.
const SDP = 'application/sdp';
const FRAGMENT = 'application/trickle-ice-sdpfrag';
const LAYERS = [
  { rid: 'q', scaleResolutionDownBy: 4 },
  { rid: 'h', scaleResolutionDownBy: 2 },
  { rid: 'f', scaleResolutionDownBy: 1 },
];

const state = { token: null, pc: null, resource: null, etag: null };

async function connect(url, token) {
  const { pc } = state;
  await pc.setLocalDescription();
  const headers = { 'content-type': SDP, authorization: `Bearer ${token}` };
  const reply = await fetch(url, { method: 'POST', body: pc.localDescription.sdp, headers });
  const body = await reply.text();
  if (reply.status !== 201) return { status: reply.status, body, retryAfter: reply.headers.get('retry-after') };
  Object.assign(state, { token, resource: new URL(reply.headers.get('location'), url).href, etag: reply.headers.get('etag') });
  await pc.setRemoteDescription({ type: 'answer', sdp: body });
  return { status: reply.status };
}

window.plain = {
  async publish(url, token) {
    const media = await navigator.mediaDevices.getUserMedia({ audio: true, video: { width: 1280, height: 720 } });
    state.pc = new RTCPeerConnection();
    state.pc.addTransceiver(media.getAudioTracks()[0], { direction: 'sendonly' });
    state.pc.addTransceiver(media.getVideoTracks()[0], { direction: 'sendonly', sendEncodings: LAYERS });
    return connect(url, token);
  },

  async watch(url, token) {
    state.pc = new RTCPeerConnection();
    const stream = new MediaStream();
    state.pc.ontrack = ({ track }) => stream.addTrack(track);
    // One section of each kind more than there are tracks.
    for (const kind of ['audio', 'video', 'audio', 'video']) state.pc.addTransceiver(kind, { direction: 'recvonly' });
    const element = document.createElement('video');
    Object.assign(element, { srcObject: stream, autoplay: true, width: 320 });
    document.body.append(element);
    return connect(url, token);
  },

  /// Frames decoded of each video section.
  async frames() {
    const reports = [...(await state.pc.getStats()).values()];
    return reports.filter(({ type, kind }) => type === 'inbound-rtp' && kind === 'video').map(({ mid, framesDecoded = 0 }) => [mid, framesDecoded]);
  },

  /// One stream of each kind and direction; of several layers the sum of what was encoded.
  async stats() {
    const found = { layers: 0 };
    for (const report of (await state.pc.getStats()).values()) {
      if (report.type === 'inbound-rtp' && report.packetsReceived > 0 && !found[report.kind]) {
        found[report.kind] = { frames: report.framesDecoded, height: report.frameHeight, freezes: report.freezeCount, samples: report.totalSamplesReceived, energy: report.totalAudioEnergy };
      }
      if (report.type === 'outbound-rtp' && report.kind === 'video' && report.framesEncoded > 0) found.layers++;
      if (report.type === 'transport') found.ufrag = report.iceLocalUsernameFragment;
    }
    return found;
  },

  async decodes(frames) {
    const { video } = await window.plain.stats();
    return video?.frames >= frames ? video.frames : null;
  },

  /// Starts ICE anew over the resource (RFC 9725 §4.3.3).
  async restart() {
    const { pc } = state;
    pc.restartIce();
    await pc.setLocalDescription();
    const own = pc.localDescription.sdp.split('\r\n').filter((line) => /^a=ice-(ufrag|pwd):/.test(line));
    const headers = { 'content-type': FRAGMENT, authorization: `Bearer ${state.token}`, 'if-match': '*' };
    const reply = await fetch(state.resource, { method: 'PATCH', body: `${own.slice(0, 2).join('\r\n')}\r\n`, headers });
    const fragment = await reply.text();
    if (reply.status !== 200) return { status: reply.status, fragment };
    state.etag = reply.headers.get('etag');
    let sdp = pc.currentRemoteDescription.sdp;
    for (const name of ['ice-ufrag', 'ice-pwd']) {
      const line = fragment.split('\r\n').find((candidate) => candidate.startsWith(`a=${name}:`));
      sdp = sdp.replaceAll(new RegExp(`a=${name}:[^\r]*`, 'g'), line);
    }
    await pc.setRemoteDescription({ type: 'answer', sdp });
    return { status: reply.status, ufrag: own[0] };
  },

  isConnected: () => state.pc.connectionState === 'connected',

  async end() {
    const reply = await fetch(state.resource, { method: 'DELETE', headers: { authorization: `Bearer ${state.token}` } });
    state.pc.close();
    return reply.status;
  },
};
