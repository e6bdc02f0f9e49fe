"""The request being handled, kept for the code that handles it; what outbound calls take along.

One context variable: it follows asyncio tasks by itself; threads get it from
:func:`carry`. How requests are read is :mod:`meshclient.telemetry.capture`'s.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextvars import ContextVar, copy_context
from functools import wraps
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from meshclient.model.headers import HeaderMap, RawHeaders
from meshclient.model.inbound import Inbound
from meshclient.telemetry import otel, request_id
from meshclient.telemetry.capture import TRACE_NAMES

if TYPE_CHECKING:
    from meshclient.model.propagation import UnknownHosts
    from meshclient.model.request import RequestHead

P = ParamSpec("P")
R = TypeVar("R")

INBOUND: ContextVar[Inbound | None] = ContextVar("meshclient.inbound", default=None)

#: The request being handled, or None. About 20 ns.
current = INBOUND.get

_NOTHING = Inbound()
_modules = sys.modules
_HARMLESS = TRACE_NAMES | {request_id.NAME}


def outgoing(head: RequestHead) -> Inbound | None:
    """Add to a request what it shall carry on; the request being handled, or None.

    Called once per call, before its route is looked for, since routes may match on what is
    added. Nothing to carry: two look-ups, and the head is not touched.
    """
    inbound = INBOUND.get()
    if inbound is None and otel.MODULE not in _modules:
        return None
    given = head.headers.raw
    if inbound is not None and otel.MODULE not in _modules:
        watched, lines = inbound.prepared or _prepare(inbound)
        for name, _ in given:
            if name.lower() in watched:
                break
        else:
            # Nearly always: the caller sets none of them, and all are added.
            head.headers = HeaderMap(given + lines)
            return inbound
    lines = _carried(inbound or _NOTHING, given)
    if lines:
        head.headers = HeaderMap([*given, *lines])
    return inbound


def withhold(head: RequestHead, given: RawHeaders, mode: UnknownHosts) -> None:
    """Take back from a call to an unknown host what it is not to be told.

    ``given`` are the caller's own lines, which stay whatever they are.
    """
    if mode == "all":
        return
    added = head.headers.raw[len(given) :]
    kept = [] if mode == "none" else [line for line in added if line[0] in _HARMLESS]
    head.headers = HeaderMap([*given, *kept])


def _prepare(inbound: Inbound) -> tuple[frozenset[bytes], RawHeaders]:
    """The names that a caller's own headers may not have for all lines to be added; the lines."""
    names = {name for name, _ in inbound.lines}
    if inbound.trace_lines:
        names |= TRACE_NAMES
    inbound.prepared = prepared = (frozenset(names), inbound.lines + inbound.trace_lines)
    return prepared


def _carried(inbound: Inbound, given: RawHeaders) -> RawHeaders:
    """The lines to add to ``given``.

    What is given wins: name by name, and for the trace context as a whole, because
    half of one and half of another would be none.
    """
    names = {name.lower() for name, _ in given}
    if not TRACE_NAMES.isdisjoint(names):
        return [line for line in inbound.lines if line[0] not in names]
    span = otel.span_lines()
    if not span:
        return [line for line in inbound.lines if line[0] not in names] + inbound.trace_lines
    span = [line for line in span if line[0] not in names]
    names.update(name for name, _ in span)
    return [line for line in inbound.lines if line[0] not in names] + span


def carry(function: Callable[P, R]) -> Callable[P, R]:
    """``function`` for another thread: it runs in the context of this moment.

    Executors and own threads start with an empty context, hence without the request
    being handled. Each call gets a copy of its own, so the result may run many times, also
    at once. ``asyncio.to_thread`` and asyncio tasks do the same by themselves.
    """
    snapshot = copy_context()

    @wraps(function)
    def around(*args: P.args, **kwargs: P.kwargs) -> R:
        return snapshot.copy().run(function, *args, **kwargs)

    return around


__all__ = ["INBOUND", "carry", "current", "outgoing", "withhold"]
