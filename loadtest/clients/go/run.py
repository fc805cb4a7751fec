"""The Go suite: LiveKit's Go SDK (server-sdk-go) against the release binary, seen and heard through the Python SDK.

    python run.py [FILTER]     only scenarios whose name contains FILTER
"""

import asyncio
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "python"))

from suite import HTTP_URL, KEY, SECRET, WS_URL, Peer, run, token  # noqa: E402

PEER = Path(__file__).with_name("peer")
RED, BLUE = (200, 30, 30), (30, 30, 200)
HERTZ = 440


def near(seen, meant):
    return all(abs(value - want) < 24 for value, want in zip(seen, meant))


async def echo(room, server):
    """A picture, a tone and a message come back through a Go participant."""
    alice = await Peer.join("alice", room)
    await alice.show_picture(RED, BLUE)
    await alice.play_tone(HERTZ)
    process = await asyncio.create_subprocess_exec(PEER, "echo", WS_URL, token("go", room), stdin=asyncio.subprocess.PIPE)
    try:
        await alice.until("the Go participant", 10, lambda: alice.remote("go"))
        await alice.until("its picture", 15, lambda: alice.frames("go") > 10)
        _, _, left, right = alice.pictures["go"]
        assert near(left, RED) and near(right, BLUE), f"{left} and {right}"
        await alice.until("its tone", 10, lambda: alice.share_of("go", HERTZ) > 0.8)
        frames = alice.frames("go")
        await alice.until("the picture going on", 5, lambda: alice.frames("go") > frames + 30)
        await alice.local.publish_data(b"hello", reliable=True, topic="greeting")
        await alice.until("the message", 5, lambda: ("echo of hello", "go", "greeting") in alice.data)
    finally:
        process.stdin.close()
        status = await asyncio.wait_for(process.wait(), 15)
    assert status == 0, f"the Go participant ended with {status}"
    await alice.until("it gone", 5, lambda: not alice.remote("go"))
    return (alice,)


async def rooms(room, server):
    """Rooms are made, listed and deleted."""
    process = await asyncio.create_subprocess_exec(PEER, "rooms", HTTP_URL, KEY, SECRET)
    assert await asyncio.wait_for(process.wait(), 15) == 0
    return ()


run("go", [echo, rooms])
