"""Hashing in the native file: what calls of one endpoint have in common, rings and tables.

Reader to :class:`HashPolicy` and :class:`LoadBalancing`; how an endpoint is picked is not
known here.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, cast

from meshclient.config.native_shapes import HASH_FUNCTIONS
from meshclient.config.native_values import (
    finish,
    flag_of,
    header_name,
    integer_of,
    one_or_many,
    substitution,
    text_of,
)
from meshclient.config.reader import Reader, wire_text
from meshclient.model.load_balancing import (
    MAX_RING_SIZE,
    MAX_TABLE_SIZE,
    LoadBalancing,
    is_prime,
    prime_near,
)
from meshclient.model.routes import HashPolicy


def read_hash_settings(r: Reader, balancing: LoadBalancing) -> LoadBalancing:
    """``balancing`` with the settings of rings and tables."""
    function = r.field("hash_function")
    word = function.string(HASH_FUNCTIONS) if function is not None else None
    made = replace(
        balancing,
        minimum_ring_size=integer_of(r, "minimum_ring_size", 1024, 1, MAX_RING_SIZE),
        maximum_ring_size=integer_of(r, "maximum_ring_size", MAX_RING_SIZE, 1, MAX_RING_SIZE),
        table_size=_table_size(r.field("table_size"), balancing.table_size),
        hash_function=cast(Literal["xx_hash", "murmur_hash_2"], word or "xx_hash"),
        hash_balance_factor=_balance_factor(r.field("hash_balance_factor")),
        use_hostname_for_hashing=flag_of(r, "use_hostname_for_hashing"),
    )
    if made.minimum_ring_size > made.maximum_ring_size:
        r.error("minimum_ring_size is more than maximum_ring_size")
    return made


def _table_size(r: Reader | None, default: int) -> int:
    size = r.integer(2, MAX_TABLE_SIZE) if r is not None else None
    if r is None or size is None:
        return default
    if not is_prime(size):
        r.error("a Maglev table needs a prime size", suggestion=f"write {prime_near(size)}")
    return size


def _balance_factor(r: Reader | None) -> int:
    factor = r.integer(0, 2**32 - 1) if r is not None else None
    if r is not None and factor is not None and 0 < factor < 100:
        r.error(
            "is a percentage of the mean load, at least 100",
            suggestion="write 150 for half as much again, or 0 for no bound",
        )
    return factor or 0


def read_hash_on(r: Reader) -> tuple[HashPolicy, ...]:
    """What calls of one endpoint have in common: one source of the key, or several."""
    found = (_source(item) for item in one_or_many(r))
    return tuple(source for source in found if source is not None)


def _source(r: Reader) -> HashPolicy | None:
    terminal = flag_of(r, "terminal")
    header, cookie, query, context = (
        text_of(r, name) for name in ("header", "cookie", "query", "context")
    )
    source_ip = flag_of(r, "source_ip")
    rewritten = _rewritten(r, header)
    made = _made_cookie(r, cookie)
    finish(r, "hash_on")
    if sum(map(bool, (header, cookie, query, context, source_ip))) != 1:
        if r.is_mapping:
            r.error("give exactly one of header, cookie, query, source_ip and context")
        return None
    if header:
        return replace(rewritten, terminal=terminal)
    if cookie:
        return replace(made, terminal=terminal)
    if query:
        return HashPolicy("query", wire_text(query), terminal=terminal)
    if context:
        return HashPolicy("context", context, terminal=terminal)
    return HashPolicy("source_ip", terminal=terminal)


def _rewritten(r: Reader, header: str) -> HashPolicy:
    rewrite = r.field("regex_rewrite")
    pair = substitution(rewrite) if rewrite is not None else None
    if rewrite is not None and not header:
        rewrite.error("regex_rewrite belongs to a header")
    pattern, value = pair or ("", "")
    # Envoy's own pseudo headers may be hashed, too.
    plain = header.startswith(":") or header_name(header, r) if header else None
    name = header.lower() if plain else ""
    return HashPolicy("header", name, pattern=pattern, substitution=value)


def _made_cookie(r: Reader, cookie: str) -> HashPolicy:
    ttl, path, more = r.field("ttl"), text_of(r, "path"), r.field("attributes")
    ttl_s = ttl.go_duration(allow_zero=True) if ttl is not None else None
    pairs = more.string_map() if more is not None else {}
    if not cookie and (ttl_s is not None or path or more is not None):
        r.error("ttl, path and attributes belong to a cookie")
    elif cookie and ttl is None and (path or more is not None):
        r.error("path and attributes belong to a cookie that is made", suggestion="add ttl: 0s")
    elif ttl is not None and ttl_s is not None and ttl_s != int(ttl_s):
        ttl.error("a cookie lives whole seconds")
    return HashPolicy(
        "cookie",
        wire_text(cookie),
        ttl_s,
        wire_text(path),
        attributes=tuple((wire_text(k), wire_text(v)) for k, v in pairs.items()),
    )


__all__ = ["read_hash_on", "read_hash_settings"]
