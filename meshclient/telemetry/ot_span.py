"""``x-ot-span-context``: the opaque context of OpenTracing tracers.

What is in it only its tracer knows; it is carried on as it came.
"""

from __future__ import annotations

from meshclient.model.headers import RawHeaders
from meshclient.telemetry.header_lines import Found, lines_of, single

NAME = b"x-ot-span-context"
_MAX_BYTES = 1024


def read(found: Found) -> RawHeaders:
    """The line to carry on; none where it is repeated or longer than 1024 bytes."""
    value = single(found, NAME)
    return [] if value is None or len(value) > _MAX_BYTES else lines_of(found, NAME)


__all__ = ["NAME", "read"]
