"""``x-request-id``: one id for all that is done for one request of a user.

Source: Envoy ``source/extensions/request_id/uuid/config.cc``.
"""

from __future__ import annotations

import uuid

from meshclient.telemetry.header_lines import Found, single

NAME = b"x-request-id"
_MAX_BYTES = 256


def read(found: Found) -> bytes | None:
    """The id that came, whatever its form; None: absent, repeated, or longer than 256 bytes."""
    value = single(found, NAME)
    return value if value is not None and len(value) <= _MAX_BYTES else None


def make() -> bytes:
    """A new one in Envoy's form: a random UUID, in lower case. Its 14th digit is ``4``, which to
    Envoy says that nobody has decided about tracing."""
    return str(uuid.uuid4()).encode("ascii")


__all__ = ["NAME", "make", "read"]
