"""Life of gRPC channels: forks, reloads, draining, closing, servers that come and go."""

from __future__ import annotations

import asyncio
import http.client
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_support import SERVICE, EchoServer, in_flight, policy

import meshclient
from meshclient import errors

S = grpc.StatusCode
RETRIES = {
    "attempts": 4,
    # grpcio's server says CANCELLED to calls that come while it stops.
    "on": ["unavailable", "cancelled", "connect-failure", "refused-stream", "reset"],
    "methods": ["POST"],
    "back_off": {"base": "10ms", "max": "50ms"},
}


def _subchannels(mesh: Any) -> int:
    return sum(len(targets) for name, targets in mesh.dump()["pools"].items() if "grpc" in name)


def _until(condition: Any, limit_s: float = 5.0) -> None:
    limit = time.monotonic() + limit_s
    while not condition() and time.monotonic() < limit:
        time.sleep(0.005)
    assert condition()


def _write(path: Path, *servers: Any) -> None:
    endpoints = ", ".join(f"127.0.0.1:{server.port}" for server in servers)
    text = f"version: 1\nservices: {{orders: {{endpoints: [{endpoints}]}}}}\n"
    fresh = path.with_suffix(".new")
    fresh.write_text(text)
    os.replace(fresh, path)


def test_importing_the_package_and_using_http_leaves_grpc_alone():
    program = (
        "import sys, meshclient\n"
        "mesh = meshclient.Mesh.from_documents([])\n"
        "mesh.client().close(); mesh.close()\n"
        "print('grpc' in sys.modules)"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert run.stdout.strip() == "False"


def test_connections_are_shared_by_the_channels_of_a_mesh():
    with EchoServer() as server, meshclient.Mesh.from_documents([policy(server)]) as mesh:
        for _ in range(3):
            with mesh.grpc_channel("orders") as channel:
                channel.unary_unary(SERVICE + "Who")(b"")
        assert _subchannels(mesh) == 1
        (stats,) = mesh.dump()["pools"]["grpc"].values()
        assert stats == "<SubchannelStats channels=1 calls=0>"


def test_an_endpoint_that_leaves_is_drained(tmp_path):
    path = tmp_path / "policy.yaml"
    with EchoServer("a") as a, EchoServer("b") as b:
        _write(path, a)
        with meshclient.Mesh.from_file(path) as mesh, mesh.grpc_channel("orders") as channel:
            slow = channel.unary_unary(SERVICE + "Sleep").future(b"0.6")
            _until(lambda: a.count == 1)
            _write(path, b)
            _until(lambda: mesh.snapshot.version > 1)
            assert channel.unary_unary(SERVICE + "Who")(b"") == b"b"
            assert slow.result(timeout=5) == b"slept"
            _until(lambda: _subchannels(mesh) == 1)


def test_aio_an_endpoint_that_leaves_is_drained(tmp_path):
    path = tmp_path / "policy.yaml"

    async def go(a: Any, b: Any) -> None:
        async with meshclient.Mesh.from_file(path) as mesh:
            channel = mesh.grpc_aio_channel("orders")
            slow = channel.unary_unary(SERVICE + "Sleep")(b"0.6")
            await asyncio.sleep(0.1)
            _write(path, b)
            await asyncio.to_thread(_until, lambda: mesh.snapshot.version > 1)
            assert await channel.unary_unary(SERVICE + "Who")(b"") == b"b"
            assert await slow == b"slept"
            await asyncio.to_thread(_until, lambda: _subchannels(mesh) == 1)
            await channel.close()

    with EchoServer("a") as a, EchoServer("b") as b:
        _write(path, a)
        asyncio.run(go(a, b))


def test_closing_the_mesh_ends_what_is_under_way():
    with EchoServer() as server:
        mesh = meshclient.Mesh.from_documents([policy(server)])
        channel = mesh.grpc_channel("orders")
        slow = channel.unary_unary(SERVICE + "Sleep").future(b"20")
        stream = channel.unary_stream(SERVICE + "Watch")(b"")
        next(stream)
        mesh.close()
        assert isinstance(slow.exception(timeout=5), grpc.RpcError)
        with pytest.raises(grpc.RpcError):
            next(stream)
        with pytest.raises(errors.ClosedError):
            channel.unary_unary(SERVICE + "Who")(b"")
        with pytest.raises(errors.ClosedError):
            mesh.grpc_channel("orders")


def test_aio_closing_the_mesh_ends_what_is_under_way():
    async def go() -> None:
        mesh = meshclient.Mesh.from_documents([policy(server)])
        channel = mesh.grpc_aio_channel("orders")
        slow = channel.unary_unary(SERVICE + "Sleep")(b"20")
        await asyncio.sleep(0.1)
        await mesh.aclose()
        with pytest.raises((grpc.RpcError, asyncio.CancelledError)):
            await slow
        with pytest.raises(errors.ClosedError):
            await channel.unary_unary(SERVICE + "Who")(b"")

    with EchoServer() as server:
        asyncio.run(go())


def test_one_channel_serves_several_event_loops():
    with EchoServer() as server, meshclient.Mesh.from_documents([policy(server)]) as mesh:
        channel = mesh.grpc_aio_channel("orders")

        async def go() -> bytes:
            return await channel.unary_unary(SERVICE + "Who")(b"")  # type: ignore[no-any-return]

        assert [asyncio.run(go()) for _ in range(3)] == [b"a"] * 3


# -- fork ------------------------------------------------------------------------------------


FORKING = """
import asyncio, multiprocessing, sys
import meshclient
from grpc_support import SERVICE, in_flight, policy

def child(mesh, results):
    with mesh.grpc_channel("orders") as channel:
        answer = channel.unary_unary(SERVICE + "Who")(b"", timeout=10)

    async def go():
        async with mesh.grpc_aio_channel("orders") as aio:
            return await aio.unary_unary(SERVICE + "Who")(b"", timeout=10)

    results.put((answer, asyncio.run(go()), in_flight(mesh)))

mesh = meshclient.Mesh.from_documents([policy(int(sys.argv[1]))])
before = mesh.grpc_channel("orders").unary_unary(SERVICE + "Who")
assert before(b"", timeout=10) == b"a"
context = multiprocessing.get_context("fork")
results = context.Queue()
children = [context.Process(target=child, args=(mesh, results)) for _ in range(2)]
for each in children:
    each.start()
print([results.get(timeout=30) for _ in children], before(b"", timeout=10))
for each in children:
    each.join(30)
mesh.close()
"""


def test_a_mesh_made_before_a_fork_serves_the_child():
    """As with gunicorn's preload and Celery's prefork; here even a channel in use before it.

    In a program of its own: gRPC forks with its servers and its asyncio side unused only.
    """
    server = _server_process()
    try:
        run = subprocess.run(
            [sys.executable, "-c", FORKING, str(server.port)],
            capture_output=True,
            text=True,
            timeout=60,
            cwd=Path(__file__).parent,
        )
    finally:
        server.end()
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "[(b'a', b'a', 0), (b'a', b'a', 0)] b'a'"


class _server_process:  # noqa: N801 - reads as a function
    """A server of its own process: gRPC servers do not survive a fork."""

    def __init__(self) -> None:
        program = (
            "from grpc_support import EchoServer\n"
            "import sys\n"
            "server = EchoServer()\n"
            "print(server.port, flush=True)\n"
            "sys.stdin.read()\n"
            "server.stop()\n"
        )
        self.process = subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parent,
        )
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    def end(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(15)
        self.process.stdout.close()


APPLICATION = """
import os
import meshclient

mesh = meshclient.Mesh.from_file(os.environ["POLICY"])
channel = mesh.grpc_channel("orders")
who = channel.unary_unary("/test.Echo/Who")

def application(environ, start_response):
    answer = who(b"", timeout=10)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"{os.getpid()} {answer.decode()}".encode()]
"""


def test_gunicorn_with_preload(tmp_path):
    (tmp_path / "shop.py").write_text(APPLICATION)
    path = tmp_path / "policy.yaml"
    server = _server_process()
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        port = holder.getsockname()[1]
    path.write_text(f"version: 1\nservices: {{orders: {{endpoints: [127.0.0.1:{server.port}]}}}}\n")
    command = [sys.executable, "-m", "gunicorn", "--preload", "--workers", "2"]
    command += ["--bind", f"127.0.0.1:{port}", "--chdir", str(tmp_path), "shop"]
    process = subprocess.Popen(
        command,
        env={**os.environ, "POLICY": str(path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        answers = [_ask(port) for _ in range(20)]
    finally:
        process.terminate()
        output = process.communicate(timeout=30)[0]
        server.end()
    assert {answer.split()[1] for answer in answers} == {"a"}, output
    assert all(answer.split()[0] != str(process.pid) for answer in answers)


def _ask(port: int) -> str:
    limit = time.monotonic() + 20
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=15)
        try:
            connection.request("GET", "/")
            return connection.getresponse().read().decode()
        except ConnectionError:
            if time.monotonic() > limit:
                raise
            time.sleep(0.05)
        finally:
            connection.close()


# -- rolling restarts --------------------------------------------------------------------------


def test_servers_that_restart_one_by_one_fail_no_call():
    servers = [EchoServer(f"s{i}") for i in range(5)]
    failures: list[Any] = []
    done = threading.Event()
    calls = [0, 0, 0]

    def load(channel: Any, index: int) -> None:
        who = channel.unary_unary(SERVICE + "Who")
        while not done.is_set():
            try:
                who(b"", timeout=10)
            except grpc.RpcError as error:
                failures.append(error)
            calls[index] += 1
            time.sleep(0.002)

    with (
        meshclient.Mesh.from_documents([policy(*servers, retries=RETRIES)]) as mesh,
        mesh.grpc_channel("orders") as channel,
    ):
        threads = [threading.Thread(target=load, args=(channel, index)) for index in range(3)]
        for thread in threads:
            thread.start()
        for server in servers:
            server.stop(grace=0.5)
            time.sleep(0.1)
            server.start()
            time.sleep(0.1)
        done.set()
        for thread in threads:
            thread.join(20)
        _until(lambda: in_flight(mesh) == 0)
    for server in servers:
        server.stop()
    assert not failures, [f"{error} {error.report} {error.report.notes}" for error in failures]
    assert min(calls) > 50


def test_a_stream_ends_with_what_the_server_says_when_it_stops():
    with (
        EchoServer() as server,
        meshclient.Mesh.from_documents([policy(server)]) as mesh,
        mesh.grpc_channel("orders") as channel,
    ):
        stream = channel.unary_stream(SERVICE + "Watch")(b"")
        assert next(stream) == b"a"
        server.stop(grace=0)
        with pytest.raises(grpc.RpcError) as caught:
            next(stream)
        assert caught.value.code() in (S.UNAVAILABLE, S.CANCELLED)
        _until(lambda: in_flight(mesh) == 0)
