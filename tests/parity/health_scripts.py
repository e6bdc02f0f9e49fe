"""Upstreams that answer health checks by script, and note at each check what the side that
asks thinks of them by then: flags and counters after the answer before."""

from __future__ import annotations

import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from servers.http import HttpServer, Peer, RawServer, Recorded, Reply
from servers.http2 import H2Server, Request

#: Flags, and the counters that are not 0.
Seen = tuple[str, dict[str, int]]
Observe = Callable[[str], Seen]

#: An observation is waited for while a check is held up: less than its time-out.
PATIENCE_S = 0.8

#: How long a slow answer takes: not too long.
SLOW_S = 0.4

IMMEDIATE = ("x-envoy-immediate-health-check-fail", "true")
GRPC = [("content-type", "application/grpc")]
OK = [("grpc-status", "0")]

HTTP_REPLIES: dict[str, Callable[[], Reply]] = {
    "+": lambda: Reply(200, b"fine"),
    "c": lambda: Reply(200, b"fine", close=True),
    "d": lambda: Reply(200, b"fine", [("x-envoy-degraded", "")]),
    "b": lambda: Reply(200, b"wrong"),
    "x": lambda: Reply(503, b"fine"),
    "X": lambda: Reply(503, b"fine", [IMMEDIATE]),
    "r": lambda: Reply(429, b"fine"),
    "R": lambda: Reply(429, b"fine", [IMMEDIATE]),
    "n": lambda: Reply(reset=True),
    "h": lambda: Reply(hang_up=True),
    "s": lambda: Reply(200, b"fine", delay_s=SLOW_S),
    "t": lambda: Reply(delay_s=60),
}


class Script(ABC):
    """One upstream. ``observe`` is set when the side that asks is there to be looked at."""

    def __init__(self, name: str, letters: str) -> None:
        self.name = name
        self.letters = letters
        self.seen: list[Seen] = []
        self.done = threading.Event()
        self._asked = 0
        self._came: list[float] = []
        self._left: list[float] = []
        self._observe: Observe | None = None
        self._may_look = threading.Event()

    def set_observer(self, observe: Observe) -> None:
        self._observe = observe
        self._may_look.set()

    def next_letter(self) -> str:
        """The answer to the check that just came; "+" when the script is over."""
        self._came.append(time.monotonic())
        letter = self._letter()
        self._left.append(time.monotonic() + (SLOW_S if letter == "s" else 0.0))
        return letter

    def pauses(self) -> list[float]:
        """From the end of each scripted check to the begin of the next, in seconds."""
        ends = self._left[: len(self.letters)]
        return [begin - end for end, begin in zip(ends, self._came[1:], strict=False)]

    def _letter(self) -> str:
        number, self._asked = self._asked, self._asked + 1
        if 0 < number <= len(self.letters) and self._may_look.wait(PATIENCE_S):
            assert self._observe is not None
            self.seen.append(self._observe(self.name))
        if number < len(self.letters):
            return self.letters[number]
        self.done.set()
        return "+"

    @property
    @abstractmethod
    def port(self) -> int:
        """Where it listens."""

    @abstractmethod
    def __enter__(self) -> Script: ...

    @abstractmethod
    def __exit__(self, *_: object) -> None: ...


class HttpScript(Script):
    """HTTP/1.1. Paths other than ``/check`` always pass."""

    def __init__(self, name: str, letters: str) -> None:
        super().__init__(name, letters)
        self.server = HttpServer(self._answer)

    def _answer(self, request: Recorded) -> Reply:
        letter = self.next_letter() if request.path == "/check" else "+"
        return HTTP_REPLIES[letter]()

    @property
    def port(self) -> int:
        return self.server.port

    def __enter__(self) -> HttpScript:
        self.server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.stop()


class H2Script(Script):
    """HTTP/2: plain answers, or those of a gRPC health service."""

    def __init__(self, name: str, letters: str) -> None:
        super().__init__(name, letters)
        self.server = H2Server(self._answer)

    def _answer(self, request: Request) -> None:
        letter = self.next_letter()
        peer = request.peer
        if letter == "n":
            peer.reset(request)
        elif letter == "G":
            peer.goaway(request.stream_id)
            self.pass_it(request)
        elif letter == "+":
            self.pass_it(request)
        elif letter != "t":
            self.fail_it(request, letter)

    def pass_it(self, request: Request) -> None:
        request.peer.respond(request, 200, b"fine")

    def fail_it(self, request: Request, letter: str) -> None:
        assert letter == "x"
        request.peer.respond(request, 503, b"fine")

    @property
    def port(self) -> int:
        return self.server.port

    def __enter__(self) -> H2Script:
        self.server.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.__exit__()


class GrpcScript(H2Script):
    """grpc.health.v1."""

    def pass_it(self, request: Request) -> None:
        self._status(request, 1)

    def fail_it(self, request: Request, letter: str) -> None:
        peer = request.peer
        if letter == "x":
            self._status(request, 2)
        elif letter == "s":  # a head that is all there is
            peer.respond(request, 200, b"", [*GRPC, ("grpc-status", "12")])
        elif letter == "e":
            peer.respond(request, 200, b"\0\0\0\0\2\x08\1", GRPC, [("grpc-status", "14")])
        elif letter == "h":
            peer.respond(request, 503, b"")
        elif letter == "p":
            peer.respond(request, 200, b"<html>", [("content-type", "text/html")])
        elif letter == "2":
            peer.respond(request, 200, b"\0\0\0\0\2\x08\1" * 2, GRPC, OK)
        else:
            assert letter == "0"  # no message
            peer.respond(request, 200, b"", GRPC, OK)

    def _status(self, request: Request, status: int) -> None:
        request.peer.respond(request, 200, b"\0\0\0\0\2\x08" + bytes([status]), GRPC, OK)


class TcpScript(Script):
    """``PING`` is answered by ``PONG``; "i" closes the connection after a good answer."""

    def __init__(self, name: str, letters: str) -> None:
        super().__init__(name, letters)
        self.server = RawServer(self._serve)

    def _serve(self, peer: Peer) -> None:
        while peer.read(4):
            letter = self.next_letter()
            if letter == "n":
                peer.reset()
                return
            if letter == "t":
                peer.wait_closed()
                return
            if letter != "h":
                peer.send(b"PONG" if letter in "+i" else b"PANG")
            if letter in "hi":
                return

    @property
    def port(self) -> int:
        return self.server.port

    def __enter__(self) -> TcpScript:
        return self

    def __exit__(self, *_: object) -> None:
        self.server.stop()


SCRIPTS: dict[str, Any] = {"http": HttpScript, "h2": H2Script, "grpc": GrpcScript, "tcp": TcpScript}
