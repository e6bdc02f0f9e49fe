"""Descriptors of a request: what rate limits are counted by.

Makes them; counts nothing. Source: Envoy ``source/common/router/router_ratelimit.cc``.
"""

from __future__ import annotations

from meshclient.model.matching import QueryMatch
from meshclient.model.rate_limit import Actions, DescriptorAction, Entries
from meshclient.model.request import RequestHead
from meshclient.resilience.header_match import header_matches, string_matches


def descriptors_of(actions: tuple[Actions, ...], head: RequestHead) -> list[Entries]:
    """The descriptors that ``head`` has, in the order of ``actions``; those that lack an
    entry are left out."""
    seen = _Seen(head)
    found = (_descriptor(one, seen) for one in actions)
    return [entries for entries in found if entries]


class _Seen:
    """What of a request conditions ask for, worked out once."""

    __slots__ = ("_query", "head", "pseudo")

    def __init__(self, head: RequestHead) -> None:
        self.head = head
        self.pseudo = {
            ":path": head.path,
            ":method": head.method,
            ":authority": head.authority,
            ":scheme": head.scheme,
        }
        self._query: dict[str, str] | None = None

    def query(self) -> dict[str, str]:
        """The first value of each query parameter, undecoded."""
        if self._query is None:
            self._query = {}
            text = self.head.path.partition("#")[0].partition("?")[2]
            for part in text.split("&") if text else ():
                name, _, value = part.partition("=")
                self._query.setdefault(name, value)
        return self._query

    def value(self, action: DescriptorAction) -> str | None:
        if action.kind == "query_parameter":
            return self.query().get(action.name)
        if action.name in self.pseudo:
            return self.pseudo[action.name]
        return self.head.headers.get(action.name)

    def matches(self, action: DescriptorAction) -> bool:
        if action.kind == "header_match":
            headers = self.head.headers
            return all(header_matches(one, headers, self.pseudo) for one in action.headers)
        return all(_query_matches(one, self.query()) for one in action.query)


def _query_matches(match: QueryMatch, query: dict[str, str]) -> bool:
    value = query.get(match.name)
    if match.value is None:
        return (value is not None) is match.present
    return value is not None and string_matches(match.value, value)


def _descriptor(actions: Actions, seen: _Seen) -> Entries | None:
    entries: list[tuple[str, str]] = []
    for action in actions:
        if action.kind == "generic_key":
            entries.append((action.key, action.value))
        elif action.kind in ("header_match", "query_match"):
            if seen.matches(action) is not action.expect_match:
                return None
            entries.append((action.key, action.value))
        else:
            value = seen.value(action)
            if value is not None:
                entries.append((action.key, value))
            elif not action.skip_if_absent:
                return None
    return tuple(entries)


def show(entries: Entries) -> str:
    """``key=value, key=value`` for reports; an empty value is any."""
    return ", ".join(f"{key}={value or '*'}" for key, value in entries)


__all__ = ["descriptors_of", "show"]
