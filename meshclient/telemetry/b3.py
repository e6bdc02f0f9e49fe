"""B3 in one header (``b3``) and in several (``x-b3-*``). Source: openzipkin/b3-propagation.

Reads and checks; a library without spans of its own changes neither.
"""

from __future__ import annotations

import re

from meshclient.model.headers import RawHeaders
from meshclient.model.inbound import TraceContext
from meshclient.telemetry.header_lines import Found, lines_of, single

SINGLE = b"b3"
MULTI = (
    b"x-b3-traceid",
    b"x-b3-spanid",
    b"x-b3-parentspanid",
    b"x-b3-sampled",
    b"x-b3-flags",
)
NAMES = (SINGLE, *MULTI)

_SINGLE = re.compile(
    rb"([0-9a-f]{32}|[0-9a-f]{16})-([0-9a-f]{16})(?:-([01d])(?:-([0-9a-f]{16}))?)?"
)
_TRACE_ID = re.compile(rb"[0-9a-fA-F]{32}|[0-9a-fA-F]{16}")
_SPAN_ID = re.compile(rb"[0-9a-fA-F]{16}")
_DECISIONS = {b"0": False, b"1": True, b"d": True}
#: Old libraries write words.
_SAMPLED = {b"0": False, b"1": True, b"false": False, b"true": True}


def parse_single(value: bytes) -> TraceContext | None:
    """``trace-span[-decision[-parent]]``, or a decision (``0``, ``1``, ``d``) alone."""
    if value in _DECISIONS:
        return TraceContext("", "", _DECISIONS[value], "b3")
    match = _SINGLE.fullmatch(value)
    if match is None or not match[1].strip(b"0") or not match[2].strip(b"0"):
        return None
    decision = _DECISIONS[match[3]] if match[3] is not None else None
    return TraceContext(match[1].decode("ascii"), match[2].decode("ascii"), decision, "b3")


def parse_multi(found: Found) -> TraceContext | None:
    """The headers together: both ids or neither; a decision may stand alone.

    One malformed header makes all of them worthless.
    """
    trace_id, span_id, parent, sampled, flags = (single(found, name) for name in MULTI)
    if any(name in found and single(found, name) is None for name in MULTI):
        return None
    if sampled is not None and sampled not in _SAMPLED:
        return None
    if flags is not None and flags not in (b"0", b"1"):
        return None
    decision = _SAMPLED[sampled] if sampled is not None else None
    if flags == b"1":  # debug implies that it is sampled
        decision = True
    if trace_id is None and span_id is None:
        alone = decision is not None and parent is None
        return TraceContext("", "", decision, "b3") if alone else None
    if not (_is_id(_TRACE_ID, trace_id) and _is_id(_SPAN_ID, span_id)):
        return None
    if parent is not None and not _SPAN_ID.fullmatch(parent):
        return None
    assert trace_id is not None
    assert span_id is not None
    return TraceContext(
        trace_id.decode("ascii").lower(), span_id.decode("ascii").lower(), decision, "b3"
    )


def _is_id(form: re.Pattern[bytes], value: bytes | None) -> bool:
    return value is not None and form.fullmatch(value) is not None and bool(value.strip(b"0"))


def read(found: Found) -> tuple[TraceContext, RawHeaders] | None:
    """What is valid of the two forms, each carried on as it came; the single header is
    believed first."""
    value = single(found, SINGLE)
    one = None if value is None else parse_single(value)
    several = parse_multi(found)
    context = one or several
    if context is None:
        return None
    lines = lines_of(found, SINGLE) if one is not None else []
    if several is not None:
        lines += lines_of(found, *MULTI)
    return context, lines


__all__ = ["MULTI", "NAMES", "SINGLE", "parse_multi", "parse_single", "read"]
