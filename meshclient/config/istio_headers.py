"""``headers`` blocks of VirtualService routes and destinations.

Reads and translates them; where they are applied is the route's business.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from meshclient.config.reader import Reader, wire_text
from meshclient.model.routes import NO_OPERATIONS, HeaderChange, HeaderOperations

_NAME = re.compile(r":?[!#$%&'*+\-.^_`|~0-9A-Za-z]+")


@dataclass(frozen=True, slots=True)
class Headers:
    """Both directions, and the new ``authority`` ("" when it is not set)."""

    request: HeaderOperations = NO_OPERATIONS
    response: HeaderOperations = NO_OPERATIONS
    authority: str = ""


NO_HEADERS = Headers()


def read_headers(block: Reader) -> Headers:
    """One ``headers: {request, response}`` block."""
    request = block.field("request")
    response = block.field("response")
    block.finish("headers")
    authority, in_request = _read_side(request, is_request=True)
    _, in_response = _read_side(response, is_request=False)
    return Headers(in_request, in_response, authority)


def _read_side(side: Reader | None, *, is_request: bool) -> tuple[str, HeaderOperations]:
    if side is None:
        return "", NO_OPERATIONS
    authorities: dict[str, str] = {}
    changes: list[HeaderChange] = []
    for verb in ("set", "add"):
        for name, value, where in _pairs(side.field(verb)):
            if name.lower() in (":authority", "host"):
                _take_authority(authorities, verb, value, where, is_request=is_request)
            elif not _is_internal(name):
                changes.append(_change(verb, name, value))
    remove = _read_removals(side)
    side.finish("headers")
    # Istio lets `set` win over `add` when both name the authority.
    authority = authorities.get("set", "") or authorities.get("add", "")
    return authority, HeaderOperations(remove, tuple(changes))


def _change(verb: str, name: str, value: str) -> HeaderChange:
    return HeaderChange(name, value, "overwrite" if verb == "set" else "append")


def _pairs(block: Reader | None) -> Iterator[tuple[str, str, Reader]]:
    """Sorted by name, as Istio emits them: the order of a map means nothing."""
    if block is None:
        return
    for name, value in sorted(block.items(), key=lambda pair: pair[0]):
        text = value.string()
        if text is not None and _valid_name(name, value) and _valid_value(text, value):
            yield wire_text(name), wire_text(text), value


def _take_authority(
    found: dict[str, str], verb: str, value: str, where: Reader, *, is_request: bool
) -> None:
    if not is_request:
        where.error("invalid header: cannot set Host header in a response", code="header")
        return
    if found:
        where.error("the authority is set twice", code="header")
    found.setdefault(verb, value)


def _read_removals(side: Reader) -> tuple[str, ...]:
    block = side.field("remove")
    names: list[str] = []
    for element in block.elements() if block is not None else ():
        name = element.string()
        if name is None or not _valid_name(name, element):
            continue
        if name.lower() in (":authority", "host"):
            element.error("invalid header: cannot set Host header by removing it", code="header")
        elif not _is_internal(name):
            names.append(name)
    return tuple(names)


def _is_internal(name: str) -> bool:
    return name.startswith(":") or name.lower() == "host"


def _valid_name(name: str, where: Reader) -> bool:
    if _NAME.fullmatch(name):
        return True
    where.error(f'"{name}" is not a header name', code="header")
    return False


def _valid_value(value: str, where: Reader) -> bool:
    from meshclient.model.format_string import FormatError, parse_format

    try:
        parse_format(wire_text(value))
    except FormatError as why:
        where.error(f"invalid header value: {why}", code="header")
        return False
    return True


def join_headers(route: HeaderOperations, destination: HeaderOperations) -> HeaderOperations:
    """The edits of a single destination follow those of its route."""
    return HeaderOperations(route.remove + destination.remove, route.changes + destination.changes)
