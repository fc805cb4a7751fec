"""Publishers that speak WHIP and no LiveKit. Each shows two halves of known colours and plays a known tone."""

import asyncio
import fractions
import time

import av
import numpy
from aiortc import AudioStreamTrack, RTCPeerConnection, RTCSessionDescription, VideoStreamTrack

RATE = 48_000
SIZE = (320, 180)
SAMPLES = RATE // 50


def picture(left, right):
    width, height = SIZE
    pixels = numpy.empty((height, width, 3), dtype=numpy.uint8)
    pixels[:, : width // 2] = left
    pixels[:, width // 2 :] = right
    return pixels


def tone(hertz, at):
    """20 ms of a tone of half scale, from sample `at` on."""
    times = numpy.arange(at, at + SAMPLES) / RATE
    wave = (16_384 * numpy.sin(2 * numpy.pi * hertz * times)).astype(numpy.int16)
    frame = av.AudioFrame.from_ndarray(wave.reshape(1, -1), format="s16", layout="mono")
    frame.sample_rate = RATE
    frame.pts = at
    frame.time_base = fractions.Fraction(1, RATE)
    return frame


class Camera(VideoStreamTrack):
    def __init__(self, pixels):
        super().__init__()
        self.pixels = pixels

    async def recv(self):
        pts, time_base = await self.next_timestamp()
        frame = av.VideoFrame.from_ndarray(self.pixels, format="rgb24")
        frame.pts, frame.time_base = pts, time_base
        return frame


class Microphone(AudioStreamTrack):
    def __init__(self, hertz):
        super().__init__()
        self.hertz = hertz
        self.at = 0
        self.start = time.monotonic()

    async def recv(self):
        await asyncio.sleep(max(0, self.start + self.at / RATE - time.monotonic()))
        frame = tone(self.hertz, self.at)
        self.at += SAMPLES
        return frame


class Aiortc:
    """aiortc: an ECDSA certificate, the active role, VP8."""

    def __init__(self, pixels, hertz):
        self.peer = RTCPeerConnection()
        self.peer.addTrack(Camera(pixels))
        self.peer.addTrack(Microphone(hertz))

    async def offer(self):
        await self.peer.setLocalDescription(await self.peer.createOffer())
        return self.peer.localDescription.sdp

    async def accept(self, answer):
        await self.peer.setRemoteDescription(RTCSessionDescription(answer, "answer"))

    async def close(self):
        await self.peer.close()
