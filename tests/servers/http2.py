"""A scripted HTTP/2 server on h2, one thread per connection: it does what the test says."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from h2 import events
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.exceptions import H2Error
from h2.settings import SettingCodes, Settings

Headers = list[tuple[str, str]]


class Request:
    """What came on one stream so far."""

    def __init__(self, peer: H2Peer, stream_id: int, headers: Headers) -> None:
        self.peer = peer
        self.stream_id = stream_id
        self.headers = headers
        self.body = b""
        self.trailers: Headers = []
        self.complete = False
        self.reset: int | None = None

    def __getitem__(self, name: str) -> str:
        return dict(self.headers)[name]

    @property
    def path(self) -> str:
        return self[":path"]


class H2Peer:
    """One connection. ``on_head`` and ``on_end`` of the server get requests."""

    def __init__(self, server: H2Server, sock: socket.socket, number: int) -> None:
        self.server = server
        self.sock = sock
        self.number = number
        self.requests: dict[int, Request] = {}
        self.wire = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))
        self.wire.local_settings = Settings(client=False, initial_values=server.settings)
        self.lock = threading.RLock()
        self.resets: list[tuple[int, int]] = []
        self.pings = 0
        self.peak = 0
        self.gone = threading.Event()

    def flush(self) -> None:
        data = self.wire.data_to_send()
        if data:
            with suppress(OSError):
                self.sock.sendall(data)

    def raw(self, data: bytes) -> None:
        """Bytes past h2's back."""
        with suppress(OSError):
            self.sock.sendall(data)

    def respond(
        self,
        request: Request,
        status: int = 200,
        body: bytes = b"ok",
        headers: Headers = [],  # noqa: B006
        trailers: Headers | None = None,
        end: bool = True,
    ) -> None:
        """All of it in one write, if the client's windows are wide enough."""
        with self.lock, suppress(H2Error):
            self.wire.send_headers(
                request.stream_id,
                [(":status", str(status)), *headers],
                end_stream=end and not body and trailers is None,
            )
            if body and len(body) <= self._fits(request):
                self.wire.send_data(request.stream_id, body, end_stream=end and trailers is None)
            elif body:
                self.data(request, body, end=end and trailers is None)
            if trailers is not None:
                self.wire.send_headers(request.stream_id, trailers, end_stream=True)
            self.flush()

    def head(
        self,
        request: Request,
        status: int = 200,
        headers: Headers = [],  # noqa: B006
        end: bool = False,
    ) -> None:
        with self.lock:
            self.wire.send_headers(
                request.stream_id, [(":status", str(status)), *headers], end_stream=end
            )
            self.flush()

    def _fits(self, request: Request) -> int:
        window = self.wire.local_flow_control_window(request.stream_id)
        return min(window, self.wire.max_outbound_frame_size)

    def data(self, request: Request, body: bytes, end: bool = True) -> None:
        """Within the client's windows, which other threads may open meanwhile."""
        while body:
            with self.lock:
                size = min(self._fits(request), len(body))
                if size:
                    self.wire.send_data(request.stream_id, body[:size])
                    body = body[size:]
                    self.flush()
            if not size:
                if self.gone.is_set():
                    return
                if threading.current_thread() is self.thread:
                    self.step()
                else:
                    time.sleep(0.001)
        if end:
            with self.lock:
                self.wire.end_stream(request.stream_id)
                self.flush()

    def reset(self, request: Request, code: int = ErrorCodes.INTERNAL_ERROR) -> None:
        with self.lock:
            self.wire.reset_stream(request.stream_id, code)
            self.flush()

    def goaway(self, last: int, code: int = 0) -> None:
        with self.lock:
            frame = b"\x00\x00\x08\x07\x00\x00\x00\x00\x00"
            self.raw(frame + last.to_bytes(4, "big") + int(code).to_bytes(4, "big"))

    def run(self) -> None:
        self.thread = threading.current_thread()
        try:
            with self.lock:
                if self.server.greet:
                    self.wire.initiate_connection()
                    self.flush()
            while self.step():
                pass
        except (OSError, H2Error):
            pass
        finally:
            self.gone.set()
            with suppress(OSError):
                self.sock.shutdown(socket.SHUT_RDWR)
            self.sock.close()

    def step(self) -> bool:
        data = self.sock.recv(65536)
        if not data:
            return False
        with self.lock:
            found = self.wire.receive_data(data)
            self.flush()
        for event in found:
            self.handle(event)
        with self.lock:
            self.flush()
        return True

    def handle(self, event: events.Event) -> None:
        server = self.server
        request = self.requests.get(getattr(event, "stream_id", None) or -1)
        if isinstance(event, events.RequestReceived):
            request = Request(self, event.stream_id, list(event.headers))
            self.requests[event.stream_id] = request
            live = [r for r in self.requests.values() if not r.complete and r.reset is None]
            self.peak = max(self.peak, len(live))
            server.requests.append(request)
            server.on_head(request)
        elif isinstance(event, events.DataReceived) and request is not None:
            request.body += event.data
            if server.acknowledge and event.flow_controlled_length:
                with self.lock, suppress(H2Error):
                    self.wire.acknowledge_received_data(
                        event.flow_controlled_length, event.stream_id
                    )
        elif isinstance(event, events.StreamReset):
            self.resets.append((event.stream_id, int(event.error_code)))
            if request is not None:
                request.reset = int(event.error_code)
        elif isinstance(event, events.PingReceived):
            self.pings += 1
        elif isinstance(event, events.StreamEnded) and request is not None:
            request.complete = True
            server.on_end(request)


def _ok(request: Request) -> None:
    request.peer.respond(request)


class H2Server:
    """Listens on 127.0.0.1; ``with`` starts and stops it."""

    def __init__(
        self,
        on_end: Callable[[Request], Any] = _ok,
        on_head: Callable[[Request], Any] = lambda request: None,
        *,
        streams: int = 100,
        window: int = 65535,
        acknowledge: bool = True,
        greet: bool = True,
        context: Any = None,
        port: int = 0,
    ) -> None:
        self.port = port
        self.on_end = on_end
        self.on_head = on_head
        self.settings = {
            SettingCodes.MAX_CONCURRENT_STREAMS: streams,
            SettingCodes.INITIAL_WINDOW_SIZE: window,
        }
        self.acknowledge = acknowledge
        self.greet = greet
        self.context = context
        self.peers: list[H2Peer] = []
        self.requests: list[Request] = []

    def __enter__(self) -> H2Server:
        self.listener = socket.create_server(("127.0.0.1", self.port))
        self.port = self.listener.getsockname()[1]
        self.threads = [threading.Thread(target=self._accept, daemon=True)]
        self.threads[0].start()
        return self

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.context is not None:
                try:
                    sock = self.context.wrap_socket(sock, server_side=True)
                except OSError:
                    sock.close()
                    continue
            peer = H2Peer(self, sock, len(self.peers))
            self.peers.append(peer)
            thread = threading.Thread(target=peer.run, daemon=True)
            self.threads.append(thread)
            thread.start()

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for peer in self.peers:
            with suppress(OSError):
                peer.sock.shutdown(socket.SHUT_RDWR)
        for thread in self.threads:
            thread.join(5)
