"""Certificates that change while calls are made: files, links, halves and mistakes."""

from __future__ import annotations

import asyncio
import os
import shutil
import ssl
import threading
import time
from pathlib import Path

import pytest
from engine_support import LOOPS, HttpServer, run_on
from tls_support import EXPIRED, Authority, server_context

import meshclient
from meshclient import errors
from meshclient.transport import tls_context
from meshclient.transport.tls_context import RotatingContext
from meshclient.transport.tls_source import FileSource, IdentityError, Material

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="makes its certificates")

HOST = "reviews.test"
URL = f"http://{HOST}/"
ROTATIONS = 50


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("rotation"))


@pytest.fixture(scope="module")
def pairs(authority: Authority) -> list[tuple[str, str]]:
    """Two good client identities."""
    return [authority.issue("URI:spiffe://x/one"), authority.issue("URI:spiffe://x/two")]


@pytest.fixture(autouse=True)
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every new connection looks at the files."""
    monkeypatch.setattr(tls_context, "CHECK_S", 0.0)


@pytest.fixture
def server(authority: Authority):
    pair = authority.issue(f"DNS:{HOST}")
    with HttpServer(tls=server_context(pair, authority.ca)) as running:
        yield running


class Files:
    """The files that a policy names, and ways to replace them."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.certificate, self.key = folder / "tls.crt", folder / "tls.key"

    def write(self, pair: tuple[str, str]) -> None:
        """In place, one after the other: between the two they do not belong together."""
        shutil.copyfile(pair[0], self.certificate)
        shutil.copyfile(pair[1], self.key)

    def swap(self, pair: tuple[str, str]) -> None:
        """Renamed into place, each file at once."""
        for source, place in zip(pair, (self.certificate, self.key), strict=True):
            fresh = place.with_suffix(".new")
            shutil.copyfile(source, fresh)
            os.replace(fresh, place)

    def tear(self, pair: tuple[str, str]) -> None:
        """Half a certificate for a moment."""
        text = Path(pair[0]).read_text()
        self.certificate.write_text(text[: len(text) // 2])
        time.sleep(0.005)
        self.write(pair)


def mesh_to(server: HttpServer, authority: Authority, files: Files, **service: object):
    entry = {
        "endpoints": [server.authority],
        "retries": {"attempts": 0},
        "tls": {
            "mode": "mutual",
            "ca": authority.ca,
            "certificate": str(files.certificate),
            "key": str(files.key),
        },
        **service,
    }
    return meshclient.Mesh.from_documents([{"version": 1, "services": {HOST: entry}}])


def secured_by(response) -> ssl.SSLContext:
    return response.extensions["network_stream"].get_extra_info("ssl_object").context


def test_calls_are_refused_until_the_files_are_there(server, authority, pairs, tmp_path) -> None:
    files = Files(tmp_path / "tls")
    with mesh_to(server, authority, files) as mesh, mesh.client() as client:
        with pytest.raises(errors.SecurityError, match="No such file"):
            client.get(URL)
        shutil.copyfile(pairs[0][0], files.certificate)
        with pytest.raises(errors.SecurityError, match=r"tls\.key: No such file"):
            client.get(URL)
        files.write(pairs[0])
        assert client.get(URL).status_code == 200


def test_a_broken_pair_never_replaces_a_good_one(server, authority, pairs, tmp_path) -> None:
    files = Files(tmp_path / "tls")
    files.write(pairs[0])
    once = {"connection": {"max_requests": 1}}
    with mesh_to(server, authority, files, **once) as mesh, mesh.client() as client:
        first = secured_by(client.get(URL))
        shutil.copyfile(pairs[1][0], files.certificate)
        assert secured_by(client.get(URL)) is first
        (row,) = mesh.explain("GET", URL).clusters
        assert "is not the key of the certificate" in row["tls"]["problem"]
        assert row["problem"] == ""
        shutil.copyfile(pairs[1][1], files.key)
        assert secured_by(client.get(URL)) is not first
        assert "problem" not in mesh.explain("GET", URL).clusters[0]["tls"]
        files.certificate.unlink()
        assert client.get(URL).status_code == 200


def test_old_connections_live_on_and_new_ones_are_new(server, authority, pairs, tmp_path) -> None:
    files = Files(tmp_path / "tls")
    files.write(pairs[0])
    with mesh_to(server, authority, files) as mesh, mesh.client() as client:
        with client.stream("GET", URL) as open_response:
            old = secured_by(open_response)
            open_response.read()
        files.swap(pairs[1])
        assert secured_by(client.get(URL)) is old
        assert server.accepted == 1


def test_the_server_sees_the_new_identity(server, authority, pairs, tmp_path) -> None:
    """From a certificate that it refuses to one that it takes."""
    stranger = Authority(tmp_path, "stranger")
    files = Files(tmp_path / "tls")
    files.write(stranger.issue("URI:spiffe://x/one"))
    with mesh_to(server, authority, files) as mesh, mesh.client() as client:
        with pytest.raises(errors.CallError):
            client.get(URL)
        files.swap(pairs[0])
        assert client.get(URL).status_code == 200


def test_links_of_a_mounted_secret(server, authority, pairs, tmp_path) -> None:
    """Kubernetes swaps one link, ``..data``, below unchanged links."""
    folder = tmp_path / "mount"
    folder.mkdir()
    for number, pair in enumerate(pairs):
        generation = folder / f"..{number}"
        generation.mkdir()
        shutil.copyfile(pair[0], generation / "tls.crt")
        shutil.copyfile(pair[1], generation / "tls.key")
    (folder / "..data").symlink_to("..0")
    for name in ("tls.crt", "tls.key"):
        (folder / name).symlink_to(f"..data/{name}")
    source = FileSource("", str(folder / "tls.crt"), str(folder / "tls.key"))
    time.sleep(0.15)  # time stamps younger than this are not believed
    before = source.signature()
    assert before is not None
    assert source.signature() == before
    (folder / "..new").symlink_to("..1")
    os.replace(folder / "..new", folder / "..data")
    assert source.signature() != before


@pytest.mark.parametrize("kind", ["sync", *LOOPS])
def test_fifty_rotations_under_load(kind, server, authority, pairs, tmp_path, monkeypatch) -> None:
    """Each call on a connection of its own, files changing in three ways; none fails."""
    monkeypatch.setattr(tls_context, "CHECK_S", 0.005)
    files = Files(tmp_path / "tls")
    files.write(pairs[0])
    done = threading.Event()

    def rotate() -> None:
        try:
            for number in range(ROTATIONS):
                (files.write, files.swap, files.tear)[number % 3](pairs[(number + 1) % 2])
                time.sleep(0.02)
        finally:
            done.set()

    contexts: set[int] = set()
    kept: list[ssl.SSLContext] = []

    def note(response) -> None:
        assert response.status_code == 200
        used = secured_by(response)
        if id(used) not in contexts:
            contexts.add(id(used))
            kept.append(used)

    once = {"connection": {"max_requests": 1}}
    with mesh_to(server, authority, files, **once) as mesh:
        calls = _load_sync if kind == "sync" else _load_async(kind)
        rotator = threading.Thread(target=rotate)
        rotator.start()
        calls(mesh, done, note)
        rotator.join()
    assert len(contexts) >= 10
    assert len(server.requests) >= ROTATIONS


def _load_sync(mesh, done, note) -> None:
    failures: list[BaseException] = []

    def work() -> None:
        try:
            with mesh.client() as client:
                while not done.is_set():
                    with client.stream("GET", URL) as response:
                        note(response)
        except BaseException as error:
            failures.append(error)

    workers = [threading.Thread(target=work) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert failures == []


def _load_async(kind):
    def load(mesh, done, note) -> None:
        async def worker(client) -> None:
            while not done.is_set():
                async with client.stream("GET", URL) as response:
                    note(response)

        async def run() -> None:
            async with mesh.async_client() as client:
                await asyncio.gather(*(worker(client) for _ in range(4)))

        run_on(kind, run())

    return load


class Slow:
    """A source whose loads wait, as those of the system's roots do."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.loads = 0

    def signature(self) -> int | None:
        return None

    def load(self) -> Material:
        self.loads += 1
        if self.loads > 1:
            assert self.gate.wait(5)
        return Material()

    def describe(self) -> dict[str, str]:
        return {}


def test_an_event_loop_does_not_wait_for_the_systems_roots() -> None:
    source = Slow()
    context = RotatingContext(source)
    assert context.problem() == ""

    def used() -> ssl.SSLContext:
        wrapped = context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname="a.test")
        return wrapped.context

    first = used()
    assert used() is first  # a thread is at it, and held up
    assert source.loads == 2
    source.gate.set()
    assert context._loader is not None
    context._loader.join(5)
    assert used() is not first
    context._loader.join(5)


def test_an_expired_certificate_is_not_used_while_a_newer_one_loads(authority, pairs, tmp_path):
    """After a long idle time the first new connection has to have the new certificate."""
    files = Files(tmp_path / "tls")
    files.write(authority.issue("", dates=EXPIRED))
    context = RotatingContext(FileSource("", str(files.certificate), str(files.key)))
    assert context.problem() == ""
    first = context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname="a.test").context
    files.swap(pairs[0])
    after = context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname="a.test").context
    assert after is not first
    assert context._loader is None


def test_a_child_of_a_fork_does_not_inherit_a_taken_lock(authority) -> None:
    context = RotatingContext(FileSource(authority.ca))
    assert context.problem() == ""
    with context._lock:
        child = os.fork()
        if child == 0:
            fine = False
            try:
                context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname="a.test")
                fine = True
            finally:
                os._exit(0 if fine else 1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


def test_files_that_nobody_should_read(tmp_path) -> None:
    """A FIFO would block for ever, a huge file fill the memory."""
    os.mkfifo(tmp_path / "fifo")
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(9 << 20)
    for name, reason in (("fifo", "regular file"), ("huge", "larger than"), ("a\0b", "null")):
        with pytest.raises(IdentityError, match=reason):
            FileSource(str(tmp_path / name)).load()
