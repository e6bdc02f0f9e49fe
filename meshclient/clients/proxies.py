"""Which call goes through which proxy, and the requests that a proxy forwards.

Reads httpx's ``proxy`` argument and the environment once per client; opens nothing.
Clients without any proxy never come here.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from meshclient.plane import PASSTHROUGH
from meshclient.transport.interface import Target, WireRequest
from meshclient.transport.proxy import Proxy, parse_proxy

if TYPE_CHECKING:
    from meshclient.attempt import Attempt
    from meshclient.balancing import EndpointState
    from meshclient.call import Call
    from meshclient.clients.http_common import Targets
    from meshclient.model.request import RequestHead

#: Targets behind proxies remembered per client.
_MAX_TARGETS = 4096


class NoProxy:
    """Hosts that are dialled directly: the ``NO_PROXY`` variable.

    Entries are separated by commas or spaces: ``*``; ``example.com`` (with
    everything below it), ``.example.com`` and ``*.example.com`` (only what is below);
    an IP or a CIDR block; each with ``:port`` if only that port is meant; with
    ``http://`` or ``https://`` before it if only that scheme is.
    """

    def __init__(self, text: str) -> None:
        self.all = False
        self._names: list[tuple[str, str, int]] = []
        self._networks: list[tuple[str, Any, int]] = []
        for entry in text.replace(",", " ").split():
            self._add(entry.lower())

    def _add(self, entry: str) -> None:
        if entry == "*":
            self.all = True
            return
        scheme, found, rest = entry.rpartition("://")
        scheme = scheme if found and scheme != "all" else ""
        host, port = _split_port(rest)
        try:
            self._networks.append((scheme, ipaddress.ip_network(host, strict=False), port))
        except ValueError:
            if host:
                self._names.append((scheme, host.removeprefix("*"), port))

    def covers(self, scheme: str, host: str, port: int) -> bool:
        """True when the call must not go through a proxy."""
        if self.all:
            return True
        host = host.lower().strip("[]").rstrip(".")
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return any(
                _applies(s, p, scheme, port) and _is_under(host, name) for s, name, p in self._names
            )
        return any(
            _applies(s, p, scheme, port) and address in network for s, network, p in self._networks
        )


def _split_port(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if colon and port.isdecimal() and (":" not in host or host.endswith("]")):
        return host.strip("[]"), int(port)
    return text.strip("[]"), 0


def _applies(only_scheme: str, only_port: int, scheme: str, port: int) -> bool:
    return only_scheme in ("", scheme) and only_port in (0, port)


def _is_under(host: str, name: str) -> bool:
    if name.startswith("."):
        return host.endswith(name)
    return host == name or host.endswith("." + name)


class Proxies:
    """The proxies of one client: ``explicit`` for every call, else ``by_scheme``
    (``http``, ``https``, ``all``) for hosts that no policy knows."""

    def __init__(
        self,
        explicit: Proxy | None = None,
        by_scheme: Mapping[str, Proxy] | None = None,
        no_proxy: str = "",
    ) -> None:
        self._explicit = explicit
        self._by_scheme = dict(by_scheme or {})
        self._no_proxy = NoProxy(no_proxy)

    def over(self, targets: Targets) -> ProxiedTargets:
        """``targets`` with these proxies put between."""
        return ProxiedTargets(targets, self)

    def of(self, scheme: str, host: str, port: int, *, known: bool) -> Proxy | None:
        """The proxy for a call; ``known``: a policy knows the host."""
        if self._explicit is not None or known:
            return self._explicit
        proxy = self._by_scheme.get(scheme) or self._by_scheme.get("all")
        if proxy is None or self._no_proxy.covers(scheme, host, port):
            return None
        return proxy


def proxies_for(
    proxy: Any, trust_env: bool, environment: Callable[[], Mapping[str, str]] | None = None
) -> Proxies | None:
    """What a client's ``proxy`` and ``trust_env`` ask for; None: no proxy at all.

    Raises ValueError for a proxy that is none of ours, naming the variable if it
    stands in the environment.
    """
    if proxy is not None:
        return Proxies(parse_proxy(proxy))
    if not trust_env:
        return None
    found = dict((environment or _environment)())
    no_proxy = found.pop("no", "")
    by_scheme = {}
    for scheme in ("http", "https", "all"):
        text = found.get(scheme)
        if text:
            try:
                by_scheme[scheme] = parse_proxy(text if "://" in text else f"http://{text}")
            except ValueError as error:
                raise ValueError(f"{scheme.upper()}_PROXY: {error}") from None
    return Proxies(None, by_scheme, no_proxy) if by_scheme else None


def _environment() -> Mapping[str, str]:
    import urllib.request

    return urllib.request.getproxies()


class ForwardTarget(Target):
    """A proxy that is sent whole plain-text requests; ``origin`` is whom they are for."""

    __slots__ = ("origin", "via")

    def __init__(self, via: Proxy, origin: bytes, direct: Target) -> None:
        super().__init__(via.host, via.port, None, direct.options)
        self.via = via
        self.origin = origin

    def readdress(self, request: WireRequest) -> None:
        """Absolute form (RFC 9112 section 3.2.2), and the proxy's own headers."""
        path = b"" if request.target == b"*" else request.target
        request.target = self.origin + path
        request.headers = [*request.headers, *self.via.own_headers]


class ProxiedTargets:
    """``targets`` with the proxies of one client put between. Thread-safe."""

    __slots__ = ("_made", "_proxies", "_targets")

    def __init__(self, targets: Targets, proxies: Proxies) -> None:
        self._targets = targets
        self._proxies = proxies
        self._made: dict[tuple[EndpointState, Target, str], Target] = {}

    def of(self, call: Call, attempt: Attempt, request: Any) -> Target:
        """The pool key of a try."""
        head = call.head
        direct = self._targets.of(call, attempt, request)
        if direct.proxy is not None or direct.unix_path is not None:
            return direct
        key = (attempt.state, direct, head.scheme)
        made = self._made.get(key)
        if made is None:
            if len(self._made) >= _MAX_TARGETS:
                self._made.clear()
            made = self._made[key] = self._make(attempt, head, direct)
        return made

    def _make(self, attempt: Attempt, head: RequestHead, direct: Target) -> Target:
        known = attempt.cluster_state.cluster.name != PASSTHROUGH
        proxy = self._proxies.of(head.scheme, direct.address, direct.port, known=known)
        if proxy is None:
            return direct
        if proxy.scheme == "http" and head.scheme == "http" and not known and direct.tls is None:
            origin = f"http://{direct}".removesuffix(":80")
            return ForwardTarget(proxy, origin.encode("latin-1"), direct)
        # A forwarding proxy would dial the name in Host; only a tunnel reaches the
        # endpoint that was picked.
        return behind(direct, proxy)


def behind(direct: Target, proxy: Proxy) -> Target:
    """``direct``, reached by a tunnel through ``proxy``."""
    return Target(
        direct.address,
        direct.port,
        direct.tls,
        direct.options,
        connections=direct.connections,
        proxy=proxy,
        protocol=direct.protocol,
        neighbours=direct.neighbours,
    )


class Forwarding:
    """An engine, sync or async, that addresses requests to the proxies that forward them."""

    __slots__ = ("_engine",)

    def __init__(self, engine: Any) -> None:
        self._engine = engine

    def send(self, target: Target, request: WireRequest) -> Any:
        """See SyncEngine.send and AsyncEngine.send, whose awaitable comes back."""
        if isinstance(target, ForwardTarget):
            target.readdress(request)
        return self._engine.send(target, request)


__all__ = [
    "ForwardTarget",
    "Forwarding",
    "NoProxy",
    "ProxiedTargets",
    "Proxies",
    "behind",
    "proxies_for",
]
