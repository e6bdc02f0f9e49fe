"""One endpoint of three falls ill: it is ejected, sits out its time, and comes back.

Three servers on this machine; run it, no file is needed. What happened is told by the
mesh's own events; ``mesh.explain`` shows the moment in between.
"""

from __future__ import annotations

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import meshclient


class Handler(BaseHTTPRequestHandler):
    """Answers 503 while its server is ill."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        ill = getattr(self.server, "ill", False)
        self.send_response(503 if ill else 200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Quiet."""


def serve() -> ThreadingHTTPServer:
    """A server on a free port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


servers = [serve() for _ in range(3)]
POLICY = {
    "version": 1,
    "services": {
        "reviews": {
            "endpoints": [f"127.0.0.1:{server.server_port}" for server in servers],
            "load_balancing": "round_robin",
            "outlier_detection": {
                "consecutive_5xx": 3,
                "interval": "200ms",
                "base_ejection_time": "500ms",
                "max_ejection_percent": 50,
            },
        }
    },
}


def calls(client: object, count: int) -> str:
    """How ``count`` calls went."""
    statuses = [client.get("http://reviews/").status_code for _ in range(count)]  # type: ignore[attr-defined]
    return f"{statuses.count(200)} of {count} calls fine"


if __name__ == "__main__":
    with meshclient.Mesh.from_documents([POLICY]) as mesh, mesh.client() as client:
        mesh.subscribe(print)
        print("all well:      ", calls(client, 30))
        servers[1].ill = True  # type: ignore[attr-defined]
        print("one falls ill: ", calls(client, 30))
        time.sleep(0.1)
        print("it is ejected: ", calls(client, 30))
        print(mesh.explain("GET", "http://reviews/"))
        servers[1].ill = False  # type: ignore[attr-defined]
        time.sleep(1.0)
        print("it is back:    ", calls(client, 30))
    for server in servers:
        server.shutdown()
