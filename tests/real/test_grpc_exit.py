"""A process that ends with gRPC calls, channels and meshes open says nothing, and ends."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from grpc_support import EchoServer

BEGIN = """
import asyncio, sys, threading, time
import grpc, meshclient
mesh = meshclient.Mesh.from_documents([{"version": 1, "services": {"orders": {
    "endpoints": ["127.0.0.1:" + sys.argv[1]],
    "retries": {"attempts": 1, "on": ["unavailable"], "methods": ["POST"]},
    "hedging": {"delay": "30ms"}, "mirror": [{"to": "orders"}]}}}])
"""
PROGRAMS = {
    "an idle channel": """
channel = mesh.grpc_channel("orders")
assert channel.unary_unary("/test.Echo/Who")(b"") == b"a"
""",
    "a stream under way": """
channel = mesh.grpc_channel("orders")
stream = channel.unary_stream("/test.Echo/Watch")(b"")
assert next(stream) == b"a"
""",
    "a hedged future under way": """
future = mesh.grpc_channel("orders").unary_unary("/test.Echo/Sleep").future(b"2")
time.sleep(0.2)
""",
    "an idle asyncio channel": """
async def go():
    channel = mesh.grpc_aio_channel("orders")
    assert await channel.unary_unary("/test.Echo/Who")(b"") == b"a"
asyncio.run(go())
""",
    "asyncio calls under way": """
async def go():
    channel = mesh.grpc_aio_channel("orders")
    call = channel.unary_stream("/test.Echo/Watch")(b"")
    assert await call.read() == b"a"
    hedged = channel.unary_unary("/test.Echo/Sleep")(b"2")
    await asyncio.sleep(0.2)
asyncio.run(go())
""",
    "a mesh that is closed during calls": """
channel = mesh.grpc_channel("orders")
futures = [channel.unary_unary("/test.Echo/Sleep").future(b"5") for _ in range(5)]
stream = channel.unary_stream("/test.Echo/Watch")(b"")
next(stream)
time.sleep(0.1)
mesh.close()
for future in futures:
    assert isinstance(future.exception(timeout=5), grpc.RpcError)
""",
}


@pytest.mark.parametrize("what", PROGRAMS)
def test_the_interpreter_ends_in_silence(what):
    with EchoServer() as server:
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", BEGIN + PROGRAMS[what], str(server.port)],
            env={**os.environ, "GRPC_VERBOSITY": "ERROR"},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
