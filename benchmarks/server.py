"""The upstream of every cell, in a process of its own: nginx, else a tiny asyncio server.

Answers any GET with 200 and 100 bytes. Nothing about the clients is in here.
"""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType

BODY = b"x" * 100

_NGINX = """
daemon off; master_process off; pid {folder}/pid; error_log stderr crit;
events {{ worker_connections 2048; }}
http {{
  access_log off; keepalive_requests 1000000000; keepalive_timeout 1h; default_type text/plain;
  client_body_temp_path {folder}/a; proxy_temp_path {folder}/b; fastcgi_temp_path {folder}/c;
  uwsgi_temp_path {folder}/d; scgi_temp_path {folder}/e;
  server {{ listen 127.0.0.1:{port}; location / {{ return 200 "{body}"; }} }}
}}
"""


class Server:
    """A running server; ``port`` on 127.0.0.1, ``kind`` says which. A context manager."""

    def __init__(self) -> None:
        self.port = _free_port()
        self._folder = Path(tempfile.mkdtemp(prefix="bench-server-"))
        nginx = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
        self.kind = "nginx" if nginx else "asyncio"
        if nginx:
            config = self._folder / "nginx.conf"
            text = _NGINX.format(folder=self._folder, port=self.port, body=BODY.decode())
            config.write_text(text)
            command = [nginx, "-p", str(self._folder), "-c", str(config)]
        else:
            command = [sys.executable, __file__, str(self.port)]
        self._process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        try:
            _wait_for(self.port, self._process)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Stop it. Idempotent."""
        if self._process.poll() is None:
            self._process.terminate()
            self._process.wait(10)
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    limit = time.monotonic() + 10
    while time.monotonic() < limit:
        if process.poll() is not None:
            raise RuntimeError(f"the server ended with {process.returncode}")
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.02)
    raise RuntimeError("the server did not start")


class _Answer(asyncio.Protocol):
    """Counts request heads and answers each; GETs without a body only."""

    _RESPONSE = (
        b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: %d\r\n\r\n" % len(BODY)
    ) + BODY

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._rest = b""

    def data_received(self, data: bytes) -> None:
        *heads, self._rest = (self._rest + data).split(b"\r\n\r\n")
        if heads:
            self._transport.write(self._RESPONSE * len(heads))


async def _serve(port: int) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(_Answer, "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1])))
