"""GStreamer's `webrtcbin` as a WHIP publisher: an RSA certificate, VP8 and Opus, candidates of its own for UDP and TCP. Run by the
distribution's Python, which has the bindings:

    python3 gstreamer.py ENDPOINT TOKEN     publishes until standard input ends
"""

import sys
import threading
import urllib.request
from urllib.parse import urljoin

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstSdp", "1.0")
gi.require_version("GstWebRTC", "1.0")
from gi.repository import GLib, Gst, GstSdp, GstWebRTC  # noqa: E402

# Two halves of known colours, and a known tone.
PIPELINE = """
    webrtcbin name=peer bundle-policy=max-bundle
    compositor name=halves sink_1::xpos=160 ! video/x-raw,width=320,height=180,framerate=15/1 ! videoconvert
        ! vp8enc deadline=1 keyframe-max-dist=30 target-bitrate=400000 ! rtpvp8pay
        ! application/x-rtp,media=video,encoding-name=VP8,payload=96 ! peer.
    videotestsrc is-live=true pattern=solid-color foreground-color=0xffc81e1e ! video/x-raw,width=160,height=180,framerate=15/1
        ! halves.sink_0
    videotestsrc is-live=true pattern=solid-color foreground-color=0xff1e1ec8 ! video/x-raw,width=160,height=180,framerate=15/1
        ! halves.sink_1
    audiotestsrc is-live=true freq=440 volume=0.5 ! audioconvert ! audioresample ! audio/x-raw,rate=48000,channels=2
        ! opusenc ! rtpopuspay ! application/x-rtp,media=audio,encoding-name=OPUS,payload=97 ! peer.
"""


class Publisher:
    def __init__(self, endpoint, bearer):
        self.endpoint, self.bearer = endpoint, bearer
        self.loop = GLib.MainLoop()
        self.resource, self.error, self.has_offered = None, None, False
        self.pipeline = Gst.parse_launch(PIPELINE)
        self.peer = self.pipeline.get_by_name("peer")
        self.peer.connect("on-negotiation-needed", self.negotiate)
        self.peer.connect("notify::ice-gathering-state", self.gathered)

    def negotiate(self, peer):
        if not self.has_offered:
            self.has_offered = True
            peer.emit("create-offer", None, Gst.Promise.new_with_change_func(self.offered))

    def offered(self, promise):
        # The reply owns the offer and has to live as long as it.
        reply = promise.get_reply()
        self.peer.emit("set-local-description", reply["offer"], Gst.Promise.new())

    def gathered(self, peer, _):
        if peer.get_property("ice-gathering-state") == GstWebRTC.WebRTCICEGatheringState.COMPLETE:
            GLib.idle_add(self.publish)

    def request(self, method, url, body=None):
        headers = {"Authorization": f"Bearer {self.bearer}", "Content-Type": "application/sdp"}
        return urllib.request.urlopen(urllib.request.Request(url, body, headers, method=method), timeout=10)

    def publish(self):
        try:
            offer = self.peer.get_property("local-description").sdp.as_text()
            with self.request("POST", self.endpoint, offer.encode()) as reply:
                self.resource = urljoin(self.endpoint, reply.headers["Location"])
                _, answer = GstSdp.SDPMessage.new_from_text(reply.read().decode())
            description = GstWebRTC.WebRTCSessionDescription.new(GstWebRTC.WebRTCSDPType.ANSWER, answer)
            self.peer.emit("set-remote-description", description, Gst.Promise.new())
        except Exception as error:
            self.error = error
            self.loop.quit()
        return False

    def run(self):
        threading.Thread(target=lambda: (sys.stdin.read(), GLib.idle_add(self.loop.quit)), daemon=True).start()
        self.pipeline.set_state(Gst.State.PLAYING)
        self.loop.run()
        if self.resource:
            self.request("DELETE", self.resource).close()
        self.pipeline.set_state(Gst.State.NULL)
        if self.error:
            raise self.error


if __name__ == "__main__":
    Gst.init(None)
    Publisher(*sys.argv[1:]).run()
