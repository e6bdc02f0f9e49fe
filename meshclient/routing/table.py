"""From an authority to the virtual host, and from there to the route.

Compiled on the control thread from one route configuration, then immutable:
any number of calls read it without a lock. Source of the order: Envoy
``router/config_impl.cc`` (``RouteMatcher::findVirtualHost``).
"""

from __future__ import annotations

from meshclient.model.request import RequestHead
from meshclient.model.routes import Route, RouteConfiguration, VirtualHost
from meshclient.routing.edits import HeaderEdits
from meshclient.routing.index import RouteIndex
from meshclient.routing.reasons import reason
from meshclient.routing.route import CompiledRoute, OuterScopes, WallClock
from meshclient.routing.text import ascii_lower
from meshclient.routing.view import RequestView


def strip_port(authority: str) -> str:
    """Without ``:port`` (``HeaderUtility::getPortStart``): everything from the
    last colon, unless that stands inside an IPv6 literal's brackets."""
    at = authority.rfind(":")
    return authority if at < 0 or authority.rfind("]") > at else authority[:at]


class CompiledHost:
    """A virtual host with its routes indexed."""

    __slots__ = ("_index", "_only", "_only_prefix", "routes", "virtual_host")

    def __init__(self, virtual_host: VirtualHost, outer: OuterScopes) -> None:
        self.virtual_host = virtual_host
        self.routes = [CompiledRoute(route, outer) for route in virtual_host.routes]
        self._index = RouteIndex((compiled.route.match, compiled) for compiled in self.routes)
        self._only = self._index.only
        self._only_prefix = self._index.only_prefix

    def find_route(self, head: RequestHead, random64: int) -> CompiledRoute | None:
        """The first route in order whose conditions all hold; None: no route.

        ``random64`` is the call's unsigned 64-bit random number, which decides
        runtime fractions.
        """
        if self._only is not None and head.path.startswith(self._only_prefix):
            return self._only
        return self._index.find(RequestView(head, random64))

    def explain(self, head: RequestHead, random64: int) -> list[tuple[Route, str]]:
        """Every route tried, in order, and why it did not match ("" for the
        one that did, which is the last)."""
        view = RequestView(head, random64)
        tried = []
        for route in self.virtual_host.routes:
            why = reason(route.match, view)
            tried.append((route, why))
            if not why:
                break
        return tried

    def __repr__(self) -> str:
        return f"<CompiledHost {self.virtual_host.name} routes={len(self.routes)}>"


class RouteTable:
    """The virtual hosts of one route configuration.

    Construction costs some 10 microseconds per route; raises ``RegexError`` or
    ``FormatError`` for what validation should have refused. ``wall_clock``
    (seconds since 1970) feeds ``%START_TIME%``, which is empty without it.
    When two virtual hosts claim one domain, the first keeps it.
    """

    __slots__ = ("_default", "_exact", "_prefixes", "_suffixes", "configuration", "hosts")

    def __init__(
        self, configuration: RouteConfiguration, wall_clock: WallClock | None = None
    ) -> None:
        self.configuration = configuration
        self._exact: dict[str, CompiledHost] = {}
        self._default: CompiledHost | None = None
        suffixes: dict[int, dict[str, CompiledHost]] = {}
        prefixes: dict[int, dict[str, CompiledHost]] = {}
        self.hosts = self._compile_hosts(wall_clock)
        for host in self.hosts:
            for domain in map(ascii_lower, host.virtual_host.domains):
                if domain == "*":
                    self._default = self._default or host
                elif domain.startswith("*"):
                    suffixes.setdefault(len(domain) - 1, {}).setdefault(domain[1:], host)
                elif domain.endswith("*"):
                    prefixes.setdefault(len(domain) - 1, {}).setdefault(domain[:-1], host)
                elif not configuration.ignore_port or strip_port(domain) == domain:
                    # A domain with a port never equals a host that has lost its own.
                    self._exact.setdefault(domain, host)
        self._suffixes = sorted(suffixes.items(), reverse=True)
        self._prefixes = sorted(prefixes.items(), reverse=True)

    def _compile_hosts(self, wall_clock: WallClock | None) -> list[CompiledHost]:
        configuration = self.configuration
        request = HeaderEdits(configuration.request_headers)
        response = HeaderEdits(configuration.response_headers)
        return [
            CompiledHost(
                host,
                OuterScopes(
                    (HeaderEdits(host.request_headers), request),
                    (HeaderEdits(host.response_headers), response),
                    configuration.most_specific_wins,
                    wall_clock,
                ),
            )
            for host in configuration.virtual_hosts
        ]

    def find_host(self, authority: str) -> CompiledHost | None:
        """The virtual host for a Host header (``""``: there is none).

        Exact name, then ``*suffix`` and ``prefix*``, longest first, then ``*``.
        """
        return self._exact.get(authority) or self._find_other(authority)

    def _find_other(self, authority: str) -> CompiledHost | None:
        if not authority:
            # Envoy looks at the host only when there is anything but "*" to find.
            only_default = not (self._exact or self._suffixes or self._prefixes)
            return self._default if only_default else None
        host = strip_port(authority) if self.configuration.ignore_port else authority
        host = ascii_lower(host)
        found = self._exact.get(host)
        if found is not None:
            return found
        size = len(host)
        for length, table in self._suffixes:
            if length < size and (found := table.get(host[-length:])) is not None:
                return found
        for length, table in self._prefixes:
            if length < size and (found := table.get(host[:length])) is not None:
                return found
        return self._default

    def __repr__(self) -> str:
        return f"<RouteTable {self.configuration.name} virtual_hosts={len(self.hosts)}>"
