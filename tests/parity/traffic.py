"""What goes over the wire in a parity run, as values both sides share.

No sockets, no configuration and no comparison in here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Pairs = tuple[tuple[str, str], ...]

#: Tells the recording upstreams which case, and which side, a request belongs to.
CASE_HEADER = "x-case"

Side = Literal["envoy", "ours"]


@dataclass(frozen=True)
class Step:
    """How an upstream treats one attempt.

    ``reset`` sends RST and ``close`` FIN before any response byte, ``garbage``
    answers with something that is not HTTP, ``cut`` ends in the middle of the body.
    """

    status: int = 200
    headers: Pairs = ()
    body: str | None = None
    delay_s: float = 0.0
    action: Literal["respond", "reset", "close", "garbage", "cut"] = "respond"

    def __str__(self) -> str:
        text = str(self.status) if self.action == "respond" else self.action
        if self.delay_s:
            text += f" after {self.delay_s:g} s"
        return text + (f" {dict(self.headers)}" if self.headers else "")


@dataclass(frozen=True)
class Request:
    """One request as the application makes it; ``path`` carries the query."""

    authority: str
    path: str = "/"
    method: str = "GET"
    headers: Pairs = ()
    body: bytes = b""


@dataclass(frozen=True)
class Received:
    """One attempt as an upstream saw it."""

    upstream: str
    method: str
    path: str
    headers: Pairs
    body: bytes


@dataclass
class Exchange:
    """What one side made of a case."""

    status: int
    headers: Pairs
    body: bytes
    elapsed_s: float
    attempts: list[Received] = field(default_factory=list)
    error: str = ""


@dataclass(frozen=True)
class Case:
    """A request against route configuration number ``table``.

    The last step of ``script`` repeats. ``window_s`` bounds the time both
    sides may take; ``spread`` says that the endpoints of a cluster are chosen
    at random, so that only the counts per endpoint are compared.
    """

    name: str
    table: int
    request: Request
    script: tuple[Step, ...] = (Step(),)
    window_s: tuple[float, float] | None = None
    spread: bool = False
