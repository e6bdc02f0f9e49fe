"""A slow instance, and what hedging makes of it: `python examples/hedging.py`."""

from __future__ import annotations

import http.server
import threading
import time

import meshclient


def serve(delay_s: float) -> int:
    """A server that answers after ``delay_s``; its port."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            time.sleep(delay_s)
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"ok")

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_port


endpoints = [f"127.0.0.1:{serve(delay_s)}" for delay_s in (0.5, 0.0, 0.0)]

for hedging in ({}, {"delay": "30ms"}):
    service = {"endpoints": endpoints, "load_balancing": "round_robin", "hedging": hedging}
    with (
        meshclient.Mesh.from_documents([{"version": 1, "services": {"shop": service}}]) as mesh,
        mesh.client() as client,
    ):
        times_ms = []
        for _ in range(6):
            started = time.perf_counter()
            report = client.get("http://shop/").extensions["meshclient"]
            times_ms.append(round(1000 * (time.perf_counter() - started)))
        tries = [attempt.outcome for attempt in report.attempts]
        print(f"hedging {hedging or 'off'}: {times_ms} ms; the last call's tries: {tries}")
