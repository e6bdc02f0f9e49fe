"""The addresses of a host name, from wherever they come first.

Order: an address literal, the hosts file, ``localhost``, the DNS (the usual
``hosts: files dns`` of nsswitch.conf, which is not read). Nothing here
schedules a refresh.
"""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Iterable

from meshclient.discovery.answers import ADDRESS_KINDS, Kind, LookupResult, Records
from meshclient.discovery.dns_settings import DnsSettings
from meshclient.discovery.eyeballs import is_ipv6
from meshclient.discovery.hosts_file import HostsFile
from meshclient.discovery.resolver import Partial, Resolver

_KINDS: dict[str, tuple[Kind, ...]] = {"all": ADDRESS_KINDS, "ipv4": ("A",), "ipv6": ("AAAA",)}


class Names:
    """Looks host names up. Shares the thread rules of its :class:`Resolver`."""

    __slots__ = ("_hosts", "_hosts_ttl_s", "_kinds", "resolver")

    def __init__(self, settings: DnsSettings, resolver: Resolver, hosts: HostsFile) -> None:
        self._kinds = _KINDS[settings.family]
        self._hosts_ttl_s = settings.hosts_refresh_s
        self._hosts = hosts
        self.resolver = resolver

    async def addresses(self, name: str, partial: Partial | None = None) -> LookupResult:
        """The addresses of ``name`` by family, in the order they were given."""
        literal = as_literal(name)
        if literal:
            return _local(name, (literal,), math.inf, ADDRESS_KINDS)
        listed = self._hosts.lookup(name) or (_loopback() if is_localhost(name) else ())
        result = _local(name, listed, self._hosts_ttl_s, self._kinds)
        # As glibc: a name that the hosts file lists in any wanted family is not asked for.
        return result if result.found else await self.resolver.lookup(name, self._kinds, partial)


def as_literal(name: str) -> str:
    """``name`` as a canonical IP address (brackets allowed), or an empty text."""
    try:
        return str(ipaddress.ip_address(name.removeprefix("[").removesuffix("]")))
    except ValueError:
        return ""


def is_localhost(name: str) -> bool:
    """RFC 6761 section 6.3: ``localhost`` and every name below it."""
    return f".{name.lower().rstrip('.')}".endswith(".localhost")


def _loopback() -> tuple[str, str]:
    return ("::1", "127.0.0.1")


def _local(
    name: str, addresses: Iterable[str], ttl_s: float, kinds: Iterable[Kind]
) -> LookupResult:
    families: dict[Kind, tuple[str, ...]] = {
        "AAAA": tuple(a for a in addresses if is_ipv6(a)),
        "A": tuple(a for a in addresses if not is_ipv6(a)),
    }
    parts = {
        kind: Records("found" if families[kind] else "no_data", ttl_s, families[kind])
        for kind in kinds
    }
    return LookupResult(name, parts)
