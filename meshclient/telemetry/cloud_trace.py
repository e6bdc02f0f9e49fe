"""``x-cloud-trace-context``: ``trace/span;o=options`` of Google Cloud's load balancers."""

from __future__ import annotations

import re

from meshclient.model.headers import RawHeaders
from meshclient.model.inbound import TraceContext
from meshclient.telemetry.header_lines import Found, lines_of, single

NAME = b"x-cloud-trace-context"

_FORM = re.compile(rb"([0-9a-fA-F]{32})(?:/([0-9]{1,20}))?(?:;o=([0-9]{1,3}))?")


def parse(value: bytes) -> TraceContext | None:
    """The ids; the span is a decimal number on the wire and hexadecimal here."""
    match = _FORM.fullmatch(value)
    if match is None or not match[1].strip(b"0"):
        return None
    span = int(match[2] or 0)
    if span >= 2**64:
        return None
    sampled = bool(int(match[3]) & 1) if match[3] is not None else None
    span_id = f"{span:016x}" if span else ""
    return TraceContext(match[1].decode("ascii").lower(), span_id, sampled, "cloud")


def read(found: Found) -> tuple[TraceContext, RawHeaders] | None:
    """Ids and the line to carry on."""
    value = single(found, NAME)
    context = None if value is None else parse(value)
    return None if context is None else (context, lines_of(found, NAME))


__all__ = ["NAME", "parse", "read"]
