"""The smallest whole thing: two servers, one policy file, sync and async calls.

One of the servers answers every second request with 503; the policy retries,
so the caller never sees it.
"""

from __future__ import annotations

import asyncio
import tempfile
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import httpx

import meshclient

POLICY = """\
version: 1
services:
  greeter:
    endpoints: [{endpoints}]
    load_balancing: {{policy: round_robin}}
    timeout: 2s
    retries: {{attempts: 2, on: [connect-failure, reset, 503], per_try_timeout: 500ms}}
"""


class Greeter(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet
    requests: ClassVar[Counter[int]] = Counter()

    def do_GET(self) -> None:
        port = self.server.server_address[1]
        self.requests[port] += 1
        moody = port == max(self.requests) and self.requests[port] % 2 == 0
        body = f"hello from {port}".encode()
        self.send_response(503 if moody else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_args: object) -> None:
        """Quiet."""


def sync_calls(client: httpx.Client) -> None:
    answers = Counter(client.get("http://greeter/").text for _ in range(20))
    print("sync:", dict(answers))
    response = client.get("http://greeter/")
    for attempt in response.extensions["meshclient"].attempts:
        print("  a try:", attempt)


async def async_calls(mesh: meshclient.Mesh) -> None:
    async with mesh.async_client() as client:
        responses = [await client.get("http://greeter/") for _ in range(20)]
    print("async:", dict(Counter(response.text for response in responses)))


def main() -> None:
    servers = [ThreadingHTTPServer(("127.0.0.1", 0), Greeter) for _ in range(2)]
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoints = ", ".join(f"127.0.0.1:{server.server_address[1]}" for server in servers)
    with tempfile.TemporaryDirectory() as folder:
        policy = Path(folder, "policy.yaml")
        policy.write_text(POLICY.format(endpoints=endpoints))
        with meshclient.Mesh.from_file(policy) as mesh:
            with mesh.client() as client:
                sync_calls(client)
            asyncio.run(async_calls(mesh))
            print(mesh.explain("GET", "http://greeter/"))
    for server in servers:
        server.shutdown()
        server.server_close()


if __name__ == "__main__":
    main()
