"""The ``propagation`` section of the native file: what outbound calls take along from a request.

Reader to :class:`~meshclient.model.propagation.Propagation`; the fields of its schema.
"""

from __future__ import annotations

from typing import cast

from meshclient.config.native_shapes import FLAG, NAME, Section, choice, either, ref
from meshclient.config.native_values import finish, flag_of, header_name, required
from meshclient.config.reader import Reader
from meshclient.model.propagation import (
    DeadlineFormat,
    DeadlineHeader,
    Propagation,
    UnknownHosts,
)

_FORMATS = ("milliseconds", "seconds", "unix_milliseconds", "unix_seconds")
_UNKNOWN = ("none", "trace", "all")

#: Headers of one connection or one message; and Envoy's control headers, which whoever calls
#: the service must not be able to put on the service's own calls.
_NOT_CARRIED = frozenset(
    {
        "connection",
        "content-length",
        "content-encoding",
        "content-type",
        "expect",
        "host",
        "keep-alive",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)

PROPAGATION_SECTIONS: dict[str, Section] = {
    "propagation": {
        "headers": (
            {"type": "array", "items": NAME},
            "Further request headers to carry on: tenant, lane, end user.",
        ),
        "trace": (FLAG, "Carry on W3C, B3 and other trace context. Default true."),
        "baggage": (FLAG, "Carry on the baggage header. Default true."),
        "request_id": (FLAG, "Carry on x-request-id, made when absent. Default true."),
        "deadline": (
            either(FLAG, ref("inbound_deadline")),
            "The caller's remaining time bounds calls, and is passed on. Default true.",
        ),
        "unknown_hosts": (
            choice(*_UNKNOWN),
            "What hosts that no policy knows get: nothing, trace context and request id, "
            "everything. Default trace.",
        ),
    },
    "inbound_deadline": {
        "header": (NAME, "A header of your own that says how long the caller waits."),
        "format": (
            choice(*_FORMATS),
            "What is left, or when it ends in Unix time. Default milliseconds.",
        ),
    },
}


def read_propagation(r: Reader) -> Propagation:
    """The section."""
    deadline = r.field("deadline")
    own = deadline is not None and deadline.is_mapping
    wanted = True if deadline is None or own else deadline.boolean()
    unknown = r.field("unknown_hosts")
    mode = unknown.string(_UNKNOWN) if unknown is not None else None
    settings = Propagation(
        headers=_names(r.field("headers")),
        trace=flag_of(r, "trace", True),
        baggage=flag_of(r, "baggage", True),
        request_id=flag_of(r, "request_id", True),
        deadline=wanted is not False,
        deadline_header=_header(deadline) if deadline is not None and own else None,
        unknown_hosts=cast(UnknownHosts, mode or "trace"),
    )
    finish(r, "propagation")
    return settings


def _names(r: Reader | None) -> tuple[str, ...]:
    found = (_carried(item) for item in (r.elements() if r is not None else ()))
    return tuple(dict.fromkeys(name for name in found if name))


def _carried(r: Reader) -> str:
    """A header name in lower case; empty after an error."""
    text = r.string()
    name = header_name(text, r) if text is not None else None
    if name is None:
        return ""
    lower = name.lower()
    if lower in _NOT_CARRIED or lower.startswith("x-envoy-"):
        r.error(f"{lower} belongs to one connection or hop, and cannot be carried on")
        return ""
    return lower


def _header(r: Reader) -> DeadlineHeader | None:
    header, kind = required(r, "header"), r.field("format")
    word = kind.string(_FORMATS) if kind is not None else None
    finish(r, "inbound_deadline")
    name = _carried(header) if header is not None else ""
    return DeadlineHeader(name, cast(DeadlineFormat, word or "milliseconds")) if name else None


__all__ = ["PROPAGATION_SECTIONS", "read_propagation"]
