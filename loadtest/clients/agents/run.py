"""The agents suite: a worker of LiveKit's agent framework (livekit-agents) against the release binary.

    python run.py [FILTER]     only scenarios whose name contains FILTER
"""

import asyncio
import contextlib
import http.server
import os
import subprocess
import sys
import threading
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "python"))

from livekit import api, rtc  # noqa: E402
from suite import HTTP_URL, KEY, ROOT, SECRET, WS_URL, Peer, enter_namespace, run  # noqa: E402

HERTZ = 880
WEBHOOK_PORT = 7895
WEBHOOKS = f'[webhook]\napi_key = "{KEY}"\nurls = ["http://127.0.0.1:{WEBHOOK_PORT}/"]\n'
WORKERS = "auralink_agent_workers"


class Webhooks(http.server.BaseHTTPRequestHandler):
    """What the server tells of jobs, verified as LiveKit's SDK does: (event, room, state), oldest first."""

    told = []
    receiver = api.WebhookReceiver(api.TokenVerifier(KEY, SECRET))

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"])).decode()
        event = self.receiver.receive(body, self.headers["authorization"])
        if event.event.startswith("agent_job_"):
            self.told.append((event.event, event.room.name, event.job.state.status))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        pass

    @classmethod
    def start(cls):
        server = http.server.ThreadingHTTPServer(("127.0.0.1", WEBHOOK_PORT), cls)
        threading.Thread(target=server.serve_forever, daemon=True).start()

    @classmethod
    def of(cls, room):
        return [(event, status) for event, told, status in cls.told if told == room]


@contextlib.asynccontextmanager
async def worker(name, server):
    """A worker process, from when the server knows it until it has ended by itself when asked to."""
    environment = {**os.environ, "LIVEKIT_URL": WS_URL, "LIVEKIT_API_KEY": KEY, "LIVEKIT_API_SECRET": SECRET, "AGENT_NAME": name}
    with open(ROOT / "artifacts/agent.log", "ab") as log:
        process = subprocess.Popen([sys.executable, "agent.py", "start"], cwd=HERE, env=environment, stdout=log, stderr=log)
    try:
        await until("the worker registered", 30, lambda: server.metric(WORKERS) == 1)
        yield process
        process.terminate()
        status = await asyncio.to_thread(process.wait, 30)
        assert status == 0, f"the worker ended with {status}"
        await until("no worker", 5, lambda: server.metric(WORKERS) == 0)
    finally:
        process.kill()


async def until(what, seconds, done):
    for _ in range(seconds * 40):
        if result := done():
            return result
        await asyncio.sleep(0.025)
    raise AssertionError(f"{what}: not within {seconds} s")


def agent_of(peer):
    agents = [held for held in peer.room.remote_participants.values() if held.kind == rtc.ParticipantKind.PARTICIPANT_KIND_AGENT]
    return agents[0] if agents else None


async def hear(peer):
    """The agent is there, is known as one, and speaks."""
    agent = await peer.until("an agent", 30, lambda: agent_of(peer))
    await peer.until("its voice", 10, lambda: peer.share_of(agent.identity, HERTZ) > 0.8)
    return agent


async def automatic(room, server):
    """A worker without a name gets every new room; it leaves when its work is done, and when the room ends."""
    async with worker("", server):
        alice = await Peer.join("alice", room)
        agent = await hear(alice)
        await alice.until("what it was told", 5, lambda: agent.attributes.get("room") == room)
        await alice.local.publish_data(b"", topic="leave")
        await alice.until("the agent gone", 10, lambda: not agent_of(alice))
        bob = await Peer.join("bob", f"{room} again")
        await hear(bob)
        async with api.LiveKitAPI(HTTP_URL, KEY, SECRET) as service:
            await service.room.delete_room(api.DeleteRoomRequest(room=f"{room} again"))
        await bob.until("the end", 5, lambda: any("disconnected" in event for event in bob.events))
    return alice, bob


async def dispatched(room, server):
    """A worker with a name comes when it is dispatched, and goes when the dispatch is deleted."""
    async with worker("helper", server), api.LiveKitAPI(HTTP_URL, KEY, SECRET) as service:
        alice = await Peer.join("alice", room)
        await asyncio.sleep(1)
        assert not agent_of(alice), "nobody asked for it"
        request = api.CreateAgentDispatchRequest(room=room, agent_name="helper", metadata="x")
        dispatch = await service.agent_dispatch.create_dispatch(request)
        agent = await hear(alice)
        await alice.until("what it was told", 5, lambda: agent.attributes.get("told") == "x")
        [job] = (await service.agent_dispatch.get_dispatch(dispatch.id, room)).state.jobs
        assert job.state.status == api.JobStatus.JS_RUNNING, job
        assert job.state.participant_identity == agent.identity, job
        await service.agent_dispatch.delete_dispatch(dispatch.id, room)
        await alice.until("the agent gone", 15, lambda: not agent_of(alice))
        told = [("agent_job_started", api.JobStatus.JS_RUNNING), ("agent_job_ended", api.JobStatus.JS_SUCCESS)]
        await until("both webhooks of the job", 5, lambda: len(Webhooks.of(room)) == 2)
        assert Webhooks.of(room) == told, Webhooks.of(room)
        held = [held.id for held in await service.agent_dispatch.list_dispatch(room) if held.agent_name]
        assert not held, held
    return (alice,)


async def by_token(room, server):
    """A token can ask for an agent in the room that it creates."""
    async with worker("helper", server):
        wish = api.RoomConfiguration(agents=[api.RoomAgentDispatch(agent_name="helper", metadata="of the token")])
        alice = await Peer.join("alice", room, configure=lambda token: token.with_room_config(wish))
        agent = await hear(alice)
        await alice.until("what it was told", 5, lambda: agent.attributes.get("told") == "of the token")
    await alice.until("the agent gone with its worker", 15, lambda: not agent_of(alice))
    return (alice,)


enter_namespace()
Webhooks.start()
run("agents", [automatic, dispatched, by_token], ["--config-body", WEBHOOKS])
