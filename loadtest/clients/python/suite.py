"""What the Python suites stand on: a private network namespace, a server, a TCP relay that can be cut, and participants."""

import asyncio
import contextlib
import subprocess
import sys
import time
import traceback
import urllib.request
from pathlib import Path

import namespace
import numpy
from livekit import api, rtc

ROOT = Path(__file__).resolve().parents[3]
KEY = "suitekey"
SECRET = "a-secret-of-the-python-suite-0123456789"
HOST = "10.77.0.1"
HOST_V6 = "fd77::1"
PORT = 7880
WS_URL = f"ws://127.0.0.1:{PORT}"
HTTP_URL = f"http://127.0.0.1:{PORT}"
RATE = 48_000
SIZE = (320, 180)

# A fault of ours fails twice; both accounts are printed.
ATTEMPTS = 2

SET_UP = [
    "ip link set lo up",
    "ip link add v0 type veth peer name v1",
    f"ip addr add {HOST}/24 dev v0",
    "ip link set v0 up",
    "ip link set v1 up",
    "ip route add default dev v0",
]


def enter_namespace():
    """Everything of a suite but its imports comes after this."""
    namespace.enter(SET_UP)


class Server:
    def __init__(self, suite, flags=()):
        artifacts = ROOT / "artifacts"
        artifacts.mkdir(exist_ok=True)
        self.log = open(artifacts / f"server-{suite}.log", "wb")
        binary = ROOT / "target/release/auralink"
        arguments = [binary, "serve", "--keys", f"{KEY}: {SECRET}", "--node-ip", f"{HOST},{HOST_V6}", *flags]
        self.process = subprocess.Popen(arguments, stdout=self.log, stderr=self.log)
        deadline = time.monotonic() + 10
        while True:
            try:
                urllib.request.urlopen(f"{HTTP_URL}/health/ready").read()
                return
            except OSError:
                if time.monotonic() > deadline or self.process.poll() is not None:
                    raise RuntimeError("the server is not ready")
                time.sleep(0.05)

    def metric(self, name):
        page = urllib.request.urlopen(f"{HTTP_URL}/metrics").read().decode()
        return sum(float(line.split()[-1]) for line in page.splitlines() if line.startswith((f"{name} ", f"{name}{{")))

    def stop(self):
        self.process.terminate()
        if self.process.wait(timeout=10) != 0:
            raise RuntimeError(f"the server ended with {self.process.returncode}")


@contextlib.contextmanager
def without_ipv4():
    """Gives this namespace an address of IPv6 and drops media by IPv4 meanwhile, whatever carries it."""
    nft = lambda rule: subprocess.run(["/usr/sbin/nft", rule], check=True)
    address = lambda *words: subprocess.run(["/sbin/ip", "addr", words[0], f"{HOST_V6}/64", "dev", "v0", *words[1:]], check=True)
    address("add", "nodad")
    nft("add table ip suite")
    try:
        nft("add chain ip suite out { type filter hook output priority 0; }")
        nft("add rule ip suite out udp dport 7882-7889 drop")
        nft("add rule ip suite out tcp dport 7881 drop")
        yield
    finally:
        nft("delete table ip suite")
        address("del")


@contextlib.contextmanager
def without_udp():
    """Drops everything by UDP to and from the media ports, in this namespace."""
    nft = lambda rule: subprocess.run(["/usr/sbin/nft", rule], check=True)
    nft("add table inet suite")
    try:
        nft("add chain inet suite out { type filter hook output priority 0; }")
        for end in ("sport", "dport"):
            nft(f"add rule inet suite out udp {end} 7882-7889 drop")
        yield
    finally:
        nft("delete table inet suite")


class Relay:
    """A TCP relay before the server that can be cut, as a network does to signalling."""

    async def start(self, port):
        self.is_cut = False
        self.writers = set()
        self.server = await asyncio.start_server(self.relay, "127.0.0.1", port)
        return self

    async def relay(self, reader, writer):
        if self.is_cut:
            writer.close()
            return
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", PORT)
        pair = {writer, far_writer}
        self.writers |= pair

        async def pump(source, target):
            try:
                while data := await source.read(65_536):
                    target.write(data)
                    await target.drain()
            except (OSError, asyncio.CancelledError):
                pass
            target.close()

        await asyncio.gather(pump(reader, far_writer), pump(far_reader, writer))
        self.writers -= pair

    async def cut(self, seconds):
        self.is_cut = True
        for writer in list(self.writers):
            writer.transport.abort()
        await asyncio.sleep(seconds)
        self.is_cut = False

    def close(self):
        self.server.close()
        for writer in list(self.writers):
            writer.transport.abort()


def token(identity, room, configure=lambda token: token):
    grant = api.VideoGrants(room_join=True, room=room, can_update_own_metadata=True)
    return configure(api.AccessToken(KEY, SECRET).with_identity(identity).with_grants(grant)).to_jwt()


class Peer:
    """A participant that shows a known picture, plays a known tone, and measures what it receives."""

    @classmethod
    async def join(cls, identity, room, url=WS_URL, configure=lambda token: token):
        self = cls()
        self.identity = identity
        self.room = rtc.Room()
        self.data, self.events, self.tasks = [], [], []
        self.receivers = {}
        self.pictures, self.sounds, self.heard = {}, {}, {}
        on = self.room.on
        on("track_subscribed", lambda track, publication, participant: self._receive(track, participant))
        # What the server itself sends comes from nobody.
        sender = lambda packet: packet.participant.identity if packet.participant else None
        on("data_received", lambda packet: self.data.append((packet.data.decode(), sender(packet), packet.topic)))
        on("track_muted", lambda participant, publication: self.events.append(f"muted {participant.identity}"))
        on("track_unmuted", lambda participant, publication: self.events.append(f"unmuted {participant.identity}"))
        on("reconnecting", lambda: self.events.append("reconnecting"))
        on("reconnected", lambda: self.events.append("reconnected"))
        on("disconnected", lambda reason: self.events.append(f"disconnected {reason}"))
        await self.room.connect(url, token(identity, room, configure), options=rtc.RoomOptions(auto_subscribe=True))
        return self

    @property
    def local(self):
        return self.room.local_participant

    def remote(self, identity):
        return self.room.remote_participants.get(identity)

    def _task(self, work):
        task = asyncio.create_task(work)
        self.tasks.append(task)
        return task

    async def show_picture(self, left, right):
        """Shows two halves of known colours, 15 times a second."""
        width, height = SIZE
        source = rtc.VideoSource(width, height)
        track = rtc.LocalVideoTrack.create_video_track("picture", source)
        options = rtc.TrackPublishOptions(source=rtc.TrackSource.SOURCE_CAMERA)
        await self.local.publish_track(track, options)
        pixels = numpy.full((height, width, 4), 255, dtype=numpy.uint8)
        pixels[:, : width // 2, :3] = left
        pixels[:, width // 2 :, :3] = right

        async def show():
            while True:
                source.capture_frame(rtc.VideoFrame(width, height, rtc.VideoBufferType.RGBA, pixels.tobytes()))
                await asyncio.sleep(1 / 15)

        self._task(show())

    async def play_tone(self, hertz):
        """Plays a tone of half scale."""
        source = rtc.AudioSource(RATE, 1)
        self.tone = rtc.LocalAudioTrack.create_audio_track("tone", source)
        options = rtc.TrackPublishOptions(source=rtc.TrackSource.SOURCE_MICROPHONE)
        await self.local.publish_track(self.tone, options)
        samples = RATE // 100

        async def play():
            at = 0
            while True:
                times = numpy.arange(at, at + samples) / RATE
                wave = (16_384 * numpy.sin(2 * numpy.pi * hertz * times)).astype(numpy.int16)
                await source.capture_frame(rtc.AudioFrame(wave.tobytes(), RATE, 1, samples))
                at += samples

        self._task(play())

    def _receive(self, track, participant):
        is_video = track.kind == rtc.TrackKind.KIND_VIDEO
        # A track that comes again is another one to the SDK, whose old one goes on in silence.
        if before := self.receivers.get((participant.identity, is_video)):
            before.cancel()
        receive = self._look if is_video else self._listen
        self.receivers[participant.identity, is_video] = self._task(receive(track, participant.identity))

    async def _look(self, track, identity):
        async for event in rtc.VideoStream(track):
            frame = event.frame.convert(rtc.VideoBufferType.RGBA)
            pixels = numpy.frombuffer(frame.data, dtype=numpy.uint8).reshape(frame.height, frame.width, 4)
            rows = pixels[frame.height // 4 : frame.height * 3 // 4, :, :3]
            eighth = frame.width // 8
            left = rows[:, eighth : 3 * eighth].mean(axis=(0, 1))
            right = rows[:, 5 * eighth : 7 * eighth].mean(axis=(0, 1))
            frames = self.pictures.get(identity, (0,))[0] + 1
            self.pictures[identity] = (frames, (frame.width, frame.height), left, right)

    async def _listen(self, track, identity):
        async for event in rtc.AudioStream(track, sample_rate=RATE, num_channels=1):
            samples = numpy.frombuffer(event.frame.data, dtype=numpy.int16)
            heard = numpy.concatenate([self.sounds.get(identity, samples[:0]), samples])
            self.sounds[identity] = heard[-RATE // 5 :]
            self.heard[identity] = self.heard.get(identity, 0) + len(samples)

    def share_of(self, identity, hertz):
        """The share of a tone in the last fifth of a second heard of somebody, 0 to 1."""
        heard = self.sounds.get(identity)
        if heard is None or len(heard) < RATE // 5:
            return 0.0
        wave = heard.astype(float)
        power = (wave**2).sum()
        if power < 1_000 * len(wave):
            return 0.0
        turn = numpy.exp(-2j * numpy.pi * hertz * numpy.arange(len(wave)) / RATE)
        return 2 * abs((wave * turn).sum()) ** 2 / (len(wave) * power)

    async def hears(self, identity, hertz):
        """Whether a tone of somebody goes on, measured over half a second."""
        before = self.heard.get(identity, 0)
        await asyncio.sleep(0.5)
        return self.heard.get(identity, 0) > before + RATE // 4 and self.share_of(identity, hertz) > 0.8

    def frames(self, identity):
        return self.pictures.get(identity, (0,))[0]

    async def until(self, what, seconds, done):
        """Waits until `done()` gives something true."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if result := done():
                return result
            await asyncio.sleep(0.025)
        raise AssertionError(f"{self.identity}: {what} did not happen within {seconds} s; {self.events}; {self.pictures}")

    async def leave(self):
        for task in self.tasks:
            task.cancel()
        await self.room.disconnect()


async def attempt(suite, scenario, number, server):
    start = time.monotonic()
    try:
        for peer in await scenario(f"{suite} {scenario.__name__} {number}", server):
            await peer.leave()
    except Exception:
        print(f"FAIL  {suite} / {scenario.__name__}, attempt {number} of {ATTEMPTS}\n{traceback.format_exc()}", flush=True)
        return False
    late = " ON ATTEMPT 2" if number > 1 else ""
    print(f"ok    {suite} / {scenario.__name__} ({time.monotonic() - start:.1f} s){late}", flush=True)
    return True


async def run_all(suite, scenarios, flags):
    wanted = sys.argv[1] if len(sys.argv) > 1 else ""
    chosen = [scenario for scenario in scenarios if wanted in scenario.__name__]
    server = Server(suite, flags)
    failed = []
    for scenario in chosen:
        for number in range(1, ATTEMPTS + 1):
            if await attempt(suite, scenario, number, server):
                break
        else:
            failed.append(scenario.__name__)
    server.stop()
    print(f"{len(chosen) - len(failed)} passed, {len(failed)} failed")
    return 1 if failed or not chosen else 0


def run(suite, scenarios, flags=()):
    """Runs the scenarios of a suite and ends with status 1 if any fails or there is none; never skips one."""
    enter_namespace()
    sys.exit(asyncio.run(run_all(suite, scenarios, flags)))
