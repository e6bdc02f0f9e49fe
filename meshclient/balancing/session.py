"""Stateful sessions: a call names the endpoint that must take it, in a cookie or a header.

Reads that name, finds the endpoint, and says which response header keeps the caller there.
Picks nothing itself: without a name, or with one that is gone, the balancer does.
Source: Envoy ``http/stateful_session/{cookie,header}``, ``filters/http/stateful_session``,
``upstream/host_utility.cc``.
"""

from __future__ import annotations

import binascii
from base64 import b64decode, b64encode
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Final, Literal

from meshclient.balancing.state import EndpointState
from meshclient.model.headers import HeaderMap
from meshclient.model.health import EDS_STATUS_DRAINING, UNHEALTHY
from meshclient.model.load_balancing import StatefulSession
from meshclient.model.protobuf import LEN, VARINT, bytes_field, varint, wire_fields

#: Most characters of a name that is looked at; the longest address has 113 (a unix path).
MAX_NAME = 1024


#: Field numbers of Envoy's cookie.
_ADDRESS, _EXPIRES = 1, 2


class Miss(Enum):
    """The answer of :meth:`SessionAffinity.find` that no other endpoint may stand in for."""

    STRICT = "strict"


STRICT_MISS: Final = Miss.STRICT

ByAddress = Mapping[str, EndpointState]


def by_address(states: Iterable[EndpointState]) -> dict[str, EndpointState]:
    """The endpoints of all priorities by ``address:port``; made when the endpoints change."""
    return {state.key: state for state in states}


class SessionAffinity:
    """One cluster's session setting. Immutable, hence thread-safe."""

    __slots__ = ("_cookie", "_header", "_path", "_refused", "_settings", "strict")

    def __init__(self, settings: StatefulSession) -> None:
        self._settings = settings
        self._cookie = settings.name if settings.kind == "cookie" else ""
        self._header = settings.name.lower() if settings.kind == "header" else ""
        self._path = settings.path if settings.path != "/" else ""
        self.strict = settings.strict
        self._refused = UNHEALTHY & ~EDS_STATUS_DRAINING if settings.accept_draining else UNHEALTHY

    def applies(self, path: str) -> bool:
        """Whether a request with this path (query included) takes part: cookies have a
        path, of which whole segments count; ``/a/`` takes part of ``/a/b``, not of ``/a``."""
        own = self._path
        if not own or not self._cookie:
            return True
        if not path.startswith(own):
            return False
        return own.endswith("/") or len(path) == len(own) or path[len(own)] in "/?#"

    def address(self, headers: HeaderMap, path: str, unix_now: float) -> str:
        """The ``address:port`` that a request names; empty: none, or too old a one."""
        if not self.applies(path):
            return ""
        if self._cookie:
            return _address_of_cookie(_cookie(headers, self._cookie), unix_now)
        value = headers.get(self._header)
        decoded = _decode(value.strip(" \t")) if value is not None else b""
        return decoded.decode("latin-1")

    def find(
        self, headers: HeaderMap, path: str, states: ByAddress, unix_now: float
    ) -> EndpointState | Literal[Miss.STRICT] | None:
        """The endpoint that a request must go to; for first tries only, never for retries.

        None: the balancer picks. :data:`STRICT_MISS`: nothing may be picked, the call
        ends as one without a healthy endpoint (503). Unhealthy and (unless the setting
        accepts them) draining endpoints count as gone, degraded ones do not.
        ``headers`` and ``path`` are those of the request as the caller made it; ``unix_now``
        is wall-clock seconds, for cookies that expire.
        """
        address = self.address(headers, path, unix_now)
        if not address:
            return None
        state = states.get(address)
        if state is not None and not state.flags & self._refused:
            return state
        return STRICT_MISS if self.strict else None

    def response_header(
        self, state: EndpointState, headers: HeaderMap, path: str, unix_now: float
    ) -> tuple[str, str] | None:
        """The header (name, value) that the response of ``state`` gets; None: none, for
        the request named this endpoint already, or takes no part.

        A cookie is added beside others (``Set-Cookie``); a header replaces
        those of its name. ``headers``, ``path``: the request's, as for :meth:`find`.
        """
        if not self.applies(path) or self.address(headers, path, unix_now) == state.key:
            return None
        if self._cookie:
            return "set-cookie", self._set_cookie(state.key, unix_now)
        return self._header, b64encode(state.key.encode("latin-1")).decode()

    def _set_cookie(self, address: str, unix_now: float) -> str:
        """Envoy's cookie: base64 of a protocol buffer of address (1) and, with a time
        to live, expiry (2) in whole Unix seconds."""
        ttl_s = int(self._settings.ttl_s)
        message = bytes_field(_ADDRESS, address.encode("latin-1"))
        if ttl_s:
            message += varint(_EXPIRES << 3 | VARINT) + varint(int(unix_now + ttl_s))
        parts = [f'{self._cookie}="{b64encode(message).decode()}"']
        if ttl_s:
            parts.append(f"Max-Age={ttl_s}")
        if self._settings.path:
            parts.append(f"Path={self._settings.path}")
        return "; ".join((*parts, "HttpOnly"))

    def __repr__(self) -> str:
        kind = self._settings.kind
        return f"<SessionAffinity {kind} {self._settings.name!r} strict={self.strict}>"


def _cookie(headers: HeaderMap, name: str) -> str:
    """The first value of a cookie, without its quotes."""
    for line in headers.get_all("cookie"):
        for part in line.split(";"):
            key, equals, value = part.lstrip(" ").partition("=")
            if equals and key == name:
                if len(value) >= 2 and value[0] == value[-1] == '"':
                    value = value[1:-1]
                return value
    return ""


def _decode(text: str) -> bytes:
    """Base64 as Envoy reads it, empty if it is not that: with its padding, nothing between
    or behind, and no bits behind the end of the last byte."""
    if len(text) > MAX_NAME:
        return b""
    try:
        raw = b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return b""
    return raw if b64encode(raw).decode() == text else b""


def _address_of_cookie(value: str, unix_now: float) -> str:
    message = _decode(value)
    parsed = _parse(message)
    if parsed is None:
        # The form of old Envoys: the plain address.
        return message.decode("latin-1")
    address, expires = parsed
    return "" if expires and int(unix_now) > expires else address


def _parse(message: bytes) -> tuple[str, int] | None:
    """Address and expiry of the protocol buffer; None if it is none."""
    address, expires = "", 0
    try:
        for number, kind, value in wire_fields(message):
            if number == _ADDRESS and kind == LEN and isinstance(value, bytes):
                address = value.decode("latin-1")
            elif number == _EXPIRES and kind == VARINT and isinstance(value, int):
                expires = value if value < 1 << 63 else value - (1 << 64)
    except ValueError:
        return None
    return address, expires


__all__ = ["MAX_NAME", "STRICT_MISS", "ByAddress", "Miss", "SessionAffinity", "by_address"]
