"""Policies that learn from outcomes, and PASSTHROUGH, with real servers and a real client."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx

import meshclient


class Server(ThreadingHTTPServer):
    """Answers every GET with its name, after a while."""

    def __init__(self, name: str, delay_s: float = 0.0, host: str = "127.0.0.1") -> None:
        self.name, self.delay_s = name, delay_s
        super().__init__((host, 0), _Answer)
        self._thread = threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"

    def stop(self) -> None:
        self.shutdown()
        self._thread.join(5)
        self.server_close()


class _Answer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        server = self.server
        assert isinstance(server, Server)
        time.sleep(server.delay_s)
        body = server.name.encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Nothing to the terminal."""


@contextmanager
def servers(*settings: tuple[str, float]) -> Iterator[list[Server]]:
    running = [Server(name, delay_s) for name, delay_s in settings]
    try:
        yield running
    finally:
        for server in running:
            server.stop()


def test_peak_ewma_turns_away_from_a_slow_server() -> None:
    """One call at a time: nothing is in flight, only the latency tells. The slow one is
    asked at the most twice: when nobody was measured yet, and once by chance."""
    with servers(("slow", 0.4), ("one", 0.0), ("two", 0.0)) as running:
        service = {
            "endpoints": [server.address for server in running],
            "load_balancing": {"policy": "peak_ewma", "peak_ewma": {"default_rtt": "200ms"}},
        }
        document = {"version": 1, "services": {"s.test": service}}
        with (
            meshclient.Mesh.from_documents([document]) as mesh,
            mesh.client(trust_env=False) as client,
        ):
            seen = Counter(client.get("http://s.test/").text for _ in range(60))
    assert seen["slow"] <= 2
    assert seen["one"] + seen["two"] >= 58


def test_pick_first_stays_and_moves_on_when_it_cannot_connect() -> None:
    with servers(("a", 0.0), ("b", 0.0), ("c", 0.0)) as running:
        service = {
            "endpoints": [server.address for server in running],
            "load_balancing": "pick_first",
        }
        document = {"version": 1, "services": {"s.test": service}}
        with (
            meshclient.Mesh.from_documents([document]) as mesh,
            mesh.client(trust_env=False) as client,
        ):
            assert {client.get("http://s.test/").text for _ in range(10)} == {"a"}
            running.pop(0).stop()
            # The connection in the pool is dead or alive; new ones are refused.
            seen = []
            for _ in range(10):
                try:
                    seen.append(client.get("http://s.test/", headers={"connection": "close"}).text)
                except httpx.HTTPError:
                    seen.append("")
            assert set(seen[-5:]) == {"b"}


_PASSTHROUGH = [
    {
        "apiVersion": "networking.istio.io/v1",
        "kind": "ServiceEntry",
        "metadata": {"name": "e", "namespace": "default"},
        "spec": {
            "hosts": ["svc.test"],
            "ports": [{"number": 0, "name": "http", "protocol": "HTTP"}],
            "resolution": "STATIC",
            "endpoints": [{"address": "127.0.0.1"}],
        },
    },
    {
        "apiVersion": "networking.istio.io/v1",
        "kind": "DestinationRule",
        "metadata": {"name": "d", "namespace": "default"},
        "spec": {"host": "svc.test", "trafficPolicy": {"loadBalancer": {"simple": "PASSTHROUGH"}}},
    },
]


def test_passthrough_goes_where_the_caller_dialled() -> None:
    """The ServiceEntry's endpoint is one that refuses; the rule says to dial the host itself."""
    with servers(("dialled", 0.0)) as (server,):
        port = server.server_address[1]
        entry, rule = _PASSTHROUGH
        spec: dict[str, Any] = {
            **entry["spec"],  # type: ignore[dict-item]
            "ports": [{"number": port, "name": "http", "protocol": "HTTP"}],
            "endpoints": [{"address": "127.0.0.99", "ports": {"http": 9}}],
        }
        documents = [{**entry, "spec": spec}, rule]
        with (
            meshclient.Mesh.from_documents(documents) as mesh,
            mesh.client(trust_env=False) as client,
        ):
            response = client.get(f"http://127.0.0.1:{port}/", headers={"Host": "svc.test"})
        report = response.extensions["meshclient"]
    assert response.text == "dialled"
    assert report.cluster == f"outbound|{port}||svc.test"


def test_an_httpx_client_keeps_its_session_and_a_retry_moves_it() -> None:
    with servers(("a", 0.0), ("b", 0.0), ("c", 0.0)) as running:
        service = {
            "endpoints": [server.address for server in running],
            "load_balancing": {"policy": "round_robin", "session": {"cookie": "sticky"}},
        }
        document = {"version": 1, "services": {"s.test": service}}
        with (
            meshclient.Mesh.from_documents([document]) as mesh,
            mesh.client(trust_env=False) as client,
        ):
            first = client.get("http://s.test/")
            assert "sticky=" in first.headers["set-cookie"]
            home = first.text
            again = [client.get("http://s.test/") for _ in range(12)]
            assert {response.text for response in again} == {home}
            assert all("set-cookie" not in response.headers for response in again)
            others = {client.get("http://s.test/", headers={"cookie": "x=1"}).text for _ in "abc"}
            assert others == {"a", "b", "c"}, "without the cookie, in turn"
            number = "abc".index(home)
            running.pop(number).stop()
            moved = client.get("http://s.test/")
            assert moved.text != home
            assert "sticky=" in moved.headers["set-cookie"]
            assert client.get("http://s.test/").text == moved.text
