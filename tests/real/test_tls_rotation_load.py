r"""Certificates that change under a steady load of mutual TLS: no call fails.

A short run by default. The whole proof, 50 rotations under 500 calls/s:

    MESHCLIENT_ROTATIONS=50 MESHCLIENT_ROTATION_RATE=500 \
        pytest -s tests/real/test_tls_rotation_load.py
"""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from engine_support import LOOPS, HttpServer, run_on
from test_tls_rotation import Files
from tls_support import Authority, server_context

import meshclient
from meshclient.transport import tls_context

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="makes its certificates")

ROTATIONS = int(os.environ.get("MESHCLIENT_ROTATIONS", "10"))
RATE = float(os.environ.get("MESHCLIENT_ROTATION_RATE", "150"))
#: Seconds between two rotations.
PAUSE_S = 0.2
WORKERS = 16
URL = "http://web.test/"


class Load:
    """Calls at a steady rate until it is told to stop, whatever their answers take."""

    def __init__(self) -> None:
        self.done = threading.Event()
        self.failures: list[BaseException] = []
        self.calls = 0
        self._numbers = itertools.count()
        self._began = time.monotonic()

    def pause_s(self) -> float:
        """Until the next call is due; it is the asker's."""
        return self._began + next(self._numbers) / RATE - time.monotonic()

    def note(self, response: object) -> None:
        assert response.status_code == 200  # type: ignore[attr-defined]
        self.calls += 1

    def sync(self, mesh: meshclient.Mesh) -> None:
        def worker() -> None:
            while not self.done.is_set():
                time.sleep(max(0.0, self.pause_s()))
                try:
                    self.note(client.get(URL))
                except BaseException as error:
                    self.failures.append(error)

        with mesh.client(timeout=10) as client:
            workers = [threading.Thread(target=worker) for _ in range(WORKERS)]
            for thread in workers:
                thread.start()
            for thread in workers:
                thread.join()

    def over(self, kind: str) -> Callable[[meshclient.Mesh], None]:
        async def run(mesh: meshclient.Mesh) -> None:
            async def one() -> None:
                try:
                    self.note(await client.get(URL))
                except BaseException as error:
                    self.failures.append(error)

            async with mesh.async_client(timeout=10) as client, asyncio.TaskGroup() as group:
                while not self.done.is_set():
                    await asyncio.sleep(max(0.0, self.pause_s()))
                    group.create_task(one())

        return lambda mesh: run_on(kind, run(mesh), 120)


@pytest.mark.parametrize("kind", ["sync", *LOOPS])
def test_no_call_fails(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls_context, "CHECK_S", 0.02)
    authority = Authority(tmp_path)
    pairs = [authority.issue(f"URI:spiffe://x/{number}") for number in range(2)]
    files = Files(tmp_path / "tls")
    files.write(pairs[0])
    context = server_context(authority.issue("DNS:web.test"), authority.ca)
    load, seconds = Load(), time.monotonic()
    with HttpServer(tls=context) as server:
        entry = {
            "endpoints": [server.authority],
            "retries": {"attempts": 0},
            "connection": {"max_requests": 10},
            "tls": {
                "mode": "mutual",
                "ca": authority.ca,
                "certificate": str(files.certificate),
                "key": str(files.key),
            },
        }
        mesh = meshclient.Mesh.from_documents([{"version": 1, "services": {"web.test": entry}}])
        built: list[object] = []
        monkeypatch.setattr(tls_context, "build", _noting(tls_context.build, built))
        with mesh:
            rotator = threading.Thread(target=_rotate, args=(files, pairs, load.done))
            rotator.start()
            try:
                (load.sync if kind == "sync" else load.over(kind))(mesh)
            finally:
                load.done.set()
                rotator.join()
        seconds = time.monotonic() - seconds
        print(
            f"\n{kind}: {ROTATIONS} rotations, {load.calls} calls at {load.calls / seconds:.0f}/s, "
            f"{server.accepted} connections, {len(built)} contexts, {len(load.failures)} failures"
        )
        assert load.failures == []
        assert load.calls > 0.3 * RATE * ROTATIONS * PAUSE_S
        assert len(built) > ROTATIONS / 4


def _noting(build: Callable[..., object], built: list[object]) -> Callable[..., object]:
    def noting(*args: object, **options: object) -> object:
        built.append(build(*args, **options))
        return built[-1]

    return noting


def _rotate(files: Files, pairs: list[tuple[str, str]], done: threading.Event) -> None:
    """In three styles: in place, renamed, and torn for a moment."""
    try:
        for number in range(1, ROTATIONS + 1):
            (files.write, files.swap, files.tear)[number % 3](pairs[number % 2])
            time.sleep(PAUSE_S)
    finally:
        done.set()
