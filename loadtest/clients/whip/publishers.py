"""Publishers that speak WHIP and no LiveKit. Each shows two halves of known colours and plays a known tone."""

import asyncio
import fractions
import sys
import threading
import time
from pathlib import Path

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


class Process:
    """A publisher in a process of its own, which ends by deleting its resource when its standard input ends."""

    def __init__(self, *command):
        self.command = command

    async def start(self, url, bearer):
        pipe = asyncio.subprocess.PIPE
        self.process = await asyncio.create_subprocess_exec(*self.command, url, bearer, stdin=pipe)

    async def close(self):
        if self.process.returncode is None:
            self.process.stdin.close()
        status = await asyncio.wait_for(self.process.wait(), 15)
        assert status == 0, f"{self.command} ended with {status}"


def ffmpeg_process(flags):
    """FFmpeg's `whip` muxer: an ECDSA certificate on P-224, H.264 and Opus, no candidates in the offer; the passive role unless
    `flags` says otherwise. It holds the interpreter while it connects."""
    return Process(sys.executable, __file__, flags)


def gstreamer_process():
    """GStreamer, by the distribution's Python, which has its bindings."""
    return Process("/usr/bin/python3", str(Path(__file__).with_name("gstreamer.py")))


def ffmpeg(flags, url, bearer):
    """Publishes until standard input ends."""
    rate = 15
    is_over = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), is_over.set()), daemon=True).start()
    options = {"authorization": bearer} | ({"whip_flags": flags} if flags else {})
    with av.open(url, "w", format="whip", options=options) as output:
        encoder = {"tune": "zerolatency", "profile": "baseline", "bf": "0"}
        video = output.add_stream("libx264", rate=rate, options=encoder)
        (video.width, video.height), video.pix_fmt, video.gop_size = SIZE, "yuv420p", rate
        audio = output.add_stream("libopus", rate=RATE)
        audio.layout = "stereo"
        pixels = picture((200, 30, 30), (30, 30, 200))
        start, at, shown = time.monotonic(), 0, 0
        while not is_over.is_set():
            if shown * RATE <= at * rate:
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="yuv420p")
                frame.pts, frame.time_base = shown, fractions.Fraction(1, rate)
                output.mux(video.encode(frame))
                shown += 1
            output.mux(audio.encode(tone(440, at)))
            at += SAMPLES
            time.sleep(max(0, start + at / RATE - time.monotonic()))


if __name__ == "__main__":
    ffmpeg(*sys.argv[1:])
