"""Every method of LiveKit's server API for Python (livekit-api), each seen in its effect on people in a room."""

from livekit import api
from suite import HTTP_URL, KEY, SECRET, Peer


async def refused(call, *words):
    """A call that has to fail, with one of these words."""
    try:
        await call
    except api.TwirpError as error:
        assert any(word in f"{error.code} {error.message}" for word in words), error
        return
    raise AssertionError(f"should have been refused: {words}")


async def server_api(room, server):
    async with api.LiveKitAPI(HTTP_URL, KEY, SECRET) as service:
        await rooms(service.room, room)
        alice, bob = await Peer.join("alice", room), await Peer.join("bob", room)
        await alice.play_tone(440)
        await bob.until("the tone", 10, lambda: bob.share_of("alice", 440) > 0.8)
        await participants(service.room, room, alice, bob)
        await dispatches(service.agent_dispatch, room)
        await elsewhere(service, room)
        await service.room.remove_participant(api.RoomParticipantIdentity(room=room, identity="bob"))
        await bob.until("being removed", 5, lambda: any("disconnected" in event for event in bob.events))
        await service.room.delete_room(api.DeleteRoomRequest(room=room))
        await alice.until("the end of the room", 5, lambda: any("disconnected" in event for event in alice.events))
        await refused(service.room.list_participants(api.ListParticipantsRequest(room=room)), "not_found")
    return alice, bob


async def rooms(service, room):
    made = await service.create_room(api.CreateRoomRequest(name=room, empty_timeout=77, max_participants=9, metadata="first"))
    assert (made.name, made.empty_timeout, made.max_participants, made.metadata) == (room, 77, 9, "first")
    again = await service.create_room(api.CreateRoomRequest(name=room))
    assert again.sid == made.sid, "a second creation gives the first room"
    listed = await service.list_rooms(api.ListRoomsRequest(names=[room]))
    assert [held.sid for held in listed.rooms] == [made.sid]
    changed = await service.update_room_metadata(api.UpdateRoomMetadataRequest(room=room, metadata="second"))
    assert changed.metadata == "second"


async def participants(service, room, alice, bob):
    assert bob.room.metadata == "second"
    listed = await service.list_participants(api.ListParticipantsRequest(room=room))
    assert sorted(held.identity for held in listed.participants) == ["alice", "bob"]
    seen = await service.get_participant(api.RoomParticipantIdentity(room=room, identity="alice"))
    assert len(seen.tracks) == 1 and seen.tracks[0].source == api.TrackSource.MICROPHONE
    await refused(service.get_participant(api.RoomParticipantIdentity(room=room, identity="nobody")), "not_found")
    sid = seen.tracks[0].sid

    assert await bob.hears("alice", 440)
    for subscribe in (False, True):
        await service.update_subscriptions(
            api.UpdateSubscriptionsRequest(room=room, identity="bob", track_sids=[sid], subscribe=subscribe)
        )
        for _ in range(10):
            if await bob.hears("alice", 440) == subscribe:
                break
        else:
            raise AssertionError(f"hearing alice did not become {subscribe}")

    def mute(muted):
        return service.mute_published_track(api.MuteRoomTrackRequest(room=room, identity="alice", track_sid=sid, muted=muted))

    assert (await mute(True)).track.muted
    await bob.until("muted", 5, lambda: "muted alice" in bob.events)
    await refused(mute(False), "remote unmute")

    changed = await service.update_participant(
        api.UpdateParticipantRequest(room=room, identity="alice", metadata="from outside", name="A", attributes={"role": "speaker"})
    )
    assert (changed.metadata, changed.name, changed.attributes["role"]) == ("from outside", "A", "speaker")
    await bob.until("the metadata", 5, lambda: bob.remote("alice").metadata == "from outside")

    await service.send_data(
        api.SendDataRequest(room=room, data=b"from the server", kind=api.DataPacket.Kind.RELIABLE, destination_identities=["bob"], topic="news")
    )
    await bob.until("word of the server", 5, lambda: ("from the server", None, "news") in bob.data)
    assert not alice.data

    permission = api.ParticipantPermission(can_publish=False, can_subscribe=True, can_publish_data=True)
    await service.update_participant(api.UpdateParticipantRequest(room=room, identity="alice", permission=permission))
    await bob.until("no track of alice", 5, lambda: not bob.remote("alice").track_publications)

    forward = api.ForwardParticipantRequest(room=room, identity="alice", destination_room="elsewhere")
    await refused(service.forward_participant(forward), "unimplemented", "not implemented", "permissions denied")
    move = api.MoveParticipantRequest(room=room, identity="alice", destination_room="elsewhere")
    await refused(service.move_participant(move), "unimplemented", "not implemented", "permissions denied")


async def dispatches(service, room):
    dispatch = await service.create_dispatch(api.CreateAgentDispatchRequest(room=room, agent_name="helper", metadata="x"))
    assert (dispatch.agent_name, dispatch.metadata) == ("helper", "x")

    async def named():
        return [held.id for held in await service.list_dispatch(room) if held.agent_name]

    assert await named() == [dispatch.id]
    assert (await service.get_dispatch(dispatch.id, room)).metadata == "x"
    await service.delete_dispatch(dispatch.id, room)
    assert await named() == []


async def elsewhere(service, room):
    """Services of other programs: refused in Twirp's form, which the SDK can read."""
    await refused(service.egress.list_egress(api.ListEgressRequest(room_name=room)), "bad_route", "unimplemented")
    await refused(service.ingress.list_ingress(api.ListIngressRequest(room_name=room)), "bad_route", "unimplemented")
    await refused(service.sip.list_sip_dispatch_rule(api.ListSIPDispatchRuleRequest()), "bad_route", "unimplemented")
