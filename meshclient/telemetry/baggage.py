"""``baggage``: key-value pairs that travel with a trace. Source: W3C Baggage.

Carried on as it came; its values may serve as hash keys.
"""

from __future__ import annotations

import re
from urllib.parse import unquote

from meshclient.model.headers import RawHeaders
from meshclient.telemetry.header_lines import Found, lines_of

NAME = b"baggage"

#: What a platform has to support at least (section 3.3.2); more is not carried on.
_MAX_BYTES = 8192
_MAX_MEMBERS = 64

_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_VALUE = rb"[\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]*"
_PROPERTY = rb"[ \t]*;[ \t]*" + _TOKEN + rb"(?:[ \t]*=[ \t]*" + _VALUE + rb")?"
_MEMBER = re.compile(
    rb"[ \t]*(" + _TOKEN + rb")[ \t]*=[ \t]*(" + _VALUE + rb")(?:" + _PROPERTY + rb")*[ \t]*"
)


def parse(values: list[bytes]) -> dict[str, str] | None:
    """Keys to decoded values over all lines (the first of a key counts); None for a list that is
    malformed, or larger than 64 members or 8192 bytes."""
    members = [member for value in values for member in value.split(b",")]
    if len(members) > _MAX_MEMBERS or sum(map(len, values)) > _MAX_BYTES:
        return None
    pairs: dict[str, str] = {}
    for member in members:
        match = _MEMBER.fullmatch(member)
        if match is None:
            return None
        pairs.setdefault(match[1].decode("ascii"), unquote(match[2].decode("ascii")))
    return pairs


def read(found: Found) -> tuple[dict[str, str], RawHeaders] | None:
    """Its pairs, and the lines to carry on; None: absent or malformed."""
    values = found.get(NAME)
    pairs = parse(values) if values else None
    return None if pairs is None else (pairs, lines_of(found, NAME))


__all__ = ["NAME", "parse", "read"]
