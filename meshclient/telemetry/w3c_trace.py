"""``traceparent`` and ``tracestate``. Source: W3C Trace Context, level 1 and 2.

Reads and checks; a library without spans of its own changes neither.
"""

from __future__ import annotations

import re

from meshclient.model.headers import RawHeaders
from meshclient.model.inbound import TraceContext
from meshclient.telemetry.header_lines import Found, lines_of, single

NAMES = (b"traceparent", b"tracestate")

_PARENT = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
#: A key of up to 256 characters (with or without a tenant part), and printable text.
_MEMBER = re.compile(
    rb"[ \t]*[a-z0-9][a-z0-9_\-*/@]{0,255}="
    rb"[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e][ \t]*"
)
_MAX_MEMBERS = 32


def parse_traceparent(value: bytes) -> TraceContext | None:
    """The ids, or None for what the specification calls invalid.

    Version 00 has exactly four fields; a later one may have more, and is read by
    the first four; version ff does not exist. Ids of zeros alone are none.
    """
    match = _PARENT.fullmatch(value)
    if match is None:
        return None
    version, trace_id, span_id, flags, rest = match.groups()
    if version == b"ff" or (version == b"00" and rest is not None):
        return None
    if not trace_id.strip(b"0") or not span_id.strip(b"0"):
        return None
    sampled = bool(int(flags, 16) & 1)
    return TraceContext(trace_id.decode("ascii"), span_id.decode("ascii"), sampled, "w3c")


def valid_tracestate(values: list[bytes]) -> bool:
    """Whether the list (over all its lines) has up to 32 well-formed members."""
    members = [member for value in values for member in value.split(b",") if member.strip(b" \t")]
    return 0 < len(members) <= _MAX_MEMBERS and all(map(_MEMBER.fullmatch, members))


def read(found: Found) -> tuple[TraceContext, RawHeaders] | None:
    """Ids and lines to carry on. Without a valid ``traceparent`` the ``tracestate`` means
    nothing; a malformed ``tracestate`` is left out alone (section 3.3.1)."""
    value = single(found, b"traceparent")
    context = None if value is None else parse_traceparent(value)
    if context is None:
        return None
    lines = lines_of(found, b"traceparent")
    if valid_tracestate(found.get(b"tracestate", [])):
        lines += lines_of(found, b"tracestate")
    return context, lines


__all__ = ["NAMES", "parse_traceparent", "read", "valid_tracestate"]
