// Signalling as a LiveKit client speaks it: `join_request` on /rtc/v1, protobuf frames after that.
import encoding from 'k6/encoding';
import { WebSocket } from 'k6/websockets';
import { field, fields } from './protobuf.js';
import { offer } from './sdp.js';
import { WS_URL, mint } from './target.js';

// Field numbers of SignalResponse.
const JOIN = 1;
const ANSWER = 2;
const LEAVE = 8;

/// The same for everyone: who joins what is in the token. Made once, so that the generator's own work is not in the times.
const JOIN_REQUEST = (() => {
  const client = [...field(1, 1), ...field(2, '2.15.0'), ...field(3, 16)];
  const settings = field(1, true);
  const description = [...field(1, 'offer'), ...field(2, offer()), ...field(3, 1)];
  const request = [...field(1, client), ...field(2, settings), ...field(6, description)];
  // Not compressed: the other of the two forms clients may send.
  const wrapped = [...field(1, 0), ...field(2, request)];
  return encoding.b64encode(new Uint8Array(wrapped).buffer, 'url');
})();

/// Opens a connection and joins. Calls `joined(milliseconds)` once the join response and the answer to the offer are here, or
/// `failed(reason)`; exactly one of them, once. Gives the socket.
export function join(identity, room, joined, failed) {
  const token = mint(identity, { room, roomJoin: true, canPublish: true, canSubscribe: true });
  const start = Date.now();
  const socket = new WebSocket(`${WS_URL}/rtc/v1?access_token=${token}&join_request=${JOIN_REQUEST}`);
  socket.binaryType = 'arraybuffer';
  const seen = new Set();
  let over = false;
  const end = (report, value) => {
    if (!over) {
      over = true;
      report(value);
    }
  };
  socket.onmessage = (event) => {
    let number;
    try {
      number = fields(new Uint8Array(event.data))[0][0];
    } catch (error) {
      end(failed, `unreadable: ${error.message}`);
      return;
    }
    seen.add(number);
    if (number === LEAVE) end(failed, 'the server sent a leave');
    if (seen.has(JOIN) && seen.has(ANSWER)) end(joined, Date.now() - start);
  };
  socket.onerror = (event) => end(failed, event.error || 'the connection failed');
  socket.onclose = () => end(failed, 'closed before the answer came');
  return socket;
}
