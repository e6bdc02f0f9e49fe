"""One bookinfo service as a small HTTP server: ``service.py NAME VERSION PORT POLICIES``.

``productpage`` and ``reviews`` call other services by their plain Kubernetes
names through meshclient; nothing else in here knows about a mesh.
"""

from __future__ import annotations

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import meshclient

STARS = {"v2": "black", "v3": "red"}


class Bookinfo(ThreadingHTTPServer):
    """A server that knows its own name and holds one client for all threads."""

    daemon_threads = True

    def __init__(self, name: str, version: str, port: int, policies: str) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.app = name
        self.version = version
        self.broken = False  # GET /break and /mend change it
        self.client: Any = None
        if name in ("productpage", "reviews"):
            self.client = meshclient.Mesh.from_file(policies).client()

    def answer(self, user: str) -> dict[str, Any]:
        return getattr(self, self.app)(user)

    def details(self, _user: str) -> dict[str, Any]:
        return {"author": "William Shakespeare", "pages": 200}

    def ratings(self, _user: str) -> dict[str, Any]:
        return {"Reviewer1": 5, "Reviewer2": 4}

    def reviews(self, user: str) -> dict[str, Any]:
        page: dict[str, Any] = {"reviews": ["An extremely entertaining play."]}
        if self.version in STARS:
            page["stars"] = STARS[self.version]
            page["ratings"] = self.get("http://ratings:9080/ratings/0", user)[0]
        return page

    def productpage(self, user: str) -> dict[str, Any]:
        reviews, attempts = self.get("http://reviews:9080/reviews/0", user)
        details, _ = self.get("http://details:9080/details/0", user)
        return {"reviews": reviews, "details": details, "tries": attempts}

    def get(self, url: str, user: str) -> tuple[Any, int]:
        """The answer, and how many tries the mesh needed for it."""
        response = self.client.get(url, headers={"end-user": user} if user else None)
        response.raise_for_status()
        return response.json(), len(response.extensions["meshclient"].attempts)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet
    disable_nagle_algorithm = True
    server: Bookinfo

    def do_GET(self) -> None:
        if self.path in ("/break", "/mend"):
            self.server.broken = self.path == "/break"
        try:
            if self.server.broken:
                raise RuntimeError("this instance is broken")
            page = self.server.answer(self.headers.get("end-user", ""))
            page |= {"served_by": f"{self.server.app}-{self.server.version}"}
            status = 200
        except Exception as error:
            status, page = 503, {"error": str(error)}
        body = json.dumps(page).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_args: object) -> None:
        """Quiet."""


if __name__ == "__main__":
    name, version, port, policies = sys.argv[1:5]
    Bookinfo(name, version, int(port), policies).serve_forever()
