"""The ``fallback`` of a native service or route: Reader to :class:`Fallback`."""

from __future__ import annotations

from meshclient.config.native_names import Names
from meshclient.config.native_values import (
    finish,
    flag_of,
    header_name,
    integer_of,
    required,
    seconds_of,
)
from meshclient.config.reader import Reader, wire_text
from meshclient.model.fallback import Fallback, LastGood, StaticAnswer

_WORDS = ("local", "5xx")
_SERVER_ERRORS = frozenset(range(500, 600))
_FRAMING = frozenset({"content-length", "transfer-encoding", "connection"})


def read_fallback(r: Reader, names: Names, service: str) -> Fallback | None:
    """The block; None (``fallback: {}`` of a route) turns the service's off."""
    local, statuses = _conditions(r.field("on", "true"))
    respond, kept, to = r.field("respond"), r.field("last_good"), r.field("to")
    methods = r.field("methods")
    any_method = methods is not None and methods.string(("any",)) is not None
    cluster, host = _target(to, names, service) if to is not None else ("", "")
    fallback = Fallback(
        local=local,
        statuses=statuses,
        last_good=_last_good(kept) if kept is not None else None,
        cluster=cluster,
        host=host,
        any_method=any_method,
        respond=_respond(respond) if respond is not None else None,
    )
    finish(r, "fallback")
    if r.is_mapping and not r.node.value:
        return None
    if methods is not None and to is None:
        methods.error('methods has no effect without "to"', code="conflict")
    return fallback


def _conditions(r: Reader | None) -> tuple[bool, frozenset[int]]:
    """``on``: ``local``, ``5xx`` and status numbers."""
    if r is None:
        return True, _SERVER_ERRORS
    local, statuses = False, set[int]()
    for item in r.elements():
        if item.is_number:
            code = item.integer(400, 599)
            statuses.update(() if code is None else (code,))
            continue
        word = item.string(_WORDS)
        local = local or word == "local"
        statuses |= _SERVER_ERRORS if word == "5xx" else set()
    if not local and not statuses:
        r.error("no failure is named", suggestion="on: [local, 5xx]")
    return local, frozenset(statuses)


def _target(r: Reader, names: Names, service: str) -> tuple[str, str]:
    """The cluster, and the host whose routes apply; "" for a subset, which has none."""
    text = r.string()
    cluster = names.cluster(text, service, r) if text is not None else None
    if cluster is None:
        return "", ""
    if cluster == service:
        r.error("a service is no fallback for itself", suggestion="name a subset of it")
    return cluster, cluster if "/" not in cluster else ""


def _last_good(r: Reader) -> LastGood | None:
    if not r.is_mapping:
        return LastGood() if r.boolean() else None
    usual, listed = LastGood(), r.field("headers")
    found = (_name(item) for item in listed.elements()) if listed is not None else ()
    kept = LastGood(
        max_age_s=seconds_of(r, "max_age", usual.max_age_s),
        max_entries=integer_of(r, "max_entries", usual.max_entries, 1, 1_000_000),
        max_entry_bytes=integer_of(r, "max_entry_bytes", usual.max_entry_bytes, 1, 2**30),
        max_bytes=integer_of(r, "max_bytes", usual.max_bytes, 1, 2**34),
        headers=tuple(name for name in found if name is not None),
        authorization=flag_of(r, "authorization"),
    )
    finish(r, "last_good")
    return kept


def _name(r: Reader) -> str | None:
    text = r.string()
    return header_name(text, r) if text is not None else None


def _respond(r: Reader) -> StaticAnswer:
    status_reader, body, headers = required(r, "status"), r.field("body"), r.field("headers")
    status = status_reader.integer(200, 599) if status_reader is not None else None
    text = body.string() if body is not None else None
    lines: list[tuple[str, str]] = []
    for name, value in headers.items() if headers is not None else ():
        line = _line(name, value)
        lines += [] if line is None else [line]
    finish(r, "fallback_respond")
    if status in (204, 304) and text and body is not None:
        body.error(f"an answer of status {status} has no body", code="conflict")
    return StaticAnswer(status or 500, tuple(lines), (text or "").encode())


def _line(name: str, r: Reader) -> tuple[str, str] | None:
    lower, value = header_name(name, r), r.string()
    if lower is None or value is None:
        return None
    if lower in _FRAMING:
        r.error(f"{lower} is not for the policy to say")
    if any(c in value for c in "\r\n\0"):
        r.error("a header value cannot contain line breaks or NUL")
    return lower, wire_text(value)


__all__ = ["read_fallback"]
