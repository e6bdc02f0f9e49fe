"""Shared by the HTTP/2 tests: our core, and a server's h2 object at the other end."""

from __future__ import annotations

from h2 import events
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.settings import SettingCodes, Settings

from meshclient.transport.http2 import Http2Core
from meshclient.transport.http2_stream import Stream

GET = [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/"), (b":authority", b"a")]
HEAD = [(b":method", b"HEAD"), *GET[1:]]
POST = [(b":method", b"POST"), *GET[1:]]


class Pair:
    """A core and the server at the other end."""

    def __init__(self, **initial: int) -> None:
        self.core = Http2Core()
        self.server = H2Connection(H2Configuration(client_side=False, header_encoding=None))
        values = {SettingCodes[name]: value for name, value in initial.items()}
        self.server.local_settings = Settings(client=False, initial_values=values)
        self.server.initiate_connection()
        self.now = 0.0
        self.seen: list[events.Event] = []
        self.talk()

    def talk(self) -> list[Stream]:
        """Until both have said everything; the streams that changed."""
        touched: list[Stream] = []
        while True:
            up, down = self.core.outgoing(), self.server.data_to_send()
            if not up and not down:
                return touched
            if up:
                self.seen += self.server.receive_data(up)
            if down:
                touched += self.core.feed(down, self.now)

    def open(self, headers: list[tuple[bytes, bytes]] = GET, end: bool = True) -> Stream:
        stream = self.core.open(headers, end)
        self.talk()
        return stream

    def raw(self, data: bytes) -> list[Stream]:
        return self.core.feed(data, self.now)

    def answer(self, stream: Stream, *headers: tuple[bytes, bytes], body: bytes = b"") -> None:
        self.server.send_headers(stream.id, [(b":status", b"200"), *headers], end_stream=not body)
        if body:
            self.server.send_data(stream.id, body, end_stream=True)
        self.talk()


def frame(kind: int, payload: bytes, stream: int = 0, flags: int = 0) -> bytes:
    return (
        len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload
    )
