"""Host names as Istio compares, expands and ranks them.

Pure text: no document, no service, no diagnostics. Source of the rules: Istio
``pkg/config/host`` and ``GenerateAltVirtualHosts`` of the sidecar's routes.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from typing import TypeVar

T = TypeVar("T")


def is_wildcard(host: str) -> bool:
    """``*`` or ``*.example.com``; a star anywhere else is no wildcard."""
    return host.startswith("*")


def is_ip(host: str) -> bool:
    """An IPv4 or IPv6 address without brackets."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def resolve_short_name(host: str, namespace: str, domain: str) -> str:
    """The full name of ``host`` as written in a resource of ``namespace``.

    Only a name without any dot is short: ``reviews.prod`` is taken as it is.
    """
    host = host.lower()
    if not host or host == "*" or "." in host or is_ip(host):
        return host
    return f"{host}.{namespace}.svc.{domain}"


def matches(one: str, other: str) -> bool:
    """Whether the two names can mean one host; a wildcard on either side covers."""
    if is_wildcard(one) and is_wildcard(other):
        shorter, longer = sorted((one[1:], other[1:]), key=len)
        return longer.endswith(shorter)
    if is_wildcard(one):
        return other.endswith(one[1:])
    if is_wildcard(other):
        return one.endswith(other[1:])
    return one == other


def subset_of(name: str, pattern: str) -> bool:
    """Whether every host that ``name`` means is covered by ``pattern``."""
    if is_wildcard(pattern):
        if is_wildcard(name):
            return len(name) >= len(pattern) and name[1:].endswith(pattern[1:])
        return name.endswith(pattern[1:])
    return name == pattern


def most_specific(host: str, table: Mapping[str, T]) -> tuple[str, T] | None:
    """The entry for ``host``: itself, else the longest wildcard that covers it."""
    if host in table:
        return host, table[host]
    # Every wildcard that covers the host is a star and one of its suffixes; trying
    # them, the longest first, costs the same whatever the size of the table.
    rest = host[1:] if is_wildcard(host) else host
    for start in range(len(rest) + 1):
        wildcard = "*" + rest[start:]
        if wildcard in table:
            return wildcard, table[wildcard]
    return None


def domain_text(host: str) -> str:
    """The form a ``Host`` header uses: IPv6 addresses stand in brackets."""
    return f"[{host}]" if ":" in host and is_ip(host) else host


def alternate_names(host: str, caller_namespace: str, domain: str) -> list[str]:
    """The other names by which a caller may dial a service called ``host``.

    The absolute form with its trailing dot; for a Kubernetes service also
    ``name.ns.svc`` and ``name.ns``, and in its own namespace the bare name.
    """
    if is_ip(host):
        return []
    names = [host + "."]
    suffix = f".svc.{domain}"
    if not host.endswith(suffix) or is_wildcard(host):
        return names
    name, dot, namespace = host[: -len(suffix)].partition(".")
    if not dot or not name or not namespace:
        return names
    if namespace == caller_namespace:
        names.append(name)
    return [*names, f"{name}.{namespace}.svc", f"{name}.{namespace}"]


def with_wildcards(domains: Iterable[str]) -> list[str]:
    """Each name, then ``*.`` before each: the pods of a headless service."""
    names = list(domains)
    return names + [f"*.{name}" for name in names]
