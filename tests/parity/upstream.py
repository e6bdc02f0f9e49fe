"""Recording HTTP/1.1 servers on 127.0.0.1, scripted per case.

They answer and remember; they never judge. All of them live on one event loop
in one thread, and every connection, task and socket is gone after ``close``.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Coroutine
from dataclasses import replace
from types import TracebackType
from typing import Any

from .traffic import CASE_HEADER, Pairs, Received, Side, Step

_LINGER_RESET = struct.pack("ii", 1, 0)


class Upstreams:
    """``names`` servers, one port each. Thread-safe for the callers' side."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self.ports: dict[str, int] = {}
        #: Further headers of every response, by the upstream that gives it.
        self.headers_by_name: dict[str, Pairs] = {}
        self._records: dict[str, list[Received]] = {}
        self._scripts: dict[str, tuple[Step, ...]] = {}
        self._servers: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed_ports: list[socket.socket] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        for name in names:
            self.ports[name] = self._run(self._listen(name))

    def refused_port(self) -> int:
        """A port that nobody else can take and that refuses every connection."""
        holder = socket.socket()
        holder.bind(("127.0.0.1", 0))
        self._closed_ports.append(holder)
        port: int = holder.getsockname()[1]
        return port

    def prepare(self, side: Side, case: str, script: tuple[Step, ...]) -> str:
        """Arm a script; returns the value for the case header."""
        key = f"{side}:{case}"
        self._scripts[key] = script
        self._records[key] = []
        return key

    def take(self, side: Side, case: str) -> list[Received]:
        """What arrived for a case, in order; forgets it."""
        key = f"{side}:{case}"
        self._scripts.pop(key, None)
        return self._records.pop(key, [])

    def close(self) -> None:
        """Stop everything. Idempotent."""
        if self._loop.is_closed():
            return
        self._run(self._shut_down())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()
        for holder in self._closed_ports:
            holder.close()

    def __enter__(self) -> Upstreams:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _listen(self, name: str) -> int:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._tasks.add(task)
            try:
                await self._serve(name, reader, writer)
            except (OSError, EOFError, asyncio.CancelledError):
                pass  # the peer, or the end of the run, cut the connection
            finally:
                self._tasks.discard(task)
                writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        self._servers.append(server)
        port: int = server.sockets[0].getsockname()[1]
        return port

    async def _shut_down(self) -> None:
        for server in self._servers:
            server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.sleep(0)

    async def _serve(
        self, name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while True:
            received, key = await _read_request(name, reader)
            records = self._records.setdefault(key, [])
            records.append(received)
            script = self._scripts.get(key, (Step(),))
            step = script[min(len(records), len(script)) - 1]
            if step.delay_s:
                await asyncio.sleep(step.delay_s)
            if name in self.headers_by_name:
                step = replace(step, headers=(*step.headers, *self.headers_by_name[name]))
            if not await _act(step, name, received.method, writer):
                return


async def _read_request(name: str, reader: asyncio.StreamReader) -> tuple[Received, str]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head[:-4].split("\r\n")
    method, path, _ = first.split(" ", 2)
    headers = tuple(_header(line) for line in lines)
    values = dict(headers)
    if "chunked" in values.get("transfer-encoding", ""):
        body = await _read_chunks(reader)
    else:
        body = await reader.readexactly(int(values.get("content-length", "0")))
    return Received(name, method, path, headers, body), values.get(CASE_HEADER, "")


def _header(line: str) -> tuple[str, str]:
    name, _, value = line.partition(":")
    return name.lower(), value.strip(" \t")


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    body = b""
    while True:
        size = int((await reader.readline()).split(b";")[0], 16)
        chunk = await reader.readexactly(size + 2)
        if not size:
            return body
        body += chunk[:-2]


async def _act(step: Step, name: str, method: str, writer: asyncio.StreamWriter) -> bool:
    """Do what the step says; False ends the connection."""
    if step.action == "reset":
        raw: socket.socket = writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_RESET)
        writer.transport.abort()
        return False
    if step.action == "close":
        return False
    if step.action == "garbage":
        writer.write(b"this is not HTTP\r\n\r\n")
        await writer.drain()
        return False
    response = _response(step, name, method)
    writer.write(response[:-1] if step.action == "cut" else response)
    await writer.drain()
    return step.action != "cut"


def _response(step: Step, name: str, method: str) -> bytes:
    body = (name if step.body is None else step.body).encode("latin-1")
    if step.status in (204, 304):
        body = b""
    lines = [f"HTTP/1.1 {step.status} Scripted"]
    lines += [f"{header}: {value}" for header, value in step.headers]
    if step.status not in (204, 304):
        lines.append(f"content-length: {len(body)}")
    head = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
    return head if method == "HEAD" else head + body
