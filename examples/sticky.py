"""Which endpoint a caller gets, and keeps: by the hash of a header, and by a session cookie.

Three servers on this machine; run it, no file is needed. ``carts`` hashes the user, as a
cache would want it: one endpoint less moves only that endpoint's users. ``chat`` gives
each client a cookie that names its endpoint.
"""

from __future__ import annotations

import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import meshclient


class Handler(BaseHTTPRequestHandler):
    """Answers with the port of its server."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        body = b"%d" % self.server.server_address[1]
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Quiet."""


def serve() -> ThreadingHTTPServer:
    """A server on a free port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def policy(ports: list[int]) -> dict[str, Any]:
    """Both services on the servers of these ports."""
    endpoints = [f"127.0.0.1:{port}" for port in ports]
    hashed = {"policy": "maglev", "hash_on": {"header": "x-user"}}
    kept = {"policy": "least_request", "session": {"cookie": {"name": "home", "ttl": "1h"}}}
    services = {
        "carts": {"endpoints": endpoints, "load_balancing": hashed},
        "chat": {"endpoints": endpoints, "load_balancing": kept},
    }
    return {"version": 1, "services": services}


def homes(ports: list[int]) -> dict[str, str]:
    """The endpoint of each of 90 users, asked twice."""
    with meshclient.Mesh.from_documents([policy(ports)]) as mesh, mesh.client() as client:
        found = {}
        for user in [f"user-{n}" for n in range(90)] * 2:
            answer = client.get("http://carts/", headers={"x-user": user}).text
            assert found.setdefault(user, answer) == answer, "a user has one endpoint"
        return found


if __name__ == "__main__":
    servers = [serve() for _ in range(3)]
    ports = [server.server_port for server in servers]

    all_three = homes(ports)
    print("users per endpoint:   ", sorted(Counter(all_three.values()).values()))
    two = homes(ports[:2])
    gone = str(ports[2])
    moved = [u for u in two if two[u] != all_three[u] and all_three[u] != gone]
    print("users that had to move:", sum(home == gone for home in all_three.values()))
    print(f"others that moved:      {len(moved)} of {len(two)}")

    with meshclient.Mesh.from_documents([policy(ports)]) as mesh, mesh.client() as client:
        first = client.get("http://chat/")
        again = {client.get("http://chat/").text for _ in range(20)}
        print("the cookie:           ", first.headers["set-cookie"].partition(";")[0][:30], "...")
        print("20 calls of a session went to", len(again), "endpoint")
    for server in servers:
        server.shutdown()
        server.server_close()
