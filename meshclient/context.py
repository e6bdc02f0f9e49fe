"""The request being handled, for code that is no server: what calls take along from it.

The middlewares of :mod:`meshclient.server` set it for each request. Consumers of
queues, jobs and scripts set it with :func:`enter`, and anything bounds its calls with
:func:`deadline`. It follows ``await`` and asyncio tasks; own threads need :func:`carry`.
Nothing is decided here.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from contextvars import Token
from typing import TYPE_CHECKING

from meshclient.model.headers import HeaderMap
from meshclient.model.inbound import Inbound, Marks, TraceContext
from meshclient.model.propagation import DEFAULT_PROPAGATION, Propagation
from meshclient.model.request import RequestHead
from meshclient.telemetry.capture import capture
from meshclient.telemetry.deadlines import EXPECTED
from meshclient.telemetry.propagation import INBOUND, carry, current, outgoing

if TYPE_CHECKING:
    from meshclient.mesh import Mesh


class Scope:
    """``with``: within, ``inbound`` is the request being handled. For one use, in one context."""

    __slots__ = ("_token", "inbound")

    def __init__(self, inbound: Inbound) -> None:
        self.inbound = inbound
        self._token: Token[Inbound | None]

    def __enter__(self) -> Inbound:
        self._token = INBOUND.set(self.inbound)
        return self.inbound

    def __exit__(self, *exc: object) -> None:
        INBOUND.reset(self._token)


def deadline(seconds: float) -> Scope:
    """``with meshclient.deadline(2.0):`` every call within ends in that many seconds, all together.

    Measured from this call. It bounds timeouts and tries, stops retries that cannot
    finish, and is passed on. Within another deadline the earlier one holds. 0 or less: it is
    over, and calls raise :class:`~meshclient.DeadlineExceeded` before anything is sent.

    Raises ValueError for what is no finite number. Works in sync and async code.
    """
    if not math.isfinite(seconds):
        raise ValueError(f"a deadline is a number of seconds, not {seconds!r}")
    at = time.monotonic() + seconds
    known = current()
    return Scope(Inbound(deadline=at) if known is None else known.derive(deadline=at))


def values(given: Mapping[str, str]) -> Scope:
    """``with meshclient.context.values({"tenant": "acme"}):`` further values for hash policies of
    kind ``context``. They are not sent anywhere."""
    known = current() or Inbound()
    return Scope(known.derive(values=given))


def enter(
    headers: Mapping[str, str] | Iterable[tuple[str, str]],
    mesh: Mesh | None = None,
) -> Scope:
    """``with meshclient.context.enter(message.headers):`` what handles a message, a job, a
    request of a server that has no middleware of ours.

    ``headers`` are read as :class:`meshclient.server.ASGIMiddleware` reads them, under the
    ``propagation`` of the ``mesh``, or the default one.
    """
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    raw = [(n.encode("latin-1", "replace"), v.encode("latin-1", "replace")) for n, v in pairs]
    return Scope(capture(raw, settings_of(mesh), time.monotonic(), time.time()))


def detached() -> Scope:
    """``with meshclient.context.detached():`` work that outlives the request, such as a background
    task: it carries the same headers on, and the caller's deadline does not end it."""
    known = current()
    return Scope(Inbound() if known is None else known.detach())


def remaining() -> float | None:
    """Seconds until the deadline in force, below 0 when it has passed; None: there is none."""
    known = current()
    return None if known is None or known.deadline is None else known.deadline - time.monotonic()


def outbound_headers(given: Mapping[str, str] | None = None) -> dict[str, str]:
    """The headers that a call of the mesh would carry on, for calls that go another way.

    ``given`` are the caller's own, which win and are not repeated in the result. With a
    deadline, ``x-envoy-expected-rq-timeout-ms`` and the configured header say what is
    left, in milliseconds at least 1. Names are in lower case; several lines of one name are
    joined by commas.
    """
    own = HeaderMap.of((given or {}).items())
    head = RequestHead("GET", "http", "", 0, "/", own)
    inbound = outgoing(head)
    added: dict[str, str] = {}
    for name, value in head.headers.raw[len(own.raw) :]:
        key, text = name.decode("latin-1"), value.decode("latin-1")
        added[key] = f"{added[key]},{text}" if key in added else text
    if inbound is not None and inbound.deadline is not None:
        now = time.monotonic()
        lines = [(EXPECTED, b"%d" % max(1, int((inbound.deadline - now) * 1000)))]
        line = inbound.deadline_line(now)
        lines += [] if line is None else [line]
        stated = {name.lower() for name in given or ()}
        decoded = ((n.decode("latin-1"), v.decode("latin-1")) for n, v in lines)
        added.update((n, v) for n, v in decoded if n not in stated)
    return added


def settings_of(mesh: Mesh | None) -> Propagation:
    """How a mesh wants requests to be read; the default without one."""
    return DEFAULT_PROPAGATION if mesh is None else mesh.snapshot.propagation


__all__ = [
    "Inbound",
    "Marks",
    "Propagation",
    "Scope",
    "TraceContext",
    "carry",
    "current",
    "deadline",
    "detached",
    "enter",
    "outbound_headers",
    "remaining",
    "settings_of",
    "values",
]
