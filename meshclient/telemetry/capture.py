"""An inbound request's headers to an :class:`~meshclient.model.inbound.Inbound`.

Each format is a module of its own; here is what is asked for, in which order. No
clock: the times are arguments.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from meshclient.model.headers import RawHeaders
from meshclient.model.inbound import NO_VALUES, Inbound, Marks, TraceContext
from meshclient.model.propagation import Propagation
from meshclient.telemetry import (
    b3,
    baggage,
    cloud_trace,
    deadlines,
    grpc_timeout,
    ot_span,
    request_id,
    w3c_trace,
)
from meshclient.telemetry.header_lines import Found, gather, lines_of, single

#: Headers that belong together: who sets one of them says what the trace is.
TRACE_NAMES = frozenset((*w3c_trace.NAMES, *b3.NAMES, ot_span.NAME, cloud_trace.NAME))
_ATTEMPT = b"x-envoy-attempt-count"


def capture(
    headers: Iterable[tuple[bytes, bytes]], settings: Propagation, now: float, unix_now: float
) -> Inbound:
    """What the calls made for a request take along.

    ``headers`` in any case and order, ``now`` monotonic seconds, ``unix_now`` the wall
    clock. Malformed headers are left out, each format for itself. Raises nothing for
    bad input. Thread-safe.
    """
    found = gather(headers, _wanted(settings))
    trace, trace_lines = _read_trace(found)
    lines: RawHeaders = []
    values: dict[str, str] = {}
    known = _read_request_id(found, lines) if settings.request_id else b""
    pairs = baggage.read(found)
    if pairs is not None:
        values.update((f"baggage.{key}", value) for key, value in pairs[0].items())
        lines += pairs[1]
    for name in settings.headers:
        own = lines_of(found, name.encode("latin-1"))
        lines += own
        if own:
            values[name] = own[0][1].decode("latin-1")
    if known:
        values["x-request-id"] = known.decode("latin-1")
    if trace is not None and trace.trace_id:
        values["trace-id"] = trace.trace_id
    left_s = deadlines.left_s(found, settings.deadline_header, unix_now)
    return Inbound(
        None if left_s is None or not settings.deadline else now + left_s,
        trace_lines,
        lines,
        values or NO_VALUES,
        Marks(_attempt(found)),
        trace,
        known.decode("latin-1"),
        settings.deadline_header if settings.deadline else None,
        unix_now - now,
    )


@lru_cache(maxsize=64)
def _wanted(settings: Propagation) -> frozenset[bytes]:
    names = {_ATTEMPT, *(name.encode("latin-1") for name in settings.headers)}
    if settings.trace:
        names |= TRACE_NAMES
    if settings.baggage:
        names.add(baggage.NAME)
    if settings.request_id:
        names.add(request_id.NAME)
    if settings.deadline:
        names |= {grpc_timeout.NAME, deadlines.EXPECTED}
        if settings.deadline_header is not None:
            names.add(settings.deadline_header.name.encode("latin-1"))
    return frozenset(names)


def _read_trace(found: Found) -> tuple[TraceContext | None, RawHeaders]:
    """The first valid context in the order W3C, B3, Cloud; the lines of all of them."""
    context: TraceContext | None = None
    lines: RawHeaders = []
    if not TRACE_NAMES.isdisjoint(found):
        for read in (w3c_trace.read, b3.read, cloud_trace.read):
            known = read(found)
            if known is not None:
                context = context or known[0]
                lines += known[1]
        lines += ot_span.read(found)
    return context, lines


def _read_request_id(found: Found, lines: RawHeaders) -> bytes:
    known = request_id.read(found) or request_id.make()
    lines.append((request_id.NAME, known))
    return known


def _attempt(found: Found) -> int:
    value = single(found, _ATTEMPT)
    return int(value) if value is not None and value.isdigit() and len(value) < 10 else 0


__all__ = ["TRACE_NAMES", "capture"]
