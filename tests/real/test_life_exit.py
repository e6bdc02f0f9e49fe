"""Programs that end with a mesh, a client or a response still open: silently, soon, with 0."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import yaml
from life_support import PATIENCE_S, nothing_left, policy
from servers.http import HttpServer, Recorded, Reply

BEGIN = """
    import asyncio, sys, threading, time
    import meshclient

    mesh = meshclient.Mesh.from_file(sys.argv[1])
"""
PROGRAMS = {
    "a mesh that was never used": "",
    "a client": """
        client = mesh.client()
        assert client.get("http://svc/x").text == "ok"
    """,
    "a response that is streamed": """
        client = mesh.client()
        response = client.send(client.build_request("GET", "http://svc/long"), stream=True)
        chunks = response.iter_raw()
        next(chunks)
    """,
    "an asyncio client": """
        client = mesh.async_client()

        async def main():
            assert (await client.get("http://svc/x")).text == "ok"

        asyncio.run(main())
    """,
    "an asyncio response that is streamed": """
        client = mesh.async_client()

        async def main():
            global response
            request = client.build_request("GET", "http://svc/long")
            response = await client.send(request, stream=True)

        asyncio.run(main())
    """,
    "tasks under way": """
        client = mesh.async_client()

        async def main():
            tasks = [asyncio.create_task(client.get("http://svc/long")) for _ in range(5)]
            await asyncio.sleep(0.05)

        asyncio.run(main())
    """,
    "a loop that was not closed": """
        client = mesh.async_client()
        loop = asyncio.new_event_loop()
        assert loop.run_until_complete(client.get("http://svc/x")).text == "ok"
    """,
    "a daemon thread under way": """
        client = mesh.client()

        def work():
            while True:
                client.get("http://svc/x")

        for _ in range(4):
            threading.Thread(target=work, daemon=True).start()
        time.sleep(0.1)
    """,
    "sys.exit inside a stream": """
        with mesh.client() as client:
            with client.stream("GET", "http://svc/long") as response:
                for chunk in response.iter_raw():
                    sys.exit(0)
    """,
    "a subscriber": """
        mesh.subscribe(lambda event: None)
        mesh.client().get("http://svc/x")
    """,
}


def serve(request: Recorded) -> Reply:
    async def pieces() -> Any:
        while True:
            yield b"." * 100
            await asyncio.sleep(0.01)

    return Reply(200, pieces()) if request.path == "/long" else Reply(200, b"ok")


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_interpreter_ends_in_silence(program: str, tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    with nothing_left(), HttpServer(serve) as server:
        path.write_text(yaml.safe_dump(policy(server)))
        source = textwrap.dedent(BEGIN) + textwrap.dedent(PROGRAMS[program])
        done = subprocess.run(
            [sys.executable, "-c", source, str(path)],
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert (done.stderr, done.stdout, done.returncode) == ("", "", 0)
        assert server.wait_for(lambda: server.open_connections == 0)


CLOSED = """
    client = mesh.client()
    assert client.get("http://svc/x").text == "ok"

    async def main():
        async with mesh.async_client() as other:
            assert (await other.get("http://svc/x")).text == "ok"
            async with other.stream("GET", "http://svc/long") as response:
                async for chunk in response.aiter_raw():
                    break

    asyncio.run(main())
    mesh.close()
"""


def test_a_mesh_that_was_closed_leaves_nothing_unclosed(tmp_path: Path) -> None:
    """Under ``-X dev``, which complains of every socket, loop and coroutine left behind."""
    path = tmp_path / "policy.yaml"
    with nothing_left(), HttpServer(serve) as server:
        path.write_text(yaml.safe_dump(policy(server)))
        source = textwrap.dedent(BEGIN) + textwrap.dedent(CLOSED)
        done = subprocess.run(
            [sys.executable, "-X", "dev", "-W", "error", "-c", source, str(path)],
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert (done.stderr, done.stdout, done.returncode) == ("", "", 0)
