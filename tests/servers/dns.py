"""Starts a real authoritative DNS server (Knot) on a port of its own, for tests.

Knows nothing of the library under test.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

ZONE = "mesh.test"

_CONF = """\
server:
  rundir: "{dir}"
  listen: 127.0.0.1@{port}
  udp-workers: 1
  tcp-workers: 1
  background-workers: 1
control:
  listen: "{dir}/knot.sock"
database:
  storage: "{dir}"
log:
  - target: stderr
    any: warning
zone:
  - domain: {zone}
    file: "{dir}/zone"
    journal-content: none
    zonefile-sync: -1
"""


def missing() -> str:
    """Why no server can be started here, or an empty text."""
    lacking = [name for name in ("knotd", "knotc") if not _find(name)]
    return f"{' and '.join(lacking)} not installed (Debian package knot)" if lacking else ""


def _find(name: str) -> str | None:
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")


def free_port() -> int:
    """A port that is free for both UDP and TCP at this moment."""
    for _ in range(50):
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
            socket.socket(socket.AF_INET, socket.SOCK_STREAM) as tcp,
        ):
            udp.bind(("127.0.0.1", 0))
            with contextlib.suppress(OSError):
                tcp.bind(("127.0.0.1", udp.getsockname()[1]))
                return int(tcp.getsockname()[1])
    raise RuntimeError("no port is free for UDP and TCP")


class DnsServer:
    """Knot serving the zone ``mesh.test`` with TTL 1 from ``directory``.

    It keeps its port over :meth:`kill` and :meth:`start`. Use as a context manager.
    """

    def __init__(self, directory: Path, records: Iterable[str] = ()) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self._serial = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._write_zone(records)
        conf = _CONF.format(dir=directory, port=self.port, zone=ZONE)
        (directory / "knot.conf").write_text(conf)

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", self.port

    def __enter__(self) -> DnsServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        """Start, and wait until it answers (10 s at most)."""
        binary = _find("knotd")
        assert binary, missing()
        with open(self.directory / "log", "ab") as log:
            self._process = subprocess.Popen(
                [binary, "-c", str(self.directory / "knot.conf")], stdout=log, stderr=log
            )
        deadline = time.monotonic() + 10
        while self._control("zone-status", ZONE).returncode or not self._listens():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"knotd: {(self.directory / 'log').read_text()}")
            time.sleep(0.02)

    def kill(self) -> None:
        """SIGKILL: no goodbye, as in a crash."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait(timeout=10)
            (self.directory / "knot.sock").unlink(missing_ok=True)

    def set_records(self, *records: str) -> None:
        """Replace the zone's records (``name type data``) and wait until they are served."""
        self._write_zone(records)
        done = self._control("-b", "zone-reload", ZONE)
        if done.returncode:
            raise RuntimeError(f"knotc: {done.stdout!r} {done.stderr!r}")

    def _write_zone(self, records: Iterable[str]) -> None:
        self._serial += 1
        head = [
            f"$ORIGIN {ZONE}.",
            "$TTL 1",
            f"@ 1 SOA ns admin {self._serial} 60 60 600 1",
            "@ NS ns",
            "ns A 127.0.0.1",
        ]
        (self.directory / "zone").write_text("\n".join([*head, *records]) + "\n")

    def _control(self, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        binary = _find("knotc")
        assert binary, missing()
        command = [binary, "-s", str(self.directory / "knot.sock"), *arguments]
        return subprocess.run(command, capture_output=True, timeout=20, check=False)

    def _listens(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(self.address, timeout=1):
            return True
        return False
