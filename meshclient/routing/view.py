"""One request as the conditions of routes see it, with what they share.

Lives for one decision. Path, query and cookies are worked out at most once.
"""

from __future__ import annotations

from collections.abc import Callable

from meshclient.model.request import RequestHead
from meshclient.routing.cookies import parse_cookies
from meshclient.routing.query import parse_query
from meshclient.routing.text import ascii_lower, path_only


class RequestView:
    """``path`` has no query; ``random64`` is the call's one random number."""

    __slots__ = ("_cookies", "_lower_path", "_query", "head", "path", "random64")

    def __init__(self, head: RequestHead, random64: int) -> None:
        self.head = head
        path = head.path
        self.path = path_only(path) if "?" in path or "#" in path else path
        self.random64 = random64
        self._lower_path: str | None = None
        self._query: dict[str, str] | None = None
        self._cookies: dict[str, str] | None = None

    @property
    def lower_path(self) -> str:
        """``path`` in ASCII lower case."""
        if self._lower_path is None:
            self._lower_path = ascii_lower(self.path)
        return self._lower_path

    def query(self) -> dict[str, str]:
        """First raw value of every query parameter."""
        if self._query is None:
            self._query = parse_query(self.head.path)
        return self._query

    def cookies(self) -> dict[str, str]:
        """First value of every cookie."""
        if self._cookies is None:
            self._cookies = parse_cookies(self.head.headers.get_all("cookie"))
        return self._cookies


ViewTest = Callable[[RequestView], bool]
#: Every value that an exact condition may equal.
ViewRead = Callable[[RequestView], list[str]]

#: Headers that are not lines. ``host`` is one: Envoy keeps it as ``:authority``.
PSEUDO_HEADERS: dict[str, Callable[[RequestHead], str]] = {
    ":path": lambda head: head.path,
    ":method": lambda head: head.method,
    ":authority": lambda head: head.authority,
    "host": lambda head: head.authority,
    ":scheme": lambda head: head.scheme,
}


def header_values(view: RequestView, name: str) -> list[str]:
    """All values of a header or pseudo header; an empty pseudo header is absent."""
    pseudo = PSEUDO_HEADERS.get(name)
    if pseudo is None:
        return view.head.headers.get_all(name)
    value = pseudo(view.head)
    return [value] if value else []
