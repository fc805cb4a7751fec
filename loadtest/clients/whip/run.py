"""The WHIP suite: publishers without LiveKit against the release binary, seen and heard through LiveKit's SDK.

    python run.py [FILTER]     only scenarios whose name contains FILTER
"""

import asyncio
import re
import sys
import urllib.error
import urllib.request
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "python"))

from publishers import Aiortc, ffmpeg_process, gstreamer_process, picture  # noqa: E402
from suite import HTTP_URL, Peer, run, token  # noqa: E402

RED, BLUE = (200, 30, 30), (30, 30, 200)
HERTZ = 440
ENDPOINT = f"{HTTP_URL}/whip/v1"
FRAGMENT = "application/trickle-ice-sdpfrag"


def near(seen, meant):
    return all(abs(value - want) < 24 for value, want in zip(seen, meant))


async def http(method, url, body=None, bearer=None, **headers):
    """Status, headers and text of an answer."""
    request = urllib.request.Request(url, data=None if body is None else body.encode(), method=method)
    for name, value in headers.items():
        request.add_header(name.replace("_", "-"), value)
    if bearer:
        request.add_header("Authorization", f"Bearer {bearer}")

    def ask():
        try:
            with urllib.request.urlopen(request, timeout=10) as reply:
                return reply.status, reply.headers, reply.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.headers, error.read().decode()

    return await asyncio.to_thread(ask)


async def publish(publisher, bearer):
    """Makes the resource; its URL and entity tag."""
    status, headers, answer = await http("POST", ENDPOINT, await publisher.offer(), bearer, Content_Type="application/sdp")
    assert status == 201, answer
    assert headers["Content-Type"] == "application/sdp" and headers["Location"].startswith("/whip/v1/"), headers
    await publisher.accept(answer)
    return f"{HTTP_URL}{headers['Location']}", headers["ETag"]


async def check(viewer, identity):
    """`viewer` sees the colours and hears the tone of the publisher."""
    await viewer.until(f"a picture of {identity}", 15, lambda: viewer.frames(identity) > 10)
    _, _, left, right = viewer.pictures[identity]
    assert near(left, RED) and near(right, BLUE), f"{left} and {right}"
    await viewer.until("its tone", 10, lambda: viewer.share_of(identity, HERTZ) > 0.8)
    assert viewer.share_of(identity, HERTZ * 1.5) < 0.1, "the measure tells tones apart"


async def gone(viewer, identity):
    await viewer.until("the publisher gone", 5, lambda: not viewer.remote(identity))


async def aiortc(room, server):
    """Published, seen and heard by who was there and by who comes later; deleted, and gone for all."""
    early = await Peer.join("early", room)
    publisher, bearer = Aiortc(picture(RED, BLUE), HERTZ), token("camera", room)
    resource, _ = await publish(publisher, bearer)
    late = await Peer.join("late", room)
    for viewer in (early, late):
        await check(viewer, "camera")
    assert (await http("DELETE", resource, bearer=token("early", room)))[0] == 401, "not its own"
    frames = early.frames("camera")
    await early.until("the picture going on", 5, lambda: early.frames("camera") > frames + 10)
    assert (await http("DELETE", resource, bearer=bearer))[0] == 200
    for viewer in (early, late):
        await gone(viewer, "camera")
    assert (await http("DELETE", resource, bearer=bearer))[0] == 404
    await publisher.close()
    return early, late


async def process(publisher, room):
    """A publisher in a process of its own: seen, heard, and gone when it ends."""
    viewer = await Peer.join("viewer", room)
    await publisher.start(ENDPOINT, token("camera", room))
    try:
        await check(viewer, "camera")
        frames = viewer.frames("camera")
        await viewer.until("the picture going on", 5, lambda: viewer.frames("camera") > frames + 20)
    finally:
        await publisher.close()
    await gone(viewer, "camera")
    return (viewer,)


async def ffmpeg(room, server):
    """FFmpeg as it is: the DTLS server, with a certificate on P-224."""
    return await process(ffmpeg_process(""), room)


async def ffmpeg_active(room, server):
    """FFmpeg as the DTLS client."""
    return await process(ffmpeg_process("dtls_active"), room)


async def gstreamer(room, server):
    """GStreamer, with an RSA certificate."""
    return await process(gstreamer_process(), room)


async def abandoned(room, server):
    """A publisher that ends its connection without deleting its resource is gone at once, and so is the resource."""
    viewer = await Peer.join("viewer", room)
    publisher, bearer = Aiortc(picture(RED, BLUE), HERTZ), token("camera", room)
    resource, _ = await publish(publisher, bearer)
    await check(viewer, "camera")
    await publisher.close()
    await gone(viewer, "camera")
    assert (await http("DELETE", resource, bearer=bearer))[0] == 404
    return (viewer,)


async def refusals(room, server):
    """What cannot be done is said by its status, and a session is not harmed by it."""
    bearer, sdp = token("camera", room), "application/sdp"
    status, headers, _ = await http("OPTIONS", ENDPOINT)
    assert (status, headers["Accept-Post"]) == (200, sdp)
    publisher = Aiortc(picture(RED, BLUE), HERTZ)
    offer = await publisher.offer()
    receiving = offer.replace("a=sendrecv", "a=recvonly")
    wanted = [
        (401, await http("POST", ENDPOINT, offer, None, Content_Type=sdp)),
        (401, await http("POST", ENDPOINT, offer, "no token", Content_Type=sdp)),
        (415, await http("POST", ENDPOINT, offer, bearer, Content_Type="text/plain")),
        (400, await http("POST", ENDPOINT, "hello", bearer, Content_Type=sdp)),
        (400, await http("POST", ENDPOINT, receiving, bearer, Content_Type=sdp)),
        (413, await http("POST", ENDPOINT, offer + "a=x\r\n" * 200_000, bearer, Content_Type=sdp)),
        (405, await http("GET", ENDPOINT)),
        (404, await http("DELETE", f"{ENDPOINT}/PA_unknown", bearer=bearer)),
    ]
    resource, etag = await publish(publisher, bearer)
    trickled = "a=candidate:1 1 udp 1 10.0.0.1 9 typ host\r\n"
    match = {"Content_Type": FRAGMENT, "If_Match": etag}
    wanted += [
        (428, await http("PATCH", resource, trickled, bearer, Content_Type=FRAGMENT)),
        (412, await http("PATCH", resource, trickled, bearer, Content_Type=FRAGMENT, If_Match='"other"')),
        (415, await http("PATCH", resource, trickled, bearer, If_Match=etag, Content_Type=sdp)),
        (400, await http("PATCH", resource, "hello", bearer, **match)),
        (401, await http("PATCH", resource, trickled, token("other", room), **match)),
        (204, await http("PATCH", resource, trickled, bearer, **match)),
    ]
    for status, reply in wanted:
        assert reply[0] == status, (status, reply)
    viewer = await Peer.join("viewer", room)
    await check(viewer, "camera")
    credentials = "a=ice-ufrag:efgh\r\na=ice-pwd:0123456789abcdefghijkl\r\n"
    status, headers, fragment = await http("PATCH", resource, credentials, bearer, Content_Type=FRAGMENT, If_Match="*")
    assert status == 200 and headers["ETag"] != etag, (status, fragment)
    assert re.search("a=ice-pwd:.{22,}", fragment) and "a=candidate:" in fragment, fragment
    await publisher.close()
    return (viewer,)


run("whip", [aiortc, ffmpeg, ffmpeg_active, gstreamer, abandoned, refusals])
