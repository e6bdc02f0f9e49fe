"""How names are resolved: the library's own settings and resolv.conf's, as values.

Parsing only; the file is read in :mod:`meshclient.discovery.watched_file`, and
nothing here sends a query.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

Server = tuple[str, int]

DNS_PORT = 53
#: glibc's limits (resolv.h): MAXNS, RES_MAXNDOTS, RES_MAXRETRANS, RES_MAXRETRY.
MAX_FILE_NAMESERVERS = 3
MAX_NDOTS = 15
MAX_TIMEOUT_S = 30
MAX_ATTEMPTS = 5
#: glibc has no limit on the search list; a name must not cost endless queries.
MAX_SEARCH_DOMAINS = 32

_BRACKETED = re.compile(r"\[([^\]]+)\](?::([0-9]{1,5}))?")


def server_text(server: Server) -> str:
    """``address:port`` for messages."""
    host, port = server
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@dataclass(frozen=True, slots=True)
class ResolvConf:
    """What resolv.conf(5) says. Defaults are glibc's for a missing file."""

    nameservers: tuple[Server, ...] = (("127.0.0.1", DNS_PORT),)
    search: tuple[str, ...] = ()
    ndots: int = 1
    timeout_s: float = 5.0
    attempts: int = 2
    rotate: bool = False
    use_tcp: bool = False
    no_aaaa: bool = False
    no_tld_query: bool = False


@dataclass(frozen=True, slots=True)
class DnsSettings:
    """How the library resolves and refreshes names.

    The first group overrides resolv.conf; None (and no name servers) means
    what the file says. ``nameservers`` are ``(ip, port)`` pairs.

    ``resolv_conf`` and ``hosts_file`` are paths; empty means the environment
    variable ``MESHCLIENT_RESOLV_CONF`` / ``MESHCLIENT_HOSTS_FILE``, else the
    system's file. ``family`` limits which addresses are asked for.

    A positive answer is asked again after its TTL, at least ``min_refresh_s``
    (default 1) and at most ``max_refresh_s`` (default 300); a denial after its
    negative TTL between ``min_refresh_s`` and ``max_negative_s`` (default 30);
    both plus up to ``jitter`` (a share, default 0.1). A failure is tried again
    after ``failure_base_s`` (default 0.5), doubling up to ``failure_max_s``
    (default 30), of which a random half is waited at least. A name of the hosts
    file is looked up again every ``hosts_refresh_s`` (default 5).

    ``resolution_delay_s`` (default 0.05) is how long the second address family
    is waited for before the first one is put to use (RFC 8305 section 3).
    ``max_endpoints`` (default 1000) bounds the endpoints of one name,
    ``max_queries`` (default 64) the queries in flight of all names together.

    Raises ``ValueError`` for a value out of range.
    """

    nameservers: tuple[Server, ...] = ()
    search: tuple[str, ...] | None = None
    ndots: int | None = None
    timeout_s: float | None = None
    attempts: int | None = None
    rotate: bool | None = None

    resolv_conf: str = ""
    hosts_file: str = ""
    family: Literal["all", "ipv4", "ipv6"] = "all"

    min_refresh_s: float = 1.0
    max_refresh_s: float = 300.0
    max_negative_s: float = 30.0
    jitter: float = 0.1
    failure_base_s: float = 0.5
    failure_max_s: float = 30.0
    hosts_refresh_s: float = 5.0

    resolution_delay_s: float = 0.05
    max_endpoints: int = 1000
    max_queries: int = 64

    def __post_init__(self) -> None:
        for server in self.nameservers:
            _check_server(server)
        _check("ndots", self.ndots, 0, MAX_NDOTS)
        _check("timeout_s", self.timeout_s, 0.001, MAX_TIMEOUT_S)
        _check("attempts", self.attempts, 1, MAX_ATTEMPTS)
        _check("min_refresh_s", self.min_refresh_s, 0.01, self.max_refresh_s)
        _check("max_negative_s", self.max_negative_s, self.min_refresh_s, 86_400)
        _check("jitter", self.jitter, 0, 1)
        _check("failure_base_s", self.failure_base_s, 0.01, self.failure_max_s)
        _check("hosts_refresh_s", self.hosts_refresh_s, 0.01, self.max_refresh_s)
        _check("resolution_delay_s", self.resolution_delay_s, 0, MAX_TIMEOUT_S)
        _check("max_endpoints", self.max_endpoints, 1, 100_000)
        _check("max_queries", self.max_queries, 1, 10_000)
        if self.family not in ("all", "ipv4", "ipv6"):
            raise ValueError(f"family must be all, ipv4 or ipv6, not {self.family!r}")

    def resolv_conf_path(self, environ: Mapping[str, str] = os.environ) -> str:
        """The file that is read: argument, environment, ``/etc/resolv.conf``."""
        return self.resolv_conf or environ.get("MESHCLIENT_RESOLV_CONF") or "/etc/resolv.conf"

    def hosts_path(self, environ: Mapping[str, str] = os.environ) -> str:
        """The file that is read: argument, environment, ``/etc/hosts``."""
        return self.hosts_file or environ.get("MESHCLIENT_HOSTS_FILE") or "/etc/hosts"

    def over(self, conf: ResolvConf) -> ResolvConf:
        """``conf`` with these settings' own values put over it."""
        return replace(
            conf,
            nameservers=self.nameservers or conf.nameservers,
            search=conf.search if self.search is None else self.search,
            ndots=conf.ndots if self.ndots is None else self.ndots,
            timeout_s=conf.timeout_s if self.timeout_s is None else self.timeout_s,
            attempts=conf.attempts if self.attempts is None else self.attempts,
            rotate=conf.rotate if self.rotate is None else self.rotate,
        )


def _check(name: str, value: float | None, low: float, high: float) -> None:
    if value is not None and not low <= value <= high:
        raise ValueError(f"{name} must be between {low:g} and {high:g}, not {value!r}")


def _check_server(server: Server) -> None:
    host, port = server
    if not 1 <= port <= 65535:
        raise ValueError(f"name server port must be between 1 and 65535, not {port!r}")
    try:
        ipaddress.ip_address(host)
    except ValueError:
        raise ValueError(f"a name server must be an IP address, not {host!r}") from None


def parse_resolv_conf(text: str, environ: Mapping[str, str], host_name: str) -> ResolvConf:
    """Read resolv.conf(5) as glibc does (``resolv/res_init.c``).

    The last of ``search`` and ``domain`` wins; without either the domain of
    ``host_name`` is searched. ``LOCALDOMAIN`` replaces the search list and
    ``RES_OPTIONS`` is read after the file's options. What glibc does not know is
    skipped. A name server may also be written ``[ip]:port``.
    """
    servers: list[Server] = []
    search = _default_search(host_name)
    conf = ResolvConf()
    for line in text.splitlines():
        if not line or line[0] in "#;":
            continue
        keyword, _, rest = line.replace("\t", " ").partition(" ")
        words = rest.split()
        if keyword == "nameserver" and words:
            server = _parse_server(words[0])
            if server and len(servers) < MAX_FILE_NAMESERVERS:
                servers.append(server)
        elif keyword == "domain" and words:
            search = _domains(words[:1])
        elif keyword == "search" and words:
            search = _domains(words)
        elif keyword == "options":
            conf = _apply_options(conf, words)
    if "LOCALDOMAIN" in environ:
        search = _domains(environ["LOCALDOMAIN"].split())
    conf = _apply_options(conf, environ.get("RES_OPTIONS", "").split())
    return replace(conf, nameservers=tuple(servers) or conf.nameservers, search=search)


def _default_search(host_name: str) -> tuple[str, ...]:
    _, dot, domain = host_name.partition(".")
    return _domains([domain]) if dot and domain else ()


def _domains(words: list[str]) -> tuple[str, ...]:
    # "." is the root: it stays in the list as the empty domain.
    return tuple(word.strip(".") for word in words[:MAX_SEARCH_DOMAINS])


def _parse_server(word: str) -> Server | None:
    host, port = word, DNS_PORT
    if match := _BRACKETED.fullmatch(word):
        host, port = match[1], int(match[2] or DNS_PORT)
    try:
        _check_server((host, port))
    except ValueError:
        return None
    return host, port


def _apply_options(conf: ResolvConf, words: list[str]) -> ResolvConf:
    for word in words:
        name, _, value = word.partition(":")
        number = int(value) if value.isascii() and value.isdigit() else None
        if name == "ndots" and number is not None:
            conf = replace(conf, ndots=min(number, MAX_NDOTS))
        elif name == "timeout" and number is not None:
            conf = replace(conf, timeout_s=float(min(max(number, 1), MAX_TIMEOUT_S)))
        elif name == "attempts" and number is not None:
            conf = replace(conf, attempts=min(max(number, 1), MAX_ATTEMPTS))
        elif word in _FLAGS:
            conf = _FLAGS[word](conf)
    return conf


_FLAGS = {
    "rotate": lambda conf: replace(conf, rotate=True),
    "use-vc": lambda conf: replace(conf, use_tcp=True),
    "no-aaaa": lambda conf: replace(conf, no_aaaa=True),
    "no-tld-query": lambda conf: replace(conf, no_tld_query=True),
}
