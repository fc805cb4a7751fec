"""The TURN suite: coturn's own client against the embedded server of the release binary, in a private network namespace.

    python3 run.py [FILTER]     only scenarios whose name contains FILTER

Credentials are made here from LiveKit's description of them, not by the code under test.
"""

import hashlib
import itertools
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import urllib.request
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "python"))

import namespace  # noqa: E402

ROOT = Path(__file__).resolve().parents[3]
KEY, SECRET = "suitekey", "a-secret-of-the-turn-suite-0123456789"
HOST, PEER, DENIED = "10.77.0.1", "10.77.0.2", "10.77.0.3"
PEER_PORT, UDP_PORT, STREAM_PORT = 3480, 3478, 5349
METRICS = "http://127.0.0.1:7880/metrics"
DOMAIN = "turn.suite.test"

SET_UP = [
    "ip link set lo up",
    "ip link add v0 type veth peer name v1",
    *(f"ip addr add {ip}/24 dev v0" for ip in (HOST, PEER, DENIED)),
    "ip link set v0 up",
    "ip link set v1 up",
]


def base62(data):
    """Six bits a letter from the low end, five where six have no letter."""
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
    value, bits, text = int.from_bytes(data, "big"), len(data) * 8, ""
    while bits > 0:
        is_short = value & 0x1E == 0x1E
        width = 5 if is_short else 6
        text += letters[value & ((1 << width) - 1)]
        value >>= width
        bits -= width
    return text


users = itertools.count()


def credentials(seconds=300, sid=None):
    """Of a participant of its own, unless one is named."""
    sid = sid or f"PA_suite{next(users)}"
    expiry = int(time.time()) + seconds
    password = hashlib.sha256(f"{SECRET}|{sid}|{expiry}".encode()).digest()
    return base62(f"{KEY}|{sid}|{expiry}".encode()), base62(password)


class Server:
    """The binary with TURN as configured; `with` ends it, and fails where it did not end well."""

    def __init__(self, folder, **turn):
        settings = {
            "enabled": "true",
            "domain": DOMAIN,
            "cert_file": folder / "cert.pem",
            "key_file": folder / "key.pem",
            "allow_restricted_peer_cidrs": f"['{PEER}/32']",
            **turn,
        }
        config = folder / "auralink.yaml"
        lines = "".join(f"  {key}: {value}\n" for key, value in settings.items())
        config.write_text(f"keys: {{{KEY}: {SECRET}}}\nrtc:\n  node_ip: {HOST}\nturn:\n{lines}")
        artifacts = ROOT / "artifacts"
        artifacts.mkdir(exist_ok=True)
        self.log = open(artifacts / "server-turn.log", "ab")
        self.process = subprocess.Popen([ROOT / "target/release/auralink", "serve", "--config", config], stdout=self.log, stderr=self.log)

    def __enter__(self):
        deadline = time.monotonic() + 10
        while True:
            try:
                urllib.request.urlopen(METRICS).read()
                return self
            except OSError:
                if time.monotonic() > deadline or self.process.poll() is not None:
                    raise RuntimeError("the server is not ready") from None
                time.sleep(0.05)

    def metric(self, name, **labels):
        page = urllib.request.urlopen(METRICS).read().decode()
        wanted = [f'{key}="{value}"' for key, value in labels.items()]
        lines = [line for line in page.splitlines() if line.startswith((f"auralink_turn_{name} ", f"auralink_turn_{name}{{"))]
        assert lines, f"no metric {name}"
        return sum(float(line.split()[-1]) for line in lines if all(label in line for label in wanted))

    def until(self, what, seconds, done):
        deadline = time.monotonic() + seconds
        while not done():
            assert time.monotonic() < deadline, f"{what} did not happen within {seconds} s"
            time.sleep(0.05)

    def __exit__(self, failed, *_):
        self.process.terminate()
        ended = self.process.wait(timeout=10)
        if not failed:
            assert ended == 0, f"the server ended with {ended}"


def echo():
    """A peer that sends everything back."""
    peer = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    peer.bind((PEER, PEER_PORT))

    def run():
        while True:
            data, sender = peer.recvfrom(4_096)
            peer.sendto(data, sender)

    threading.Thread(target=run, daemon=True).start()


def uclient(*flags, who=None, peer=PEER, messages=50, seconds=60, port=UDP_PORT):
    """Runs coturn's client; its exit status and all it said."""
    username, password = who or credentials()
    command = ["turnutils_uclient", "-v", "-c", "-n", messages, "-e", peer, "-r", PEER_PORT, "-u", username, "-w", password]
    command += ["-p", port, *flags, HOST]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=seconds)
    return done.returncode, done.stdout + done.stderr


def relayed(server, *flags, clients=2, messages=50, **options):
    """Everything that is sent through relays comes back. Over TCP nothing is left of them: the client ends its connections."""
    before = server.metric("packets_total", direction="to_client")
    status, said = uclient("-m", clients, *flags, messages=messages, **options)
    counts = re.findall(r"tot_send_msgs=(\d+), tot_recv_msgs=(\d+)", said)
    assert status == 0 and counts, said[-3_000:]
    assert counts[-1] == (str(clients * messages),) * 2, said[-3_000:]
    assert "Total lost packets 0 " in said, said[-3_000:]
    assert server.metric("packets_total", direction="to_client") - before >= clients * messages
    if "-t" in flags:
        server.until("the end of the allocations", 5, lambda: server.metric("allocations") == 0)


def udp(folder):
    """Channels and Send indications over UDP."""
    with Server(folder) as server:
        relayed(server)
        relayed(server, "-s")
        relayed(server, "-X", "-G", "-D")
        # Each makes two allocations, and a user name has twelve.
        relayed(server, "-l", 1_200, clients=6)


def tcp(folder):
    """The same over TCP, as behind a balancer that ends TLS."""
    with Server(folder, external_tls="true") as server:
        relayed(server, "-t", port=STREAM_PORT)
        # Messages that want padding.
        relayed(server, "-t", "-l", 101, port=STREAM_PORT)
        relayed(server, "-t", "-s", "-l", 1_201, port=STREAM_PORT)
        refused(server, "unsupported_transport", "-T", port=STREAM_PORT)
        server.until("the end of the connections", 5, lambda: server.metric("connections") == 0)
        assert server.metric("connections_total", outcome="accepted") >= 6


def tls(folder):
    """And over TLS, whose certificate the client verifies."""
    with Server(folder) as server:
        relayed(server, "-t", "-S", "-E", folder / "cert.pem", port=STREAM_PORT)
        relayed(server, "-t", "-S", "-s", "-l", 1_201, port=STREAM_PORT)
        # Who speaks no TLS, or nothing, is sent away.
        with socket.create_connection((HOST, STREAM_PORT)) as plain:
            plain.sendall(b"GET / HTTP/1.1\r\n\r\n")
            plain.settimeout(5)
            while plain.recv(4_096):
                pass
        with socket.create_connection((HOST, STREAM_PORT)) as silent:
            silent.settimeout(15)
            assert silent.recv(1) == b"", "closed"
        server.until("both counted", 5, lambda: server.metric("connections_total", outcome="handshake") >= 2)


def between_clients(folder):
    """Two clients reach each other through two relays, where the operator allows relays as peers."""
    with Server(folder, allow_restricted_peer_cidrs="['10.77.0.0/24']") as server:
        status, said = uclient("-y", "-m", 2)
        assert status == 0 and "Total lost packets 0 " in said, said[-3_000:]
        assert server.metric("dropped_total") == 0


def refused(server, reason, *flags, **options):
    """The client is refused, and fails."""
    before = server.metric("refused_total", reason=reason)
    try:
        status, said = uclient(*flags, seconds=8, **options)
        assert status != 0 or "Total lost packets 0 " not in said, said[-3_000:]
    except subprocess.TimeoutExpired:
        pass
    assert server.metric("refused_total", reason=reason) > before, f"refused as {reason}"


def refusals(folder):
    """Wrong and expired credentials, denied peers, too many allocations."""
    with Server(folder) as server:
        username, password = credentials()
        refused(server, "unauthenticated", who=(username, password[:-1] + "0"))
        refused(server, "unauthenticated", who=("nobody", password))
        refused(server, "unauthenticated", who=credentials(-1))
        # A user name with a later expiry, under the old password.
        early, late = credentials(-1, sid="PA_one"), credentials(9_999, sid="PA_one")
        refused(server, "unauthenticated", who=(late[0], early[1]))
        assert server.metric("allocations_total") == 0
        refused(server, "forbidden", peer=DENIED)
        refused(server, "forbidden", peer="127.0.0.1")
        refused(server, "quota", "-m", 13)
        refused(server, "address_family", "-x", peer="2001:db8::1")
        refused(server, "unknown_attribute", "-g")
        assert server.metric("packets_total", direction="to_client") == 0
        relayed(server, who=(username, password))


def misuse(folder):
    """coturn's negative tests and its flood change nothing for others."""
    with Server(folder) as server:
        for flags in (["-N", "-R"], ["-R", "-s"], ["-O", "-m", 12], ["-B", "-m", 12]):
            try:
                uclient(*flags, seconds=15, who=credentials(sid="PA_misuse"))
            except subprocess.TimeoutExpired:
                pass
        assert server.process.poll() is None, "the server lives"
        status, said = uclient("-m", 4, who=credentials(sid="PA_other"))
        assert status == 0 and "Total lost packets 0 " in said, said[-3_000:]


def certificate(folder):
    """A certificate of its own for the suite's name and address."""
    names = f"subjectAltName=DNS:{DOMAIN},IP:{HOST}"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    command += ["-subj", f"/CN={DOMAIN}", "-addext", names, "-keyout", folder / "key.pem", "-out", folder / "cert.pem"]
    subprocess.run(command, check=True, capture_output=True)


def main():
    wanted = sys.argv[1] if len(sys.argv) > 1 else ""
    scenarios = [udp, tcp, tls, between_clients, refusals, misuse]
    chosen = [scenario for scenario in scenarios if wanted in scenario.__name__]
    failed = []
    echo()
    with tempfile.TemporaryDirectory() as folder:
        certificate(Path(folder))
        for scenario in chosen:
            start = time.monotonic()
            try:
                scenario(Path(folder))
                print(f"ok    turn / {scenario.__name__} ({time.monotonic() - start:.1f} s)", flush=True)
            except Exception:
                failed.append(scenario.__name__)
                print(f"FAIL  turn / {scenario.__name__}\n{traceback.format_exc()}", flush=True)
    print(f"{len(chosen) - len(failed)} passed, {len(failed)} failed")
    sys.exit(1 if failed or not chosen else 0)


namespace.enter(SET_UP)
main()
