"""TLS sessions are resumed where they may be, counted by a real server: by every kind of client."""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import trio
from engine_support import LOOPS, run_on
from tls_support import Authority, server_context

import meshclient
from meshclient.transport import tls_context
from meshclient.transport.tls_sessions import MAX_PER_KEY, MAX_SESSIONS, SessionStore

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="makes its certificates")

KINDS = ("sync", *LOOPS, "trio")
VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
ONCE = {"max_requests": 1}


class Counting:
    """Answers every request, and notes for each connection whether its session was resumed."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self.reused: list[bool] = []
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                self._threads.append(
                    threading.Thread(target=self._serve, args=(sock,), daemon=True)
                )
                self._threads[-1].start()

    def _serve(self, sock: socket.socket) -> None:
        try:
            secured = self._context.wrap_socket(sock, server_side=True)
        except OSError:
            sock.close()
            return
        self.reused.append(bool(secured.session_reused))
        with secured, suppress(OSError):
            while b"\r\n\r\n" in secured.recv(65536):
                secured.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(5)


@contextmanager
def counting(context: ssl.SSLContext) -> Iterator[Counting]:
    server = Counting(context)
    try:
        yield server
    finally:
        server.close()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("sessions"))


def mesh_of(authority: Authority, services: dict[str, Any]) -> meshclient.Mesh:
    for service in services.values():
        service.setdefault("connection", ONCE)
        service.setdefault("tls", {"mode": "simple", "ca": authority.ca})
    return meshclient.Mesh.from_documents([{"version": 1, "services": services}])


def calls(kind: str, mesh: meshclient.Mesh, *urls: str | Callable[[], object]) -> None:
    """One after the other, each on a connection of its own; functions are called in between."""

    async def run() -> None:
        async with mesh, mesh.async_client() as client:
            for url in urls:
                if callable(url):
                    url()
                else:
                    assert (await client.get(url)).status_code == 200

    if kind == "trio":
        trio.run(run)
    elif kind != "sync":
        run_on(kind, run())
    else:
        with mesh, mesh.client() as client:
            for url in urls:
                if callable(url):
                    url()
                else:
                    assert client.get(url).status_code == 200


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_next_connection_resumes(kind: str, version: str, authority: Authority) -> None:
    context = server_context(authority.issue("DNS:a.test"), maximum=VERSIONS[version])
    with counting(context) as server:
        mesh = mesh_of(authority, {"a.test": {"endpoints": [f"127.0.0.1:{server.port}"]}})
        calls(kind, mesh, *["http://a.test/"] * 6)
        assert server.reused[0] is False
        # TLS 1.3 tickets come after the handshake, when they come: one may be missed.
        assert sum(server.reused[1:]) >= (5 if version == "1.2" else 4)


@pytest.mark.parametrize("kind", KINDS)
def test_expected_names_are_checked_of_resumed_sessions_too(
    kind: str, authority: Authority
) -> None:
    """The certificate of the first handshake counts; it is still known."""
    context = server_context(authority.issue("URI:spiffe://x/server"))
    tls = {"mode": "simple", "ca": authority.ca, "subject_alt_names": ["spiffe://x/server"]}
    with counting(context) as server:
        service = {"endpoints": [f"127.0.0.1:{server.port}"], "tls": tls}
        calls(kind, mesh_of(authority, {"a.test": service}), *["http://a.test/"] * 3)
        assert server.reused == [False, True, True]


@pytest.mark.parametrize("kind", KINDS)
def test_endpoints_and_names_have_sessions_of_their_own(kind: str, authority: Authority) -> None:
    """All four share one server context, which would resume any of them."""
    context = server_context(authority.issue("DNS:a.test,DNS:b.test"))
    with counting(context) as one, counting(context) as two:
        services = {
            "a.test": {"endpoints": [f"127.0.0.1:{one.port}"]},
            "b.test": {"endpoints": [f"127.0.0.1:{one.port}"]},
        }
        other = {"a.test": {"endpoints": [f"127.0.0.1:{two.port}"]}}
        calls(kind, mesh_of(authority, services), *["http://a.test/", "http://b.test/"] * 2)
        assert one.reused == [False, False, True, True]
        calls(kind, mesh_of(authority, other), *["http://a.test/"] * 2)
        assert two.reused == [False, True]


@pytest.mark.parametrize("what", ["client certificate", "ca"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_rotation_ends_what_was_made_before_it(
    kind: str, what: str, authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls_context, "CHECK_S", 0.0)
    paths = {name: tmp_path / name for name in ("ca", "crt", "key")}

    def install(ca: str, pair: tuple[str, str]) -> None:
        for path, source in zip(paths.values(), (ca, *pair), strict=True):
            shutil.copyfile(source, path)

    pairs = [authority.issue("URI:spiffe://x/one"), authority.issue("URI:spiffe://x/two")]
    both = tmp_path / "both.pem"
    both.write_text(Path(authority.ca).read_text() + Path(Authority(tmp_path, "b").ca).read_text())
    install(authority.ca, pairs[0])

    def rotate() -> None:
        if what == "ca":
            install(str(both), pairs[0])
        else:
            install(authority.ca, pairs[1])

    tls = {
        "mode": "mutual",
        "ca": str(paths["ca"]),
        "certificate": str(paths["crt"]),
        "key": str(paths["key"]),
    }
    context = server_context(authority.issue("DNS:a.test"), authority.ca)
    with counting(context) as server:
        mesh = mesh_of(
            authority, {"a.test": {"endpoints": [f"127.0.0.1:{server.port}"], "tls": tls}}
        )
        before, after = [["http://a.test/"] * 3 for _ in range(2)]
        # Files this young count as changing still, and a fresh context is made each time.
        calls(kind, mesh, _settle, *before, rotate, _settle, *after)
        assert server.reused == [False, True, True, False, True, True]


def _settle() -> None:
    """Until the time stamps are believed."""
    threading.Event().wait(0.15)


@pytest.mark.parametrize("kind", LOOPS)
def test_connections_made_at_once_resume_too(kind: str, authority: Authority) -> None:
    context = server_context(authority.issue("DNS:a.test"))

    async def run(mesh: meshclient.Mesh, server: Counting) -> None:
        async with mesh, mesh.async_client() as client:
            for _ in range(3):
                await asyncio.gather(*(client.get("http://a.test/") for _ in range(3)))
        assert server.reused.count(False) <= 3
        assert server.reused.count(True) >= 6

    with counting(context) as server:
        mesh = mesh_of(authority, {"a.test": {"endpoints": [f"127.0.0.1:{server.port}"]}})
        run_on(kind, run(mesh, server))


class Session:
    has_ticket = True


def test_the_store_is_bounded() -> None:
    store = SessionStore()
    for number in range(2 * MAX_SESSIONS):
        store.keep(number, Session())  # type: ignore[arg-type]
    assert len(store) == MAX_SESSIONS
    assert store.take(0) is None
    for _ in range(2 * MAX_PER_KEY):
        store.keep("one", Session())  # type: ignore[arg-type]
    found = [store.take("one") for _ in range(2 * MAX_PER_KEY)]
    assert sum(session is not None for session in found) == MAX_PER_KEY
    assert len(store) <= MAX_SESSIONS


def test_a_session_without_a_ticket_is_not_kept() -> None:
    store = SessionStore()
    plain = Session()
    plain.has_ticket = False
    assert not store.keep("one", plain)  # type: ignore[arg-type]
    assert not store.keep("one", None)
    assert store.take("one") is None
