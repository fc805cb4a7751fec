"""The Python suite: LiveKit's native SDK (livekit) against the release binary.

    python run.py [FILTER]     only scenarios whose name contains FILTER
"""

import asyncio

from server_api import server_api
from suite import SIZE, Peer, Relay, run, without_ipv4, without_udp

RELAY_PORT = 7891
RELAY_URL = f"ws://127.0.0.1:{RELAY_PORT}"
RED, BLUE = (200, 30, 30), (30, 30, 200)


def near(seen, meant):
    return all(abs(value - want) < 24 for value, want in zip(seen, meant))


async def pair(room):
    return await Peer.join("alice", room), await Peer.join("bob", room)


async def check(viewer, other, hertz):
    """`viewer` sees the colours and hears the tone of `other`."""
    await viewer.until(f"a picture of {other}", 10, lambda: viewer.frames(other) > 10)
    _, size, left, right = viewer.pictures[other]
    assert near(left, RED) and near(right, BLUE), f"{viewer.identity} sees {left} and {right}"
    assert size[0] * SIZE[1] == size[1] * SIZE[0], size
    await viewer.until(f"a tone of {hertz} Hz", 10, lambda: viewer.share_of(other, hertz) > 0.8)
    assert viewer.share_of(other, hertz * 1.5) < 0.1, "the measure tells tones apart"


async def media(room, server):
    alice, bob = await pair(room)
    for peer, hertz in ((alice, 440), (bob, 700)):
        await peer.show_picture(RED, BLUE)
        await peer.play_tone(hertz)
    await check(bob, "alice", 440)
    await check(alice, "bob", 700)
    before = bob.frames("alice")
    await bob.until("frames going on", 5, lambda: bob.frames("alice") > before + 30)
    return alice, bob


async def tcp(room, server):
    """The same where UDP is blocked: the native client connects."""
    with without_udp():
        peers = await media(room, server)
        assert server.metric("auralink_shard_streams") >= 2, "the server holds connections"
        return peers


async def ipv6(room, server):
    """The same where nothing of IPv4 arrives."""
    with without_ipv4():
        peers = await media(room, server)
        assert server.metric("auralink_shard_streams") == 0, "it is UDP"
        return peers


async def data(room, server):
    alice, bob = await pair(room)
    for reliable in (True, False):
        text = f"reliable {reliable}"
        await alice.local.publish_data(text.encode(), reliable=reliable, topic="greeting")
        await bob.until(text, 5, lambda: (text, "alice", "greeting") in bob.data)
    carol = await Peer.join("carol", room)
    await alice.local.publish_data(b"for carol", destination_identities=["carol"])
    await carol.until("her message", 5, lambda: ("for carol", "alice", "") in carol.data)
    assert not any(text == "for carol" for text, _, _ in bob.data)
    return alice, bob, carol


async def streams(room, server):
    alice, bob = await pair(room)
    texts, files = [], []

    async def read_text(reader, identity):
        texts.append((identity, await reader.read_all()))

    async def read_bytes(reader):
        files.append(b"".join([chunk async for chunk in reader]))

    bob.room.register_text_stream_handler("story", lambda reader, identity: bob._task(read_text(reader, identity)))
    bob.room.register_byte_stream_handler("bytes", lambda reader, identity: bob._task(read_bytes(reader)))
    for text in ("short", "A sentence that says little. " * 3_000):
        await alice.local.send_text(text, topic="story")
        await bob.until("the text", 10, lambda: ("alice", text) in texts)
    content = bytes(i % 251 for i in range(200_000))
    writer = await alice.local.stream_bytes("blob", topic="bytes", total_size=len(content))
    await writer.write(content)
    await writer.aclose()
    await bob.until("the bytes", 10, lambda: content in files)
    return alice, bob


async def rpc(room, server):
    alice, bob = await pair(room)

    async def greet(call):
        return f"{call.payload}, {call.caller_identity}"

    async def fail(call):
        raise ValueError("no")

    bob.local.register_rpc_method("greet", greet)
    bob.local.register_rpc_method("fail", fail)

    async def call(method, payload):
        return await alice.local.perform_rpc(destination_identity="bob", method=method, payload=payload)

    assert await call("greet", "hello") == "hello, alice"
    long = "x" * 40_000
    assert await call("greet", long) == f"{long}, alice"
    for method in ("fail", "unknown"):
        try:
            await call(method, "")
        except Exception:
            continue
        raise AssertionError(f"{method} should have failed")
    return alice, bob


async def attributes(room, server):
    alice, bob = await pair(room)
    of_alice = lambda: bob.remote("alice")
    await alice.local.set_attributes({"mood": "good", "place": "here"})
    await bob.until("attributes", 5, lambda: of_alice().attributes.get("mood") == "good")
    await alice.local.set_attributes({"place": ""})
    await bob.until("the attribute gone", 5, lambda: not of_alice().attributes.get("place"))
    await alice.local.set_metadata("about alice")
    await bob.until("metadata", 5, lambda: of_alice().metadata == "about alice")
    await alice.local.set_name("Alice")
    await bob.until("the name", 5, lambda: of_alice().name == "Alice")
    return alice, bob


async def mute(room, server):
    alice, bob = await pair(room)
    await alice.play_tone(440)
    await bob.until("the tone", 10, lambda: bob.share_of("alice", 440) > 0.8)
    alice.tone.mute()
    await bob.until("muted", 5, lambda: "muted alice" in bob.events)
    alice.tone.unmute()
    await bob.until("unmuted", 5, lambda: "unmuted alice" in bob.events)
    await bob.until("the tone again", 10, lambda: bob.share_of("alice", 440) > 0.8)
    return alice, bob


async def resume(room, server):
    """Signalling breaks and can be had again at once: media goes on, and the participant is the same."""
    relay = await Relay().start(RELAY_PORT)
    try:
        alice, bob = await Peer.join("alice", room, RELAY_URL), await Peer.join("bob", room)
        await bob.show_picture(RED, BLUE)
        await alice.until("a picture of bob", 10, lambda: alice.frames("bob") > 10)
        sid, resumes = alice.local.sid, server.metric("auralink_resumes_total")
        await relay.cut(0)
        await alice.until("being back", 20, lambda: "reconnected" in alice.events)
        assert alice.local.sid == sid, "the participant is the same"
        assert server.metric("auralink_resumes_total") == resumes + 1
        dave = await Peer.join("dave", room)
        await alice.until("dave", 5, lambda: alice.remote("dave"))
        frames = alice.frames("bob")
        await alice.until("the picture going on", 5, lambda: alice.frames("bob") > frames + 20)
        await alice.local.publish_data(b"back")
        await bob.until("word of alice", 5, lambda: ("back", "alice", "") in bob.data)
        return alice, bob, dave
    finally:
        relay.close()


async def outage(room, server):
    """Signalling is gone for two seconds: this SDK then joins anew, and publishes and receives again."""
    relay = await Relay().start(RELAY_PORT)
    try:
        alice, bob = await Peer.join("alice", room, RELAY_URL), await Peer.join("bob", room)
        for peer in (alice, bob):
            await peer.show_picture(RED, BLUE)
        await alice.until("a picture of bob", 10, lambda: alice.frames("bob") > 10)
        await relay.cut(2)
        await alice.until("being back", 20, lambda: "reconnected" in alice.events)
        of_bob, of_alice = alice.frames("bob"), bob.frames("alice")
        await alice.until("the picture of bob going on", 10, lambda: alice.frames("bob") > of_bob + 20)
        await bob.until("the picture of alice going on", 10, lambda: bob.frames("alice") > of_alice + 20)
        return alice, bob
    finally:
        relay.close()


run("python", [media, tcp, ipv6, data, streams, rpc, attributes, mute, resume, outage, server_api])
