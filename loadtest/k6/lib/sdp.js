// A valid offer (RFC 8829): a data channel, an audio and a video section to receive on. Nobody behind it ever sends media, so
// its certificate does not exist.

const EXTENSIONS = [
  'urn:ietf:params:rtp-hdrext:sdes:mid',
  'urn:ietf:params:rtp-hdrext:ssrc-audio-level',
  'http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01',
];
const FINGERPRINT = Array.from({ length: 32 }, (_, index) => (index * 7 + 16).toString(16).toUpperCase().padStart(2, '0'));

const SECTIONS = [
  ['application 9 UDP/DTLS/SCTP webrtc-datachannel', ['sctp-port:5000', 'max-message-size:65536']],
  ['audio 9 UDP/TLS/RTP/SAVPF 111', ['rtpmap:111 opus/48000/2', 'fmtp:111 minptime=10;useinbandfec=1', 'rtcp-fb:111 transport-cc']],
  [
    'video 9 UDP/TLS/RTP/SAVPF 96 97',
    ['rtpmap:96 VP8/90000', 'rtcp-fb:96 transport-cc', 'rtcp-fb:96 nack', 'rtcp-fb:96 nack pli', 'rtpmap:97 rtx/90000', 'fmtp:97 apt=96'],
  ],
];

export function offer() {
  const lines = ['v=0', 'o=- 4711 1 IN IP4 127.0.0.1', 's=-', 't=0 0', `a=group:BUNDLE ${SECTIONS.map((_, mid) => mid).join(' ')}`];
  SECTIONS.forEach(([line, attributes], mid) => {
    lines.push(`m=${line}`, 'c=IN IP4 0.0.0.0', 'a=ice-ufrag:k6caller', 'a=ice-pwd:aPasswordOfTwentyFourOrMore', 'a=ice-options:trickle');
    lines.push(`a=fingerprint:sha-256 ${FINGERPRINT.join(':')}`, 'a=setup:actpass', `a=mid:${mid}`);
    if (mid > 0) {
      lines.push('a=rtcp-mux', 'a=rtcp-rsize', 'a=recvonly');
      EXTENSIONS.forEach((uri, index) => lines.push(`a=extmap:${index + 1} ${uri}`));
    }
    attributes.forEach((attribute) => lines.push(`a=${attribute}`));
  });
  return `${lines.join('\r\n')}\r\n`;
}
