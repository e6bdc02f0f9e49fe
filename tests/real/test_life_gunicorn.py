"""gunicorn with ``--preload``: the mesh is made, and used, before the workers are forked."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import yaml
from life_support import PATIENCE_S, echo, nothing_left, policy, run_threads, wait_for, write
from servers.http import HttpServer, Recorded, Reply

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")

APPLICATION = """
    import os

    import meshclient

    mesh = meshclient.Mesh.from_file(os.environ["POLICY"])
    client = mesh.client()
    assert client.get("http://svc/master").status_code == 200

    def application(environ, start_response):
        path = environ["PATH_INFO"]
        text = client.get("http://svc" + path).text
        counts = [n for c in mesh.dump()["clusters"].values() for n in c.values()]
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [f"{os.getpid()} {text} {sum(counts)}".encode()]
"""


def free_port() -> int:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        return int(holder.getsockname()[1])


def ask(port: int, path: str) -> tuple[str, ...]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    try:
        connection.request("GET", path)
        return tuple(connection.getresponse().read().decode().split())
    finally:
        connection.close()


def stop(server: subprocess.Popen[str]) -> str:
    """Politely, then not; what it wrote."""
    server.send_signal(signal.SIGTERM)
    try:
        return server.communicate(timeout=PATIENCE_S)[0]
    except subprocess.TimeoutExpired:
        os.killpg(server.pid, signal.SIGKILL)
        server.communicate()
        pytest.fail("gunicorn does not end")


def _unhurried(request: Recorded) -> Reply:
    """Slow enough that one worker alone cannot take all requests."""
    return Reply(200, request.target, delay_s=0.01)


def test_gunicorn_with_preload(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(textwrap.dedent(APPLICATION))
    path = tmp_path / "policy.yaml"
    port = free_port()
    with nothing_left(), HttpServer(_unhurried) as a, HttpServer(echo) as b:
        path.write_text(yaml.safe_dump(policy(a)))
        command = [
            sys.executable,
            "-m",
            "gunicorn",
            "--preload",
            "--workers",
            "2",
            "--threads",
            "4",
        ]
        command += ["--no-control-socket", "--log-level", "warning", "--bind", f"127.0.0.1:{port}"]
        server = subprocess.Popen(
            [*command, "shop:application"],
            cwd=tmp_path,
            env={**os.environ, "POLICY": str(path)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            wait_for(lambda: server.poll() is not None or _listens(port), "gunicorn listens")
            workers: set[str] = set()
            failed: list[BaseException] = []

            def ask_both() -> bool:
                failed.extend(run_threads(lambda n: workers.add(_answer(port, f"/{n}")), 20))
                return len(workers) == 2 or bool(failed)

            wait_for(ask_both, "answers of both workers")
            assert failed == []
            # Every worker follows the file.
            write(path, policy(b))
            moved: set[str] = set()
            wait_for(lambda: _follow(port, b, moved) == workers, "both workers reload")
        finally:
            output = stop(server)
        assert output == ""
        assert server.returncode == 0
        # No worker writes to the connection of the master, nor to that of the other.
        owners = {r.connection for r in a.requests if r.path == "/master"}
        assert owners.isdisjoint({r.connection for r in a.requests if r.path != "/master"})


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _answer(port: int, path: str) -> str:
    pid, text, _ = ask(port, path)
    assert text == path
    return pid


def _follow(port: int, server: HttpServer, moved: set[str]) -> set[str]:
    """The workers that have called ``server``, after one more question."""
    before = len(server.requests)
    pid = _answer(port, "/moved")
    if len(server.requests) > before:
        moved.add(pid)
    return moved
