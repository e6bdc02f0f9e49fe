"""Small real HTTP servers on 127.0.0.1 for tests, each on a thread of its own.

``HttpServer`` parses requests, records them and answers through a handler, which
also scripts misbehaviour. ``RawServer`` hands each accepted socket to a plain
function: whatever can be done to a TCP connection can be done there.

    with HttpServer(lambda request: Reply(200, b"hi")) as server:
        httpx.get(server.url + "/x")
        assert server.requests[0].path == "/x"
"""

from __future__ import annotations

import asyncio
import inspect
import socket
import ssl
import struct
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import httptools

Headers = list[tuple[str, str]]


@dataclass
class Recorded:
    """One request as it arrived. ``connection`` numbers the accepted connections from 1."""

    method: str
    target: str
    headers: Headers
    body: bytes = b""
    connection: int = 0

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def query(self) -> str:
        return self.target.partition("?")[2]

    def header(self, name: str) -> str | None:
        """The first value, or None."""
        return next((v for n, v in self.headers if n.lower() == name.lower()), None)

    def header_list(self, name: str) -> list[str]:
        return [v for n, v in self.headers if n.lower() == name.lower()]


@dataclass
class Reply:
    """What to answer. ``body`` bytes get a Content-Length; an (async) iterable is chunked.

    ``delay_s`` waits first; ``gate`` waits for an event first. ``close`` ends the connection
    after the answer; ``reset`` sends a TCP reset and ``hang_up`` a plain close
    instead of an answer; ``truncate`` sends that many bytes of the whole
    answer and closes; ``raw`` replaces every byte of the answer.
    """

    status: int = 200
    body: bytes | str | Iterable[bytes] | AsyncIterator[bytes] = b""
    headers: Headers = field(default_factory=list)
    delay_s: float = 0.0
    gate: threading.Event | None = None
    close: bool = False
    reset: bool = False
    hang_up: bool = False
    truncate: int | None = None
    raw: bytes | None = None


Handler = Callable[[Recorded], "Reply | Awaitable[Reply]"]


def ok(_request: Recorded) -> Reply:
    """The default handler."""
    return Reply(200, b"ok")


class HttpServer:
    """An asyncio server on its own thread. ``requests`` and counters are safe to read any time.

    ``handler`` may be exchanged while it runs, and may be ``async``. ``name``
    is for handlers and messages only. ``tls`` is a server-side context.
    """

    def __init__(
        self,
        handler: Handler = ok,
        *,
        name: str = "",
        host: str = "127.0.0.1",
        port: int = 0,
        tls: ssl.SSLContext | None = None,
        unix_path: str | None = None,
    ) -> None:
        self.handler = handler
        self.name = name
        self.host = host
        self.port = port
        self.requests: list[Recorded] = []
        self.accepted = 0
        self.closed = 0
        self._tls = tls
        self._unix_path = unix_path
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._changed = threading.Condition()
        self._protocols: set[_Connection] = set()
        self._thread = threading.Thread(target=self._run, name=f"http {name}", daemon=True)

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://{self.authority}"

    @property
    def authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def open_connections(self) -> int:
        return self.accepted - self.closed

    def start(self) -> HttpServer:
        self._thread.start()
        self._ready.wait(10)
        if self._failure is not None:
            raise self._failure
        return self

    def stop(self) -> None:
        """Close the listener and every connection; idempotent."""
        if self._loop is not None and self._stop is not None and self._thread.is_alive():
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    def drop_connections(self) -> None:
        """Close every connection, but keep listening."""
        assert self._loop is not None
        done = threading.Event()

        def drop() -> None:
            for protocol in list(self._protocols):
                protocol.transport.close()
            done.set()

        self._loop.call_soon_threadsafe(drop)
        done.wait(5)

    def wait_for(self, condition: Callable[[], bool], timeout: float = 5.0) -> bool:
        """Wait until ``condition`` holds; it is looked at whenever something happens."""
        with self._changed:
            return self._changed.wait_for(condition, timeout)

    def clear(self) -> None:
        self.requests.clear()

    def __enter__(self) -> HttpServer:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def note(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            self._failure = error
        finally:
            self._ready.set()

    async def _serve(self) -> None:
        loop = self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        if self._unix_path is not None:
            server = await loop.create_unix_server(lambda: _Connection(self), self._unix_path)
        else:
            server = await loop.create_server(
                lambda: _Connection(self), self.host, self.port, ssl=self._tls, backlog=1024
            )
            self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        # What waits to be accepted comes first: asyncio drops a connection that
        # it accepts while the server closes, and complains about it later.
        for round_ in range(6):
            if round_ == 3:
                server.close()
            await asyncio.sleep(0.001)
            for protocol in list(self._protocols):
                protocol.transport.abort()


class _Connection(asyncio.Protocol):
    """Requests of one connection, answered one after the other."""

    transport: asyncio.Transport

    def __init__(self, server: HttpServer) -> None:
        self._server = server
        self._queue: asyncio.Queue[Recorded] = asyncio.Queue()
        self._can_write = asyncio.Event()
        self._can_write.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        server = self._server
        server.accepted += 1
        self._number = server.accepted
        server._protocols.add(self)
        self._parser = httptools.HttpRequestParser(self)
        self._answers = asyncio.get_running_loop().create_task(self._answer_all())
        server.note()

    def connection_lost(self, exc: Exception | None) -> None:
        self._answers.cancel()
        self._can_write.set()
        self._server._protocols.discard(self)
        # asyncio closes the socket after this call; the client must be able to tell by then.
        asyncio.get_running_loop().call_soon(self._socket_closed)

    def _socket_closed(self) -> None:
        self._server.closed += 1
        self._server.note()

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass
        except httptools.HttpParserError:
            self.transport.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
            self.transport.close()

    def pause_writing(self) -> None:
        self._can_write.clear()

    def resume_writing(self) -> None:
        self._can_write.set()

    # httptools

    def on_message_begin(self) -> None:
        self._request = Recorded("", "", [], connection=self._number)

    def on_url(self, url: bytes) -> None:
        self._request.target += url.decode("latin-1")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._request.headers.append((name.decode("latin-1"), value.decode("latin-1")))

    def on_headers_complete(self) -> None:
        self._request.method = self._parser.get_method().decode()
        if (self._request.header("expect") or "").lower() == "100-continue":
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        self._request.body += body

    def on_message_complete(self) -> None:
        self._server.requests.append(self._request)
        self._queue.put_nowait(self._request)
        self._server.note()

    # Answers

    async def _answer_all(self) -> None:
        while True:
            request = await self._queue.get()
            reply = self._server.handler(request)
            if inspect.isawaitable(reply):
                reply = await reply
            await self._answer(request, reply)
            wants_close = (request.header("connection") or "").lower() == "close"
            if reply.close or wants_close or self.transport.is_closing():
                self.transport.close()
                return

    async def _answer(self, request: Recorded, reply: Reply) -> None:
        if reply.delay_s:
            await asyncio.sleep(reply.delay_s)
        if reply.gate is not None:
            await asyncio.get_running_loop().run_in_executor(None, reply.gate.wait, 10)
        if reply.reset:
            reset(self.transport.get_extra_info("socket"))
            self.transport.abort()
        elif reply.hang_up:
            self.transport.close()
        elif reply.truncate is not None:
            self.transport.write(_whole(request, reply)[: reply.truncate])
            self.transport.close()
        elif isinstance(reply.body, (bytes, str)) or reply.raw is not None:
            self.transport.write(_whole(request, reply))
        else:
            await self._stream(reply)

    async def _stream(self, reply: Reply) -> None:
        self.transport.write(_head(reply, [("Transfer-Encoding", "chunked")]))
        async for piece in _pieces(reply.body):
            await self._can_write.wait()
            if self.transport.is_closing():
                return
            self.transport.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        self.transport.write(b"0\r\n\r\n")


async def _pieces(body: Any) -> AsyncIterator[bytes]:
    if hasattr(body, "__aiter__"):
        async for piece in body:
            yield piece
    else:
        for piece in body:
            yield piece


def _head(reply: Reply, framing: Headers) -> bytes:
    lines = [f"HTTP/1.1 {reply.status} {'OK' if reply.status == 200 else 'Status'}"]
    lines += [f"{n}: {v}" for n, v in [*reply.headers, *framing]]
    if reply.close:
        lines.append("Connection: close")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def _whole(request: Recorded, reply: Reply) -> bytes:
    if reply.raw is not None:
        return reply.raw
    body = reply.body.encode() if isinstance(reply.body, str) else reply.body
    assert isinstance(body, bytes)
    framing = [] if reply.status in (204, 304) else [("Content-Length", str(len(body)))]
    bodiless = request.method == "HEAD" or reply.status in (204, 304)
    return _head(reply, framing) + (b"" if bodiless else body)


def reset(sock: Any) -> None:
    """Make the coming close of ``sock`` a TCP reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


class Peer:
    """The server's end of one connection, for scripts of RawServer."""

    def __init__(self, sock: socket.socket, number: int, server: RawServer) -> None:
        self.sock = sock
        self.number = number
        self._server = server
        self._buffer = b""

    def read_head(self) -> bytes:
        """Up to and including the empty line; what came is returned when the client left."""
        while b"\r\n\r\n" not in self._buffer:
            data = self.sock.recv(65536)
            if not data:
                break
            self._buffer += data
        head, end, self._buffer = self._buffer.partition(b"\r\n\r\n")
        if head or end:
            self._server.heads.append(head + end)
        return head + end

    def read(self, count: int) -> bytes:
        """Exactly ``count`` bytes, less when the client left."""
        got = bytearray(self._buffer)
        while len(got) < count:
            data = self.sock.recv(65536)
            if not data:
                break
            got += data
        self._buffer = bytes(got[count:])
        return bytes(got[:count])

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def wait_closed(self) -> bytes:
        """Read until the client has closed; the bytes that came."""
        rest = self._buffer
        with suppress(OSError):
            while data := self.sock.recv(65536):
                rest += data
        self._server.ended.release()
        return rest

    def reset(self) -> None:
        reset(self.sock)
        self.sock.close()


class RawServer:
    """Each connection runs ``script(peer)`` on a thread; the socket is closed when it returns.

    An exception of a script is raised again by ``stop``, except for OSError
    (the client left). ``ended`` counts ``wait_closed`` calls that returned.
    """

    def __init__(self, script: Callable[[Peer], object], *, accept: bool = True) -> None:
        self.script = script
        self.heads: list[bytes] = []
        self.accepted = 0
        self.ended = threading.Semaphore(0)
        self._errors: list[BaseException] = []
        self._threads: list[threading.Thread] = []
        self._peers: list[socket.socket] = []
        self._stopping = False
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        self._acceptor = threading.Thread(target=self._accept, daemon=True)
        if accept:
            self._acceptor.start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            if self._stopping:
                sock.close()
                return
            sock.settimeout(10)
            self.accepted += 1
            self._peers.append(sock)
            peer = Peer(sock, self.accepted, self)
            thread = threading.Thread(target=self._run, args=(peer,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _run(self, peer: Peer) -> None:
        try:
            self.script(peer)
        except OSError:
            pass
        except BaseException as error:
            self._errors.append(error)
        finally:
            peer.sock.close()

    def stop(self) -> None:
        """Close the listener and every connection; raises what a script raised."""
        self._stopping = True
        with suppress(OSError):
            socket.create_connection(("127.0.0.1", self.port), 1).close()  # wakes accept
        self._listener.close()
        if self._acceptor.ident is not None:
            self._acceptor.join(5)
        for sock in self._peers:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)
        if self._errors:
            raise self._errors[0]

    def __enter__(self) -> RawServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def answer(body: bytes = b"ok", status: int = 200, *lines: str) -> bytes:
    """A whole response as bytes, for scripts."""
    head = "".join(f"{line}\r\n" for line in lines)
    return f"HTTP/1.1 {status} Status\r\n{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def serve_raw(payload: bytes, then: Callable[[Peer], object] | None = None) -> RawServer:
    """Every request is answered with ``payload``; ``then`` runs after each, or the next is read."""

    def script(peer: Peer) -> None:
        while peer.read_head():
            peer.send(payload)
            if then is not None:
                then(peer)

    return RawServer(script)
