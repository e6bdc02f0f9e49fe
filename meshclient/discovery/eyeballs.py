"""Order and choice among the addresses of one name (RFC 8305, RFC 6724).

Pure, but for :func:`has_route`, which asks the kernel and sends nothing.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Iterable, Sequence
from itertools import chain, zip_longest

HasRoute = Callable[[str], bool]


def is_ipv6(address: str) -> bool:
    """Is this canonical address an IPv6 one?"""
    return ":" in address


def interleave(v6: Sequence[str], v4: Sequence[str]) -> tuple[str, ...]:
    """Alternate the families, IPv6 first (RFC 8305 section 4); duplicates dropped."""
    pairs = chain.from_iterable(zip_longest(v6, v4))
    return tuple(dict.fromkeys(address for address in pairs if address))


def sorted_families(addresses: Iterable[str]) -> tuple[list[str], list[str]]:
    """IPv6 and IPv4 addresses, each in numeric order.

    Servers shuffle their answers; sorted, equal sets compare equal.
    """
    ordered = sorted(addresses, key=lambda a: (ipaddress.ip_address(a).packed, a))
    return [a for a in ordered if is_ipv6(a)], [a for a in ordered if not is_ipv6(a)]


def routable(addresses: Sequence[str], has_route: HasRoute) -> tuple[str, ...]:
    """The addresses this host has a route to (RFC 6724 rule 1: avoid unusable ones).

    All of them when none has one: a call that fails to connect explains
    itself better than a service without endpoints.
    """
    if len(addresses) < 2:
        return tuple(addresses)
    return tuple(a for a in addresses if has_route(a)) or tuple(addresses)


def has_route(address: str) -> bool:
    """Would the kernel know where to send a packet? Connecting UDP sends none."""
    family = socket.AF_INET6 if is_ipv6(address) else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((address, 9))
    except OSError:
        return False
    return True
