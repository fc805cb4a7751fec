"""An agent as people write them with LiveKit's framework: it joins, says what it was told, plays a tone and leaves when asked to."""

import asyncio
import os

import numpy
from livekit import rtc
from livekit.agents import AgentServer, JobContext, cli

RATE = 48_000
HERTZ = 880

# The machine's load is not what is tested here; a busy one would have the worker refuse work.
server = AgentServer(num_idle_processes=1, initialize_process_timeout=60, drain_timeout=1, load_fnc=lambda: 0.1)


async def speak(source, asked):
    samples, at = RATE // 100, 0
    while not asked.is_set():
        times = numpy.arange(at, at + samples) / RATE
        wave = (16_384 * numpy.sin(2 * numpy.pi * HERTZ * times)).astype(numpy.int16)
        await source.capture_frame(rtc.AudioFrame(wave.tobytes(), RATE, 1, samples))
        at += samples


@server.rtc_session(agent_name=os.environ["AGENT_NAME"])
async def entry(job: JobContext):
    asked = asyncio.Event()

    def leave():
        asked.set()
        job.shutdown("asked to")

    job.room.on("data_received", lambda packet: leave() if packet.topic == "leave" else None)
    await job.connect()
    local = job.room.local_participant
    source = rtc.AudioSource(RATE, 1)
    track = rtc.LocalAudioTrack.create_audio_track("voice", source)
    await local.publish_track(track, rtc.TrackPublishOptions(source=rtc.TrackSource.SOURCE_MICROPHONE))
    await local.set_attributes({"told": job.job.metadata, "room": job.job.room.name})
    speaking = asyncio.create_task(speak(source, asked))

    async def stop():
        asked.set()
        await speaking

    job.add_shutdown_callback(stop)


if __name__ == "__main__":
    cli.run_app(server)
