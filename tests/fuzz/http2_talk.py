"""Honest HTTP/2 conversations of any shape: our core and h2's strict server, in memory.

Each says what the other allows; both must understand the same. Randomness is an argument.
The frames of the server are kept, to be damaged by :mod:`tests.fuzz.http2_damage`.
"""

from __future__ import annotations

from random import Random

from h2 import events
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.settings import SettingCodes
from hpack import NeverIndexedHeaderTuple

from meshclient.transport.http2 import Http2Core
from meshclient.transport.http2_stream import Stream
from meshclient.transport.trailers import may_be_trailer

Fields = list[tuple[bytes, bytes]]

_NAMES = (b"x-a", b"x-b", b"date", b"etag", b"cookie", b"user-agent", b"accept", b"x" * 60)
_VALUES = (b"", b"1", b"ab", b"v" * 30, b"w" * 900, b"\xff\x80", b"a, b;c=d", b"z" * 5000)
_SECRET = NeverIndexedHeaderTuple(b"authorization", b"Basic eDp5")
_TABLES = (0, 40, 100, 1000, 4096, 65_536)
_WINDOWS = (0, 1, 100, 16_384, 65_535, 2**20)
_CODES = (0, 1, 2, 5, 7, 8, 11, 13, 99)


class Side:
    """What one side meant, or understood, of one stream."""

    def __init__(self) -> None:
        self.fields: Fields = []
        self.body = b""
        self.trailers: Fields = []
        self.ended = False
        self.code: int | None = None

    def all(self) -> tuple[Fields, bytes, Fields, bool, int | None]:
        return self.fields, self.body, self.trailers, self.ended, self.code


class Talk:
    """``step`` lets either side do something; ``check`` says what was misunderstood."""

    def __init__(self, rand: Random, cancels: bool = True) -> None:
        self.rand = rand
        self.core = Http2Core()
        configuration = H2Configuration(
            client_side=False, header_encoding=None, normalize_inbound_headers=False
        )
        self.server = H2Connection(configuration)
        self.server.initiate_connection()
        self.streams: list[Stream] = []
        self.asked: dict[int, Side] = {}
        self.heard: dict[int, Side] = {}
        self.answered: dict[int, Side] = {}
        self.read: dict[int, bytes] = {}
        #: What the server wrote, in order, and the method and end of each request.
        self.down: list[bytes] = []
        self.opened: list[tuple[bytes, bool]] = []
        self._unread: dict[int, int] = {}
        self._cancels = cancels
        self.pings = self.pongs = 0
        self.exchange()

    def exchange(self) -> None:
        """Until neither has anything to say, the bytes cut anywhere."""
        while True:
            up, down = self.core.outgoing(), self.server.data_to_send()
            if not up and not down:
                return
            for piece in self._pieces(up):
                for event in self.server.receive_data(piece):
                    self._hear(event)
            if down:
                self.down.append(down)
            for piece in self._pieces(down):
                self.core.feed(piece, 0.0)

    def _pieces(self, data: bytes) -> list[bytes]:
        if not data or self.rand.random() < 0.6:
            return [data] if data else []
        at = self.rand.randrange(len(data) + 1)
        return [data[:at], data[at:]]

    def _hear(self, event: events.Event) -> None:
        if isinstance(event, events.RequestReceived):
            self.heard[event.stream_id] = side = Side()
            side.fields = list(event.headers)
        elif isinstance(event, events.DataReceived):
            self.heard[event.stream_id].body += event.data
            self._unread[event.stream_id] = (
                self._unread.get(event.stream_id, 0) + event.flow_controlled_length
            )
        elif isinstance(event, events.StreamEnded):
            self.heard[event.stream_id].ended = True
        elif isinstance(event, events.StreamReset):
            self.heard[event.stream_id].code = int(event.error_code)
        elif isinstance(event, events.PingAckReceived):
            self.pongs += 1

    def step(self) -> None:
        """One thing that one side may do now."""
        actions = [self._open, self._upload, self._upload, self._take, self._ping]
        actions += [self._head, self._data, self._data, self._finish, self._settings]
        actions += [self._credit, self._reset]
        if self._cancels:
            actions.append(self._cancel)
        self.rand.choice(actions)()
        self.exchange()

    def _fields(self) -> Fields:
        rand = self.rand
        count = rand.choice((0, 1, 2, 3, 8))
        found = [(rand.choice(_NAMES), rand.choice(_VALUES)) for _ in range(count)]
        return [*found, _SECRET] if rand.random() < 0.2 else found

    # The client

    def _open(self) -> None:
        if self.core.room() <= 0 or len(self.streams) >= 12:
            return
        method = self.rand.choice((b"GET", b"GET", b"POST", b"HEAD", b"POST"))
        path = b"/%d" % self.rand.randrange(3)
        fields: Fields = [(b":method", method), (b":scheme", b"https"), (b":path", path)]
        fields += [(b":authority", b"test"), *self._fields()]
        end = method != b"POST" or self.rand.random() < 0.2
        stream = self.core.open(fields, end)
        self.streams.append(stream)
        self.opened.append((method, end))
        self.asked[stream.id] = side = Side()
        side.fields, side.ended = fields, end
        self.answered[stream.id], self.read[stream.id] = Side(), b""

    def _one(self) -> Stream | None:
        live = [one for one in self.streams if one.id in self.core.streams]
        return self.rand.choice(live) if live else None

    def _upload(self) -> None:
        stream = self._one()
        if stream is None or stream.ended or stream.may_send < 0:
            return  # h2 takes no empty end below zero, which RFC 9113 section 6.9.1 allows
        wanted = self.rand.choice((0, 1, 50, 16_384, 16_385, 70_000))
        data = self.rand.randbytes(min(wanted, self.core.window(stream)))
        end = self.rand.random() < 0.3
        if data or end:
            self.core.send(stream, data, end)
            side = self.asked[stream.id]
            side.body += data
            side.ended = end

    def _take(self) -> None:
        stream = self._one()
        if stream is not None:
            data = stream.take()
            self.read[stream.id] += data
            self.core.consumed(stream, len(data))

    def _ping(self) -> None:
        if self.rand.random() < 0.5:
            self.server.ping(self.rand.randbytes(8))
            self.pings += 1
        else:
            self.core.ping()

    def _cancel(self) -> None:
        stream = self._one()
        if stream is not None and self.rand.random() < 0.3:
            self.core.cancel(stream)
            self.asked[stream.id].code = 8

    # The server

    def _target(self) -> tuple[int, Side] | None:
        """A stream whose answer is not whole."""
        found = [
            (number, side)
            for number, side in self.answered.items()
            if number in self.heard
            and not side.ended
            and side.code is None
            and self.heard[number].code is None
        ]
        return self.rand.choice(found) if found else None

    def _head(self) -> None:
        found = self._target()
        if found is None or found[1].fields:
            return
        number, side = found
        if self.rand.random() < 0.2:
            self.server.send_headers(number, [(b":status", b"103"), *self._fields()])
            return
        status = self.rand.choice((b"200", b"404", b"503", b"206"))
        side.fields = [(b":status", status), *self._fields()]
        end = self._is_head(number) or self.rand.random() < 0.1
        if end:
            side.fields.append((b"content-length", b"7" if self._is_head(number) else b"0"))
        side.ended = end
        self.server.send_headers(number, side.fields, end_stream=end)

    def _is_head(self, number: int) -> bool:
        return self.asked[number].fields[0][1] == b"HEAD"

    def _data(self) -> None:
        found = self._target()
        if found is None or not found[1].fields:
            return
        number, side = found
        room = min(self.server.local_flow_control_window(number), 16_384)
        padding = self.rand.choice((None, None, 0, 9, 255))
        most = room - (0 if padding is None else padding + 1)
        size = min(self.rand.choice((0, 1, 60, 2000, 16_384)), most)
        if size < 0:
            return
        data = self.rand.randbytes(size)
        side.ended = self.rand.random() < 0.15
        side.body += data
        self.server.send_data(number, data, end_stream=side.ended, pad_length=padding)

    def _finish(self) -> None:
        found = self._target()
        if found is None or not found[1].fields:
            return
        number, side = found
        side.ended = True
        side.trailers = [(b"grpc-status", b"0"), *self._fields()]
        self.server.send_headers(number, side.trailers, end_stream=True)

    def _reset(self) -> None:
        found = self._target()
        if found is not None and self.rand.random() < 0.15:
            number, side = found
            side.code = self.rand.choice(_CODES)
            self.server.reset_stream(number, side.code)

    def _settings(self) -> None:
        rand = self.rand
        if rand.random() < 0.3:
            table, window = rand.choice(_TABLES), rand.choice(_WINDOWS)
            changes = {SettingCodes.HEADER_TABLE_SIZE: table}
            if rand.random() < 0.5:
                changes = {SettingCodes.INITIAL_WINDOW_SIZE: window}
            self.server.update_settings(changes)

    def _credit(self) -> None:
        """Give back what was received, as the server gets round to it."""
        if self._unread:
            number = self.rand.choice(list(self._unread))
            side = self.heard[number]
            if side.code is None and self.answered[number].code is None:
                self.server.acknowledge_received_data(self._unread.pop(number), number)

    # Both

    def check(self) -> str:
        """What one side understood otherwise than the other meant it, or ""."""
        if self.core.broken is not None:
            return f"broken: {self.core.broken}"
        if self.pings != self.pongs or self.core.awaits_pong:
            return f"{self.pings} PINGs, {self.pongs} answers"
        for stream in self.streams:
            meant, heard = self.asked[stream.id], self.heard[stream.id]
            if meant.all() != heard.all():
                return f"request {stream.id}: {meant.all()} became {heard.all()}"
            if self.asked[stream.id].code is None:
                wrong = self._check_answer(stream)
                if wrong:
                    return wrong
        return ""

    def _check_answer(self, stream: Stream) -> str:
        meant = self.answered[stream.id]
        got = Side()
        if stream.head_complete:
            got.fields = [(b":status", b"%d" % stream.status), *stream.headers]
        got.body = self.read[stream.id] + stream.take()
        self.read[stream.id] = got.body
        got.trailers = list(stream.trailers)
        got.ended = stream.complete
        trailers = [field for field in meant.trailers if may_be_trailer(field[0])]
        expected = (meant.fields, meant.body, trailers, meant.ended)
        if got.all()[:4] != expected:
            return f"answer {stream.id}: {expected} became {got.all()[:4]}"
        if (stream.error is not None) != (meant.code is not None):
            return f"answer {stream.id}: reset {meant.code}, error {stream.error}"
        left = self.server.outbound_flow_control_window
        if left <= 0 or self.core._may_receive + self.core._unreturned < left:
            return f"connection window: {left} there"
        return ""
