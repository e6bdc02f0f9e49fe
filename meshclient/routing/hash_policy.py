"""The request's hash, which ring hash and Maglev choose an endpoint by.

Compiled once per route. Makes the number, and the cookie where one is to be made; which
endpoint the number means is the business of :mod:`meshclient.balancing`.
Source: Envoy ``source/common/http/hash_policy.cc``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from xxhash import xxh64_intdigest

from meshclient.model.regex import compile_regex
from meshclient.model.request import RequestHead
from meshclient.model.routes import HashPolicy
from meshclient.routing.cookies import parse_cookies
from meshclient.routing.query import parse_query
from meshclient.routing.view import PSEUDO_HEADERS

_MASK = 2**64 - 1
_NO_CONTEXT: Mapping[str, Any] = {}


class HashKey:
    """``value`` is the hash, an unsigned 64-bit number. ``set_cookies`` are values of
    ``set-cookie`` lines that the response of an upstream gets, and a local reply does not."""

    __slots__ = ("set_cookies", "value")

    def __init__(self, value: int, set_cookies: tuple[str, ...] = ()) -> None:
        self.value = value
        self.set_cookies = set_cookies

    def __repr__(self) -> str:
        cookies = f" set_cookies={list(self.set_cookies)}" if self.set_cookies else ""
        return f"<HashKey {self.value}{cookies}>"


class _Asked:
    """One request, and what else its hash may depend on."""

    __slots__ = ("context", "head", "rand", "set_cookies", "source_ip")

    def __init__(
        self,
        head: RequestHead,
        rand: Callable[[], int],
        source_ip: str,
        context: Mapping[str, Any],
    ) -> None:
        self.head = head
        self.rand = rand
        self.source_ip = source_ip
        self.context = context
        self.set_cookies: tuple[str, ...] = ()


#: The hash of one source; None: the request does not have it.
_Source = Callable[[_Asked], int | None]


class HashPolicies:
    """The sources of a route, in their order. Immutable; safe from any thread."""

    __slots__ = ("_sources",)

    def __init__(self, policies: Sequence[HashPolicy]) -> None:
        self._sources = [(_COMPILERS[p.kind](p), p.terminal) for p in policies]

    def key(
        self,
        head: RequestHead,
        rand: Callable[[], int],
        source_ip: str = "",
        context: Mapping[str, Any] | None = None,
    ) -> HashKey | None:
        """The hash of a request, as the route has edited it (so does Envoy 1.40); None: no
        source applies.

        Each source's hash goes into that of those before it, turned left by one bit. A
        ``terminal`` source is the last one looked at if there is a hash by then, even
        one of an earlier source.

        ``rand`` (a fresh unsigned 64-bit number) is drawn for a cookie that is made: so ask
        once per call and keep the answer. ``source_ip`` is the caller's own address without
        a port, empty if unknown. ``context`` holds the caller's values by name: text, bytes
        or numbers.
        """
        asked = _Asked(head, rand, source_ip, _NO_CONTEXT if context is None else context)
        found: int | None = None
        for source, terminal in self._sources:
            new = source(asked)
            if new is not None:
                found = new if found is None else (found << 1 & _MASK | found >> 63) ^ new
            if terminal and found is not None:
                break
        return None if found is None else HashKey(found, asked.set_cookies)

    def __repr__(self) -> str:
        return f"<HashPolicies {len(self._sources)}>"


def compile_hash_policy(policies: Sequence[HashPolicy]) -> HashPolicies | None:
    """None where there is nothing to hash. Raises RegexError for a bad rewrite."""
    return HashPolicies(policies) if policies else None


def _hash(text: str) -> int:
    return xxh64_intdigest(text.encode("latin-1"))


def _header(policy: HashPolicy) -> _Source:
    """All values of a header, in sorted order: the hash of one is the seed of the next."""
    name = policy.name.lower()
    pseudo = PSEUDO_HEADERS.get(name)
    regex = compile_regex(policy.pattern) if policy.pattern else None
    if regex is not None:
        regex.check_rewrite(policy.substitution)

    def source(asked: _Asked) -> int | None:
        if pseudo is None:
            values = asked.head.headers.get_all(name)
        else:
            values = [value] if (value := pseudo(asked.head)) else []
        if not values:
            return None
        if regex is not None:
            values = [regex.replace_all(value, policy.substitution) for value in values]
        found = 0
        for value in sorted(values) if len(values) > 1 else values:
            found = xxh64_intdigest(value.encode("latin-1"), found)
        return found

    return source


def _cookie(policy: HashPolicy) -> _Source:
    """A cookie; an empty one counts as missing. With ``ttl_s`` a missing one is made.

    Envoy hashes the two addresses of the caller's connection for its value. There is no
    such connection here, hence a random number of the same shape.
    """
    name = policy.name

    def source(asked: _Asked) -> int | None:
        value = parse_cookies(asked.head.headers.get_all("cookie")).get(name)
        if not value:
            if policy.ttl_s is None:
                return None
            value = f"{asked.rand():016x}"
            asked.set_cookies = (*asked.set_cookies, set_cookie(policy, value))
        return _hash(value)

    return source


def set_cookie(policy: HashPolicy, value: str) -> str:
    """The value of a ``set-cookie`` line. Whole seconds; 0 means a session cookie.

    Source: Envoy ``http/utility.cc`` ``makeSetCookieValue``.
    """
    parts = [f'{policy.name}="{value}"']
    if policy.ttl_s is not None and int(policy.ttl_s):
        parts.append(f"Max-Age={int(policy.ttl_s)}")
    if policy.path:
        parts.append(f"Path={policy.path}")
    parts += [f"{name}={text}" if text else name for name, text in policy.attributes]
    parts.append("HttpOnly")
    return "; ".join(parts)


def _query(policy: HashPolicy) -> _Source:
    """The first value of a parameter, as it stands in the path."""
    name = policy.name

    def source(asked: _Asked) -> int | None:
        value = parse_query(asked.head.path).get(name)
        return None if value is None else _hash(value)

    return source


def _source_ip(policy: HashPolicy) -> _Source:  # noqa: ARG001
    def source(asked: _Asked) -> int | None:
        return _hash(asked.source_ip) if asked.source_ip else None

    return source


def _context(policy: HashPolicy) -> _Source:
    """A value of the caller's context: bytes as they are, anything else as UTF-8 text."""
    name = policy.name

    def source(asked: _Asked) -> int | None:
        value = asked.context.get(name)
        if value is None:
            return None
        return xxh64_intdigest(value if isinstance(value, bytes) else str(value).encode())

    return source


_COMPILERS: dict[str, Callable[[HashPolicy], _Source]] = {
    "header": _header,
    "cookie": _cookie,
    "query": _query,
    "source_ip": _source_ip,
    "context": _context,
}

__all__ = ["HashKey", "HashPolicies", "compile_hash_policy", "set_cookie"]
