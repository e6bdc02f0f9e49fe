"""What a scenario says and what a run of it showed: values only, no sockets, no clients."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from servers.http import Recorded, Reply

if TYPE_CHECKING:
    from meshclient.model.snapshot import MeshConfig
    from meshclient.resilience import RetryStrategy

    from .world import World

Step = Reply | Callable[[Recorded], Reply]
Colour = Literal["sync", "async"]
Reading = Literal["whole", "stream", "lines", "early", "untouched"]


@dataclass(frozen=True)
class Ask:
    """One request of the application.

    ``body`` names a maker in :mod:`bodies`. ``reading``: ``whole`` is
    ``client.request``; the others use ``client.stream`` and read all of the body, its
    lines, its first piece, or nothing of it. ``options`` go to httpx as they are.
    """

    method: str = "GET"
    url: str = "http://svc/x"
    body: str = ""
    reading: Reading = "whole"
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Expected:
    """What one request must lead to, in every driver.

    ``error`` is the class of ours, ``counterpart`` the client library's that a caller
    would already catch. ``attempts`` are words such as ``a success 200``. ``note`` is
    a part of the only remark in the report; empty: there is none. ``reply``: status,
    body and flags are what ``local_replies="respond"`` gives instead of the error
    (None: it raises all the same, because a response head was already delivered).
    """

    status: int = 0
    body: bytes | None = None
    error: str = ""
    counterpart: str = ""
    attempts: tuple[str, ...] = ("a success 200",)
    flags: tuple[str, ...] = ()
    note: str = ""
    reply: tuple[int, bytes] | None = None
    headers: Mapping[str, str | None] = field(default_factory=dict)
    history: tuple[int, ...] = ()


def ok(body: bytes | None = b"ok", **more: Any) -> Expected:
    """A plain 200 from ``a``, unless ``more`` says otherwise."""
    return Expected(**{"status": 200, "body": body, **more})


@dataclass(frozen=True)
class Scenario:
    """Policy, upstreams' behaviour, requests, and what must come of it.

    ``service`` are the fields of the native service ``svc`` besides its ``endpoints``
    (names of the world's upstreams). ``documents`` or ``config`` replace that policy.
    ``script``: what the upstreams do with the requests in the order in which they arrive;
    the last step repeats. ``received``: what arrives, as ``a GET /x``. ``sees``: a
    check of what arrived in full. ``naps``: the waits between tries, if they are exact.
    """

    name: str
    asks: tuple[Ask, ...] = (Ask(),)
    expected: tuple[Expected, ...] = (ok(),)
    script: tuple[Step, ...] = (Reply(200, b"ok"),)
    endpoints: tuple[str, ...] = ("a",)
    service: Mapping[str, Any] = field(default_factory=dict)
    documents: Callable[[World], list[dict[str, Any]]] | None = None
    config: Callable[[World], MeshConfig] | None = None
    strategies: Callable[[], dict[str, RetryStrategy]] | None = None
    client: Callable[[Any, Colour], dict[str, Any]] | None = None
    received: tuple[str, ...] = ("a GET /x",)
    sees: Callable[[list[Recorded]], None] | None = None
    naps: tuple[float, ...] | None = None
    outbound: Literal["allow_any", "registry_only"] | None = None

    def __str__(self) -> str:
        return self.name


@dataclass
class Observed:
    """What one request led to."""

    status: int = 0
    body: bytes = b""
    error: str = ""
    counterpart: str = ""
    attempts: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    headers: dict[str, str] = field(default_factory=dict)
    history: tuple[int, ...] = ()


@dataclass
class Run:
    """What one run of a scenario through one driver showed."""

    answers: list[Observed] = field(default_factory=list)
    received: list[Recorded] = field(default_factory=list)
    upstreams: list[str] = field(default_factory=list)
    naps: list[float] = field(default_factory=list)
    left: list[str] = field(default_factory=list)

    @property
    def arrivals(self) -> tuple[str, ...]:
        """``a GET /x`` for each request that an upstream read, in order."""
        pairs = zip(self.upstreams, self.received, strict=True)
        return tuple(f"{name} {r.method} {r.target}" for name, r in pairs)
