// Every method of LiveKit's server SDK for Node, each seen in its effect on people in a room, and the webhooks that tell of it.
import assert from 'node:assert/strict';
import { createServer } from 'node:http';
import { AgentDispatchClient, DataPacket_Kind, RoomServiceClient, TrackSource, WebhookReceiver } from 'livekit-server-sdk';
import { HTTP_URL, KEY, SECRET, WS_URL } from '../browser/lib/server.mjs';
import { Peer } from './peer.mjs';

export const WEBHOOK_PORT = 7895;

/// What the server tells of by webhook, verified as LiveKit's SDK does.
export class Webhooks {
  static async start() {
    const self = new Webhooks();
    self.events = [];
    self.refusals = 2;
    const receiver = new WebhookReceiver(KEY, SECRET);
    self.server = createServer((request, response) => {
      let body = '';
      request.on('data', (data) => (body += data));
      request.on('end', async () => {
        if (self.refusals > 0) {
          // The first are to be sent again.
          self.refusals -= 1;
          response.statusCode = 503;
          return response.end();
        }
        try {
          self.events.push(await receiver.receive(body, request.headers.authorization));
        } catch (error) {
          self.events.push({ event: `not verified: ${error.message}` });
        }
        response.end();
      });
    });
    await new Promise((resolve) => self.server.listen(WEBHOOK_PORT, '127.0.0.1', resolve));
    return self;
  }

  of(room) {
    return this.events.filter((event) => event.room?.name === room).map((event) => `${event.event} ${event.participant?.identity ?? ''}`.trim());
  }

  close() {
    this.server.close();
  }
}

export async function serverApi({ room, webhooks }) {
  const rooms = new RoomServiceClient(HTTP_URL, KEY, SECRET);
  const made = await rooms.createRoom({ name: room, emptyTimeout: 77, maxParticipants: 9, metadata: 'first' });
  assert.deepEqual([made.name, made.emptyTimeout, made.maxParticipants, made.metadata], [room, 77, 9, 'first']);
  assert.equal((await rooms.createRoom({ name: room })).sid, made.sid, 'a second creation gives the first room');
  assert.ok((await rooms.listRooms()).some((held) => held.name === room));
  assert.equal((await rooms.listRooms([room])).length, 1);
  await rooms.updateRoomMetadata(room, 'second');

  const alice = await Peer.join(WS_URL, 'alice', room);
  const bob = await Peer.join(WS_URL, 'bob', room);
  assert.equal(bob.room.metadata, 'second');
  await alice.playTone(440);
  await bob.until('the tone', 10_000, () => bob.shareOf('alice', 440) > 0.8);
  assert.deepEqual((await rooms.listParticipants(room)).map((p) => p.identity).sort(), ['alice', 'bob']);
  const seen = await rooms.getParticipant(room, 'alice');
  assert.equal(seen.tracks.length, 1);
  assert.equal(seen.tracks[0].source, TrackSource.MICROPHONE);
  await assert.rejects(() => rooms.getParticipant(room, 'nobody'), /not exist|not_found/);

  const muted = await rooms.mutePublishedTrack(room, 'alice', seen.tracks[0].sid, true);
  assert.equal(muted.muted, true);
  await bob.until('muted', 5_000, () => bob.events.includes('muted alice'));
  await assert.rejects(() => rooms.mutePublishedTrack(room, 'alice', seen.tracks[0].sid, false), /remote unmute/);

  const changed = await rooms.updateParticipant(room, 'alice', { metadata: 'from outside', name: 'A', attributes: { role: 'speaker' } });
  assert.deepEqual([changed.metadata, changed.name, changed.attributes.role], ['from outside', 'A', 'speaker']);
  await bob.until('the metadata', 5_000, () => bob.remote('alice').metadata === 'from outside');

  await rooms.updateSubscriptions(room, 'bob', [seen.tracks[0].sid], false);
  await rooms.updateSubscriptions(room, 'bob', [seen.tracks[0].sid], true);

  await rooms.sendData(room, new TextEncoder().encode('from the server'), DataPacket_Kind.RELIABLE, { destinationIdentities: ['bob'], topic: 'news' });
  await bob.until('word of the server', 5_000, () => bob.data.some((held) => held.text === 'from the server' && held.topic === 'news'));
  assert.ok(!alice.data.length);

  for (const method of ['forwardParticipant', 'moveParticipant']) {
    await assert.rejects(() => rooms[method](room, 'alice', 'elsewhere'), /not implemented|unimplemented|permissions denied/i);
  }

  await rooms.updateParticipant(room, 'alice', { permission: { canPublish: false, canSubscribe: true, canPublishData: true } });
  await bob.until('no track of alice', 5_000, () => bob.remote('alice').trackPublications.size === 0);

  const dispatches = new AgentDispatchClient(HTTP_URL, KEY, SECRET);
  const dispatch = await dispatches.createDispatch(room, 'helper', { metadata: 'x' });
  assert.equal(dispatch.agentName, 'helper');
  const named = async () => (await dispatches.listDispatch(room)).filter((held) => held.agentName).map((held) => held.id);
  assert.deepEqual(await named(), [dispatch.id]);
  assert.equal((await dispatches.getDispatch(dispatch.id, room)).metadata, 'x');
  await dispatches.deleteDispatch(dispatch.id, room);
  assert.deepEqual(await named(), []);

  await rooms.removeParticipant(room, 'bob');
  await bob.until('being removed', 5_000, () => bob.events.includes('disconnected'));
  await rooms.deleteRoom(room);
  await alice.until('the end of the room', 5_000, () => alice.events.includes('disconnected'));
  await assert.rejects(() => rooms.listParticipants(room), /not exist|not_found/);

  const expected = ['room_started', 'participant_joined alice', 'participant_joined bob', 'track_published alice', 'track_unpublished alice', 'participant_left bob', 'participant_left alice', 'room_finished'];
  await alice.until('all webhooks', 15_000, () => webhooks.of(room).length >= expected.length);
  assert.deepEqual(webhooks.of(room).sort(), [...expected].sort());
  assert.equal(webhooks.of(room)[0], 'room_started');
  assert.equal(webhooks.of(room).at(-1), 'room_finished');
  return [];
}
